"""Measures of pairs: training's own numbers, one row per pair, and a bootstrap over the pairs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_networks import NETWORKS

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation import pairs
from medgen_jax.evaluation.measures import MEASURES, PairMeasure, choose
from medgen_jax.evaluation.pairs import PairPass
from medgen_jax.evaluation.settings import Settings
from medgen_jax.metrics import paired

RNG = np.random.default_rng(0)
Y = RNG.uniform(-1, 1, (7, 16, 16, 1)).astype(np.float32)
X = np.clip(Y + RNG.normal(size=Y.shape) * np.linspace(0.05, 0.6, 7).reshape(-1, 1, 1, 1), -1, 1).astype(np.float32)


@pytest.fixture(scope="module")
def measured():
    """Seven pairs in three batches, not in their order."""
    found = PairPass(choose(["paired", "lpips"]).of(PairMeasure), NETWORKS, 3)
    for places in ([4, 5, 6], [0], [1, 2, 3]):
        found.add(places, X[places], Y[places])
    return found


def test_all_pairs_together_give_trainings_numbers(measured):
    acc = paired.accumulate(paired.init(), jnp.asarray(X), jnp.asarray(Y), jnp.ones(7))
    expected = paired.compute(acc)
    scores = pairs.scores(MEASURES["paired"], measured.rows("paired"), Settings(resamples=10))
    for name, value in expected.items():
        assert scores[name].value == pytest.approx(value, rel=1e-6), name


def test_single_pairs_are_in_their_order(measured):
    found = measured.per_image()
    assert list(found) == ["psnr", "ssim", "pearson", "mae", "lpips"] == list(measured.numbers)
    np.testing.assert_allclose(found["mae"], np.abs(X - Y).mean((1, 2, 3)), rtol=1e-5)
    np.testing.assert_allclose(found["lpips"], np.square(X - Y).mean((1, 2, 3)) / 2, rtol=1e-5)
    np.testing.assert_allclose(measured.rows("lpips"), found["lpips"])
    assert (np.diff(found["psnr"]) < 0).all()  # the noise grows


def test_a_batch_tells_its_own_numbers_and_types_their_range():
    found = PairPass(choose(["lpips"]).of(PairMeasure), NETWORKS, 4)
    deep = RNG.integers(0, 65536, (2, 16, 16, 1)).astype(np.uint16)
    values = found.add([8, 2], deep, np.zeros_like(deep))
    expected = np.square(deep / 32767.5).mean((1, 2, 3)) / 2
    np.testing.assert_allclose(values["lpips"], expected, rtol=1e-4)
    np.testing.assert_allclose(found.per_image()["lpips"], expected[::-1], rtol=1e-4)


def test_the_interval_of_a_mean_is_about_the_textbooks():
    rows = RNG.normal(3, 2, 400)
    measure = PairMeasure({"x": 1}, None, pairs.mean_of("x"))
    score = pairs.scores(measure, rows, Settings())["x"]
    reach = 1.96 * rows.std(ddof=1) / 20
    assert score.interval == pytest.approx((rows.mean() - reach, rows.mean() + reach), abs=0.15 * reach)
    assert not score.warnings and "2000 resamples" in score.method
    narrower = pairs.scores(measure, rows, Settings(level=0.5))["x"].interval
    assert narrower[1] - narrower[0] < 0.4 * (score.interval[1] - score.interval[0])


def test_few_pairs_are_warned_about_and_one_has_no_interval():
    measure = PairMeasure({"x": 1}, None, pairs.mean_of("x"))
    assert "9 pairs, fewer than 10" in pairs.scores(measure, np.arange(9.0), Settings())["x"].warnings[0]
    single = pairs.scores(measure, np.ones(1), Settings())["x"]
    assert single.value == 1 and single.interval is None
    assert pairs.scores(measure, np.arange(20.0), Settings(resamples=0))["x"].interval is None


def test_numbers_that_no_pair_defines_are_not_finite_and_counts_stand_beside_the_rest():
    rows = np.array([[2.0, 1], [4.0, 1], [0.0, 0]])  # value, whether it is defined

    def summary(chosen):
        count = chosen[:, 1].sum()
        return {"n": count} | ({"x": chosen[:, 0].sum() / count} if count else {})

    counted = PairMeasure({"x": 1}, None, summary)
    score = pairs.scores(counted, rows, Settings())["x"]
    assert score.value == 3 and score.extras == {"n": 2} and score.interval == (2, 4)
    nothing = pairs.scores(counted, rows[2:].repeat(3, 0), Settings())["x"]
    assert np.isnan(nothing.value) and nothing.interval is None


def test_nan_stays_visible():
    measure = PairMeasure({"x": 1}, None, pairs.mean_of("x"))
    score = pairs.scores(measure, np.array([1.0, np.nan, 2.0]), Settings())["x"]
    assert np.isnan(score.value) and score.interval is None


@pytest.mark.parametrize(
    ("metric", "shape", "message"),
    [("ssim", (8, 8, 1), "smaller than"), ("ms_ssim", (64, 64, 1), "176"), ("colour", (64, 64, 1), "RGB|, 3\\)")],
)
def test_images_that_a_measure_cannot_take_are_refused_by_tracing(metric, shape, message):
    found = PairPass(choose([metric]).of(PairMeasure), {}, 1, jax.devices()[:1])
    with pytest.raises(UserError, match=message):
        found.check(shape)
