"""Colour difference of Lab colours: CIE 1976 and CIEDE2000.

Lab is that of `medgen_jax.ops.colour`: float32 (..., 3), L from 0 to 100. About 1 is just noticeable.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

_25_TO_THE_7TH = 25.0**7


def delta_e_76(first: jax.Array, second: jax.Array) -> jax.Array:
    """Euclidean distance in Lab (CIE 15), (..., 3) -> (...)."""
    return _root(jnp.sum(jnp.square(first - second), axis=-1))


def delta_e_2000(first: jax.Array, second: jax.Array) -> jax.Array:
    """CIEDE2000 with all parametric factors 1, (..., 3) -> (...): symmetric.

    Sharma, Wu and Dalal, Color Res. Appl. 30(1), 2005, equations 2 to 22, whose names the code keeps. It
    jumps, by definition, where two hues lie opposite each other; there, float32 may fall on either side.
    """
    (l_1, a_1, b_1), (l_2, a_2, b_2) = (jnp.moveaxis(lab, -1, 0) for lab in (first, second))
    a_1, a_2 = _stretched(a_1, b_1, a_2, b_2)
    c_1, c_2 = _root(a_1**2 + b_1**2), _root(a_2**2 + b_2**2)
    h_1, h_2 = _hue(a_1, b_1), _hue(a_2, b_2)
    coloured = c_1 * c_2 > 0

    turn = h_2 - h_1
    turn = jnp.where(turn > jnp.pi, turn - 2 * jnp.pi, jnp.where(turn < -jnp.pi, turn + 2 * jnp.pi, turn))
    d_l, d_c = l_2 - l_1, c_2 - c_1
    d_h = jnp.where(coloured, 2 * _root(c_1 * c_2) * jnp.sin(turn / 2), 0.0)

    l_mean, c_mean = (l_1 + l_2) / 2, (c_1 + c_2) / 2
    around = jnp.where(jnp.abs(h_1 - h_2) <= jnp.pi, 0.0, jnp.where(h_1 + h_2 < 2 * jnp.pi, jnp.pi, -jnp.pi))
    h_mean = jnp.where(coloured, (h_1 + h_2) / 2 + around, h_1 + h_2)

    s_l = 1 + 0.015 * (l_mean - 50) ** 2 / jnp.sqrt(20 + (l_mean - 50) ** 2)
    s_c = 1 + 0.045 * c_mean
    s_h = 1 + 0.015 * c_mean * _hue_weight(h_mean)
    lightness, chroma, hue = d_l / s_l, d_c / s_c, d_h / s_h
    return _root(lightness**2 + chroma**2 + hue**2 + _rotation(c_mean, h_mean) * chroma * hue)


def _stretched(a_1: jax.Array, b_1: jax.Array, a_2: jax.Array, b_2: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The a axis made longer near grey (equations 2 to 5)."""
    chroma = (_root(a_1**2 + b_1**2) + _root(a_2**2 + b_2**2)) / 2
    stretch = 1 + 0.5 * (1 - _saturation(chroma))
    return a_1 * stretch, a_2 * stretch


def _hue(a: jax.Array, b: jax.Array) -> jax.Array:
    """Hue angle in [0, 2 pi), 0 on the grey axis (equation 7)."""
    grey = (a == 0) & (b == 0)
    angle = jnp.arctan2(b, jnp.where(grey, 1.0, a))
    return jnp.where(angle < 0, angle + 2 * jnp.pi, angle)


def _hue_weight(hue: jax.Array) -> jax.Array:
    """T of equation 15."""
    waves = ((0.17, 1, -30 + 180), (0.24, 2, 0), (0.32, 3, 6), (0.20, 4, -63 + 180))
    return 1 + sum(size * jnp.cos(times * hue + jnp.deg2rad(phase)) for size, times, phase in waves)


def _rotation(chroma: jax.Array, hue: jax.Array) -> jax.Array:
    """R_T of equations 16, 17 and 21: the tilt of the ellipses among the blues."""
    blue = jnp.exp(-jnp.square((jnp.rad2deg(hue) - 275) / 25))
    return -jnp.sin(jnp.deg2rad(60.0) * blue) * 2 * _saturation(chroma)


def _saturation(chroma: jax.Array) -> jax.Array:
    power = chroma**7
    return _root(power / (power + _25_TO_THE_7TH))


def _root(x: jax.Array) -> jax.Array:
    """Square root, 0 for rounding errors below zero, whose gradient at 0 is 0 instead of infinite."""
    positive = ~(x <= 0)  # NaN stays NaN
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)
