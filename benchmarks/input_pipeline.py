"""The input pipeline apart from the training step and together with it: one JSON line per system and batch size.

    python -m benchmarks.input_pipeline --systems all --sizes small paper --out lines.jsonl
    python -m benchmarks.input_pipeline --systems pix2pix --sizes paper --source isl --images 570500 --out lines.jsonl

Records are decoded already and lie in memory, uint8 and an eighth larger than the crop; with ``--source`` they are
those of a folder or of a prepared set. They go through Grain (shuffled, cropped, mirrored) and the engine's prefetch
to the device as uint8. A line tells images per second, counted in the first stream, of

``input``      batches that arrive on the device while nothing else runs,
``step``       the step on a batch that lies there: what the input must keep up with,
``together``   the step on every batch as it arrives, as a run does it,

and of them ``ratio_to_need`` (input over step; 1.5 or more leaves room) and ``stalled`` (the share of the time together
that the step alone does not explain). ``--images`` sets how many go through together: with the number of images of
a paper's run, the line is a throughput run of all of it, on crops of whatever the source holds.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import cases, lines, machine
from benchmarks.cases import Case
from benchmarks.player import Player, build
from benchmarks.timing import significant
from medgen_jax.core.streams import LABEL, Stream
from medgen_jax.data import pipeline, sources
from medgen_jax.data.checks import image_columns, table_for
from medgen_jax.data.tables import ArrayTable
from medgen_jax.engine import mesh as meshes
from medgen_jax.engine.prefetch import Prefetcher

#: Records of a stream in memory.
RECORDS = 256
#: Batches that go by before the clock starts, beside those kept ready.
WARM = 3


class Job(NamedTuple):
    """A training as far as input and step are concerned.

    Attributes:
      system: a build.
      config: its configuration.
      tables: stream -> the records that feed it.
    """

    system: Any
    config: Any
    tables: Mapping[str, Any]

    @property
    def per_step(self) -> int:
        """Images of a step."""
        return next(iter(self.system.streams.values())).per_step

    @property
    def bytes_per_step(self) -> int:
        """Bytes that travel to the device."""
        streams = self.system.streams.values()
        return sum(array.nbytes for stream in streams for array in stream.zeros().values())

    def feed(self, mesh: Any) -> Prefetcher:
        """Starts all streams from the beginning; close it."""
        streams = {
            name: pipeline.iterator(name, stream, self.tables[name], self.config.data, seed=0)
            for name, stream in self.system.streams.items()
        }
        return Prefetcher(streams, mesh, self.config.data.prefetch)


def in_memory(config: Any, dtype: str) -> Job:
    """Random records; their classes come equally often."""
    system = build(config, dtype)
    return Job(system, config, {name: random_table(stream) for name, stream in system.streams.items()})


def random_table(stream: Stream, count: int = RECORDS) -> ArrayTable:
    """Records an eighth larger than a stream's crops; labels 0, 1, 0, 1, ..."""
    rng, images = np.random.default_rng(0), image_columns(stream)
    fields = dict(stream.fields)

    def column(name: str) -> np.ndarray:
        height, width, channels = fields[name].shape
        size = (count, height + height // 8, width + width // 8, channels)
        return rng.integers(0, 256, size).astype(fields[name].dtype)

    labels = {name: np.arange(count) % 2 for name in fields if name not in images}
    return ArrayTable({name: column(name) for name in images}, labels)


def of_source(config: Any, dtype: str, source: str) -> Job:
    """The training records of a folder or prepared set; networks get as many channels as the images have."""
    config.data.source, config.data.classes = source, ()
    tables = sources.open_tables(config.data, "train")
    if "records" in tables:
        config.data.classes = tuple(tables["records"].classes.get(LABEL, ()))
    for name, stream in build(config, dtype).streams.items():
        table = table_for(tables, stream.table or name)
        for field in image_columns(stream):
            _set(config, dict(stream.fields)[field].setting, table.header(0, field).channels)
    system = build(config, dtype)
    return Job(system, config, {n: table_for(tables, s.table or n) for n, s in system.streams.items()})


def _set(config: Any, name: str, value: Any) -> None:
    """Set the field that is called ``config.x.y``."""
    _, *path, last = name.split(".")
    for part in path:
        config = getattr(config, part)
    setattr(config, last, value)


def line(case: Case, batch: int, given: argparse.Namespace) -> dict[str, Any]:
    """Measure a case at one batch size."""
    config = case.configure(batch)
    for name in ("threads", "workers"):
        if (value := getattr(given, name)) is not None:
            setattr(config.data, name, value)
    job = of_source(config, given.dtype, given.source) if given.source else in_memory(config, given.dtype)
    device = jax.devices()[0]
    mesh = meshes.make_mesh([device])
    first, arriving = apart(job, mesh, given.batches_apart)
    player, feed = Player(job.system, mesh), job.feed(mesh)
    try:
        steps = max(1, given.images // (job.per_step * given.rounds))
        alone, together = beside(player, feed, given.rounds, steps)
    finally:
        feed.close()
    return {
        "benchmark": "input", "system": case.name, "size": case.size, "batch": batch, "dtype": given.dtype,
        "source": "memory" if not given.source else Path(given.source).name,
        "threads": config.data.threads, "workers": config.data.workers, "first_batch_s": round(first, 3),
        "input_images_per_s": significant(job.per_step / arriving),
        "input_mb_per_s": significant(job.bytes_per_step / arriving / 1e6),
        "step_images_per_s": significant(job.per_step / alone),
        **of_seconds(arriving, alone, together),
        "together_images_per_s": significant(job.per_step / together),
        "images": job.per_step * given.rounds * steps,
        **machine.facts(device),
    }  # fmt: skip


def of_seconds(arriving: float, alone: float, together: float) -> dict[str, float]:
    """``ratio_to_need`` and ``stalled`` of the seconds of a batch, of a step, and of a step on arriving batches."""
    return {
        "ratio_to_need": significant(alone / arriving),
        "stalled": significant(max(0.0, 1 - alone / together), 3),
    }


def apart(job: Job, mesh: Any, batches: int) -> tuple[float, float]:
    """Seconds to the first batch, and then from batch to batch."""
    start = time.perf_counter()
    feed = job.feed(mesh)
    try:
        jax.block_until_ready(next(feed).batch)
        first = time.perf_counter() - start
        for _ in range(job.config.data.prefetch + WARM):
            jax.block_until_ready(next(feed).batch)
        start = time.perf_counter()
        for _ in range(batches):
            jax.block_until_ready(next(feed).batch)
        return first, (time.perf_counter() - start) / batches
    finally:
        feed.close()


def beside(player: Player, feed: Prefetcher, rounds: int, steps: int) -> tuple[float, float]:
    """Seconds of a step alone and on arriving batches: medians over rounds of so many steps, in turns."""
    held = next(feed).batch
    player.prepare(held)

    def seconds(batch: Callable[[], Any]) -> float:
        start = time.perf_counter()
        for _ in range(steps):
            player.play(batch())
        player.wait()
        return (time.perf_counter() - start) / steps

    forms = {"alone": lambda: held, "together": lambda: next(feed).batch}
    for batch in forms.values():
        for _ in range(WARM):
            player.play(batch())
    player.wait()
    spent = {name: [] for name in forms}
    for _ in range(rounds):
        for name, batch in forms.items():
            spent[name].append(seconds(batch))
    return float(np.median(spent["alone"])), float(np.median(spent["together"]))


def measured(chosen: list[Case], given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The lines of cases at their batch sizes, told as they come."""
    for case in chosen:
        for batch in given.batches or case.batches:
            found = line(case, batch, given)
            told = ", ".join(f"{n} {found[f'{n}_images_per_s']}" for n in ("input", "step", "together"))
            print(f"{case.name} {case.size} b{batch}: {told} images/s, {found['ratio_to_need']} x the need", flush=True)
            yield found


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of this measurement alone."""
    parser.add_argument("--source", help="folder, prepared set or 'isl'; random records in memory otherwise")
    parser.add_argument("--images", type=int, default=512, help="that go through together")
    parser.add_argument("--batches_apart", type=int, default=50, help="that are read with nothing else running")
    parser.add_argument("--threads", type=int, help="reader threads per stream, in place of the configuration's")
    parser.add_argument("--workers", type=int, help="reader processes per stream, likewise")


def beside_others(given: argparse.Namespace) -> argparse.Namespace:
    """Options of a measurement of cases, completed by the defaults of this one."""
    parser = argparse.ArgumentParser()
    add_options(parser)
    return argparse.Namespace(**vars(given) | vars(parser.parse_args([])))


def main() -> None:
    """Measure what is asked for, case by case."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases.add_options(parser)
    parser.add_argument("--rounds", type=int, default=5)
    add_options(parser)
    given = parser.parse_args()
    for found in measured(cases.chosen(tuple(given.systems), tuple(given.sizes)), given):
        lines.append(given.out, found)


if __name__ == "__main__":
    main()
