"""What a split consists of, known from listings alone: no file has been opened yet."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

#: A box in pixels: x and y of its upper left corner, width, height.
Box = tuple[float, float, float, float]


class Panel(NamedTuple):
    """One of ``count`` pictures of equal width that stand side by side in a file; ``index`` counts from the left."""

    index: int
    count: int


@dataclass(frozen=True)
class Listing:
    """The records of one split. All sequences have one entry per record, in the same order.

    Attributes:
      columns: image column -> files. A path may choose a part of its file (see `data.images`).
      labels: label column -> integers.
      classes: label column -> names of its values 0, 1, ...; columns of plain numbers have no entry.
      values: value column -> numbers, such as ages and scores; NaN where unknown.
      boxes: box column -> the boxes of each record, in pixels of its first image column's file (of
        its panel, where it has one); no box, no lesion.
      ids: what records are called in outputs, each once; they must carry no name of a patient. File
        names without their suffix when none are given.
      groups: patient or slide of each record; empty when unknown. Never written anywhere in clear.
      panels: image column -> which part of its files it is; columns without an entry are whole files.
      grey: image columns that are read as one channel whatever their files hold, because grey
        pictures of the set come with one channel and with three (ITU-R BT.601 luma).

    Raises:
      ValueError: for lengths that differ, two columns of one name, repeated ids, labels beyond their classes, infinite
        values, or boxes that are not finite or have no size.
    """

    columns: Mapping[str, tuple[Path, ...]]
    labels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    values: Mapping[str, tuple[float, ...]] = field(default_factory=dict, kw_only=True)
    boxes: Mapping[str, tuple[tuple[Box, ...], ...]] = field(default_factory=dict, kw_only=True)
    ids: tuple[str, ...] = ()
    groups: tuple[str, ...] = field(default=(), repr=False)
    panels: Mapping[str, Panel] = field(default_factory=dict)
    grey: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.ids:
            first = next(iter(self.columns.values()))
            object.__setattr__(self, "ids", tuple(Path(file).stem for file in first))
        given = {**self.columns, **self.labels, **self.values, **self.boxes, "ids": self.ids}
        given |= {"groups": self.groups} if self.groups else {}
        if len(given) - bool(self.groups) - 1 != sum(map(len, (self.columns, self.labels, self.values, self.boxes))):
            raise ValueError("two columns of one name")
        lengths = {name: len(values) for name, values in given.items()}
        if len(set(lengths.values())) != 1:
            raise ValueError(f"sequences of different lengths: {lengths}")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError(f"{len(self.ids) - len(set(self.ids))} ids repeat")
        for name, values in self.labels.items():
            count = len(self.classes[name]) if name in self.classes else None
            if count is not None and values and not 0 <= min(values) <= max(values) < count:
                raise ValueError(f"labels {name!r} lie in {min(values)}..{max(values)}, of {count} classes")
        for name, values in self.values.items():
            if any(map(math.isinf, values)):
                raise ValueError(f"values {name!r} hold infinity")
        for name, boxes in self.boxes.items():
            for box in (box for own in boxes for box in own):
                if len(box) != 4 or not all(map(math.isfinite, box)) or min(box[2:]) <= 0:
                    raise ValueError(f"boxes {name!r}: {box} is no x, y, width, height of a box")

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, indices: Sequence[int]) -> Listing:
        """The records at ``indices``, in that order."""

        def chosen(values: tuple) -> tuple:
            return tuple(values[i] for i in indices)

        return Listing(
            {name: chosen(files) for name, files in self.columns.items()},
            {name: chosen(values) for name, values in self.labels.items()},
            self.classes,
            chosen(self.ids),
            chosen(self.groups) if self.groups else (),
            self.panels,
            self.grey,
            values={name: chosen(values) for name, values in self.values.items()},
            boxes={name: chosen(boxes) for name, boxes in self.boxes.items()},
        )
