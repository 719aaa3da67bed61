"""Steering a sampler: classifier-free, by a classifier's gradient, and both within an interval of steps.

Scales are arrays, so that another strength needs no new compilation: () or (B,), one per image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from medgen_jax.diffusion.process import Prediction
from medgen_jax.diffusion.schedules import Level

Denoise = Callable[[jax.Array, jax.Array, Any], jax.Array]
Classifier = Callable[[jax.Array, jax.Array], jax.Array]


def _per_image(scale: Any, rank: int) -> jax.Array:
    scale = jnp.asarray(scale, jnp.float32)
    return scale.reshape(scale.shape + (1,) * (rank - 1)) if scale.ndim else scale


def classifier_free(conditional: jax.Array, unconditional: jax.Array, scale: Any) -> jax.Array:
    """``conditional + scale * (conditional - unconditional)``: Ho & Salimans 2022 eq. (6), w = ``scale``.

    0 is the plain conditional prediction and -1 the unconditional one. Elsewhere (GLIDE, diffusers, most
    public samplers) "guidance scale" means ``1 + scale``: their 4.0 is 3.0 here. The same combination holds for
    epsilon, x0 and v alike, because each is an affine function of the others at a given ``x``.

    Args:
      conditional: (B, ...).
      unconditional: (B, ...).
      scale: () or (B,).
    """
    return conditional + _per_image(scale, conditional.ndim) * (conditional - unconditional)


def within(scale: Any, t: jax.Array, start: Any, stop: Any) -> jax.Array:
    """(B,): ``scale`` where ``start <= t < stop``, elsewhere 0: guidance in a limited interval.

    Kynkäänniemi et al. 2024 give the interval as noise levels; steps of the trained process are the same
    thing, as noise rises with ``t``. The limits may be traced.

    Args:
      scale: () or (B,).
      t: (B,), steps of the trained process.
      start: first guided step.
      stop: the step after the last guided one.
    """
    return jnp.where((t >= start) & (t < stop), jnp.asarray(scale, jnp.float32), 0.0)


def _interleave(first: jax.Array, second: jax.Array) -> jax.Array:
    """(2B, ...): rows alternate, so that a batch split over devices stays where it is."""
    pairs = jnp.stack([first, jnp.broadcast_to(second, first.shape)], axis=1)
    return pairs.reshape(-1, *first.shape[1:])


def classifier_free_denoise(denoise: Denoise, null: Any, scale: Any) -> Denoise:
    """A denoiser whose prediction is guided; one call of ``denoise`` on a batch of 2B.

    Only the prediction is guided; the variance channels of a network that learns them stay the conditional
    ones.

    Args:
      denoise: ``denoise(x, t, condition)``, see the package's docstring.
      null: pytree like ``condition``; its leaves, () or shaped like an image's part of the condition,
        say "nothing known", usually the index of the null row.
      scale: () or (B,) as in `classifier_free`, or a function of ``t``, such as
        ``lambda t: within(scale, t, 100, 800)``.
    """

    def guided(x: jax.Array, t: jax.Array, condition: Any) -> jax.Array:
        both = jax.tree.map(lambda known, nothing: _interleave(known, jnp.asarray(nothing)), condition, null)
        output = denoise(_interleave(x, x), _interleave(t, t), both)
        conditional, unconditional = jnp.moveaxis(output.reshape(x.shape[0], 2, *output.shape[1:]), 1, 0)
        channels = x.shape[-1]
        combined = classifier_free(
            conditional[..., :channels].astype(jnp.float32),
            unconditional[..., :channels].astype(jnp.float32),
            scale(t) if callable(scale) else scale,
        )
        return jnp.concatenate([combined, conditional[..., channels:].astype(jnp.float32)], axis=-1)

    return guided


def class_gradient(classifier: Classifier, x: jax.Array, t: jax.Array, labels: jax.Array) -> jax.Array:
    """Gradient of log p(label | x, t) with respect to ``x``, shape of ``x``.

    The sum over the batch is differentiated, which is each image's own gradient as long as the classifier
    does not mix images (no batch statistics).

    Args:
      classifier: logits (B, K) from noisy images and their steps.
      x: (B, H, W, C).
      t: (B,).
      labels: (B,) integers below K.
    """

    def log_probability(x: jax.Array) -> jax.Array:
        logs = jax.nn.log_softmax(classifier(x, t).astype(jnp.float32))
        return jnp.sum(jnp.take_along_axis(logs, labels[:, None], axis=-1))

    return jax.grad(log_probability)(x)


def classifier_guided(
    prediction: Prediction, x: jax.Array, gradient: jax.Array, level: Level, scale: Any
) -> Prediction:
    """The prediction moved along a classifier's gradient, in the form that DDIM needs.

    ``epsilon - scale * noise * gradient`` and the ``x0`` that goes with it, not clipped again: Dhariwal &
    Nichol 2021, algorithm 2. (Shifting the mean by the step's variance, their algorithm 1, would do nothing
    where that variance is 0.)

    Args:
      prediction: made at ``level``.
      x: (B, ...) at ``level``.
      gradient: of log p, shape of ``x``, as `class_gradient` gives it.
      level: of ``x``.
      scale: () or (B,).
    """
    epsilon = prediction.epsilon - _per_image(scale, x.ndim) * level.noise * gradient
    return Prediction((x - level.noise * epsilon) / level.signal, epsilon)
