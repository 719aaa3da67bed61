"""First values of weights that a network may choose from.

``uniform``: kernels within 1 / sqrt(fan), PyTorch's own default; scales of norms are 1. ``normal``: kernels N(0, 0.02),
scales N(1, 0.02) (Radford et al. 2016, section 4). Biases are 0 in both.
"""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax

from medgen_jax.nn.blocks import KERNEL_INIT, Norm

INITS = ("uniform", "normal")

Initialiser = Callable[..., jax.Array]


def _check(kind: str) -> None:
    if kind not in INITS:
        raise ValueError(f"init {kind!r}: expected one of {', '.join(INITS)}")


def kernel_init(kind: str, transposed: bool = False) -> Initialiser:
    """First values of a kernel (..., in, out).

    Args:
      kind: one of `INITS`.
      transposed: the kernel of a transposed convolution, whose fan PyTorch counts over its outputs.
    """
    _check(kind)
    if kind == "normal":
        return KERNEL_INIT
    return nn.initializers.variance_scaling(1 / 3, "fan_out" if transposed else "fan_in", "uniform")


def scale_init(kind: str) -> Initialiser:
    """First values of a norm's scale; ``kind`` is one of `INITS`."""
    _check(kind)
    return Norm.scale_init if kind == "normal" else nn.initializers.ones
