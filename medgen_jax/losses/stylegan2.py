"""Losses of StyleGAN2 (Karras et al. 2020, sections 3 and B) and the diversity term that is added to them.

The networks arrive as functions of what a term is differentiated by. Gradients of gradients come from `jax.grad`;
every term is a float32 mean over the batch, without its weight.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from medgen_jax.core.types import Image
from medgen_jax.losses.adversarial import gan_loss
from medgen_jax.losses.pixel import l1

#: Share of a batch's path lengths in their moving mean.
PATH_DECAY = 0.01


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array) -> jax.Array:
    """Logistic loss ``mean softplus(-real) + mean softplus(fake)``: the sum, not half of it."""
    return gan_loss(real_logits, True) + gan_loss(fake_logits, False)


def generator_loss(fake_logits: jax.Array) -> jax.Array:
    """Non-saturating logistic loss ``mean softplus(-fake)``."""
    return gan_loss(fake_logits, True)


def r1_penalty(score: Callable[[Image], jax.Array], images: Image) -> jax.Array:
    """Half the squared slope of the score on real images: R1 of Mescheder et al. 2018, equation 9, weight 1.

    Args:
      score: images -> logits of any shape, whose sum is differentiated.
      images: (b, h, w, c) real images.

    Returns:
      ``mean_b 0.5 sum_hwc (d score / d image)^2``.
    """
    slopes = jax.grad(lambda x: jnp.sum(score(x).astype(jnp.float32)))(images).astype(jnp.float32)
    return 0.5 * jnp.mean(jnp.sum(jnp.square(slopes), axis=(1, 2, 3)))


def path_lengths(synthesise: Callable[[jax.Array], Image], ws: jax.Array, probes: Image) -> jax.Array:
    """How far styles move the image, of each sample: the ``|J^T y|`` of Karras et al. 2020, equation 4.

    Args:
      synthesise: styles (b, layers, d) -> images (b, h, w, c). Noise inputs must be the same at every call.
      ws: (b, layers, d).
      probes: (b, h, w, c) standard normal.

    Returns:
      (b,) float32: ``sqrt(mean over layers of sum over d of slope^2)``, with the slope of
      ``sum(images probes) / sqrt(h w)`` by the styles. Where a length is 0, so is its gradient.
    """
    scale = 1 / math.sqrt(probes.shape[1] * probes.shape[2])
    images, pull = jax.vjp(synthesise, ws)
    (slopes,) = pull((probes * scale).astype(images.dtype))
    squares = jnp.mean(jnp.sum(jnp.square(slopes.astype(jnp.float32)), axis=2), axis=1)
    # The root's slope is infinite at 0; both branches of a select are differentiated.
    positive = squares > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squares, 1.0)), 0.0)


def path_penalty(lengths: jax.Array, mean: jax.Array, decay: float = PATH_DECAY) -> tuple[jax.Array, jax.Array]:
    """Variance of the path lengths round their moving mean, Karras et al. 2020, equation 4.

    Args:
      lengths: (b,) of `path_lengths`.
      mean: scalar, moving mean of the steps before; 0 at first.
      decay: share of this batch in the new mean.

    Returns:
      ``mean_b (length - new mean)^2``, through whose new mean the gradient passes as well, as in the published
      implementations; and the new mean, cut off from the gradient, to be remembered.
    """
    mean = mean + decay * (jnp.mean(lengths) - mean)
    return jnp.mean(jnp.square(lengths - mean)), lax.stop_gradient(mean)


def diversity(images: Image, others: Image) -> jax.Array:
    """Mean absolute difference of images made from different codes; the generator's loss takes it with a minus.

    Choi et al. 2020, equation 3 (after Mao et al. 2019), applied to synthesis: the other images are of the same
    labels and other codes, or of the same codes and other labels.

    Args:
      images: (b, h, w, c).
      others: the same shape; cut off from the gradient.
    """
    return l1(images, lax.stop_gradient(others))
