"""A run judged by its system's own evaluators: for samplers that neither turn columns into each other nor name classes.

The numbers are those of training's validation, over any split. An evaluator sums over records on the device and tells
nothing of single ones, so its numbers have no interval. Noise that it draws is drawn anew: from the seed of the
evaluation, batch by batch.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Repeatable, Stream
from medgen_jax.data import pipeline
from medgen_jax.data.checks import image_columns, table_for
from medgen_jax.data.tables import Table
from medgen_jax.data.transforms import evaluation_view
from medgen_jax.engine import preflight, restore
from medgen_jax.engine.evaluate import Evaluators
from medgen_jax.engine.mesh import make_mesh, replicated
from medgen_jax.evaluation import comparison, numbers, results
from medgen_jax.evaluation.scores import Score
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.splits import open_tables
from medgen_jax.systems.base import System
from medgen_jax.viz.curves import direction

METHOD = "none: the system's own evaluator tells nothing of single records"
DRAWN = "There are no intervals: the system's own evaluators tell nothing of single records."


@dataclass(frozen=True)
class Validated:
    """Tables of a split, from which the system's streams are fed.

    Attributes:
      name: train, val, test, ...
      tables: by name.
      config: of the data: geometry, threads.
      reason: why the sampler is not judged by itself.
    """

    name: str
    tables: Mapping[str, Table]
    config: DataConfig
    reason: str

    def of(self, name: str, stream: Stream) -> Table:
        """What a stream reads.

        Raises:
          UserError: when the data have no such table.
        """
        return table_for(self.tables, stream.table or name)


def evaluate(
    subject: Any,
    workdir: str | Path,
    output: str | Path,
    settings: Settings,
    earlier: comparison.Numbers | None,
    say: Callable[[str], None],
) -> results.Evaluation:
    """Run the evaluators of a run's system over a split and write the results.

    Args:
      subject: `medgen_jax.evaluation.subject.Subject` with `Validated` records.
      workdir: directory of the run.
      output: folder for the results.
      settings: seed and batch size.
      earlier: the numbers to compare with.
      say: where messages go.

    Raises:
      UserError: a system without evaluators, a choice of metrics, data that do not fit the streams; before anything is
        computed.
    """
    system, _ = restore.open_run(workdir)
    records = subject.records
    if not system.evaluators:
        raise UserError(
            f"{records.reason}, and system {subject.model.system!r} has no evaluators of its own; if it makes images, "
            "write them into a folder and compare that with --real and --fake"
        )
    if settings.metrics:
        raise UserError(
            f"--metrics: {records.reason}; the system's own evaluators give all their numbers: leave it out"
        )
    feeds = _feeds(system, records, settings.batch)
    preflight.check_evaluation(system, feeds)
    folder = results.claim(output, settings.overwrite)

    say(f"{records.reason}: the system's own evaluators judge the run")
    run = f"{subject.model.system} step {subject.point.step}"
    title = f"{subject.model.system} on its {records.name} split, by its own evaluators"
    found = results.Evaluation(title, {"Run": run, "Seed": str(settings.seed)}, drawn=DRAWN)
    mesh = make_mesh(jax.local_devices())
    variables = jax.device_put(subject.model.variables, replicated(mesh))
    for name, values in Evaluators(system, feeds, mesh).each(variables, jax.random.key(settings.seed)):
        feed = feeds[system.evaluators[name].stream]
        images = subject.origin | feed.conditions | {"run": run, "settings": f"evaluator={name}, batch={feed.size}"}
        scored = {number: Score(value, None, METHOD, {"counted": "records"}) for number, value in _flat(values)}
        found.numbers |= numbers.of_classes(scored, {n: _better(system, n) for n in scored}, settings, images)
        found.facts["Split"] = f"{records.name}, {feed.count} records"
    _add_baselines(found, system, records)
    found.changes = comparison.changes(earlier, found.numbers) if earlier else []
    say(f"page: {results.write(folder, found)}")
    return found


# -- feeding ----------------------------------------------------------------------------------------


class _Feed:
    """Starts passes over the evaluation batches of one stream, and knows what went through it."""

    def __init__(self, name: str, stream: Stream, records: Validated, batch: int):
        devices = len(jax.local_devices())
        self.size = -(-batch // devices) * devices
        self._name, self._stream, self._config = f"{records.name} {name}", stream, records.config
        self._table = records.of(name, stream)
        self._digest = hashlib.sha256()

    @property
    def count(self) -> int:
        """Records of the split."""
        return len(self._table)

    @property
    def conditions(self) -> dict[str, Any]:
        """What fingerprints say of the records, after a pass."""
        return {"n_real": self.count, "n_fake": self.count, "reference": self._digest.hexdigest()}

    def __call__(self) -> Iterator[dict[str, np.ndarray]]:
        self._digest = hashlib.sha256()
        batches = pipeline.evaluation_batches(self._stream, self._table, self._config, self.size)
        for batch in tqdm(batches, total=-(-self.count // self.size), unit="batch", desc=self._name, disable=None):
            real = batch["mask"] > 0
            for field, _ in self._stream.fields:
                self._digest.update(np.ascontiguousarray(batch[field][real]).tobytes())
            yield batch


def _feeds(system: System, records: Validated, batch: int) -> dict[str, _Feed]:
    names = dict.fromkeys(evaluator.stream for evaluator in system.evaluators.values())
    return {name: _Feed(name, system.streams[name], records, batch) for name in names}


# -- numbers ----------------------------------------------------------------------------------------


def _flat(values: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """Numbers by name; those of a vector are counted."""
    for name, value in values.items():
        parts = np.asarray(value, np.float64)
        if not parts.ndim:
            yield name, float(parts)
        for place, part in enumerate(parts.ravel() if parts.ndim else ()):
            yield f"{name}_{place}", float(part)


def _better(system: System, number: str) -> int:
    monitor = system.monitor
    if monitor is not None and monitor.name == number:
        return 1 if monitor.mode == "max" else -1
    return direction(number)


def _add_baselines(found: results.Evaluation, system: System, records: Validated) -> None:
    """What answers without a network score on the same records."""
    measures = [e for e in system.evaluators.values() if e.baselines]
    if not measures:
        return
    try:
        training = dataclasses.replace(records, tables=open_tables(records.config, "train")[1])
        for measure in measures:
            stream = system.streams[measure.stream]
            sides = (_records(side.of(measure.stream, stream), stream, records.config) for side in (training, records))
            for row, values in measure.baselines(*sides).items():
                kept = {name: float(value) for name, value in values.items() if name in found.numbers}
                found.baselines |= {row: kept} if kept else {}
                for name, value in kept.items():
                    found.numbers[name].setdefault("baselines", {})[row] = value
    except UserError as error:
        found.warnings.append(f"answers without a network were not measured: {error}")


def _records(table: Table, stream: Stream, config: DataConfig) -> Repeatable:
    """Single records in stored order, whole, as evaluation sees them."""
    images = table.select(*image_columns(stream))
    return Repeatable(lambda: (evaluation_view(images.images(index), config) for index in range(len(images))))
