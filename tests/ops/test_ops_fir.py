"""FIR resampling and the convolutions around it against direct float64 sums over zero-filled samples."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.ops import fir

BINOMIAL = (1.0, 3.0, 3.0, 1.0)
LOPSIDED = (1.0, 2.0, 4.0)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def direct(x: np.ndarray, taps, up: int, down: int, padding: tuple[int, int], gain: float) -> np.ndarray:
    """Sum by sum: sample s of row r is pixel ``s / up`` where that is whole and inside, else 0."""
    taps = np.asarray(taps, np.float64) / np.sum(taps)
    size = x.shape[1:3]
    counts = [(up * n + sum(padding) - len(taps)) // down + 1 for n in size]

    def matrix(n: int, count: int) -> np.ndarray:
        made = np.zeros((count, n))
        for m in range(count):
            for k, tap in enumerate(taps[::-1]):
                sample = m * down + k - padding[0]
                if sample % up == 0 and 0 <= sample // up < n:
                    made[m, sample // up] += tap
        return made

    rows, columns = (matrix(n, count) for n, count in zip(size, counts, strict=True))
    return gain * np.einsum("ah,bw,nhwc->nabc", rows, columns, x.astype(np.float64))


def correlate(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    k = kernel.shape[0]
    high, wide = ((n - k) // stride + 1 for n in x.shape[1:3])
    return sum(
        x[:, a : a + stride * high : stride, b : b + stride * wide : stride].astype(np.float64) @ kernel[a, b]
        for a in range(k)
        for b in range(k)
    )


def transposed(x: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Stride 2, nothing cut off: pixel i adds to samples 2 i, 2 i + 1 and 2 i + 2."""
    n, h, w, _ = x.shape
    made = np.zeros((n, 2 * h + 1, 2 * w + 1, kernel.shape[3]))
    for a in range(3):
        for b in range(3):
            made[:, a : a + 2 * h : 2, b : b + 2 * w : 2] += x.astype(np.float64) @ kernel[a, b]
    return made


@pytest.mark.parametrize(
    ("taps", "up", "down", "padding", "gain"),
    [
        (BINOMIAL, 1, 1, (0, 0), 1.0),
        (LOPSIDED, 2, 1, (2, 1), 4.0),
        (LOPSIDED, 1, 2, (3, 0), 1.0),
        (LOPSIDED, 3, 2, (1, 2), 2.0),
        (BINOMIAL, 2, 4, (-1, 3), 1.0),
        ((1.0,), 2, 1, (0, -1), 1.0),
    ],
)
def test_fir_and_its_gradient_are_the_direct_sums(taps, up, down, padding, gain) -> None:
    x = normal(0, 1, 5, 6, 2)
    made = jax.jit(lambda x: fir.fir(x, taps, up=up, down=down, padding=padding, gain=gain))
    wanted = direct(x, taps, up, down, padding, gain)
    got, pull = jax.vjp(made, x)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=2e-6)
    probe = normal(1, *wanted.shape)
    (slope,) = pull(probe)
    for row, column in ((0, 0), (2, 3), (4, 5)):
        unit = np.zeros_like(x)
        unit[0, row, column, 1] = 1
        slope_there = np.sum(direct(unit, taps, up, down, padding, gain) * probe)
        assert float(slope[0, row, column, 1]) == pytest.approx(slope_there, abs=2e-6)


def test_doubling_and_halving_keep_brightness_and_place() -> None:
    """A ramp stays a ramp inside: centres of pixels, not corners, are aligned."""
    ramp = np.broadcast_to(np.arange(8, dtype=np.float32)[None, :, None, None], (1, 8, 8, 1))
    inside = slice(4, -4)
    doubled = jax.jit(fir.upsample2x)(ramp)[0, :, 8, 0]
    np.testing.assert_allclose(doubled[inside], (np.arange(16)[inside] - 0.5) / 2, atol=1e-5)
    halved = jax.jit(fir.downsample2x)(ramp)[0, :, 2, 0]
    np.testing.assert_allclose(halved[1:3], [2.5, 4.5], atol=1e-5)


@pytest.mark.parametrize("taps", [BINOMIAL, LOPSIDED])
def test_up_conv(taps: tuple[float, ...]) -> None:
    x, kernel = normal(2, 2, 3, 4, 2), normal(3, 3, 3, 2, 5)
    padding = ((len(taps) + 1) // 2 - 1, (len(taps) - 2) // 2)
    wanted = direct(transposed(x, kernel), taps, 1, 1, padding, 4.0)
    got = jax.jit(lambda x, k: fir.up_conv(x, k, taps))(x, kernel)
    assert got.shape == wanted.shape == (2, 6, 8, 5)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize("side", [1, 3])
def test_down_conv(side: int) -> None:
    x, kernel = normal(4, 2, 6, 4, 2), normal(5, side, side, 2, 5)
    margin = side // 2
    filtered = direct(x, BINOMIAL, 1, 1, (margin + 1, margin + 1), 1.0)
    wanted = correlate(filtered, kernel, 2)
    got = jax.jit(fir.down_conv)(x, kernel)
    assert got.shape == wanted.shape == (2, 3, 2, 5)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_sums_are_float32_whatever_the_image() -> None:
    x = jnp.full((1, 6, 6, 1), 1.0078125, jnp.bfloat16)
    made = fir.downsample2x(x)
    assert made.dtype == jnp.bfloat16
    assert float(made[0, 1, 1, 0]) == 1.0078125


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"taps": (1.0, -1.0)}, "finite sum other than 0"),
        ({"up": 0}, "at least 1"),
        ({"padding": (-2, -2)}, "too small for a filter of 4 taps"),
    ],
)
def test_senseless_filters_are_refused(options, said: str) -> None:
    with pytest.raises(UserError, match=said):
        fir.fir(jnp.zeros((1, 4, 4, 1)), **options)
