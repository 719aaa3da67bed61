"""From what was asked to a folder of images: everything is checked before weights are read or programs compile."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from tqdm import tqdm

import medgen_jax
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import LABEL
from medgen_jax.counterfactuals.inputs import levels_of
from medgen_jax.engine import restore
from medgen_jax.engine.restore import Checkpoint
from medgen_jax.sampler_inputs import IMAGE
from medgen_jax.synthesis import drawing, folder, plan, png, runs, sheet, values, walk, writing
from medgen_jax.synthesis.plan import Item, Sources
from medgen_jax.synthesis.runs import CODE, LATENT, NUMBER, Run
from medgen_jax.synthesis.values import Classes
from medgen_jax.systems.numbered import codes

SHEET = f"{folder.PICTURES}/sheet.png"
#: Numbers are int32.
_MOST = 2**31 - 1


@dataclass(frozen=True)
class Request:
    """What is asked for.

    Attributes:
      workdir, which: a run and its checkpoint.
      output: folder of the images.
      count: how many images, over all classes together; None where they are made of sources.
      label: class by name, ``all``, or None where the run is told none.
      values: what else the sampler is told, as typed: input -> value.
      source: an image or a folder of them, for samplers that make images of images.
      per_input: images of each source, and of each class.
      seed: of the key.
      bits: of the samples, 8 or 16; those of the run's data when None.
      batch: images per call; what fits when None.
      overwrite: replace what a call before has made.
      sheet: draw the contact sheet.
      walk: a GIF file, or None.
      frames: of the walk.
    """

    workdir: str
    output: str | None = None
    count: int | None = None
    label: str | None = None
    values: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None
    per_input: int = 10
    which: str | int = "last"
    seed: int = 0
    bits: int | None = None
    batch: int | None = None
    overwrite: bool = False
    sheet: bool = False
    walk: str | None = None
    frames: int = 60


class Done(NamedTuple):
    """What came of it.

    Attributes:
      images: that were asked for; all of them are in the folder.
      before: of these, how many were there already.
      speed: of the others; None where there were none.
      sheet, walk: files, or None.
    """

    images: int
    before: int
    speed: writing.Speed | None
    sheet: Path | None
    walk: Path | None


@dataclass(frozen=True, eq=False)
class _Job:
    """A request that has been checked."""

    asked: Request
    run: Run
    classes: Classes
    constants: Mapping[str, np.ndarray]
    sources: Sources | None
    items: list[Item]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(f"uint{self.asked.bits or self.run.config.data.bits}")


def synthesise(
    asked: Request, say: Callable[[str], None] = lambda _: None, devices: Sequence[jax.Device] | None = None
) -> Done:
    """Draw what is not there yet, write it, and the pictures of the whole.

    Args:
      asked: see `Request`.
      say: told, in a sentence each, what is not as one may expect.
      devices: to draw on; all of this process when None.

    Raises:
      UserError: the first thing that does not fit, an image that is not finite, a place that cannot be written.
    """
    job = _checked(asked)
    target = walk.check_name(asked.walk, asked.overwrite) if asked.walk else None
    if target is not None:
        _require_codes(job.run)
    point = job.run.checkpoint(asked.which)
    variables = functools.cache(lambda: restore.inference_variables(job.run.system, point.folder))
    before, speed, pictured = 0, None, None
    if job.items:
        place = _output(asked)
        before, speed = _images(job, point, place, variables, devices)
        if asked.sheet:
            pictured = _sheet(job, place, say)
    if target is not None:
        walk.write(target, _frames(job, variables(), devices))
    return Done(len(job.items), before, speed, pictured, target)


def _checked(asked: Request) -> _Job:
    """Everything that can be known without weights."""
    _check_numbers(asked)
    run = runs.open_run(asked.workdir)
    _check_source(asked, run)
    classes = values.classes_of(asked.label, run.inputs, run.config.data.classes)
    constants = values.constants_of(asked.values, run.inputs, run.config.data, run.sampler)
    if asked.source is None:
        return _Job(asked, run, classes, constants, None, plan.numbered(asked.count or 0, classes))
    taken = plan.find_sources(asked.source, run)
    return _Job(asked, run, classes, constants, taken, plan.of_sources(taken, asked.per_input, classes))


def _check_numbers(asked: Request) -> None:
    counts = {"n": asked.count, "per_input": asked.per_input, "batch": asked.batch, "frames": asked.frames}
    for name, value in counts.items():
        if value is not None and not 1 <= value <= _MOST:
            raise UserError(f"--{name} = {value}: must be at least 1{'' if value < 1 else f', at most {_MOST:,}'}")
    if not 0 <= asked.seed <= _MOST:
        raise UserError(f"--seed = {asked.seed}: must be at least 0 and at most {_MOST:,}")
    if asked.bits not in (None, 8, 16):
        raise UserError(f"--bits = {asked.bits}: must be 8 or 16")
    if asked.output is None and (asked.count or asked.source):
        raise UserError("--output is missing: a folder for the images")


def _check_source(asked: Request, run: Run) -> None:
    """Refuse what says of what images are to be made, or how many, where the run wants the other."""
    if IMAGE in run.inputs:
        if asked.count is not None:
            raise UserError(f"--n {asked.count}: {run.name} makes --per_input images of each of --input; leave --n out")
        if asked.source is None and asked.walk is None:
            raise UserError(f"--input is missing: {run.name} makes images of images; give one, or a folder of them")
    elif asked.source is not None:
        raise UserError(f"--input {asked.source}: {run.name} draws images out of noise; leave --input out, give --n")
    elif asked.count is None and asked.walk is None:
        raise UserError("--n is missing: how many images, over all classes together")
    if asked.source is not None and Path(asked.source).expanduser().resolve() == _output(asked).resolve():
        raise UserError(f"--output {asked.output}: is the folder of the images of --input; choose another one")


def _output(asked: Request) -> Path:
    return Path(asked.output or "").expanduser()


# -- images -----------------------------------------------------------------------------------------


def _images(
    job: _Job, point: Checkpoint, place: Path, variables: Callable[[], Any], devices: Sequence[jax.Device] | None
) -> tuple[int, writing.Speed | None]:
    """Images that were there, and how long the others took."""
    settings = _settings(job, point)
    there = folder.prepare(place, settings, [item.file for item in job.items], job.asked.overwrite)
    folder.describe(place, settings)
    missing = [item for item in job.items if item.file not in there]
    if not missing:
        return len(there), None
    begun = time.perf_counter()
    run = job.run
    draw = drawing.make_draw(run.system.samplers[run.sampler], run.inputs, job.constants, job.dtype)
    program = drawing.compile_batch(
        draw, variables(), next(_rows(job, missing))[1], job.asked.seed, count=len(missing), batch=job.asked.batch,
        devices=devices,
    )  # fmt: skip
    compiling = time.perf_counter() - begun

    def save(item: Item, levels: np.ndarray) -> None:
        folder.write(place / item.file, png.encode(levels, _marks(job, point, item)))

    with tqdm(total=len(job.items), initial=len(there), unit="image", disable=None) as bar:
        drawn = program.images(_rows(job, missing))
        speed = writing.write_all(drawn, save, begun=begun, compiling=compiling, done=bar.update)
    folder.describe(place, settings)
    return len(there), speed


def _rows(job: _Job, items: Sequence[Item]) -> Iterator[tuple[Item, dict[str, np.ndarray]]]:
    """What differs from image to image; a source is read once for all that is made of it."""
    held: tuple[int, np.ndarray] | None = None
    for item in items:
        row = {NUMBER: np.int32(item.number)}
        if item.kind is not None:
            row[LABEL] = np.int32(job.classes.labels[item.kind])
        if item.source is not None and job.sources is not None:
            if held is None or held[0] != item.source:
                held = (item.source, levels_of(job.sources.cases[item.source].read()))
            row[IMAGE] = held[1]
        yield item, row


def _settings(job: _Job, point: Checkpoint) -> dict[str, Any]:
    """What the images of a folder have in common, as JSON."""
    run, taken = job.run, job.sources
    return {
        "run": run.name, "system": run.kind, "sampler": run.sampler,
        "step": point.step, "checkpoint": point.sha256, "seed": job.asked.seed,
        "classes": list(job.classes.names), "folders": list(job.classes.folders),
        "values": {name: _plain(value) for name, value in job.constants.items()},
        "bits": 8 * job.dtype.itemsize,
        "sources": None if taken is None else taken.sha256,
        "per_input": None if taken is None else job.asked.per_input,
        "version": medgen_jax.__version__,
    }  # fmt: skip


def _marks(job: _Job, point: Checkpoint, item: Item) -> dict[str, str]:
    """What an image says of itself."""
    about = {
        "Run": job.run.name, "Checkpoint": f"step {point.step}, sha256 {point.sha256}",
        "Seed": str(job.asked.seed), "Number": str(item.number),
    }  # fmt: skip
    if item.kind is not None:
        about["Class"] = job.classes.names[item.kind]
    if job.constants:
        about["Settings"] = ", ".join(f"{name}={_plain(value)}" for name, value in job.constants.items())
    return png.marks(medgen_jax.__version__, **about)


def _plain(value: np.ndarray) -> float | int:
    """A scalar as a user writes it: 0.7 for the float32 next to it."""
    return int(value) if value.dtype.kind in "iu" else float(str(value))


def _sheet(job: _Job, place: Path, say: Callable[[str], None]) -> Path:
    if job.sources is None:
        picture = sheet.of_numbers(place, job.items, job.classes, sheet.real_images(job.run, job.classes, say))
    else:
        picture = sheet.of_sources(place, job.items, job.sources, job.classes)
    folder.write(place / SHEET, png.encode(picture, png.marks(medgen_jax.__version__, Run=job.run.name)))
    return place / SHEET


# -- the walk ---------------------------------------------------------------------------------------


def _require_codes(run: Run) -> None:
    """Refuse a run whose codes cannot be given.

    Raises:
      UserError: with what it lacks.
    """
    takes = run.system.sampler_inputs.get(LATENT, {})
    if CODE not in takes or IMAGE in takes:
        raise UserError(
            f"--walk: a run of {run.kind} draws nothing from codes that are given (sampler {LATENT!r} with the "
            f"input {CODE!r}); leave --walk out"
        )


def _frames(job: _Job, variables: Any, devices: Sequence[jax.Device] | None) -> list[np.ndarray]:
    """Frames of the walk, each (h, w, c) uint8, the classes side by side."""
    takes = job.run.system.sampler_inputs[LATENT]
    texts = {name: text for name, text in job.asked.values.items() if name in takes}
    constants = values.constants_of(texts, takes, job.run.config.data, LATENT)
    numbers = np.arange(min(walk.STOPS, job.asked.frames), dtype=np.int32)
    stops = np.asarray(codes(jax.random.key(job.asked.seed), numbers, takes[CODE].shape))
    labels = [np.int32(label) for label in job.classes.labels] if LABEL in takes else [None]
    rows = [
        (None, {CODE: code} | ({} if label is None else {LABEL: label}))
        for code in walk.path_through(stops, job.asked.frames)
        for label in labels
    ]
    draw = drawing.make_draw(job.run.system.samplers[LATENT], takes, constants, np.uint8)
    program = drawing.compile_batch(
        draw, variables, rows[0][1], job.asked.seed, count=len(rows), batch=job.asked.batch, devices=devices
    )
    made = [levels for _, levels in program.images(rows)]
    side = len(labels)
    return [np.concatenate(made[i : i + side], axis=1) for i in range(0, len(made), side)]
