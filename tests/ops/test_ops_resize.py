"""Resizing: weights by hand, laws, agreement with Pillow and PyTorch, errors."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.ops import resize

METHODS = tuple(resize.METHODS)
SIZES = [(1, 5), (2, 7), (7, 2), (17, 17), (64, 299), (299, 64), (256, 299), (1500, 299)]


def images(seed: int, *shape: int) -> np.ndarray:
    return 255 * np.random.default_rng(seed).random(shape, np.float32)


# -------------------------------------------------------------------------- by hand


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("tf1-bilinear", [[1, 0], [0.5, 0.5], [0, 1], [0, 1]]),  # positions 0, 0.5, 1, 1.5
        ("torch-bilinear", [[1, 0], [0.75, 0.25], [0.25, 0.75], [0, 1]]),  # -0.25, 0.25, 0.75, 1.25
        # Cubic at distances 0.25, 0.75 and 1.25: 0.8671875, 0.2265625, -0.0703125; over their sums.
        ("pil-bicubic", [[37 / 34, -3 / 34], [111 / 140, 29 / 140], [29 / 140, 111 / 140], [-3 / 34, 37 / 34]]),
    ],
)
def test_two_pixels_become_four(method: str, wanted: list[list[float]]) -> None:
    np.testing.assert_allclose(resize.weights(2, 4, method), wanted, atol=1e-7)


@pytest.mark.parametrize(
    ("method", "wanted"),
    [
        ("tf1-bilinear", [[1, 0, 0, 0], [0, 0, 1, 0]]),  # every other pixel, the last never
        ("torch-bilinear", [[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]]),
        # Twice as wide: cubic at 0.25, 0.25, 0.75, 1.25 is 0.8671875, same, 0.2265625, -0.0703125.
        ("pil-bicubic", np.array([[111, 111, 29, -9], [-9, 29, 111, 111]]) / 242),
    ],
)
def test_four_pixels_become_two(method: str, wanted: list[list[float]]) -> None:
    np.testing.assert_allclose(resize.weights(4, 2, method), wanted, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("size_in", "size_out"), SIZES)
def test_every_output_pixel_is_an_average(method: str, size_in: int, size_out: int) -> None:
    matrix = resize.weights(size_in, size_out, method)
    assert matrix.shape == (size_out, size_in) and matrix.dtype == np.float32
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-6)
    if method != "pil-bicubic":
        assert matrix.min() >= 0 and np.count_nonzero(matrix, axis=1).max() <= 2


@pytest.mark.parametrize("method", METHODS)
def test_an_image_of_the_wanted_size_stays(method: str) -> None:
    np.testing.assert_array_equal(resize.weights(13, 13, method), np.eye(13))
    x = images(0, 2, 13, 5, 1)
    np.testing.assert_array_equal(resize.resize(x, (13, 5), method), x)


def test_positions_are_rounded_as_the_references_round_them() -> None:
    """In float32, where a position behind 1024 is known to 1e-4: far more than the rounding of a weight."""
    step, places = np.float32(1500 / 299), np.arange(299)
    positions = (step * places.astype(np.float32)).astype(np.float64)
    assert np.abs(positions - places * 1500 / 299).max() > 5e-5
    upper = resize.weights(1500, 299, "tf1-bilinear")[places, np.floor(positions).astype(int) + 1]
    np.testing.assert_allclose(upper, positions % 1, atol=1e-7)


# -------------------------------------------------------------------------- laws of the image function


@pytest.mark.parametrize("method", METHODS)
def test_rows_and_columns_by_their_own_sizes(method: str) -> None:
    x = images(1, 2, 9, 14, 3)
    rows, columns = resize.weights(9, 5, method), resize.weights(14, 21, method)
    wanted = np.einsum("ph,qw,bhwc->bpqc", rows.astype(float), columns.astype(float), x)
    got = jax.jit(resize.resize, static_argnums=(1, 2))(x, (5, 21), method)
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, wanted, atol=2e-4)


def test_integers_and_half_precision_are_computed_in_float32() -> None:
    x = np.arange(240, dtype=np.uint8).reshape(1, 12, 20, 1)
    wanted = resize.resize(x.astype(np.float32), (7, 31), "pil-bicubic")
    for dtype in (np.uint8, np.uint16, np.float16, np.float64):
        np.testing.assert_array_equal(resize.resize(x.astype(dtype), (7, 31), "pil-bicubic"), wanted)


def test_products_keep_their_digits_on_accelerators() -> None:
    program = jax.make_jaxpr(lambda x: resize.resize(x, (7, 8), "tf1-bilinear"))(jnp.zeros((1, 5, 5, 1)))
    found = [e.params["precision"] for e in jax.tree.leaves(program.jaxpr.eqns) if e.primitive.name == "dot_general"]
    assert found == [(jax.lax.Precision.HIGHEST, jax.lax.Precision.HIGHEST)] * 2


# -------------------------------------------------------------------------- other implementations


@pytest.mark.parametrize(
    ("before", "after"), [((40, 31), (61, 75)), ((150, 97), (33, 41)), ((64, 5), (31, 50)), ((3, 2), (1, 9))]
)
def test_bicubic_is_that_of_pillow(before: tuple[int, int], after: tuple[int, int]) -> None:
    x = images(2, *before)
    wanted = np.asarray(Image.fromarray(x).resize(after[::-1], Image.Resampling.BICUBIC))
    assert wanted.shape == after
    got = resize.resize(x[None, :, :, None], after, "pil-bicubic")[0, :, :, 0]
    np.testing.assert_allclose(got, wanted, atol=2e-4)


@pytest.mark.parity
@pytest.mark.parametrize(
    ("before", "after"), [((40, 31), (61, 75)), ((150, 97), (33, 41)), ((700, 1024), (299, 299)), ((2, 1), (5, 7))]
)
def test_bilinear_is_that_of_torch(before: tuple[int, int], after: tuple[int, int]) -> None:
    torch = pytest.importorskip("torch")
    x = images(3, 2, *before, 3)
    wanted = torch.nn.functional.interpolate(
        torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), size=after, mode="bilinear", align_corners=False
    )
    got = resize.resize(x, after, "torch-bilinear")
    np.testing.assert_allclose(got, wanted.numpy().transpose(0, 2, 3, 1), atol=2e-4)


# -------------------------------------------------------------------------- doubling


def test_doubling_repeats_every_pixel() -> None:
    x = jnp.arange(8.0).reshape(1, 2, 4, 1)
    doubled = resize.nearest2x(x)
    assert doubled.shape == (1, 4, 8, 1)
    np.testing.assert_array_equal(doubled[0, 2:, :4, 0], [[4, 4, 5, 5], [4, 4, 5, 5]])
    np.testing.assert_array_equal(doubled[:, ::2, 1::2], x)


# -------------------------------------------------------------------------- errors


def test_bad_requests() -> None:
    x = jnp.zeros((1, 4, 4, 1))
    with pytest.raises(UserError, match="'nearest': expected one of tf1-bilinear, torch-bilinear, pil-bicubic"):
        resize.resize(x, (4, 4), "nearest")
    with pytest.raises(UserError, match="from 4 to 0 pixels"):
        resize.resize(x, (4, 0), "pil-bicubic")
    with pytest.raises(UserError, match="from 0 to 4 pixels"):
        resize.resize(x[:, :0], (4, 4), "pil-bicubic")
