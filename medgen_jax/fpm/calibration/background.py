"""Stray light of every frame, from places where the object sends nothing: empty ones of frames of the dark field.

A dark frame is black wherever nothing scatters, so that the level of its emptiest places is stray light: the camera's
dark level, light of the room, reflections. A frame whose object leaves no empty place says little about it, a bright
frame nothing: both take the level of the darkest frames. Means of small blocks are compared, not pixels, whose noise
would pull the level down.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm.calibration.reports import Report

#: Side of a block, pixels.
BLOCK = 4
#: Quantile of the blocks of a frame that counts as its level.
LEVEL = 0.05
#: Of blocks between the 1 % and the 90 % quantile, the share of that span up to `LEVEL` at which a frame has empty
#: places: speckle all over the frame, averaged over a block, has more, unless it is as coarse as a block and its dark
#: grains are places where nothing arrives.
EMPTY = 0.05
#: Share of the dark frames whose level all others take: the darkest.
DARKEST = 0.1
#: Stray light at most, over the mean of a bright frame. What exceeds it is straight light: of an LED at the rim of the
#: aperture, or of one that is not where it is said to be.
MOST = 0.05


def estimate_background(stack: Any, bright: Any, *, amplitude: bool = False) -> tuple[np.ndarray, Report]:
    """Stray light of every frame.

    Args:
      stack: (n, h, w) frames of one part of the field, 8 x 8 pixels or more.
      bright: (n,) bool, frames with an LED within the aperture.
      amplitude: whether the stack holds amplitudes, not intensities.

    Returns:
      (n,) float64, counts of intensity, at most `MOST` of a bright frame; zeros where no frame is dark. And what was
      found, in words and numbers.

    Raises:
      UserError: frames that are too small, or not as many as ``bright`` says.
    """
    frames, bright = np.asarray(stack), np.asarray(bright, bool)
    if frames.ndim != 3 or min(frames.shape[1:]) < 2 * BLOCK or len(frames) != len(bright):
        raise UserError(
            f"background: stack of shape {frames.shape}: expected {len(bright)} frames of {2 * BLOCK} x {2 * BLOCK} "
            "pixels or more"
        )
    light = np.stack([_blocks(frame.astype(np.float64) ** (2 if amplitude else 1)) for frame in frames])
    lowest, levels, high = np.quantile(light, (0.01, LEVEL, 0.9), axis=1)
    dark = np.flatnonzero(~bright)
    if not len(dark):
        said = (
            "background: every frame has an LED within the aperture, whose light hides what is stray; none is taken off"
        )
        return np.zeros(len(frames)), Report("background", False, np.nan, np.nan, {"frames_dark": 0}, said)
    darkest = dark[np.argsort(levels[dark], kind="stable")[: max(1, round(DARKEST * len(dark)))]]
    common = float(np.median(levels[darkest]))
    empty = ~bright & (levels - lowest <= EMPTY * (high - lowest))
    means = light.mean(axis=1)
    most = MOST * float(np.median(means[bright]) if bright.any() else means.max())
    believed = empty & (levels <= most)
    found = np.where(believed, np.maximum(levels, min(common, most)), min(common, most))
    return found, _report(found, common, most, believed, int((empty & ~believed).sum()), len(dark))


def _blocks(light: np.ndarray) -> np.ndarray:
    """Means of the blocks of one frame, flat; what no whole block holds is left out."""
    rows, columns = (side // BLOCK for side in light.shape)
    return light[: rows * BLOCK, : columns * BLOCK].reshape(rows, BLOCK, columns, BLOCK).mean(axis=(1, 3)).ravel()


def _report(levels: np.ndarray, common: float, most: float, believed: np.ndarray, too_bright: int, dark: int) -> Report:
    used = min(common, most)
    values = {
        "frames_dark": dark, "frames_with_empty_places": int(believed.sum()), "frames_above_the_bound": too_bright,
        "common": used, "bound": most, "lowest": float(levels.min()), "highest": float(levels.max()),
    }  # fmt: skip
    limited = f", the bound: {MOST:.0%} of a bright frame (found: {common:.3g})" if common > most else ""
    left = f"; {too_bright} dark frames are too bright for that and take it as well" if too_bright else ""
    said = (
        f"background: {levels.min():.3g} to {levels.max():.3g} counts are taken off; {believed.sum()} of {dark} dark "
        f"frames have empty places that tell it, all others take {used:.3g}, the level of the darkest{limited}{left}"
    )
    return Report("background", bool(levels.any()), np.nan, np.nan, values, said)
