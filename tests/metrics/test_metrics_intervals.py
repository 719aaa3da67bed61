"""Confidence intervals: closed forms, published values, coverage by simulation, bad input."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import intervals, ranking
from medgen_jax.metrics.intervals import Interval
from medgen_jax.metrics.kernel import kernel_distance


def rng(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def share_holding(found: list[Interval], truth: float) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in found]))


# ------------------------------------------------------------------------------------ mean


def test_normal_interval_by_hand() -> None:
    got = intervals.mean_interval(2.0, 0.5)
    assert got.low == pytest.approx(2 - 1.959964 * 0.5, abs=1e-6)
    assert got.high == pytest.approx(2 + 1.959964 * 0.5, abs=1e-6)
    assert (got.level, got.method) == (0.95, "normal")


@pytest.mark.parametrize(
    ("count", "level", "quantile"),  # Student's quantile in every table
    [
        (2, 0.95, 12.7062047),
        (3, 0.95, 4.3026527),
        (4, 0.95, 3.1824463),
        (6, 0.9, 2.0150484),
        (31, 0.99, 2.7499957),
        (121, 0.95, 1.9799304),
        (1001, 0.95, 1.9623391),
        (1002, 0.95, 1.9623367),
        (10001, 0.95, 1.9602012),
    ],
)
def test_student_interval_has_the_quantiles_of_the_tables(count: int, level: float, quantile: float) -> None:
    got = intervals.mean_interval(10.0, 2.0, count, level=level)
    assert (got.high - 10) / 2 == pytest.approx(quantile, abs=2e-7)
    assert (10 - got.low) / 2 == pytest.approx(quantile, abs=2e-7)
    assert got.method == "student"


def test_one_degree_of_freedom_is_cauchys() -> None:
    """tan(pi (p - 1/2)) in closed form."""
    got = intervals.mean_interval(0.0, 1.0, 2, level=0.5)
    assert (got.low, got.high) == pytest.approx((-1.0, 1.0), rel=1e-12)


def test_no_spread_is_an_interval_of_no_width() -> None:
    assert intervals.mean_interval(3.0, 0.0, 5)[:2] == (3.0, 3.0)


# ------------------------------------------------------------------------------ proportion


def test_wilson_by_hand_and_at_the_ends() -> None:
    """At 0 of n the upper end is z^2 / (n + z^2)."""
    z2 = 1.9599639845**2
    got = intervals.wilson_interval(0, 10)
    assert got.low == 0.0 and got.high == pytest.approx(z2 / (10 + z2), rel=1e-9)
    got = intervals.wilson_interval(10, 10)
    assert got.high == 1.0 and got.low == pytest.approx(10 / (10 + z2), rel=1e-9)
    got = intervals.wilson_interval(7, 10)  # the value of statistical packages
    assert got[:2] == pytest.approx((0.3967781, 0.8922087), abs=1e-7)
    assert got.method == "wilson"


def test_wilson_covers_exactly_what_the_binomial_says() -> None:
    """Coverage is a finite sum over outcomes; averaged over p it is close to the level."""
    ends = np.array([intervals.wilson_interval(k, 30, level=0.9)[:2] for k in range(31)])
    ways = np.cumprod(np.concatenate([[1.0], (30 - np.arange(30)) / np.arange(1, 31)]))
    shares = np.linspace(0.02, 0.98, 97)[:, None]
    chances = ways * shares ** np.arange(31) * (1 - shares) ** (30 - np.arange(31))
    coverage = np.sum(chances * ((ends[:, 0] <= shares) & (shares <= ends[:, 1])), axis=1)
    assert 0.89 < coverage.mean() < 0.92
    assert coverage.min() > 0.8


# ------------------------------------------------------------------------------- bootstrap


@pytest.mark.parametrize("method", intervals.METHODS)
def test_bootstrap_covers_the_mean_of_skewed_values(method: str) -> None:
    draws = rng(0).gamma(2.0, 0.5, (400, 60))
    found = [
        intervals.bootstrap_mean(row, method=method, resamples=200, seed=i, level=0.9) for i, row in enumerate(draws)
    ]
    assert 0.84 < share_holding(found, 1.0) < 0.94
    assert found[0].method == f"bootstrap {method}"


def test_bootstrap_agrees_with_the_standard_error() -> None:
    values = rng(1).normal(5, 2, 400)
    got = intervals.bootstrap_mean(values)
    wanted = intervals.mean_interval(values.mean(), values.std() / 20)
    assert got[:2] == pytest.approx(wanted[:2], abs=0.01)


def test_basic_is_percentile_mirrored_at_the_mean() -> None:
    values = rng(2).gamma(1.0, 1.0, 25)
    percentile, basic = (intervals.bootstrap_mean(values, method=m, seed=3) for m in ("percentile", "basic"))
    assert basic.low == pytest.approx(2 * values.mean() - percentile.high, rel=1e-12)
    assert basic.high == pytest.approx(2 * values.mean() - percentile.low, rel=1e-12)
    assert basic.low != pytest.approx(percentile.low, abs=1e-3)


def test_the_seed_decides_and_blocks_do_not(monkeypatch) -> None:
    values = rng(3).normal(size=50)
    got = intervals.bootstrap_mean(values, resamples=500, seed=7)
    assert got == intervals.bootstrap_mean(values, resamples=500, seed=7)
    assert got != intervals.bootstrap_mean(values, resamples=500, seed=8)
    monkeypatch.setattr(intervals, "BLOCK_VALUES", 333)
    assert got == intervals.bootstrap_mean(values, resamples=500, seed=7)


def test_groups_are_drawn_whole() -> None:
    """Ten images each of 30 patients: by image the interval is far too narrow, by patient it is right."""
    patients = np.repeat(np.arange(30), 10)
    by_image, by_patient = [], []
    for seed in range(150):
        noise = rng(1000 + seed)
        values = noise.normal(0, 1, 30)[patients] + noise.normal(0, 0.3, 300)
        by_image.append(intervals.bootstrap_mean(values, resamples=200, seed=seed))
        by_patient.append(intervals.bootstrap_mean(values, groups=patients, resamples=200, seed=seed))
    assert share_holding(by_image, 0.0) < 0.6
    assert share_holding(by_patient, 0.0) > 0.88
    assert by_patient[0].method == "bootstrap percentile by group"


def test_groups_of_unequal_size_and_any_labels() -> None:
    """Values 0, 0, 0 and 1 in two groups: resampled means are 0, 1/4 or 1."""
    got = intervals.bootstrap_mean(np.array([0.0, 1.0, 0.0, 0.0]), groups=np.array(list("abaa")))
    assert got[:2] == (0.0, 1.0)
    alone = intervals.bootstrap_mean(np.arange(9.0), groups=np.arange(9)[::-1].copy(), resamples=200)
    assert alone.low < 4 < alone.high


def test_constant_values_have_no_width() -> None:
    assert intervals.bootstrap_mean(np.full(9, 0.25))[:2] == (0.25, 0.25)


# -------------------------------------------------------------------------------- two sets


@pytest.mark.parametrize("method", ["half", "bootstrap"])
def test_difference_of_means_has_its_known_error(method: str) -> None:
    """The root of the sum of variance / n."""
    a, b = rng(4).normal(0, 1, 400), rng(5).normal(0, 2, 100)
    got = intervals.two_set_interval(lambda i, j: b[j].mean() - a[i].mean(), 400, 100, method=method, resamples=2000)
    assert (got.low + got.high) / 2 == pytest.approx(b.mean() - a.mean(), abs=1e-12)
    assert (got.high - got.low) / 2 == pytest.approx(1.96 * np.sqrt(a.var() / 400 + b.var() / 100), rel=0.06)
    assert got.method == {"half": "half-samples", "bootstrap": "bootstrap normal"}[method]


def test_kernel_distance_is_covered_also_where_copies_mislead() -> None:
    """Sets of one distribution, true distance 0: resampled values lie above it, the interval does not."""
    found = []
    for seed in range(60):
        a, b = rng(seed).normal(size=(2, 20, 4))
        found.append(
            intervals.two_set_interval(
                lambda i, j, a=a, b=b: kernel_distance(a[i], b[j])["kid"], 20, 20, resamples=40, seed=seed
            )
        )
    assert share_holding(found, 0.0) > 0.93


def test_every_index_is_in_its_set_and_halves_hold_no_copies() -> None:
    seen = []
    intervals.two_set_interval(lambda i, j: seen.append((i, j)) or len(seen), 9, 5, resamples=20)
    assert len(seen) == 21
    np.testing.assert_array_equal(seen[0][0], np.arange(9))
    np.testing.assert_array_equal(seen[0][1], np.arange(5))
    for i, j in seen[1:]:
        assert len(set(i)) == len(i) == 4 and set(i) <= set(range(9))
        assert len(set(j)) == len(j) == 2 and set(j) <= set(range(5))
    assert len({tuple(i) for i, _ in seen}) > 10


# ----------------------------------------------------------------------------------- AUROC


def two_classes(seed: int, count: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    scores = np.concatenate([rng(seed).normal(shift, 1, count), rng(seed + 10**6).normal(0, 1, count)])
    return scores, np.arange(2 * count) < count


@pytest.mark.parametrize("method", ["delong", "newcombe"])
def test_auroc_is_covered(method: str) -> None:
    """Two normals one unit apart: the area is Phi(1 / sqrt 2) = 0.76025."""
    found = [intervals.auroc_interval(*two_classes(seed, 25, 1.0), method=method) for seed in range(600)]
    assert 0.925 < share_holding(found, 0.7602499) < 0.99
    assert {interval.method for interval in found} == {method}


def test_delong_by_hand() -> None:
    """Positives 3, 1 against negatives 2, 0: placements 1, 1/2 and 1/2, 1, so area 3/4, variance 1/8 + 1/8."""
    got = intervals.auroc_interval(np.array([3.0, 1.0, 2.0, 0.0]), np.array([1, 1, 0, 0]), level=0.5)
    reach = 0.6744898 * np.sqrt(0.125 / 2 + 0.125 / 2) / (0.75 * 0.25)
    wanted = [1 / (1 + np.exp(-(np.log(3) + side * reach))) for side in (-1, 1)]
    assert got[:2] == pytest.approx(wanted, abs=1e-7)


def test_newcombe_solves_its_equation() -> None:
    """(area - a)^2 = z^2 V(a) at both ends, V after Hanley and McNeil with n = m = 20."""
    scores, labels = two_classes(3, 20, 1.0)
    area = ranking.ranking_scores(scores, labels)["auroc"]
    got = intervals.auroc_interval(scores, labels, method="newcombe")
    assert got.low < area < got.high
    for a in got[:2]:
        variance = a * (1 - a) * (1 + 19 * (1 - a) / (2 - a) + 19 * a / (1 + a)) / 400
        assert (area - a) ** 2 == pytest.approx(1.9599639845**2 * variance, rel=1e-6)


def test_ties_count_half_and_the_interval_holds_the_area_of_ranking() -> None:
    scores, labels = rng(6).integers(0, 4, 60).astype(float), rng(7).integers(0, 2, 60)
    area = ranking.ranking_scores(scores, labels)["auroc"]
    got, narrow = (intervals.auroc_interval(scores, labels, level=level) for level in (0.95, 1e-9))
    assert got.low < area < got.high
    assert narrow[:2] == pytest.approx((area, area), abs=1e-8)


@pytest.mark.parametrize("sign", [1, -1])
def test_perfect_separation_is_not_certainty(sign: int) -> None:
    scores, labels = sign * np.arange(20.0), np.arange(20) >= 10
    got = intervals.auroc_interval(scores, labels)
    assert got.method == "newcombe"
    assert (got.high == 1.0 and 0.7 < got.low < 0.9) if sign > 0 else (got.low == 0.0 and 0.1 < got.high < 0.3)


def test_constant_scores_are_finite() -> None:
    got = intervals.auroc_interval(np.ones(20), np.arange(20) % 2)
    assert got.method == "newcombe" and 0.2 < got.low < 0.5 < got.high < 0.8


# ------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: intervals.mean_interval(0.0, 1.0, level=95), "level 95"),
        (lambda: intervals.wilson_interval(1, 2, level=1.0), "level 1.0"),
        (lambda: intervals.mean_interval(0.0, np.nan, 5), "both must be finite"),
        (lambda: intervals.mean_interval(0.0, -1.0, 5), "standard error -1.0"),
        (lambda: intervals.mean_interval(0.0, 1.0, 1), "1 values: at least 2"),
        (lambda: intervals.wilson_interval(3, 2), "3 of 2 is none"),
        (lambda: intervals.wilson_interval(0, 0), "0 of 0 is none"),
        (lambda: intervals.bootstrap_mean(np.ones((2, 2))), r"shape \(2, 2\)"),
        (lambda: intervals.bootstrap_mean(np.array([1.0, np.nan])), "number 1 is NaN"),
        (lambda: intervals.bootstrap_mean(np.ones(1)), "at least 2"),
        (lambda: intervals.bootstrap_mean(np.ones(3), groups=np.ones(3)), "at least 2 groups"),
        (lambda: intervals.bootstrap_mean(np.ones(3), groups=np.ones(2)), "one label for each of the 3"),
        (lambda: intervals.bootstrap_mean(np.ones(3), method="bca"), "method 'bca'"),
        (lambda: intervals.bootstrap_mean(np.ones(3), resamples=39), "39 resamples are too few"),
        (lambda: intervals.two_set_interval(lambda i, j: 0.0, 3, 9), "at least 4 in each"),
        (lambda: intervals.two_set_interval(lambda i, j: 0.0, 9, 9, resamples=5), "5 resamples"),
        (lambda: intervals.two_set_interval(lambda i, j: 0.0, 9, 9, method="basic"), "method 'basic'"),
        (lambda: intervals.two_set_interval(lambda i, j: np.nan, 9, 9), "not finite"),
        (lambda: intervals.auroc_interval(np.ones(4), np.array([0, 1, 2, 1])), "one 0 or 1"),
        (lambda: intervals.auroc_interval(np.ones(4), np.ones(3)), "one 0 or 1"),
        (lambda: intervals.auroc_interval(np.ones(4), np.array([0, 0, 0, 1])), "1 positives and 3 negatives"),
        (lambda: intervals.auroc_interval(np.array([1, 2, np.inf, 3]), np.array([0, 0, 1, 1])), "number 2"),
        (lambda: intervals.auroc_interval(np.ones(4), np.array([0, 0, 1, 1]), method="wald"), "method 'wald'"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:
    with pytest.raises(UserError, match=message):
        call()
