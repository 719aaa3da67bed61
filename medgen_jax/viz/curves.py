"""Curves of a run as inline SVG: one small panel per number, train and validation together.

The SVG holds no script, no identifiers and no colours of its own: classes, styled by the page.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medgen_jax.viz.markup import Markup, element

WIDTH, HEIGHT = 460, 200
LEFT, RIGHT, TOP, BOTTOM = 50, 10, 8, 24
MAX_POINTS = 400  # drawn per line; more are thinned to the extremes of each interval
SMOOTHED_FROM = 80  # points; shorter curves are drawn as they are
LOG_FROM = 30.0  # ratio of large to small values from which the axis is logarithmic
LINEAR = ("learning rate", "speed")  # groups whose axis never is

_HIGHER = {
    "psnr",
    "ssim",
    "pearson",
    "accuracy",
    "acc",
    "auc",
    "auroc",
    "ap",
    "f1",
    "dice",
    "iou",
    "precision",
    "recall",
}
_HIGHER |= {"coverage", "density", "diversity", "r2", "sensitivity", "specificity", "kappa", "authenticity"}
_LOWER = {"mae", "mse", "rmse", "fid", "kid", "lpips", "loss", "error", "nll", "frd", "mmd", "bce", "ce", "l1", "l2"}
_STATE = {"acc", "accuracy", "norm", "flag", "phase", "skipped", "sign", "p", "scale", "temperature", "probability"}


@dataclass(frozen=True)
class Curve:
    """One number over the run.

    Attributes:
      name: as in ``metrics.jsonl``.
      split: ``train``, ``val``, ...
      steps: (n,), increasing.
      values: (n,), NaN where the number was not finite.
    """

    name: str
    split: str
    steps: np.ndarray
    values: np.ndarray


def curves(rows: Iterable[Mapping[str, Any]]) -> list[Curve]:
    """Curves of all numbers in ``metrics.jsonl`` rows, in order of appearance; null becomes NaN.
    Where a step occurs twice the later row counts."""
    found: dict[tuple[str, str], dict[int, float]] = {}
    for row in rows:
        for name, value in row.items():
            if name in ("step", "images", "time", "split") or isinstance(value, bool):
                continue
            if value is None or isinstance(value, (int, float)):
                number = math.nan if value is None or not math.isfinite(value) else float(value)
                found.setdefault((name, str(row.get("split", "train"))), {})[row["step"]] = number
    return [Curve(*key, *map(np.array, zip(*sorted(points.items()), strict=True))) for key, points in found.items()]


def group(curve: Curve) -> str:
    """The heading a curve belongs under: validation, losses, learning rate, speed or run state."""
    words = set(re.split(r"[^a-z0-9]+", curve.name.lower()))
    if curve.split != "train":
        return "validation"
    if "lr" in words or {"learning", "rate"} <= words:
        return "learning rate"
    if words & {"second", "seconds", "ms", "throughput"}:
        return "speed"
    return "run state" if words & _STATE else "losses"


def direction(name: str) -> int:
    """+1 if higher values of a number are better, -1 if lower ones are, 0 if that is not known."""
    words = re.split(r"[^a-z0-9]+", name.lower())
    if set(words) & _HIGHER:
        return 1
    return -1 if set(words) & _LOWER else 0


def best(curve: Curve) -> int | None:
    """Index of the best value, None when the direction is not known or nothing is finite."""
    sign = direction(curve.name)
    if not sign or not np.isfinite(curve.values).any():
        return None
    return int(np.nanargmax(sign * curve.values))


def compact(value: float) -> str:
    """A number for reading: four significant digits, thousands and tiny values in short form."""
    if not math.isfinite(value):
        return "not finite"
    size = abs(value)
    if size and (size < 1e-3 or size >= 1e6):
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    if size >= 1e4:
        return f"{value / 1e3:.4g}k"
    return f"{value:.4g}"


def panel(lines: Sequence[Curve], last_step: int, reference: float | None = None) -> Markup:
    """Draw curves of one number over the optimiser steps, from 0 on.

    Long curves are drawn pale, with their moving average on top. The vertical range leaves out the
    outermost percent of a long curve's values, so that a first spike does not flatten the rest; it is
    logarithmic when all values are positive and span a factor of `LOG_FROM` (rates excepted). Values that were not
    finite leave a gap and a tick on the axis; the best value of a validation curve is ringed.

    Args:
      lines: one or more curves.
      last_step: where the horizontal axis ends.
      reference: a value drawn as a dashed line across.
    """
    scale = _Scale.of(lines, last_step, reference)
    data = [_line(curve, scale) for curve in lines]
    if reference is not None:
        y = scale.y(reference)
        data.insert(0, element("path", d=f"M0 {y:.1f}H{scale.width}", cls="reference"))
    name = lines[0].name
    inner = element("svg", data, x=LEFT, y=TOP, width=scale.width, height=scale.height, overflow="hidden")
    label = f"{name} over optimiser steps"
    return element("svg", _axes(scale), inner, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label)


@dataclass(frozen=True)
class _Scale:
    """Steps and values to pixels of the drawing area."""

    last: float
    low: float
    high: float
    log: bool

    width = WIDTH - LEFT - RIGHT
    height = HEIGHT - TOP - BOTTOM

    @classmethod
    def of(cls, lines: Sequence[Curve], last_step: int, reference: float | None) -> _Scale:
        parts = [_typical(curve) for curve in lines] + ([[reference]] if reference is not None else [])
        values = np.concatenate([*parts, []])
        low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
        log = bool(low > 0 and high / low > LOG_FROM) and group(lines[0]) not in LINEAR
        if log:
            low, high = math.log10(low), math.log10(high)
        margin = 0.06 * (high - low) or 0.05 * abs(high) or 1.0
        return cls(max(last_step, 1), low - margin, high + margin, log)

    def x(self, step):
        return step / self.last * (self.width - 6)  # room for the last dot

    def y(self, value):
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.log10(value) if self.log else value
        level = np.clip(level, self.low - 10 * (self.high - self.low), None)  # zero has no logarithm
        return self.height * (1 - (level - self.low) / (self.high - self.low))


def _is_noisy(curve: Curve) -> bool:
    """Whether a curve is long enough, and of a kind, to need smoothing."""
    return curve.split == "train" and len(curve.steps) >= SMOOTHED_FROM and group(curve) != "learning rate"


def _typical(curve: Curve) -> np.ndarray:
    """The finite values that the vertical range must hold: of a noisy curve, no outliers but the end."""
    finite = curve.values[np.isfinite(curve.values)]
    if not _is_noisy(curve) or not finite.size:
        return finite
    return np.append(np.quantile(finite, [0.01, 0.99]), _smoothed(finite)[-1])


def _line(curve: Curve, scale: _Scale) -> Markup:
    steps, values = curve.steps, curve.values
    finite = np.isfinite(values)
    kind = "train" if curve.split == "train" else "held-out"
    drawn = []
    if _is_noisy(curve):
        drawn.append(_path(steps, values, scale, "raw"))
        values = np.full(len(steps), np.nan)
        values[finite] = _smoothed(curve.values[finite])
    drawn.append(_path(steps, values, scale, "curve"))
    if finite.sum() <= 40:
        drawn += [_dot(s, v, scale, 2.2, "dot") for s, v in zip(steps[finite], curve.values[finite], strict=True)]
    if curve.split != "train" and len(steps) > 1 and (i := best(curve)) is not None:
        drawn.append(_dot(steps[i], curve.values[i], scale, 5, "best"))
    for step in steps[~finite]:
        drawn.append(element("path", d=f"M{scale.x(step):.1f} {scale.height}v-8", cls="invalid"))
    return element("g", drawn, cls=kind)


def _path(steps: np.ndarray, values: np.ndarray, scale: _Scale, cls: str) -> Markup:
    steps, values = _thinned(steps, values)
    d, pen = [], "M"
    for x, y in zip(scale.x(steps), scale.y(values), strict=True):
        if np.isfinite(y):
            d.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L" if np.isfinite(y) else "M"
    return element("path", d="".join(d) or "M0 0", cls=cls)


def _dot(step: float, value: float, scale: _Scale, radius: float, cls: str) -> Markup:
    title = element("title", f"step {step}: {compact(value)}")
    return element("circle", title, cx=f"{scale.x(step):.1f}", cy=f"{scale.y(value):.1f}", r=radius, cls=cls)


def _thinned(steps: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """At most `MAX_POINTS` points: the lowest and the highest of each interval, gaps kept."""
    if len(steps) <= MAX_POINTS:
        return steps, values
    kept = []
    for part in np.array_split(np.arange(len(steps)), MAX_POINTS // 2):
        finite = part[np.isfinite(values[part])]
        kept += {finite[values[finite].argmin()], finite[values[finite].argmax()]} if finite.size else {part[0]}
    kept = np.unique(kept)
    return steps[kept], values[kept]


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Centred moving average over a twentieth of the curve; the window is cut off at the ends."""
    half = max(1, len(values) // 40)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    start, stop = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    return (sums[stop] - sums[start]) / (stop - start)


def _axes(scale: _Scale) -> list[Markup]:
    drawn = []
    for level in _ticks(scale.low, scale.high, scale.log):
        y = TOP + scale.height * (1 - (level - scale.low) / (scale.high - scale.low))
        text = compact(10**level if scale.log else level)
        drawn.append(element("path", d=f"M{LEFT} {y:.1f}H{WIDTH - RIGHT}", cls="grid"))
        drawn.append(element("text", text, x=LEFT - 6, y=f"{y + 3.5:.1f}", cls="y"))
    for step in nice_values(0, scale.last, 4):
        if step == int(step):
            text = f"{step / 1000:g}k" if scale.last >= 1e4 and step else f"{step:g}"
            drawn.append(element("text", text, x=f"{LEFT + scale.x(step):.1f}", y=HEIGHT - 7, cls="x"))
    return [*drawn, element("path", d=f"M{LEFT} {TOP + scale.height}H{WIDTH - RIGHT}", cls="axis")]


def _ticks(low: float, high: float, log: bool) -> list[float]:
    if not log:
        return nice_values(low, high, 4)
    factors = (1,) if high - low > 2.5 else (1, 3)
    marks = [e + math.log10(f) for e in range(math.floor(low), math.ceil(high) + 1) for f in factors]
    marks = [mark for mark in marks if low <= mark <= high]
    return marks[:: max(1, math.ceil(len(marks) / 5))]


def nice_values(low: float, high: float, wanted: int) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten between low and high."""
    rough = (high - low) / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough)
    return [float(f"{i * step:.12g}") for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
