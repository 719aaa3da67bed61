"""Defocus in incoherent light: what fluorescence and brightfield microscopes do to a thin object.

The image is the object convolved with the intensity of the point spread (Goodman, Introduction to
Fourier Optics, section 7.3), so frequencies are multiplied by the optical transfer function (OTF). That of a
circular pupil with defocus depends on the radial frequency alone, and is real: the integral over the
overlap of two pupils, shifted by the frequency, of the cosine of their phase difference (Hopkins,
Proc. R. Soc. A 231, 1955), here with the exact angular phase of `medgen_jax.ops.pupil` in place of its
parabola. It is computed by that integral, not by transforming a point spread, so it is right for
images of any size and pixel: nothing wraps round, and pixels too coarse for the objective do not
alias it. Images are mirrored at their borders, as in `medgen_jax.ops.filters`.

Intensity is linear and the OTF is 1 at frequency 0, so images in [-1, 1], an affine map of intensity, blur
as the intensity does. Images with a gamma do not. Brightfield counts as incoherent where the
condenser's aperture is not below the objective's; phase contrast and holograms never do.

z is in metres, its sign without effect. Nothing here tells which of an object's planes is where: one z
per image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.parallel import over_batch
from medgen_jax.core.rng import named
from medgen_jax.core.types import Image
from medgen_jax.ops.filters import cosine_frequency
from medgen_jax.ops.pupil import axial_frequency, check_objective

MAX_WAVES = 16.0  # of defocus, beyond which the table would grow large


@dataclass(frozen=True)
class Optics:
    """A microscope in incoherent light; hashable, so it can be a static argument.

    Attributes:
      pixel: side of a pixel in object space, m: camera pixel / magnification.
      wavelength: one per channel, or one for all, m in vacuum; RGB images have red first.
      na: numerical aperture of the objective.
      index: refractive index of the medium of the object: 1 air, 1.33 water, 1.515 oil.

    Raises:
      UserError: for values that no microscope has.
    """

    pixel: float
    wavelength: tuple[float, ...]
    na: float
    index: float = 1.0

    def __post_init__(self) -> None:
        if len(self.wavelength) not in (1, 3):
            raise UserError(f"wavelength: {len(self.wavelength)} values; give one, or three for red, green and blue")
        for wavelength in self.wavelength:
            check_objective(self.pixel, wavelength, self.na, self.index)

    def check_channels(self, channels: int) -> None:
        """Refuse images that have not as many channels as there are wavelengths, unless there is one wavelength.

        Raises:
          UserError: saying both numbers.
        """
        if len(self.wavelength) not in (1, channels):
            raise UserError(
                f"images of {channels} channel{'s' if channels > 1 else ''} and {len(self.wavelength)} wavelengths; "
                "give one wavelength, or one per channel"
            )


def waves(optics: Optics, z: float) -> float:
    """Wavefront error at the rim of the pupil, in wavelengths, of the shortest wavelength; |z| in m."""
    wavelength = min(optics.wavelength)
    return float(-axial_frequency(np.asarray((optics.na / wavelength) ** 2), wavelength, optics.index) * abs(z))


def blur_radius(optics: Optics, z: float) -> float:
    """Radius of the geometric blur disc in pixels, ``|z| tan(theta)`` with ``sin(theta) = NA / n``."""
    slope = optics.na / math.sqrt(max(optics.index**2 - optics.na**2, 1e-6))
    return abs(z) * slope / optics.pixel


def diffraction_limit(s: np.ndarray) -> np.ndarray:
    """OTF in focus, ``2 / pi (acos s - s sqrt(1 - s^2))``; 0 from the cutoff on.

    Args:
      s: frequency over the cutoff ``2 NA / lambda``, any shape.
    """
    s = np.minimum(s, 1.0)
    return 2 / np.pi * (np.arccos(s) - s * np.sqrt(1 - s * s))


def otf(
    shape: tuple[int, int],
    optics: Optics,
    z: float | jax.Array,
    *,
    z_max: float | None = None,
    relative: bool = False,
) -> jax.Array:
    """Transfer function of defocus on the frequencies that `blur` multiplies.

    Relative, it is divided by that in focus: what remains to be done to an image that a microscope has
    taken in focus. The quotient is an average of cosines, so it lies in [-1, 1], is 1 everywhere at
    z = 0, and tends to 1 at the cutoff, where it stays beyond: noise up there is left alone.

    Within 5e-4 of the integral, within 1e-4 up to one wave of defocus.

    Args:
      shape: height and width of the images.
      optics: the microscope.
      z: defocus, m, a number or (b,).
      z_max: largest |z| there will be; needed where z is traced.
      relative: divide by the transfer function in focus.

    Returns:
      float32 (b, h, w, k), b = 1 for a number, k the number of wavelengths.

    Raises:
      UserError: when z is not finite, is so large that the wavefront error exceeds `MAX_WAVES`, or is
        traced without ``z_max``.
    """
    table_of = _limits(optics, z, z_max)
    z = jnp.atleast_1d(jnp.asarray(z, jnp.float32))
    frequency = cosine_frequency(*shape) / optics.pixel
    planes = []
    for wavelength in optics.wavelength:
        s = frequency * wavelength / (2 * optics.na)
        gain = _relative(z, np.minimum(s, 1.0), table_of, wavelength, optics.na, optics.index)
        limit = 1.0 if relative else jnp.asarray(diffraction_limit(s), jnp.float32)[None]
        planes.append(gain * limit)
    return jnp.stack(planes, axis=-1)


def blur(images: Image, transfer: jax.Array) -> Image:
    """Multiply the frequencies of images that are mirrored at their borders.

    Args:
      images: (b, h, w, c), linear in intensity, [-1, 1] included.
      transfer: (b or 1, h, w, c or 1), from `otf`.

    Returns:
      (b, h, w, c) float32.
    """
    # The transform of an image mirrored on both sides; "ortho" makes the pair exact inverses in float32.
    planes = jnp.moveaxis(images.astype(jnp.float32), -1, 1)
    spectrum = jax.scipy.fft.dctn(planes, axes=(2, 3), norm="ortho")
    gain = jnp.broadcast_to(jnp.moveaxis(transfer, -1, 1), spectrum.shape)
    return jnp.moveaxis(jax.scipy.fft.idctn(spectrum * gain, axes=(2, 3), norm="ortho"), 1, -1)


def blur_from(focused: Image, z: jax.Array, optics: Optics, *, z_max: float | None = None) -> Image:
    """Out-of-focus images from those a microscope took in focus: `otf` relative to focus.

    z = 0 returns the images. Noise in them is blurred with them, except beyond the cutoff.

    Args:
      focused: (b, h, w, c), linear in intensity.
      z: (b,) or a number, m.
      optics: the microscope that took them.
      z_max: as `otf`.

    Raises:
      UserError: as `otf`, and when channels and wavelengths do not go together.
    """
    optics.check_channels(focused.shape[-1])
    return blur(focused, otf(focused.shape[1:3], optics, z, z_max=z_max, relative=True))


def random_defocus(
    key: jax.Array, images: Image, optics: Optics, z_range: tuple[float, float]
) -> tuple[Image, jax.Array]:
    """In-focus images out of focus, each by a distance of its own; runs inside a training step.

    Args:
      key: as `jax.random.key` makes it.
      images: (b, h, w, c), linear in intensity, taken in focus.
      optics: static.
      z_range: smallest and largest |z|, m; |z| is uniform between them, either sign as likely.

    Returns:
      The blurred images, (b, h, w, c) float32, and z, (b,) in m.

    Raises:
      UserError: as `blur_from`, and for bounds that are negative or not in order.
    """
    z = over_batch(random_z(key, len(images), z_range))
    return blur_from(images, z, optics, z_max=z_range[1]), z


def random_z(key: jax.Array, count: int, z_range: tuple[float, float]) -> jax.Array:
    """Draw distances, (count,) in m: |z| uniform between two bounds, either sign as likely.

    Raises:
      UserError: for bounds that are negative or not in order.
    """
    low, high = z_range
    if not 0 <= low <= high < math.inf:
        raise UserError(f"z_min = {low}, z = {high}: both must be distances in metres, 0 or more, the smaller first")
    keys = named(key, "distance", "side")
    # Drawn in units of the upper bound: metres near 1e-6 would be as exact, but read badly in a debugger.
    distance = jax.random.uniform(keys["distance"], (count,), minval=low, maxval=high)
    return jnp.where(jax.random.bernoulli(keys["side"], shape=(count,)), distance, -distance)


def camera_noise(key: jax.Array, images: Image, full_well: float, read_noise: float = 0.0) -> Image:
    """Photon noise (Poisson) and read noise (Gaussian) of a camera.

    Args:
      key: as `jax.random.key` makes it.
      images: (b, h, w, c) in [-1, 1]; -1 is no light and 1 fills the pixel. Darker than -1 counts as no light.
      full_well: electrons at 1.
      read_noise: standard deviation, electrons.

    Returns:
      Same shape, float32; not clipped, so its mean is that of the images.

    Raises:
      UserError: for electrons that are not positive, or negative noise.
    """
    if not 1 <= full_well < math.inf or not 0 <= read_noise < math.inf:
        raise UserError(f"full_well = {full_well}, read_noise = {read_noise}: electrons; at least 1, and 0 or more")
    keys = named(key, "photons", "read")
    electrons = jnp.maximum((images.astype(jnp.float32) + 1) / 2, 0) * full_well
    counted = jax.random.poisson(keys["photons"], electrons).astype(jnp.float32)
    read = read_noise * jax.random.normal(keys["read"], images.shape)
    return (counted + read) * (2 / full_well) - 1


# ---- the integral --------------------------------------------------------------------------------


def _limits(optics: Optics, z: float | jax.Array, z_max: float | None) -> float:
    """Waves of defocus for which the table must be fine enough."""
    if z_max is None:
        if isinstance(z, jax.core.Tracer):
            raise UserError("otf: z is traced; say by z_max how large it may become")
        z_max = float(np.max(np.abs(np.asarray(z, np.float64)), initial=0.0))
    if not math.isfinite(z_max):
        raise UserError(f"defocus z = {z_max}: must be finite, in metres")
    error = waves(optics, z_max)
    if error > MAX_WAVES:
        raise UserError(
            f"defocus z = {z_max * 1e6:g} um is a wavefront error of {error:.1f} waves at NA {optics.na:g}; at most "
            f"{MAX_WAVES:g} are computed: stay below {z_max * 1e6 * MAX_WAVES / error:.3g} um"
        )
    return error


def _relative(z: jax.Array, s: np.ndarray, error: float, wavelength: float, na: float, index: float) -> jax.Array:
    """Relative OTF (b, h, w) at frequencies s (h, w), from a table of steps between which it is nearly straight."""
    size = 384 + 64 * math.ceil(error)
    # Steps that shorten towards both ends, where the averages change fastest.
    steps = np.square(np.sin(np.linspace(0, np.pi / 2, size)))
    difference, weights = _overlap(steps, 16 + 2 * math.ceil(error), wavelength, na, index)
    phase = jnp.asarray(2 * np.pi * difference, jnp.float32)
    cosines = jnp.cos(z[:, None, None] * phase[None])
    table = jnp.sum(cosines * jnp.asarray(weights, jnp.float32)[None], axis=-1)
    place = np.arcsin(np.sqrt(s.astype(np.float64))) * (2 / np.pi) * (size - 1)
    left = np.minimum(place.astype(int), size - 2)
    share = jnp.asarray(place - left, jnp.float32)[None]
    return table[:, left] * (1 - share) + table[:, left + 1] * share


def _overlap(s: np.ndarray, nodes: int, wavelength: float, na: float, index: float) -> tuple[np.ndarray, np.ndarray]:
    """Points of the overlap of two unit pupils whose centres lie 2 s apart, for each s.

    One quarter, the others being its mirror images: ``0 <= y <= sqrt(1 - s^2)``, ``0 <= x <= sqrt(1 - y^2) - s``,
    by Gauss and Legendre in x and in the angle whose sine is ``y / sqrt(1 - s^2)``.

    Returns:
      Difference of the axial frequencies of the two pupils, 1 / m, and weights whose sum is 1; both
      (s, nodes^2).
    """
    roots, weights = np.polynomial.legendre.leggauss(nodes)
    roots, weights = (roots + 1) / 2, weights / 2
    # At s = 1 nothing overlaps; just before, the average over the overlap is the same to eight digits.
    s = np.minimum(s, 1 - 1e-9)[:, None, None]
    angle = roots[None, :, None] * np.pi / 2
    half = np.sqrt(1 - s * s)
    y = half * np.sin(angle)
    reach = np.maximum(np.sqrt(1 - y * y) - s, 0)
    x = reach * roots[None, None, :]
    area = reach * np.cos(angle) * weights[None, :, None] * weights[None, None, :]
    squares = ((np.square(x + side) + np.square(y)) * (na / wavelength) ** 2 for side in (s, -s))
    ahead, behind = (axial_frequency(each, wavelength, index) for each in squares)
    flat = (len(s), nodes * nodes)
    area = np.broadcast_to(area, x.shape)
    return (ahead - behind).reshape(flat), (area / area.sum(axis=(1, 2), keepdims=True)).reshape(flat)
