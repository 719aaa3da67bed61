"""Colour spaces: closed forms, agreement with scikit-image, inverses and gradients where they are delicate."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.ops import colour

Map = Callable[[jax.Array], jax.Array]

PAIRS = {
    "lab": (colour.rgb_to_lab, colour.lab_to_rgb),
    "hsv": (colour.rgb_to_hsv, colour.hsv_to_rgb),
    "hed": (colour.rgb_to_hed, colour.hed_to_rgb),
    "od": (colour.rgb_to_od, colour.od_to_rgb),
}
MAPS = {f"rgb_to_{space}": there for space, (there, _) in PAIRS.items()}
MAPS |= {f"{space}_to_rgb": back for space, (_, back) in PAIRS.items()}

# Black, grey, white, the six saturated colours and every half-way colour between them.
CORNERS = np.array(list(itertools.product((0, 0.5, 1), repeat=3)), np.float32)
RANDOM = np.random.default_rng(0).random((4096, 3), np.float32)
# The levels of 8-bit images around the knees of the sRGB and Lab curves.
DARK = np.array(list(itertools.product(range(0, 40, 3), repeat=3)), np.float32) / np.float32(255)
COLOURS = np.concatenate((CORNERS, RANDOM, DARK))
# Channels apart by 0.1 or more and away from every knee: all functions are smooth here.
GENERIC = np.array([[0.7, 0.4, 0.55], [0.2, 0.5, 0.9], [0.3, 0.85, 0.15], [0.62, 0.31, 0.47]], np.float32)


def points_of(name: str, rgb: np.ndarray) -> jax.Array:
    """Input for the map called ``name`` that stands for the colours ``rgb``."""
    return jnp.asarray(rgb) if name.startswith("rgb") else PAIRS[name.removesuffix("_to_rgb")][0](jnp.asarray(rgb))


def turn(hsv: np.ndarray) -> np.ndarray:
    """Hue of scikit-image, in turns, made radians."""
    return hsv * np.array([2 * np.pi, 1, 1])


# --- closed forms -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rgb", "lab"),
    [
        ((0, 0, 0), (0, 0, 0)),
        ((1, 1, 1), (100, 0, 0)),
        ((0.5, 0.5, 0.5), (53.389, 0, 0)),
        ((1, 0, 0), (53.24, 80.09, 67.20)),
        ((0, 1, 0), (87.73, -86.18, 83.18)),
        ((0, 0, 1), (32.30, 79.19, -107.86)),
        ((1, 1, 0), (97.14, -21.55, 94.48)),
    ],
)
def test_lab_of_known_colours(rgb: tuple[float, ...], lab: tuple[float, ...]) -> None:
    np.testing.assert_allclose(colour.rgb_to_lab(jnp.array(rgb, jnp.float32)), lab, atol=0.02)


def test_lab_of_a_dark_grey_by_hand() -> None:
    # 0.03 lies below both knees: linear 0.03 / 12.92, lightness 116 * 7.787 times that.
    grey = 0.03 / 12.92
    lightness = colour.rgb_to_lab(jnp.full((3,), 0.03))[0]
    np.testing.assert_allclose(lightness, 116 * 7.787 * grey, rtol=1e-5)


@pytest.mark.parametrize(
    ("rgb", "sixths", "saturation", "value"),
    [
        ((1, 0, 0), 0, 1, 1),
        ((1, 1, 0), 1, 1, 1),
        ((0, 1, 0), 2, 1, 1),
        ((0, 1, 1), 3, 1, 1),
        ((0, 0, 1), 4, 1, 1),
        ((1, 0, 1), 5, 1, 1),
        ((0.8, 0.4, 0.6), 5.5, 0.5, 0.8),
        ((0.25, 0.25, 0.25), 0, 0, 0.25),
        ((0, 0, 0), 0, 0, 0),
    ],
)
def test_hsv_of_known_colours_in_radians(
    rgb: tuple[float, ...], sixths: float, saturation: float, value: float
) -> None:
    expected = [sixths * math.pi / 3, saturation, value]
    np.testing.assert_allclose(colour.rgb_to_hsv(jnp.array(rgb, jnp.float32)), expected, atol=1e-6)
    np.testing.assert_allclose(colour.hsv_to_rgb(jnp.array(expected, jnp.float32)), rgb, atol=1e-6)


def test_density_is_the_natural_logarithm_above_its_floor() -> None:
    rgb = jnp.array([1.0, math.exp(-1), 0.0])
    np.testing.assert_allclose(colour.rgb_to_od(rgb), [0, 1, -math.log(1e-6)], rtol=1e-6)
    np.testing.assert_allclose(colour.rgb_to_od(rgb, floor=1 / 255), [0, 1, math.log(255)], rtol=1e-6)
    np.testing.assert_allclose(colour.od_to_rgb(jnp.array([0.0, 1.0, math.log(4)])), [1, math.exp(-1), 0.25], rtol=1e-6)


@pytest.mark.parametrize(("stain", "row"), [(0, (0.65, 0.70, 0.29)), (1, (0.07, 0.99, 0.11)), (2, (0.27, 0.57, 0.78))])
def test_one_stain_alone_leaves_its_row_of_the_matrix(stain: int, row: tuple[float, ...]) -> None:
    hed = 0.2 * jnp.eye(3)[stain]
    rgb = colour.hed_to_rgb(hed)
    np.testing.assert_allclose(rgb, (1e-6) ** (0.2 * np.array(row)), rtol=2e-6)
    np.testing.assert_allclose(colour.rgb_to_hed(rgb), hed, atol=1e-6)


def test_white_holds_no_stain() -> None:
    np.testing.assert_array_equal(colour.rgb_to_hed(jnp.ones(3)), jnp.zeros(3))


# --- scikit-image -------------------------------------------------------------------------------------


def test_lab_as_scikit_image() -> None:
    reference = pytest.importorskip("skimage.color")
    expected = reference.rgb2lab(COLOURS.astype(np.float64))
    np.testing.assert_allclose(colour.rgb_to_lab(COLOURS), expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(colour.lab_to_rgb(expected.astype(np.float32)), COLOURS, rtol=0, atol=1e-4)


def test_hsv_as_scikit_image() -> None:
    reference = pytest.importorskip("skimage.color")
    expected = turn(reference.rgb2hsv(COLOURS.astype(np.float64)))
    np.testing.assert_allclose(colour.rgb_to_hsv(COLOURS), expected, rtol=0, atol=1e-4)
    turns = np.random.default_rng(1).random((512, 3))
    rgb = colour.hsv_to_rgb(turn(turns).astype(np.float32))
    np.testing.assert_allclose(rgb, reference.hsv2rgb(turns), rtol=0, atol=1e-4)


def test_hed_as_scikit_image_once_cut_at_zero() -> None:
    reference = pytest.importorskip("skimage.color")
    hed = colour.rgb_to_hed(COLOURS)
    assert float(hed.min()) < -0.01
    np.testing.assert_allclose(jnp.maximum(hed, 0), reference.rgb2hed(COLOURS.astype(np.float64)), rtol=0, atol=1e-4)
    amounts = np.random.default_rng(2).uniform(-0.1, 0.6, (512, 3))
    rgb = colour.hed_to_rgb(amounts.astype(np.float32))
    assert float(rgb.max()) > 1.1
    np.testing.assert_allclose(jnp.clip(rgb, 0, 1), reference.hed2rgb(amounts), rtol=0, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Conversion from CIE-LAB")
def test_lab_that_no_screen_shows_as_scikit_image_once_clipped() -> None:
    reference = pytest.importorskip("skimage.color")
    lab = np.random.default_rng(3).uniform((0, -127, -127), 127, (512, 3)).astype(np.float32)
    rgb = colour.lab_to_rgb(lab)
    assert float(rgb.min()) < -0.1 and float(rgb.max()) > 1.1
    assert (lab[:, 0] + 16 < 0.58 * lab[:, 2]).any()  # cube root of Z below zero
    np.testing.assert_allclose(jnp.clip(rgb, 0, 1), reference.lab2rgb(lab.astype(np.float64)), rtol=0, atol=1e-4)


# --- there and back -----------------------------------------------------------------------------------


@pytest.mark.parametrize("space", PAIRS)
def test_round_trip(space: str) -> None:
    there, back = PAIRS[space]
    np.testing.assert_allclose(back(there(COLOURS)), COLOURS, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MAPS)
def test_jit_vmap_and_leading_axes_change_nothing(name: str) -> None:
    f = MAPS[name]
    flat = points_of(name, RANDOM[:24])
    expected = np.asarray(f(flat))
    images = flat.reshape(2, 3, 4, 3)
    for got in (f(images), jax.jit(f)(images), jax.vmap(f)(images), jnp.stack([f(pixel) for pixel in flat])):
        assert got.dtype == jnp.float32
        np.testing.assert_allclose(got.reshape(24, 3), expected, rtol=2e-6, atol=3e-5 if name == "rgb_to_lab" else 1e-6)
    assert f(images).shape == images.shape


@pytest.mark.parametrize("name", MAPS)
def test_half_precision_is_computed_and_returned_in_float32(name: str) -> None:
    x = points_of(name, GENERIC).astype(jnp.bfloat16)
    got = MAPS[name](x)
    assert got.dtype == jnp.float32
    np.testing.assert_array_equal(got, MAPS[name](x.astype(jnp.float32)))


# --- hue is an angle ----------------------------------------------------------------------------------


def test_hue_is_periodic() -> None:
    hsv = points_of("hsv_to_rgb", RANDOM[:64])
    for turns in (-2, -1, 1, 2):
        again = colour.hsv_to_rgb(hsv.at[:, 0].add(2 * math.pi * turns))
        np.testing.assert_allclose(again, RANDOM[:64], atol=5e-6)


def test_hue_stays_below_the_full_circle() -> None:
    # Just on the blue side of red the angle is a tiny negative number, which rounds to 2 pi.
    blue = jnp.array([1e-8, 1e-6, 1e-3])
    hue = colour.rgb_to_hsv(jnp.stack((jnp.ones(3), jnp.zeros(3), blue), -1))[:, 0]
    assert float(hue.min()) >= 0 and float(hue.max()) < np.float32(2 * math.pi)
    np.testing.assert_allclose(hue[2], 2 * math.pi - 1e-3 * math.pi / 3, rtol=1e-6)
    np.testing.assert_allclose(jnp.sin(hue), -blue * math.pi / 3, atol=5e-7)


# --- gradients ----------------------------------------------------------------------------------------


def gradients(f: Map, x: jax.Array) -> np.ndarray:
    """Gradient of each output channel, (3, ..., 3)."""
    return np.stack([jax.grad(lambda v, c=c: jnp.sum(f(v)[..., c]))(x) for c in range(3)])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("name", MAPS)
def test_gradients_are_finite_and_moderate_on_every_corner(name: str, dtype: Any) -> None:
    slopes = gradients(MAPS[name], points_of(name, CORNERS).astype(dtype)).astype(np.float32)
    assert np.isfinite(slopes).all()
    # Lab is the steepest: 159 Lab units per unit of blue. Density of exp: 13.7 per unit of stain.
    assert np.abs(slopes).max() <= {"rgb_to_lab": 161, "hed_to_rgb": 14}.get(name, 3)


@pytest.mark.parametrize("name", ["rgb_to_lab", "rgb_to_hsv", "rgb_to_hed", "rgb_to_od"])
def test_gradients_are_finite_in_the_darkest_corner_of_float32(name: str) -> None:
    levels = np.array([0, 1e-45, 1e-38, 1e-30, 1e-20, 1e-12, 1e-7, 1e-6, 1e-5, 1.1e-5, 1e-4], np.float32)
    x = jnp.array(list(itertools.product(levels, repeat=3)))
    slopes = gradients(MAPS[name], x)
    assert np.isfinite(slopes).all()
    # The worst is density just above its floor, 1 / 1e-6, and hue between two nearly equal channels.
    assert np.abs(slopes).max() <= 1.01e6


def difference_quotients(f: Map, x: jax.Array, step: float) -> np.ndarray:
    """Central differences of every output in every input channel, (out, points, in)."""
    columns = [(f(x + step * axis[None]) - f(x - step * axis[None])) / (2 * step) for axis in jnp.eye(3)]
    return np.stack(columns, -1).transpose(1, 0, 2)


@pytest.mark.parametrize("name", MAPS)
def test_gradients_agree_with_finite_differences(name: str) -> None:
    x = points_of(name, GENERIC)
    step = 0.05 if name == "lab_to_rgb" else 2e-3
    slopes = gradients(MAPS[name], x)
    scale = np.abs(slopes).max()
    np.testing.assert_allclose(slopes, difference_quotients(MAPS[name], x, step), rtol=2e-3, atol=1e-3 * scale)


def test_hue_gradient_where_two_channels_are_largest() -> None:
    # Hue is smooth across yellow, cyan and magenta: one sixth of a turn per unit of either channel.
    hue = gradients(colour.rgb_to_hsv, jnp.array([[1.0, 1, 0], [0, 1, 1], [1, 0, 1]]))[0]
    np.testing.assert_allclose(hue[:, 0], [-math.pi / 3, 0, math.pi / 3], atol=1e-5)
    np.testing.assert_allclose(hue[:, 1], [math.pi / 3, -math.pi / 3, 0], atol=1e-5)
    np.testing.assert_allclose(hue[:, 2], [0, math.pi / 3, -math.pi / 3], atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.5, 1.0])
def test_undefined_hue_and_saturation_pull_nothing_on_grey(level: float) -> None:
    hue, saturation, value = gradients(colour.rgb_to_hsv, jnp.full((3,), level))
    np.testing.assert_array_equal(hue, 0)
    np.testing.assert_array_equal(saturation, 0)
    np.testing.assert_allclose(value.sum(), 1)


def test_gradient_lives_where_clipping_would_end_it() -> None:
    white = jnp.ones(3)
    back = gradients(colour.lab_to_rgb, colour.rgb_to_lab(white))
    np.testing.assert_allclose(np.einsum("oi,ij->oj", back, gradients(colour.rgb_to_lab, white)), np.eye(3), atol=1e-3)
    np.testing.assert_allclose(gradients(colour.od_to_rgb, jnp.zeros(3)), -np.eye(3), atol=1e-6)
    np.testing.assert_array_equal(gradients(colour.rgb_to_od, jnp.zeros(3)), 0)


# --- bad input ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAPS)
def test_integers_and_other_channel_counts_are_refused(name: str) -> None:
    with pytest.raises(UserError, match="dtype uint8"):
        MAPS[name](jnp.zeros((2, 2, 3), jnp.uint8))
    with pytest.raises(UserError, match=r"shape \(2, 3, 4\)"):
        MAPS[name](jnp.zeros((2, 3, 4)))
