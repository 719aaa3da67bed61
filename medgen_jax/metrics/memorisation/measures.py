"""Does a generator emit copies of its training images? Five measures of nearest neighbours.

All compare three sets of features: the images the generator was trained on, held-out images of
other patients, and generated images. `examine` finds what the measures need to know of each image
(`Facts`); each measure is a small function of those.

==================  ==========================================================  =========================
measure             copying shows as                                            reference
==================  ==========================================================  =========================
`distance_ratio`    generated images nearer to training than to held-out ones   another split of patients
`authenticity`      few images farther from their training neighbour than it    the held-out images
                    is from the rest of the training set (Alaa et al. 2022)
`data_copying.c_t`  low ranks of distances within regions (Meehan et al. 2020)  the held-out images
`close_share`       many images nearer than held-out ones ever are              the held-out images
`suspects`          single images too near for the tail of held-out ratios      the held-out images
==================  ==========================================================  =========================

What the reference is decides what may be concluded. Generated images that are smoother or less
varied than real ones lie near everything, so the middle three also answer to such a generator that
copies nothing. The first and the last do not, as they divide by the distance to held-out images.
`distance_ratio` asks whether the generated images betray which patients were trained on, and only
assumes that chance split the patients; the others take images for independent, so that several of one
patient make their p-values somewhat too small. None of the five sees a copy in features that the
alteration of the copy has moved. `medgen_jax.metrics.memorisation.planting` measures what each is able to
see, `medgen_jax.metrics.memorisation.audit` reports both together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.metrics.intervals import bootstrap_mean, two_set_interval, wilson_interval
from medgen_jax.metrics.memorisation import data_copying
from medgen_jax.metrics.memorisation.sets import Facts, Reference

PERMUTATIONS, RESAMPLES = 999, 2000
ALPHA = 0.05
SMALLEST_TAIL = 5  # images that make a tail
RESOLUTION = 1e-3  # of a log ratio: what differs by less is never unusual
QUANTILE = 0.01
RATIO_CAP = 1e6  # of a ratio whose divisor is 0, so that it can be written down


def distance_ratio(
    generated: Facts, reference: Reference, *, permutations: int = PERMUTATIONS, seed: int = 0
) -> dict[str, Any]:
    """Distance of generated images to the nearest training image over that to the nearest held-out one.

    Averaged through the relative gap of each image, (held-out - training) / (held-out + training), which
    is 1 for a copy and bounded, as the ratio is not: with the mean gap g, the ratio is (1 - g) / (1 + g).
    As the larger set is the nearer one, the ratio is to be compared with its expectation: that over
    random splits of all real patients into as many for training and for holding out. The same
    splits give the p-value (a permutation test, exact if chance chose the patients held out).

    Returns:
      ``ratio``; ``ratio_interval``, 95 % by the bootstrap over generated images, the real ones being
      given, None for a single one; ``expected_ratio``; ``p_value``, the chance of a ratio as low if nothing
      is copied.
    """
    rng = np.random.default_rng(seed)
    if permutations < 1:
        raise UserError(f"memorisation: {permutations} permutations; at least 1 is needed, and 999 are usual")
    is_train = reference.is_train
    gap = relative_gap(log_ratios(generated, is_train, ~is_train))
    splits = patient_splits(reference.patient, is_train, np.ones_like(is_train), permutations, rng)
    means = np.array([relative_gap(log_ratios(generated, split, ~split)).mean() for split in splits])
    interval = None
    if len(gap) > 1:
        ends = bootstrap_mean(gap, resamples=RESAMPLES, seed=seed)
        interval = ends._replace(low=_ratio(ends.high), high=_ratio(ends.low))._asdict()
    return {
        "ratio": _ratio(gap.mean()),
        "ratio_interval": interval,
        "expected_ratio": _ratio(means.mean()),
        "p_value": permutation_p_value(gap.mean(), means),
    }


def log_ratios(
    facts: Facts, is_train: np.ndarray, is_held_out: np.ndarray, patient: np.ndarray | None = None, own: Any = -1
) -> np.ndarray:
    """Logarithm of the distance to the nearest training over that to the nearest held-out image, (n,).

    At most log(`RATIO_CAP`) either way; 0 if both distances are. If none of a kind is among the neighbours
    kept, the farthest of those stands for it.

    Args:
      facts: of n images.
      is_train: (r,) which real images count as training images.
      is_held_out: (r,) which as held-out ones.
      patient: (r,) numbers, with ``own``
      own: (n,) the patient of each image, whose images do not count.
    """
    wanted = (is_train[facts.neighbour], is_held_out[facts.neighbour])
    if patient is not None:
        foreign = patient[facts.neighbour] != np.reshape(own, (-1, 1))
        wanted = tuple(kind & foreign for kind in wanted)
    t, h = (_first(facts, kind) for kind in wanted)
    floor = np.maximum(t, h) / RATIO_CAP
    floor = np.where(floor > 0, floor, 1.0)
    return np.log(np.maximum(t, floor) / np.maximum(h, floor))


def relative_gap(log_ratio: np.ndarray) -> np.ndarray:
    """(held-out - training) / (held-out + training) of distances with this logarithm of their ratio."""
    return -np.tanh(log_ratio / 2)


def patient_splits(
    patient: np.ndarray, is_train: np.ndarray, used: np.ndarray, count: int, rng: np.random.Generator
) -> Iterator[np.ndarray]:
    """``count`` random choices (r,) of training images among the real images of the patients ``used`` (r,), whole
    patients at a time, with as many training patients as ``is_train`` has."""
    everyone, training = np.unique(patient[used]), np.unique(patient[used & is_train])
    chosen = np.zeros(patient.max() + 1, bool)
    for _ in range(count):
        chosen[everyone] = False
        chosen[rng.permutation(everyone)[: len(training)]] = True
        yield chosen[patient]


def permutation_p_value(observed: float, permuted: np.ndarray) -> float:
    """Share of values at least as large, the observed one included (rounding apart)."""
    return float((1 + np.count_nonzero(permuted >= observed - 1e-12)) / (1 + len(permuted)))


def authenticity(generated: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
    """AuthPct: per cent of images that are authentic (Alaa, van Breugel, Saveliev and van der Schaar, ICML
    2022), that is farther from their nearest training image than that one is from the rest
    of the training set.

    Its value has no fixed reference: it depends on the data and on how dense the training set is. So it
    is compared with that of the held-out images, by Fisher's exact test. Training images
    that exist twice make every inexact copy of them authentic.

    Args:
      generated: (g,) `Facts.authentic`.
      held_out: (m,), likewise.

    Returns:
      ``authpct``, ``authpct_held_out`` and 95 % intervals (Wilson) of both; ``p_value``, the chance of so
      few authentic images if generated and held-out images are alike.
    """
    n, m = len(generated), len(held_out)
    a, b = int(np.sum(generated)), int(np.sum(held_out))
    return {
        "authpct": 100 * a / n,
        "authpct_interval": _share_interval(a, n, 100),
        "authpct_held_out": 100 * b / m,
        "authpct_held_out_interval": _share_interval(b, m, 100),
        "p_value": hypergeometric_tail(n - a, draws=n, marked=n - a + m - b, total=n + m),
    }


def close_share(generated: np.ndarray, held_out: np.ndarray, *, quantile: float = QUANTILE) -> dict[str, Any]:
    """Share of generated images nearer to a training image than all but a few held-out images are.

    The threshold is the j-th smallest distance of m held-out images, j = quantile * (m + 1) rounded
    down, at least 1. If generated and held-out images are alike, a share of j / (m + 1) is expected
    below it, whatever the distribution, and the number below it is negative hypergeometric (Gumbel and
    von Schelling, Ann. Math. Stat. 21(2), 1950), which gives the p-value.

    Args:
      generated: (g,) `Facts.distance`.
      held_out: (m,), likewise.
      quantile: of the held-out distances.

    Returns:
      ``share`` below the threshold and ``share_interval`` (95 %, Wilson, the threshold being given),
      ``count``, ``threshold``, ``expected_share`` (the rate of false positives) and ``p_value``.

    Raises:
      UserError: when the quantile is not between 0 and 1.
    """
    if not 0 < quantile < 1:
        raise UserError(f"memorisation: quantile is {quantile}; a number between 0 and 1 is needed")
    n, m = len(generated), len(held_out)
    rank = max(1, int(quantile * (m + 1)))
    threshold = float(np.sort(held_out)[rank - 1])
    count = int(np.count_nonzero(generated < threshold))
    # `count` generated images below the rank-th held-out one: so many at least among the first few of all.
    p_value = hypergeometric_tail(count, draws=count + rank - 1, marked=n, total=n + m) if count else 1.0
    return {
        "share": count / n,
        "share_interval": _share_interval(count, n),
        "count": count,
        "threshold": threshold,
        "expected_share": rank / (m + 1),
        "p_value": p_value,
    }


def suspects(generated: np.ndarray, held_out: np.ndarray, *, alpha: float = ALPHA) -> dict[str, Any]:
    """Single generated images so near to one training image that no held-out image explains them.

    An image is judged by its log ratio, small for a copy. The lower tail of the held-out images' own
    is taken to fall off exponentially or faster: an excess y below their (k + 1)-th smallest then has
    the chance (k + 1) / (m + 1) (1 + y / sum y_i)^-k, with the excesses y_i of the k smallest, k = m / 10
    but at least 5 (peaks over a threshold: Coles, An Introduction to Statistical Modeling of Extreme
    Values, 2001, chapter 4, at shape 0 and with the scale integrated out). None of the four other measures
    can see a single copy; this one pays for it with its assumption, which planting puts to the test.

    Args:
      generated: (g,) `log_ratios`.
      held_out: (m,) likewise, each without the images of its own patient.
      alpha: chance of a false alarm in all g images together.

    Returns:
      ``count`` of images whose chance, times g, is at most ``alpha``; ``images``, their indices from
      the least likely on; ``share`` and ``share_interval`` (95 %, Wilson); ``expected_count``, at most alpha;
      ``p_value``, the least chance times g. None for each with fewer than 10 held-out images.
    """
    n = len(generated)
    chance = tail_chances(generated, held_out)
    if chance is None:
        return dict.fromkeys(("count", "images", "share", "share_interval", "expected_count", "p_value"))
    images = [int(i) for i in np.argsort(chance, kind="stable") if chance[i] * n <= alpha]
    return {
        "count": len(images),
        "images": images,
        "share": len(images) / n,
        "share_interval": _share_interval(len(images), n),
        "expected_count": alpha,
        "p_value": float(min(1.0, n * chance.min())),
    }


def tail_chances(values: np.ndarray, sample: np.ndarray) -> np.ndarray | None:
    """Chance of a value as low, from the lower tail of a sample, as `suspects` says; None for a small sample."""
    k = max(SMALLEST_TAIL, len(sample) // 10)
    if len(sample) < 2 * k:
        return None
    ordered = np.sort(sample)
    total = max(np.sum(ordered[k] - ordered[:k]), k * RESOLUTION)
    excess = np.maximum(ordered[k] - values, 0)
    beyond = (k + 1) / (len(sample) + 1) * (1 + excess / total) ** -k
    return np.where(excess > 0, beyond, (1 + np.searchsorted(ordered, values, "right")) / (len(sample) + 1))


def data_copying_score(generated: Facts, held_out: Facts, *, seed: int = 0) -> dict[str, Any]:
    """`data_copying.c_t`, with ``c_t_interval``: 95 % by the bootstrap over the images of both sets in the
    cells that count, None where there are none."""
    sides = [(facts.cell_distance, facts.cell) for facts in (generated, held_out)]
    result = data_copying.c_t(*sides[0], *sides[1])
    counted = [record["cell"] for record in result["cells"] if record["z"] is not None]
    sides = [(distance[inside], cell[inside]) for distance, cell in sides for inside in [np.isin(cell, counted)]]

    def resampled(i: np.ndarray, j: np.ndarray) -> float:
        picked = (array[rows] for side, rows in zip(sides, (i, j), strict=True) for array in side)
        return data_copying.c_t(*picked, minimum=1)["c_t"]

    interval = None
    if counted:
        sizes = (len(cell) for _, cell in sides)
        interval = two_set_interval(resampled, *sizes, method="bootstrap", seed=seed)._asdict()
    return {"c_t": result["c_t"], "c_t_interval": interval, **result}


def closest_pairs(generated: Facts, reference: Reference, *, count: int = 16) -> list[dict[str, Any]]:
    """The generated images most like one training image, for the eye to judge.

    In the order of the distance to the nearest training image over that to the nearest held-out one:
    distance alone would list smooth images, which are near to all others.

    Returns:
      at most ``count`` records: ``generated`` and ``train``, indices from 0; ``distance``; ``ratio``.
    """
    is_train = reference.is_train
    ratio = log_ratios(generated, is_train, ~is_train)
    order = np.lexsort((generated.distance, ratio))[:count]
    return [
        {
            "generated": int(row),
            "train": int(generated.source[row]),
            "distance": float(generated.distance[row]),
            "ratio": math.exp(ratio[row]),
        }
        for row in order
    ]


def _first(facts: Facts, wanted: np.ndarray) -> np.ndarray:
    """Distance (n,) to the nearest neighbour wanted (n, depth)."""
    place = np.where(wanted.any(axis=1), wanted.argmax(axis=1), wanted.shape[1] - 1)
    return np.take_along_axis(facts.neighbour_distance, place[:, None], axis=1)[:, 0]


def _share_interval(count: int, n: int, unit: int = 1) -> dict[str, Any]:
    interval = wilson_interval(count, n)
    return interval._replace(low=unit * interval.low, high=unit * interval.high)._asdict()


def _ratio(gap: float) -> float:
    return float(np.exp(-2 * np.arctanh(np.clip(gap, -1, 1) * (1 - 1 / RATIO_CAP))))


def hypergeometric_tail(at_least: int, *, draws: int, marked: int, total: int) -> float:
    """Chance of ``at_least`` marked ones among ``draws`` of ``total`` without replacement."""

    def log_choose(n: int, k: int) -> float:
        return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)

    lowest, highest = max(at_least, draws + marked - total, 0), min(draws, marked)
    logs = [
        log_choose(marked, k) + log_choose(total - marked, draws - k) - log_choose(total, draws)
        for k in range(lowest, highest + 1)
    ]
    return min(1.0, math.fsum(map(math.exp, logs)))
