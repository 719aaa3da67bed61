"""Kernel inception distance: squared maximum mean discrepancy with a cubic polynomial kernel.

Binkowski, Sutherland, Arbel and Gretton, ICLR 2018, section 4: k(x, y) = (x . y / d + 1)^3 and

    KID = mean_{i != j} k(x_i, x_j) + mean_{i != j} k(y_i, y_j) - 2 mean_{i, j} k(x_i, y_j).

It is unbiased at any set size, hence below zero about as often as above for sets of one
distribution. Computed in float64 on the host, in blocks, as the three means nearly cancel. Every
pair counts, so the features of both sets must be kept.
"""

from __future__ import annotations

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Features
from medgen_jax.metrics.features import pair_of_features

BLOCK_VALUES = 1 << 22  # kernel values held at a time: 32 MB


def kernel_distance(real_features: Features, fake_features: Features) -> dict[str, float]:
    """KID over all pairs of two sets (n, d) and (m, d); the same for any order of the features.

    Returns:
      ``kid`` and ``kid_standard_error``, its sampling error over new sets of the same sizes, by the
      variance of each feature's own share in the sum (first order Hoeffding projection: Hoeffding,
      Ann. Math. Stat. 19(3), 1948, section 7). For sets of one distribution, where that order
      vanishes, the estimate errs to the large side.

    Raises:
      UserError: with fewer than 2 features, different d, or NaN or infinity.
    """
    return _distance(*pair_of_features(real_features, fake_features))


def kernel_distance_subsets(
    real_features: Features,
    fake_features: Features,
    *,
    subsets: int = 100,
    subset_size: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """KID as commonly published: mean over random subsets of both sets, each without replacement.

    Args:
      real_features: (n, d).
      fake_features: (m, d).
      subsets: their number, at least 2.
      subset_size: at most min(n, m). If left out, 1000 as in the paper, or half of the smaller set
        where that is less: subsets as large as the set are all alike, and their spread means nothing.
      seed: of the subsets, which also depend on the order of the features.

    Returns:
      ``kid_subset_mean``; ``kid_subset_std`` between subsets (the number that stands behind the
      plus-minus sign in most tables; it shrinks with larger subsets, not with more); and
      ``kid_subset_standard_error``, the mean's error from drawing only so many subsets, not from
      having only so many images (see `kernel_distance`); ``kid_subset_size``.

    Raises:
      UserError: as `kernel_distance`, and when the subsets do not fit.
    """
    real, fake = pair_of_features(real_features, fake_features)
    smaller = min(len(real), len(fake))
    size = max(2, min(1000, smaller // 2)) if subset_size is None else subset_size
    if subsets < 2 or not 2 <= size <= smaller:
        raise UserError(
            f"KID: {subsets} subsets of {size} features cannot be drawn; take at least 2 subsets "
            f"of 2 to {smaller} features, the size of the smaller set"
        )
    rng = np.random.default_rng(seed)
    draws = ((rng.permutation(len(real))[:size], rng.permutation(len(fake))[:size]) for _ in range(subsets))
    values = np.array([_distance(real[a], fake[b])["kid"] for a, b in draws])
    spread = values.std(ddof=1)
    return {
        "kid_subset_mean": float(values.mean()),
        "kid_subset_std": float(spread),
        "kid_subset_standard_error": float(spread / np.sqrt(subsets)),
        "kid_subset_size": size,
    }


def _distance(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    within_x = (_row_sums(x, x) - _self_kernel(x)) / (len(x) - 1)
    within_y = (_row_sums(y, y) - _self_kernel(y)) / (len(y) - 1)
    across_x, across_y = _row_sums(x, y) / len(y), _row_sums(y, x) / len(x)
    value = within_x.mean() + within_y.mean() - across_x.mean() - across_y.mean()
    shares = (within_x - across_x, within_y - across_y)
    variance = sum(4 * share.var(ddof=1) / len(share) for share in shares)
    return {"kid": float(value), "kid_standard_error": float(np.sqrt(variance))}


def _row_sums(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Sum of k(x_i, y_j) over j, (n, d) and (m, d) -> (n,)."""
    rows = max(1, BLOCK_VALUES // len(y))
    blocks = (x[start : start + rows] for start in range(0, len(x), rows))
    return np.concatenate([_cubic(block @ y.T, x.shape[1]).sum(axis=1) for block in blocks])


def _self_kernel(x: np.ndarray) -> np.ndarray:
    return _cubic(np.sum(np.square(x), axis=1), x.shape[1])


def _cubic(products: np.ndarray, dimensions: int) -> np.ndarray:
    base = products / dimensions + 1.0
    return base * base * base
