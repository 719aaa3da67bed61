"""Colour spaces of stained tissue: Lab, HSV, HED and optical density, to and from sRGB.

Every function maps ``(..., 3)`` to ``(..., 3)``, channels last, pixel by pixel. Input is any floating
dtype and is computed in float32; the result is float32. sRGB runs from 0 to 1: images of the networks,
in [-1, 1], enter as ``(x + 1) / 2`` and leave as ``2 * rgb - 1``.

Nothing is clipped that an inverse or a gradient needs: values just outside [0, 1] pass through, and the
functions towards RGB may leave [0, 1] where the colour does not exist. ``jnp.clip(rgb, 0, 1)`` then gives
what scikit-image gives; it is left to the caller because it has no gradient where it acts.

Gradients are finite for every finite input in [0, 1]. Where the value itself is undefined they are
zero: hue on the grey axis, saturation at black; and below the floor of the logarithm.
Matrix products are written as sums, so no backend rounds them to TF32 or bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError

# Linear sRGB to CIE XYZ and the D65 white point (2 degrees), to the digits that scikit-image carries.
_XYZ_FROM_RGB = np.array(
    [
        [0.412453, 0.357580, 0.180423],
        [0.212671, 0.715160, 0.072169],
        [0.019334, 0.119193, 0.950227],
    ]
)
_WHITE = np.array([0.95047, 1.0, 1.08883])
_WHITED_FROM_RGB = _XYZ_FROM_RGB / _WHITE[:, None]
_RGB_FROM_WHITED = np.linalg.inv(_WHITED_FROM_RGB)

# CIE 1976: a cube root above (6/29)^3, the line below it. The rounded slope is everyone's.
_CUBE_ROOT_FROM = 0.008856
_CUBE_FROM = 0.2068966
_SLOPE, _OFFSET = 7.787, 16 / 116

# Ruifrok & Johnston 2001: rows haematoxylin, eosin, DAB; columns red, green, blue.
_RGB_FROM_HED = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
_HED_FROM_RGB = np.linalg.inv(_RGB_FROM_HED)

# The intensity below which optical density no longer grows, as in scikit-image.
FLOOR = 1e-6
_FULL = -math.log(FLOOR)

# Below the smallest step of a 16-bit image, 1 / 65535: no stored colour is taken for grey or black.
_FAINT = 1e-5


def _channels(image: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The three channels of ``image`` (..., 3) in float32, each (...)."""
    image = jnp.asarray(image)
    if image.ndim == 0 or image.shape[-1] != 3:
        raise UserError(f"image of shape {image.shape}: colour conversion needs three channels on the last axis")
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise UserError(f"image of dtype {image.dtype}: colour conversion needs floats; divide by the white level")
    image = image.astype(jnp.float32)
    return image[..., 0], image[..., 1], image[..., 2]


def _mix(matrix: np.ndarray, channels: Sequence[jax.Array]) -> list[jax.Array]:
    """``matrix @ channels`` with (3, 3) numbers and three arrays of equal shape."""
    return [sum(float(weight) * c for weight, c in zip(row, channels, strict=True)) for row in matrix]


def _power(v: jax.Array, exponent: float) -> jax.Array:
    """``v ** exponent`` of positive ``v``. XLA:CPU runs it several times faster than ``pow`` and ``cbrt``."""
    return jnp.exp(exponent * jnp.log(v))


# In the three curves below a maximum keeps the argument of the branch not taken away from zero, where
# its gradient is infinite: infinity times the zero of `where` would be NaN.


def _linear_from_srgb(v: jax.Array) -> jax.Array:
    bright = (jnp.maximum(v, 0.04045) + 0.055) / 1.055
    # 2 + 0.4: the square is exact to the last digit, the smaller exponent loses less.
    return jnp.where(v > 0.04045, bright * bright * _power(bright, 0.4), v / 12.92)


def _srgb_from_linear(v: jax.Array) -> jax.Array:
    bright = jnp.maximum(v, 0.0031308)
    return jnp.where(v > 0.0031308, 1.055 * _power(bright, 1 / 2.4) - 0.055, 12.92 * v)


def _lightness(t: jax.Array) -> jax.Array:
    bright = jnp.maximum(t, _CUBE_ROOT_FROM)
    return jnp.where(t > _CUBE_ROOT_FROM, _power(bright, 1 / 3), _SLOPE * t + _OFFSET)


def _inverse_lightness(f: jax.Array) -> jax.Array:
    return jnp.where(f > _CUBE_FROM, f * f * f, (f - _OFFSET) / _SLOPE)


def rgb_to_lab(rgb: jax.Array) -> jax.Array:
    """CIE 1976 L*a*b* of sRGB colours, illuminant D65, 2 degree observer (IEC 61966-2-1, CIE 15).

    Args:
      rgb: (..., 3) in [0, 1].

    Returns:
      (..., 3): L in [0, 100]; a from about -86 to 98; b from about -108 to 94.

    Raises:
      UserError: not three channels, or integers.
    """
    x, y, z = map(_lightness, _mix(_WHITED_FROM_RGB, [_linear_from_srgb(c) for c in _channels(rgb)]))
    return jnp.stack((116 * y - 16, 500 * (x - y), 200 * (y - z)), -1)


def lab_to_rgb(lab: jax.Array) -> jax.Array:
    """The inverse of `rgb_to_lab`.

    Args:
      lab: (..., 3): L in [0, 100], a and b in the same units. As in scikit-image, a ``b`` so large that
        the cube root of Z would be negative counts as the one that makes it zero.

    Returns:
      (..., 3); in [0, 1] for colours that sRGB holds, beyond it for others.

    Raises:
      UserError: not three channels, or integers.
    """
    lightness, a, b = _channels(lab)
    y = (lightness + 16) / 116
    whited = map(_inverse_lightness, (y + a / 500, y, jnp.maximum(y - b / 200, 0)))
    return jnp.stack([_srgb_from_linear(c) for c in _mix(_RGB_FROM_WHITED, list(whited))], -1)


def rgb_to_hsv(rgb: jax.Array) -> jax.Array:
    """Hue in RADIANS, saturation and value of the hexagonal model (Smith 1978).

    Hue is an angle in [0, 2 pi): red 0, green 2 pi / 3, blue 4 pi / 3; haematoxylin and eosin lie near
    5 to 5.6, so averages of hue must be circular. Radians are the unit of LStainNorm's constants; times
    ``1 / (2 pi)`` it is the hue of scikit-image.

    A colour whose channels differ by no more than 1e-5 is grey: hue 0. One of value up to 1e-5 is black:
    saturation 0 as well. Both thresholds lie below one step of a 16-bit image and bound the gradients.

    Args:
      rgb: (..., 3) in [0, 1].

    Returns:
      (..., 3): hue in [0, 2 pi), saturation in [0, 1], value in [0, 1].

    Raises:
      UserError: not three channels, or integers.
    """
    r, g, b = _channels(rgb)
    is_r, is_g = (r >= g) & (r >= b), g >= b

    def ranked(if_r: jax.Array | float, if_g: jax.Array | float, if_b: jax.Array | float) -> jax.Array:
        return jnp.where(is_r, if_r, jnp.where(is_g, if_g, if_b))

    # The largest channel and the two after it in the circle r, g, b. Picked, not reduced: where two are
    # equally large the hue is smooth, but the gradient of a maximum, shared between them, would be off.
    top, after, last = ranked(r, g, b), ranked(g, b, r), ranked(b, r, g)
    span = top - jnp.minimum(after, last)
    coloured = span > _FAINT
    hue = (ranked(0.0, 2.0, 4.0) + (after - last) / jnp.where(coloured, span, 1)) * (math.pi / 3)
    hue = jnp.where(hue < 0, hue + 2 * math.pi, hue)
    # An angle just below zero rounds to the full circle, which the range leaves out.
    hue = jnp.where(coloured & (hue < np.float32(2 * math.pi)), hue, 0)

    # Here the gradient shared by equally large channels is the right one: grey has no leading channel.
    value = jnp.maximum(jnp.maximum(r, g), b)
    chroma = value - jnp.minimum(jnp.minimum(r, g), b)
    lit = value > _FAINT
    saturation = jnp.where(lit, chroma / jnp.where(lit, value, 1), 0)
    return jnp.stack((hue, saturation, value), -1)


def hsv_to_rgb(hsv: jax.Array) -> jax.Array:
    """The inverse of `rgb_to_hsv`.

    Args:
      hsv: (..., 3): hue in RADIANS, any real number (it is periodic), saturation and value in [0, 1].

    Returns:
      (..., 3) in [0, 1]; beyond it where saturation or value are.

    Raises:
      UserError: not three channels, or integers.
    """
    hue, saturation, value = _channels(hsv)

    def channel(shift: int) -> jax.Array:
        sextant = jnp.mod(hue * (3 / math.pi) + shift, 6)
        missing = jnp.clip(jnp.minimum(sextant, 4 - sextant), 0, 1)
        return value * (1 - saturation * missing)

    return jnp.stack((channel(5), channel(3), channel(1)), -1)


def rgb_to_od(rgb: jax.Array, *, floor: float = FLOOR) -> jax.Array:
    """Optical density ``-ln(max(rgb, floor))``: natural logarithm, white (rgb 1) at density 0.

    Args:
      rgb: (..., 3), transmitted light relative to white. Another white point divides it first.
      floor: the darkest intensity told apart, positive; black has density ``-ln(floor)``, 13.8 by
        default. Estimating stains from 8-bit images, 1 / 255 (density 5.5) keeps black specks from ruling.

    Returns:
      (..., 3) in [0, -ln(floor)]. The gradient is zero below the floor, at most ``1 / floor`` above it.

    Raises:
      UserError: not three channels, or integers.
    """
    return jnp.stack([-jnp.log(jnp.maximum(c, floor)) for c in _channels(rgb)], -1)


def od_to_rgb(od: jax.Array) -> jax.Array:
    """The inverse of `rgb_to_od` down to its floor: ``exp(-od)``.

    Args:
      od: (..., 3), natural optical density.

    Returns:
      (..., 3), positive; above 1 where the density is negative.

    Raises:
      UserError: not three channels, or integers.
    """
    return jnp.stack([jnp.exp(-c) for c in _channels(od)], -1)


def rgb_to_hed(rgb: jax.Array) -> jax.Array:
    """Amounts of haematoxylin, eosin and DAB by colour deconvolution (Ruifrok & Johnston 2001).

    The density of `rgb_to_od`, in units of black's ``-ln(1e-6)``, is split by the inverse of the stain
    matrix, whose rows are not normalised: as scikit-image does. Unlike there, amounts stay signed, so
    the way back is exact; ``jnp.maximum(hed, 0)`` gives its result.

    Args:
      rgb: (..., 3) in [0, 1].

    Returns:
      (..., 3), without unit: white is 0, a colour holding one stain alone has its amount times the row
      of the matrix as density.

    Raises:
      UserError: not three channels, or integers.
    """
    density = [c / _FULL for c in _channels(rgb_to_od(rgb))]
    return jnp.stack(_mix(_HED_FROM_RGB.T, density), -1)


def hed_to_rgb(hed: jax.Array) -> jax.Array:
    """The inverse of `rgb_to_hed` for colours above the floor of 1e-6.

    Args:
      hed: (..., 3), amounts of haematoxylin, eosin and DAB, of either sign.

    Returns:
      (..., 3), positive; above 1 where the amounts add up to a negative density.

    Raises:
      UserError: not three channels, or integers.
    """
    density = _mix(_RGB_FROM_HED.T, _channels(hed))
    return od_to_rgb(jnp.stack(density, -1) * _FULL)
