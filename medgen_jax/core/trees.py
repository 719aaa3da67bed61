"""Pure functions over parameter trees."""

from __future__ import annotations

import hashlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

PyTree = Any


def ema(average: PyTree, new: PyTree, decay: jax.Array | float) -> PyTree:
    """``decay * average + (1 - decay) * new``, leaf by leaf, in float32."""
    return jax.tree.map(lambda a, n: decay * a + (1.0 - decay) * n.astype(a.dtype), average, new)


def global_norm(tree: PyTree) -> jax.Array:
    """Euclidean norm of all leaves together, float32 scalar."""
    return jnp.sqrt(sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in jax.tree.leaves(tree)))


def count(tree: PyTree) -> int:
    """Number of elements in all leaves (arrays or shape structs)."""
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))


def all_finite(*trees: PyTree) -> jax.Array:
    """Whether every floating leaf of every tree is finite; boolean scalar."""
    floats = [x for x in jax.tree.leaves(trees) if jnp.issubdtype(x.dtype, jnp.inexact)]
    if not floats:
        return jnp.array(True)
    strange = jnp.stack([jnp.any(~jnp.isfinite(x)) for x in floats]).astype(jnp.float32)
    # A dot, because XLA:CPU repeats a reduction inside every fusion that reads its result: selecting each of
    # 345 leaves on it took 211 s to compile, this way 11 s.
    return jnp.dot(strange, jnp.ones_like(strange)) == 0


def select(condition: jax.Array, yes: PyTree, no: PyTree) -> PyTree:
    """``yes`` where the scalar ``condition`` holds, else ``no``; one select per leaf keeps donation."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def digest(tree: PyTree) -> str:
    """sha256 over structure, shapes, dtypes and bytes of a tree of host-addressable arrays."""
    sha = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        sha.update(f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
