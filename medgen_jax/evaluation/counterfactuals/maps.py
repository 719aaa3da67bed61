"""Intervals for a row of the localisation table: the row's numbers as a function of how often each image counts.

`medgen_jax.metrics.localisation` sums over images on the device. Here its counts are kept image by image, so that
patients can be drawn again; thresholds stay what they were. With every image counted once the numbers are the table's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from medgen_jax.evaluation.answers import weighted_areas
from medgen_jax.evaluation.counterfactuals.statistics import Statistics, Weights
from medgen_jax.evaluation.devices import parts
from medgen_jax.metrics import anomaly_maps, ranking

#: Edges of the table, `medgen_jax.metrics.localisation.localisation_table`.
EDGES = 1024
BATCH = 32
#: Means over images with a lesion, over images without, and all others.
OF_LESIONS, OF_HEALTHY = ("dice", "iou", "pointing"), ("healthy_area",)


class _Half(NamedTuple):
    """What is known of each of n images that were measured with one threshold.

    Attributes:
      chosen: which images of all, (m,) bool.
      counts: (n, 2, bins) healthy and lesion pixels, from the lowest score up.
      lesion: (n,) bool.
      scores: (n,) of the images as a whole.
      single: of `OF_LESIONS` and `OF_HEALTHY` -> (n,).
    """

    chosen: np.ndarray
    counts: np.ndarray
    lesion: np.ndarray
    scores: np.ndarray
    single: Mapping[str, np.ndarray]


def statistics_of(
    maps: Float[np.ndarray, "m h w"],
    targets: Bool[np.ndarray, "m h w"],
    halves: Sequence[Bool[np.ndarray, "m"]],
    thresholds: Sequence[float],
) -> Statistics:
    """The numbers of a row under weights of its images; both halves averaged by what they count.

    Args:
      maps: of all images.
      targets: their lesions.
      halves: the two, each measured with edges and threshold from the other.
      thresholds: of each half.
    """
    measured = [_measure(maps, targets, half, threshold) for half, threshold in zip(halves, thresholds, strict=True)]

    def statistics(weights: Weights) -> dict[str, np.ndarray]:
        return {name: _mean([_values(name, half, weights[:, half.chosen]) for half in measured]) for name in _NAMES}

    return statistics


_NAMES = ("pixel_auroc", "pixel_auprc", "image_auroc", *OF_LESIONS, *OF_HEALTHY)


def _measure(maps: np.ndarray, targets: np.ndarray, half: np.ndarray, threshold: float) -> _Half:
    edges = ranking.quantile_edges(maps[~half], EDGES)
    place = int(np.argmax(edges == np.float32(threshold)))
    rows = [_rows(maps[list(part)], targets[list(part)], edges, place) for part in parts(np.flatnonzero(half), BATCH)]
    joined = {name: np.concatenate([row[name] for row in rows]) for name in rows[0]}
    counts, scores = joined.pop("counts").astype(np.float64), joined.pop("scores").astype(np.float64)
    return _Half(half, counts, targets[half].any((1, 2)), scores, joined)


def _rows(maps: np.ndarray, targets: np.ndarray, edges: np.ndarray, place: int) -> dict[str, np.ndarray]:
    """Numbers of at most `BATCH` images; shorter batches are filled, so that one program serves all."""
    count = len(maps)
    filled = (np.concatenate([a, np.repeat(a[:1], BATCH - count, 0)]) for a in (maps, targets))
    return {name: np.asarray(values)[:count] for name, values in _numbers(*filled, edges, place).items()}


@jax.jit
def _numbers(maps: jax.Array, targets: jax.Array, edges: jax.Array, place: jax.Array) -> dict[str, jax.Array]:
    counts = ranking.histograms(maps, targets, edges)
    reached = anomaly_maps.reached_from(counts)
    overlap = anomaly_maps.overlap_of(reached)
    everywhere = anomaly_maps.region_of(maps, targets, None)
    return {
        "counts": counts[:, :, :-1],
        "scores": maps.mean((1, 2)),
        "dice": overlap.dice[:, place],
        "iou": overlap.iou[:, place],
        "pointing": anomaly_maps.chance_to_hit(maps, targets, 0.0, everywhere),
        "healthy_area": reached[:, 0, 1::2][:, place] / reached[:, 0, 0].clip(1),
    }


def _values(name: str, half: _Half, weights: Weights) -> tuple[np.ndarray, np.ndarray]:
    """A number of one half and how much it counts, (r,) each; what is not defined counts nothing."""
    if name in half.single:
        over = half.lesion if name in OF_LESIONS else ~half.lesion
        total = weights[:, over].sum(1)
        return weights[:, over] @ half.single[name][over] / np.maximum(total, 1), total
    total = weights.sum(1)
    if name == "image_auroc":
        values = weighted_areas(half.scores, half.lesion, weights)
    else:
        healthy, ill = np.moveaxis(
            (weights @ half.counts.reshape(len(half.counts), -1)).reshape(-1, *half.counts.shape[1:]), 1, 0
        )
        values = _area(healthy, ill) if name == "pixel_auroc" else _precision(healthy, ill)
    return np.nan_to_num(values), np.where(np.isfinite(values), total, 0)


def _mean(halves: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    total = sum(count for _, count in halves)
    summed = sum(value * count for value, count in halves)
    return np.divide(summed, total, out=np.full(len(total), np.nan), where=total > 0)


def _area(healthy: np.ndarray, ill: np.ndarray) -> np.ndarray:
    """Area under the ROC curve of counts (r, bins) by rising score; NaN where a kind is absent."""
    below = np.cumsum(healthy, 1) - healthy / 2
    pairs = healthy.sum(1) * ill.sum(1)
    return np.divide((below * ill).sum(1), pairs, out=np.full(len(pairs), np.nan), where=pairs > 0)


def _precision(healthy: np.ndarray, ill: np.ndarray) -> np.ndarray:
    """Average precision of the same counts, scores of one bin being equal."""
    called = [np.cumsum(side[:, ::-1], 1)[:, ::-1] for side in (healthy, ill)]
    total = ill.sum(1)
    precision = called[1] / np.maximum(called[0] + called[1], 1)
    return np.divide((precision * ill).sum(1), total, out=np.full(len(total), np.nan), where=total > 0)
