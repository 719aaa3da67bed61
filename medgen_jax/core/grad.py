"""Gradients over micro-batches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

PyTree = Any


def accumulate(
    loss: Callable[[PyTree, PyTree, jax.Array], tuple[jax.Array, PyTree]],
    params: PyTree,
    batch: PyTree,
    key: jax.Array,
    n: int = 1,
) -> tuple[tuple[jax.Array, PyTree], PyTree]:
    """Mean loss, mean auxiliaries and mean gradient over ``n`` equal slices of the batch.

    Args:
      loss: ``(params, batch, key) -> (scalar, aux)``; a mean over the batch; ``aux`` has float leaves.
      params: differentiated tree.
      batch: tree of arrays (b, ...); b must be a multiple of ``n``.
      key: folded with the slice's number.
      n: slices, processed one after another by a scan, so memory is that of one slice.

    Returns:
      ``((loss, aux), gradient)``, as ``jax.value_and_grad(..., has_aux=True)`` gives them.
    """
    value_and_grad = jax.value_and_grad(loss, has_aux=True)
    if n == 1:
        return value_and_grad(params, batch, jax.random.fold_in(key, 0))
    # Slice i takes records i, i + n, ...: under data sharding every device keeps its own records.
    slices = jax.tree.map(lambda x: jnp.moveaxis(x.reshape(x.shape[0] // n, n, *x.shape[1:]), 1, 0), batch)
    out = jax.eval_shape(value_and_grad, params, jax.tree.map(lambda x: x[0], slices), key)
    zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), out)

    def body(total: PyTree, item: tuple[jax.Array, PyTree]) -> tuple[PyTree, None]:
        number, part = item
        value = value_and_grad(params, part, jax.random.fold_in(key, number))
        return jax.tree.map(lambda t, v: t + v / n, total, value), None

    total, _ = jax.lax.scan(body, zeros, (jnp.arange(n), slices))
    return total
