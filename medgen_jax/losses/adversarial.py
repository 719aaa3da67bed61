"""Adversarial losses on discriminator logits of any shape, and R1; every loss is a float32 mean.

``vanilla`` is the cross-entropy of Goodfellow et al. 2014 with the non-saturating generator loss,
``lsgan`` the least-squares loss of Mao et al. 2017 (targets 1 and 0), ``hinge`` that of Lim & Ye 2017.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from medgen_jax.core.types import Image

KINDS = ("vanilla", "lsgan", "hinge")


def gan_loss(logits: jax.Array, target_is_real: bool, kind: str = "vanilla") -> jax.Array:
    """How far ``logits`` are from being judged real (or fake), as the discriminator counts it.

    With ``s = logits`` for real targets and ``-logits`` for fake ones: ``log(1 + exp(-s))`` (vanilla),
    ``(logits - target)^2`` (lsgan), ``max(0, 1 - s)`` (hinge).

    Args:
      logits: raw discriminator outputs, without a sigmoid.
      target_is_real: what the logits are compared with.
      kind: one of `KINDS`.
    """
    logits = logits.astype(jnp.float32)
    signed = logits if target_is_real else -logits
    if kind == "vanilla":
        return jnp.mean(jax.nn.softplus(-signed))
    if kind == "lsgan":
        return jnp.mean(jnp.square(logits - float(target_is_real)))
    if kind == "hinge":
        return jnp.mean(jax.nn.relu(1 - signed))
    raise ValueError(f"GAN loss {kind!r}: expected one of {', '.join(KINDS)}")


def discriminator_loss(real_logits: jax.Array, fake_logits: jax.Array, kind: str = "vanilla") -> jax.Array:
    """Half the sum of the losses on a real and a fake batch: ``0.5 (L(real, 1) + L(fake, 0))``."""
    return 0.5 * (gan_loss(real_logits, True, kind) + gan_loss(fake_logits, False, kind))


def generator_loss(fake_logits: jax.Array, kind: str = "vanilla") -> jax.Array:
    """The generator's wish that its images be judged real.

    The real-target loss of `gan_loss`, except for ``hinge``, whose generator maximises the mean logit.
    """
    if kind == "hinge":
        return -jnp.mean(fake_logits.astype(jnp.float32))
    return gan_loss(fake_logits, True, kind)


def r1_penalty(judge: Callable[[Image], jax.Array], images: Image) -> tuple[jax.Array, jax.Array]:
    """Half the squared gradient of the logits' sum by every image, averaged (Mescheder et al. 2018, equation 9).

    Args:
      judge: images -> logits of any shape. Where each is of one image alone, so is its gradient.
      images: (n, h, w, c), real ones.

    Returns:
      penalty: scalar; differentiable, so a step on it differentiates ``judge`` twice.
      logits: ``judge(images)``, for the loss on real images without another pass.
    """
    images = images.astype(jnp.float32)
    logits, pull = jax.vjp(judge, images)
    (slope,) = pull(jnp.ones_like(logits))
    return 0.5 * jnp.mean(jnp.sum(jnp.square(slope), axis=(1, 2, 3))), logits
