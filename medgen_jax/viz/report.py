"""The report of a run: one HTML file that opens from disk, finished run or not.

Pictures and curves are inside the file; it loads nothing, runs nothing and says so in its content
security policy. Sample images are encoded anew, so no metadata of theirs gets in.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.viz.curves import Curve, best, compact, curves, group, panel
from medgen_jax.viz.markup import Markup, element
from medgen_jax.viz.page import page
from medgen_jax.viz.pictures import embedded
from medgen_jax.viz.results import beaten, references, results_table, title
from medgen_jax.viz.rundata import RunData, read_run

LARGE, THUMBNAIL = 2000, 420  # widest embedded picture, pixels
OLDER = 12  # at most so many older grids
HEADINGS = {
    "validation": "Validation",
    "losses": "Training losses",
    "learning rate": "Learning rate",
    "speed": "Speed",
    "run state": "State of the run",
}


def write_report(workdir: str | Path) -> Path:
    """Write ``workdir/report/index.html`` from what the run has left in its directory so far.

    Reads ``config.json``, ``metrics.jsonl``, ``results.json`` and ``samples/*.png``; what is missing
    or damaged is named in the report.

    Returns:
      the path of the page.

    Raises:
      UserError: when the directory does not exist or the page cannot be written.
    """
    text = render(read_run(workdir))
    path = Path(workdir) / "report" / "index.html"
    scratch = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(exist_ok=True)
        scratch.write_text(text, encoding="utf-8")
        os.replace(scratch, path)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); check the disk and the path") from error
    return path


def render(run: RunData) -> str:
    """The page of a run."""
    pictures, damaged = _pictures(run.samples)
    body = [
        _header(run),
        _notices("Worth knowing", "notice", [*run.warnings, *damaged, *beaten(run.results)]),
        _notices("Not there yet", "notice calm", run.missing),
        _results(run.results),
        pictures,
        _panels(curves(run.rows), references(run.results)),
        _settings("Configuration", run.config),
        _settings("Environment", run.environment),
        element("footer", "Written by medgen_jax. Generated images are synthetic: not for diagnostic use."),
    ]
    return page(f"{run.system}: training report", body)


# -- head of the page ------------------------------------------------------------------------------


def _header(run: RunData) -> Markup:
    last = run.results or (run.rows[-1] if run.rows else {})
    environment = run.environment
    device = environment.get("device_kind") or environment.get("device")
    count = environment.get("device_count")
    facts = {
        "State": "finished" if run.results else "not finished",
        "Steps": _count(last.get("step")),
        "Images seen": _count(last.get("images")),
        "Time": _duration(last.get("seconds", last.get("time"))),
        "Device": f"{count} x {device}" if device and count not in (None, 1) else device,
        "Started": environment.get("started"),
    }
    items = [element("div", element("dt", k), element("dd", str(v))) for k, v in facts.items() if v is not None]
    return element(
        "header",
        element("p", "Training report", cls="kind"),
        element("h1", run.system),
        element("dl", items, cls="facts"),
    )


def _notices(heading: str, cls: str, lines: Sequence[str]) -> Markup | None:
    if not lines:
        return None
    return element("section", element("h2", heading), element("ul", [element("li", line) for line in lines]), cls=cls)


def _count(value: Any) -> str | None:
    return f"{value:,}".replace(",", "\u202f") if isinstance(value, int) else None


def _duration(seconds: Any) -> str | None:
    if not isinstance(seconds, (int, float)):
        return None
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def _results(results: Mapping[str, Any] | None) -> Markup | None:
    table = results_table(results)
    if table is None:
        return None
    split = {"val": "validation"}.get(results.get("split"), results.get("split"))
    notes = results.get("notes")
    remarks = [element("p", str(note), cls="note") for note in (notes if isinstance(notes, list) else [])]
    return element("section", element("h2", f"Results on the {split} set" if split else "Results"), table, remarks)


# -- pictures --------------------------------------------------------------------------------------


def _pictures(samples: Sequence[tuple[int, Path]]) -> tuple[Markup | None, list[str]]:
    """The newest readable grids large, older ones as a strip; and what could not be read."""
    damaged: list[str] = []
    older, latest = list(samples), []
    while older and not latest:
        newest = older[-1][0]
        latest = [f for step, path in older if step == newest and (f := _figure(step, path, LARGE, damaged))]
        older = [(step, path) for step, path in older if step != newest]
    if not latest:
        return None, damaged
    strip = [f for step, path in _spread(older, OLDER) if (f := _figure(step, path, THUMBNAIL, damaged))]
    history = [element("h3", "Earlier"), element("div", strip, cls="strip")] if strip else None
    return element("section", element("h2", "Images"), latest, history), damaged


def _spread(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many items, evenly spread, first and last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(i * (len(items) - 1) / (most - 1))] for i in range(most)]


def _figure(step: int, path: Path, width: int, damaged: list[str]) -> Markup | None:
    try:
        with Image.open(path) as image:
            picture = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        damaged.append(f"samples/{path.name}: damaged and left out")
        return None
    text = f"Step {step}" if step >= 0 else path.stem
    original = picture.width
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    if width != THUMBNAIL:
        text += f", samples/{path.name}" + (f" reduced from {original} pixels" if original > width else "")
    image = embedded(picture, f"Grid of sample images, {text}", jpeg=85 if width == THUMBNAIL else None)
    return element("figure", image, element("figcaption", text), cls="large" if width == LARGE else None)


# -- curves ----------------------------------------------------------------------------------------


def _panels(found: Sequence[Curve], baselines: Mapping[str, float]) -> Markup | None:
    """One section per group; a number measured on several splits shares one panel."""
    last_step = max((int(curve.steps[-1]) for curve in found), default=0)
    grouped: dict[str, dict[str, list[Curve]]] = {name: {} for name in HEADINGS}
    home: dict[str, str] = {}
    for curve in sorted(found, key=lambda c: c.split != "train"):
        home.setdefault(curve.name, group(curve))
        grouped[home[curve.name]].setdefault(curve.name, []).append(curve)
    sections = [
        element(
            "section",
            element("h3", HEADINGS[name]),
            element("div", figures, cls="panels"),
            cls="single" if len(figures) == 1 else None,
        )
        for name, panels in grouped.items()
        if (figures := [_panel(lines, last_step, baselines) for lines in panels.values()])
    ]
    if not sections:
        return None
    return element("section", element("h2", "Curves"), _key(found, baselines), element("div", sections, cls="groups"))


def _panel(lines: Sequence[Curve], last_step: int, baselines: Mapping[str, float]) -> Markup:
    held_out = [curve for curve in lines if curve.split != "train"]
    reference = baselines.get(lines[0].name) if held_out else None
    caption = element(
        "figcaption", element("b", title(lines[0].name, arrow=bool(held_out))), element("span", _summary(lines))
    )
    return element("figure", caption, panel(lines, last_step, reference))


def _summary(lines: Sequence[Curve]) -> str:
    """Last value, and the best one of a validation curve."""
    curve = lines[-1]
    text = f"last {compact(curve.values[-1])}"
    if curve.split != "train" and len(curve.steps) > 1 and (i := best(curve)) is not None:
        text += f", best {compact(curve.values[i])}"
    return text


def _key(found: Sequence[Curve], baselines: Mapping[str, float]) -> Markup:
    def sample(text: str, *shapes: Markup, cls: str) -> Markup:
        return element(
            "span", element("svg", element("g", shapes, cls=cls), viewBox="0 0 26 10", aria_hidden="true"), " " + text
        )

    line = element("path", d="M0 6H26", cls="curve")
    splits = {curve.split for curve in found}
    held_out = sorted(splits - {"train"})
    entries = [element("span", "Horizontal axes: optimiser steps")]
    entries += (
        [sample("training (long curves: moving average over raw values)", line, cls="train")]
        if "train" in splits
        else []
    )
    if held_out:
        ring = element("circle", cx=13, cy=5, r=4, cls="best")
        entries += [sample(", ".join(held_out), line, cls="held-out"), sample("best value", ring, cls="held-out")]
    if baselines and held_out:
        entries.append(sample("best baseline", element("path", d="M0 6H26", cls="reference"), cls="key-line"))
    return element("p", entries, cls="key")


# -- configuration and environment -----------------------------------------------------------------


def _settings(heading: str, content: Mapping[str, Any]) -> Markup | None:
    """Nested values as small tables: loose ones first, then one table for each branch."""
    if not content:
        return None
    loose = {k: v for k, v in content.items() if not isinstance(v, Mapping)}
    branches = {"run" if heading == "Configuration" else "machine": loose} if loose else {}
    branches |= {k: _flat(v) for k, v in content.items() if isinstance(v, Mapping) and v}
    tables = [
        element("section", element("h3", name), element("table", [_setting(k, v) for k, v in values.items()]))
        for name, values in branches.items()
    ]
    return element("section", element("h2", heading), element("div", tables, cls="settings"))


def _setting(name: str, value: Any) -> Markup:
    shown = "none" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return element("tr", element("th", name, scope="row"), element("td", shown))


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        flat |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {f"{prefix}{name}": value}
    return flat
