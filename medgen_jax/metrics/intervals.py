"""Confidence intervals for the numbers of a report. NumPy in float64 on the host; the same seed, the same interval.

An interval of ``level`` .95 covers the true number in 95 of 100 repetitions of the whole experiment with new
images. It knows nothing of what was not repeated: a retrained network, another scanner, another hospital.
Images of one patient are alike, so that n of them are worth fewer than n: `bootstrap_mean` takes ``groups``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import resampling

BLOCK_VALUES = 1 << 22  # random indices held at a time: 32 MB
METHODS = ("percentile", "basic", "normal")
STUDENT_SERIES = 1000  # degrees of freedom up to which Student's distribution is summed exactly


class Interval(NamedTuple):
    """Both ends, the coverage that was asked for (.95), and how the ends were found."""

    low: float
    high: float
    level: float
    method: str


def mean_interval(mean: float, standard_error: float, count: int | None = None, *, level: float = 0.95) -> Interval:
    """Interval of a mean from its standard error: mean -+ quantile x standard error.

    Exact for normally distributed values, good for many values of any kind.

    Args:
      mean: of the values.
      standard_error: of that mean, standard deviation (n - 1) / sqrt(n).
      count: number of values n, for Student's distribution with n - 1 degrees of freedom. None: the
        standard error is taken as known, and the quantile is the normal one.
      level: coverage, between 0 and 1.

    Returns:
      Interval of method ``student`` or ``normal``.

    Raises:
      UserError: when a number is not finite, the standard error negative, or count below 2.
    """
    upper = 1 - _tail(level)
    if not (math.isfinite(mean) and math.isfinite(standard_error) and standard_error >= 0):
        raise UserError(f"interval of a mean {mean} with standard error {standard_error}: both must be finite")
    if count is not None and count < 2:
        raise UserError(f"interval of a mean of {count} values: at least 2 are needed to know their spread")
    quantile = _normal_quantile(upper) if count is None else _student_quantile(upper, count - 1)
    reach = quantile * standard_error
    return Interval(mean - reach, mean + reach, level, "normal" if count is None else "student")


def wilson_interval(successes: int, trials: int, *, level: float = 0.95) -> Interval:
    """Interval of a proportion (Wilson, J. Am. Stat. Assoc. 22, 1927): within [0, 1], usable at 0 of n and n of n.

    Raises:
      UserError: unless 0 <= successes <= trials and trials > 0.
    """
    if not 0 <= successes <= trials or trials < 1:
        raise UserError(f"interval of a proportion: {successes} of {trials} is none")
    z = _normal_quantile(1 - _tail(level))
    share, weight = successes / trials, z**2 / trials
    centre = (share + weight / 2) / (1 + weight)
    reach = z * math.sqrt(share * (1 - share) / trials + weight / (4 * trials)) / (1 + weight)
    # The formula reaches 0 and 1 there exactly, rounding does not.
    low = 0.0 if successes == 0 else max(0.0, centre - reach)
    high = 1.0 if successes == trials else min(1.0, centre + reach)
    return Interval(low, high, level, "wilson")


def bootstrap_mean(
    values: np.ndarray,
    *,
    groups: np.ndarray | None = None,
    level: float = 0.95,
    method: str = "percentile",
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Bootstrap interval of the mean of per-image values (Efron and Tibshirani 1993, chapters 12 and 13).

    Args:
      values: (n,) finite.
      groups: (n,) labels of any kind, such as patients. Whole groups are drawn, since their members are
        alike; the mean stays that of all values. None: every value is drawn on its own.
      level: coverage, between 0 and 1. Below about 30 values (or groups) the truth is less.
      method: ``percentile``: quantiles of the resampled means. ``basic``: the same mirrored at the mean.
        ``normal``: mean -+ normal quantile x standard deviation of the resampled means.
      resamples: number of resampled means.
      seed: of the drawing.

    Returns:
      Interval of method ``bootstrap percentile``, ``bootstrap basic`` or ``bootstrap normal``, with
      ``by group`` added if so.

    Raises:
      UserError: on values that are not (n,), not finite, or fewer than 2 (groups), and on bad options.
    """
    values = _finite_vector("bootstrap values", values)
    labels = np.arange(len(values)) if groups is None else np.asarray(groups)
    if labels.shape != values.shape:
        raise UserError(f"bootstrap groups {labels.shape}: one label for each of the {len(values)} values is needed")
    _, member = np.unique(labels, return_inverse=True)
    sums, sizes = np.bincount(member, values), np.bincount(member)
    if len(sums) < 2:
        raise UserError("bootstrap values: at least 2 (in at least 2 groups) are needed to know their spread")
    needed = math.ceil(1 / _tail(level))
    if method not in METHODS:
        raise UserError(f"bootstrap method {method!r}: expected one of {', '.join(METHODS)}")
    if resamples < needed:
        raise UserError(f"bootstrap: {resamples} resamples are too few for level {level}; take at least {needed}")
    draws = _draws(len(sums), resamples, np.random.default_rng(seed))
    means = np.concatenate([sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1) for drawn in draws])
    name = f"bootstrap {method}" + ("" if groups is None else " by group")
    return Interval(*_ends(float(values.mean()), means, level, method), level, name)


def two_set_interval(
    statistic: Callable[[np.ndarray, np.ndarray], float],
    count_a: int,
    count_b: int,
    *,
    level: float = 0.95,
    method: str = "half",
    resamples: int = 200,
    seed: int = 0,
) -> Interval:
    """Interval of a number that compares two independent sets, such as FID or KID: it -+ quantile x spread.

    The spread is that of resampled sets (`medgen_jax.metrics.resampling`); their place is not used. A set
    that holds features twice raises FID, whose bias grows as a set gets poorer, and KID, which takes copies for
    pairs: simulated with 40 against 40 of one distribution, quantiles of bootstrapped values held the mean KID
    in 2 % and the mean FID in 9 % of repetitions instead of 95 %. These intervals err to the wide side there,
    ``bootstrap`` more than ``half``, and are about right for distributions that differ. They are about sets of
    these sizes: the bias of FID against infinite sets is not in them.

    Args:
      statistic: ``(i, j) -> number``, i and j being indices into the sets.
      count_a, count_b: sizes of the sets, at least 4.
      level: coverage, between 0 and 1.
      method: ``half`` or ``bootstrap``, as in `medgen_jax.metrics.resampling`.
      resamples: number of times that ``statistic`` is called, and once more.
      seed: of the drawing.

    Returns:
      Interval of method ``half-samples`` or ``bootstrap normal``.

    Raises:
      UserError: on bad options, sets that are too small, or a statistic that is not finite.
    """
    z = _normal_quantile(1 - _tail(level))
    if method not in resampling.METHODS:
        raise UserError(f"interval of two sets, method {method!r}: expected half or bootstrap")
    if min(count_a, count_b) < 4 or resamples < 20:
        raise UserError(
            f"interval of two sets of {count_a} and {count_b} with {resamples} resamples: "
            "at least 4 in each set and 20 resamples are needed"
        )
    estimate = float(statistic(np.arange(count_a), np.arange(count_b)))
    error = resampling.standard_errors(
        lambda i, j: {"number": statistic(i, j)}, (count_a, count_b), resamples, seed, method
    )["number"]
    if not (math.isfinite(estimate) and math.isfinite(error)):
        raise UserError(
            "interval of two sets: the number of a resampled set is not finite; add images, or look for NaN"
        )
    reach = z * error
    return Interval(
        estimate - reach, estimate + reach, level, "half-samples" if method == "half" else "bootstrap normal"
    )


def auroc_interval(scores: np.ndarray, labels: np.ndarray, *, level: float = 0.95, method: str = "delong") -> Interval:
    """Interval of the area under the ROC curve, `medgen_jax.metrics.ranking.auroc`, which it contains.

    Args:
      scores: (n,) finite, larger for more likely positive; one per patient, since those of one patient are alike.
      labels: (n,), 1 or True for positive and 0 for negative.
      level: coverage, between 0 and 1.
      method: ``delong``: the variance of DeLong, DeLong and Clarke-Pearson, Biometrics 44(3), 1988, on the scale of
        the logit, which keeps the ends within [0, 1]. ``newcombe``: method 5 of Newcombe, Stat. Med. 25(4), 2006, which
        takes the variance from the area alone, and is used, and named, as well where DeLong's
        variance is zero: perfect separation of few cases does not make the area certain.

    Raises:
      UserError: on other shapes or values, fewer than 2 of either class, and bad options.
    """
    tail = _tail(level)
    if method not in ("delong", "newcombe"):
        raise UserError(f"AUROC interval method {method!r}: expected delong or newcombe")
    of_positives, of_negatives = _placements(scores, labels)
    area, z = float(of_positives.mean()), _normal_quantile(1 - tail)
    variance = sum(p.var(ddof=1) / len(p) for p in (of_positives, of_negatives))
    if method == "newcombe" or variance <= 0 or not 0 < area < 1:
        return Interval(*_newcombe(area, len(of_positives), len(of_negatives), z), level, "newcombe")
    logit, reach = math.log(area / (1 - area)), z * math.sqrt(variance) / (area * (1 - area))
    return Interval(_logistic(logit - reach), _logistic(logit + reach), level, "delong")


def _tail(level: float) -> float:
    if not 0 < level < 1:
        raise UserError(f"level {level} of an interval: it must lie between 0 and 1, such as 0.95")
    return (1 - level) / 2


def _ends(estimate: float, replicates: np.ndarray, level: float, method: str) -> tuple[float, float]:
    tail = _tail(level)
    if method == "normal":
        reach = _normal_quantile(1 - tail) * float(replicates.std(ddof=1))
        return estimate - reach, estimate + reach
    low, high = (float(q) for q in np.quantile(replicates, [tail, 1 - tail]))
    return (low, high) if method == "percentile" else (2 * estimate - high, 2 * estimate - low)


def _draws(count: int, resamples: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Indices with repeats, (rows, count) at a time, ``resamples`` rows in all."""
    rows = max(1, BLOCK_VALUES // count)
    for start in range(0, resamples, rows):
        yield rng.integers(0, count, (min(rows, resamples - start), count))


def _finite_vector(name: str, values: np.ndarray) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != 1:
        raise UserError(f"{name} have shape {array.shape}; one number per image is needed")
    bad = np.flatnonzero(~np.isfinite(array))
    if len(bad):
        raise UserError(f"{name}: number {bad[0]} is NaN or infinity ({len(bad)} of {len(array)} are)")
    return array


def _normal_quantile(probability: float) -> float:
    return NormalDist().inv_cdf(probability)


def _student_quantile(probability: float, freedom: int) -> float:
    """Quantile above the median, with whole degrees of freedom.

    Few: bisection on the closed sums of Abramowitz and Stegun 26.7.3 and 26.7.4 in the angle
    atan(t / sqrt(freedom)). Many: their expansion 26.7.5, wrong by less than 1e-7.
    """
    if freedom > STUDENT_SERIES:
        z = _normal_quantile(probability)
        return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
    odd = freedom % 2
    k = np.arange(1, (freedom - odd) // 2)
    ratios = 2 * k / (2 * k + 1) if odd else (2 * k - 1) / (2 * k)
    coefficients = np.concatenate([[1.0], np.cumprod(ratios)]) if freedom > 1 else np.zeros(1)
    powers = 2 * np.arange(len(coefficients)) + odd

    def both_sides(angle: float) -> float:
        series = math.sin(angle) * float(np.sum(coefficients * math.cos(angle) ** powers))
        return 2 / math.pi * (angle + series) if odd else series

    low, high = 0.0, math.pi / 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if both_sides(middle) < 2 * probability - 1 else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _placements(scores: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Share of negatives below each positive, and of positives above each negative; ties count half."""
    scores, labels = _finite_vector("AUROC scores", scores), np.asarray(labels)
    if labels.shape != scores.shape or not np.isin(labels, (0, 1)).all():
        raise UserError(f"AUROC labels {labels.shape}: one 0 or 1 for each of the {len(scores)} scores is needed")
    positives, negatives = np.sort(scores[labels == 1]), np.sort(scores[labels == 0])
    if min(len(positives), len(negatives)) < 2:
        raise UserError(
            f"AUROC of {len(positives)} positives and {len(negatives)} negatives: at least 2 of both are needed"
        )

    def below(sorted_values: np.ndarray, x: np.ndarray) -> np.ndarray:
        sides = (np.searchsorted(sorted_values, x, side) for side in ("left", "right"))
        return sum(sides) / (2 * len(sorted_values))

    return below(negatives, positives), 1 - below(positives, negatives)


def _newcombe(area: float, positives: int, negatives: int, z: float) -> tuple[float, float]:
    """The two areas from which the measured one lies z standard errors away, by bisection."""
    half = (positives + negatives) / 2 - 1

    def standard_error(a: float) -> float:
        spread = 1 + half * (1 - a) / (2 - a) + half * a / (1 + a)
        return math.sqrt(a * (1 - a) * spread / (positives * negatives))

    def root(inside: float, outside: float) -> float:
        for _ in range(60):
            middle = (inside + outside) / 2
            near = abs(area - middle) <= z * standard_error(middle)
            inside, outside = (middle, outside) if near else (inside, middle)
        return inside

    # At 0 and 1 the standard error vanishes, yet everything just inside is near.
    inner = min(max(area, 1e-12), 1 - 1e-12)
    low = 0.0 if area == 0 else root(inner, 0.0)
    return low, 1.0 if area == 1 else root(inner, 1.0)


def _logistic(x: float) -> float:
    return 0.5 * (1 + math.tanh(x / 2))
