"""From the spectrum of an object to the frames of an LED stack, and back by the adjoint.

The spectrum (M, M) holds Fourier coefficients, frequency 0 in cell (M // 2, M // 2):
``o(x) = sum_f O(f) exp(i 2 pi f x)``, so a constant object c is the single coefficient c. A frame sees the K x K
window around its LED's centre through the pupil:

    field_i(x) = sum_m P(m - rest_i) O(start_i + m) exp(i 2 pi m x / N),      I_i = g_i |field_i|^2 + b_i

with m counted from the window's first cell, not from its middle. True fields differ by a phase ramp, which no intensity
shows and no projection on amplitudes touches: so nothing is ever shifted, and a frame costs one transform of N x N.

Everything is linear in the spectrum up to the field and undecorated: differentiate it, batch it over tiles
by `jax.vmap`, jit it at the edge. The gradient of a real loss by a complex array is, in JAX, the conjugate of the
direction of steepest ascent: `ascent` mends that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm.optics import Optics
from medgen_jax.fpm.pupils import PupilAt, window_size

#: Bytes of one batch of transforms, above which LEDs are taken in several: GPU plans beyond 4 GB have aborted.
FFT_BYTES = 2**29


class Windows(NamedTuple):
    """Which part of the spectrum each LED shows; arrays over LEDs, or over tiles and LEDs.

    Attributes:
      start: (n, 2) int32, row and column of the window's first cell.
      rest: (n, 2) float32, row and column of the LED's centre beyond the window's middle cell, within half a cell.
    """

    start: Any
    rest: Any


def locate(optics: Optics, size: int) -> Windows:
    """The windows of all LEDs in the spectrum of a tile, as NumPy arrays.

    Args:
      optics: of this tile.
      size: N, pixels along the side of a frame.

    Raises:
      UserError: a window leaves the spectrum.
    """
    window, high = window_size(optics.radius(size), size), optics.factor * size
    centres = optics.centres(size)[:, ::-1]
    middle = np.rint(centres)
    start = middle.astype(np.int64) + high // 2 - window // 2
    if start.min() < 0 or start.max() + window > high:
        led = int(np.argmax(np.abs(centres).max(axis=1)))
        least = int(np.ceil((2 * np.abs(middle).max() + window + 1) / size))
        raise UserError(
            f"the window of LED {led} (counted from 0) leaves the object's spectrum of {high} x {high} cells: "
            f"optics.upsampling = {optics.factor} is too little for frames of {size} x {size} pixels, {least} is enough"
        )
    return Windows(start.astype(np.int32), (centres - middle).astype(np.float32))


def spectrum_of(obj: jax.Array) -> jax.Array:
    """Fourier coefficients (..., M, M) of an object (..., M, M), frequency 0 in the middle."""
    return jnp.fft.fftshift(jnp.fft.fft2(obj, norm="forward"), axes=(-2, -1))


def object_of(spectrum: jax.Array) -> jax.Array:
    """The object (..., M, M) of Fourier coefficients (..., M, M): the inverse of `spectrum_of`."""
    return jnp.fft.ifft2(jnp.fft.ifftshift(spectrum, axes=(-2, -1)), norm="forward")


def cut(spectrum: jax.Array, start: jax.Array, window: int) -> jax.Array:
    """The K x K cells of the spectrum (M, M) from ``start`` on."""
    return jax.lax.dynamic_slice(spectrum, (start[0], start[1]), (window, window))


def to_field(seen: jax.Array, size: int) -> jax.Array:
    """Field (..., N, N) of what a pupil lets through, (..., K, K): transform of the cells padded to N x N."""
    return jnp.fft.ifft2(seen, s=(size, size), norm="forward")


def from_field(field: jax.Array, window: int) -> jax.Array:
    """Fourier coefficients (..., K, K) of fields (..., N, N): the left inverse of `to_field`, its adjoint over N^2."""
    return jnp.fft.fft2(field, norm="forward")[..., :window, :window]


def field(spectrum: jax.Array, pupil: PupilAt, start: jax.Array, rest: jax.Array, size: int) -> jax.Array:
    """Field (N, N) of one LED.

    Args:
      spectrum: (M, M).
      pupil: see `medgen_jax.fpm.pupils`.
      start, rest: one row of `Windows`.
      size: N.
    """
    at_led = pupil(rest)
    return to_field(at_led * cut(spectrum, start, at_led.shape[-1]), size)


def fields(spectrum: jax.Array, pupil: PupilAt, windows: Windows, size: int) -> jax.Array:
    """Fields (n, N, N) of all LEDs at once: linear in the spectrum."""
    return jax.vmap(lambda start, rest: field(spectrum, pupil, start, rest, size))(*_arrays(windows))


def adjoint(values: jax.Array, pupil: PupilAt, windows: Windows, high: int) -> jax.Array:
    """The adjoint of `fields`: (n, N, N) -> spectrum (M, M), for ``<fields(O), v> = <O, adjoint(v)>``.

    Args:
      values: complex, one plane per LED.
      pupil: as it was used.
      windows: as they were used.
      high: M.
    """
    start, rest = _arrays(windows)
    at_led = jax.vmap(pupil)(rest)
    window = at_led.shape[-1]
    cells = jnp.conj(at_led) * from_field(values, window) * (values.shape[-2] * values.shape[-1])
    empty = jnp.zeros((high, high), cells.dtype)
    # The cut is linear and real: its transpose adds every window where it was taken from.
    (total,) = jax.linear_transpose(lambda s: jax.vmap(lambda at: cut(s, at, window))(start), empty)(cells)
    return total


def intensity(values: jax.Array) -> jax.Array:
    """``|field|^2``, without the square root that has no derivative at 0."""
    return jnp.square(values.real) + jnp.square(values.imag)


def intensities(
    spectrum: jax.Array, pupil: PupilAt, windows: Windows, size: int, chunk: int | None = None
) -> jax.Array:
    """Frames (n, N, N) float32 of every LED alone, of brightness 1 and on no background.

    Args:
      spectrum: (M, M).
      pupil: see `medgen_jax.fpm.pupils`.
      windows: of the LEDs.
      size: N.
      chunk: LEDs that are transformed in one batch. None: as many as `FFT_BYTES` hold.
    """
    chunk = chunk or max(1, FFT_BYTES // (8 * size**2))

    def one(window: Windows) -> jax.Array:
        return intensity(field(spectrum, pupil, window.start, window.rest, size))

    windows = _arrays(windows)
    if chunk >= len(windows.start):
        return jax.vmap(one)(windows)
    return jax.lax.map(one, windows, batch_size=chunk)


def frames(
    led_frames: jax.Array,
    gains: jax.Array | float = 1.0,
    background: jax.Array | float = 0.0,
    vignetting: jax.Array | float = 1.0,
    patterns: jax.Array | None = None,
) -> jax.Array:
    """What the camera sees of intensities of single LEDs: incoherent sums, brightness, losses, stray light.

    ``I_f = v sum_i w_fi g_i |field_i|^2 + b_f``.

    Args:
      led_frames: (n, N, N), one per LED.
      gains: brightness of the LEDs, () or (n,).
      background: added to every frame, () or (frames,) or (frames, N, N).
      vignetting: share of light that arrives, () or (N, N) or (frames, N, N).
      patterns: (frames, n), how much of each LED is on in each frame. None: one LED after the other.
    """
    lit = led_frames * _planes(gains)
    lit = lit if patterns is None else jnp.einsum("fi,ihw->fhw", patterns, lit)
    return lit * _last(vignetting) + _planes(background)


def ascent(loss: Callable[..., jax.Array], argnums: int | tuple[int, ...] = 0) -> Callable[..., Any]:
    """Value and direction of steepest ascent of a real loss of complex (or real) arrays.

    ``jax.grad`` returns ``d/da - i d/db`` at ``a + i b``; the ascent is its conjugate, ``d/da + i d/db``, and a
    small step s changes the loss by ``Re sum(conj(ascent) s)``.
    """
    value_and_grad = jax.value_and_grad(loss, argnums)

    def both(*args: Any) -> tuple[jax.Array, Any]:
        value, gradient = value_and_grad(*args)
        return value, jax.tree.map(jnp.conj, gradient)

    return both


def _arrays(windows: Windows) -> Windows:
    return Windows(jnp.asarray(windows.start), jnp.asarray(windows.rest, jnp.float32))


def _planes(values: jax.Array | float) -> jax.Array:
    """(n,) as (n, 1, 1); a number or planes as they are."""
    values = jnp.asarray(values)
    return values[:, None, None] if values.ndim == 1 else _last(values)


def _last(values: jax.Array | float) -> jax.Array:
    values = jnp.asarray(values)
    return values.reshape((1,) * (3 - values.ndim) + values.shape)
