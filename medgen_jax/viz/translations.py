"""The page of a translation: every image with its tiles and seam score, the worst seams beside their inputs.

One HTML file that opens from disk, loads nothing and runs nothing. Pictures are encoded anew, so no metadata of
theirs gets in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.viz.grids import grid
from medgen_jax.viz.markup import Markup, element
from medgen_jax.viz.page import page
from medgen_jax.viz.pictures import captioned, enlarged

LARGEST, SMALLEST = 320, 128  # pixels of the longer side of a picture on the page
PICTURES = 24
#: Above this, lines along the edges of tiles begin to show.
HIGH_SEAM = 1.05

_EXTRA_STYLE = """
.cases { display: flex; flex-wrap: wrap; gap: 18px; }
.cases figure { flex: 0 1 auto; max-width: calc((100% - 18px) / 2); }
.numbers .high { color: var(--warn); font-weight: 650; }
"""


class Row(NamedTuple):
    """One translated image.

    Attributes:
      label: what the page calls it.
      size: height, width, channels of the input.
      bits: of its levels.
      tiles: how many it was cut into; 1 when it was translated whole.
      seam_score: mean step at tile edges over the mean step elsewhere.
    """

    label: str
    size: tuple[int, int, int]
    bits: int
    tiles: int
    seam_score: float


class Gallery:
    """What the page shows: all rows, and pictures of those with the highest seam scores. Memory stays bounded."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        self._pictures: list[tuple[Row, np.ndarray, np.ndarray]] = []

    def add(self, row: Row, before: np.ndarray, after: np.ndarray) -> None:
        """Take up an image.

        Args:
          row: about it.
          before, after: input and output, (h, w, 1 or 3), ``uint8``, ``uint16`` or float in [-1, 1].
        """
        self.rows.append(row)
        # Sorting is stable: of equals, the first stay.
        kept = sorted([*self._pictures, (row, before, after)], key=lambda entry: _rank(entry[0]))[:PICTURES]
        self._pictures = [(r, b, a) if r is not row else (r, preview(b), preview(a)) for r, b, a in kept]

    def render(
        self, title: str, facts: Mapping[str, str], notes: tuple[str, ...] = (), kind: str = "Translation"
    ) -> str:
        """The page.

        Args:
          title: heading.
          facts: short facts by label.
          notes: sentences about how to read it.
          kind: what the page is about.
        """
        items = [element("div", element("dt", label), element("dd", value)) for label, value in facts.items()]
        body = [
            element("header", element("p", kind, cls="kind"), element("h1", title)),
            element("dl", items, cls="facts"),
            *(element("p", note, cls="note") for note in notes),
            self._shown(),
            _table(sorted(self.rows, key=_rank)),
            element("footer", "Written by medgen_jax. Generated images are synthetic: not for diagnostic use."),
        ]
        return page(f"{title}: {kind.lower()}", body, _EXTRA_STYLE)

    def write(
        self, path: Path, title: str, facts: Mapping[str, str], notes: tuple[str, ...] = (), kind: str = "Translation"
    ) -> Path:
        """Write `render` to a file, whole or not at all; its folder is made.

        Raises:
          UserError: when it cannot be written.
        """
        scratch = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(self.render(title, facts, notes, kind), encoding="utf-8")
            os.replace(scratch, path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); check the disk and the path") from error
        return path

    def _shown(self) -> Markup | None:
        if not self._pictures:
            return None
        tiled = any(row.tiles > 1 for row, _, _ in self._pictures)
        shown, all_ = len(self._pictures), len(self.rows)
        heading = "Input and output" + (f", {shown} of {all_}" if shown < all_ else "")
        said = "Highest seam scores first; pictures are reduced." if tiled else "Pictures are reduced."
        figures = [_figure(*entry) for entry in self._pictures]
        return element(
            "section", element("h2", heading), element("p", said, cls="note"), element("div", figures, cls="cases")
        )


def preview(image: np.ndarray) -> np.ndarray:
    """An image as ``uint8`` whose longer side is at most `LARGEST`, reduced by a whole factor (box averages).

    Args:
      image: (h, w, 1 or 3), ``uint8``, ``uint16`` or float in [-1, 1] (clipped).
    """
    factor = -(-max(image.shape[:2]) // LARGEST)
    height, width = (max(1, length // factor) for length in image.shape[:2])
    rows = (image[y * factor : (y + 1) * factor] for y in range(height))  # one strip at a time, as float
    means = np.stack([_strip(strip, width, factor) for strip in rows])
    if image.dtype.kind == "f":
        means = (np.clip(means, -1, 1) + 1) * 127.5
    elif image.dtype == np.uint16:
        means /= 257
    return np.rint(means).astype(np.uint8)


def _strip(strip: np.ndarray, width: int, factor: int) -> np.ndarray:
    """Box averages (width, c) of rows of pixels; a side shorter than the factor is one box."""
    cut = strip[:, : width * factor].astype(np.float32)
    return cut.reshape(cut.shape[0], width, -1, cut.shape[-1]).mean((0, 2))


def _rank(row: Row) -> tuple[bool, float]:
    """Worst first; what was not cut has no seams."""
    return row.tiles == 1, -row.seam_score if row.tiles > 1 else 0.0


def _figure(row: Row, before: np.ndarray, after: np.ndarray) -> Markup:
    picture = grid([[enlarged(before, SMALLEST), enlarged(after, SMALLEST)]], ["input", "output"])
    caption = f"{row.label}: seam score {row.seam_score:.3f}" if row.tiles > 1 else row.label
    return captioned(picture, caption)


def _table(rows: list[Row]) -> Markup:
    names = ("Image", "Height \u00d7 width", "Channels", "Bits", "Tiles", "Seam score")
    head = element("thead", element("tr", [element("th", name, scope="col") for name in names]))
    said = (
        "Seam score: mean step between pixels across the edges of tiles over the mean step everywhere else. "
        f"1 means that the edges look like any other place; above {HIGH_SEAM:g} look for lines."
    )
    body = element("tbody", [_line(row) for row in rows])
    table = element("div", element("table", head, body, cls="numbers"), cls="scroll")
    tiled = any(row.tiles > 1 for row in rows)
    return element("section", element("h2", "Images"), element("p", said, cls="note") if tiled else None, table)


def _line(row: Row) -> Markup:
    height, width, channels = row.size
    score = f"{row.seam_score:.3f}" if row.tiles > 1 else "\u2013"
    high = "high" if row.tiles > 1 and row.seam_score > HIGH_SEAM else None
    cells = [element("td", text) for text in (f"{height} \u00d7 {width}", str(channels), str(row.bits))]
    cells += [element("td", str(row.tiles) if row.tiles > 1 else "whole"), element("td", score, cls=high)]
    return element("tr", element("th", row.label, scope="row"), cells)
