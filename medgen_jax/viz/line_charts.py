"""Lines with their intervals in one chart, as inline SVG: no script, no identifiers, colours from the page's style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from medgen_jax.viz.curves import compact, nice_values
from medgen_jax.viz.markup import Markup, element

WIDTH, HEIGHT = 460, 260
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 8, 38
HUES = 6  # of lines, after which they are used again
CHART_STYLE = (
    """
:root { --h0: #2b6cb0; --h1: #b7521a; --h2: #1f7a4d; --h3: #8e3fa8; --h4: #7a6a00; --h5: #50606f; }
@media (prefers-color-scheme: dark) { :root {
  --h0: #6aa9ec; --h1: #f0955b; --h2: #68c597; --h3: #cf8ee6; --h4: #d6c65a; --h5: #a9b6c2; } }
"""
    + "".join(
        f"svg .h{i} .curve {{ stroke: var(--h{i}); }}\n"
        f"svg .h{i} .band {{ fill: var(--h{i}); opacity: .16; stroke: none; }}\n"
        for i in range(HUES)
    )
    + "svg .dashed .curve { stroke-dasharray: 6 4; }\n"
)


class Series(NamedTuple):
    """One line.

    Attributes:
      name: for the key.
      x, y: (n,); where y is not finite the line is broken.
      low, high: (n,) ends of its interval, NaN where there is none.
      hue: which colour; lines that belong together share one.
      dashed: told apart from those of the same colour.
    """

    name: str
    x: np.ndarray
    y: np.ndarray
    low: np.ndarray
    high: np.ndarray
    hue: int = 0
    dashed: bool = False


class Chart(NamedTuple):
    """Lines over one horizontal axis.

    Attributes:
      title: above it.
      lines: at least one.
      across, up: what the axes are, with units.
      span: (low, high) that the vertical axis must hold at least.
      log: whether the horizontal axis is logarithmic, with a mark where the first line has a point.
    """

    title: str
    lines: Sequence[Series]
    across: str
    up: str
    span: tuple[float, float] = (0.0, 0.0)
    log: bool = False


def chart(content: Chart) -> Markup:
    """Draw it, with a key; the vertical range holds every line and leaves out parts of intervals beyond it."""
    low, high = _range(content)
    share, marks = _across(content)
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def x(values: np.ndarray) -> np.ndarray:
        return share(np.asarray(values)) * width

    def y(values: np.ndarray) -> np.ndarray:
        return height * (1 - (np.clip(values, low, high) - low) / (high - low))

    drawn = [_line(line, x, y) for line in content.lines]
    inner = element("svg", drawn, x=LEFT, y=TOP, width=width, height=height, overflow="hidden")
    axes = [element("path", d=f"M{LEFT} {TOP + y(v):.1f}h{width}", cls="grid") for v in nice_values(low, high, 5)]
    axes += [
        element("text", compact(v).replace("-", "\u2212"), x=LEFT - 6, y=f"{TOP + y(v) + 3.5:.1f}", cls="y")
        for v in nice_values(low, high, 5)
    ]
    axes += [element("text", f"{v:g}", x=f"{LEFT + x(v):.1f}", y=HEIGHT - BOTTOM + 16, cls="x") for v in marks]
    axes.append(element("text", content.across, x=LEFT + width / 2, y=HEIGHT - 6, cls="x"))
    axes.append(element("path", d=f"M{LEFT} {TOP + height}h{width}", cls="axis"))
    label = f"{content.title}: {content.up} against {content.across}"
    picture = element("svg", axes, inner, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)
    return element("figure", element("h3", f"{content.title}: {content.up}"), picture, _key(content.lines))


def _across(content: Chart) -> tuple[Callable[[np.ndarray], np.ndarray], list[float]]:
    """From values to shares of the width, and the values that are marked."""
    right = max(float(np.max(line.x)) for line in content.lines)
    if not content.log:
        return lambda values: values / right, nice_values(0, right, 5)
    left = min(float(np.min(line.x)) for line in content.lines)
    octaves = np.log2(right / left) or 1.0
    # Of marks too near the last one it alone is written.
    marks = [v for v in content.lines[0].x if v == right or np.log2(right / v) > 0.08 * octaves]
    return lambda values: np.log2(values / left) / octaves, marks


def _range(content: Chart) -> tuple[float, float]:
    values = np.concatenate([*(line.y for line in content.lines), np.asarray(content.span)])
    values = values[np.isfinite(values)]
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    margin = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    return low - margin, high + margin


def _line(line: Series, x, y) -> Markup:
    finite = np.isfinite(line.y)
    known = finite & np.isfinite(line.low) & np.isfinite(line.high)
    pen, d = "M", []
    for place, level, there in zip(x(line.x), y(np.where(finite, line.y, 0)), finite, strict=True):
        if there:
            d.append(f"{pen}{place:.1f} {level:.1f}")
        pen = "L" if there else "M"
    around = ""
    if known.any():
        there, back = (list(zip(x(line.x[known]), y(end[known]), strict=True)) for end in (line.low, line.high))
        around = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in [*there, *back[::-1]]) + "Z"
    drawn = [
        element("path", d=around, cls="band") if around else None,
        element("path", d="".join(d) or "M0 0", cls="curve"),
    ]
    return element("g", drawn, cls=_class(line))


def _key(lines: Sequence[Series]) -> Markup:
    marks = []
    for line in lines:
        sample = element("g", element("path", d="M0 5H26", cls="curve"), cls=_class(line))
        marks.append(element("span", element("svg", sample, viewBox="0 0 26 10", aria_hidden="true"), " ", line.name))
    return element("p", marks, cls="key")


def _class(line: Series) -> str:
    return f"h{line.hue % HUES}" + (" dashed" if line.dashed else "")
