"""Pupils on the cells of an LED's window: support, defocus, Zernike aberrations, free form.

A window is K x K cells of the spectrum, a cell is ``df = 1 / (N p)``, and the middle cell is ``K // 2``. The centre of
an LED rarely falls on a cell: it lies ``rest`` = (row, column) cells beyond the middle one, each within half a cell.
The spectrum stays on its cells and the pupil is evaluated around the true centre, cell by cell: exact for
an object that repeats with the tile, with no transform more than the two a frame needs anyway.

A pupil is therefore a function ``pupil(rest) -> (K, K)``, the `PupilAt` of this package: `known_pupil` knows it in
closed form; `free_pupil` is an array to be found, times one that is known exactly, at least the `aperture`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.ops.pupil import axial_frequency

if TYPE_CHECKING:
    from medgen_jax.fpm.optics import Optics

PupilAt = Callable[[jax.Array], jax.Array]


def window_size(radius: float, size: int) -> int:
    """K: cells along the side of a window that holds a pupil of ``radius`` cells wherever its rest moves it.

    Odd, so that it has a middle, and never above ``size``, the pixels of a frame.
    """
    return min(2 * math.ceil(radius + 1) + 1, size)


def offsets(window: int, rest: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Row (K, 1) and column (1, K) of each cell from the LED's true centre, in cells."""
    steps = jnp.arange(window, dtype=jnp.float32) - window // 2
    return (steps - rest[0])[:, None], (steps - rest[1])[None, :]


def support(window: int, radius: jax.Array | float, rest: jax.Array, edge: float = 0.0) -> jax.Array:
    """1 within ``radius`` of the true centre, 0 outside: float32 (K, K).

    Args:
      window: K.
      radius: cells; may be traced.
      rest: (2,) row and column, cells.
      edge: cells over which 1 falls to 0. 0 is the pupil itself, whose derivative by radius and rest
        is 0 everywhere; 1 shares the cells of the rim by how far the circle reaches into them, so that positions have
        a gradient. An object that repeats with the tile wants 0; a tile cut out of a larger field is no worse off
        with 1.
    """
    rows, columns = offsets(window, rest)
    squares = rows**2 + columns**2
    if not edge:
        # A rim that falls on cells exactly is inside, whatever float32 makes of it.
        return (squares <= jnp.square(radius) * (1 + 1e-6)).astype(jnp.float32)
    # The distance of the middle has no derivative; it lies far inside.
    distance = jnp.sqrt(jnp.maximum(squares, 1e-12))
    return jnp.clip((radius - distance) / edge + 0.5, 0.0, 1.0)


def aperture(window: int, radius: jax.Array | float, edge: float = 0.0) -> PupilAt:
    """The `support` as a pupil: an objective without any aberration, in focus.

    Args:
      window: K.
      radius: cells; may be traced.
      edge: see `support`.
    """
    return lambda rest: support(window, radius, rest, edge).astype(jnp.complex64)


def free_pupil(values: jax.Array, within: PupilAt) -> PupilAt:
    """A pupil of any form: what is to be found, times what is known.

    The values belong to the cells of the window, not to the true centre: what they describe is smooth, and a
    fraction of a cell of it displaces a frame by hundredths of a pixel. With 2x / 0.1, 630 nm, tiles of 128 pixels
    and 55 um of defocus that is 0.9 % of the amplitude, where a rounded rim makes 4.7 %.

    Args:
      values: (K, K) complex; outside of the support they do not count.
      within: evaluated around the true centre: an `aperture`, or a `known_pupil` with a defocus.
    """
    return lambda rest: values * within(rest)


def known_pupil(
    optics: Optics,
    size: int,
    defocus: jax.Array | float | None = None,
    zernike: Mapping[int, jax.Array | float] | None = None,
    edge: float = 0.0,
) -> PupilAt:
    """The pupil of an objective in closed form, exact at every fraction of a cell.

    Args:
      optics: gives aperture, wavelength and index.
      size: N, pixels along the side of a frame.
      defocus: z, m, as in `medgen_jax.ops.pupil.pupil`; may be traced. None: that of ``optics``.
      zernike: Noll index -> coefficient in radians rms over the pupil; coefficients may be traced.
      edge: see `support`.

    Returns:
      ``pupil(rest) -> (K, K)`` complex64 with K = `window_size`.
    """
    radius, cell = optics.radius(size), optics.df(size)
    window, depth = window_size(radius, size), optics.defocus if defocus is None else defocus
    if isinstance(depth, int | float) and depth == 0 and not zernike:
        return aperture(window, radius, edge)

    def at(rest: jax.Array) -> jax.Array:
        rows, columns = offsets(window, rest)
        axial = axial_frequency((rows**2 + columns**2) * cell**2, optics.wavelength, optics.index)
        phase = 2 * np.pi * depth * axial
        for index, coefficient in (zernike or {}).items():
            phase = phase + coefficient * zernike_mode(index, columns / radius, rows / radius)
        return support(window, radius, rest, edge) * jnp.exp(1j * phase.astype(jnp.float32))

    return at


def noll(index: int) -> tuple[int, int]:
    """Radial order n and azimuthal order m of a Zernike mode; m < 0 for those with a sine (Noll 1976).

    1 is the piston, 2 and 3 the tilts along x and y, 4 defocus, 5 and 6 astigmatism, 7 and 8 coma, 11 spherical.

    Raises:
      UserError: an index below 1.
    """
    if index < 1 or index != int(index):
        raise UserError(f"zernike index {index}: Noll's indices are whole numbers from 1")
    n = (math.isqrt(8 * index - 7) - 1) // 2
    within = index - n * (n + 1) // 2 - 1
    m = 2 * ((within + 1) // 2) if n % 2 == 0 else 2 * (within // 2) + 1
    return n, m if index % 2 == 0 else -m


def zernike_mode(index: int, x: jax.Array, y: jax.Array) -> jax.Array:
    """The Zernike mode of a Noll index, of mean square 1 over the unit disc.

    ``sqrt(n + 1) R_n0``, ``sqrt(2 (n + 1)) R_nm cos(m theta)`` for even indices, ``sin`` for odd ones; theta from x
    towards y, which points down. Polynomials: they continue beyond the disc and are smooth at its middle.

    Args:
      index: Noll's.
      x, y: over the radius of the pupil; they broadcast.
    """
    n, m = noll(index)
    squares = x**2 + y**2
    radial = functools.reduce(lambda total, c: total * squares + c, _radial(n, abs(m)), 0.0 * squares)
    return radial * _harmonic(m, x, y) * math.sqrt((n + 1) * (2 if m else 1))


def zernike_modes(indices: tuple[int, ...], window: int, radius: float) -> jax.Array:
    """(len(indices), K, K) float32: modes on the cells of a window around its middle, 0 outside of the support."""
    middle = jnp.zeros(2)
    rows, columns = offsets(window, middle)
    inside = support(window, radius, middle)
    return jnp.stack([zernike_mode(index, columns / radius, rows / radius) * inside for index in indices])


def _radial(n: int, m: int) -> list[float]:
    """Coefficients of ``R_nm / r^m`` in r^2, highest power first."""
    return [
        (-1) ** k * math.comb(n - k, k) * math.comb(n - 2 * k, (n - m) // 2 - k) * 1.0 for k in range((n - m) // 2 + 1)
    ]


def _harmonic(m: int, x: jax.Array, y: jax.Array) -> jax.Array:
    """``r^|m| cos(m theta)``, for negative m ``r^|m| sin(|m| theta)``: real or imaginary part of ``(x + i y)^|m|``."""
    real, imaginary = jnp.ones_like(x * y), jnp.zeros_like(x * y)
    for _ in range(abs(m)):
        real, imaginary = real * x - imaginary * y, real * y + imaginary * x
    return imaginary if m < 0 else real
