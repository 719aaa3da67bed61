"""Several LEDs in one frame: light of different LEDs does not interfere, so their intensities add up.

    I_f = sum_{LEDs i of frame f} |field_i|^2

With S the root of that sum and A the measured amplitude, a solver gives all fields of a frame the same factor, A / S
(Tian 2014, section 2): that is the projection on the frame, and ``field_i (1 - A / S)`` is the ascent of the amplitude
loss ``(S - A)^2 / 2`` by field i. A frame of one LED is what it always was.

Frames are lists of numbers of LEDs, counted from 0 in the order of the optics.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm.forward import Windows

Frames = Sequence[Sequence[int]]


class Together(NamedTuple):
    """Which LEDs are lit in each frame, as arrays.

    Attributes:
      leds: (f, s) int32, numbers of the LEDs; s is that of the fullest frame.
      on: (f, s) float32, 0 for places that only fill up a frame.
      crowd: (f,) float32, most pupils of a frame that share a cell of the spectrum: their steps add up there.
      bright: () float32, LEDs within the aperture in the frame that a solution starts from, 1 at least.
    """

    leds: Any
    on: Any
    crowd: Any
    bright: Any


def check_lit(frames: Frames, leds: int, count: int | None = None) -> None:
    """Refuse lists that do not say which LEDs are lit.

    Args:
      frames: numbers of the LEDs of each frame.
      leds: how many the optics describe.
      count: of the frames there are. None: not known.

    Raises:
      UserError: naming the frame.
    """
    if not len(frames):
        raise UserError("frames: no frame is listed; leave them out for one LED after the other")
    for number, lit in enumerate(frames):
        if not len(lit):
            raise UserError(f"frames[{number}]: no LED is lit")
        if len(set(lit)) < len(lit):
            raise UserError(f"frames[{number}] = {list(lit)}: an LED is listed twice")
        for led in lit:
            if led != int(led) or not 0 <= led < leds:
                raise UserError(f"frames[{number}]: there is no LED {led}; optics.leds describe 0 to {leds - 1}")
    if count is not None and len(frames) != count:
        raise UserError(f"there are {count} frames, but frames list the LEDs of {len(frames)}")


def patterns(frames: Frames, leds: int) -> np.ndarray:
    """(f, leds) float32: 1 where an LED is lit, as `medgen_jax.fpm.simulate` takes them."""
    lit = np.zeros((len(frames), leds), np.float32)
    for row, numbers in zip(lit, frames, strict=True):
        row[list(numbers)] = 1
    return lit


def single(leds: int) -> tuple[tuple[int], ...]:
    """One LED after the other."""
    return tuple((led,) for led in range(leds))


def nearest(frames: Frames, apertures: np.ndarray) -> int:
    """Number of the frame whose LED is nearest to the axis; of those that hold it, the one with the fewest others.

    Args:
      frames: that passed `check_lit`.
      apertures: (n,) of the LEDs.
    """
    return int(np.lexsort(([len(leds) for leds in frames], lowest(frames, apertures)))[0])


def lowest(frames: Frames, apertures: np.ndarray) -> np.ndarray:
    """(f,) least aperture of the LEDs of each frame."""
    return np.array([apertures[list(leds)].min() for leds in frames])


def straight(frames: Frames, bright: np.ndarray) -> np.ndarray:
    """(f,) how many LEDs of each frame lie within the aperture, ``bright`` (n,) saying which do."""
    return np.array([int(bright[list(leds)].sum()) for leds in frames])


def together(frames: Frames, windows: Windows, window: int, high: int, bright: int) -> Together:
    """The arrays of frames.

    Args:
      frames: that passed `check_lit`.
      windows: of all LEDs.
      window: K, cells of a window.
      high: M, cells of the spectrum.
      bright: see `Together`.
    """
    fullest = max(map(len, frames))
    leds, on = np.zeros((len(frames), fullest), np.int32), np.zeros((len(frames), fullest), np.float32)
    for row, flags, numbers in zip(leds, on, frames, strict=True):
        # What fills up a frame must be an LED as well, lit by nothing.
        row[:] = numbers[0]
        row[: len(numbers)], flags[: len(numbers)] = numbers, 1
    crowd = np.array([_crowd(windows.start[list(numbers)], window, high) for numbers in frames], np.float32)
    return Together(leds, on, crowd, np.float32(max(bright, 1)))


def _crowd(starts: np.ndarray, window: int, high: int) -> int:
    if len(starts) == 1:
        return 1
    cells = np.arange(window) - window // 2
    disc = cells[:, None] ** 2 + cells**2 <= (window // 2) ** 2
    covered = np.zeros((high, high), np.int16)
    for row, column in starts:
        covered[row : row + window, column : column + window] += disc
    return int(covered.max())
