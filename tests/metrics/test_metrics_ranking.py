"""Ranking: hand-computed areas with ties, stored numbers of scikit-learn, bins and their stated errors."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hashed import hashed
from hypothesis import given, settings
from hypothesis import strategies as st

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import ranking

GOLDEN = pathlib.Path(__file__).parent / "golden" / "ranking_packages.json"
accumulate = jax.jit(ranking.accumulate)


def areas(scores, positive):
    counts = ranking.tally(np.array(scores), np.array(positive))
    return ranking.auroc(counts), ranking.average_precision(counts)


def golden_case(name):
    """Scores and labels of a stored case."""
    if name == "rare":
        positive = hashed(11, 20_000) < 0.01
        return np.float32(hashed(12, 20_000) + 0.5 * positive * hashed(13, 20_000)), positive
    positive = hashed(1, 1000) < 0.3
    scores = hashed(2, 1000) + 0.4 * positive
    scores = {
        "continuous": scores,
        "ties": np.round(scores * 10),
        "two levels": np.float64(scores > 0.9),
        "constant": np.full(1000, 0.3),
        "reversed": -scores,
    }[name]
    return scores, positive


def bins(scores, positive, edges, mask=None, region=None):
    scores = np.asarray(scores, np.float32)
    scores, positive = (np.reshape(x, (-1, *scores.shape[1:])) for x in (scores, positive))
    mask = np.ones(len(scores)) if mask is None else mask
    return accumulate(ranking.init(edges), scores, positive, mask, edges, region)


def test_areas_by_hand():
    """Pairs won: 4 over 3 and 1, 2 over 1: three of four. Precision is 1/1 and 2/3 where recall rises."""
    assert areas([4, 3, 2, 1], [1, 0, 1, 0]) == pytest.approx((3 / 4, 0.5 * 1 + 0.5 * 2 / 3))


def test_ties_by_hand():
    """The positive at 2 ties with one negative (1/2) and beats one (1); the one at 3 beats both: 3.5 of 4.

    The tie is called as one, at a precision of 2/3.
    """
    assert areas([3, 2, 2, 1], [1, 1, 0, 0]) == pytest.approx((3.5 / 4, 0.5 * 1 + 0.5 * 2 / 3))
    assert areas([1, 2, 2, 3], [1, 1, 0, 0]) == pytest.approx((0.5 / 4, 0.5 * 1 / 3 + 0.5 * 2 / 4))


@pytest.mark.parametrize("value", [0.0, -7.5, 1e30])
def test_constant_scores_are_chance(value):
    assert areas([value] * 10, [1, 0, 0, 0, 0, 1, 0, 0, 0, 0]) == pytest.approx((0.5, 0.2))


def test_perfect_and_reversed():
    assert areas([5, 4, 1, 0], [1, 1, 0, 0]) == (1.0, 1.0)
    assert areas([5, 4, 1, 0], [0, 0, 1, 1]) == pytest.approx((0.0, 0.5 / 3 + 0.5 / 2))


def test_curves_by_hand():
    counts = ranking.tally(np.array([3, 2, 2, 1]), np.array([True, True, False, False]))
    roc, pr = ranking.roc_curve(counts), ranking.precision_recall_curve(counts)
    np.testing.assert_allclose(roc.false_positive_rate, [0, 0, 0.5, 1])
    np.testing.assert_allclose(roc.true_positive_rate, [0, 0.5, 1, 1])
    np.testing.assert_array_equal(roc.thresholds, [np.inf, 3, 2, 1])
    np.testing.assert_allclose(pr.precision, [1, 2 / 3, 1 / 2])
    np.testing.assert_allclose(pr.recall, [0.5, 1, 1])
    np.testing.assert_array_equal(pr.thresholds, [3, 2, 1])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=25))
def test_area_is_the_share_of_pairs_won(pairs):
    scores, positive = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    if positive.all() or not positive.any():
        return
    ahead = scores[positive][:, None] - scores[~positive]
    area, precision = areas(scores, positive)
    assert area == pytest.approx(np.mean((ahead > 0) + 0.5 * (ahead == 0)), abs=1e-12)
    assert areas(-scores, positive)[0] == pytest.approx(1 - area, abs=1e-12)
    assert 0 < precision <= 1


@pytest.mark.parametrize("name", ["continuous", "ties", "two levels", "constant", "reversed", "rare"])
def test_agrees_with_scikit_learn(name):
    stored = json.loads(GOLDEN.read_text())["cases"][name]
    scores, positive = golden_case(name)
    counts = ranking.tally(scores, positive)
    assert ranking.auroc(counts) == pytest.approx(stored["roc_auc_score"], abs=1e-12)
    assert ranking.average_precision(counts) == pytest.approx(stored["average_precision_score"], abs=1e-12)
    roc, pr = ranking.roc_curve(counts), ranking.precision_recall_curve(counts)
    for curve, package in ((roc, stored["roc_curve"]), (pr, stored["precision_recall_curve"])):
        assert len(curve.thresholds) == package["points"]
        places = np.round(np.linspace(0, len(curve.thresholds) - 1, len(package["first"]))).astype(int)
        np.testing.assert_allclose(curve[0][places], package["first"], atol=1e-12)
        np.testing.assert_allclose(curve[1][places], package["second"], atol=1e-12)


def test_masked_records_never_count():
    scores, positive = hashed(3, 6, 5), hashed(4, 6, 5) < 0.4
    padded = scores.copy()
    padded[4:] = np.nan
    mask = np.arange(6) < 4
    exact = ranking.ranking_scores(scores[:4], positive[:4])
    assert ranking.ranking_scores(padded, positive, mask) == exact
    edges = ranking.quantile_edges(scores[:4], 32)
    assert ranking.compute(bins(padded, positive, edges, mask), edges)["auroc"] == pytest.approx(exact["auroc"])


def test_bins_that_part_all_scores_are_exact():
    """Ten levels, ten edges: nothing falls together that differs."""
    scores, positive = golden_case("ties")
    edges = ranking.quantile_edges(scores, 64)
    assert edges.shape == (64,) and np.isinf(edges[-1])
    got, exact = ranking.compute(bins(scores, positive, edges), edges), areas(scores, positive)
    assert (got["auroc"], got["auprc"]) == pytest.approx(exact, abs=1e-12)
    assert got["prevalence"] == pytest.approx(positive.mean())
    assert got["auroc_error"] == 0
    assert (got["auprc_low"], got["auprc_high"]) == pytest.approx((exact[1], exact[1]), abs=1e-12)


@pytest.mark.parametrize("name", ["continuous", "ties", "rare"])
@pytest.mark.parametrize("count", [2, 100])
def test_exact_areas_lie_within_the_stated_error(name, count):
    scores, positive = golden_case(name)
    scores = np.float32(scores)
    area, precision = areas(scores, positive)
    for edges in (ranking.linear_edges(-1.5, 1.5, count), ranking.quantile_edges(scores, count)):
        got = ranking.compute(bins(scores, positive, edges), edges)
        assert abs(got["auroc"] - area) <= got["auroc_error"] + 1e-12
        assert got["auprc_low"] - 1e-12 <= precision <= got["auprc_high"] + 1e-12
    if name != "ties":
        assert got["auroc_error"] < 0.6 / (count - 1)  # a share of 1 / (count - 1) of the scores in each bin


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=2, max_size=16))
def test_bounds_hold_for_every_order_inside_the_bins(pairs):
    """One bin for all: the error must cover whatever the scores were."""
    scores, positive = np.array([p[0] for p in pairs]), np.array([p[1] for p in pairs])
    if positive.all() or not positive.any():
        return
    one = ranking.total_counts(
        jnp.asarray([[[np.sum(~positive), 0, 0, 0], [np.sum(positive), 0, 0, 0]]], jnp.int32), jnp.ones(1)
    )
    got = ranking.compute(one, np.array([100.0], np.float32))
    area, precision = areas(scores, positive)
    assert abs(got["auroc"] - area) <= got["auroc_error"] + 1e-12
    assert got["auprc_low"] - 1e-12 <= precision <= got["auprc_high"] + 1e-12


def test_points_of_the_binned_curves_are_exact():
    scores, positive = golden_case("continuous")
    scores, edges = np.round(np.float32(scores) * 20) / 20, np.array([0.25, 0.5, 1.0], np.float32)
    counts = ranking.binned_tally(bins(scores, positive, edges), edges)
    np.testing.assert_array_equal(counts.thresholds[1::2], [1.0, 0.5, 0.25])
    assert len(counts.thresholds) == 7 and counts.thresholds[-1] == -np.inf
    for threshold, hits, alarms in zip(*counts, strict=True):
        assert hits == np.sum(positive & (scores >= threshold))
        assert alarms == np.sum(~positive & (scores >= threshold))


def test_scores_on_an_edge_have_a_bin_of_their_own():
    edges = np.array([0.1, 0.2], np.float32)
    scores = jnp.asarray([[0.1, 0.2, 0.2, 0.0999, 5.0, 0.15, jnp.nan, -jnp.inf]], jnp.float32)
    counts = ranking.histograms(scores, jnp.ones((1, 8), bool), edges)
    np.testing.assert_array_equal(counts[0], [[0] * 6, [1, 1, 1, 2, 1, 2]])


def test_batches_merge_and_the_region_limits():
    scores, positive = np.float32(hashed(5, 6, 8, 8)), hashed(6, 6, 8, 8) < 0.2
    region = hashed(7, 6, 8, 8) < 0.5
    edges = ranking.quantile_edges(scores, 1000)
    parts = [bins(scores[i : i + 2], positive[i : i + 2], edges, region=region[i : i + 2]) for i in (0, 2, 4)]
    merged = ranking.merge(parts[2], ranking.merge(parts[0], parts[1]))
    got, exact = ranking.compute(merged, edges), ranking.ranking_scores(scores[region], positive[region])
    assert got["auroc"] == pytest.approx(exact["auroc"], abs=1e-12)
    assert got["auprc"] == pytest.approx(exact["auprc"], abs=1e-12)


def test_counts_outgrow_float32():
    """2^24 pixels and one more in one bin: a float32 counter would stand still."""
    edges = np.array([0.5], np.float32)
    one = bins(np.full((1, 4), 0.7), np.ones((1, 4), bool), edges)
    many = one
    for _ in range(23):
        many = ranking.merge(many, many)
    counts = ranking.binned_tally(ranking.merge(many, one), edges)
    assert counts.true_positives[-1] == 4 * (2**23 + 1)
    large = ranking.total_counts(jnp.full((1, 2, 4), 2**31 - 7, jnp.int32), jnp.ones(1))
    assert np.asarray(large, np.float64).sum(-1)[0, 0] == 2**31 - 7


def test_one_class_is_refused_where_the_measure_is_undefined():
    with pytest.raises(UserError, match="ROC curve: none of the 3 labels is among the negatives"):
        ranking.ranking_scores(np.arange(3.0), np.ones(3, bool))
    none = ranking.tally(np.arange(3.0), np.zeros(3, bool))
    for measure in (ranking.auroc, ranking.average_precision, ranking.precision_recall_curve):
        with pytest.raises(UserError, match="none of the 3 labels is among the positives"):
            measure(none)
    assert ranking.average_precision(ranking.tally(np.arange(3.0), np.ones(3, bool))) == 1.0


def test_bad_input_is_named():
    scores, positive = hashed(8, 5, 3), hashed(9, 5, 3) < 0.5
    bad = scores.copy()
    bad[3, 1] = np.nan
    with pytest.raises(UserError, match=r"record 3 has a score that is NaN or infinite \(1 of 5 have\)"):
        ranking.tally(bad, positive)
    with pytest.raises(UserError, match="record 3 has a score"):
        ranking.tally(bad, positive, np.array([0, 1, 1, 1, 1]))
    with pytest.raises(UserError, match=r"\(5, 3\) and labels \(5,\)"):
        ranking.tally(scores, positive[:, 0])
    with pytest.raises(UserError, match=r"mask has shape \(4,\)"):
        ranking.tally(scores, positive, np.ones(4))
    with pytest.raises(UserError, match="there is no score"):
        ranking.tally(scores, positive, np.zeros(5))
    with pytest.raises(UserError, match="other than 0 and 1"):
        ranking.tally(scores, 255 * positive)
    edges = ranking.linear_edges(0, 1, 4)
    with pytest.raises(UserError, match="1 scores are NaN or infinite"):
        ranking.compute(bins(bad, positive, edges), edges)
    with pytest.raises(UserError, match="no score was added"):
        ranking.compute(ranking.init(edges), edges)
    with pytest.raises(UserError, match=r"\(5, 3\), labels \(5, 2\)"):
        ranking.accumulate(ranking.init(edges), scores, positive[:, :2], np.ones(5), edges)
    for wrong in ([], [1.0, 0.5], [1.0, 1.0], [0.0, np.nan], [[1.0, 2.0]]):
        with pytest.raises(UserError, match="rising numbers"):
            ranking.init(np.array(wrong, np.float32))
    for low, high, count in ((1, 0, 5), (0, 1, 1), (0, np.inf, 5)):
        with pytest.raises(UserError, match="bin edges"):
            ranking.linear_edges(low, high, count)
    for sample in ([], [1.0, np.nan]):
        with pytest.raises(UserError, match="quantiles of"):
            ranking.quantile_edges(sample, 4)
