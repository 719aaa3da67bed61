"""The records of a run's split with their classes: what a classifier is judged on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import LABEL
from medgen_jax.data.checks import table_for
from medgen_jax.data.subsets import Subset, class_names
from medgen_jax.data.tables import Table
from medgen_jax.evaluation.splits import Column, located, open_tables
from medgen_jax.sampling import LoadedSampler

#: The sampler that answers with the probabilities of classes.
PREDICT = "predict"


@dataclass(frozen=True)
class Labelled:
    """Images of a split and their classes.

    Attributes:
      name: train, val, test, ...
      inputs: what the sampler gets.
      targets: (n,) the class of each image, as its place in ``classes``.
      classes: names, in the order of the sampler's answers.
      groups: patient or slide of each image, empty where the data do not say; written nowhere.
      left_out: images of the split whose class the run does not know, by class; they are in no other field.
    """

    name: str
    inputs: Column
    targets: np.ndarray
    classes: tuple[str, ...]
    groups: tuple[str, ...] = field(default=(), repr=False)
    left_out: dict[str, int] = field(default_factory=dict)

    @property
    def absent(self) -> list[str]:
        """Classes without an image."""
        return [name for place, name in enumerate(self.classes) if place not in self.targets]


def open_labelled(model: LoadedSampler, name: str | None = None, data: str | Path | None = None) -> Labelled:
    """The records on which a classifier is to be judged, with the classes of its training.

    Args:
      model: its sampler; ``config.data.classes`` names the classes.
      name: test when None, or val where there is no test.
      data: where the data are now, if not where they were in training.

    Raises:
      UserError: as `medgen_jax.evaluation.splits.open_tables`; images without a class, or classes of other names than
        in training.
    """
    config = located(model.config.data, data)
    chosen, tables = open_tables(dataclasses.replace(config, classes=()), name)
    table = table_for(tables, "records")
    labels, known = _labels(table, chosen), class_names(table)
    _check_names(config.classes, known, named=LABEL in table.classes)
    place = np.array([config.classes.index(c) if c in config.classes else -1 for c in known], np.int64)
    targets = place[labels]
    kept = np.flatnonzero(targets >= 0)
    if not len(kept):
        raise UserError(f"the {chosen} split has no image of the run's classes, {', '.join(config.classes)}")
    counts = np.bincount(labels, minlength=len(known))
    groups = getattr(table, "groups", ())
    return Labelled(
        chosen,
        Column(Subset(table.select("image"), kept), "image", config),
        targets[kept],
        config.classes,
        tuple(groups[i] for i in kept) if all(groups) and groups else (),
        {c: int(n) for c, n in zip(known, counts, strict=True) if n and c not in config.classes},
    )


def _labels(table: Table, split: str) -> np.ndarray:
    if LABEL not in table.labels:
        raise UserError(
            f"the images of the {split} split have no classes, with which answers could be compared; lay them out as "
            "{train,val,test}/CLASS/name.png, or give a CSV file with the column label"
        )
    labels = np.asarray(table.labels[LABEL])
    if (unknown := np.flatnonzero(labels < 0)).size:
        where = table.origin(int(unknown[0]), "image")
        raise UserError(f"{where}: its label is {labels[unknown[0]]}, which is no class; leave such images out")
    return labels


def _check_names(trained: tuple[str, ...], known: tuple[str, ...], named: bool) -> None:
    """Refuse classes that may be those of the training under other names: some are missing, others are new."""
    missing, new = ([c for c in a if c not in b] for a, b in ((trained, known), (known, trained)))
    if named and missing and new:
        raise UserError(
            f"the data have a class {new[0]!r}, which the run does not know, but none called {missing[0]!r}; name the "
            f"classes as in training: {', '.join(trained)}"
        )
