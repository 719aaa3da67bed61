"""The numbers of counterfactuals from what was measured of each image, with intervals. NumPy in float64 on the host.

* ``mean_MAP`` of each class: mean absolute difference per pixel, with its standard deviation over images beside it; the
  table of differences of the chest X-ray paper, in units.
* ``effect_MAP``: Cohen's d of a class against the target class, (mean - mean) / pooled standard deviation, and
  ``auroc_MAP``, the chance that an image of the class changed more than one of the target class. The same within each
  view: who was X-rayed lying down is more often ill, so a residual that only knows the view looks like a finding.
* ``band_ratio_i``: 10 log10 of the mean power of counterfactuals (or of unguided round trips) over that of their
  images, dB, in each band of `medgen_jax.metrics.spectra`, coarsest first.
* means over images of differences and SSIM inside and outside of the boxes.

Intervals are percentile bootstraps: patients with all their images, or images where patients are not known, are drawn
again with replacement. AUROC of independent images has DeLong's interval, a share of them Wilson's. An interval of
no width is not given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from medgen_jax.evaluation.answers import drawn_weights, weighted_areas
from medgen_jax.evaluation.counterfactuals.measures import MAPS, SIDES, Measured
from medgen_jax.evaluation.pairs import FEW, RESAMPLES
from medgen_jax.evaluation.scores import Score
from medgen_jax.evaluation.settings import Settings
from medgen_jax.metrics.intervals import Interval, auroc_interval, wilson_interval
from medgen_jax.metrics.spectra import BANDS, FLOOR, ring_frequencies

Weights = Float[np.ndarray, "r n"]
#: ``(weights of the images) -> name -> (r,)`` numbers, NaN where one is not defined.
Statistics = Callable[[Weights], Mapping[str, np.ndarray]]
#: Kind of a number -> which direction is better.
BETTER = {f"auroc_{name}": 0 if name == "control" else 1 for name in MAPS} | {"auroc_view": 0}
BETTER |= {f"{kind}_{name}": 0 for kind in ("mean", "effect") for name in MAPS}
BETTER |= {f"band_ratio_{i}": 0 for i in range(len(BANDS) + 1)}
BETTER |= {f"{side}_difference_{part}": -(part == "outside") for side in SIDES for part in ("inside", "outside")}
BETTER |= {f"{side}_ssim_{part}": int(part == "outside") for side in SIDES for part in ("inside", "outside")}
ALL = "all images"
_NO_WIDTH = ("numbers that no resample changes have no interval: the images do not say how sure they are",)


class Group(NamedTuple):
    """Images of one class, perhaps in one view.

    Attributes:
      label: the class; None for images whose class is not known.
      view: or None for all.
      chosen: (n,) which images.
    """

    label: str | None
    view: str | None
    chosen: Bool[np.ndarray, "n"]

    @property
    def name(self) -> str:
        """For the names of numbers."""
        return ", ".join([self.label or ALL, *([self.view] if self.view else [])])


def groups_of(measured: Measured) -> list[Group]:
    """Every class, then every class within each view; all images where no class is known."""
    labels, views = (np.array(measured.method.column(name), object) for name in ("label", "view"))
    known = _known(labels, measured.method.target) or [None]
    overall = [Group(label, None, (labels == label) if label else np.ones(len(labels), bool)) for label in known]
    within = [Group(g.label, view, g.chosen & (views == view)) for view in _known(views) for g in overall]
    return overall + [group for group in within if group.chosen.any()]


def means(measured: Measured, settings: Settings) -> dict[str, Score]:
    """Of each group the mean of every difference."""
    found = {}
    for group in groups_of(measured):
        values = {f"mean_{name}": measured.means[name][group.chosen] for name in MAPS}
        extras = {kind: {"sd": _sd(own)} for kind, own in values.items()}
        scored = scores(_means_of(values), _patients(measured, group.chosen), settings, extras=extras)
        found |= _named(scored, measured, group.name)
    return found


def comparisons(measured: Measured, settings: Settings, leave_out: Callable[[str], None]) -> dict[str, Score]:
    """Effect size and AUROC of each class against the target class, and within each view.

    Args:
      measured: of one folder.
      settings: of the evaluation.
      leave_out: gets a sentence about every number that cannot be computed.
    """
    name, target, groups = measured.method.name, measured.method.target, groups_of(measured)
    if target not in {group.label for group in groups} or not any(g.label not in (None, target) for g in groups):
        reason = _why(groups, target)
        leave_out(f"{name}: effect size and AUROC compare images of a class with those of the target class; {reason}")
        return {}
    found = {}
    for other in groups:
        if other.label == target:
            continue
        against = next((g for g in groups if g.label == target and g.view == other.view), None)
        if against is None or min(other.chosen.sum(), against.chosen.sum()) < 2:
            leave_out(f"{name}: effect size and AUROC of {other.name} need two images of it and two of {target} there")
            continue
        chosen = other.chosen | against.chosen
        found |= _named(
            _compared(measured, chosen, other.chosen[chosen], settings, leave_out, other.name), measured, other.name
        )
        if other.view is None:
            found |= _named(_view_alone(measured, chosen, other.chosen[chosen], settings), measured, other.name)
    return found


def spectra(measured: Measured, settings: Settings, leave_out: Callable[[str], None]) -> dict[str, Score]:
    """Band ratios of counterfactuals and of round trips, in each class."""
    fits = np.isfinite(measured.bands["image"]).all(1)
    if not fits.all():
        leave_out(f"{measured.method.name}: {np.count_nonzero(~fits)} images are too small for a spectrum")
    found = {}
    for group in groups_of(measured):
        chosen = group.chosen & fits
        if group.view is None and chosen.any():
            for side in SIDES:
                scored = scores(_ratios(measured.bands, side, chosen), _patients(measured, chosen), settings)
                found |= _named({f"band_ratio_{i}": s for i, s in scored.items()}, measured, group.name, side)
    return found


class Line(NamedTuple):
    """A curve with its interval: (rings,) each, dB; ends NaN where there is none.

    Attributes:
      side: one of `SIDES`.
      label: of the images, or None for all.
      frequencies: cycles per pixel.
    """

    side: str
    label: str | None
    frequencies: np.ndarray
    values: np.ndarray
    low: np.ndarray
    high: np.ndarray


def curves(measured: Measured, settings: Settings, leave_out: Callable[[str], None]) -> Iterator[Line]:
    """Log ratio of power at every ring, for each class and side."""
    if measured.rings is None:
        leave_out(f"{measured.method.name}: curves of the spectrum need images of one size, of 16 pixels or more")
        return
    frequencies = ring_frequencies(*measured.shapes[0][:2])
    for group in groups_of(measured):
        if group.view is not None:
            continue
        for side in SIDES:
            scored = scores(_ratios(measured.rings, side, group.chosen), _patients(measured, group.chosen), settings)
            rows = [scored[i] for i in range(len(frequencies))]
            ends = np.array([row.interval or (np.nan, np.nan) for row in rows])
            yield Line(side, group.label, frequencies, np.array([row.value for row in rows]), *ends.T)


def parts(measured: Measured, settings: Settings, leave_out: Callable[[str], None]) -> dict[str, Score]:
    """Differences and SSIM inside and outside of the boxes, of counterfactuals and of round trips."""
    values = {}
    for name, column in measured.parts.items():
        partner = measured.parts[
            name.replace("inside", "outside") if "inside" in name else name.replace("outside", "inside")
        ]
        # Both parts over the same images, so that they may be compared.
        values[name] = (known := np.isfinite(column) & np.isfinite(partner)), column[known]
    found = {}
    for name, (known, own) in values.items():
        if len(own):
            found |= scores(
                _means_of({name: own}), _patients(measured, known), settings, extras={name: {"sd": _sd(own)}}
            )
    if not found:
        leave_out(
            f"{measured.method.name}: identity outside the boxes: no image has boxes that leave something outside"
        )
    return _named(found, measured, "")


# -- one statistic and its interval -----------------------------------------------------------------


def scores(
    statistics: Statistics,
    patients: Sequence[str | None],
    settings: Settings,
    *,
    extras: Mapping[Any, Mapping[str, Any]] | None = None,
    exact: Mapping[Any, Callable[[], tuple[Interval, str]]] | None = None,
) -> dict[Any, Score]:
    """Every number of images that is defined, with its interval.

    Args:
      statistics: of rows of weights of the n images.
      patients: of each image; images are drawn on their own unless all are known.
      settings: of the evaluation.
      extras: number -> what stands beside it, besides the count of images.
      exact: number -> its interval for independent images with what that is called, used where patients are not known.
    """
    count = len(patients)
    known = all(patient is not None for patient in patients)
    drawn = np.unique(np.array(patients, object).astype(str), return_inverse=True)[1] if known else np.arange(count)
    units, unit = int(drawn.max()) + 1, "patients" if known else "images"
    resamples = RESAMPLES if settings.resamples is None else settings.resamples
    ends = _bootstrap(statistics, drawn, resamples, settings) if units > 1 and resamples else {}
    few = (f"intervals from fewer than {FEW} {unit} are narrower than they should be",) if units < FEW else ()
    about = {"n": count, "counted": "images", **({"patients": units} if known else {})}
    found = {}
    for name, (value,) in statistics(np.ones((1, count))).items():
        if not np.isfinite(value):
            continue
        beside = about | dict((extras or {}).get(name, {}))
        if not known and exact and name in exact:
            interval, method = exact[name]()
            found[name] = Score(float(value), (interval.low, interval.high), method, beside)
            continue
        low, high = ends.get(name, (np.nan, np.nan))
        if low < high and not np.isclose(low, high, rtol=1e-9, atol=1e-12):
            method = f"percentile bootstrap over {unit}, {resamples} resamples"
            found[name] = Score(float(value), (low, high), method, beside, few)
        else:
            found[name] = Score(float(value), None, "none", beside, _NO_WIDTH if name in ends else ())
    return found


def share(hits: Bool[np.ndarray, "n"], patients: Sequence[str | None], settings: Settings) -> Score:
    """A share of images with its interval."""

    def wilson() -> tuple[Interval, str]:
        return wilson_interval(int(hits.sum()), len(hits), level=settings.level), "Wilson's interval of a proportion"

    statistics = _means_of({"share": hits.astype(np.float64)})
    return scores(statistics, patients, settings, extras={"share": {"hits": int(hits.sum())}}, exact={"share": wilson})[
        "share"
    ]


def cohens_d(
    values: Float[np.ndarray, "n"], positive: Bool[np.ndarray, "n"], weights: Weights
) -> Float[np.ndarray, "r"]:
    """Difference of the two means over the pooled standard deviation (n - 1); NaN where that is zero or unknown."""
    sides = []
    for side in (positive, ~positive):
        own, w = values[side], weights[:, side]
        total = w.sum(1)
        mean = _ratio(w @ own, total)
        sides.append((total, mean, (w * (own - mean[:, None]) ** 2).sum(1)))
    (n, a, sa), (m, b, sb) = sides
    # Of values that are all alike, rounding leaves a spread that is none.
    spread = np.sqrt(_ratio(sa + sb, n + m - 2))
    least = 1e-9 * np.maximum(np.abs(a), np.abs(b))
    return np.where((n >= 1) & (m >= 1) & (spread > least), _ratio(a - b, spread), np.nan)


def _bootstrap(
    statistics: Statistics, drawn: np.ndarray, count: int, settings: Settings
) -> dict[Any, tuple[float, float]]:
    """Ends of every number; of resamples in which it is not defined nothing is counted."""
    blocks = [statistics(weights) for weights in drawn_weights(drawn, count, settings.seed)]
    tail = (1 - settings.level) / 2
    ends = {}
    for name in blocks[0]:
        values = np.concatenate([block[name] for block in blocks])
        if (known := values[np.isfinite(values)]).size:
            ends[name] = tuple(map(float, np.quantile(known, [tail, 1 - tail])))
    return ends


# -- statistics -------------------------------------------------------------------------------------


def _compared(
    measured: Measured,
    chosen: np.ndarray,
    positive: np.ndarray,
    settings: Settings,
    leave_out: Callable[[str], None],
    row: str,
) -> dict[str, Score]:
    values = {name: measured.means[name][chosen] for name in MAPS}

    def statistics(weights: Weights) -> dict[str, np.ndarray]:
        found = {f"effect_{name}": cohens_d(own, positive, weights) for name, own in values.items()}
        return found | {f"auroc_{name}": weighted_areas(own, positive, weights) for name, own in values.items()}

    def delong(own: np.ndarray) -> Callable[[], tuple[Interval, str]]:
        return lambda: _area_interval(own, positive, settings)

    counts = {"positives": int(positive.sum()), "negatives": int((~positive).sum())}
    kinds = [f"{kind}_{name}" for kind in ("effect", "auroc") for name in MAPS]
    scored = scores(
        statistics,
        _patients(measured, chosen),
        settings,
        extras=dict.fromkeys(kinds, counts),
        exact={f"auroc_{name}": delong(own) for name, own in values.items()},
    )
    for kind in kinds:
        if kind not in scored:
            name = kind.removeprefix("effect_")
            leave_out(f"{measured.method.name}: effect size of the {name} of {row}: its values do not vary")
    return scored


def _view_alone(measured: Measured, chosen: np.ndarray, positive: np.ndarray, settings: Settings) -> dict[str, Score]:
    """AUROC of the class from the view alone, views ranked by the share of the class that these very images have."""
    views = np.array(measured.method.column("view"), object)[chosen]
    if len(_known(views)) < 2 or any(view is None for view in views):
        return {}
    places = np.unique(views.astype(str), return_inverse=True)[1]
    score = (np.bincount(places, positive) / np.bincount(places))[places]
    exact = {"auroc_view": lambda: _area_interval(score, positive, settings)}

    def statistics(weights: Weights) -> dict[str, np.ndarray]:
        return {"auroc_view": weighted_areas(score, positive, weights)}

    return scores(statistics, _patients(measured, chosen), settings, exact=exact)


def _area_interval(values: np.ndarray, positive: np.ndarray, settings: Settings) -> tuple[Interval, str]:
    found = auroc_interval(values, positive, level=settings.level)
    return found, {
        "delong": "DeLong's interval of an area, on the logit",
        "newcombe": "Newcombe's interval of an area",
    }[found.method]


def _means_of(values: Mapping[str, np.ndarray]) -> Statistics:
    return lambda weights: {name: _ratio(weights @ own, weights.sum(1)) for name, own in values.items()}


def _ratios(power: Mapping[str, np.ndarray], side: str, chosen: np.ndarray) -> Statistics:
    """dB of each column of power: sums over the images, then their ratio."""

    def statistics(weights: Weights) -> dict[int, np.ndarray]:
        totals = weights.sum(1, keepdims=True)
        of, base = (np.maximum(_ratio(weights @ power[name][chosen], totals), FLOOR) for name in (side, "image"))
        return dict(enumerate((10 * np.log10(of / base)).T))

    return statistics


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=b > 0)


def _sd(values: np.ndarray) -> float | None:
    return float(values.std(ddof=1)) if len(values) > 1 else None


# -- names ------------------------------------------------------------------------------------------


def _named(found: Mapping[str, Score], measured: Measured, row: str, side: str = "") -> dict[str, Score]:
    method = measured.method.name + (" round trip" if side == "control" else "")
    return {f"{kind} {method}" + (f", {row}" if row else ""): score for kind, score in found.items()}


def _known(values: Sequence[str | None], first: str | None = None) -> list[str]:
    """The values that occur, in order, ``first`` before all others."""
    return sorted({value for value in values if value is not None}, key=lambda value: (value != first, value))


def _patients(measured: Measured, chosen: np.ndarray) -> list[str | None]:
    return [patient for patient, use in zip(measured.method.column("patient"), chosen, strict=True) if use]


def _why(groups: Sequence[Group], target: str | None) -> str:
    labels = list(dict.fromkeys(group.label for group in groups if group.label))
    if not labels:
        return "these images have no labels"
    if target is None:
        return "the images were not all decoded as one class"
    return f"these images are all of {', '.join(labels)}" + (
        "" if target in labels else f", and the target is {target}"
    )
