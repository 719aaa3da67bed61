"""Distances between images in the feature space of a fixed network, which arrives as a function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from medgen_jax.core.types import Image
from medgen_jax.losses.pixel import mse

Features = Callable[[Image], Any]


def content(
    features: Features, a: Image, b: Image, penalty: Callable[[jax.Array, jax.Array], jax.Array] = mse
) -> jax.Array:
    """Content loss: the difference of two images' features, float32 scalar.

    The feature reconstruction loss of Johnson, Alahi and Fei-Fei, ECCV 2016, equation 2; the focus paper
    takes the third convolution of VGG's third block. Every image passes the network on its own, so
    one that depends on no parameter costs no backward pass.

    Args:
      features: images -> one array, or a tree of them (several taps count equally), such as
        `medgen_jax.nn.lpips.features` of fixed variables.
      a, b: images of one shape.
      penalty: `medgen_jax.losses.pixel.mse` or `medgen_jax.losses.pixel.l1`.

    Raises:
      ValueError: the features of both have different shapes.
    """
    terms = jax.tree.leaves(jax.tree.map(penalty, features(a), features(b)))
    return sum(terms) / len(terms)


def lpips(distance: Callable[[Image, Image], jax.Array], a: Image, b: Image) -> jax.Array:
    """Mean perceptual distance of the pairs of a batch, float32 scalar.

    Args:
      distance: ``(x, y) -> (b,)``, such as `medgen_jax.nn.lpips.distance` of fixed variables; ``vgg`` is
        the network usually taken as a loss.
      a, b: images of one shape.
    """
    return jnp.mean(distance(a, b).astype(jnp.float32))
