"""Cut an image of any size into overlapping tiles, and blend what comes back without seams.

Tiles are spread evenly, begin at multiples of up to `STEP` pixels, and overlap by at least what was asked
for. A network that halves its input several times treats the pixels of a cell differently; tiles that
begin anywhere would disagree about the finest detail, and a blend of them would be a blur.

Their weights rise as sin^2 over the overlap, so that both the blend and its slope are continuous, and are
normalised by their sum; as the grid is a product of rows and columns, that sum is one of two vectors. NumPy
only: rows of tiles stream through, and no more than one row of tiles is ever held.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

#: Tiles begin at multiples of this: of four halvings. Less where tiles are small, so that at most an eighth of their
#: distance is given up for it.
STEP = 16


def _starts(length: int, tile: int, overlap: int) -> tuple[int, ...]:
    """First pixels of the fewest evenly spread tiles on the grid of steps that cover ``length`` with that overlap.

    The last one may reach beyond the end, by less than a step.
    """
    if length <= tile:
        return (0,)
    step = STEP
    while step > 1 and 8 * step > tile - overlap:
        step //= 2
    furthest, steps = (tile - overlap) // step, math.ceil((length - tile) / step)
    count = math.ceil(steps / furthest)
    return tuple(step * (i * steps // count) for i in range(count + 1))


def _weights(starts: tuple[int, ...], tile: int, overlap: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """The ramp of one tile, (tile,), and the sum of all ramps, (length,)."""
    ramp = (np.arange(tile) + 0.5) / max(overlap, 1)
    ramp = np.sin(np.pi / 2 * np.minimum(1, np.minimum(ramp, ramp[::-1]))) ** 2
    total = np.zeros(max(length, starts[-1] + tile))
    for start in starts:
        total[start : start + tile] += ramp
    return ramp.astype(np.float32), total.astype(np.float32)


@dataclass(frozen=True)
class Grid:
    """Overlapping square tiles over an image.

    Attributes:
      height, width: of the image, pixels; a side shorter than a tile is one tile, padded by reflection,
        as is the last tile of a side.
      tile: side of a tile, pixels.
      overlap: least overlap of neighbours, pixels, below ``tile``.
    """

    height: int
    width: int
    tile: int
    overlap: int

    def __post_init__(self) -> None:
        if min(self.height, self.width, self.tile) < 1 or not 0 <= self.overlap < self.tile:
            raise ValueError(f"{self}: sizes must be positive and the overlap smaller than a tile")

    @cached_property
    def tops(self) -> tuple[int, ...]:
        """First row of every row of tiles."""
        return _starts(self.height, self.tile, self.overlap)

    @cached_property
    def lefts(self) -> tuple[int, ...]:
        """First column of every tile of a row."""
        return _starts(self.width, self.tile, self.overlap)

    @property
    def corners(self) -> list[tuple[int, int]]:
        """Top left pixel of every tile, row by row."""
        return [(top, left) for top in self.tops for left in self.lefts]

    def cut(self, image: np.ndarray, top: int, left: int) -> np.ndarray:
        """The tile at a corner, (tile, tile, c), of an image (h, w, c); continued by reflection where it ends."""
        part = image[top : top + self.tile, left : left + self.tile]
        missing = [(0, self.tile - part.shape[0]), (0, self.tile - part.shape[1]), (0, 0)]
        # A side of one pixel has nothing to reflect.
        return np.pad(part, missing, mode="symmetric") if any(after for _, after in missing) else part

    def blend(self, tiles: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Merge tiles given in the order of `corners`; yields the image's rows from top to bottom.

        Args:
          tiles: (tile, tile, c) each, floating point.

        Yields:
          (rows, width, c) float32, as soon as no later tile reaches into them.
        """
        down, down_sum = _weights(self.tops, self.tile, self.overlap, self.height)
        across, across_sum = _weights(self.lefts, self.tile, self.overlap, self.width)
        band, stream = None, iter(tiles)
        for number, top in enumerate(self.tops):
            for left in self.lefts:
                tile = np.asarray(next(stream), np.float32)
                if band is None:
                    band = np.zeros((self.tile, len(across_sum), tile.shape[-1]), np.float32)
                band[:, left : left + self.tile] += tile * (down[:, None] * across)[..., None]
            last = number + 1 == len(self.tops)
            done = self.height - top if last else self.tops[number + 1] - top
            rows = band[:done] / (down_sum[top : top + done, None] * across_sum)[..., None]
            yield rows[:, : self.width]
            band = np.concatenate([band[done:], np.zeros_like(band[:done])])

    def edges(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows and columns at which a tile begins or ends inside the image: where seams would be."""

        def inner(starts: tuple[int, ...], length: int) -> np.ndarray:
            ends = set(starts) | {s + self.tile for s in starts}
            return np.array(sorted(e for e in ends if 0 < e < length), np.int64)

        return inner(self.tops, self.height), inner(self.lefts, self.width)


class Seams:
    """`seam_score` of an image whose rows arrive a few at a time."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._down: list[np.ndarray] = []  # mean step from each row to the next
        self._across = np.zeros(grid.width - 1)  # sum over rows of the mean step to the next column
        self._last: np.ndarray | None = None

    def add(self, rows: np.ndarray) -> None:
        """The next rows, (n, width, c), any scale."""
        # Wide enough for differences of integers.
        rows = rows.astype(np.float32)
        self._across += np.abs(np.diff(rows, axis=1)).mean(2).sum(0)
        joined = rows if self._last is None else np.concatenate([self._last, rows])
        self._down.append(np.abs(np.diff(joined, axis=0)).mean((1, 2)))
        self._last = rows[-1:]

    def score(self) -> float:
        """The ratio, once all rows were added; 1 for a single tile and for an image without any steps."""
        on, off = [], []
        steps = np.concatenate(self._down), self._across / self._grid.height
        for values, edges in zip(steps, self._grid.edges(), strict=True):
            at_edges = np.isin(np.arange(len(values)), edges - 1)
            on.append(values[at_edges])
            off.append(values[~at_edges])
        on, off = np.concatenate(on), np.concatenate(off)
        if not len(on) or not len(off) or off.mean() == 0:
            return 1.0 if not len(on) or on.mean() == 0 else math.inf
        return float(on.mean() / off.mean())


def seam_score(image: np.ndarray, grid: Grid) -> float:
    """Mean absolute step across the tiles' edges over the mean step everywhere else; 1 means no seams.

    Args:
      image: (h, w, c), any scale.
      grid: the tiles it was blended from.

    Returns:
      The ratio; 1 for a single tile and for an image without any steps.
    """
    seams = Seams(grid)
    seams.add(np.asarray(image))
    return seams.score()
