"""Joins configuration, data, system, engine and pictures into one training run.

The rooms do not know each other; this file introduces them. Order of creation: configuration ->
directory -> data -> system -> loop -> results -> report.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medgen_jax import augmentation, datachecking, pretrained, systems
from medgen_jax.core import config as configs
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import LABEL, Repeatable, Stream
from medgen_jax.data import pipeline, sources, subsets
from medgen_jax.data.checks import check_tables, image_columns, table_for
from medgen_jax.data.tables import Table
from medgen_jax.data.transforms import evaluation_view
from medgen_jax.engine import preflight, rundir, runtime, start
from medgen_jax.engine.checkpoint import sealed_steps
from medgen_jax.engine.console import Console
from medgen_jax.engine.evaluate import Evaluation
from medgen_jax.engine.loop import Result, Run
from medgen_jax.ops.scale import to_unit
from medgen_jax.systems.base import Observation, System
from medgen_jax.viz import grids

PyTree = Any

#: Records drawn in the grids, and per evaluation batch and device.
PREVIEW_RECORDS = 4
EVALUATION_BATCH = 4


class Data:
    """The tables behind a system's streams, opened and checked once."""

    def __init__(self, config: configs.DataConfig, streams: Mapping[str, Stream]):
        self._config, self._streams = config, streams
        present = sources.splits(config)
        wanted = {s.split for s in streams.values()} | ({"val"} & set(present))
        self._tables = {split: sources.open_tables(config, split) for split in sorted(wanted)}
        #: Where validation records come from, if there are any.
        self.evaluation_split = "val" if "val" in present else None

    @property
    def tables(self) -> dict[str, dict[str, Table]]:
        """Split -> name -> table."""
        return self._tables

    def table(self, name: str, split: str | None = None) -> Table:
        """The table that a stream reads, in its own split or in another one.

        Raises:
          UserError: when the data have no such table.
        """
        stream = self._streams[name]
        return table_for(self._tables[split or stream.split], stream.table or name)

    def check(self) -> None:
        """Refuse what the streams cannot use, from the file headers alone."""
        for name, stream in self._streams.items():
            check_tables({name: self.table(name)}, {name: stream}, self._config)
            if self.evaluation_split:
                table = self.table(name, self.evaluation_split)
                check_tables({name: table}, {name: stream}, self._config, training=False)

    def open_streams(self, seed: int, positions: Mapping[str, Any] | None) -> dict[str, Any]:
        """Every stream's iterator, from its stored position or the beginning."""
        return {
            name: pipeline.iterator(
                name,
                stream,
                self.table(name),
                self._config,
                seed=seed,
                process_index=jax.process_index(),
                process_count=jax.process_count(),
                state=(positions or {}).get(name),
            )
            for name, stream in self._streams.items()
        }

    def evaluation(self, devices: int) -> Evaluation:
        """Starts of passes over the validation records, by stream; empty without a val split."""
        if self.evaluation_split is None:
            return {}
        return {
            name: functools.partial(self._passes, name, EVALUATION_BATCH * devices)
            for name, stream in self._streams.items()
            if stream.split == "train"
        }

    def _passes(self, name: str, size: int) -> Iterator[dict[str, np.ndarray]]:
        table = self.table(name, self.evaluation_split)
        return pipeline.evaluation_batches(self._streams[name], table, self._config, size)

    def preview(self, name: str, count: int) -> dict[str, np.ndarray]:
        """The first ``count`` validation records, else training crops, as one batch of fields."""
        if self.evaluation_split:
            batch = next(iter(self._passes(name, count)))
            kept = int(batch.pop("mask").sum())
            return {field: values[:kept] for field, values in batch.items()}
        crops = pipeline.examples(self._streams[name], self.table(name), self._config, 0, 0)
        found = [crops(i) for i in range(count)]
        return {field: np.stack([f[field] for f in found]) for field in found[0]}

    def observed(self, observation: Observation) -> dict[str, np.ndarray]:
        """The training records that a system looks at first, as one batch of images.

        Raises:
          UserError: for records of different sizes.
        """
        table = self.table(observation.stream).select(*image_columns(self._streams[observation.stream]))
        found = [evaluation_view(table.images(i), self._config) for i in observation.choose(len(table))]
        for name in table.names:
            if len(sizes := sorted({record[name].shape for record in found})) > 1:
                raise UserError(
                    f"config.data.source: training images of different sizes, {sizes[0]} and {sizes[1]}; the system "
                    "takes statistics of them, which needs one size: set config.data.load_size"
                )
        return {name: np.stack([record[name] for record in found]) for name in table.names}

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes that labelled streams see; none where no stream has labels."""
        labelled = [name for name, stream in self._streams.items() if LABEL in dict(stream.fields)]
        return subsets.class_names(self.table(labelled[0])) if labelled else ()

    def records(self, name: str, split: str) -> Iterator[dict[str, np.ndarray]]:
        """Single records in stored order, whole, as evaluation sees them."""
        table = self.table(name, split).select(*image_columns(self._streams[name]))
        for index in range(len(table)):
            yield evaluation_view(table.images(index), self._config)


def prepare(config: Any) -> tuple[System, Any, Data]:
    """Open the data, resolve the configuration and build the system.

    Raises:
      UserError: on anything the user must mend.
    """
    if not dataclasses.is_dataclass(config):
        raise UserError(f"the configuration is {config!r}: get_config() must return a system's Config")
    configs.validate_types(config)
    module = systems.load(systems.name_of(config))
    # The streams are known once the system is built, its schedules once the data are counted.
    draft = module.build(config)
    preflight.check_system(draft)
    augmentation.chosen(config.data.stain_augment, draft.streams)
    config = dataclasses.replace(config, data=sources.declared(config.data))
    data = Data(config.data, draft.streams)
    data.check()
    if data.classes:
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, classes=data.classes))
    config = configs.resolve(config, len(data.table(next(iter(draft.streams)))))
    return module.build(config), config, data


def train(
    config: Any, workdir: str | Path, *, resume: str = "auto", weights: str | Path | None = None,
    devices: list[jax.Device] | None = None, console: Console | None = None,
) -> Result | None:  # fmt: skip
    """Train the system that ``config`` belongs to, resuming what ``workdir`` holds.

    Args:
      config: a system's Config, engine fields unset.
      workdir: run directory.
      resume: ``auto`` goes on from the newest intact checkpoint or starts; ``never`` refuses a
        directory with checkpoints; ``required`` refuses one without.
      weights: folder of pretrained weights, for systems that need some; see `medgen_jax.pretrained`.
      devices: all when None.
      console: where messages go.

    Returns:
      The result, or None when the run had already finished.

    Raises:
      UserError: bad input, before anything is compiled where possible.
      Interrupted: stopped by a signal, state saved.
    """
    console = console or Console(jax.process_index() == 0)
    first = jax.process_index() == 0
    folder = rundir.open_rundir(workdir)
    with rundir.locked(folder, active=first):
        system, config, data = prepare(config)
        beginning = _remember(folder, system, config, resume, console, first)
        if first:
            datachecking.look_briefly(folder, data.tables, console.say, config.data.range_low is not None)
        frozen, digests = pretrained.fixed(system.frozen_names, weights)
        augment, statistics = augmentation.of_run(config, system.streams, data.table)
        evaluation = data.evaluation(len(devices or jax.devices()))
        preflight.check_evaluation(system, evaluation)
        run = Run(
            system,
            config,
            folder,
            functools.partial(data.open_streams, config.train.seed),
            evaluation=evaluation,
            draw=_drawer(system, data, folder, first),
            observed=system.observation and functools.partial(data.observed, system.observation),
            start=beginning,
            context=functools.partial(_context, system, data),
            frozen=frozen | statistics,
            frozen_digests=digests,
            augment=augment,
            devices=devices,
            console=console,
        )
        return run()


def _remember(
    folder: Path, system: System, config: Any, resume: str, console: Console, first: bool
) -> start.Start | None:
    """Compare with the run already there, if any, and write ``config.json``; the networks to begin with, if any."""
    new = configs.to_dict(config)
    sealed = sealed_steps(folder / "checkpoints")
    if sealed and resume == "never":
        raise UserError(
            f"--workdir {folder}: holds a run at step {sealed[-1]}; give another directory or --resume=auto"
        )
    if not sealed and resume == "required":
        raise UserError(f"--workdir {folder}: holds no checkpoint to resume; give --resume=auto to start")
    beginning, origin = None, None
    if sealed:
        old, origin = _stored(folder, config)
        if start.is_untrained(folder):
            origin = origin or old
            beginning, changed = start.of_run(folder, system, config)
            console.say(f"training on from the networks in {folder}{_listed(changed)}")
        else:
            for line in rundir.compare_config(folder, old, new):
                console.say(
                    f"warning: {line} differs from the run so far; the result will not equal an uninterrupted run"
                )
    if first:
        rundir.write_config(folder, systems.name_of(config), new, runtime.environment(), origin)
    return beginning


def _listed(changed: list[str]) -> str:
    return f"; changed since they were put there: {'; '.join(changed)}" if changed else ""


def _stored(folder: Path, config: Any) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """The configuration of the run in a folder, and that of the networks it began with, if it began with some.

    Fields that the run does not know yet have their default.
    """
    found, name = rundir.read_config(folder), systems.name_of(config)
    if found["system"] != name:
        raise UserError(f"--workdir {folder}: holds a run of {found['system']!r}, not {name!r}; give another directory")
    return configs.to_dict(configs.from_dict(type(config), found["config"])), found.get("start")


def _drawer(system: System, data: Data, folder: Path, first: bool) -> Callable[[int, PyTree], np.ndarray | None] | None:
    """Draws the system's preview on fixed records into ``samples/``."""
    preview = system.preview
    if preview is None:
        return None
    fields = data.preview(preview.stream, PREVIEW_RECORDS)
    inputs = jax.device_get(dict(preview.inputs(fields, jax.random.key(0))))
    sample = jax.jit(system.samplers[preview.sampler])

    def draw(step: int, variables: PyTree) -> np.ndarray | None:
        output = np.asarray(jax.device_get(sample(variables, inputs, jax.random.key(0))))
        if not first:
            return None
        shown = preview.columns(fields, inputs)
        columns = {title: np.asarray(to_unit(shown[name])) for name, title in preview.shown}
        columns["output"] = output
        rows = [[column[i] for column in columns.values()] for i in range(len(output))]
        picture = grids.grid(rows, labels=list(columns))
        grids.save_png(folder / "samples" / f"step_{step:08d}.png", picture)
        return picture

    return draw


def _context(system: System, data: Data) -> dict[str, Any]:
    """What ``results.json`` says beside the run's own numbers: what no network at all would score."""
    split = data.evaluation_split
    baselines: dict[str, dict[str, float]] = {}
    for evaluator in system.evaluators.values():
        if split and evaluator.baselines:
            training, validation = (
                Repeatable(functools.partial(data.records, evaluator.stream, s)) for s in ("train", split)
            )
            baselines |= evaluator.baselines(training, validation)
    notes = [] if split else ["the data have no val split: nothing was validated"]
    if split and not system.evaluators:
        notes = ["the system has no evaluators: nothing was validated"]
    return {"split": split, "baselines": baselines, "notes": notes}


def summary(workdir: str | Path) -> list[str]:
    """Lines of a plain table of a finished run's ``results.json``: the model first, then the baselines."""
    results = json.loads((Path(workdir).expanduser() / "results.json").read_text())
    metrics = results["metrics"]
    if not metrics:
        return [f"trained for {results['step']} steps; {'; '.join(results['notes'])}"]
    rows = {"this model": metrics, **results["baselines"]}
    width = max(len(name) for name in (*rows, results["split"]))
    lines = [f"{results['split']:<{width}}  " + "  ".join(f"{name:>10}" for name in metrics)]
    for name, values in rows.items():
        lines.append(f"{name:<{width}}  " + "  ".join(f"{values.get(m, float('nan')):10.4f}" for m in metrics))
    return lines
