"""Whole-slide images: pyramids of 8-bit RGB of which only regions are ever in memory.

What all readers of slides share; `medgen_jax.data.slides` opens them. Labels, macro images and
thumbnails of a file are never read.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image

from medgen_jax.core.errors import UserError

#: Micrometres per pixel that a microscope may have; beyond lie the resolutions of screens and printers.
_PLAUSIBLE = (0.01, 100.0)
#: 262,144 x 262,144, more than scanners make.
_MOST_PIXELS = 1 << 36
_BLOCK_PIXELS = 1 << 22


class Size(NamedTuple):
    """Pixels of a level."""

    height: int
    width: int


class Slide(abc.ABC):
    """An open slide; close it, or use it in a ``with`` statement.

    Attributes:
      path: its file.
      levels: sizes, the full one first.
      microns_per_pixel: down and across at level 0; None when the file does not say.
      has_profile: whether the file holds an ICC colour profile, which is not applied.
    """

    path: Path
    levels: tuple[Size, ...]
    microns_per_pixel: tuple[float, float] | None
    has_profile: bool

    @abc.abstractmethod
    def region(self, level: int, top: int, left: int, height: int, width: int) -> np.ndarray:
        """Pixels inside a level, (height, width, 3) uint8, from a corner counted in pixels of that level.

        White where nothing was scanned.

        Raises:
          UserError: for damaged data.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Give the file back."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def check_size(path: Path, levels: Sequence[Size]) -> None:
    """Refuse claims that no scanner makes.

    Raises:
      UserError: for levels without pixels, or more than `_MOST_PIXELS`.
    """
    for height, width in levels:
        if min(height, width) < 1 or height * width > _MOST_PIXELS:
            raise UserError(f"{path}: claims a level of {height:,} x {width:,} pixels, which is no slide; replace it")


def overview(slide: Slide, level: int, factor: int) -> np.ndarray:
    """A level shrunk by area averaging, (ceil(h / factor), ceil(w / factor), 3) uint8.

    Read from the coarsest level that is fine enough, in blocks of bounded size.
    """
    full = slide.levels[level]
    height, width = math.ceil(full.height / factor), math.ceil(full.width / factor)
    fine = [i for i, size in enumerate(slide.levels) if size.height >= height and size.width >= width]
    source = slide.levels[fine[-1]]
    down, across = source.height / height, source.width / width
    side = max(1, math.isqrt(int(_BLOCK_PIXELS / (down * across))))
    made = np.empty((height, width, 3), np.uint8)
    for y, x in itertools.product(range(0, height, side), range(0, width, side)):
        block = made[y : y + side, x : x + side]
        top, bottom = y * down, min((y + block.shape[0]) * down, source.height)
        left, right = x * across, min((x + block.shape[1]) * across, source.width)
        # Whole pixels around the block, whose edges may lie between pixels.
        row, column = math.floor(top), math.floor(left)
        pixels = slide.region(fine[-1], row, column, math.ceil(bottom) - row, math.ceil(right) - column)
        box = (left - column, top - row, right - column, bottom - row)
        block[...] = Image.fromarray(pixels).resize(block.shape[1::-1], Image.Resampling.BOX, box)
    return made


def scale(down: Any, across: Any) -> tuple[float, float] | None:
    """Micrometres per pixel from what a file says; None unless both are numbers of a microscope."""
    try:
        pair = float(down), float(across)
    except (TypeError, ValueError):
        return None
    return pair if all(_PLAUSIBLE[0] <= value <= _PLAUSIBLE[1] for value in pair) else None


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Turn whatever a decoder raises into one message that names the file."""
    try:
        yield
    except UserError:
        raise
    # The decoders raise nearly every exception type on damaged input, so none is singled out.
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: cannot be read as a slide ({reason}); replace or remove it") from error
