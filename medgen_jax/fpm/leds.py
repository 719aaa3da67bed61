"""Where the LEDs are, in the order of the frames, and from which direction each lights a tile.

Coordinates are those of the object: x to the right (columns), y down (rows), metres; the height counts
from the object towards the LEDs. A layout gives points around its own middle at height 1; the `Board` places
them. `Centres` replaces both where somebody else has already measured the positions in the spectrum.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm.units import check_length, check_number, check_signed_length

Cell = tuple[int, int]


def row_major(columns: int, rows: int, first: Cell) -> Iterator[Cell]:
    """Row after row, each from left to right."""
    return ((x, y) for y in range(rows) for x in range(columns))


def column_major(columns: int, rows: int, first: Cell) -> Iterator[Cell]:
    """Column after column, each downwards."""
    return ((x, y) for x in range(columns) for y in range(rows))


def serpentine(columns: int, rows: int, first: Cell) -> Iterator[Cell]:
    """Row after row, to the right and back in turn."""
    return ((x if y % 2 == 0 else columns - 1 - x, y) for y in range(rows) for x in range(columns))


def spiral(columns: int, rows: int, first: Cell) -> Iterator[Cell]:
    """Outwards from ``first``: +x, +y, twice -x, twice -y, three times +x and so on, skipping cells beside the grid."""
    (x, y), left = first, columns * rows
    steps = itertools.cycle(((1, 0), (0, 1), (-1, 0), (0, -1)))
    walk = ((dx, dy) for run, (dx, dy) in enumerate(steps, 2) for _ in range(run // 2))
    while left:
        if 0 <= x < columns and 0 <= y < rows:
            yield x, y
            left -= 1
        dx, dy = next(walk)
        x, y = x + dx, y + dy


ORDERS: dict[str, Callable[[int, int, Cell], Iterator[Cell]]] = {
    "row_major": row_major,
    "column_major": column_major,
    "serpentine": serpentine,
    "spiral": spiral,
}


@dataclass(frozen=True)
class Grid:
    """A rectangle of LEDs.

    Attributes:
      columns, rows: number of LEDs along x and y.
      pitch: distance of neighbours, m.
      order: of the frames, one of `ORDERS`; other corners to start from follow from the board's flips.
      origin: (column, row), from 0, of the point that becomes the middle of the board; may lie between LEDs.
        None: the middle of the grid.
      first: (column, row) at which a spiral starts. None: the middle, of an even number the left or upper one.
    """

    columns: int
    rows: int
    pitch: float
    order: str = "row_major"
    origin: tuple[float, float] | None = None
    first: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        check_number("optics.leds.columns", self.columns, 1, 1000)
        check_number("optics.leds.rows", self.rows, 1, 1000)
        check_length("optics.leds.pitch", self.pitch, 1e-4, 0.2)
        if self.order not in ORDERS:
            raise UserError(f"optics.leds.order = {self.order!r}: expected one of {', '.join(ORDERS)}")
        column, row = self.start
        if not (0 <= column < self.columns and 0 <= row < self.rows):
            size = f"{self.columns} columns and {self.rows} rows"
            raise UserError(f"optics.leds.first = {self.first}: lies outside of the grid of {size} (counted from 0)")

    @property
    def start(self) -> Cell:
        """(column, row) of the LED at which a spiral starts."""
        return self.first or ((self.columns - 1) // 2, (self.rows - 1) // 2)

    def points(self) -> np.ndarray:
        """(n, 3) float64: x and y in metres, height 1."""
        origin = self.origin or ((self.columns - 1) / 2, (self.rows - 1) / 2)
        cells = np.array(list(ORDERS[self.order](self.columns, self.rows, self.start)), np.float64)
        return _flat((cells - origin) * self.pitch)


@dataclass(frozen=True)
class Rings:
    """Concentric rings; the LEDs of a ring are evenly spaced, at angles that grow from x towards y (down).

    Attributes:
      counts: LEDs of each ring, innermost first. A first ring of 1 is the middle itself.
      step: distance between neighbouring rings, m.
      start_degrees: angle of the first LED of every ring.
    """

    counts: tuple[int, ...]
    step: float
    start_degrees: float = 0.0

    def __post_init__(self) -> None:
        _check_counts(self.counts)
        check_length("optics.leds.step", self.step, 1e-4, 0.2)

    def points(self) -> np.ndarray:
        """(n, 3) float64: x and y in metres, height 1."""
        directions, ring = _circles(self.counts, self.start_degrees)
        return _flat(directions * ring[:, None] * self.step)


@dataclass(frozen=True)
class Dome:
    """Rings on a sphere around the object, whose radius is the board's height.

    Attributes:
      counts: LEDs of each ring, the one nearest to the axis first. A first ring of 1 is the apex.
      step_degrees: angle between neighbouring rings, seen from the object.
      start_degrees: angle of the first LED of every ring around the axis.
    """

    counts: tuple[int, ...]
    step_degrees: float
    start_degrees: float = 0.0

    def __post_init__(self) -> None:
        _check_counts(self.counts)
        outermost = self.step_degrees * (len(self.counts) - (self.counts[0] == 1))
        check_number("optics.leds.step_degrees", self.step_degrees, 1e-3, 89)
        check_number("outermost ring of optics.leds, degrees from the axis", outermost, 0, 89.9, "use fewer or closer")

    def points(self) -> np.ndarray:
        """(n, 3) float64 on the unit sphere."""
        directions, ring = _circles(self.counts, self.start_degrees)
        angle = np.radians(ring * self.step_degrees)[:, None]
        return np.concatenate([directions * np.sin(angle), np.cos(angle)], axis=1)


@dataclass(frozen=True)
class Points:
    """LEDs wherever they are.

    Attributes:
      positions: (x, y) of each LED in metres, in the order of the frames.
    """

    positions: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        if not self.positions:
            raise UserError("optics.leds.positions: no LED is listed")
        for number, position in enumerate(self.positions):
            for value in position:
                check_signed_length(f"optics.leds.positions[{number}]", value, 1.0)

    def points(self) -> np.ndarray:
        """(n, 3) float64: x and y in metres, height 1."""
        return _flat(np.array(self.positions, np.float64))


Layout = Grid | Rings | Dome | Points
LAYOUTS: dict[str, type] = {"grid": Grid, "rings": Rings, "dome": Dome, "points": Points}


@dataclass(frozen=True)
class Slab:
    """Glass between LEDs and object, such as a slide, which bends light towards the axis.

    Attributes:
      thickness: m.
      index: refractive index.
    """

    thickness: float
    index: float = 1.52

    def __post_init__(self) -> None:
        check_length("optics.glass.thickness", self.thickness, 1e-5, 0.02)
        check_number("optics.glass.index", self.index, 1, 3)


@dataclass(frozen=True)
class Board:
    """A layout and its place: flipped, scaled, rotated, then shifted.

    Attributes:
      layout: one of `LAYOUTS`.
      height: of the LEDs above the object, less the thickness of a `Slab` between them, m.
      offset: (x, y) of the layout's middle from the optical axis, m.
      rotation_degrees: of the board, from x towards y.
      scale: factor of all lateral distances.
      flip_x, flip_y: whether the board is seen mirrored left to right, top to bottom.
    """

    layout: Layout
    height: float
    offset: tuple[float, float] = (0.0, 0.0)
    rotation_degrees: float = 0.0
    scale: float = 1.0
    flip_x: bool = False
    flip_y: bool = False

    def __post_init__(self) -> None:
        check_length("optics.leds.height", self.height, 1e-3, 2.0)
        for value in self.offset:
            check_signed_length("optics.leds.offset", value, 0.5)
        check_number("optics.leds.rotation_degrees", self.rotation_degrees, -360, 360)
        check_number("optics.leds.scale", self.scale, 0.1, 10)

    def positions(self) -> np.ndarray:
        """(n, 3) float64: x, y and height of every LED, m."""
        points = self.layout.points()
        if isinstance(self.layout, Dome):
            points[:, :2] *= self.height
        lateral = points[:, :2] * np.where([self.flip_x, self.flip_y], -1.0, 1.0) * self.scale
        cos, sin = np.cos(np.radians(self.rotation_degrees)), np.sin(np.radians(self.rotation_degrees))
        turned = lateral @ np.array([[cos, sin], [-sin, cos]])
        return np.column_stack([turned + self.offset, points[:, 2] * self.height])


@dataclass(frozen=True)
class Centres:
    """Measured centres of the LEDs' windows in the spectrum of one tile; no board, no glass, no other tile.

    Attributes:
      cells: (x, y) of each LED in cells of the spectrum, fractions included, from frequency 0.
      size: pixels along the side of the tile they were measured on.
      shift: (x, y) in cells added to all of them.
    """

    cells: tuple[tuple[float, float], ...]
    size: int
    shift: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        if not self.cells:
            raise UserError("optics.leds.cells: no LED is listed")
        check_number("optics.leds.size", self.size, 4, 1e5)


def direction_cosines(positions: Any, tile: Any = (0.0, 0.0), glass: Slab | None = None, xp: Any = np) -> Any:
    """Sines of the directions in which LEDs are seen from a tile, in air: components along x and y.

    Behind glass of thickness t, index n, the light of an LED at lateral distance l and height h meets the glass at
    ``u = l - t s / sqrt(n^2 - s^2)`` (Snell's law) with ``s = u / sqrt(u^2 + h^2)``: iterated, each round
    wins a factor of about ``n h / t``.

    Args:
      positions: (n, 3) x, y, height, m.
      tile: (x, y) of the middle of the tile, m.
      glass: on top of the heights.
      xp: numpy, or jax.numpy to differentiate with respect to positions and tile.

    Returns:
      (n, 2) array of ``xp``, each row shorter than 1.
    """
    lateral = positions[:, :2] - xp.reshape(xp.asarray(tile), (1, 2))
    squares, height = xp.sum(lateral**2, axis=1), positions[:, 2]
    # Share of the lateral distance that is covered in air; a share stays defined where the distance is 0.
    share = xp.ones_like(height)
    for _ in range(0 if glass is None else 24):
        ratio = share / xp.sqrt(share**2 * squares + height**2)
        share = 1 - glass.thickness * ratio / xp.sqrt(glass.index**2 - ratio**2 * squares)
    return lateral * (share / xp.sqrt(share**2 * squares + height**2))[:, None]


def placement_fields() -> tuple[str, ...]:
    """Names of the fields of a `Board` besides its layout."""
    return tuple(f.name for f in dataclasses.fields(Board) if f.name != "layout")


def _flat(lateral: np.ndarray) -> np.ndarray:
    return np.column_stack([lateral, np.ones(len(lateral))])


def _circles(counts: tuple[int, ...], start_degrees: float) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (n, 2) around each ring, and the ring's number (n,): 0 is the middle, else from 1."""
    start, shift = np.radians(start_degrees), int(counts[0] != 1)
    angles = np.concatenate([start + 2 * np.pi * np.arange(count) / count for count in counts])
    return np.column_stack([np.cos(angles), np.sin(angles)]), np.repeat(np.arange(len(counts)) + shift, counts)


def _check_counts(counts: tuple[int, ...]) -> None:
    if not counts or min(counts) < 1 or sum(counts) > 1_000_000:
        raise UserError(f"optics.leds.counts = {counts}: expected at least one ring, and at least one LED in each")
