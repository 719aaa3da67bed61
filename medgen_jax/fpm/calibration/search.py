"""The lowest value of a noisy function of a few numbers within bounds, in a fixed number of evaluations."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

Evaluate = Callable[[np.ndarray], np.ndarray]


class Found(NamedTuple):
    """Where the lowest value was seen, a point (d,), and the value."""

    point: np.ndarray
    value: float


def compass(evaluate: Evaluate, start: np.ndarray, bounds: np.ndarray, rounds: int) -> Found:
    """Look to either side along every axis, go to where parabolas have their bottom, shorten the steps.

    The first steps are half of the bounds, and nothing beyond these is looked at. A round that found something lower
    shortens the steps by a third, one that did not to a third. Only points that were evaluated are ever gone to.

    Args:
      evaluate: points (k, d) -> values (k,); values that are not finite are never chosen.
      start: (d,) within the bounds.
      bounds: (d,), points lie within plus and minus these.
      rounds: each takes 2 d + 1 evaluations.
    """
    best, value = start, float(evaluate(start[None])[0])
    steps = bounds / 2
    for _ in range(rounds):
        around = best + np.concatenate([np.diag(steps), -np.diag(steps)])
        around = np.clip(around, -bounds, bounds)
        values = evaluate(around)
        ahead, behind = values.reshape(2, -1)
        together = np.clip(best + steps * bottom(behind, value, ahead), -bounds, bounds)
        points = np.concatenate([around, together[None]])
        values = np.append(values, evaluate(together[None]))
        lowest = int(np.argmin(np.where(np.isfinite(values), values, np.inf)))
        lower = bool(values[lowest] < value)
        if lower:
            best, value = points[lowest], float(values[lowest])
        steps = steps * (2 / 3 if lower else 1 / 3)
    return Found(best, value)


def bottom(behind: np.ndarray, here: np.ndarray | float, ahead: np.ndarray) -> np.ndarray:
    """Place of the lowest point of parabolas through values at -1, 0 and 1, within [-1, 1].

    Where they have none, the lower end; 0 where a value is not finite or all are equal.

    Args:
      behind, here, ahead: the values; they broadcast.
    """
    behind, here, ahead = np.broadcast_arrays(behind, here, ahead)
    finite = np.isfinite(behind) & np.isfinite(here) & np.isfinite(ahead)
    behind, here, ahead = (np.where(finite, values, 0.0) for values in (behind, here, ahead))
    curvature, slope = behind - 2 * here + ahead, (ahead - behind) / 2
    ends = -np.sign(slope)
    return np.where(curvature > 0, np.clip(-slope / np.where(curvature > 0, curvature, 1), -1, 1), ends)
