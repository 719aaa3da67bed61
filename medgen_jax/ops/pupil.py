"""The pupil of a microscope objective, and how it images: coherent field, point spread, transfer.

All lengths are metres, pixels are measured in object space (camera pixel / magnification), and planes are
in the order of `jnp.fft.fft2`: frequency 0 first, rows before columns.

Sign of defocus: a field whose spectrum is multiplied by the pupil at ``defocus = z`` has travelled z
along the light, with waves written exp(i 2 pi f x) in space and their phase growing along the way. So with
z > 0 the objective is focused beyond the object, towards itself, and a wave that converges on a point
z ahead becomes that point. Intensities in incoherent light do not tell the two sides apart.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError


def pupil(
    shape: tuple[int, int],
    pixel: float,
    wavelength: float,
    na: float,
    defocus: float | jax.Array = 0.0,
    index: float = 1.0,
) -> jax.Array:
    """Circular pupil ``exp(i 2 pi (sqrt((n / lambda)^2 - f^2) - n / lambda) z)`` where ``|f| <= NA / lambda``, else 0.

    The exact phase of the angular spectrum (Goodman, Introduction to Fourier Optics, section 3.10) less
    that of the wave along the axis. Waves that do not propagate, ``|f| > n / lambda``, lie outside
    every pupil, since no objective collects them.

    Args:
      shape: height and width of the image.
      pixel: side of a pixel in object space, m.
      wavelength: in vacuum, m.
      na: numerical aperture, positive and not above ``index``.
      defocus: m, a number or an array (b,); may be traced.
      index: refractive index of the medium of the object.

    Returns:
      complex64 (h, w), or (b, h, w) for an array of defocus.

    Raises:
      UserError: for lengths or apertures that no objective has.
    """
    check_objective(pixel, wavelength, na, index)
    frequency = frequencies(shape, pixel)
    inside = jnp.asarray(frequency <= na / wavelength)
    phase = 2 * np.pi * jnp.asarray(axial_frequency(np.square(frequency), wavelength, index), jnp.float32)
    defocus = jnp.asarray(defocus, jnp.float32)[..., None, None]
    inside, phase = (jnp.broadcast_to(plane, (*defocus.shape[:-2], *shape)) for plane in (inside, phase))
    return jnp.where(inside, jnp.exp(1j * phase * defocus), 0).astype(jnp.complex64)


def frequencies(shape: tuple[int, int], pixel: float) -> np.ndarray:
    """Radial frequency of each sample of ``fft2``, (h, w) float64, 1 / m."""
    rows, columns = (np.fft.fftfreq(n, pixel) for n in shape)
    return np.hypot(rows[:, None], columns[None, :])


def axial_frequency(squares: np.ndarray | jax.Array, wavelength: float, index: float = 1.0) -> np.ndarray | jax.Array:
    """Frequency along the axis less that of the axial wave, ``sqrt((n / lambda)^2 - f^2) - n / lambda``, 1 / m.

    Not positive; ``-n / lambda`` where the wave does not propagate. Written without the difference of two
    large numbers, which would cost its digits.

    Args:
      squares: f^2 of the radial frequency, 1 / m^2, any shape: the square, which is smooth on the axis. An array of
        NumPy keeps its digits; one of jax may be traced, and the derivative is finite everywhere.
      wavelength: in vacuum, m.
      index: refractive index.

    Returns:
      The kind and shape of ``squares``.
    """
    wave, xp = index / wavelength, jnp if isinstance(squares, jax.Array) else np
    shares = squares / wave**2
    propagates = shares < 1
    root = xp.sqrt(xp.where(propagates, 1 - shares, 1.0))
    return xp.where(propagates, -wave * shares / (root + 1), -wave)


def point_spread(pupil: jax.Array) -> jax.Array:
    """Image of a point in incoherent light, ``|IFFT(pupil)|^2`` with sum 1, centred on pixel (0, 0).

    Args:
      pupil: complex (..., h, w), not zero everywhere.

    Returns:
      float32 (..., h, w).
    """
    field = jnp.fft.ifft2(pupil)
    intensity = jnp.square(field.real) + jnp.square(field.imag)
    return intensity / jnp.sum(intensity, axis=(-2, -1), keepdims=True)


def transfer(pupil: jax.Array) -> jax.Array:
    """Optical transfer function of any pupil: the transform of its `point_spread`, 1 at frequency 0.

    Right only where the pixel samples the intensity (see `sampling_faults`) and the spread ends within the
    image. Aberrations may be multiplied onto the pupil. `medgen_jax.ops.defocus.otf` knows neither limit,
    but only defocus.

    Args:
      pupil: complex (..., h, w).

    Returns:
      complex64 (..., h, w // 2 + 1), as `jnp.fft.rfft2` orders it.
    """
    return jnp.fft.rfft2(point_spread(pupil))


def sampling_factors(pixel: float, wavelength: float, na: float) -> tuple[float, float]:
    """How finely pixels sample what an objective lets through: of the field, and of its intensity.

    Nyquist frequency ``1 / (2 pixel)`` over the highest frequency there is: ``NA / lambda`` in the field
    (coherent imaging), twice that in intensities. 1 or more is enough.
    """
    field = wavelength / (2 * na * pixel)
    return field, field / 2


def sampling_faults(pixel: float, wavelength: float, na: float) -> tuple[str, ...]:
    """What is violated, one sentence each; none where pixels are fine enough for field and intensity.

    Raises:
      UserError: as `pupil`.
    """
    check_objective(pixel, wavelength, na, max(na, 1.0))
    least = f"NA {na:g} at {wavelength * 1e9:g} nm"
    names = ("the field (coherent imaging)", "the intensity (incoherent imaging)")
    limits = (wavelength / (2 * na), wavelength / (4 * na))
    return tuple(
        f"{name} is undersampled {1 / factor:.2f} times: {least} needs pixels of {limit * 1e6:.3g} um or less in "
        f"object space, these are {pixel * 1e6:.3g} um"
        for name, limit, factor in zip(names, limits, sampling_factors(pixel, wavelength, na), strict=True)
        if factor < 1 - 1e-6
    )


def check_objective(pixel: float, wavelength: float, na: float, index: float) -> None:
    """Refuse lengths that are not positive, and an aperture above the refractive index.

    Raises:
      UserError: naming the number.
    """
    lengths = {"pixel": pixel, "wavelength": wavelength}
    for name, value in lengths.items():
        if not 0 < value < 1e-3:
            raise UserError(f"{name} = {value}: must be in metres, above 0 and below 1e-3, such as 550e-9")
    if not 1 <= index < 5:
        raise UserError(f"index = {index}: the refractive index of a medium lies between 1 (air) and 5")
    if not 0 < na <= index:
        raise UserError(f"na = {na}: must be above 0 and not above the refractive index {index:g}; oil has 1.515")
