"""Constant predictors: hand-computed rows, tiling, and messages."""

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics.baselines import constant_baselines

ROWS = ["replicated input", "all black", "scalar mean", "channel mean", "per-pixel mean"]


def noise(seed, shape):
    return np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)


def psnr(predicted, target):
    return 10 * np.log10(4 / np.mean((np.float64(predicted) - np.float64(target)) ** 2))


def test_every_row_is_the_predictor_it_names():
    train = [noise(i, (12, 12, 3)) * [0.2, 0.4, 0.6] + [0.1, 0.0, -0.3] for i in range(3)]
    pairs = [(noise(10 + i, (12, 12, 2)), noise(20 + i, (12, 12, 3))) for i in range(2)]
    targets = np.stack([b for _, b in pairs])
    everything = np.stack(train)
    wanted = {
        "replicated input": np.stack([a for a, _ in pairs]).mean(-1, keepdims=True),
        "all black": -1.0,
        "scalar mean": everything.mean(),
        "channel mean": everything.mean((0, 1, 2)),
        "per-pixel mean": everything.mean(0),
    }
    got = constant_baselines(train, pairs)
    assert list(got) == ROWS
    for row, predicted in wanted.items():
        assert got[row]["psnr"] == pytest.approx(psnr(predicted, targets), abs=1e-3), row
        assert set(got[row]) == {"psnr", "psnr_mean", "ssim", "pearson", "mae"}
    assert got["scalar mean"]["pearson"] == got["all black"]["pearson"] == 0.0
    assert got["channel mean"]["pearson"] != 0.0


def test_per_pixel_mean_cuts_training_images_on_a_grid():
    """30x25 holds two 12x12 tiles down and two across; the remainder does not count."""
    image = noise(1, (30, 25, 1))
    tiles = [image[y : y + 12, x : x + 12] for y in (0, 12) for x in (0, 12)]
    mean = np.mean(tiles, axis=0)
    got = constant_baselines([image], [(mean, mean)])
    assert got["per-pixel mean"]["psnr"] == pytest.approx(100.0, abs=1e-3)
    assert got["scalar mean"]["psnr"] == pytest.approx(psnr(image.mean(), mean), abs=1e-3)


def test_per_pixel_mean_is_absent_when_training_images_are_smaller():
    got = constant_baselines([noise(1, (11, 40, 1))], [(noise(2, (12, 12)), noise(3, (12, 12)))])
    assert list(got) == ROWS[:4]


def test_a_target_that_copies_its_input_is_solved_by_the_replicated_input():
    pairs = [(v := noise(i, (16, 16, 1)), np.repeat(v, 3, -1)) for i in range(2)]
    got = constant_baselines([b for _, b in pairs], iter(pairs))
    assert got["replicated input"]["psnr"] == pytest.approx(100.0, abs=1e-3)
    assert got["replicated input"]["ssim"] == pytest.approx(1.0, abs=1e-5)
    assert got["replicated input"]["pearson"] == pytest.approx(1.0, abs=1e-6)


def test_integer_images_are_scaled_by_their_type():
    """8-bit white is 16-bit white is 1.0; black is -1."""
    white = {t: np.full((12, 12, 1), np.iinfo(t).max, t) for t in (np.uint8, np.uint16)}
    for t in white:
        got = constant_baselines([white[t]], [(0 * white[t], np.ones((12, 12, 1), np.float32))])
        assert got["scalar mean"]["mae"] == pytest.approx(0.0, abs=1e-6)
        assert got["replicated input"]["mae"] == got["all black"]["mae"] == pytest.approx(2.0, abs=1e-6)


@pytest.mark.parametrize(
    ("train", "pairs", "message"),
    [
        ([], [(noise(0, (12, 12)), noise(1, (12, 12)))], "no training targets"),
        ([noise(0, (12, 12))], [], "no test pairs"),
        (
            [noise(0, (12, 12, 3))],
            [(noise(0, (12, 12)), noise(1, (12, 12)))],
            "training target 0 has 3 channels, the test targets 1",
        ),
        ([noise(0, (12, 12))], [(noise(0, (12, 12)), noise(1, (12, 13)))], "test pair 0"),
        ([noise(0, (12, 12))], [(noise(0, (s, 12)), noise(1, (s, 12))) for s in (12, 14)], "test target 1 is"),
        ([np.zeros((12, 12), np.int64)], [(noise(0, (12, 12)), noise(1, (12, 12)))], "training target 0 holds int64"),
        ([noise(0, (12, 12))], [(noise(0, (9, 9)), noise(1, (9, 9)))], "smaller than the 11x11"),
    ],
)
def test_bad_input_is_named(train, pairs, message):
    with pytest.raises(UserError, match=message):
        constant_baselines(train, pairs)
