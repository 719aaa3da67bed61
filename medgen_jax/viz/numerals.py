"""Numbers and their intervals as text."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medgen_jax.viz.curves import compact


def decimals(ends: Sequence[float] | None) -> int | None:
    """Decimals that show three digits of an interval's width: more say nothing about the number."""
    width = ends[1] - ends[0] if ends else 0.0
    if not 1e-6 < width < 1e5:
        return None
    return max(0, 2 - math.floor(math.log10(width)))


def interval_text(ends: Sequence[float] | None, places: int | None = None) -> str:
    """Both ends, or a dash."""
    return f"{number_text(ends[0], places)} to {number_text(ends[1], places)}" if ends else "\u2013"


def number_text(value: float | None, places: int | None = None) -> str:
    """A number with so many decimals, or with four digits; None was not finite."""
    if value is None:
        return "not finite"
    return (compact(value) if places is None else f"{value:.{places}f}").replace("-", "\u2212")
