"""How far the amplitudes of one field in two colours lie apart, to fractions of a pixel, and how to undo it.

Colours are recorded one after the other through a lens that images each of them a little differently. The whole pixels
come from phase correlation of edges (`medgen_jax.data.inspection.registration`), which is blind to a contrast that
differs; fractions from the maximum of the correlation itself, evaluated by its Fourier sum between the pixels around
that place (Guizar-Sicairos, Thurman and Fienup 2008).
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from medgen_jax.data.inspection import registration

#: Pixels to either side of the whole ones, and the steps between, in which the maximum is looked for.
_REACH, _STEP = 1.5, 0.05


class ColourShift(NamedTuple):
    """Where an image lies beside another.

    Attributes:
      rows, columns: by which it lies below and to the right, pixels; 0 where they are not believed.
      believed: whether parts of the images agree about it.
      before, after: correlation of the edges as they are, and with the shift undone; 1 where they are alike.
    """

    rows: float
    columns: float
    believed: bool
    before: float
    after: float


def shift_between(reference: np.ndarray, other: np.ndarray) -> ColourShift:
    """Where ``other`` lies beside ``reference``, amplitudes (h, w) of one field.

    Constant images, and parts that contradict each other, give a shift of 0 that is not believed.
    """
    found = registration.shift(reference[..., None], other[..., None])
    edges = [registration.edges(np.asarray(image, np.float64)) for image in (reference, other)]
    spectra = [np.fft.fft2(image) for image in edges]
    energy = float(np.sqrt(np.prod([np.sum(np.abs(s) ** 2) for s in spectra])))
    if energy == 0:
        return ColourShift(0.0, 0.0, False, 0.0, 0.0)
    cross = spectra[1] * spectra[0].conj() / energy
    before = _correlation(cross, np.zeros(1), np.zeros(1))[0, 0]
    if found is None or not found.believed:
        return ColourShift(0.0, 0.0, False, float(before), float(before))
    steps = np.arange(-_REACH, _REACH + _STEP / 2, _STEP)
    rows, columns = found.rows + steps, found.columns + steps
    surface = _correlation(cross, rows, columns)
    top, left = np.unravel_index(surface.argmax(), surface.shape)
    return ColourShift(float(rows[top]), float(columns[left]), True, float(before), float(surface[top, left]))


def moved(obj: np.ndarray, rows: float, columns: float) -> np.ndarray:
    """An image moved up by ``rows`` and left by ``columns``, between its pixels by its Fourier sum.

    Args:
      obj: (h, w) complex or real; what leaves at one border comes in at the other.

    Returns:
      (h, w) complex64.
    """
    down, across = (np.fft.fftfreq(side) for side in obj.shape)
    ramp = np.exp(2j * np.pi * rows * down)[:, None] * np.exp(2j * np.pi * columns * across)
    return np.fft.ifft2(np.fft.fft2(obj) * ramp).astype(np.complex64)


def _correlation(cross: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """The correlation at every pair of these shifts, (len(rows), len(columns))."""
    down, across = (np.fft.fftfreq(side) for side in cross.shape)
    left = np.exp(2j * np.pi * np.outer(rows, down))
    right = np.exp(2j * np.pi * np.outer(across, columns))
    return np.real(left @ cross @ right)
