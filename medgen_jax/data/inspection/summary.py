"""The numbers of a survey, one row per column: what the table on the terminal, the page and the file show."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from medgen_jax.data.inspection.findings import Ref
from medgen_jax.data.inspection.measures import quantile
from medgen_jax.data.inspection.survey import Surveyed


def rows(found: Sequence[Surveyed], blanks: set[Ref]) -> list[dict[str, Any]]:
    """One row per column, in JSON's types.

    ``sizes`` holds [height, width] of the images with the fewest, the middle and the most pixels, and how many
    sizes there are; ``levels`` per number of bits the range (all and 0.1 to 99.9 percent of samples) and the
    shares of samples at both of its ends.
    """
    return [_row(one, sum(ref.column == place for ref in blanks)) for place, one in enumerate(found)]


def _row(one: Surveyed, blank: int) -> dict[str, Any]:
    column, headers = one.column, [header for _, header in sorted(one.headers.items())]
    return {
        "split": column.split,
        "table": column.table,
        "column": column.name,
        "records": len(column),
        "measured": len(one.measures),
        "unreadable": len(one.unreadable),
        "blank": blank,
        "sizes": _sizes([header[:2] for header in headers]),
        "channels": _counted(header.channels for header in headers),
        "bits": _counted(header.bits for header in headers),
        "levels": {str(bits): _levels(counts) for bits, counts in sorted(one.levels.items())},
        "modes": _counted(container.mode for container in one.containers.values() if container.mode),
        "classes": {label: _counted(words) for label, words in column.labels.items()},
        "shifts": [list(shift[:2]) for _, shift in sorted(one.shifts.items()) if shift.believed],
    }


def _sizes(sizes: Sequence[tuple[int, int]]) -> dict[str, Any] | None:
    if not sizes:
        return None
    ordered = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    ends = {"min": ordered[0], "median": ordered[(len(ordered) - 1) // 2], "max": ordered[-1]}
    return {name: list(size) for name, size in ends.items()} | {"distinct": len(set(sizes))}


def _levels(counts: np.ndarray) -> dict[str, Any]:
    levels = np.flatnonzero(counts)
    low, high = int(levels[0]), int(levels[-1])
    return {
        "min": low,
        "max": high,
        "low": quantile(counts, 0.001),
        "high": quantile(counts, 0.999),
        "at_min": float(counts[low] / counts.sum()),
        "at_max": float(counts[high] / counts.sum()),
        "used": len(levels),
    }


def _counted(values: Any) -> dict[str, int]:
    return {str(value): count for value, count in sorted(Counter(values).items())}
