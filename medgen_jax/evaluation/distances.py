"""Measures of feature sets: FID, KID, precision and recall, with intervals.

Every function takes a `Reference`, the generated images' features (m, d) and the `Settings`, and returns `Score`
by name. What an interval covers is the chance of having drawn these images and not others of the same number.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from medgen_jax.evaluation.scores import Score
from medgen_jax.evaluation.settings import Settings
from medgen_jax.metrics import frechet, intervals, kernel, manifold, resampling
from medgen_jax.metrics.memorisation import neighbours

#: Images per side from which FID is usually taken to be steady.
FEW = 2048
FLOOR_SPLITS = 10
#: Half-samples that are drawn for an interval, of small and of large sets.
MOST, FEWEST = 200, 20
NONE = "none, as --resamples=0 asks"


class Reference(NamedTuple):
    """The real side.

    Attributes:
      statistics: of its features.
      features: (n, d), or None where only statistics were kept.
    """

    statistics: frechet.Statistics
    features: np.ndarray | None

    @classmethod
    def of(cls, features: np.ndarray) -> Reference:
        """From features in memory."""
        return cls(frechet.statistics(features), features)

    @property
    def count(self) -> int:
        """Number of real images."""
        return int(self.statistics.count)


def fid(real: Reference, fake: np.ndarray, settings: Settings) -> dict[str, Score]:
    """Frechet distance; beside it the extrapolation to infinite sets and the floor of the reference.

    The floor is the FID between random halves of the real images, of ``floor_n`` each: nothing can be told from the
    real thing below it with so many images.
    """
    found = frechet.compute(real.statistics, frechet.statistics(fake))
    extras = {"fid_mean": found["fid_mean"], "fid_covariance": found["fid_covariance"]}
    extras |= _infinity(real, fake, settings) | _floor(real, settings)
    fixed = real.features is None
    sizes = (len(fake),) if fixed else (real.count, len(fake))
    count = half_samples(sizes, settings)
    if not count:
        return {"fid": Score(found["fid"], None, NONE, extras, _fid_warnings(real, fake))}

    def statistic(*chosen: np.ndarray) -> dict[str, float]:
        mine = real.statistics if fixed else frechet.statistics(real.features[chosen[0]])
        return frechet.compute(mine, frechet.statistics(fake[chosen[-1]]))

    error = resampling.standard_errors(statistic, sizes, count, settings.seed)["fid"]
    ends = around(found["fid"], error, settings.level, lowest=0.0)
    source = _source(count, "the generated images, the reference held fixed" if fixed else "both sets")
    extras |= {"standard_error": error}
    return {"fid": Score(found["fid"], ends, f"normal, {source}", extras, _fid_warnings(real, fake))}


def _infinity(real: Reference, fake: np.ndarray, settings: Settings) -> dict[str, float]:
    """FID-infinity over 15 subset sizes; fewer where the set has no more, or each would take half a minute."""
    points = min(max(5, min(15, _affordable(len(fake)) // 4)), len(fake) - max(2, len(fake) // 10) + 1)
    found = frechet.frechet_infinity(real.statistics, fake, points=points, seed=settings.seed)
    return {name: found[name] for name in ("fid_infinity", "fid_infinity_standard_error")}


def _floor(real: Reference, settings: Settings) -> dict[str, float]:
    if real.features is None:
        return {}
    rng = np.random.default_rng((settings.seed, 1))
    half = real.count // 2
    splits = max(1, min(FLOOR_SPLITS, _affordable(real.count) // 10))
    values = []
    for _ in range(splits):
        order = rng.permutation(real.count)
        values.append(frechet.frechet_distance(real.features[order[:half]], real.features[order[half : 2 * half]]))
    return {"floor": float(np.mean(values)), "floor_n": half}


def _fid_warnings(real: Reference, fake: np.ndarray) -> tuple[str, ...]:
    few = [f"{n} {what}" for n, what in ((real.count, "real"), (len(fake), "generated")) if n < FEW]
    if not few:
        return ()
    return (
        f"FID of {' and '.join(few)} images, fewer than {FEW}: it lies above that of large sets, by an amount that "
        "depends on the number, and its extrapolation to infinitely many is rough; compare it only with FIDs of "
        "equally many images, and read KID beside it",
    )


def kid(real: Reference, fake: np.ndarray, settings: Settings) -> dict[str, Score]:
    """Kernel distance over all pairs, unbiased; beside it the mean over subsets, as most tables have it."""
    found = kernel.kernel_distance(real.features, fake)
    subsets = kernel.kernel_distance_subsets(
        real.features,
        fake,
        subsets=settings.kid_subsets,
        subset_size=settings.kid_subset_size,
        seed=settings.seed,
    )
    extras = {"standard_error": found["kid_standard_error"], "subsets": settings.kid_subsets}
    extras |= {name.removeprefix("kid_"): value for name, value in subsets.items()}
    interval = around(found["kid"], found["kid_standard_error"], settings.level)
    method = "normal, standard error from each image's own share in the sum (Hoeffding)"
    return {"kid": Score(found["kid"], interval, method, extras)}


def prdc(real: Reference, fake: np.ndarray, settings: Settings) -> dict[str, Score]:
    """Precision, recall, density and coverage.

    Intervals of the three shares reach as far as the wider of two: half-samples know how the neighbourhoods vary from
    draw to draw, Wilson's that a share of exactly 0 or 1 is not certain.
    """

    def statistic(mine: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
        return manifold.manifold_scores(real.features[mine], fake[chosen], k=settings.k)

    values = manifold.manifold_scores(real.features, fake, k=settings.k)
    count = half_samples((real.count, len(fake)), settings)
    if not count:
        return {name: Score(value, None, NONE, {"k": settings.k}) for name, value in values.items()}
    errors = resampling.standard_errors(statistic, (real.count, len(fake)), count, settings.seed)
    trials = {"precision": len(fake), "recall": real.count, "coverage": real.count}
    method = f"normal, {_source(count, 'both sets')}"
    scores = {}
    for name, value in values.items():
        low, high = around(value, errors[name], settings.level, lowest=0.0)
        extras = {"k": settings.k, "standard_error": errors[name]}
        if name in trials:
            other = intervals.wilson_interval(round(value * trials[name]), trials[name], level=settings.level)
            ends = min(low, other.low), min(1.0, max(high, other.high))
            scores[name] = Score(value, ends, f"{method}, or Wilson where that is wider", extras)
        else:
            scores[name] = Score(value, (low, high), method, extras)
    return scores


def nearest_real(real: Reference, fake: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Index and Euclidean distance of the real feature nearest to each generated one, (m,) and (m,)."""
    found = neighbours.nearest(fake, real.features)
    return found.index[:, 0], found.distance[:, 0]


def half_samples(sizes: Sequence[int], settings: Settings) -> int:
    """How many half-samples of sets of these sizes to draw for an interval; 0 for no interval."""
    return _affordable(max(sizes)) if settings.resamples is None else settings.resamples


def _affordable(size: int) -> int:
    """Half-samples of a set of ``size``: 200 up to 512 images, 20 beyond 2400.

    One FID of halves of 64 images takes a hundredth of a second, of 5000 half a minute.
    """
    return int(np.clip(MOST * (512 / max(size, 1)) ** 1.5, FEWEST, MOST))


def _source(count: int, whose: str) -> str:
    return f"standard error from {count} half-samples of {whose}"


def frechet_value(real: np.ndarray, fake: np.ndarray) -> float:
    """FID of two feature arrays, nothing beside it."""
    return frechet.frechet_distance(real, fake)


def kernel_value(real: np.ndarray, fake: np.ndarray) -> float:
    """KID of two feature arrays over all pairs, unbiased."""
    return kernel.kernel_distance(real, fake)["kid"]


def around(value: float, error: float, level: float, lowest: float = -math.inf) -> tuple[float, float]:
    """Ends of a normal interval around a value, cut off at ``lowest``."""
    found = intervals.mean_interval(value, error, level=level)
    return max(found.low, lowest), found.high
