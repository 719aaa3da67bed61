"""Some records of a table, and the classes that a run is about."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import LABEL, VIEW
from medgen_jax.data.images import ImageHeader
from medgen_jax.data.tables import Table


class Subset(Table):
    """Some records of a table, in an order of their own.

    Args:
      table: all records.
      indices: which of them.
      labels: label columns that replace those of ``table``, each (len(indices),).
      classes: names of their values.
    """

    def __init__(
        self,
        table: Table,
        indices: Sequence[int],
        labels: Mapping[str, np.ndarray] | None = None,
        classes: Mapping[str, tuple[str, ...]] | None = None,
    ):
        self._table, self._indices = table, np.asarray(indices, np.int64)
        self.names = table.names
        self.labels = {name: np.asarray(values)[self._indices] for name, values in table.labels.items()}
        self.labels |= labels or {}
        self.classes = {**table.classes, **(classes or {})}
        self.values = {name: np.asarray(values)[self._indices] for name, values in table.values.items()}
        self.boxes = {name: [boxes[i] for i in self._indices] for name, boxes in table.boxes.items()}

    def __len__(self) -> int:
        return len(self._indices)

    def images(self, index: int) -> dict[str, np.ndarray]:
        return self._table.images(int(self._indices[index]))

    def header(self, index: int, name: str) -> ImageHeader:
        return self._table.header(int(self._indices[index]), name)

    def origin(self, index: int, name: str) -> str:
        return self._table.origin(int(self._indices[index]), name)

    def record_id(self, index: int) -> str:
        return self._table.record_id(int(self._indices[index]))

    def select(self, *names: str) -> Subset:
        return Subset(self._table.select(*names), self._indices, self.labels, self.classes)


def class_names(table: Table) -> tuple[str, ...]:
    """Names of the values 0, 1, ... of the labels; the numbers themselves where they have none."""
    return _names(table, LABEL)


def of_classes(table: Table, classes: tuple[str, ...]) -> Table:
    """The records of some classes, labelled by their place in ``classes``.

    Args:
      table: single images with labels.
      classes: names of classes, or the numbers of labels without names.

    Raises:
      UserError: when the table has no labels, or not one of these classes.
    """
    if LABEL not in table.labels:
        raise UserError(
            f"config.data.classes = {', '.join(classes)}: needs single images with a class (class folders, a CSV "
            "file with the column label, or a prepared set)"
        )
    if class_names(table) == classes:
        return table
    new = _places(table, LABEL, classes, "config.data.classes: no class")
    kept = np.flatnonzero(new >= 0)
    return Subset(table, kept, {LABEL: new[kept]}, {LABEL: classes})


def of_views(table: Table, views: tuple[str, ...]) -> Table:
    """All records, the view of each by its place in ``views``; -1, unknown, where it is none of them.

    Args:
      table: single images with views.
      views: names of views, or the numbers of views without names.

    Raises:
      UserError: when the table has no views, or not one of these.
    """
    if VIEW not in table.labels:
        raise UserError(
            f"config.data.views = {', '.join(views)}: needs single images with a view (a CSV file with the column "
            "view, or a prepared set that has one)"
        )
    return Subset(
        table, range(len(table)), {VIEW: _places(table, VIEW, views, "config.data.views: no view")}, {VIEW: views}
    )


def _names(table: Table, column: str) -> tuple[str, ...]:
    if column in table.classes:
        return tuple(table.classes[column])
    labels = np.asarray(table.labels[column])
    return tuple(str(number) for number in range(int(labels.max(initial=-1)) + 1))


def _places(table: Table, column: str, wanted: tuple[str, ...], fault: str) -> np.ndarray:
    """Place in ``wanted`` of each record's label, (n,) int32; -1 of any other."""
    known, labels = _names(table, column), np.asarray(table.labels[column])
    # A split may lack the highest numbers of labels without names.
    named = column in table.classes
    if unknown := [name for name in wanted if name not in known and (named or not name.isdecimal())]:
        raise UserError(f"{fault} {unknown[0]!r}; there are {', '.join(known)}")
    place = {name: i for i, name in enumerate(wanted)}
    return np.array([place.get(name, -1) for name in known] + [-1], np.int32)[np.maximum(labels, -1)]
