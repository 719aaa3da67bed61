"""Statistics of counterfactuals against formulas written out, and what weights mean."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.evaluation.counterfactuals import statistics
from medgen_jax.evaluation.settings import Settings

VALUES = np.array([1.0, 2.0, 4.0, 3.0, 5.0, 9.0])
POSITIVE = np.array([0, 0, 0, 1, 1, 1], bool)


def d(a, b):
    pooled = ((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / (len(a) + len(b) - 2)
    return (a.mean() - b.mean()) / pooled**0.5


def test_cohens_d_is_the_textbooks_and_weights_are_repetitions():
    weights = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 1, 1, 3, 0]], float)
    found = statistics.cohens_d(VALUES, POSITIVE, weights)
    for row, value in zip(weights.astype(int), found, strict=True):
        repeated, side = np.repeat(VALUES, row), np.repeat(POSITIVE, row)
        assert value == pytest.approx(d(repeated[side], repeated[~side]))


def test_cohens_d_is_undefined_where_nothing_varies_or_a_class_is_absent():
    weights = np.array([[1, 0, 0, 0, 1, 0], [0, 0, 0, 1, 1, 1], [2, 0, 0, 0, 0, 2]], float)
    assert np.isnan(statistics.cohens_d(VALUES, POSITIVE, weights)).all()
    assert np.isnan(statistics.cohens_d(np.full(6, 0.1), POSITIVE, np.ones((1, 6)))).all()


def test_a_share_has_wilsons_interval_or_that_of_patients():
    hits = np.array([1, 1, 1, 0], bool)
    alone = statistics.share(hits, [None] * 4, Settings())
    assert alone.value == 0.75 and alone.extras["hits"] == 3 and alone.extras["n"] == 4
    # Wilson for 3 of 4 at z = 1.96: centre (.75 + .4802) / 1.9604, reach .3283 ...
    assert alone.interval == pytest.approx((0.3006, 0.9544), abs=1e-4)
    drawn = statistics.share(hits, ["a", "a", "a", "b"], Settings())
    assert drawn.interval == (0.0, 1.0) and "over patients" in drawn.method and drawn.extras["patients"] == 2
    # One image without a patient: none is drawn by patients.
    assert "Wilson" in statistics.share(hits, ["a", None, "a", "b"], Settings()).method


def test_an_interval_of_no_width_is_not_given():
    def constant(weights):
        return {"c": np.full(len(weights), 0.5)}

    score = statistics.scores(constant, [None] * 20, Settings(resamples=20))["c"]
    assert score.interval is None and "no resample changes" in score.warnings[0]
    assert statistics.scores(constant, [None], Settings())["c"].interval is None
    assert statistics.scores(constant, [None] * 20, Settings(resamples=0))["c"].warnings == ()
    undefined = statistics.scores(
        lambda weights: {"c": np.full(len(weights), np.nan)}, [None] * 4, Settings(resamples=20)
    )
    assert undefined == {}


def test_intervals_cover():
    """Of 100 repetitions of 40 normal values the 90 % interval of the mean holds the truth in about 90."""
    rng, held = np.random.default_rng(0), 0
    for seed in range(100):
        values = rng.normal(size=40)
        score = statistics.scores(
            lambda weights, own=values: {"m": weights @ own / weights.sum(1)},
            [None] * 40,
            Settings(level=0.9, resamples=200, seed=seed),
        )["m"]
        held += score.interval[0] <= 0 <= score.interval[1]
    assert 80 <= held <= 97
