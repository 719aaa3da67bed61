"""The contact sheet: the first images of every class, beside real ones; or those of every source, beside it."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from medgen_jax.core.errors import UserError
from medgen_jax.counterfactuals import inputs
from medgen_jax.counterfactuals.inputs import Case, Wanted, levels_of
from medgen_jax.data import images, sources
from medgen_jax.synthesis.plan import Item, Sources
from medgen_jax.synthesis.runs import Run
from medgen_jax.synthesis.values import Classes
from medgen_jax.viz.grids import BACKGROUND, INK, TITLE_SIZE, grid

#: Images in a row, of synthetic and of real ones each.
ACROSS = 8
#: Rows of images that are not told apart by class, and of each class.
ROWS, ROWS_OF_CLASS = 4, 1
#: Sources that are shown.
SOURCES = 8
_GAP = 12  # pixels between synthetic and real images
Rows = list[list[np.ndarray]]


def of_numbers(folder: Path, items: Sequence[Item], classes: Classes, real: Sequence[Rows]) -> np.ndarray:
    """Synthetic images on the left, real ones on the right, and a band for every class.

    Args:
      folder: of the output.
      items: all of its images.
      classes: that were drawn.
      real: rows of real images for every band, as `real_images` gives them; empty where there are none.

    Returns:
      uint8 (h, w, 3).
    """
    bands = _bands(classes)
    made = []
    for kind in range(len(bands)):
        own = [item for item in items if len(bands) == 1 or item.kind == kind]
        made.append(_arranged([_read(folder / item.file) for item in own[: ACROSS * _height(bands)]]))
    across = max(len(row) for band in made for row in band)
    rows: Rows = []
    for band, left, right in zip(bands, made, real or [[]] * len(bands), strict=True):
        for i, (mine, theirs) in enumerate(itertools.zip_longest(left, right, fillvalue=[])):
            name = [_word(band if i == 0 else "")] if len(bands) > 1 else []
            rows.append([*name, *_filled(mine, across), *([_blank(_GAP), *theirs] if real else [])])
    first = 1 if len(bands) > 1 else 0
    return _titled(rows, {first: "synthetic"} | ({first + across + 1: "real"} if real else {}))


def of_sources(folder: Path, items: Sequence[Item], taken: Sources, classes: Classes) -> np.ndarray:
    """A row for every source and class: the source, then what was made of it; uint8 (h, w, 3)."""
    bands = _bands(classes)
    rows: Rows = []
    for source, case in enumerate(taken.cases[:SOURCES]):
        before = levels_of(case.read())
        for kind, band in enumerate(bands):
            own = [item for item in items if item.source == source and (len(bands) == 1 or item.kind == kind)]
            name = [_word(band)] if len(bands) > 1 else []
            rows.append([*name, before, _blank(_GAP), *(_read(folder / item.file) for item in own[:ACROSS])])
    first = 1 if len(bands) > 1 else 0
    return _titled(rows, {first: "source", first + 2: "synthetic"})


def real_images(run: Run, classes: Classes, say: Callable[[str], None]) -> list[Rows]:
    """Rows of images of the run's own data for `of_numbers`; none, and a note, where the data are not at hand.

    They are of the training split where there is one, and evenly spread over it.
    """
    size, _, channels = run.image.shape
    wanted, bands = Wanted(run.name, size, channels, run.config.data), _bands(classes)
    try:
        present = sources.splits(run.config.data)
        split = "train" if "train" in present else present[0]
        cases = inputs.of_split(split, wanted, run.config.data.classes)
        chosen = [inputs.spread(_of(band, cases), ACROSS * _height(bands)) for band in bands]
        return [_arranged([levels_of(case.read()) for case in band]) for band in chosen]
    except UserError as error:
        say(f"the sheet shows no real images: {error}")
        return []


def _bands(classes: Classes) -> tuple[str, ...]:
    """Names of the classes that are told apart; of one class, or none, what there is."""
    return classes.names or ("",)


def _height(bands: Sequence[str]) -> int:
    return ROWS if len(bands) == 1 else ROWS_OF_CLASS


def _of(band: str, cases: Sequence[Case]) -> list[Case]:
    """Images of a class; all where the data do not know it."""
    return [case for case in cases if case.label == band] or list(cases)


def _arranged(pictures: Sequence[np.ndarray]) -> Rows:
    return [list(pictures[i : i + ACROSS]) for i in range(0, len(pictures), ACROSS)]


def _filled(row: Sequence[np.ndarray], length: int) -> list[np.ndarray]:
    return [*row, *[_blank(1)] * (length - len(row))]


def _titled(rows: Rows, titles: dict[int, str]) -> np.ndarray:
    """The rows, filled up to the longest, with titles over some columns."""
    width = max(map(len, rows))
    return grid([_filled(row, width) for row in rows], [titles.get(i, "") for i in range(width)])


def _read(path: Path) -> np.ndarray:
    return levels_of(images.read_image(path))


def _blank(width: int) -> np.ndarray:
    return np.full((1, width, 3), BACKGROUND, np.uint8)


def _word(text: str) -> np.ndarray:
    """A cell with a word in it, in letters that the built-in font draws."""
    font = ImageFont.load_default(TITLE_SIZE)
    word = text.encode("ascii", "replace").decode()
    width = int(font.getlength(word)) + 2
    cell = Image.new("RGB", (width, 2 * TITLE_SIZE), BACKGROUND)
    ImageDraw.Draw(cell).text((0, TITLE_SIZE), word, fill=INK, font=font, anchor="lm")
    return np.asarray(cell)
