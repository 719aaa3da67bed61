"""Anomaly maps in a table with maps that need no network, thresholds taken from other patients.

The rows beside which every result belongs:

* ``mean training mask``: where lesions usually are, the same for every image;
* ``all ones``: everything is abnormal. Its Dice is what marking the whole image earns, its
  ``pixel_auprc`` the prevalence, its ``pointing`` the chance of a blind hit;
* ``centre Gaussian``: the middle, the same for every image;
* ``intensity``: the image itself, as opacities are bright.

The three that ignore the image have an image-level AUROC of exactly .5.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image
from medgen_jax.metrics import anomaly, anomaly_maps, ranking

PRIOR, ONES, CENTRE, INTENSITY = "mean training mask", "all ones", "centre Gaussian", "intensity"
CENTRE_SIGMA = 0.25  # of each side


class MapSet(NamedTuple):
    """Images of one split with what is known of each.

    Attributes:
      images: (n, h, w, c) in [-1, 1], at the maps' size.
      targets: (n, h, w) bool, the lesions; empty for an image without one.
      region: (n, h, w) bool, outside which nothing counts; None for the whole image.
      names: of the images, for messages.
    """

    images: Float[np.ndarray, "n h w c"]
    targets: Bool[np.ndarray, "n h w"]
    region: Bool[np.ndarray, "n h w"] | None = None
    names: tuple[str, ...] | None = None


def prior_map(training_targets: Iterable[Bool[np.ndarray, "h w"]]) -> Float[np.ndarray, "h w"]:
    """Mean of the masks of training images that have a lesion, float32 in [0, 1].

    Raises:
      UserError: when there is none, or naming the first mask of another size.
    """
    total, count = np.zeros(()), 0
    for i, target in enumerate(training_targets):
        if count and target.shape != total.shape:
            raise UserError(
                f"training mask {i} has {target.shape} pixels, the others {total.shape}; make them one size"
            )
        if np.any(target):
            total, count = total + (np.asarray(target) > 0), count + 1
    if not count:
        raise UserError("mean training mask: no training image has a lesion")
    return np.float32(total / count)


def baseline_maps(images: Image, prior: Float[np.ndarray, "h w"]) -> dict[str, Float[np.ndarray, "b h w"]]:
    """The four maps that need no network, for each of b images (b, h, w, c).

    Raises:
      UserError: when the prior has another size than the images.
    """
    images = np.asarray(images, np.float32)
    shape = images.shape[:3]
    if np.shape(prior) != shape[1:]:
        raise UserError(
            f"the mean training mask has {np.shape(prior)} pixels and the images {shape[1:]}; scale it first"
        )
    rows, columns = (np.exp(-0.5 * ((np.arange(n) + 0.5) / n - 0.5) ** 2 / CENTRE_SIGMA**2) for n in shape[1:])
    same = {PRIOR: prior, ONES: np.ones(shape[1:]), CENTRE: np.outer(rows, columns)}
    fixed = {name: np.broadcast_to(np.asarray(one, np.float32), shape) for name, one in same.items()}
    return fixed | {INTENSITY: images.mean(axis=-1)}


def localisation_table(
    maps: dict[str, Float[np.ndarray, "n h w"]],
    test: MapSet,
    calibration_maps: dict[str, Float[np.ndarray, "m h w"]],
    calibration: MapSet,
    prior: Float[np.ndarray, "h w"],
    *,
    tolerance: float = 0.0,
    top: float = 1.0,
    edges: int = 1024,
    batch_size: int = 32,
) -> dict[str, dict[str, float]]:
    """Score maps and the baselines alike: thresholds and edges from the calibration set, numbers from the test set.

    Args:
      maps: of the test images, one array for each row of the table.
      test: the test images.
      calibration_maps: of the calibration images, under the same names.
      calibration: images of other patients.
      prior: from `prior_map` over training masks, never over the test set's.
      tolerance: of the pointing game, in pixels of the map.
      top: share of the highest pixels that make an image's own score, see `anomaly_maps.image_scores`.
      edges: number of thresholds.
      batch_size: images measured at a time.

    Returns:
      The rows by name, those of ``maps`` first, each with the numbers of `anomaly.compute` and, if
      the test set has images with and without a lesion, ``image_auroc`` and ``image_auprc``.

    Raises:
      UserError: when names or sizes differ, and as `anomaly_maps.check_maps` and `anomaly.compute`.
    """
    if set(maps) != set(calibration_maps):
        raise UserError(f"maps are {sorted(maps)} and calibration maps {sorted(calibration_maps)}; give both the same")
    baselines = baseline_maps(test.images, prior)
    if taken := set(maps) & set(baselines):
        raise UserError(f"maps: {sorted(taken)} are names of baselines; choose others")
    rows = maps | baselines
    others = calibration_maps | baseline_maps(calibration.images, prior)
    for row in rows:
        anomaly_maps.check_maps(rows[row], test.targets, test.region, test.names)
        anomaly_maps.check_maps(others[row], calibration.targets, calibration.region, calibration.names)
    table = {}
    for row in rows:
        thresholds = ranking.quantile_edges(_scores_inside(others[row], calibration.region), edges)
        measure = functools.partial(_measure, edges=thresholds, tolerance=tolerance, batch_size=batch_size)
        threshold = anomaly.calibrated_threshold(measure(others[row], calibration), thresholds)
        table[row] = anomaly.compute(measure(rows[row], test), thresholds, threshold)
        table[row] |= _image_level(rows[row], test, top, batch_size)
    return table


def _measure(
    maps: np.ndarray, split: MapSet, edges: np.ndarray, tolerance: float, batch_size: int
) -> dict[str, jax.Array]:
    acc = anomaly.init(edges)
    for mask, fields in _batches((maps, split.targets, split.region), batch_size):
        acc = _accumulate(acc, fields[0], fields[1], mask, edges, fields[2], tolerance)
    return acc


_accumulate = jax.jit(anomaly.accumulate, static_argnums=6)


def _batches(fields: tuple[np.ndarray | None, ...], size: int) -> Iterator[tuple[np.ndarray, list[np.ndarray | None]]]:
    """Batches of one size, the last one padded by copies of its first record."""
    count = len(fields[0])
    for start in range(0, count, size):
        places = np.arange(start, start + size)
        real = places < count
        places = np.where(real, places, start)
        yield real, [None if field is None else field[places] for field in fields]


def _scores_inside(maps: np.ndarray, region: np.ndarray | None) -> np.ndarray:
    return maps if region is None else maps[region > 0]


def _image_level(maps: np.ndarray, split: MapSet, top: float, batch_size: int) -> dict[str, float]:
    labels, scores = [], []
    for real, (batch, targets, region) in _batches((maps, split.targets, split.region), batch_size):
        inside = True if region is None else region > 0
        labels.append(np.any((targets > 0) & inside, axis=(1, 2))[real])
        scores.append(np.asarray(anomaly_maps.image_scores(batch, region, top))[real])
    labels = np.concatenate(labels)
    if labels.all() or not labels.any():
        return {}
    areas = ranking.ranking_scores(np.concatenate(scores), labels)
    return {"image_auroc": areas["auroc"], "image_auprc": areas["auprc"]}
