"""What every player's update has in common: one optimiser step, and the averaged network beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from medgen_jax.core import trees
from medgen_jax.systems.base import TrainState

PyTree = Any


def descend(
    state: TrainState,
    grads: Mapping[str, PyTree],
    optimiser: optax.GradientTransformation,
    rate: jax.Array,
    mutable: Mapping[str, PyTree] | None = None,
) -> TrainState:
    """One step of each network named in ``grads``, by its own optimiser state.

    Args:
      state: before the step.
      grads: network name -> gradients.
      optimiser: scales gradients; the rate is applied here.
      rate: learning rate.
      mutable: network name -> new non-trained collections.
    """
    params, opt = dict(state.params), dict(state.opt)
    for name, gradient in grads.items():
        updates, opt[name] = optimiser.update(gradient, opt[name], params[name])
        params[name] = jax.tree.map(lambda p, u: p - rate * u, params[name], updates)
    return state.replace(params=params, opt=opt, mutable={**state.mutable, **(mutable or {})})


def average(state: TrainState, decay: float) -> TrainState:
    """Move the averaged networks towards the trained ones; nothing when ``decay`` is 0.

    The average starts short, so that it forgets the start early.
    """
    if not decay:
        return state
    step = state.step.astype(jnp.float32)
    warm = jnp.minimum(decay, (1 + step) / (10 + step))
    return state.replace(ema={name: trees.ema(old, state.params[name], warm) for name, old in state.ema.items()})
