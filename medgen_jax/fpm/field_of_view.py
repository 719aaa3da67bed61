"""A whole field: overlapping tiles, each lit from its own angles, solved in chunks and blended without seams.

LEDs are near: across a field their directions change, so each tile has its own `Optics.at_pixel`. A
tile repeats in its transforms though its field does not, which spoils its border; the taper of the blend gives that
border least weight. `alignment` brings the tiles in step before.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.fpm.alignment import Alignment, Disagreement, align, disagreement
from medgen_jax.fpm.backends import at_once
from medgen_jax.fpm.leds import Centres
from medgen_jax.fpm.optics import Optics
from medgen_jax.fpm.solve import Settings, Solution, solve
from medgen_jax.ops.tiles import Grid, Seams

#: Side of tiles of a field that is larger, pixels of a frame: illumination is plane over so much, and fields of that
#: size transform fast.
TILE = 256
#: Bytes of frames, spectra and objects of the tiles that are solved in one call.
CHUNK_BYTES = 2**29

_NO_ARRAYS = ("spectrum", "ended")

Read = Callable[[slice, slice], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Cover(Grid):
    """Tiles that end where the field ends: nothing is known beyond it, and reflected frames fit no LED.

    Attributes:
      factor: first pixels are multiples of it, as are all sizes.
    """

    factor: int = 1

    @cached_property
    def tops(self) -> tuple[int, ...]:
        """First row of every row of tiles."""
        return self._starts(self.height)

    @cached_property
    def lefts(self) -> tuple[int, ...]:
        """First column of every tile of a row."""
        return self._starts(self.width)

    def finer(self, factor: int) -> Cover:
        """The same tiles on pixels ``factor`` times as fine."""
        sizes = (side * factor for side in (self.height, self.width, self.tile, self.overlap))
        return Cover(*sizes, self.factor * factor)

    def _starts(self, length: int) -> tuple[int, ...]:
        free, step = (length - self.tile) // self.factor, (self.tile - self.overlap) // self.factor
        count = math.ceil(free / step)
        return tuple(self.factor * round(i * free / max(count, 1)) for i in range(count + 1))


class Field(NamedTuple):
    """A solved field.

    Attributes:
      obj: (height u, width u) complex64, u the up-sampling.
      cover: the tiles, in pixels of the frames, in the order of the solution.
      optics: of each tile.
      solution: of all tiles, as `solve_tiles` gives it, but for ``obj``: that of the tile in the ``middle``.
      middle: number of the tile nearest to the middle.
      alignment: what was taken off each tile.
      seam_score: of real and imaginary part, `medgen_jax.ops.tiles.seam_score`; 1 for no seams. Blind to steps that
        the blend has made into slopes.
      disagreement: of tiles before the blend, which sees those; 0 for none.
    """

    obj: np.ndarray
    cover: Cover
    optics: tuple[Optics, ...]
    solution: Solution
    middle: int
    alignment: Alignment
    seam_score: float
    disagreement: Disagreement


def solve_field(
    read: Read,
    frame: tuple[int, int],
    optics: Optics,
    settings: Settings | None = None,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    told: Callable[[int, int], None] = lambda done, of: None,
    **options: Any,
) -> Field:
    """Object of a whole field, its tiles solved, aligned and blended.

    Args:
      read: ``read(rows, columns)`` gives (n, h, w) of all frames, see `medgen_jax.fpm.solve.solve`.
      frame: height and width of a frame.
      optics: of the field's middle.
      settings: None: the defaults.
      tile, overlap: see `cover_of`.
      told: called with tiles done and tiles in all.
      **options: of `solve`.

    Raises:
      UserError: as `solve` and `cover_of`.
    """
    cover = cover_of(frame, tile, overlap)
    places = optics_of(optics, cover)
    solution = solve_tiles(read, cover, places, settings, told=told, **options)
    fine = cover.finer(places[0].factor)
    alignment = align(list(solution.obj), fine.corners)
    obj, score = blended(solution.obj, fine, alignment)
    apart = disagreement(list(solution.obj), fine.corners, alignment)
    middle = middle_of(cover)
    return Field(obj, cover, places, solution._replace(obj=solution.obj[middle]), middle, alignment, score, apart)


def cover_of(frame: tuple[int, int], tile: int | None = None, overlap: int | None = None) -> Cover:
    """The tiles of a field.

    Args:
      frame: height and width, pixels.
      tile: side. None: the whole frame where it is square and no larger than `TILE`, else `TILE` or the
        shorter side.
      overlap: at least so much of neighbours. None: a quarter of a tile.

    Raises:
      UserError: a tile beyond the frame, or an overlap that leaves no step.
    """
    shorter = min(frame)
    tile = min(shorter, TILE) if tile is None else tile
    if not 4 <= tile <= shorter:
        raise UserError(f"tile = {tile}: must lie between 4 and the shorter side of a frame, {shorter} pixels")
    overlap = tile // 4 if overlap is None else overlap
    if not 0 <= overlap <= tile // 2:
        raise UserError(f"overlap = {overlap}: must lie between 0 and half a tile, {tile // 2} pixels")
    return Cover(*frame, tile, overlap)


def optics_of(optics: Optics, cover: Cover) -> tuple[Optics, ...]:
    """The microscope as each tile sees it, with one up-sampling that is enough for all.

    Raises:
      UserError: measured centres, which hold for one tile, and several tiles.
    """
    corners, frame = cover.corners, (cover.height, cover.width)
    if len(corners) > 1 and isinstance(optics.leds, Centres):
        raise UserError(
            f"optics.leds: measured centres hold for one tile, the field has {len(corners)}; describe the board, or "
            f"cut the frames to one tile of {optics.leds.size} pixels"
        )
    if len(corners) == 1 and cover.height == cover.width:
        return (dataclasses.replace(optics, upsampling=optics.factor),)
    half, places = (cover.tile - 1) / 2, []
    for top, left in corners:
        place = optics.at_pixel(left + half, top + half, frame)
        shifted = tuple(own + more for own, more in zip(optics.tile, place.tile, strict=True))
        places.append(dataclasses.replace(optics, tile=shifted))
    factor = optics.upsampling or max(place.upsampling_required for place in places)
    return tuple(dataclasses.replace(place, upsampling=factor) for place in places)


def solve_tiles(
    read: Read,
    cover: Cover,
    places: Sequence[Optics],
    settings: Settings | None = None,
    *,
    told: Callable[[int, int], None] = lambda done, of: None,
    chunk: int | None = None,
    **options: Any,
) -> Solution:
    """The solution of every tile, a few in a call; ``spectrum`` is None, since it is as large as the objects are.

    Args:
      read, settings, told, **options: as `solve_field` takes them.
      cover: the tiles.
      places: optics of each.
      chunk: tiles per call. None: one for each device where tiles are solved one by one anyway
        (`medgen_jax.fpm.backends`), else what `CHUNK_BYTES` hold on each.
    """
    corners, parts, done = cover.corners, [], 0
    chunk = min(chunk or _chunk(cover.tile, places[0]), len(corners))
    while done < len(corners):
        # The last call is as large as the others, or it would compile anew: it repeats tiles that are done.
        start = min(done, len(corners) - chunk)
        chosen = range(start, start + chunk)
        frames = np.stack([read(*_slices(corners[number], cover.tile)) for number in chosen])
        got = solve(frames, [places[number] for number in chosen], settings, **options)
        fresh = done - start
        parts.append([value[fresh:] for value in got._replace(spectrum=())])
        done = start + chunk
        told(done, len(corners))
    joined = Solution(*zip(*parts, strict=True))
    arrays = {name: np.concatenate(getattr(joined, name)) for name in Solution._fields if name not in _NO_ARRAYS}
    return Solution(**arrays, spectrum=None, ended=sum(joined.ended, ()))


def blended(objects: Sequence[np.ndarray], fine: Cover, alignment: Alignment) -> tuple[np.ndarray, float]:
    """One object of all tiles, and its seam score.

    Args:
      objects: (M, M) complex each.
      fine: the tiles, in pixels of the object.
      alignment: of the objects.
    """

    def planes() -> Iterator[np.ndarray]:
        for number, corner in enumerate(fine.corners):
            level = alignment.applied(objects[number], number, corner)
            yield np.stack([level.real, level.imag], axis=-1)

    seams, rows = Seams(fine), []
    for band in fine.blend(planes()):
        seams.add(band)
        rows.append(band[..., 0] + 1j * band[..., 1])
    return np.concatenate(rows).astype(np.complex64), seams.score()


def middle_of(cover: Cover) -> int:
    """Number of the tile nearest to the middle of the field."""
    off = np.array(cover.corners) + cover.tile / 2 - (cover.height / 2, cover.width / 2)
    return int(np.argmin(np.sum(off**2, axis=1)))


def _slices(corner: tuple[int, int], tile: int) -> tuple[slice, slice]:
    top, left = corner
    return slice(top, top + tile), slice(left, left + tile)


def _chunk(tile: int, optics: Optics) -> int:
    # Frames as float32, and of the object: spectrum, best spectrum, object and their temporary copies.
    each = 4 * optics.count * tile**2 + 6 * 8 * (optics.factor * tile) ** 2
    return at_once(CHUNK_BYTES // each)
