"""What a system eats: fields, batch sizes and the order of records.

Standard library and NumPy only. A system declares its streams; the ``data`` room turns each into
one Grain pipeline whose example ``i`` is a pure function of ``(seed, stream, i)``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError

Cells = tuple[np.ndarray, ...]
#: Label columns of single images that have names of their own in the configuration: ``config.data.classes`` and
#: ``config.data.views``. -1 is an unknown view.
LABEL, VIEW = "label", "view"


@dataclass(frozen=True)
class Field:
    """Shape and dtype of one record's entry, without the batch axis.

    Images are HWC, ``uint8`` or ``uint16`` (raw values; scaled on the device). Labels have shape
    ``()`` and dtype ``int32``. ``setting`` names the configuration field that sets the number of
    channels, for the message when files have another one. Of the input of a sampler, ``unknown`` says that -1 stands
    for a value that is not known.
    """

    shape: tuple[int, ...]
    dtype: str = "uint8"
    setting: str = ""
    unknown: bool = False


@dataclass(frozen=True)
class Records:
    """What an order may look at: how many records there are, and their integer labels."""

    count: int
    seed: int
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)
    _cells: dict[Any, Cells] = field(default_factory=dict, init=False, repr=False, compare=False)

    def cells(self, columns: tuple[str, ...], values: tuple[tuple[str, tuple[int, ...]], ...] = ()) -> Cells:
        """The records of every combination of classes, found once and kept.

        Args:
          columns: label columns.
          values: ``(column, its classes that take part)`` pairs; of a column not named, 0 to its largest.

        Returns:
          Ascending record indices, one array per combination, the last column's class changing fastest.

        Raises:
          UserError: a column that the records lack, or a class or combination without a record.
        """
        key = columns, values
        if key not in self._cells:
            self._cells[key] = _cells_of(self.labels, columns, dict(values))
        return self._cells[key]


#: ``order(index, rng, records) -> record index``; ``rng`` is seeded with the global index.
Order = Callable[[int, np.random.Generator, Records], int]


def _cells_of(labels: Mapping[str, np.ndarray], columns: tuple[str, ...], values: Mapping[str, Any]) -> Cells:
    for column in columns:
        if column not in labels:
            have = ", ".join(labels) or "none"
            raise UserError(f"labels {column!r}: a balanced order needs them; the data set has: {have}")
    chosen = [_classes(column, np.asarray(labels[column]), values.get(column)) for column in columns]
    cells = []
    for combination in itertools.product(*chosen):
        hits = [np.asarray(labels[column]) == value for column, value in zip(columns, combination, strict=True)]
        records = np.flatnonzero(np.logical_and.reduce(hits))
        if not records.size:
            met = " and ".join(f"{column!r} {value}" for column, value in zip(columns, combination, strict=True))
            raise UserError(f"labels {met}: no record has both, so an order cannot be balanced over them together")
        cells.append(records)
    return tuple(cells)


def _classes(column: str, labels: np.ndarray, values: tuple[int, ...] | None) -> tuple[int, ...]:
    present = np.unique(labels)
    if values is None and present.size and present[0] < 0:
        raise UserError(f"labels {column!r}: {present[0]} is no class; name the classes that take part")
    classes = tuple(range(present[-1] + 1 if present.size else 1)) if values is None else values
    if absent := [value for value in classes if value not in present]:
        there = ", ".join(map(str, present)) or "none"
        raise UserError(
            f"labels {column!r}: class {absent[0]} has no record (there are: {there}); "
            "take records in which every class occurs, or leave the class out of the balance"
        )
    return classes


@lru_cache(maxsize=8)
def _permutation(count: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(count)


def shuffled(index: int, rng: np.random.Generator, records: Records) -> int:
    """Every record once per epoch, in a new seeded order each epoch."""
    epoch, place = divmod(index, records.count)
    return int(_permutation(records.count, records.seed, epoch)[place])


def sequential(index: int, rng: np.random.Generator, records: Records) -> int:
    """Records in their stored order, over and over."""
    return index % records.count


@lru_cache(maxsize=64)
def _turns(cells: int, seed: int, turn: int) -> np.ndarray:
    """The sequence in which the cells come within one turn."""
    # Seed sequences are padded with zeros: the last number, never 0, keeps the kinds of draws apart.
    return np.random.default_rng((seed, turn, 1)).permutation(cells)


@lru_cache(maxsize=64)
def _cell_epoch(count: int, seed: int, cell: int, epoch: int) -> tuple[np.ndarray, int]:
    """Order of a cell's records within one of its epochs, and how far on in it a record's partner stands."""
    rng = np.random.default_rng((seed, epoch, 2 + cell))
    return rng.permutation(count).astype(np.uint32), int(rng.integers(1, max(count, 2)))


@dataclass(frozen=True)
class Balanced:
    """An order in which every combination of classes comes equally often; see `balanced`.

    Attributes:
      columns: label columns.
      values: ``(column, classes)`` pairs, where not all classes of a column take part.
    """

    columns: tuple[str, ...]
    values: tuple[tuple[str, tuple[int, ...]], ...] = ()

    def __call__(self, index: int, rng: np.random.Generator | None, records: Records) -> int:
        cells = records.cells(self.columns, self.values)
        turn, place = divmod(index, len(cells))
        cell = int(_turns(len(cells), records.seed, turn)[place])
        epoch, place = divmod(turn, len(cells[cell]))
        order, _ = _cell_epoch(len(cells[cell]), records.seed, cell, epoch)
        return int(cells[cell][order[place]])


@dataclass(frozen=True)
class Pairs(Balanced):
    """An order of pairs of one combination of classes; see `pairs_of_class`."""

    def __call__(self, index: int, rng: np.random.Generator | None, records: Records) -> int:
        cells = records.cells(self.columns, self.values)
        pair, second = divmod(index, 2)
        turn, place = divmod(pair, len(cells))
        cell = int(_turns(len(cells), records.seed, turn)[place])
        count = len(cells[cell])
        if count < 2:
            raise UserError(
                f"labels {', '.join(map(repr, self.columns))}: record {cells[cell][0]} is the only one of its class; "
                "a pair of one class needs two"
            )
        epoch, place = divmod(turn, count)
        order, apart = _cell_epoch(count, records.seed, cell, epoch)
        return int(cells[cell][order[(place + second * apart) % count]])


def balanced(*columns: str, **values: tuple[int, ...]) -> Balanced:
    """Every combination of the columns' classes equally often: ``balanced("label", "view", view=(0, 1))``.

    With K combinations the indices [kK, kK + K) hold each of them once, in a new seeded sequence; any run of
    records is balanced to within one turn. Of one combination no record comes again before all its others have come:
    each has epochs of its own, in new orders, so that small classes repeat sooner.

    Args:
      columns: label columns of the records.
      values: of some columns, the classes that take part, such as those that are known; records of others are
        never drawn. All classes from 0 to the largest one otherwise, each of which must then occur.
    """
    if not columns or set(values) - set(columns):
        raise ValueError(
            f"balanced over {columns} with classes of {tuple(values)}: expected columns, and classes of those"
        )
    return Balanced(columns, tuple((name, tuple(map(int, classes))) for name, classes in values.items()))


def class_balanced(column: str = LABEL) -> Balanced:
    """Every class of one label column equally often: see `balanced`."""
    return balanced(column)


def pairs_of_class(*columns: str, **values: tuple[int, ...]) -> Pairs:
    """Two different records of one class, then two of another: indices 2j and 2j + 1 are a pair.

    Pairs are balanced as records are in `balanced`. Over as many pairs as a class has records each of its records
    comes once as the first and once as the second. A stream's ``per_step`` should be even, also per process.

    Args:
      columns, values: as in `balanced`.
    """
    return Pairs(*vars(balanced(*columns, **values)).values())


@dataclass(frozen=True)
class Stream:
    """One input of a training step.

    Attributes:
      fields: ``(name, Field)`` pairs of one record.
      per_step: records per optimiser step, over all processes.
      order: which record the global index ``i`` stands for: `shuffled`, `sequential`, or of `balanced`,
        `class_balanced`, `pairs_of_class`; hashable, as streams are.
      table: the table of records it reads; its own name when empty.
      split: ``train``, or ``val`` for a held-out stream that steers the training.
      unbalanced: setting that turns a balanced order off, such as ``config.balance=none``, for the message when labels
        cannot be balanced; empty where there is none.

    No record is dropped: the batch that reaches past an epoch takes the rest from the next one.
    """

    fields: tuple[tuple[str, Field], ...]
    per_step: int
    order: Order = shuffled
    table: str = ""
    split: str = "train"
    unbalanced: str = ""

    def zeros(self, batch: int | None = None) -> dict[str, np.ndarray]:
        """An all-zero batch of ``batch`` records (``per_step`` when None)."""
        size = self.per_step if batch is None else batch
        return {name: np.zeros((size, *f.shape), f.dtype) for name, f in self.fields}


@dataclass(frozen=True)
class Repeatable:
    """What is read anew each time it is iterated."""

    read: Callable[[], Iterator[Any]]

    def __iter__(self) -> Iterator[Any]:
        return self.read()
