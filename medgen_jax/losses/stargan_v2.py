"""Loss terms of StarGAN v2 (Choi et al., CVPR 2020, section 2.2), unweighted float32 scalars.

Beside them stands the cross-entropy of `medgen_jax.losses.adversarial` (``vanilla``): the generator's is
`medgen_jax.losses.adversarial.generator_loss`. The generator's objective is adversarial + style reconstruction -
diversity + cycle, each times its weight; diversity is wanted, hence the minus.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from medgen_jax.core.types import Image
from medgen_jax.losses.adversarial import gan_loss
from medgen_jax.losses.pixel import l1


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """The cross-entropies of real and fake logits (equation 1), their sum and not half of it."""
    return gan_loss(real_logits, True) + gan_loss(fake_logits, False)


def r1(judge: Callable[[Image], jax.Array], images: Image) -> tuple[jax.Array, jax.Array]:
    """Half the squared gradient of every logit by its own image, averaged (Mescheder et al. 2018, equation 9).

    Args:
      judge: images -> logits, one per image, which no other image has a part in.
      images: (n, h, w, c), real ones.

    Returns:
      penalty: scalar; differentiable, so a step on it differentiates ``judge`` twice.
      logits: ``judge(images)``, for the loss on real images without another pass.
    """
    images = images.astype(jnp.float32)
    logits, pull = jax.vjp(judge, images)
    (slope,) = pull(jnp.ones_like(logits))
    return 0.5 * jnp.mean(jnp.sum(jnp.square(slope), axis=(1, 2, 3))), logits


def style_reconstruction(read: jax.Array, given: jax.Array) -> jax.Array:
    """Mean absolute difference of the styles (n, s) read off translations and those given to them (equation 2)."""
    return l1(read, given)


def diversity(first: Image, second: Image) -> jax.Array:
    """Mean absolute difference of translations into two styles of one domain (equation 3), which is to grow.

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
