"""From maps of fields to tiles on disk: where tiles lie, which values their levels stand for, and the files.

    OUT/amplitude/{train,val,test}/{A,B}/FIELD_r00000_c00000.png    A the phase, B the amplitude of the same colour
    OUT/rgb/{train,val,test}/{A,B}/...                              of three colours: B the three amplitudes
    OUT/masks/{train,val,test}/...                                  255 where the pair is to be believed

One scale holds for all tiles, or their levels would not compare: the phase from the lowest to the highest of its
usual values, each amplitude from 0 to the highest, both as the training tiles have them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data.images import write_image
from medgen_jax.reconstruction.pairs.registered import Registered

AMPLITUDE, RGB, MASKS = "amplitude", "rgb", "masks"
#: Share of a tile that must be believed.
LEAST_VALID = 0.9
#: Share of the longer side of a single field that validates.
_VALIDATING = 0.2
#: Percentiles of the training values that become the lowest and the highest level.
_LOW, _HIGH = 0.1, 99.9
#: Values of a tile that are looked at for them.
_LOOKED_AT = 16_384


class Tile(NamedTuple):
    """A tile of a field: its split, its first row and column in the field's maps, and how much of it is valid."""

    split: str
    top: int
    left: int
    valid: float


class Scale(NamedTuple):
    """Level n stands for ``low + n * step``."""

    low: float
    step: float

    def levels(self, values: np.ndarray, bits: int) -> np.ndarray:
        """The nearest levels, uint8 or uint16; what lies outside becomes the lowest or the highest."""
        levels = np.rint((values.astype(np.float64) - self.low) / self.step)
        return np.clip(levels, 0, 2**bits - 1).astype(f"uint{bits}")


def least_sides(size: int, gap: int, alone: bool) -> tuple[int, int]:
    """Shorter and longer side that a field's maps need; a field alone holds tiles of two splits, and a gap."""
    return size, 2 * size + gap if alone else size


def places(shape: tuple[int, int], size: int, split: str, gap: int) -> list[tuple[str, int, int]]:
    """Split, first row and first column of each tile of one field, evenly spread.

    Args:
      shape: of its maps, at least `least_sides`.
      size: of a tile.
      split: of all its tiles. Empty: the field is alone, and the end of its longer side validates.
      gap: pixels between the two parts.
    """
    if split:
        return [(split, top, left) for top in _starts(shape[0], size) for left in _starts(shape[1], size)]
    axis = int(shape[1] > shape[0])
    last = max(size, round(_VALIDATING * shape[axis]))
    parts = {"train": (0, shape[axis] - last - gap), "val": (shape[axis] - last, last)}
    found = []
    for name, (first, length) in parts.items():
        along, across = [first + start for start in _starts(length, size)], _starts(shape[1 - axis], size)
        tops, lefts = (along, across) if axis == 0 else (across, along)
        found += [(name, top, left) for top in tops for left in lefts]
    return found


def _starts(length: int, size: int) -> list[int]:
    """First pixels along one side: the fewest tiles that cover it, but none that overlap by more than half."""
    free = length - size
    if 2 * free < size:
        return [free // 2]
    steps = math.ceil(free / size)
    return [round(i * free / steps) for i in range(steps + 1)]


def tiles_of(maps: Registered, size: int, split: str, gap: int) -> list[Tile]:
    """All tiles of a field, with the share of each that is valid.

    Raises:
      UserError: maps that are too small, because shifts between colours have left too little of the frames.
    """
    needed = least_sides(size, gap, alone=not split)
    if any(side < least for side, least in zip(sorted(maps.phase.shape), needed, strict=True)):
        raise UserError(
            f"shifts between colours have left {maps.phase.shape[0]} x {maps.phase.shape[1]} pixels, too few for "
            f"--pair_size {size}; set it lower"
        )
    spots = places(maps.phase.shape, size, split, gap)
    return [Tile(*spot, float(maps.valid[_box(spot[1:], size)].mean())) for spot in spots]


class Ranges:
    """Usual values of the training tiles, added one field after the other."""

    def __init__(self) -> None:
        self._values: list[np.ndarray] = []

    def add(self, maps: Registered, tiles: Iterable[Tile], size: int) -> None:
        """The valid values of these tiles, of each an equal share."""
        for tile in tiles:
            box = _box((tile.top, tile.left), size)
            values = np.concatenate([maps.phase[box][..., None], maps.amplitude[box]], axis=-1)[maps.valid[box]]
            self._values.append(values[:: max(1, len(values) // _LOOKED_AT)])

    def scales(self, bits: int) -> list[Scale]:
        """Of the phase, and of the amplitude of each colour."""
        values, steps = np.concatenate(self._values), 2**bits - 1
        low, high = np.percentile(values, (_LOW, _HIGH), axis=0)
        low[1:] = 0
        # A constant gets a step all the same.
        return [Scale(float(a), float(b - a) / steps or 1.0) for a, b in zip(low, high, strict=True)]


def write_tile(
    folder: Path, name: str, maps: Registered, tile: Tile, size: int, scales: Sequence[Scale], bits: int, phase: int
) -> float:
    """Write one tile.

    Args:
      folder: of all pairs.
      name: of the files, without suffix.
      maps: of the tile's field.
      tile: which part of them.
      size: its side.
      scales: of the phase, and of each colour.
      bits: 8 or 16.
      phase: number of the colour that the phase is of.

    Returns:
      Share of its samples that lie outside of their scale.

    Raises:
      UserError: a place that cannot be written.
    """
    box, top = _box((tile.top, tile.left), size), 2**bits - 1
    planes = np.concatenate([maps.phase[box][..., None], maps.amplitude[box]], axis=-1)
    levels = np.stack([scale.levels(planes[..., i], bits) for i, scale in enumerate(scales)], axis=-1)
    _write(folder / AMPLITUDE / tile.split / "A", name, levels[..., :1])
    _write(folder / AMPLITUDE / tile.split / "B", name, levels[..., 1 + phase, None])
    if levels.shape[-1] == 4:
        _write(folder / RGB / tile.split / "A", name, levels[..., :1])
        _write(folder / RGB / tile.split / "B", name, levels[..., 1:])
    _write(folder / MASKS / tile.split, name, np.where(maps.valid[box], 255, 0).astype(np.uint8))
    lows, highs = (np.array([s.low + s.step * n for s in scales]) for n in (-0.5, top + 0.5))
    return float(((planes < lows) | (planes > highs)).mean())


def _write(folder: Path, name: str, image: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_image(folder / f"{name}.png", image)


def _box(corner: tuple[int, int], size: int) -> tuple[slice, slice]:
    top, left = corner
    return slice(top, top + size), slice(left, left + size)
