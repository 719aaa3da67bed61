"""Loss terms of StarGAN v2 (Choi et al., CVPR 2020, section 2.2), unweighted float32 scalars.

Beside them stand the cross-entropy (``vanilla``) and R1 of `medgen_jax.losses.adversarial`. The generator's objective
is adversarial + style reconstruction - diversity + cycle, each times its weight; diversity is wanted, hence the minus.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from medgen_jax.core.types import Image
from medgen_jax.losses.pixel import l1


def style_reconstruction(read: jax.Array, given: jax.Array) -> jax.Array:
    """Mean absolute difference of the styles (n, s) read off translations and those given to them (equation 2)."""
    return l1(read, given)


def diversity(first: Image, second: Image) -> jax.Array:
    """Mean absolute difference of translations into two styles (equation 3), or of images from two codes; to grow.

    The second is held fixed: no gradient passes through it.
    """
    return l1(first, lax.stop_gradient(second))


def diversity_weight(step: jax.Array | int, first: float, steps: int) -> jax.Array:
    """Weight of `diversity` at a step from 0: ``first`` falling linearly to 0 at ``steps``, where it stays; float32.

    Raises:
      ValueError: ``steps`` is below 1.
    """
    if steps < 1:
        raise ValueError(f"diversity weight over {steps} steps: at least 1 is needed")
    return first * jnp.maximum(0.0, 1 - jnp.asarray(step, jnp.float32) / steps)


def cycle(back: Image, source: Image) -> jax.Array:
    """Mean absolute difference of images and their translations back into their own style (equation 4)."""
    return l1(back, source)
