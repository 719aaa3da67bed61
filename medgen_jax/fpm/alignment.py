"""What a tile's object leaves open beside its neighbours: a factor, a phase, a ramp of phase. NumPy only.

The same object recovered twice differs by ``exp(l + i (phi + r . x))``: the brightness that became 1, the phase of the
first guess, and a ramp, because LEDs that are all a little beside their place show the same frames of a tilted object.
Neighbours tell the differences where they overlap; least squares over all pairs give one factor, phase and ramp per
tile, of mean 0 over the field since the field's own are open as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Alignment(NamedTuple):
    """What is taken off each tile.

    Attributes:
      log_scale: (tiles,) natural logarithm of its amplitude's factor.
      phase: (tiles,) radians, at pixel (0, 0) of the field.
      ramp: (tiles, 2) radians per pixel, down and across.
    """

    log_scale: np.ndarray
    phase: np.ndarray
    ramp: np.ndarray

    def applied(self, obj: np.ndarray, number: int, corner: tuple[int, int]) -> np.ndarray:
        """The object (M, M) of tile ``number`` in step with the others; ``corner`` is its first pixel in the field."""
        rows, columns = (start + np.arange(side) for start, side in zip(corner, obj.shape, strict=True))
        down, across = self.ramp[number]
        factor = np.exp(-self.log_scale[number] - 1j * (self.phase[number] + down * rows))
        return (obj * factor[:, None] * np.exp(-1j * across * columns)).astype(np.complex64)


class Difference(NamedTuple):
    """How the overlap of one tile differs from that of another.

    Attributes:
      log_scale: logarithm of the ratio of amplitudes.
      phase: radians, at the overlap's middle.
      ramp: (2,) radians per pixel.
    """

    log_scale: float
    phase: float
    ramp: np.ndarray


class Disagreement(NamedTuple):
    """Root mean square of the difference of two tiles over that of their values, where they overlap.

    A constant phase p between tiles that are alike otherwise makes ``2 sin(p / 2)``, a factor f of amplitude
    ``|f - 1| / sqrt((f^2 + 1) / 2)``: steps that a blend turns into slopes, of which no edge tells.

    Attributes:
      mean: over all overlaps, each pixel weighed alike but for a taper towards the overlaps' borders.
      worst: of the two tiles that differ most.
    """

    mean: float
    worst: float


def align(objects: Sequence[np.ndarray], corners: Sequence[tuple[int, int]]) -> Alignment:
    """Bring the objects of overlapping tiles in step.

    Args:
      objects: (M, M) complex, one per tile, all of one size.
      corners: first row and column of each in the field.

    Returns:
      see `Alignment`; zeros for a single tile, and for tiles that overlap with no other.
    """
    count = len(objects)
    pairs, found, middles, sizes = [], [], [], []
    for s, t, low, size in _overlaps(corners, objects[0].shape[0]):
        parts = [objects[i][_box(low - corners[i], size)] for i in (s, t)]
        pairs.append((s, t))
        found.append(compare(*parts))
        middles.append(low + (size - 1) / 2)
        sizes.append(size.prod())
    if not pairs:
        return Alignment(np.zeros(count), np.zeros(count), np.zeros((count, 2)))
    matrix = np.zeros((len(pairs), count))
    matrix[np.arange(len(pairs)), [s for s, _ in pairs]] = 1
    matrix[np.arange(len(pairs)), [t for _, t in pairs]] = -1
    weights = np.sqrt(np.array(sizes) / max(sizes))
    ramp = _solved(matrix, weights, np.stack([f.ramp for f in found]))
    log_scale = _solved(matrix, weights, np.array([f.log_scale for f in found]))
    # At the middle of an overlap the phases differ by what the ramps make there, and by the tiles' own.
    tilted = np.sum((matrix @ ramp) * np.array(middles), axis=1)
    own = np.array([f.phase for f in found]) - tilted
    start = _along_a_tree(pairs, own, count)
    phase = start + _solved(matrix, weights, np.angle(np.exp(1j * (own - matrix @ start))))
    return Alignment(log_scale, phase - phase.mean(), ramp)


def disagreement(
    objects: Sequence[np.ndarray], corners: Sequence[tuple[int, int]], alignment: Alignment
) -> Disagreement:
    """How far neighbouring tiles are from each other where they overlap, before they are blended.

    Args:
      objects, corners: as `align` takes them.
      alignment: what is taken off before.

    Returns:
      zeros where no tiles overlap, and where overlaps are dark.
    """
    apart, light = [], []
    for s, t, low, size in _overlaps(corners, objects[0].shape[0]):
        one, other = (alignment.applied(objects[i][_box(low - corners[i], size)], i, tuple(low)) for i in (s, t))
        taper = _hill(one.shape[0])[:, None] * _hill(one.shape[1])
        apart.append(np.sum(taper * np.abs(one - other) ** 2))
        light.append(np.sum(taper * (np.abs(one) ** 2 + np.abs(other) ** 2)) / 2)
    lit = np.array(light) > 0
    if not lit.any():
        return Disagreement(0.0, 0.0)
    apart, light = np.array(apart)[lit], np.array(light)[lit]
    return Disagreement(float(np.sqrt(apart.sum() / light.sum())), float(np.sqrt((apart / light).max())))


def compare(one: np.ndarray, other: np.ndarray) -> Difference:
    """The difference of two objects of the same pixels, (h, w) complex each, 2 x 2 or more.

    Slopes are found at a distance of one pixel first, then of 2, 4, 8, ..., each time free of the slope known so
    far: never more than half a turn, and as exact as the overlap is wide. The middle counts most.
    """
    taper = _hill(one.shape[0])[:, None] * _hill(one.shape[1])
    product = taper * (one * np.conj(other)).astype(np.complex128)
    energies = [float(np.sum(taper * np.abs(part) ** 2)) for part in (one, other)]
    log_scale = 0.5 * np.log(energies[0] / energies[1]) if min(energies) > 0 else 0.0
    ramp = np.array([_slope(product), _slope(product.T)])
    rows, columns = (np.arange(n) - (n - 1) / 2 for n in one.shape)
    level = np.exp(-1j * ramp[0] * rows)[:, None] * np.exp(-1j * ramp[1] * columns)
    return Difference(log_scale, float(np.angle(np.sum(product * level))), ramp)


def _overlaps(corners: Sequence[tuple[int, int]], side: int) -> Iterator[tuple[int, int, np.ndarray, np.ndarray]]:
    """Numbers of two tiles that are neighbours, first row and column of what they share, and its size.

    Neighbours at a corner say nothing that those at the sides do not say better.
    """
    for s in range(len(corners)):
        for t in range(s + 1, len(corners)):
            low = np.maximum(corners[s], corners[t])
            size = np.minimum(corners[s], corners[t]) + side - low
            if size.min() >= 2 and (np.array(corners[s]) == corners[t]).any():
                yield s, t, low, size


def _slope(product: np.ndarray) -> float:
    """Radians per row."""
    slope, lag = 0.0, 1
    while lag < max(2, len(product) // 2 + 1):
        turned = np.sum(product[lag:] * np.conj(product[:-lag])) * np.exp(-1j * slope * lag)
        slope += float(np.angle(turned)) / lag
        lag *= 2
    return slope


def _hill(count: int) -> np.ndarray:
    return np.sin(np.pi * (np.arange(count) + 0.5) / count)


def _box(start: np.ndarray, size: np.ndarray) -> tuple[slice, slice]:
    return slice(start[0], start[0] + size[0]), slice(start[1], start[1] + size[1])


def _solved(matrix: np.ndarray, weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Weighted least squares of smallest norm, hence of mean 0."""
    scaled = values * (weights if values.ndim == 1 else weights[:, None])
    return np.linalg.lstsq(matrix * weights[:, None], scaled, rcond=None)[0]


def _along_a_tree(pairs: Sequence[tuple[int, int]], differences: np.ndarray, count: int) -> np.ndarray:
    """Phases that satisfy as many pairs as it takes to reach every tile."""
    phases, left = np.zeros(count), set(range(count))
    while left:
        reached = {left.pop()}
        grown = True
        while grown:
            grown = False
            for (s, t), difference in zip(pairs, differences, strict=True):
                if (s in reached) != (t in reached):
                    known, new, sign = (s, t, -1) if s in reached else (t, s, 1)
                    phases[new] = phases[known] + sign * difference
                    reached.add(new)
                    left.discard(new)
                    grown = True
    return phases
