"""What a camera makes of light: shot noise, read noise, gain, dark level, saturation, whole counts.

Light is in units of the frame of an LED within the NA through nothing at all: 1.
"""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError


@dataclass(frozen=True)
class Camera:
    """A camera, from light to counts: ``min(gain (Poisson(photons I) / photons + noise) + dark, saturation)``.

    Attributes:
      photons: electrons that light 1 frees in a pixel: shot noise. None: none.
      read_noise: rms, electrons; needs ``photons``.
      gaussian: rms of noise that does not depend on light, units of light.
      gain: counts of light 1.
      dark: counts in the dark, added to every pixel.
      saturation: highest count, above ``dark``. None: none.
      whole: whether counts are rounded to whole numbers, from 0 on.
    """

    photons: float | None = None
    read_noise: float = 0.0
    gaussian: float = 0.0
    gain: float = 1.0
    dark: float = 0.0
    saturation: float | None = None
    whole: bool = False

    def __post_init__(self) -> None:
        for name in ("read_noise", "gaussian", "dark"):
            if not getattr(self, name) >= 0:
                raise UserError(f"camera.{name} = {getattr(self, name)}: must not be negative")
        if self.photons is not None and not 0 < self.photons < 1e9:
            raise UserError(f"camera.photons = {self.photons}: must lie between 0 and 1e9 electrons, or be left out")
        if self.read_noise and self.photons is None:
            raise UserError("camera.read_noise is in electrons and needs camera.photons; else give camera.gaussian")
        if not self.gain > 0:
            raise UserError(f"camera.gain = {self.gain}: must be above 0")
        if self.saturation is not None and not self.saturation > self.dark:
            raise UserError(f"camera.saturation = {self.saturation}: must be above the dark level {self.dark:g}")

    @property
    def draws(self) -> bool:
        """Whether two exposures differ, so that a key is needed."""
        return self.photons is not None or self.gaussian > 0


def shot(key: jax.Array, light: jax.Array, photons: float) -> jax.Array:
    """Light as counted in electrons: Poisson of ``photons * light``, over ``photons``."""
    return jax.random.poisson(key, photons * light).astype(jnp.float32) / photons


def expose(light: jax.Array, camera: Camera, key: jax.Array | None = None) -> jax.Array:
    """The counts of one exposure.

    Args:
      light: float32, any shape, not negative.
      camera: how it records.
      key: for its noise.

    Returns:
      float32, shape of ``light``.

    Raises:
      UserError: a camera with noise, and no key.
    """
    if camera.draws:
        if key is None:
            raise UserError("a camera with noise needs a key, such as jax.random.key(0)")
        of_light, of_camera = jax.random.split(key)
        # Both independent of light, and so one draw.
        spread = jnp.hypot(camera.gaussian, camera.read_noise / (camera.photons or 1.0))
        light = light if camera.photons is None else shot(of_light, light, camera.photons)
        light = light + spread * jax.random.normal(of_camera, light.shape)
    counts = camera.gain * light + camera.dark
    counts = jnp.maximum(jnp.round(counts), 0.0) if camera.whole else counts
    return counts if camera.saturation is None else jnp.minimum(counts, camera.saturation)


def saturated(counts: jax.Array, camera: Camera) -> jax.Array:
    """Whether each count has reached the saturation and so says only "at least": bool, shape of ``counts``."""
    return jnp.zeros(counts.shape, bool) if camera.saturation is None else counts >= camera.saturation
