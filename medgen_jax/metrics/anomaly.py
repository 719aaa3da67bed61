"""Whether maps of something abnormal find the lesions that masks or boxes mark.

A *map* is (h, w), higher where more abnormal: a residual, a class activation map, an error. A
*target* is a mask of the same size, True in the lesion; `medgen_jax.metrics.boxes` makes it of
boxes. A *region* (lung, body) limits everything to the pixels where it is True; the whole image if
left out.

Per image: `overlap` (Dice and IoU at thresholds), `pointing_hits`, `energy_in_mask`, `image_scores`.
They run under jit, where a map that is not finite gives NaN; outside they name it in a `UserError`.
Over a data set: ``init / accumulate / merge / compute``, which count each image's pixels between
fixed edges (see `medgen_jax.metrics.ranking`) and so give every threshold at once.
`medgen_jax.metrics.localisation` puts the result beside maps that need no network.

* A threshold has to come from other patients: `calibrated_threshold`. ``best_dice`` takes the
  threshold that suits the test set best and ``best_dice_per_image`` one for each image; both look
  at the answer, so no use of the map in practice reaches them.
* Lesions sit where lungs are, so the mean training mask alone scores well (a pixel AUROC of .86 on
  chest X-rays with boxes). A map has shown something only where it exceeds the baselines.
* Boxes are coarse: even a perfect map of the lesion has a Dice well below 1 against its box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Mask
from medgen_jax.metrics import ranking
from medgen_jax.ops import compensated

Maps = Float[Array, "b h w"]
Targets = Bool[Array, "b h w"]
Edges = Float[Array, "k"]

# What the accumulator sums: over images with a lesion, over all images, and curves over the edges.
_OF_LESIONS = ("lesion_images", "divided", "auroc", "pointing", "energy", "best_dice")
_OF_ALL = ("images", "constant", "not_finite", "no_region")
_CURVES = ("dice", "iou", "healthy_area")


class Overlap(NamedTuple):
    """Dice = 2 |A and B| / (|A| + |B|) and IoU = |A and B| / |A or B|, (b, k) each; 1 where both are empty."""

    dice: jax.Array
    iou: jax.Array


def check_maps(
    maps: Maps, targets: Targets | None = None, region: Targets | None = None, names: Sequence[str] | None = None
) -> None:
    """Refuse on the host what cannot be scored.

    Raises:
      UserError: when shapes differ or are not (b, h, w), and naming the first record whose map is
        NaN or infinite inside the region, whose region is empty, or whose target is not 0 and 1.
    """
    maps = np.asarray(maps)
    targets = np.zeros(maps.shape, bool) if targets is None else np.asarray(targets)
    inside = np.asarray(_inside(maps, targets, region))
    names = _names(names, len(maps))

    def refuse(bad: np.ndarray, what: str) -> None:
        if bad.any():
            raise UserError(f"{names[int(np.argmax(bad))]}: {what} ({np.count_nonzero(bad)} of {len(bad)} records)")

    refuse(~inside.any(axis=(1, 2)), "the region is empty; segment it again or leave the image out")
    refuse((~np.isfinite(maps) & inside).any(axis=(1, 2)), "the map holds NaN or infinity; mend what made it")
    if targets.dtype != bool:
        refuse(~np.isin(targets, (0, 1)).all(axis=(1, 2)), "the target is not 0 and 1; compare it with a level first")


def overlap(maps: Maps, targets: Targets, thresholds: Edges, region: Targets | None = None) -> Overlap:
    """Dice and IoU of ``map >= threshold`` against the target, at rising thresholds (k,).

    Raises:
      UserError: as `check_maps`, and when thresholds do not rise.
    """
    inside = _checked(maps, targets, region)
    ranking.check_edges(thresholds)
    counts = ranking.histograms(maps, targets, thresholds, inside)
    return Overlap(*(_where_finite(scores, maps, inside) for scores in _overlap(_reached(counts))))


def pointing_hits(
    maps: Maps, targets: Targets, tolerance: float = 0.0, region: Targets | None = None
) -> Float[Array, "b"]:
    """Pointing game: does the map's maximum lie in the target, or at most ``tolerance`` pixels away?

    Zhang, Lin, Brandt, Shen and Sclaroff, ECCV 2016, "The pointing game", who allow 15 pixels of
    the original image. Of several equal maxima one is drawn at random: the result, in [0, 1], is its
    chance to hit, so that a constant map scores the share of the (widened) target. 0 without a target.

    Args:
      maps: (b, h, w).
      targets: (b, h, w).
      tolerance: Euclidean distance between pixel centres, in pixels of the map; static under jit.
      region: (b, h, w); maxima are sought inside.

    Raises:
      UserError: as `check_maps`.
    """
    inside = _checked(maps, targets, region)
    return _where_finite(_pointing(maps, targets, tolerance, inside), maps, inside)


def energy_in_mask(maps: Maps, targets: Targets, region: Targets | None = None) -> Float[Array, "b"]:
    """Share of the map's positive part that lies in the target, in [0, 1].

    The energy-based pointing game of Wang et al., CVPR workshops 2020 (Score-CAM). A map without a
    positive value points nowhere and scores as a constant one does: the target's share of the area.

    Raises:
      UserError: as `check_maps`.
    """
    inside = _checked(maps, targets, region)
    return _where_finite(_energy(maps, targets, inside), maps, inside)


def image_scores(maps: Maps, region: Targets | None = None, top: float = 1.0) -> Float[Array, "b"]:
    """One score for each image: the mean of the highest ``top`` share of its pixels, at least of one.

    1 is the mean, 0 the maximum. `ranking.ranking_scores` of them and the images' labels are the
    image-level AUROC and AUPRC.

    Raises:
      UserError: when ``top`` is not in [0, 1], and as `check_maps`.
    """
    if not 0 <= top <= 1:
        raise UserError(f"image scores: the highest {top} of the pixels; give a share from 0 to 1")
    inside = _checked(maps, None, region)
    values = jnp.where(inside, maps, -jnp.inf).reshape(len(maps), -1)
    sizes = jnp.sum(inside, axis=(1, 2))
    kept = jnp.maximum(jnp.ceil(top * sizes), 1)
    if top < 1:
        values = jnp.sort(values, axis=1, descending=True)
        chosen = jnp.arange(values.shape[1])[None] < kept[:, None]
    else:
        chosen = inside.reshape(len(maps), -1)
    means = jnp.sum(jnp.where(chosen, values, 0), axis=1, dtype=jnp.float32) / kept
    return _where_finite(means, maps, inside)


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
    inside = _inside(maps, targets, region)
    targets = (targets > 0) & inside
    counts = ranking.histograms(maps, targets, edges, inside)
    reached = _reached(counts)
    negatives, positives = reached[:, 0, 0], reached[:, 1, 0]
    scores, lesion, divided = _overlap(reached), positives > 0, negatives > 0
    lowest = jnp.min(maps, axis=(1, 2), initial=jnp.inf, where=inside)
    highest = jnp.max(maps, axis=(1, 2), initial=-jnp.inf, where=inside)
    of_lesions = {
        "lesion_images": jnp.ones(len(maps)),
        "divided": divided,
        "auroc": jnp.where(divided, _area(reached), 0),
        "pointing": _pointing(maps, targets, tolerance, inside),
        "energy": _energy(maps, targets, inside),
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


def _reached(counts: Int[Array, "b 2 n"]) -> Int[Array, "b 2 m"]:
    """Negatives and positives in each bin and all above it, of m = 2 k + 1 bins on and between k edges."""
    return jnp.cumsum(counts[:, :, -2::-1], axis=2)[:, :, ::-1]


def _overlap(reached: Int[Array, "b 2 m"]) -> Overlap:
    hits, union = reached[:, 1, 1::2], reached[:, 0, 1::2] + reached[:, 1, :1]
    ratios = (2 * hits / jnp.maximum(hits + union, 1), hits / jnp.maximum(union, 1))
    return Overlap(*(jnp.where(union > 0, ratio, 1.0) for ratio in ratios))


def _area(reached: Int[Array, "b 2 m"]) -> Float[Array, "b"]:
    """AUROC of each image, scores of one bin counting as equal; 0 / 0 where a class is missing."""
    reached = reached.astype(jnp.float32)
    above = jnp.pad(reached[:, :, 1:], ((0, 0), (0, 0), (0, 1)))
    won = (reached - above)[:, 0] * (above + reached)[:, 1] / 2
    return jnp.sum(won, axis=1) / (reached[:, 0, 0] * reached[:, 1, 0])


def _pointing(maps: Maps, targets: Targets, tolerance: float, inside: Targets) -> Float[Array, "b"]:
    highest = jnp.max(maps, axis=(1, 2), keepdims=True, initial=-jnp.inf, where=inside)
    peaks = inside & (maps == highest)
    hits = peaks & _within(targets > 0, tolerance)
    return jnp.sum(hits, axis=(1, 2)) / jnp.sum(peaks, axis=(1, 2))


def _within(targets: Targets, distance: float) -> Targets:
    """Pixels whose centre is at most ``distance`` away from that of a target pixel."""
    if distance < 1:
        return targets
    reach, (_, height, width) = int(distance), targets.shape
    columns = jnp.broadcast_to(jnp.arange(width), targets.shape)
    far = 2 * (width + reach)  # further than any column is
    before = jax.lax.cummax(jnp.where(targets, columns, -far), axis=2)
    after = jax.lax.cummin(jnp.where(targets, columns, far), axis=2, reverse=True)
    gaps = jnp.minimum(columns - before, after - columns)  # to the nearest target pixel of the row
    gaps = jnp.pad(gaps, ((0, 0), (reach, reach), (0, 0)), constant_values=far)

    def add_row(step, near):
        row = jax.lax.dynamic_slice_in_dim(gaps, step, height, axis=1)
        return near | (row**2 + (step - reach) ** 2 <= distance**2)

    return jax.lax.fori_loop(0, 2 * reach + 1, add_row, jnp.zeros_like(targets))


def _energy(maps: Maps, targets: Targets, inside: Targets) -> Float[Array, "b"]:
    energy = jnp.where(inside, jnp.maximum(maps, 0), 0).astype(jnp.float32)
    highest = jnp.max(energy, axis=(1, 2), keepdims=True)
    # Relative to the maximum, as the sum of a very large or very small map is no float32.
    energy = jnp.where(highest > 0, energy / jnp.where(highest > 0, highest, 1), inside)
    return jnp.sum(energy * (targets > 0), axis=(1, 2)) / jnp.sum(energy, axis=(1, 2))


def _checked(maps: Maps, targets: Targets | None, region: Targets | None) -> Targets:
    """The region as an array; outside jit also what `check_maps` does."""
    if not any(isinstance(array, jax.core.Tracer) for array in (maps, targets, region)):
        check_maps(maps, targets, region)
    return _inside(maps, maps if targets is None else targets, region)


def _inside(maps: Maps, targets: Targets, region: Targets | None) -> Targets:
    region = jnp.ones(maps.shape, bool) if region is None else region > 0
    if not (len(maps.shape) == 3 and maps.shape == targets.shape == region.shape):
        raise UserError(
            f"anomaly maps: maps have shape {maps.shape}, targets {targets.shape} and the region {region.shape}; "
            "all must be one (b, h, w)"
        )
    return region


def _where_finite(values: jax.Array, maps: Maps, inside: Targets) -> jax.Array:
    good = jnp.all(jnp.isfinite(maps) | ~inside, axis=(1, 2)) & jnp.any(inside, axis=(1, 2))
    return jnp.where(good.reshape(-1, *[1] * (values.ndim - 1)), values, jnp.nan)


def _sum(values: Float[Array, "b n"], counted: Mask) -> Float[Array, "n 2"]:
    return compensated.pair(jnp.sum(jnp.where(counted[:, None], values, 0), axis=0, dtype=jnp.float32))


def _sums(acc: dict[str, jax.Array], name: str) -> dict[str, np.ndarray]:
    """What was summed, by name, in float64."""
    sums = {key: compensated.value(values) for key, values in acc.items()}
    sums |= dict(zip(_OF_ALL, sums["all"], strict=True)) | dict(zip(_OF_LESIONS, sums["lesions"], strict=True))
    for key, what in (("not_finite", "maps hold NaN or infinity"), ("no_region", "regions are empty")):
        if sums[key]:
            raise UserError(f"{name}: {sums[key]:.0f} of {sums['images']:.0f} {what}; check_maps names the first")
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


def _names(names: Sequence[str] | None, count: int) -> Sequence[str]:
    if names is not None and len(names) != count:
        raise UserError(f"anomaly maps: {len(names)} names for {count} maps; give one each")
    return [f"record {i}" for i in range(count)] if names is None else names
