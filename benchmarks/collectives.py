"""Collectives of a compiled program: which ones, of which arrays; read from its text, once XLA has partitioned it."""

from __future__ import annotations

import math
import re
from typing import NamedTuple

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_WIDTHS = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4}
_WIDTHS |= {"f64": 8, "s64": 8, "u64": 8, "c64": 8, "c128": 16}
# A name, one shape or several in brackets, and the operation; the end of one that was started (-done) is no other.
_LINE = re.compile(rf"= (\(.*?\)|\S+) ({'|'.join(KINDS)})(?:-start)?\(")
_SHAPE = re.compile(rf"\b({'|'.join(_WIDTHS)})\[([\d,]*)\]")


class Collective(NamedTuple):
    """One operation.

    Attributes:
      kind: one of `KINDS`.
      shapes: of its results, which XLA may have reshaped or transposed.
      bytes: of its results together.
    """

    kind: str
    shapes: tuple[tuple[int, ...], ...]
    bytes: int

    @property
    def elements(self) -> int:
        """Of the largest result."""
        return max(map(math.prod, self.shapes))

    @property
    def of_gradients(self) -> bool:
        """Whether it sums gradients, by there being more than a vector in it: statistics are vectors."""
        return self.kind == "all-reduce" and any(sum(n > 1 for n in shape) > 1 for shape in self.shapes)


def of_program(text: str) -> list[Collective]:
    """The collectives in ``compiled.as_text()``, in its order."""
    found = []
    for line in text.splitlines():
        if match := _LINE.search(line):
            typed = [(t, tuple(int(n) for n in sizes.split(",") if n)) for t, sizes in _SHAPE.findall(match[1])]
            total = sum(_WIDTHS[t] * math.prod(shape) for t, shape in typed)
            found.append(Collective(match[2], tuple(shape for _, shape in typed), total))
    return found


def seconds_of_all_reduce(size: float, devices: int, gb_per_s: float) -> float:
    """On paper, around a ring: every device sends ``2 (n - 1) / n`` of the bytes, at so many GB/s in one direction."""
    return 2 * (devices - 1) / devices * size / (gb_per_s * 1e9)
