"""LEDs moved together, by four numbers, or one by one: what a calibration may change of a description."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm.leds import Board, Centres, Dome, Points, direction_cosines
from medgen_jax.fpm.optics import Optics


class Move(NamedTuple):
    """A change of all LEDs together.

    The directions of the LEDs of a flat board depend on its height and its scale by their ratio alone: one number.

    Attributes:
      x, y: shift of the board, in cells of the spectrum of the tile where the light is nearly axial.
      degrees: rotation, from x towards y.
      spread: share by which the centres move apart: less height of a flat board, more scale of a dome or of centres.
    """

    x: float = 0.0
    y: float = 0.0
    degrees: float = 0.0
    spread: float = 0.0


def moved(optics: Optics, move: Move, cell: float) -> Optics | None:
    """The microscope with its LEDs moved; None where that is no microscope.

    Args:
      optics: before.
      move: of all LEDs.
      cell: sine of one cell, ``wavelength / (N pixel)``.
    """
    try:
        return dataclasses.replace(optics, leds=_placed(optics, move, cell))
    except UserError:
        return None


def placement(optics: Optics) -> dict[str, float | list[float]]:
    """What `moved` may change, as a description has it."""
    leds = optics.leds
    if isinstance(leds, Centres):
        return {"shift": list(leds.shift)}
    distance = {"scale": leds.scale} if isinstance(leds.layout, Dome) else {"height": leds.height}
    return {"offset": list(leds.offset), "rotation_degrees": leds.rotation_degrees, **distance}


def towards(optics: Optics, cells: np.ndarray, size: int) -> Optics | None:
    """The microscope with every LED's centre in the spectrum displaced.

    Args:
      optics: before; `Centres` or a flat board.
      cells: (n, 2) displacements along x and y, cells of the spectrum of tiles of ``size`` pixels.
      size: N.

    Returns:
      flat boards become a board of `Points` at the same height; None where that is no microscope, and for a `Dome`,
      whose LEDs have heights of their own.
    """
    leds = optics.leds
    try:
        if isinstance(leds, Centres):
            own = np.array(leds.cells) + cells * (leds.size / size)
            return dataclasses.replace(optics, leds=dataclasses.replace(leds, cells=_pairs(own)))
        if isinstance(leds.layout, Dome):
            return None
        aimed = optics.sines + cells * optics.wavelength * optics.df(size)
        if not np.hypot(*aimed.T).max() < 1:
            return None
        lateral = _seen_at(optics, aimed)
        return dataclasses.replace(optics, leds=Board(Points(_pairs(lateral)), leds.height))
    except UserError:
        return None


def _placed(optics: Optics, move: Move, cell: float) -> Board | Centres:
    leds = optics.leds
    if isinstance(leds, Centres):
        factor = leds.size * optics.pixel * cell / optics.wavelength
        cos, sin = np.cos(np.radians(move.degrees)), np.sin(np.radians(move.degrees))
        turned = np.array(leds.cells) @ np.array([[cos, sin], [-sin, cos]]) * (1 + move.spread)
        shift = (leds.shift[0] + move.x * factor, leds.shift[1] + move.y * factor)
        return dataclasses.replace(leds, cells=_pairs(turned), shift=shift)
    dome = isinstance(leds.layout, Dome)
    apart = {"scale": leds.scale * (1 + move.spread)} if dome else {"height": leds.height / (1 + move.spread)}
    offset = (leds.offset[0] + move.x * cell * leds.height, leds.offset[1] + move.y * cell * leds.height)
    return dataclasses.replace(leds, offset=offset, rotation_degrees=leds.rotation_degrees + move.degrees, **apart)


def _seen_at(optics: Optics, sines: np.ndarray) -> np.ndarray:
    """Lateral positions (n, 2) at the board's height from which light has these sines at the tile, m."""
    positions = optics.leds.positions()
    middle = np.array(optics.tile)
    # The step is that of an axial LED times its distance over the height: short of Newton's, so it never overshoots.
    for _ in range(100):
        away = np.sqrt(np.sum((positions[:, :2] - middle) ** 2, axis=1) + positions[:, 2] ** 2)
        lack = sines - direction_cosines(positions, optics.tile, optics.glass)
        positions[:, :2] += lack * away[:, None]
    return positions[:, :2]


def _pairs(rows: np.ndarray) -> tuple[tuple[float, float], ...]:
    return tuple((float(x), float(y)) for x, y in rows)
