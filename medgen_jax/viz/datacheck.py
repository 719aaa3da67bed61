"""The page of a data check: findings, numbers of every column, classes, and the images behind the findings.

One HTML file that opens from disk, loads nothing and runs nothing. It holds small copies of images of the data set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from medgen_jax.viz.markup import Markup, element
from medgen_jax.viz.page import page
from medgen_jax.viz.pictures import captioned, under_headings

#: Names of records told under a finding.
_TOLD = 20
_HEADINGS = {"error": "Training refuses", "warning": "May mislead", "note": "Worth knowing"}
_EXTRA_STYLE = """
:root { --bad: #b3261e; --bad-shade: #fbeceb; }
@media (prefers-color-scheme: dark) { :root { --bad: #f2938c; --bad-shade: #2e1a19; } }
.findings { list-style: none; margin: 0; padding: 0; }
.findings li { margin: 8px 0; padding: 8px 14px; border-left: 3px solid var(--line); background: var(--shade);
  overflow-wrap: anywhere; break-inside: avoid; }
.findings .is-error { border-color: var(--bad); background: var(--bad-shade); }
.findings .is-warning { border-color: var(--warn); background: var(--warn-shade); }
.findings p { margin: 0; max-width: none; }
.findings .remedy { color: var(--soft); font-size: 13.5px; }
.findings details { margin-top: 4px; font-size: 13px; color: var(--soft); }
.findings summary { cursor: pointer; }
.findings ul { margin: 4px 0 0; padding-left: 18px; }
.findings ul li { margin: 0; padding: 0; border: 0; background: none; }
.thumbs { display: flex; flex-wrap: wrap; gap: 16px; align-items: flex-start; }
.thumbs .beside { display: flex; gap: 6px; padding: 8px; border: 1px solid var(--line); }
.thumbs figure { width: 164px; }
.thumbs figcaption { font-size: 12px; overflow-wrap: anywhere; line-height: 1.35; margin-top: 3px; }
"""


class Shown(Protocol):
    """Images side by side: heading, captions, uint8 (h, w, 1 or 3) images."""

    heading: str
    captions: Sequence[str]
    images: Sequence[np.ndarray]


def render(
    *,
    title: str,
    facts: Mapping[str, str],
    findings: Sequence[Mapping[str, Any]],
    rows: Sequence[Mapping[str, Any]],
    pictures: Sequence[Shown],
    method: Sequence[str],
) -> str:
    """The page.

    Args:
      title: name of the data set.
      facts: short facts by label.
      findings: ``level``, ``message``, ``remedy``, ``names``; worst first.
      rows: one per column, as `medgen_jax.data.inspection.summary.rows` makes them.
      pictures: images under headings.
      method: sentences about how things were found.
    """
    items = [element("div", element("dt", label), element("dd", value)) for label, value in facts.items()]
    body = [
        element(
            "header", element("p", "Data check", cls="kind"), element("h1", title), element("dl", items, cls="facts")
        ),
        _findings(findings),
        _table(rows),
        _classes(rows),
        under_headings(pictures, _group, "thumbs"),
        element("section", element("h2", "How this was found"), [element("p", line, cls="note") for line in method]),
        element("footer", "Written by medgen_jax. This page holds small copies of images of the data set."),
    ]
    return page(f"{title}: data check", body, _EXTRA_STYLE)


def _findings(findings: Sequence[Mapping[str, Any]]) -> Markup:
    if not findings:
        return element("section", element("h2", "Findings"), element("p", "Nothing is wrong, and nothing is odd."))
    parts = []
    for level, heading in _HEADINGS.items():
        if chosen := [finding for finding in findings if finding["level"] == level]:
            parts += [element("h2", heading), element("ul", [_finding(one) for one in chosen], cls="findings")]
    return element("section", parts)


def _finding(finding: Mapping[str, Any]) -> Markup:
    return element(
        "li",
        element("p", finding["message"]),
        element("p", finding["remedy"], cls="remedy") if finding["remedy"] else None,
        _names(finding["names"]),
        cls=f"is-{finding['level']}",
    )


def _names(names: Sequence[str]) -> Markup | None:
    """One name in the open, several behind a click."""
    if len(names) < 2:
        return element("p", names[0], cls="remedy") if names else None
    listed = [element("li", name) for name in names[:_TOLD]]
    if len(names) > _TOLD:
        listed.append(element("li", f"and {len(names) - _TOLD:,} more, all of them in datacheck.json"))
    summary = element("summary", f"{names[0]} and {len(names) - 1:,} more")
    return element("details", summary, element("ul", listed))


def _table(rows: Sequence[Mapping[str, Any]]) -> Markup | None:
    if not rows:
        return None
    names = (
        "Column",
        "Records",
        "Measured",
        "Height x width",
        "Channels",
        "Bits",
        "Levels, 0.1 to 99.9 %",
        "At the ends",
    )
    head = [element("th", name, scope="col") for name in names]
    lines = []
    for row in rows:
        levels = list(row["levels"].values())
        cells = (
            f"{row['records']:,}",
            f"{row['measured']:,}",
            _sizes(row["sizes"]),
            ", ".join(row["channels"]),
            ", ".join(row["bits"]),
            [_lines(f"{each['low']:,} to {each['high']:,}" for each in levels)],
            [_lines(f"{each['at_min']:.1%}, {each['at_max']:.1%}" for each in levels)],
        )
        lines.append(element("tr", element("th", _column(row), scope="row"), [element("td", cell) for cell in cells]))
    table = element("table", element("thead", element("tr", head)), element("tbody", lines), cls="numbers")
    said = (
        "Sizes are those with the fewest, the middle and the most pixels. Levels are those that occur, with the shares "
        "of samples at the lowest and at the highest of them."
    )
    return element(
        "section", element("h2", "Columns"), element("div", table, cls="scroll"), element("p", said, cls="note")
    )


def _lines(texts: Any) -> list[Markup | str]:
    parts: list[Markup | str] = []
    for text in texts:
        parts += [element("br"), text] if parts else [text]
    return parts


def _column(row: Mapping[str, Any]) -> str:
    return " / ".join(dict.fromkeys((row["split"], row["table"], row["column"])))


def _sizes(sizes: Mapping[str, Any] | None) -> str | list[Markup | str]:
    if sizes is None:
        return "\u2013"
    if sizes["distinct"] == 1:
        return "{} x {}".format(*sizes["min"])
    told = ["{} x {}".format(*sizes[name]) for name in ("min", "median", "max")]
    return _lines([", ".join(told), f"{sizes['distinct']:,} sizes"])


def _classes(rows: Sequence[Mapping[str, Any]]) -> list[Markup]:
    """One table per label column, splits across."""
    sections = []
    for label in dict.fromkeys(label for row in rows for label in row["classes"]):
        counts: dict[str, dict[str, int]] = {}
        for row in rows:
            if label in row["classes"]:
                counts[row["split"]] = row["classes"][label]  # all columns of a split have the same labels
        words = sorted({word for split in counts.values() for word in split})
        head = [element("th", text, scope="col") for text in (label, *counts)]
        lines = [
            element(
                "tr", element("th", word, scope="row"), [element("td", f"{c.get(word, 0):,}") for c in counts.values()]
            )
            for word in words
        ]
        table = element("table", element("thead", element("tr", head)), element("tbody", lines), cls="numbers")
        sections.append(element("section", element("h2", f"Records by {label}"), element("div", table, cls="scroll")))
    return sections


def _group(picture: Shown) -> Markup:
    figures = [captioned(image, caption) for image, caption in zip(picture.images, picture.captions, strict=True)]
    return figures[0] if len(figures) == 1 else element("div", figures, cls="beside")
