"""Perceptual distance over a data set, in the two protocols that share the name LPIPS.

* ``lpips``, lower is better: distance of each image to its own target, averaged over the images.
  `accumulate` and `compute`.
* ``lpips_diversity``, higher is more diverse: mean distance of all k (k - 1) / 2 pairs among k outputs for one
  source (Choi, Uh, Yoo and Ha, StarGAN v2, CVPR 2020, appendix on metrics: 10 outputs, 45 pairs), averaged over the
  sources. `accumulate_diversity` and `compute_diversity`. Nothing in it looks at a target: noise is diverse.

Numbers of one protocol never stand beside those of the other. The network arrives as a function:
``distance(x, y) -> (b,)``, or ``embed(x)``, after which the distance of two images is the squared Euclidean
distance of their points (`medgen_jax.nn.lpips`). Both share one accumulator. A distance that is not finite makes
the numbers NaN; records whose mask is 0 never count.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image, Mask
from medgen_jax.ops import compensated

Distance = Callable[[Image, Image], jax.Array]
Embed = Callable[[Image], Any]


def init() -> jax.Array:
    """An empty accumulator of either protocol, float32 (3, 2): number, sum and sum of squares of the values."""
    return compensated.zeros(3)


def accumulate(acc: jax.Array, distance: Distance, predicted: Image, target: Image, mask: Mask) -> jax.Array:
    """Add a batch of ``lpips``.

    Args:
      acc: what `init`, `accumulate` or `merge` returned.
      distance: ``(x, y) -> (b,)``.
      predicted, target: (b, h, w, c) in [-1, 1].
      mask: (b,), 1 or True for real records and 0 for padding.
    """
    return _add(acc, distance(predicted, target), mask)


def accumulate_diversity(acc: jax.Array, embed: Embed, outputs: Image, mask: Mask) -> jax.Array:
    """Add a batch of ``lpips_diversity``.

    Args:
      acc: what `init`, `accumulate_diversity` or `merge` returned.
      embed: see `diversity`.
      outputs: (k, b, h, w, c) in [-1, 1], k outputs for each of b sources.
      mask: (b,), 1 or True for real sources and 0 for padding.

    Raises:
      UserError: as `diversity` does.
    """
    return _add(acc, diversity(embed, outputs), mask)


def diversity(embed: Embed, outputs: Image) -> jax.Array:
    """Mean distance of all k (k - 1) / 2 pairs among k outputs, for each source; higher is more diverse.

    Distances are squares in the space of ``embed``, so their mean over all pairs is twice the unbiased
    variance of the k points: exact, with every output embedded once and never more than one batch of
    points and their mean in memory (one pass: Welford, Technometrics 4(3), 1962).

    Args:
      embed: images (b, h, w, c) -> array or tree of arrays (b, ...), such as `medgen_jax.nn.lpips.embed` of fixed
        variables.
      outputs: (k, b, h, w, c) in [-1, 1], k at least 2. The k outputs of source j are ``outputs[:, j]``.

    Returns:
      (b,) float32, never negative; 0, up to rounding, where all outputs are equal.

    Raises:
      UserError: when there is one output only, or another number of axes.
    """
    if outputs.ndim != 5 or len(outputs) < 2:
        raise UserError(
            f"LPIPS diversity of outputs {outputs.shape}: expected (k, b, h, w, c), and k at least 2 outputs per source"
        )

    def add(carry, numbered):
        mean, squares = carry
        number, images = numbered
        step = jax.tree.map(jnp.subtract, embed(images), mean)
        mean = jax.tree.map(lambda m, s: m + s / number, mean, step)
        power = sum(_per_record(jnp.square(s)) for s in jax.tree.leaves(step))
        return (mean, squares + power * (number - 1) / number), None

    points = jax.eval_shape(embed, outputs[0])
    start = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), points), jnp.zeros(outputs.shape[1], jnp.float32)
    numbers = jnp.arange(1, len(outputs) + 1, dtype=jnp.float32)
    (_, squares), _ = jax.lax.scan(add, start, (numbers, outputs))
    return 2 / (len(outputs) - 1) * squares


def merge(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum of two accumulators; associative and commutative up to about 2^-48."""
    return compensated.add(a, b)


def compute(acc: jax.Array) -> dict[str, float]:
    """``lpips``, ``lpips_standard_error`` (of the mean, over images; absent with one image), ``lpips_images``.

    Raises:
      UserError: when no image was added.
    """
    return _summary(acc, "lpips", "images")


def compute_diversity(acc: jax.Array) -> dict[str, float]:
    """``lpips_diversity``, ``lpips_diversity_standard_error`` (over sources), ``lpips_diversity_sources``.

    Raises:
      UserError: when no source was added.
    """
    return _summary(acc, "lpips_diversity", "sources")


def _summary(acc: jax.Array, name: str, unit: str) -> dict[str, float]:
    count, total, squares = (float(value) for value in compensated.value(acc))
    if count == 0:
        raise UserError(f"{name}: nothing was added; the split that is evaluated is empty")
    summary = {name: total / count, f"{name}_{unit}": count}
    if count > 1:
        deviations = max(squares - total * total / count, 0.0) if math.isfinite(squares) else math.nan
        summary[f"{name}_standard_error"] = math.sqrt(deviations / (count - 1) / count)
    return summary


def _add(acc: jax.Array, values: jax.Array, mask: Mask) -> jax.Array:
    if values.shape != mask.shape:
        raise ValueError(f"distances {values.shape} for a mask {mask.shape}: one number per record is needed")
    values = values.astype(jnp.float32)
    ones, plain = (compensated.pair(x) for x in (jnp.ones_like(values), values))
    return compensated.add_records(acc, jnp.stack([ones, plain, compensated.product(values, values)]), mask)


def _per_record(x: jax.Array) -> jax.Array:
    """Sum over all axes but the first."""
    return jnp.sum(x, axis=tuple(range(1, x.ndim)))
