"""Brightness of LEDs before anything is solved: the means of bright frames, where straight light outshines all else.

A dark frame's light is the object's, not the LED's, so LEDs outside of the aperture count as 1; so do those whose cone
is cut by the rim of the pupil. Brightness has geometric mean 1 and lies within the solver's bound
(`medgen_jax.fpm.gains`), since a common factor cannot be told from the object.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from medgen_jax.fpm.calibration.reports import Report, compared
from medgen_jax.fpm.calibration.trials import heldout, prepare
from medgen_jax.fpm.gains import fitted_scales
from medgen_jax.fpm.optics import Optics
from medgen_jax.fpm.solve import Settings

#: Distance from the axis over the NA, up to which the straight light passes whole.
WITHIN = 0.9


def measure_brightness(stack: Any, optics: Optics, **light: Any) -> tuple[np.ndarray, Report]:
    """Find the brightness of the LEDs of the bright field.

    Args:
      stack: (n, N, N) of one tile.
      optics: the microscope.
      **light: ``amplitude``, ``background``, ``saturation`` as `medgen_jax.fpm.solve` takes them.

    Returns:
      gains (n,) float64 of geometric mean 1, or ones where solutions with frames divided by them do not predict LEDs
      held out better; and what was found.

    Raises:
      UserError: as `medgen_jax.fpm.solve`.
    """
    trials = prepare(stack, optics, **light, fit_gains=False)
    means = mean_light(trials.tile.stack, trials.squared, np.asarray(trials.tile.background))
    whole = (np.hypot(*optics.sines.T) <= WITHIN * optics.na) & (means > 0)
    best = np.where(whole, 1 / np.sqrt(np.where(whole, means, 1)), 1.0)
    bound = Settings().gain_bound
    gains = np.asarray(fitted_scales(jnp.asarray(best, jnp.float32), jnp.asarray(whole), bound), np.float64) ** -2.0
    frames, changed = evened(np.asarray(stack), gains, **light)
    even = prepare(frames, optics, **changed, fit_gains=False)
    (before, weights), (after, _) = (heldout(t, [optics]) for t in (trials, even))
    verdict = compared(np.concatenate([before, after]), np.concatenate([weights, weights]))
    kept, spread = verdict.fell, float(np.std(np.log(gains[whole]))) if whole.any() else 0.0
    clipped = int((np.abs(np.log(gains)) > 1.98 * np.log(bound)).sum())
    said = (
        f"brightness: {whole.sum()} LEDs of the bright field vary by {100 * spread:.1f} %, {clipped} at the bound; "
        f"{verdict.words()}; {'in use' if kept else 'all count alike'}"
    )
    values = {"leds": int(whole.sum()), "spread": spread, "clipped": clipped, "gains": np.round(gains, 6).tolist()}
    report = Report("brightness", kept, verdict.before, verdict.after, values, said)
    return (gains if kept else np.ones(len(gains))), report


def mean_light(stack: Any, squared: bool, background: np.ndarray) -> np.ndarray:
    """(n,) mean intensities of frames, above the background, counts."""
    frames = np.asarray(stack, np.float64)
    return np.maximum((frames if squared else frames**2).mean(axis=(1, 2)) - background, 0)


def evened(
    frames: np.ndarray,
    gains: np.ndarray,
    *,
    amplitude: bool = False,
    background: Any = 0.0,
    saturation: float | None = None,
) -> tuple[np.ndarray, dict[str, Any]]:
    """Frames as LEDs of equal brightness would have made them, without stray light.

    Args:
      frames: (n, h, w), all LEDs.
      gains: (n,) brightness.
      amplitude: whether frames are amplitudes.
      background: counts of intensity, () or (n,).
      saturation: count from which a pixel is saturated.

    Returns:
      float32 frames, and ``amplitude`` and ``saturation`` that go with them: pixels that were saturated are all at the
      new one, no other pixel is.
    """
    stray = np.broadcast_to(np.asarray(background, np.float64), gains.shape)

    def even(values: np.ndarray) -> np.ndarray:
        light = (np.square(values) if amplitude else values) - stray[:, None, None]
        light = np.maximum(light, 0) / gains[:, None, None]
        return np.sqrt(light) if amplitude else light

    values = even(frames.astype(np.float64))
    if saturation is None:
        return values.astype(np.float32), {"amplitude": amplitude, "saturation": None}
    top = float(np.float32(even(np.full((len(gains), 1, 1), float(saturation))).max()))
    # A pixel just below the old value must not reach the new one by rounding.
    values = np.where(frames >= saturation, top, np.minimum(values, top * (1 - 1e-6)))
    return values.astype(np.float32), {"amplitude": amplitude, "saturation": top}
