"""What stands before a solution: a stack that is checked and put on the device, and the first guess."""

from __future__ import annotations

import dataclasses
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import stopping
from medgen_jax.fpm.forward import locate, spectrum_of
from medgen_jax.fpm.leds import Board, Points
from medgen_jax.fpm.multiplexing import Frames, check_lit, lowest, nearest, single, straight, together
from medgen_jax.fpm.optics import Optics
from medgen_jax.fpm.problem import Guess, Tile, measurement
from medgen_jax.fpm.pupils import window_size
from medgen_jax.fpm.sampling import check_sampling


class Keep(Protocol):
    """Which frames are dark and which are held out, as `medgen_jax.fpm.Settings` says it."""

    dark: float
    held_out: float
    seed: int


def axial_lens(optics: Optics) -> Optics:
    """What of the optics shapes the program: not where LEDs and tile are, so that other places compile nothing."""
    axis = Board(Points(((0.0, 0.0),)), 0.1)
    return dataclasses.replace(optics, leds=axis, tile=(0.0, 0.0), glass=None, defocus=0.0, upsampling=optics.factor)


def check_count(optics: Optics, count: int, frames: Frames | None) -> None:
    """Refuse so many frames where these optics, or the lists of their LEDs, have others.

    Raises:
      UserError: with both numbers, or naming the list that makes no sense.
    """
    if frames is None:
        optics.check_frames(count)
    else:
        check_lit(frames, optics.count, count)


def check_stack(
    stack: np.ndarray, optics: tuple[Optics, ...], saturation: float | None, frames: Frames | None = None
) -> None:
    """Refuse frames (tiles, n, N, N) that are no measurements, or not those of these optics, one per tile.

    Args:
      stack: of all tiles.
      optics: one per tile.
      saturation: as `medgen_jax.fpm.solve` takes it.
      frames: LEDs of each frame. None: one after the other.

    Raises:
      UserError: naming what is wrong.
    """
    if stack.ndim != 4 or stack.shape[-1] != stack.shape[-2] or stack.shape[-1] < 4:
        shape = stack.shape[1:] if len(optics) == 1 else stack.shape
        raise UserError(f"stack of shape {shape}: expected square frames (LEDs, N, N) of 4 pixels or more")
    if len(stack) != len(optics):
        raise UserError(f"there are {len(stack)} tiles and {len(optics)} optics: expected one per tile")
    for one in optics:
        check_count(one, stack.shape[1], frames)
        check_sampling(one)
        if (axial_lens(one), one.defocus) != (axial_lens(optics[0]), optics[0].defocus):
            raise UserError("optics of tiles may differ in LEDs, glass and tile only; set upsampling in all of them")
    if np.issubdtype(stack.dtype, np.floating):
        bad = ~np.isfinite(stack).all(axis=(0, 2, 3))
        if bad.any():
            raise UserError(f"stack: frame {int(np.argmax(bad))} (counted from 0) contains values that are not finite")
        if stack.min() < 0:
            raise UserError(f"stack: lowest value {stack.min():g}; counts cannot be negative, add or clip the offset")
    elif not np.issubdtype(stack.dtype, np.unsignedinteger) or stack.dtype.itemsize > 2:
        raise UserError(f"stack of {stack.dtype}: expected uint8, uint16 or floats")
    if not stack.any(axis=(1, 2, 3)).all():
        raise UserError("stack: all frames are dark; check the file, its scale, and whether frames are integers")
    if saturation is not None and (stack >= saturation).all(axis=(1, 2, 3)).any():
        raise UserError(f"stack: every pixel is at or above saturation = {saturation:g}; check its value")


def make_tiles(
    stack: np.ndarray,
    optics: tuple[Optics, ...],
    keep: Keep,
    amplitude: bool,
    background: Any,
    ceiling: Any,
    frames: Frames | None = None,
) -> tuple[Tile, np.ndarray]:
    """Tiles on the device, stacked, and which of their frames are held out (tiles, n).

    Args:
      stack, optics, frames: that passed `check_stack`.
      keep: which frames are dark, and which are held out.
      amplitude, background, ceiling: as `medgen_jax.fpm.solve` takes them, ``ceiling`` being its ``saturation``.

    Raises:
      UserError: for a background that does not fit, or a dark frame where the brightest should be.
    """
    count, number = stack.shape[:2]
    stray = np.asarray(background, np.float32)
    if stray.shape not in ((), (number,), (count, number)) or not (np.isfinite(stray) & (stray >= 0)).all():
        raise UserError(f"background of shape {stray.shape}: expected () or ({number},), finite and not negative")
    stray = np.ascontiguousarray(np.broadcast_to(stray, (count, number)))
    stack = stack if stack.dtype in (np.uint8, np.uint16) else stack.astype(np.float32)
    given = (keep, amplitude, np.float32(np.inf if ceiling is None else ceiling), frames)
    parts = [_tile(*each, *given) for each in zip(stack, stray, optics, strict=True)]
    tiles = jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *parts)
    return tiles, tiles.used == 0


def _tile(
    stack: np.ndarray,
    stray: np.ndarray,
    optics: Optics,
    keep: Keep,
    amplitude: bool,
    ceiling: np.float32,
    frames: Frames | None,
) -> Tile:
    lit = single(optics.count) if frames is None else frames
    apertures, within = np.hypot(*optics.sines.T), straight(lit, optics.bright_field)
    axial = nearest(lit, apertures)
    light = np.array([np.mean(np.square(f, dtype=np.float64) if amplitude else f, dtype=np.float64) for f in stack])
    light = np.maximum(light - stray, 0)
    if light[axial] <= 0:
        which = f"the frame of LED {axial}" if frames is None else f"frame {axial}"
        raise UserError(
            f"stack: {which} (counted from 0), nearest to the axis, is dark; check the order of the LEDs and the "
            "background"
        )
    unit = light[axial] / max(within[axial], 1)
    out = stopping.held_out(within > 0, keep.held_out, keep.seed, axial)
    order = np.lexsort((np.arange(len(lit)), [len(leds) for leds in lit], np.round(lowest(lit, apertures), 9), out))
    windows, size = locate(optics, stack.shape[-1]), stack.shape[-1]
    window = window_size(optics.radius(size), size)
    joined = None if frames is None else together(frames, windows, window, optics.factor * size, within[order[0]])
    return Tile(
        stack, stray, np.float32(unit), ceiling, windows, order.astype(np.int32), (~out).astype(np.float32),
        (light > keep.dark * unit) & ~out, joined,
    )  # fmt: skip


def first_guess(tile: Tile, lens: Optics, shape: tuple[int, int], squared: bool) -> Guess:
    """The amplitude of the frame nearest to the axis, without phase, band-limited to the pupil; a flat free pupil.

    Of several LEDs within the aperture, each is taken to have made an equal share of that frame.
    """
    size, high = shape
    radius = lens.radius(size)
    window = window_size(radius, size)
    amplitude = measurement(tile, tile.order[0], squared).amplitude.astype(jnp.complex64)
    if tile.together is not None:
        amplitude = amplitude / jnp.sqrt(tile.together.bright)
    cells = jnp.arange(size) - size // 2
    inside = cells[:, None] ** 2 + cells[None, :] ** 2 <= radius**2
    corner = high // 2 - size // 2
    low = jnp.where(inside, spectrum_of(amplitude), 0)
    spectrum = jnp.zeros((high, high), jnp.complex64).at[corner : corner + size, corner : corner + size].set(low)
    return Guess(spectrum, jnp.ones((window, window), jnp.complex64))
