"""LED stacks of any complex object: what a microscope of these optics would record."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import forward, multiplexing, noise
from medgen_jax.fpm.noise import Camera
from medgen_jax.fpm.optics import Optics
from medgen_jax.fpm.pupils import known_pupil
from medgen_jax.fpm.sampling import check_sampling


def simulate(
    optics: Optics,
    obj: Any,
    key: jax.Array | None = None,
    *,
    defocus: float | None = None,
    zernike: Mapping[int, float] | None = None,
    gains: Any = 1.0,
    background: Any = 0.0,
    vignetting: Any = 1.0,
    patterns: Any = None,
    frames: multiplexing.Frames | None = None,
    camera: Camera | None = None,
    chunk: int | None = None,
) -> jax.Array:
    """Frames of an object under every LED, with LED centres where they are, between the cells of the spectrum.

    The object repeats beyond its borders, as transforms have it.

    Args:
      optics: the microscope; the object's side must be a multiple of its ``factor``.
      obj: (M, M) complex or real transmission, ``amplitude * exp(i phase)`` on pixels of ``optics.pixel / factor``; the
        phase is what light gains on its way through.
      key: for the noise of a camera that has some.
      defocus: z, m. None: that of ``optics``.
      zernike: Noll index -> radians rms, aberrations of the pupil.
      gains: brightness of the LEDs, () or (n,).
      background: stray light, () or one per frame or (frames, N, N).
      vignetting: share of light that arrives, () or (N, N) or (frames, N, N).
      patterns: (frames, n) how much of each LED is on in each frame. None: one LED after the other.
      frames: numbers of the LEDs that are on in each frame, in place of ``patterns``.
      camera: None: light itself, 1 where an LED within the NA shines through nothing.
      chunk: LEDs per batch of transforms; see `medgen_jax.fpm.forward.intensities`.

    Returns:
      float32 (frames, N, N) with N = M / factor, intensities.

    Raises:
      UserError: optics that violate sampling, an object or arrays that do not fit them, a missing key.
    """
    check_sampling(optics)
    obj = _checked_object(obj, optics.factor)
    size = obj.shape[-1] // optics.factor
    if frames is not None:
        if patterns is not None:
            raise UserError("patterns and frames both say which LEDs are lit; give one of them")
        multiplexing.check_lit(frames, optics.count)
        patterns = multiplexing.patterns(frames, optics.count)
    arrays = _checked_light(optics.count, size, gains, background, vignetting, patterns)
    camera = camera or Camera()
    if camera.draws and key is None:
        raise UserError("a camera with noise needs a key, such as simulate(optics, obj, jax.random.key(0), camera=...)")
    depth, modes = optics.defocus if defocus is None else defocus, dict(zernike or {})
    windows = forward.locate(optics, size)
    return _record(obj, key, windows, depth, modes, arrays, optics=optics, camera=camera, chunk=chunk)


def simulate_colours(optics: Sequence[Optics], objects: Any, key: jax.Array | None = None, **options: Any) -> jax.Array:
    """Stacks of one field in several colours.

    Args:
      optics: one per colour, of equal ``factor`` (set ``upsampling``) and equally many LEDs.
      objects: (colours, M, M), the object as each colour sees it.
      key: split among the colours.
      **options: of `simulate`, for all colours.

    Returns:
      float32 (colours, frames, N, N).

    Raises:
      UserError: as `simulate`; colours that do not go together.
    """
    factors, counts = [o.factor for o in optics], [o.count for o in optics]
    if len(optics) != len(objects):
        raise UserError(f"there are {len(optics)} optics and {len(objects)} objects: expected one per colour")
    if len(set(factors)) > 1 or len(set(counts)) > 1:
        raise UserError(
            f"colours with upsampling {factors} and {counts} LEDs: expected equal ones; set optics.upsampling to "
            f"{max(factors)} in all"
        )
    keys = [None] * len(optics) if key is None else jax.random.split(key, len(optics))
    return jnp.stack([simulate(o, obj, k, **options) for o, obj, k in zip(optics, objects, keys, strict=True)])


@functools.partial(jax.jit, static_argnames=("optics", "camera", "chunk"))
def _record(
    obj: jax.Array,
    key: jax.Array | None,
    windows: forward.Windows,
    defocus: jax.Array,
    zernike: dict[int, jax.Array],
    light: dict[str, jax.Array],
    *,
    optics: Optics,
    camera: Camera,
    chunk: int | None,
) -> jax.Array:
    size = obj.shape[-1] // optics.factor
    pupil = known_pupil(optics, size, defocus, zernike)
    alone = forward.intensities(forward.spectrum_of(obj), pupil, windows, size, chunk)
    return noise.expose(forward.frames(alone, **light), camera, key)


def _checked_object(obj: Any, factor: int) -> jax.Array:
    shape = np.shape(obj)
    if len(shape) != 2 or shape[0] != shape[1]:
        raise UserError(f"object of shape {shape}: expected a square (M, M)")
    if shape[0] % factor or shape[0] < 4 * factor:
        raise UserError(
            f"object of side {shape[0]}: expected a multiple of optics.upsampling = {factor}, 4 times or more"
        )
    obj = jnp.asarray(obj, jnp.complex64)
    if not bool(jnp.all(jnp.isfinite(obj.real) & jnp.isfinite(obj.imag))):
        raise UserError("object: contains values that are not finite")
    return obj


def _checked_light(
    leds: int, size: int, gains: Any, background: Any, vignetting: Any, patterns: Any
) -> dict[str, jax.Array | None]:
    arrays = {"gains": gains, "background": background, "vignetting": vignetting}
    arrays = {name: np.asarray(value, np.float32) for name, value in arrays.items()}
    arrays["patterns"] = None if patterns is None else np.asarray(patterns, np.float32)
    frames = leds if patterns is None else len(arrays["patterns"])
    plane, stack = (size, size), (frames, size, size)
    allowed = {
        "gains": ((), (leds,)),
        "background": ((), (frames,), stack),
        "vignetting": ((), plane, stack),
        "patterns": ((frames, leds),),
    }
    for name, value in arrays.items():
        if value is not None and value.shape not in allowed[name]:
            shapes = " or ".join(str(shape) for shape in allowed[name])
            raise UserError(f"{name} of shape {value.shape}: expected {shapes} for {leds} LEDs and {frames} frames")
        if value is not None and not (np.isfinite(value).all() and (value >= 0).all()):
            raise UserError(f"{name}: must be finite and not negative")
    return arrays
