"""The panel of a reconstruction, and the preview that tells a wrong order of LEDs before anything is solved."""

from __future__ import annotations

import numpy as np

from medgen_jax.fpm import Optics
from medgen_jax.fpm.field_of_view import Cover, Field, middle_of, optics_of
from medgen_jax.fpm.forward import spectrum_of
from medgen_jax.fpm.multiplexing import lowest, straight
from medgen_jax.fpm.pupils import known_pupil
from medgen_jax.reconstruction.results import Images
from medgen_jax.reconstruction.stacks import Opened
from medgen_jax.viz.reconstructions import Circles, panel, preview

#: Frames in a preview.
_FRAMES = 12


def panel_of(opened: Opened, field: Field, images: Images, heldout_curve: np.ndarray, title: str) -> np.ndarray:
    """The panel: pictures of the whole field, pupil and spectrum of its middle tile, mean residuals of all tiles.

    Args:
      opened: what was solved.
      field: what came out.
      images: amplitude and phase of the field.
      heldout_curve: (passes,) of the LEDs held out.
      title: above all.

    Returns:
      uint8 (h, w, 3).
    """
    optics, size = field.optics[field.middle], field.cover.tile
    raw = opened.stack.frame(opened.axial)
    pupil = field.solution.pupil[field.middle] * np.asarray(known_pupil(optics, size)(np.zeros(2, np.float32)))
    curves = {"LEDs in use": mean_curve(field.solution.curve), "LEDs held out": heldout_curve}
    microns = (optics.pixel * 1e6, optics.pixel / optics.factor * 1e6)
    return panel(
        raw, images.amplitude, images.phase, pupil, np.asarray(spectrum_of(field.solution.obj)),
        circles_of(optics, size), curves, microns, title,
    )  # fmt: skip


def mean_curve(curves: np.ndarray) -> np.ndarray:
    """Mean over tiles (tiles, passes) of those that made each pass; NaN where none did."""
    made = np.isfinite(curves)
    return np.where(made.any(0), np.where(made, curves, 0).sum(0) / np.maximum(made.sum(0), 1), np.nan)


def circles_of(optics: Optics, size: int) -> Circles:
    """All LEDs in the spectrum of the object."""
    return Circles(optics.centres(size), optics.radius(size), optics.bright_field)


def preview_of(opened: Opened, cover: Cover) -> np.ndarray:
    """Spectra of frames of the middle tile with predicted circles, of all LEDs that are lit in them.

    Frames are those of the steepest LEDs of the bright field. A bright frame holds the straight light beside what the
    object scatters into the pupil: the size of its spectrum shows the pupil twice, around minus and plus the LED's
    place.
    """
    number, size = middle_of(cover), cover.tile
    optics = optics_of(opened.optics, cover)[number]
    top, left = cover.corners[number]
    frames = opened.stack.read(slice(top, top + size), slice(left, left + size))
    apertures = lowest(opened.lit, np.hypot(*optics.sines.T))
    bright = np.flatnonzero(straight(opened.lit, optics.bright_field))
    steepest = bright[np.argsort(-apertures[bright], kind="stable")] if len(bright) else np.argsort(apertures)
    chosen = [opened.axial, *(int(one) for one in np.sort(steepest[: _FRAMES - 1]) if one != opened.axial)]
    centres, radius = optics.centres(size), optics.radius(size)
    window = np.hanning(size)[:, None] * np.hanning(size)
    spectra, circles, labels = [], [], []
    for one in chosen:
        leds = list(opened.lit[one])
        light = frames[one].astype(np.float64)
        light = light**2 if opened.recording.values == "amplitude" else light
        spectra.append(np.abs(np.fft.fftshift(np.fft.fft2((light - light.mean()) * window))))
        pairs = np.concatenate([centres[leds], -centres[leds]])
        circles.append(Circles(pairs, radius, np.tile(optics.bright_field[leds], 2)))
        if len(leds) == 1:
            labels.append(f"LED {leds[0]}: NA {apertures[one]:.3f}, {_angle(centres[leds[0]]):.0f} deg")
        else:
            labels.append(f"frame {one}: {len(leds)} LEDs, NA from {apertures[one]:.3f}")
    title = "Measured spectra with the circles that the optics predict: each pair should lie on the edges"
    return preview(spectra, circles, labels, title)


def _angle(centre: np.ndarray) -> float:
    return float(np.degrees(np.arctan2(centre[1], centre[0])))
