"""Precision, recall, density and coverage: does one set of features lie where the other does?

Around every feature lies a ball that reaches to its k-th nearest neighbour in its own set:

* precision: share of fakes inside some real ball; recall: share of reals inside some fake ball
  (Kynkaanniemi, Karras, Laine, Lehtinen and Aila, NeurIPS 2019, equations 1 to 3);
* density: mean number of real balls a fake lies in, over k (may exceed 1); coverage: share of real
  balls that hold a fake (Naeem, Oh, Uh, Choi and Yoo, ICML 2020, equations 5 and 6).

Computed in float64 on the host, in blocks of rows. All numbers depend on the sizes of the sets and
on k: compare only like with like. Every pair counts, so the features of both sets must be kept.
"""

from __future__ import annotations

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Features
from medgen_jax.metrics.features import pair_of_features

BLOCK_VALUES = 1 << 22  # distances held at a time: 32 MB, a few times over
TIE = 1e-12  # squared distances that differ by less, in parts of the squared lengths, are equal


def manifold_scores(
    real_features: Features, fake_features: Features, *, k: int = 5, closed: bool = False
) -> dict[str, float]:
    """``precision``, ``recall``, ``density`` and ``coverage`` of sets (n, d) and (m, d).

    A feature exactly on a ball's surface (up to rounding, see `TIE`) is outside, or inside if
    ``closed``. It matters for sets with more than k copies of one image, blank tiles for instance:
    their open balls are empty, so that identical constant sets score 0, and 1 if ``closed``
    (density then n / k: a fake lies in every ball).

    Args:
      real_features: (n, d), n > k.
      fake_features: (m, d), m > k.
      k: which neighbour sets the radius, itself not counted; 5 after Naeem et al., 3 after
        Kynkaanniemi et al.
      closed: whether a ball's surface belongs to it.

    Raises:
      UserError: when k < 1, with fewer than k + 1 features, different d, or NaN or infinity.
    """
    if k < 1:
        raise UserError(f"precision and recall: k is {k}; it must be at least 1")
    real, fake = pair_of_features(real_features, fake_features, minimum=k + 1)
    # Distances come from inner products, which lose digits far from the origin.
    centre = real.mean(axis=0)
    real, fake = real - centre, fake - centre
    real_radii, fake_radii = _radii(real, k), _radii(fake, k)
    covered, recalled = np.zeros(len(real), bool), np.zeros(len(real), bool)
    inside, sign = (np.less_equal, 1) if closed else (np.less, -1)
    precise = balls = 0
    for rows in _blocks(fake, real):
        squared, margin = _squared_distances(fake[rows], real)
        in_real = inside(squared, real_radii + sign * margin)
        recalled |= inside(squared, fake_radii[rows, None] + sign * margin).any(axis=0)
        covered |= in_real.any(axis=0)
        precise += np.count_nonzero(in_real.any(axis=1))
        balls += np.count_nonzero(in_real)
    return {
        "precision": precise / len(fake),
        "recall": float(recalled.mean()),
        "density": balls / (k * len(fake)),
        "coverage": float(covered.mean()),
    }


def _radii(x: np.ndarray, k: int) -> np.ndarray:
    """Squared distance of each feature to its k-th neighbour, (n, d) -> (n,)."""
    radii = np.empty(len(x))
    for rows in _blocks(x, x):
        squared, _ = _squared_distances(x[rows], x)
        own = np.arange(rows.start, rows.stop)
        squared[np.arange(len(own)), own] = 0.0
        radii[rows] = np.partition(squared, k, axis=1)[:, k]
    return radii


def _blocks(x: np.ndarray, y: np.ndarray) -> list[slice]:
    rows = max(1, BLOCK_VALUES // len(y))
    return [slice(start, min(start + rows, len(x))) for start in range(0, len(x), rows)]


def _squared_distances(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared distances and the size of a tie, both (b, m)."""
    lengths = np.sum(np.square(x), axis=1)[:, None] + np.sum(np.square(y), axis=1)
    return np.maximum(lengths - 2 * (x @ y.T), 0.0), TIE * lengths
