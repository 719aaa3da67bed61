"""Perceptual structure against a target of the same field: MS-SSIM and HaarPSI, averaged over images.

``init / accumulate / merge / compute`` over NHWC images; the accumulator is three sums of
`medgen_jax.ops.compensated`. A non-finite prediction makes its numbers NaN; records whose mask is 0
never count.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medgen_jax.core.types import Image, Mask
from medgen_jax.metrics.haarpsi import haar_psi
from medgen_jax.metrics.pair_sums import by_name, check_shapes
from medgen_jax.metrics.ssim import EXPONENTS, multiscale_structural_similarity
from medgen_jax.ops import compensated
from medgen_jax.ops.scale import to_unit

_SUMS = ("images", "ms_ssim", "haarpsi")


def init() -> jax.Array:
    """An empty accumulator, float32 (3, 2)."""
    return compensated.zeros(len(_SUMS))


def accumulate(
    acc: jax.Array, predicted: Image, target: Image, mask: Mask, *, scales: int = len(EXPONENTS)
) -> jax.Array:
    """Add a batch.

    Args:
      acc: what `init`, `accumulate` or `merge` returned.
      predicted: (b, h, w, c), floats in [-1, 1], or uint8 or uint16 over their full range; c is 1 or 3.
      target: same shape and range.
      mask: (b,), 1 or True for real records and 0 for padding.
      scales: of MS-SSIM.

    Raises:
      UserError: when the shapes differ, and as the two measures do.
    """
    check_shapes("structure", predicted.shape, target.shape)
    x, y = to_unit(predicted), to_unit(target)
    records = [jnp.ones(x.shape[0]), multiscale_structural_similarity(x, y, scales=scales), haar_psi(x, y)]
    return compensated.add_records(acc, jnp.stack(records), mask)


def merge(a: jax.Array, b: jax.Array) -> jax.Array:
    """Sum of two accumulators; associative and commutative up to about 2^-48."""
    return compensated.add(a, b)


def compute(acc: jax.Array) -> dict[str, float]:
    """``ms_ssim`` and ``haarpsi``, means over all images added.

    Raises:
      UserError: when no image was added.
    """
    sums = by_name("structure", acc, _SUMS)
    return {name: sums[name] / sums["images"] for name in _SUMS[1:]}
