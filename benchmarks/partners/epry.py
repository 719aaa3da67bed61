"""EPRY (Ou et al. 2014) in NumPy and SciPy, complex64, LED by LED, as `medgen_jax.fpm.sequential` states it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import scipy.fft


class Problem(NamedTuple):
    """What is known of one tile.

    Attributes:
      amplitudes: (n, N, N) float32, roots of the frames.
      pupils: (n, K, K) complex64, the known pupil around each LED's centre.
      starts: (n, 2) integers, row and column of each LED's window in the spectrum.
    """

    amplitudes: np.ndarray
    pupils: np.ndarray
    starts: np.ndarray


def sweep(
    problem: Problem, spectrum: np.ndarray, values: np.ndarray, step: float, pupil_step: float, workers: int
) -> tuple[np.ndarray, np.ndarray]:
    """All LEDs once, in their order; new spectrum (M, M) and new values of the free pupil (K, K).

    Args:
      problem: of one tile.
      spectrum: (M, M) complex64, frequency 0 in the middle.
      values: (K, K) complex64.
      step, pupil_step: of object and pupil.
      workers: threads of a transform.
    """
    spectrum, values = spectrum.copy(), values.copy()
    size, window = problem.amplitudes.shape[-1], values.shape[-1]
    for amplitude, known, (row, column) in zip(*problem, strict=True):
        cells = spectrum[row : row + window, column : column + window].copy()
        through = values * known
        field = scipy.fft.ifft2(through * cells, s=(size, size), norm="forward", workers=workers)
        magnitude = np.abs(field)
        seen = magnitude > 0
        direction = np.divide(field, magnitude, out=np.ones_like(field), where=seen)
        lack = scipy.fft.fft2(amplitude * direction - field, norm="forward", workers=workers)[:window, :window]
        lack = (known != 0) * lack
        spectrum[row : row + window, column : column + window] += step * _weight(through) * lack
        values += pupil_step * np.conj(known) * _weight(cells) * lack
    return spectrum, values


def _weight(through: np.ndarray) -> np.ndarray:
    """``conj(P) / max |P|^2``."""
    power = through.real**2 + through.imag**2
    return np.conj(through) / max(power.max(), 1e-30)
