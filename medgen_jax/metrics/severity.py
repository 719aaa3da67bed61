"""Graded severity from residuals: features of a residual, how well scores are predicted, from how many labels.

The question is whether what a counterfactual removes from a chest X-ray says how much opacity there was, and whether
fewer scored patients suffice to learn it than with features of the image itself. Both sides get the same regression
(`medgen_jax.metrics.ridge`) and the same patients:

* `held_out_patients` sets whole patients aside; what learns or tests takes that set, so nobody can be on both sides.
* `label_efficiency` is the error on them after 4, 8, 16, ... and all other patients were scored.
* `agreement` is mean absolute error, Pearson's and Spearman's correlation; `patient_intervals` draws whole patients.
* `reader_agreement` is what two readers reach among themselves: the ceiling.

NumPy in float64 on the host; the band powers are those of `medgen_jax.metrics.spectra`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import ridge
from medgen_jax.metrics.intervals import Interval
from medgen_jax.metrics.spectra import BANDS, band_power

QUANTILES = (0.5, 0.75, 0.9, 0.95, 0.99)
EXTENTS = (0.02, 0.05, 0.1)  # shares of the full range from which a pixel counts as changed
_THIRDS = ("upper", "middle", "lower")
_SIDES = ("left", "right")
REGIONS = ("all", *_SIDES, *_THIRDS, *(f"{side}_{third}" for side in _SIDES for third in _THIRDS))
#: Names of the features, see `residual_features`.
FEATURES = (
    "absolute",
    *(f"{sign}_{region}" for sign in ("positive", "negative") for region in REGIONS),
    *(f"quantile_{round(100 * q)}" for q in QUANTILES),
    *(f"extent_{round(100 * level)}" for level in EXTENTS),
    *(f"band_{k}" for k in range(len(BANDS) + 1)),
)
FEWEST_LABELLED, FEWEST_HELD_OUT = 4, 2  # patients


# ---- features --------------------------------------------------------------------------------------


def residual_features(
    residual: Float[np.ndarray, "b h w c"],
    control_residual: Float[np.ndarray, "b h w c"] | None = None,
    lungs: Bool[np.ndarray, "b h w"] | None = None,
) -> Float[np.ndarray, "b f"]:
    """Features of residuals in the order of `FEATURES`, all in shares of the full range of images, or of the area.

    * ``absolute``: mean absolute residual.
    * ``positive_REGION``, ``negative_REGION``: mean of what is brighter, and of what is darker, in the image than in
      its counterfactual; opacities are brighter. Regions: everything, the halves, the thirds from above, and the six
      zones of both, as readers score lungs one by one. ``left`` is left on the picture.
    * ``quantile_Q``: Q % of the pixels have a smaller absolute residual.
    * ``extent_L``: share of the pixels whose absolute residual is above L % of the full range.
    * ``band_K``: root mean square in bands of radial frequency, coarsest first, under a Hann window.

    Args:
      residual: image - counterfactual, of images in [-1, 1], so between -2 and 2; channels are averaged.
      control_residual: image - control, the round trip without guidance. Where given, each residual is brought
        towards 0 by that much and no further: what is left is what guidance changed beyond it.
      lungs: pixels that count; halves and thirds are then those of the box around them. None: all count.

    Raises:
      UserError: shapes that differ, images under 16 pixels, or, by its place, an image with NaN or infinity or
        without lungs.
    """
    maps = _grey("residual", residual)
    if control_residual is not None:
        control = _grey("control_residual", control_residual)
        if control.shape != maps.shape:
            raise UserError(
                f"severity: residuals are {maps.shape}, those of the control {control.shape}; give one each"
            )
        maps = np.sign(maps) * np.maximum(np.abs(maps) - np.abs(control), 0)
    inside = np.ones(maps.shape, bool) if lungs is None else np.asarray(lungs) > 0
    if inside.shape != maps.shape:
        raise UserError(f"severity: residuals are {maps.shape}, the lungs {inside.shape}; give one mask each")
    if (without := np.flatnonzero(~inside.any((1, 2)))).size:
        raise UserError(f"severity: image {without[0]} has no lungs in its mask; leave it out, or use no masks")
    bands = np.sqrt(np.asarray(band_power(np.float32(maps * inside)[..., None]), np.float64))
    return np.concatenate([[_spatial(*one) for one in zip(maps, inside, strict=True)], bands], axis=1)


def _grey(name: str, residual: np.ndarray) -> Float[np.ndarray, "b h w"]:
    """Mean over channels, in shares of the full range."""
    residual = np.asarray(residual, np.float64)
    if residual.ndim != 4 or not residual.size:
        raise UserError(f"severity: {name} is {residual.shape}; it must be (b, h, w, c), and not empty")
    if (bad := np.flatnonzero(~np.isfinite(residual).all((1, 2, 3)))).size:
        raise UserError(
            f"severity: the {name} of image {bad[0]} holds NaN or infinity ({bad.size} of {len(residual)} do)"
        )
    return residual.mean(-1) / 2


def _spatial(signed: Float[np.ndarray, "h w"], inside: Bool[np.ndarray, "h w"]) -> list[float]:
    """All features but the bands."""
    absolute = np.abs(signed[inside])
    regions = _regions(inside)
    weights = regions.reshape(len(regions), -1) / np.maximum(regions.sum((1, 2)), 1)[:, None]
    signs = np.stack([np.maximum(signed, 0).ravel(), np.maximum(-signed, 0).ravel()])
    extents = [(absolute > level).mean() for level in EXTENTS]
    return [absolute.mean(), *(signs @ weights.T).ravel(), *np.quantile(absolute, QUANTILES), *extents]


def _regions(inside: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "r h w"]:
    """The pixels of each region; a region without any has features 0."""
    down, across = (_place(inside.any(axis)) for axis in (1, 0))
    sides = [(across < 1 / 2)[None, :], (across >= 1 / 2)[None, :]]
    thirds = [(down < 1 / 3)[:, None], ((down >= 1 / 3) & (down < 2 / 3))[:, None], (down >= 2 / 3)[:, None]]
    everything = [np.ones((1, 1), bool), *sides, *thirds, *(side & third for side in sides for third in thirds)]
    return np.stack([region & inside for region in everything])


def _place(used: Bool[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:
    """Centres of rows or columns, 0 at the first edge of those that are used and 1 at the last."""
    places = np.flatnonzero(used)
    return (np.arange(len(used)) + 0.5 - places[0]) / (places[-1] + 1 - places[0])


# ---- agreement -------------------------------------------------------------------------------------


def agreement(predicted: Float[np.ndarray, "n"], scores: Float[np.ndarray, "n"]) -> dict[str, float]:
    """``mae``, the mean absolute error; ``pearson`` and ``spearman``, left out where one side does not vary.

    Raises:
      UserError: other shapes, nothing, or values that are not finite.
    """
    predicted, scores = np.asarray(predicted, np.float64), np.asarray(scores, np.float64)
    if predicted.shape != scores.shape or predicted.ndim != 1 or not scores.size:
        raise UserError(f"severity: {predicted.shape} answers for {scores.shape} scores; give one each")
    if not (np.isfinite(predicted).all() and np.isfinite(scores).all()):
        raise UserError("severity: answers or scores hold NaN or infinity; leave such images out")
    found = {"mae": float(np.abs(predicted - scores).mean())}
    if len(np.unique(predicted)) > 1 and len(np.unique(scores)) > 1:
        found["pearson"] = _correlation(predicted, scores)
        found["spearman"] = _correlation(_ranks(predicted), _ranks(scores))
    return found


def patient_intervals(
    statistic: Callable[[np.ndarray], Mapping[str, float]],
    patients: Sequence[str],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Percentile bootstrap intervals (Efron and Tibshirani 1993, chapter 13) in which whole patients are drawn.

    Args:
      statistic: indices of records -> numbers, those left out that are not defined.
      patients: of each record.
      level: coverage, between 0 and 1. Below about 30 patients the truth is less.
      resamples: to draw.
      seed: of the drawing.

    Returns:
      Of each number that at least nine in ten resamples define, unless all of them give the same.

    Raises:
      UserError: bad options.
    """
    if not 0 < level < 1 or resamples < math.ceil(2 / (1 - level)):
        raise UserError(f"severity: no interval of level {level} from {resamples} resamples; take .95 and 2000")
    names = sorted(set(patients))
    members = [np.flatnonzero(np.asarray(patients) == name) for name in names]
    rng, found = np.random.default_rng(seed), {}
    for _ in range(resamples):
        drawn = np.concatenate([members[i] for i in rng.integers(0, len(members), len(members))])
        for name, value in statistic(drawn).items():
            found.setdefault(name, []).append(value)
    intervals = {}
    for name, values in found.items():
        low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
        if len(values) >= 0.9 * resamples and high - low > 1e-12 * max(abs(low), abs(high)):
            intervals[name] = Interval(float(low), float(high), level, "bootstrap percentile by patient")
    return intervals


def reader_agreement(first: Float[np.ndarray, "n"], second: Float[np.ndarray, "n"]) -> dict[str, float]:
    """`agreement` of two readers over the images that both scored; NaN where one did not.

    Raises:
      UserError: no such image, or two columns that are the same everywhere: that is one reading, written twice.
    """
    first, second = np.asarray(first, np.float64), np.asarray(second, np.float64)
    both = np.isfinite(first) & np.isfinite(second)
    if not both.any():
        raise UserError("severity: there is no image that both readers scored")
    if np.array_equal(first[both], second[both]):
        raise UserError(
            f"severity: both readers' scores are the same on all {both.sum()} images; a copy says nothing of agreement"
        )
    return agreement(first[both], second[both])


def _correlation(x: np.ndarray, y: np.ndarray) -> float:
    x, y = (values - values.mean() for values in (x, y))
    return float(np.clip(x @ y / (np.linalg.norm(x) * np.linalg.norm(y)), -1, 1))


def _ranks(values: np.ndarray) -> np.ndarray:
    """1 for the smallest; equal values share their mean rank."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


# ---- labels ----------------------------------------------------------------------------------------


def held_out_patients(patients: Sequence[str], share: float = 0.3, seed: int = 0) -> frozenset[str]:
    """Patients on whom everything is measured, and from whom nothing is learned.

    Args:
      patients: of each record.
      share: of the patients; at least 2 are held out and at least 4 are left.
      seed: of the drawing, which knows patients and nothing of scores.

    Raises:
      UserError: fewer than 6 patients, or a share that is none.
    """
    names = sorted(set(patients))
    fewest = FEWEST_LABELLED + FEWEST_HELD_OUT
    if not 0 < share < 1:
        raise UserError(f"severity: {share} of the patients cannot be held out; give a share such as 0.3")
    if len(names) < fewest:
        raise UserError(
            f"severity: {len(names)} patients with scores; at least {fewest} are needed to learn and to test"
        )
    count = min(max(FEWEST_HELD_OUT, round(share * len(names))), len(names) - FEWEST_LABELLED)
    drawn = np.random.default_rng((seed, 0)).permutation(len(names))[:count]
    return frozenset(names[i] for i in drawn)


def is_held_out(patients: Sequence[str], held_out: frozenset[str]) -> Bool[np.ndarray, "n"]:
    """Which records are of patients that were held out."""
    return np.array([patient in held_out for patient in patients], bool)


class LabelEfficiency(NamedTuple):
    """Error on the held-out patients by the number of scored ones.

    Attributes:
      patients: (m,) scored patients, 4, 8, 16, ... and all.
      images: (m,) how many images they have, mean over repeats.
      errors: (m, repeats) mean absolute error; the repeats differ in who was scored.
    """

    patients: np.ndarray
    images: np.ndarray
    errors: np.ndarray

    @property
    def mean(self) -> Float[np.ndarray, "m"]:
        """Over repeats."""
        return self.errors.mean(1)

    @property
    def spread(self) -> Float[np.ndarray, "m"]:
        """Standard deviation over repeats; 0 where all are scored, for there is but one such choice."""
        if self.errors.shape[1] < 2:
            return np.zeros(len(self.errors))
        return (self.errors - self.errors[:, :1]).std(1, ddof=1)  # equal errors have no spread, not that of rounding


def label_counts(patients: int) -> tuple[int, ...]:
    """4, 8, 16, ... and all of so many patients."""
    doubled = [FEWEST_LABELLED << k for k in range(patients.bit_length()) if FEWEST_LABELLED << k < patients]
    return (*doubled, patients)


def label_efficiency(
    features: Float[np.ndarray, "n f"],
    scores: Float[np.ndarray, "n"],
    patients: Sequence[str],
    held_out: frozenset[str],
    *,
    limits: tuple[float, float] = (-np.inf, np.inf),
    repeats: int = 20,
    seed: int = 0,
) -> LabelEfficiency:
    """Ridge regressions on growing numbers of scored patients, tested on the same held-out ones.

    Who is scored depends on the patients and the seed alone, so curves of several features are of the same patients; in
    each repeat patients are added to those of before.

    Args:
      features: of all records.
      scores: of all records.
      patients: of each record.
      held_out: as `held_out_patients` gives them.
      limits: of the scores.
      repeats: how often the scored patients are drawn anew.
      seed: of the drawing.

    Raises:
      UserError: as `medgen_jax.metrics.ridge.fit`; no record on one of the sides.
    """
    features, scores, owners = np.asarray(features, np.float64), np.asarray(scores, np.float64), np.asarray(patients)
    testing = is_held_out(patients, held_out)
    pool = np.unique(owners[~testing])
    if not testing.any() or len(pool) < 2 or repeats < 1:
        raise UserError(
            f"severity: {testing.sum()} held-out images, {len(pool)} patients to learn from, {repeats} repeats; all "
            "must be positive, and 2 patients are the least"
        )
    rng, counts = np.random.default_rng((seed, 1)), label_counts(len(pool))
    orders = [pool[rng.permutation(len(pool))] for _ in range(repeats)]

    def one(order: np.ndarray, count: int) -> tuple[int, float]:
        training = np.isin(owners, order[:count])
        model = ridge.fit(features[training], scores[training], list(owners[training]), limits=limits)
        return int(training.sum()), agreement(ridge.predict(model, features[testing]), scores[testing])["mae"]

    # With all of them the repeats are one and the same.
    rows = [[one(order, count) for order in orders] for count in counts[:-1]]
    rows.append([one(pool, counts[-1])] * repeats)
    images, errors = np.moveaxis(np.array(rows, np.float64), -1, 0)
    return LabelEfficiency(np.array(counts), images.mean(1), errors)
