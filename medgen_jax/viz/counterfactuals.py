"""Pictures of counterfactuals and their page: every residual beside that of the control, all on one scale.

One HTML file that opens from disk, loads nothing and runs nothing. Pictures are encoded anew, so no metadata of theirs
gets in.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.viz.grids import save_png
from medgen_jax.viz.markup import Markup, element
from medgen_jax.viz.page import page
from medgen_jax.viz.pictures import captioned, embedded, enlarged
from medgen_jax.viz.translations import preview

SHOWN = 24  # images with pictures on the page
SMALLEST = 128  # pixels of the longer side of a picture on the page
#: Colours of a signed residual at -1, 0 and +1 of the scale, and of an absolute one at 0, 0.5 and 1.
SIGNED = ((30, 90, 215), (128, 128, 128), (235, 120, 20))
ABSOLUTE = ((0, 0, 0), (200, 60, 20), (255, 240, 150))
BOX = (70, 235, 110)
#: No scale ends below this share of the full range: rounding must not look like a finding.
LEAST_LIMIT = 0.01
#: Share of an image's pixels whose residual the scale covers.
COVERED = 0.995

WARNING = (
    "A residual that is no larger than the control's is not a finding: the control is the same image encoded and "
    "decoded without guidance, so what it shows is the method's own error and says nothing of the patient."
)
_READING = (
    "Residuals are input minus counterfactual: orange where the input is brighter, as where an opacity was taken away; "
    "blue where it is darker; grey where nothing changed. Absolute residuals go from black to pale yellow. All "
    "pictures share one scale, in shares of the full range. Green outlines are boxes that the data have."
)
_GAP = (
    "Widest gap: how much guidance would change the predicted clean image at most, on the way to noise, in squared "
    "units of images that span [-1, 1]; the wider, the stronger is guidance whose scale is chosen for each image."
)
_DEVIATION = (
    "Deviation: standard deviation of the residual over the depths, on the scale of the absolute residual. Where it is "
    "as large as the residual, what is shown hangs on the depth."
)
_EXTRA_STYLE = """
.case { margin: 0 0 26px; break-inside: avoid; }
.case h3 { font-size: 15px; color: var(--ink); }
.views { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 10px; }
.views img { width: 100%; image-rendering: auto; }
.bar { display: flex; align-items: center; gap: 10px; font-size: 13px; color: var(--soft); margin: 10px 0;
  font-variant-numeric: tabular-nums; }
.bar img { width: 260px; height: 14px; }
"""


class Result(Protocol):
    """Of one image, float (h, w, c) in [-1, 1]: see `medgen_jax.data.counterfactual_folders.Arrays`."""

    image: np.ndarray
    counterfactual: np.ndarray
    control: np.ndarray
    residual: np.ndarray
    control_residual: np.ndarray
    subtracted: np.ndarray


class Scored(Protocol):
    """What is known of one image: see `medgen_jax.data.counterfactual_folders.Entry`."""

    label: str | None
    view: str | None
    boxes: Sequence[Sequence[float]] | None
    source: Mapping[str, Any]
    target: Mapping[str, Any]
    depth: int | None
    scale: float | None
    numbers: Mapping[str, float]


class _Row(NamedTuple):
    title: str
    entry: Scored


def shares(difference: np.ndarray) -> np.ndarray:
    """A difference (h, w, c) of images in [-1, 1] as shares of the full range, averaged over channels: (h, w)."""
    return np.mean(np.asarray(difference, np.float32), axis=-1) / 2


def limit_of(results: Iterable[Result]) -> float:
    """The end of the scale for all images: the next 1, 2 or 5 above what nearly all pixels of each stay below."""
    highest = LEAST_LIMIT
    for result in results:
        for difference in (result.residual, result.control_residual):
            highest = max(highest, float(np.quantile(np.abs(shares(difference)), COVERED)))
    power = 10.0 ** math.floor(math.log10(highest))
    return min(1.0, next(step * power for step in (1, 2, 5, 10) if step * power >= highest * (1 - 1e-6)))


def signed(values: np.ndarray, limit: float) -> np.ndarray:
    """Shares (h, w) in diverging colours, uint8 (h, w, 3): 0 is neutral grey, ``-limit`` and ``limit`` the ends."""
    return _coloured(np.clip(values / limit, -1, 1) / 2 + 0.5, SIGNED)


def absolute(values: np.ndarray, limit: float) -> np.ndarray:
    """Shares (h, w), not negative, from black to bright, uint8 (h, w, 3)."""
    return _coloured(np.clip(values / limit, 0, 1), ABSOLUTE)


def overlay(
    image: np.ndarray, values: np.ndarray, limit: float, boxes: Sequence[Sequence[float]] | None = None
) -> np.ndarray:
    """A residual over its image, the more opaque the larger, and outlines of boxes: uint8 (h, w, 3).

    Args:
      image: (h, w, 1 or 3) float in [-1, 1].
      values: (h, w) signed shares.
      limit: end of the scale.
      boxes: x, y, width and height of each, pixels.
    """
    strength = np.clip(np.abs(values) / limit, 0, 1)[..., None] * 0.8
    ends = _coloured((np.sign(values) + 1) / 2, SIGNED)
    made = np.rint(_rgb(image) * (1 - strength) + ends * strength).astype(np.uint8)
    height, width = values.shape
    for x, y, across, down in boxes or ():
        left, right = (int(np.clip(round(edge), 0, width - 1)) for edge in (x, x + across - 1))
        top, bottom = (int(np.clip(round(edge), 0, height - 1)) for edge in (y, y + down - 1))
        for rows, columns in (
            (slice(top, top + 1), slice(left, right + 1)), (slice(bottom, bottom + 1), slice(left, right + 1)),
            (slice(top, bottom + 1), slice(left, left + 1)), (slice(top, bottom + 1), slice(right, right + 1)),
        ):  # fmt: skip
            made[rows, columns] = BOX
    return made


def pictures(result: Result, entry: Scored, limit: float, subtract: bool) -> dict[str, np.ndarray]:
    """All pictures of one image, uint8 (h, w, 1 or 3), by what they are called.

    Args:
      result, entry: of the image.
      limit: end of the scale.
      subtract: show in absolute and overlay what was changed more than the control was.
    """
    residual, lost = shares(result.residual), shares(result.control_residual)
    shown = shares(result.subtracted if subtract else np.abs(result.residual))
    over = np.sign(residual) * shown if subtract else residual
    return {
        "input": _levels(result.image),
        "counterfactual": _levels(result.counterfactual),
        "residual": signed(residual, limit),
        "absolute": absolute(shown, limit),
        "overlay": overlay(result.image, over, limit, entry.boxes),
        "control": _levels(result.control),
        "control residual": signed(lost, limit),
    }


class Page:
    """The page, and the pictures beside it; memory holds the pictures of `SHOWN` images.

    Args:
      settings: what made the counterfactuals.
      limit: end of the scale, shares of the full range.
      notes: sentences about how to read it.
    """

    def __init__(self, settings: Mapping[str, Any], limit: float, notes: Sequence[str] = ()):
        self._settings, self._limit, self._notes = settings, limit, tuple(notes)
        self._rows: list[_Row] = []
        self._cases: list[Markup] = []
        self._deviates = False

    def add(self, title: str, entry: Scored, result: Result, deviation: np.ndarray | None, files: Path) -> None:
        """Take up an image, those with the largest round-trip error first, and write its pictures.

        Args:
          title: what the page calls it.
          entry, result: of it.
          deviation: of its residual over several depths, (h, w, c), or None.
          files: start of the names of its pictures.

        Raises:
          UserError: when they cannot be written.
        """
        made = pictures(result, entry, self._limit, bool(self._settings.get("subtract_control")))
        if deviation is not None:
            self._deviates = True
            made["deviation"] = absolute(shares(deviation), self._limit)
        for name, picture in made.items():
            if name not in ("input", "control residual"):
                save_png(files.with_name(f"{files.name}_{name}.png"), picture, ("synthetic",))
        self._rows.append(_Row(title, entry))
        if len(self._cases) < SHOWN:
            self._cases.append(_case(title, entry, made))

    def render(self) -> str:
        """The page."""
        title = str(self._settings.get("run", "Counterfactuals"))
        facts = [element("div", element("dt", k), element("dd", v)) for k, v in _facts(self._settings).items()]
        body = [
            element("header", element("p", "Counterfactuals", cls="kind"), element("h1", title)),
            element("dl", facts, cls="facts"),
            element("section", element("h2", "Before you read a residual"), element("p", WARNING), cls="notice"),
            *(element("p", note, cls="note") for note in (*self._notes, _READING, *self._explained())),
            self._bar(),
            self._shown(),
            _table(self._rows),
            element("footer", "Written by medgen_jax. Generated images are synthetic: not for diagnostic use."),
        ]
        return page(f"{title}: counterfactuals", body, _EXTRA_STYLE)

    def write(self, path: Path) -> Path:
        """Write `render` to a file, whole or not at all; its folder is made.

        Raises:
          UserError: when it cannot be written.
        """
        scratch = path.with_name(path.name + ".part")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch.write_text(self.render(), encoding="utf-8")
            os.replace(scratch, path)
        except OSError as error:
            raise UserError(f"{path}: cannot be written ({error.strerror}); check the disk and the path") from error
        return path

    def _explained(self) -> list[str]:
        """Of numbers and pictures that only some pages have."""
        gaps = any("forward_gap" in row.entry.numbers for row in self._rows)
        return [_GAP] * gaps + [_DEVIATION] * self._deviates

    def _bar(self) -> Markup:
        ramp = np.broadcast_to(np.linspace(-self._limit, self._limit, 256), (8, 256))
        ends = (f"-{self._limit:g}", f"+{self._limit:g}")
        bar = embedded(signed(ramp, self._limit), f"Colour bar from {ends[0]} to {ends[1]}; grey is 0")
        text = f"{ends[1]} of the full range (grey: 0)"
        return element("div", element("span", ends[0]), bar, element("span", text), cls="bar")

    def _shown(self) -> Markup:
        shown, all_ = len(self._cases), len(self._rows)
        heading = "Images" + (f", {shown} of {all_:,}" if shown < all_ else "")
        said = "Largest round-trip error first: the images that the method itself keeps worst."
        return element("section", element("h2", heading), element("p", said, cls="note"), self._cases)


_FACTS = {
    "run": "Run", "checkpoint": "Checkpoint", "system": "System", "method": "Method", "steps": "Steps of a walk",
    "depth": "Depth", "ensemble": "Depths", "source": "Encoded as", "target": "Decoded as", "scale": "Guidance scale",
    "scale_range": "Scales from, to", "reference": "Scales set by split", "interval": "Guided interval",
    "classifier": "Classifier", "classifier_scale": "Classifier scale",
    "clip": "Predicted images limited", "subtract_control": "Control subtracted", "size": "Pixels",
}  # fmt: skip


def _facts(settings: Mapping[str, Any]) -> dict[str, str]:
    known = {k: settings.get(k) for k in _FACTS if k != "run"}
    return {_FACTS[k]: _plain(v) for k, v in known.items() if v not in (None, [], ())}


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(_plain, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def _case(title: str, entry: Scored, made: Mapping[str, np.ndarray]) -> Markup:
    figures = [
        captioned(enlarged(preview(picture), SMALLEST), name, alt=f"{title}: {name}") for name, picture in made.items()
    ]
    return element(
        "div", element("h3", title), element("div", figures, cls="views"),
        element("p", "; ".join(_words(entry)), cls="note"), cls="case",
    )  # fmt: skip


def _words(entry: Scored) -> list[str]:
    """What is known of an image, and its numbers."""
    numbers = entry.numbers
    said = [word for word in (entry.label, entry.view) if word]
    to = [str(place.get("label") or "unknown") for place in (entry.source, entry.target)]
    said.append(f"encoded as {to[0]}, decoded as {to[1]}")
    said += [f"depth {entry.depth}"] if entry.depth is not None else []
    said += [f"scale {entry.scale:.3g}"] if entry.scale is not None else []
    pair = [numbers.get(f"mean_absolute_{name}") for name in ("residual", "control")]
    if None not in pair:
        said.append(f"mean absolute residual {_number(pair[0])}, control {_number(pair[1])}")
        said += ["no larger than the control's: not a finding"] if pair[0] <= pair[1] else []
    if "probability_before" in numbers and "probability_after" in numbers:
        both = f"{numbers['probability_before']:.2f} to {numbers['probability_after']:.2f}"
        said.append(f"probability of {entry.target.get('label')} (by the guiding classifier) {both}")
    return said


_COLUMNS = {
    "mean_absolute_residual": "Mean abs. residual",
    "mean_absolute_control": "Control",
    "mean_absolute_subtracted": "Beyond control",
    "round_trip_rms": "Round trip, RMS",
    "round_trip_max": "Round trip, largest",
    "fixed_point_stalled": "Steps not settled",
    "forward_gap": "Widest gap",
    "probability_before": "Target before",
    "probability_after": "Target after",
}


def _table(rows: Sequence[_Row]) -> Markup:
    shown = {k: title for k, title in _COLUMNS.items() if any(k in row.entry.numbers for row in rows)}
    chosen = [name for name in ("depth", "scale") if any(getattr(row.entry, name) is not None for row in rows)]
    titles = ("Image", "Class", "View", *(name.capitalize() for name in chosen), *shown.values())
    head = element("thead", element("tr", [element("th", title, scope="col") for title in titles]))
    lines = []
    for title, entry in rows:
        texts = [entry.label or "\u2013", entry.view or "\u2013"]
        texts += [_number(getattr(entry, name)) for name in chosen]
        texts += [_number(entry.numbers.get(name)) for name in shown]
        lines.append(element("tr", element("th", title, scope="row"), [element("td", text) for text in texts]))
    said = (
        "Mean absolute numbers are per pixel, in shares of the full range. Round trip: input minus control, in units "
        "of images that span [-1, 1]."
    )
    table = element("div", element("table", head, element("tbody", lines), cls="numbers"), cls="scroll")
    return element("section", element("h2", "Numbers"), element("p", said, cls="note"), table)


def _number(value: float | None) -> str:
    if value is None:
        return "\u2013"
    return f"{value:g}" if value == int(value) else f"{value:.4f}" if abs(value) >= 1e-3 else f"{value:.1e}"


def _coloured(position: np.ndarray, ends: Sequence[tuple[int, int, int]]) -> np.ndarray:
    """Positions in [0, 1] on a ramp through equally spaced colours."""
    at = np.linspace(0, 1, len(ends))
    channels = [np.interp(position, at, [colour[c] for colour in ends]) for c in range(3)]
    return np.rint(np.stack(channels, axis=-1)).astype(np.uint8)


def _levels(image: np.ndarray) -> np.ndarray:
    return np.rint((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)


def _rgb(image: np.ndarray) -> np.ndarray:
    return np.broadcast_to(_levels(image), (*image.shape[:2], 3)).astype(np.float32)
