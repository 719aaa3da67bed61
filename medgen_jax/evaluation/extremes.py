"""The worst and the best examples of a stream of images, for the page."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from medgen_jax.viz.scores import Case

#: Caption, and the titled pictures; called only for what is shown.
Shown = Callable[[], tuple[str, list[tuple[str, np.ndarray]]]]


class Extremes:
    """Keeps a few examples at either end.

    Args:
      count: kept of each kind.
      better: ``higher`` or ``lower`` values.
      headings: of the worst and of the best.
    """

    def __init__(self, count: int, better: str, headings: tuple[str, str] = ("Worst", "Best")):
        self._count, self._sign, self._headings = count, 1 if better == "higher" else -1, headings
        self._kept: list[tuple[float, int, Shown]] = []
        self._seen = 0

    def add(self, value: float, shown: Shown) -> None:
        """Consider an example; one whose value is not finite counts as the worst."""
        goodness = self._sign * value if math.isfinite(value) else -math.inf
        self._kept.append((goodness, self._seen, shown))
        self._kept.sort(key=lambda entry: entry[:2])
        self._seen += 1
        if len(self._kept) > 2 * self._count:
            del self._kept[self._count]

    def cases(self) -> list[Case]:
        """The worst, worst first, then the best, best first; no example twice."""
        count = min(self._count, (len(self._kept) + 1) // 2)
        worst, best = self._kept[:count], self._kept[count:][::-1][:count]
        return [
            Case(heading, *shown())
            for heading, entries in zip(self._headings, (worst, best), strict=True)
            for _, _, shown in entries
        ]
