"""Whether a map of something abnormal finds the lesion that a mask or boxes mark, image by image.

A *map* is (h, w), higher where more abnormal: a residual, a class activation map, an error. A
*target* is a mask of the same size, True in the lesion; `medgen_jax.metrics.boxes` makes it of
boxes. A *region* (lung, body) limits everything to the pixels where it is True; the whole image if
left out.

`overlap` (Dice and IoU at thresholds), `pointing_hits`, `energy_in_mask` and `image_scores` run under
jit, where a map that is not finite gives NaN; outside they name it in a `UserError`. What they are made
of follows below them, unchecked, for batches whose padding may hold anything.
`medgen_jax.metrics.anomaly` gathers them over a data set.

Boxes are coarse: even a perfect map of the lesion has a Dice well below 1 against its box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import ranking

Maps = Float[Array, "b h w"]
Targets = Bool[Array, "b h w"]
Edges = Float[Array, "k"]


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
    inside = np.asarray(region_of(maps, targets, region))
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
    return Overlap(*(_where_finite(scores, maps, inside) for scores in overlap_of(reached_from(counts))))


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
    return _where_finite(chance_to_hit(maps, targets, tolerance, inside), maps, inside)


def energy_in_mask(maps: Maps, targets: Targets, region: Targets | None = None) -> Float[Array, "b"]:
    """Share of the map's positive part that lies in the target, in [0, 1].

    The energy-based pointing game of Wang et al., CVPR workshops 2020 (Score-CAM). A map without a
    positive value points nowhere and scores as a constant one does: the target's share of the area.

    Raises:
      UserError: as `check_maps`.
    """
    inside = _checked(maps, targets, region)
    return _where_finite(energy_share(maps, targets, inside), maps, inside)


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


# ---- unchecked -----------------------------------------------------------------------------------


def region_of(maps: Maps, targets: Targets, region: Targets | None) -> Targets:
    """The region as an array; all True where there is none.

    Raises:
      UserError: when shapes differ or are not (b, h, w).
    """
    region = jnp.ones(maps.shape, bool) if region is None else region > 0
    if not (len(maps.shape) == 3 and maps.shape == targets.shape == region.shape):
        raise UserError(
            f"anomaly maps: maps have shape {maps.shape}, targets {targets.shape} and the region {region.shape}; "
            "all must be one (b, h, w)"
        )
    return region


def reached_from(counts: Int[Array, "b 2 n"]) -> Int[Array, "b 2 m"]:
    """Negatives and positives in each bin and all above it, of m = 2 k + 1 bins on and between k edges.

    Args:
      counts: what `ranking.histograms` returned.
    """
    return jnp.cumsum(counts[:, :, -2::-1], axis=2)[:, :, ::-1]


def overlap_of(reached: Int[Array, "b 2 m"]) -> Overlap:
    """`overlap` from what `reached_from` counted."""
    hits, union = reached[:, 1, 1::2], reached[:, 0, 1::2] + reached[:, 1, :1]
    ratios = (2 * hits / jnp.maximum(hits + union, 1), hits / jnp.maximum(union, 1))
    return Overlap(*(jnp.where(union > 0, ratio, 1.0) for ratio in ratios))


def chance_to_hit(maps: Maps, targets: Targets, tolerance: float, inside: Targets) -> Float[Array, "b"]:
    """`pointing_hits` inside a region; 0 / 0 where that is empty."""
    highest = jnp.max(maps, axis=(1, 2), keepdims=True, initial=-jnp.inf, where=inside)
    peaks = inside & (maps == highest)
    hits = peaks & _within(targets > 0, tolerance)
    return jnp.sum(hits, axis=(1, 2)) / jnp.sum(peaks, axis=(1, 2))


def energy_share(maps: Maps, targets: Targets, inside: Targets) -> Float[Array, "b"]:
    """`energy_in_mask` inside a region; 0 / 0 where that is empty."""
    energy = jnp.where(inside, jnp.maximum(maps, 0), 0).astype(jnp.float32)
    highest = jnp.max(energy, axis=(1, 2), keepdims=True)
    # Relative to the maximum, as the sum of a very large or very small map is no float32.
    energy = jnp.where(highest > 0, energy / jnp.where(highest > 0, highest, 1), inside)
    return jnp.sum(energy * (targets > 0), axis=(1, 2)) / jnp.sum(energy, axis=(1, 2))


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


def _checked(maps: Maps, targets: Targets | None, region: Targets | None) -> Targets:
    """The region as an array; outside jit also what `check_maps` does."""
    if not any(isinstance(array, jax.core.Tracer) for array in (maps, targets, region)):
        check_maps(maps, targets, region)
    return region_of(maps, maps if targets is None else targets, region)


def _where_finite(values: jax.Array, maps: Maps, inside: Targets) -> jax.Array:
    good = jnp.all(jnp.isfinite(maps) | ~inside, axis=(1, 2)) & jnp.any(inside, axis=(1, 2))
    return jnp.where(good.reshape(-1, *[1] * (values.ndim - 1)), values, jnp.nan)


def _names(names: Sequence[str] | None, count: int) -> Sequence[str]:
    if names is not None and len(names) != count:
        raise UserError(f"anomaly maps: {len(names)} names for {count} maps; give one each")
    return [f"record {i}" for i in range(count)] if names is None else names
