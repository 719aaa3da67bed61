"""What a system eats: fields, batch sizes and the order of records.

Standard library and NumPy only. A system declares its streams; the ``data`` room turns each into
one Grain pipeline whose example ``i`` is a pure function of ``(seed, stream, i)``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Field:
    """Shape and dtype of one record's entry, without the batch axis.

    Images are HWC, ``uint8`` or ``uint16`` (raw values; scaled on the device). Labels have shape
    ``()`` and dtype ``int32``. ``setting`` names the configuration field that sets the number of
    channels, for the message when files have another one.
    """

    shape: tuple[int, ...]
    dtype: str = "uint8"
    setting: str = ""


@dataclass(frozen=True)
class Records:
    """What an order may look at: how many records there are, and their integer labels."""

    count: int
    seed: int
    labels: Mapping[str, np.ndarray] = field(default_factory=dict)


#: ``order(index, rng, records) -> record index``; ``rng`` is seeded with the global index.
Order = Callable[[int, np.random.Generator, Records], int]


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


@dataclass(frozen=True)
class Stream:
    """One input of a training step.

    Attributes:
      fields: ``(name, Field)`` pairs of one record.
      per_step: records per optimiser step, over all processes.
      order: which record the global index ``i`` stands for.
      table: the table of records it reads; its own name when empty.
      split: ``train``, or ``val`` for a held-out stream that steers the training.

    No record is dropped: the batch that reaches past an epoch takes the rest from the next one.
    """

    fields: tuple[tuple[str, Field], ...]
    per_step: int
    order: Order = shuffled
    table: str = ""
    split: str = "train"

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
