"""Whether maps of something abnormal find the lesions of a data set: ``init / accumulate / merge / compute``.

What maps, targets and regions are, and the measures of single images, is in `medgen_jax.metrics.anomaly_maps`.
Each image's pixels are counted between fixed edges (see `medgen_jax.metrics.ranking`), which gives
every threshold at once. `medgen_jax.metrics.localisation` puts the result beside maps that need no network.

* A threshold has to come from other patients: `calibrated_threshold`. ``best_dice`` takes the
  threshold that suits the test set best and ``best_dice_per_image`` one for each image; both look
  at the answer, so no use of the map in practice reaches them.
* Lesions sit where lungs are, so the mean training mask alone scores well (a pixel AUROC of .86 on
  chest X-rays with boxes). A map has shown something only where it exceeds the baselines.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Mask
from medgen_jax.metrics import anomaly_maps, ranking
from medgen_jax.metrics.anomaly_maps import Edges, Maps, Targets
from medgen_jax.ops import compensated

# What the accumulator sums: over images with a lesion, over all images, and curves over the edges.
_OF_LESIONS = ("lesion_images", "divided", "auroc", "pointing", "energy", "best_dice")
_OF_ALL = ("images", "constant", "not_finite", "no_region")
_CURVES = ("dice", "iou", "healthy_area")


def init(edges: Edges) -> dict[str, jax.Array]:
    """An empty accumulator of sums, pairs as in `medgen_jax.ops.compensated`.

    Args:
      edges: (k,) rising thresholds, the same to every call; `ranking.quantile_edges` makes them.

    Raises:
      UserError: when the edges are not rising.
    """
    sizes = {"lesions": len(_OF_LESIONS), "all": len(_OF_ALL)} | dict.fromkeys(_CURVES, len(edges))
    return {"pixels": ranking.init(edges)} | {name: compensated.zeros(size) for name, size in sizes.items()}


def accumulate(
    acc: dict[str, jax.Array],
    maps: Maps,
    targets: Targets,
    mask: Mask,
    edges: Edges,
    region: Targets | None = None,
    tolerance: float = 0.0,
) -> dict[str, jax.Array]:
    """Add a batch.

    Args:
      acc: what `init`, `accumulate` or `merge` returned.
      maps: (b, h, w).
      targets: (b, h, w) bool, empty for an image without a lesion.
      mask: (b,), 1 or True for real records and 0 for padding, which may hold anything.
      edges: those of `init`.
      region: (b, h, w) bool.
      tolerance: of the pointing game, in pixels of the map; static under jit.

    Raises:
      UserError: when shapes differ.
    """
    inside = anomaly_maps.region_of(maps, targets, region)
    targets = (targets > 0) & inside
    counts = ranking.histograms(maps, targets, edges, inside)
    reached = anomaly_maps.reached_from(counts)
    negatives, positives = reached[:, 0, 0], reached[:, 1, 0]
    scores, lesion, divided = anomaly_maps.overlap_of(reached), positives > 0, negatives > 0
    lowest = jnp.min(maps, axis=(1, 2), initial=jnp.inf, where=inside)
    highest = jnp.max(maps, axis=(1, 2), initial=-jnp.inf, where=inside)
    of_lesions = {
        "lesion_images": jnp.ones(len(maps)),
        "divided": divided,
        "auroc": jnp.where(divided, _area(reached), 0),
        "pointing": anomaly_maps.chance_to_hit(maps, targets, tolerance, inside),
        "energy": anomaly_maps.energy_share(maps, targets, inside),
        "best_dice": jnp.max(scores.dice, axis=1),
    }
    of_all = {
        "images": jnp.ones(len(maps)),
        "constant": lowest == highest,
        "not_finite": jnp.any(counts[:, :, -1] > 0, axis=1),
        "no_region": ~jnp.any(inside, axis=(1, 2)),
    }
    real = mask > 0
    columns = {
        "lesions": (jnp.stack([of_lesions[name] for name in _OF_LESIONS], 1), real & lesion),
        "all": (jnp.stack([of_all[name] for name in _OF_ALL], 1), real),
        "dice": (scores.dice, real & lesion),
        "iou": (scores.iou, real & lesion),
        "healthy_area": (reached[:, 0, 1::2] / jnp.maximum(negatives, 1)[:, None], real & ~lesion),
    }
    added = {name: _sum(values, counted) for name, (values, counted) in columns.items()}
    return merge(acc, added | {"pixels": ranking.total_counts(counts, real)})


def merge(a: dict[str, jax.Array], b: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Sum of two accumulators."""
    return {name: compensated.add(a[name], b[name]) for name in a}


def compute(acc: dict[str, jax.Array], edges: Edges, threshold: float | None = None) -> dict[str, float]:
    """Everything about the images added.

    Args:
      acc: what `accumulate` or `merge` returned.
      edges: those of `init`.
      threshold: one of the edges, from `calibrated_threshold` on other patients.

    Returns:
      * ``images``, ``lesion_images``, ``constant_maps``: how many;
      * ``pixel_auroc``, ``pixel_auprc`` and the rest of `ranking.compute`, all pixels of all images;
      * means over images with a lesion: ``auroc_per_image`` (binned), ``pointing``, ``energy``;
      * at the threshold, if given: ``dice`` and ``iou``, means over images with a lesion, and
        ``healthy_area``, the mean share of pixels at or above it in images without (absent when
        there are none), ``threshold``;
      * optimistic, as they look at the answer: ``best_dice`` at the one ``best_dice_threshold``,
        and ``best_dice_per_image``.

    Raises:
      UserError: when nothing was added, no image has a lesion, a map is not finite, a region is
        empty, or the threshold is not an edge.
    """
    sums = _sums(acc, "anomaly maps")
    count = _count(sums, "lesion", "anomaly maps")
    best = int(np.argmax(sums["dice"]))
    scores = {"images": sums["images"], "lesion_images": count, "constant_maps": sums["constant"]}
    scores |= {f"pixel_{name}": value for name, value in ranking.compute(acc["pixels"], edges).items()}
    if sums["divided"]:
        scores["auroc_per_image"] = sums["auroc"] / sums["divided"]
    scores |= {name: sums[name] / count for name in ("pointing", "energy")}
    if threshold is not None:
        place = _place(threshold, edges)
        scores |= {"threshold": threshold, "dice": sums["dice"][place] / count, "iou": sums["iou"][place] / count}
        if sums["images"] > count:
            scores["healthy_area"] = sums["healthy_area"][place] / (sums["images"] - count)
    scores |= {"best_dice": sums["dice"][best] / count, "best_dice_threshold": np.asarray(edges)[best]}
    scores["best_dice_per_image"] = sums["best_dice"] / count
    return {name: float(value) for name, value in scores.items()}


def calibrated_threshold(
    acc: dict[str, jax.Array], edges: Edges, *, healthy_area: float | None = None, name: str = "calibration set"
) -> float:
    """The threshold to use on other patients, one of the edges.

    Args:
      acc: of the calibration set.
      edges: those of `init`.
      healthy_area: if given, the lowest threshold at which images without a lesion have on average
        at most this share of their pixels marked; needs no lesion. If left out, the threshold with
        the best mean Dice over images with a lesion, the lowest of several.
      name: of the set, for messages.

    Raises:
      UserError: as `compute`, when there is no image of the kind that is needed, and when even the
        highest edge marks more.
    """
    sums = _sums(acc, name)
    if healthy_area is None:
        _count(sums, "lesion", name)
        return float(edges[int(np.argmax(sums["dice"]))])
    allowed = healthy_area * _count(sums, "healthy", name) * (1 + 1e-6)  # the shares are rounded to float32
    low_enough = np.flatnonzero((sums["healthy_area"] <= allowed) & np.isfinite(edges))
    if not len(low_enough):
        raise UserError(
            f"{name}: even the highest edge marks more than {healthy_area} of healthy pixels; add higher ones"
        )
    return float(edges[low_enough[0]])


def _area(reached: Int[Array, "b 2 m"]) -> Float[Array, "b"]:
    """AUROC of each image, scores of one bin counting as equal; 0 / 0 where a class is missing."""
    reached = reached.astype(jnp.float32)
    above = jnp.pad(reached[:, :, 1:], ((0, 0), (0, 0), (0, 1)))
    won = (reached - above)[:, 0] * (above + reached)[:, 1] / 2
    return jnp.sum(won, axis=1) / (reached[:, 0, 0] * reached[:, 1, 0])


def _sum(values: Float[Array, "b n"], counted: Mask) -> Float[Array, "n 2"]:
    return compensated.pair(jnp.sum(jnp.where(counted[:, None], values, 0), axis=0, dtype=jnp.float32))


def _sums(acc: dict[str, jax.Array], name: str) -> dict[str, np.ndarray]:
    """What was summed, by name, in float64."""
    sums = {key: compensated.value(values) for key, values in acc.items()}
    sums |= dict(zip(_OF_ALL, sums["all"], strict=True)) | dict(zip(_OF_LESIONS, sums["lesions"], strict=True))
    for key, what in (("not_finite", "maps hold NaN or infinity"), ("no_region", "regions are empty")):
        if sums[key]:
            raise UserError(
                f"{name}: {sums[key]:.0f} of {sums['images']:.0f} {what}; anomaly_maps.check_maps names the first"
            )
    return sums


def _count(sums: dict[str, np.ndarray], kind: str, name: str) -> float:
    counts = {"lesion": sums["lesion_images"], "healthy": sums["images"] - sums["lesion_images"]}
    if not counts[kind]:
        missing = {"lesion": "has a lesion", "healthy": "is free of lesions"}[kind]
        raise UserError(
            f"{name}: none of the {sums['images']:.0f} images {missing}; evaluate a split that has such images"
        )
    return counts[kind]


def _place(threshold: float, edges: Edges) -> int:
    places = np.flatnonzero(np.asarray(edges, np.float32) == np.float32(threshold))
    if not len(places):
        raise UserError(f"anomaly maps: the threshold {threshold} is not one of the edges; take calibrated_threshold")
    return int(places[0])
