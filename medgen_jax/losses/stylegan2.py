"""Path length regularisation of StyleGAN2 (Karras et al. 2020, section 3.2), unweighted and float32.

Beside it stand the logistic losses (``vanilla``) and R1 of `medgen_jax.losses.adversarial`.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from medgen_jax.core.types import Image

#: Share of a batch's path lengths in their moving mean.
PATH_DECAY = 0.01


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
