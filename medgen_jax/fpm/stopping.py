"""LEDs that are kept out of the solution, and what their residual says: when to stop, and whether it went wrong."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

#: Rise of the held-out residual over its best, from which a solution is said to diverge.
DIVERGED = 1.5


class Watch(NamedTuple):
    """Best value so far and passes since; both arrays without axes."""

    best: jax.Array
    since: jax.Array


def held_out(bright: np.ndarray, fraction: float, seed: int, keep: int) -> np.ndarray:
    """(n,) bool: LEDs to be held out, the same share of bright field and of dark field.

    Args:
      bright: (n,) bool, LEDs within the aperture.
      fraction: of each kind, rounded up; 0 for none. At least half of each kind stays.
      seed: which ones.
      keep: an LED that stays in: the one the solution starts from.
    """
    rng, chosen = np.random.default_rng(seed), np.zeros(len(bright), bool)
    for kind in (bright, ~bright):
        among = np.flatnonzero(kind & (np.arange(len(bright)) != keep))
        count = min(math.ceil(fraction * len(among)), len(among) // 2)
        chosen[rng.permutation(among)[:count]] = True
    return chosen


def start_watch() -> Watch:
    """Nothing seen yet."""
    return Watch(jnp.float32(jnp.inf), jnp.int32(0))


def watched(watch: Watch, value: jax.Array, gain: float = 1e-3) -> tuple[Watch, jax.Array]:
    """After a pass: the new watch and whether this is the best pass so far.

    Args:
      watch: before.
      value: of the pass.
      gain: share by which a value must fall below the best to count as progress.
    """
    better = value < watch.best
    progress = value < watch.best * (1 - gain)
    return Watch(jnp.minimum(watch.best, value), jnp.where(progress, 0, watch.since + 1)), better


def verdict(curve: np.ndarray, limit: int) -> str:
    """One sentence about how a solution ended.

    Args:
      curve: (passes,) residuals, of held-out LEDs where there are any.
      limit: passes that were allowed.
    """
    if not np.isfinite(curve).all():
        return f"diverged: the residual is no number from pass {int(np.argmin(np.isfinite(curve))) + 1} on; reduce step"
    best = int(np.argmin(curve))
    if curve[-1] > DIVERGED * curve[best]:
        return (
            f"diverged: the residual rose from {curve[best]:.4g} (pass {best + 1}) to {curve[-1]:.4g} (pass "
            f"{len(curve)}); check order, height and defocus of the LEDs, or reduce step and pupil_step"
        )
    if len(curve) < limit:
        return f"settled: no progress after pass {best + 1} of {len(curve)}"
    return f"ended after all {limit} passes, best at pass {best + 1}"
