"""Frechet distance between two sets of feature vectors: FID, and FID extrapolated to infinite sets.

    FID = |mu_1 - mu_2|^2 + Tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)),  S with n - 1 in the denominator

(Heusel, Ramsauer, Unterthiner, Nessler and Hochreiter, NeurIPS 2017, equation 6). With S_i =
F_i^T F_i / (n_i - 1) the last trace is the nuclear norm of F_1 F_2^T over the root of both
denominators, F_i being the centred features or any factor with the same Gram matrix. That form is
exact for singular covariances, where a matrix square root is not, and needs no complex numbers.

``init / accumulate / merge / compute`` over features (n, d), with `Statistics` of each set as the
accumulator. All of it is NumPy in float64 on the host, as 32 bits are too few for covariances. The
factor F holds the centred features themselves until it has more than 2 d rows, and the triangular
factor of their QR decomposition from then on (at most d rows): the covariance is never squared out,
so no digits are lost, and a set of any size takes at most 16 d (2 d + b) bytes between batches of b:
70 MB for the 2048 features of Inception. `reduce` brings it down to 8 d min(n, d) for a cache.

The estimate's bias falls as 1/n and is large for small sets; `frechet_infinity` extrapolates it
away, and the unbiased distance of `medgen_jax.metrics.kernel` belongs beside it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Features, Mask
from medgen_jax.metrics.features import as_features, pair_of_features


class Statistics(NamedTuple):
    """Mean and covariance of one set of features; an accumulator, and after `reduce` a cache entry.

    All plain arrays: ``np.savez(path, **statistics._asdict())`` and
    ``Statistics(**np.load(path, allow_pickle=False))`` store it.

    Attributes:
      count: () int64, number of features n.
      mean: (d,) float64.
      factor: (m, d) float64 with ``factor.T @ factor`` the sum of outer products of the centred
        features, that is n - 1 times the covariance.
    """

    count: np.ndarray
    mean: np.ndarray
    factor: np.ndarray


def init(dimensions: int) -> Statistics:
    """Statistics of no features of ``dimensions`` numbers each."""
    return Statistics(np.int64(0), np.zeros(dimensions), np.zeros((0, dimensions)))


def accumulate(acc: Statistics, features: Features, mask: Mask | None = None) -> Statistics:
    """Add a batch.

    Args:
      acc: what `init`, `accumulate` or `merge` returned.
      features: (b, d), any float type, on any number of devices.
      mask: (b,), 1 or True for real records and 0 for padding, which may hold anything; all ones if
        left out.

    Raises:
      UserError: when d differs from earlier batches, or a counted feature is not finite.
    """
    features = np.asarray(features)
    if mask is not None:
        features = features[np.asarray(mask) > 0]
    features = as_features("features", features, minimum=0)
    _same_dimensions(acc, features)
    return merge(acc, _statistics(features)) if len(features) else acc


def merge(a: Statistics, b: Statistics) -> Statistics:
    """Statistics of both sets together (Chan, Golub and LeVeque, Am. Stat. 37(3), 1983, eq. 2.1).

    Associative and commutative up to float64 rounding, apart from the rows of the factor, of which
    only the Gram matrix counts.

    Raises:
      UserError: when the two have different d.
    """
    _same_dimensions(a, b.factor)
    if not a.count or not b.count:
        return a if a.count else b
    count = a.count + b.count
    shift = b.mean - a.mean
    between = np.sqrt(a.count * (b.count / count)) * shift
    factor = np.concatenate([a.factor, b.factor, between[None]])
    merged = Statistics(count, a.mean + shift * (b.count / count), factor)
    return reduce(merged) if len(factor) > 2 * len(shift) else merged


def reduce(statistics: Statistics) -> Statistics:
    """The same statistics with a factor of at most d rows, for storage."""
    rows, dimensions = statistics.factor.shape
    if rows <= dimensions:
        return statistics
    return statistics._replace(factor=np.linalg.qr(statistics.factor, mode="r"))


def compute(real: Statistics, fake: Statistics) -> dict[str, float]:
    """``fid`` and its two parts: ``fid_mean`` + ``fid_covariance``, in squared units of a feature.

    Symmetric in the two sets. Rounding is about 1e-15 of the traces; a part below zero by as much
    is returned as zero.

    Raises:
      UserError: when a set has fewer than 2 features, the two have different d, or stored
        statistics are not finite.
    """
    for name, side in (("real", real), ("fake", fake)):
        if side.count < 2:
            raise UserError(f"Frechet distance: the {name} set has {side.count} features; at least 2 are needed")
        if not (np.isfinite(side.mean).all() and np.isfinite(side.factor).all()):
            raise UserError(f"Frechet distance: the statistics of the {name} set hold NaN or infinity; make them anew")
    _same_dimensions(real, fake.factor)
    shift = float(np.sum(np.square(real.mean - fake.mean)))
    traces = sum(np.sum(np.square(s.factor)) / (s.count - 1) for s in (real, fake))
    product = reduce(real).factor @ reduce(fake).factor.T
    root = np.linalg.norm(product, "nuc") / np.sqrt(float(real.count - 1) * float(fake.count - 1))
    spread = max(0.0, float(traces - 2 * root))
    return {"fid": shift + spread, "fid_mean": shift, "fid_covariance": spread}


def statistics(features: Features) -> Statistics:
    """Reduced `Statistics` of a whole set (n, d).

    Raises:
      UserError: as `as_features` does.
    """
    return reduce(_statistics(as_features("features", features)))


def frechet_distance(real_features: Features, fake_features: Features) -> float:
    """FID of two sets (n, d) and (m, d) held in memory.

    Raises:
      UserError: as `as_features` and `compute` do.
    """
    real, fake = pair_of_features(real_features, fake_features)
    return compute(_statistics(real), _statistics(fake))["fid"]


def frechet_infinity(
    real: Statistics,
    fake_features: Features,
    *,
    points: int = 15,
    smallest: int | None = None,
    seed: int = 0,
) -> dict[str, float]:
    """FID that infinitely many generated images would have (Chong and Forsyth, CVPR 2020, section 4).

    Takes random subsets of ``points`` evenly spaced sizes, each without replacement, and fits
    FID = a + b / size by least squares; a is the answer. The reference stays whole, as in the paper,
    so what bias its own size causes remains. The law holds for sizes well above d; below, the curve
    bends and the answer is a rough one.

    Args:
      real: statistics of the reference set.
      fake_features: (n, d).
      points: number of sizes, at least 3.
      smallest: smallest size, at least 2; a tenth of n if left out. The largest is n.
      seed: of the subsets.

    Returns:
      ``fid_infinity``, which unlike FID may be negative, ``fid_infinity_slope``, and
      ``fid_infinity_standard_error``, that of the intercept of the fit. It measures how well the
      line holds; subsets overlap, so it is less than the error over new sets of images.

    Raises:
      UserError: as `as_features` and `compute` do, and when the sizes do not fit the set.
    """
    fake = as_features("fake features", fake_features)
    smallest = max(2, len(fake) // 10) if smallest is None else smallest
    if points < 3 or smallest < 2 or len(fake) - smallest < points - 1:
        raise UserError(
            f"FID at infinity: {points} subset sizes from {smallest} to {len(fake)} features cannot be had; "
            "at least 3 points, sizes from 2 on and as many features as sizes are needed"
        )
    real, rng = reduce(real), np.random.default_rng(seed)
    sizes = np.linspace(smallest, len(fake), points).round().astype(int)
    subsets = (fake[rng.permutation(len(fake))[:size]] for size in sizes)
    distances = np.array([compute(real, _statistics(subset))["fid"] for subset in subsets])
    return _line(1 / sizes, distances)


def _statistics(features: np.ndarray) -> Statistics:
    mean = features.mean(axis=0)
    return Statistics(np.int64(len(features)), mean, features - mean)


def _same_dimensions(acc: Statistics, rows: np.ndarray) -> None:
    if len(acc.mean) != rows.shape[1]:
        raise UserError(
            f"Frechet distance: features of {len(acc.mean)} and of {rows.shape[1]} numbers meet; "
            "take all from one network and layer"
        )


def _line(x: np.ndarray, y: np.ndarray) -> dict[str, float]:
    """Least squares fit of y = a + b x."""
    centred = x - x.mean()
    power = np.sum(centred**2)
    slope = np.sum(centred * y) / power
    intercept = y.mean() - slope * x.mean()
    variance = np.sum((y - intercept - slope * x) ** 2) / (len(x) - 2)
    return {
        "fid_infinity": float(intercept),
        "fid_infinity_slope": float(slope),
        "fid_infinity_standard_error": float(np.sqrt(variance * (1 / len(x) + x.mean() ** 2 / power))),
    }
