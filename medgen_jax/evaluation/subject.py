"""What is judged when a trained run is: its checkpoint and sampler, the records, and their targets as they are read."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.engine import restore
from medgen_jax.engine.restore import Checkpoint
from medgen_jax.evaluation.devices import parts
from medgen_jax.evaluation.features import Extractor, FeatureRows
from medgen_jax.evaluation.folders import eight_bit
from medgen_jax.evaluation.labelled import PREDICT, Labelled, open_labelled
from medgen_jax.evaluation.splits import Column, NoColumns, Split, located, open_split, open_tables
from medgen_jax.evaluation.validated import Validated
from medgen_jax.sampler_inputs import require_images_alone
from medgen_jax.sampling import LoadedSampler, load_sampler

#: ``(sampler, split, data) -> records``.
OpenRecords = Callable[[LoadedSampler, str | None, str | Path | None], Split | Labelled | Validated]


class Subject(NamedTuple):
    """A checkpoint, its sampler, and the records to judge it on."""

    point: Checkpoint
    model: LoadedSampler
    records: Split | Labelled | Validated

    @property
    def origin(self) -> dict[str, Any]:
        """What fingerprints and pages say of where the images come from."""
        return {
            "split": self.records.name,
            "fake": self.point.sha256,
            "run": f"{self.model.system} step {self.point.step} {self.model.name}",
        }

    def conditions(self, reference: str) -> dict[str, Any]:
        """The same with the numbers of images; ``reference`` is the digest of the targets."""
        counts = {"n_real": len(self.records.targets), "n_fake": len(self.records.inputs)}
        return self.origin | counts | {"reference": reference}


def open_subject(
    workdir: str | Path,
    which: str | int = "last",
    sampler: str | None = None,
    split: str | None = None,
    data: str | Path | None = None,
    records: OpenRecords = open_split,
) -> Subject:
    """Load a run's sampler and list a split of its data.

    Args:
      workdir: directory of a trained run.
      which: checkpoint: ``last``, ``best`` or a step.
      sampler: the run's first when None.
      split: test when None, or val where there is no test.
      data: where the run's data are now, if they were moved.
      records: opens the split for the loaded sampler.

    Raises:
      UserError: as `medgen_jax.sampling.load_sampler` and ``records``.
    """
    point = restore.checkpoint(workdir, which)
    model = load_sampler(workdir, sampler, point.step)
    return Subject(point, model, records(model, split, data))


def open_records(model: LoadedSampler, split: str | None, data: str | Path | None) -> Split | Labelled | Validated:
    """The records that fit a sampler.

    Images with classes for one that answers with classes; else two columns, which it is named after; else whatever
    the system's own evaluators read.

    Raises:
      UserError: as `medgen_jax.evaluation.labelled.open_labelled` and `medgen_jax.evaluation.splits.open_tables`.
    """
    if model.name == PREDICT:
        require_images_alone(model)
        return open_labelled(model, split, data)
    try:
        return open_split(model, split, data)
    except NoColumns as error:
        config = located(model.config.data, data)
        return Validated(*open_tables(config, split), config, str(error))


class Targets:
    """The targets of a split, each decoded once: their digests, and their features where these are wanted.

    Args:
      column: the targets.
      extractor: makes the features; None for none.

    Attributes:
      features: gathered so far, or None.
    """

    def __init__(self, column: Column, extractor: Extractor | None):
        self.features = FeatureRows(extractor) if extractor else None
        self._column = column
        self._digests: dict[int, str] = {}

    @property
    def digest(self) -> str:
        """sha256 of all targets in order, as decoded."""
        return hashlib.sha256("\n".join(self._digests[i] for i in sorted(self._digests)).encode()).hexdigest()

    def take(self, places: Sequence[int]) -> np.ndarray:
        """Targets of one size, (b, h, w, c) as stored."""
        targets = np.stack([self._column.image(i) for i in places])
        for place, target in zip(places, targets, strict=True):
            self._digests[place] = hashlib.sha256(np.ascontiguousarray(target).tobytes()).hexdigest()
        if self.features:
            self.features.add(places, eight_bit(targets))
        return targets

    def take_all(self) -> None:
        """All targets, those of one size together."""
        batch = self.features.batch if self.features else 1
        for group in self._column.groups():
            for places in parts(group, batch):
                self.take(places)
