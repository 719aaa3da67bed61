"""Whether pixels, object grid and LEDs sample what they should, as numbers and as sentences.

The pixel must carry the field, not its intensity: a frame is compared with the intensity of a computed field, pixel by
pixel, so the intensity itself may be undersampled (R_cam between 1 and 2).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.ops.pupil import sampling_factors

if TYPE_CHECKING:
    from medgen_jax.fpm.optics import Optics

#: Overlap of neighbouring pupils below which even a known pupil leaves the spectrum ambiguous.
LEAST_OVERLAP = 0.35


def camera_sampling(optics: Optics) -> float:
    """R_cam, ``lambda / (2 NA p)``: Nyquist frequency of the pixels over the highest frequency of the field."""
    return sampling_factors(optics.pixel, optics.wavelength, optics.na)[0]


def synthetic_na(na: float, sines: np.ndarray) -> float:
    """``NA + max |s|``, of the union of all pupils."""
    return na + float(np.max(np.hypot(*sines.T)))


def required_upsampling(pixel: float, wavelength: float, na_synthetic: float) -> int:
    """Least whole u with ``p / u <= lambda / (2 NA_syn)``: the object's grid carries the union of the pupils."""
    return max(1, math.ceil(2 * na_synthetic * pixel / wavelength - 1e-9))


def circle_overlap(gap: float | np.ndarray, na: float) -> float | np.ndarray:
    """Shared area of two pupils of radius ``na`` whose centres are ``gap`` apart, over the area of one.

    ``(2 / pi) (acos x - x sqrt(1 - x^2))`` with ``x = gap / (2 NA)``; 0 from ``gap = 2 NA`` on.
    """
    x = np.minimum(np.asarray(gap) / (2 * na), 1.0)
    return (2 / np.pi) * (np.arccos(x) - x * np.sqrt(1 - x**2))


def neighbour_overlap(na: float, sines: np.ndarray) -> float:
    """Overlap of the LED nearest to the axis with its nearest neighbour, as publications quote it; 0 for one LED."""
    middle = int(np.argmin(np.hypot(*sines.T)))
    others = np.delete(sines, middle, axis=0)
    return float(circle_overlap(np.hypot(*(others - sines[middle]).T).min(), na)) if len(others) else 0.0


def sampling_faults(optics: Optics) -> tuple[str, ...]:
    """What is violated, one sentence each, with the remedy; none for a set-up that can work."""
    return (*field_faults(optics), *_led_faults(optics))


def field_faults(optics: Optics) -> tuple[str, ...]:
    """What keeps the forward model itself from being right: pixels or object grid too coarse."""
    faults = []
    factor = camera_sampling(optics)
    if factor < 1 - 1e-6:
        limit = optics.wavelength / (2 * optics.na)
        faults.append(
            f"the pixels of {optics.pixel * 1e6:.3g} um on the object undersample the field {1 / factor:.2f} times: NA "
            f"{optics.na:g} at {optics.wavelength * 1e9:g} nm needs {limit * 1e6:.3g} um or less; check na, "
            "magnification and camera_pixel"
        )
    if optics.upsampling is not None and optics.upsampling < optics.upsampling_required:
        faults.append(
            f"upsampling = {optics.upsampling} is too little for the synthetic NA {optics.synthetic_na:.3g}: it needs "
            f"{optics.upsampling_required}; leave upsampling out to have it chosen"
        )
    return tuple(faults)


def check_sampling(optics: Optics) -> None:
    """Refuse optics for which the forward model is wrong.

    Raises:
      UserError: all `field_faults` in one message.
    """
    faults = field_faults(optics)
    if faults:
        raise UserError("optics: " + "; and ".join(faults))


def _led_faults(optics: Optics) -> tuple[str, ...]:
    faults = []
    nearest = float(np.hypot(*optics.sines.T).min())
    if nearest > optics.na:
        faults.append(
            f"no LED lies within the NA: the nearest to the axis has NA {nearest:.3g}, the objective {optics.na:g}; "
            "check height, pitch and offset of the LEDs"
        )
    if len(optics.sines) > 1 and optics.overlap < LEAST_OVERLAP:
        faults.append(
            f"neighbouring pupils overlap by {100 * optics.overlap:.0f} % of their area: at least "
            f"{100 * LEAST_OVERLAP:.0f} % are needed with a known pupil, 60 % to find the pupil as well; check pitch "
            "and height of the LEDs"
        )
    return tuple(faults)
