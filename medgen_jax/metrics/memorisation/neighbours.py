"""Exact nearest neighbours between sets of features, in blocks.

The search runs on the default device in float32 and keeps a few candidates more than asked for;
their distances are then computed anew in float64 on the host. A query for which float32 rounding
could have hidden a neighbour (its worst case is known: Higham, Accuracy and Stability of Numerical
Algorithms, 2nd ed., section 3.1), as happens among many copies of one image, is searched again on
the host. So the answer is that of float64, whatever the device.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Features
from medgen_jax.metrics.features import as_features
from medgen_jax.metrics.memorisation.thumbnails import vary

BLOCK_VALUES = 1 << 22  # distances, or differences of features, held at a time
QUERIES, SMALLEST = 1024, 64  # in one block, at most and, as blocks are padded, at least
UNIT = 2.0**-24  # rounding of float32
PADDING = -2  # as an index
SPARE = 8  # candidates kept beyond k, at least; an eighth of k more


class Neighbours(NamedTuple):
    """Nearest first; of equally near ones the first of the set first.

    Attributes:
      distance: (n, k) float64, not squared.
      index: (n, k) int64, into the reference set.
    """

    distance: np.ndarray
    index: np.ndarray


class _Candidates(NamedTuple):
    squared: jax.Array | np.ndarray  # (b, keep), ascending
    index: jax.Array | np.ndarray  # (b, keep)
    variant: jax.Array | np.ndarray  # (b, keep), 0 for the reference itself


def nearest(
    queries: Features,
    reference: Features,
    *,
    k: int = 1,
    variants: np.ndarray | None = None,
    skip_self: bool = False,
    block_values: int = BLOCK_VALUES,
) -> Neighbours:
    """The k nearest of a reference set (m, d) to each of the queries (n, d), by Euclidean distance.

    Args:
      queries: (n, d).
      reference: (m, d).
      k: at most m, or m - 1 with ``skip_self``.
      variants: (v, 2, s, s) of `thumbnails.pixel_variants`, for features that are thumbnails of s * s
        values: a distance is then the least one to a reference or any of its variants. Which variant
        that is, float32 decides.
      skip_self: the queries are the reference set, and none is its own neighbour.
      block_values: bound on the distances held at a time.

    Raises:
      UserError: when k does not fit, the sets have different d, the variants belong to another size,
        or a feature is not finite.
    """
    queries, reference = as_features("queries", queries, 1), as_features("reference features", reference, 1)
    _check(queries, reference, k, variants, skip_self)
    exponent = 0
    if variants is None:  # thumbnails have length 1 as they are
        exponent = _exponent(queries, reference)
        queries, reference = np.ldexp(queries, -exponent), np.ldexp(reference, -exponent)
    others = len(reference) - skip_self
    keep = _power_of_two(k + SPARE + k // 8)
    candidates, error = _search(queries, reference, variants, keep, skip_self, block_values)
    exact = _recompute(queries, reference, candidates, variants, block_values)
    order = np.lexsort((candidates.index, exact), axis=1)[:, :k]
    exact, index = (np.take_along_axis(array, order, axis=1) for array in (exact, candidates.index))
    if keep < others:
        hidden = candidates.squared[:, -1] - error
        for row in np.flatnonzero(exact[:, -1] >= hidden):
            skipped = row if skip_self else None
            exact[row], index[row] = _search_on_host(queries[row], reference, variants, k, skipped, block_values)
    return Neighbours(np.ldexp(np.sqrt(exact), exponent), index)


def _exponent(*sets: np.ndarray) -> int:
    """Of the power of two that is above all values: squares of features over it stay in range."""
    return int(np.frexp(max(np.abs(rows).max() for rows in sets))[1])


def _lengths(rows: np.ndarray) -> np.ndarray:
    return np.sqrt(np.sum(np.square(rows), axis=1))


def _check(queries: np.ndarray, reference: np.ndarray, k: int, variants: np.ndarray | None, skip_self: bool) -> None:
    if queries.shape[1] != reference.shape[1]:
        raise UserError(
            f"neighbours: queries have {queries.shape[1]} numbers each and the reference {reference.shape[1]}; "
            "take both from one network and layer"
        )
    if skip_self and len(queries) != len(reference):
        raise UserError(
            f"neighbours: {len(queries)} queries are not the {len(reference)} reference features themselves"
        )
    if not 1 <= k <= len(reference) - skip_self:
        raise UserError(f"neighbours: k is {k}; 1 to {len(reference) - skip_self}, the others in the set, can be had")
    if variants is not None and variants.shape[1:] != (2, *[round(queries.shape[1] ** 0.5)] * 2):
        raise UserError(
            f"neighbours: variants of shape {variants.shape} do not fit features of {queries.shape[1]} numbers; "
            "make both with the same thumbnail size"
        )


def _search(
    queries: np.ndarray, reference: np.ndarray, variants: np.ndarray | None, keep: int, skip_self: bool, values: int
) -> tuple[_Candidates, np.ndarray]:
    """The ``keep`` nearest in float32, and by how much (n,) a squared distance may be wrong there."""
    exponent = 0
    if variants is None:  # inner products lose digits far from the origin
        origin = reference.mean(axis=0)
        queries, reference = queries - origin, reference - origin
        exponent = _exponent(queries, reference)
        queries, reference = np.ldexp(queries, -exponent), np.ldexp(reference, -exponent)
    reach = _lengths(queries) + _lengths(reference).max()
    error = (queries.shape[1] + 64) * UNIT * np.square(reach)
    blocks = _search_blocks(queries, reference, variants, keep, skip_self, values)
    squared, index, variant = (np.concatenate(parts)[: len(queries)] for parts in zip(*blocks, strict=True))
    candidates = _Candidates(np.ldexp(squared.astype(np.float64), 2 * exponent), index.astype(np.int64), variant)
    return candidates, np.ldexp(error, 2 * exponent)


def _search_blocks(
    queries: np.ndarray, reference: np.ndarray, variants: np.ndarray | None, keep: int, skip_self: bool, values: int
) -> list[_Candidates]:
    """Candidates of every block of queries; reference outside, so that its variants are made once."""
    copies = 1 if variants is None else 1 + len(variants)
    wide = min(QUERIES, _power_of_two(len(queries), SMALLEST), max(1, values // copies))
    tall = min(_power_of_two(len(reference), SMALLEST), max(1, values // (wide * copies)))
    starts = range(0, len(queries), wide)
    blocks = [jnp.asarray(_padded(queries[start : start + wide], wide), jnp.float32) for start in starts]
    own = [np.arange(wide) + start if skip_self else np.full(wide, -1) for start in starts]
    nowhere = jnp.zeros((wide, keep), jnp.int32)
    empty = _Candidates(jnp.full((wide, keep), jnp.inf, jnp.float32), nowhere, nowhere)
    best = [empty] * len(blocks)
    matrices = None if variants is None else jnp.asarray(variants, jnp.float32)
    for start in range(0, len(reference), tall):
        rows = jnp.asarray(_padded(reference[start : start + tall], tall), jnp.float32)
        rows = _with_variants(rows, matrices)
        index = np.arange(start, start + tall)
        index = np.where(index < len(reference), index, PADDING).astype(np.int32)
        best = [_update(b, q, rows, index, o.astype(np.int32)) for b, q, o in zip(best, blocks, own, strict=True)]
    return [_Candidates(*map(np.asarray, b)) for b in best]


@jax.jit
def _with_variants(rows: jax.Array, variants: jax.Array | None) -> jax.Array:
    """(r, d) -> (1 + v, r, d)."""
    if variants is None:
        return rows[None]
    with jax.default_matmul_precision("highest"):
        return jnp.concatenate([rows[None], vary(rows[None], variants[:, None], jnp)])


@jax.jit
def _update(best: _Candidates, queries: jax.Array, rows: jax.Array, index: jax.Array, own: jax.Array) -> _Candidates:
    """Merge a block of the reference (v, r, d), whose padding has ``index`` -2, into the candidates."""
    keep = best.index.shape[1]
    products = jnp.einsum("qd,vrd->qvr", queries, rows, precision=jax.lax.Precision.HIGHEST)
    lengths = jnp.sum(jnp.square(rows), axis=2)[None]
    squared = jnp.sum(jnp.square(queries), axis=1)[:, None, None] + lengths - 2 * products
    variant, squared = jnp.argmin(squared, axis=1).astype(jnp.int32), jnp.min(squared, axis=1)
    excluded = (index[None] == own[:, None]) | (index[None] == PADDING)
    block = _Candidates(jnp.where(excluded, jnp.inf, squared), jnp.broadcast_to(index[None], squared.shape), variant)
    merged = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), best, block)
    _, order = jax.lax.top_k(-merged.squared, keep)
    return jax.tree.map(functools.partial(jnp.take_along_axis, indices=order, axis=1), merged)


def _recompute(
    queries: np.ndarray, reference: np.ndarray, candidates: _Candidates, variants: np.ndarray | None, values: int
) -> np.ndarray:
    """Squared distances (n, keep) of candidates in float64; infinity where a small reference left none."""
    exact = np.empty(candidates.index.shape)
    # A variant brings two matrices, as large as a feature each, and an intermediate product.
    held = exact.shape[1] * queries.shape[1] * (1 if variants is None else 4)
    step = max(1, values // held)
    for start in range(0, len(queries), step):
        block = slice(start, start + step)
        rows, variant = reference[candidates.index[block]], candidates.variant[block]
        if variants is not None:
            changed = variant > 0
            rows[changed] = vary(rows[changed], variants[variant[changed] - 1])
        exact[block] = np.sum(np.square(queries[block, None] - rows), axis=2)
    return np.where(np.isfinite(candidates.squared), exact, np.inf)


def _search_on_host(
    query: np.ndarray, reference: np.ndarray, variants: np.ndarray | None, k: int, skipped: int | None, values: int
) -> tuple[np.ndarray, np.ndarray]:
    copies = 1 if variants is None else 1 + len(variants)
    step = max(1, values // (copies * len(query)))
    squared = []
    for start in range(0, len(reference), step):
        rows = reference[start : start + step]
        least = np.sum(np.square(query - rows), axis=1)
        if variants is not None and len(variants):
            varied = vary(rows[None], variants[:, None])
            least = np.minimum(least, np.min(np.sum(np.square(query - varied), axis=2), axis=0))
        squared.append(least)
    squared = np.concatenate(squared)
    if skipped is not None:
        squared[skipped] = np.inf
    order = np.argsort(squared, kind="stable")[:k]
    return squared[order], order


def _power_of_two(count: int, least: int = 1) -> int:
    """The first that is not below ``count`` and ``least``: few different shapes are few compilations."""
    return 1 << (max(count, least) - 1).bit_length()


def _padded(rows: np.ndarray, length: int) -> np.ndarray:
    return np.concatenate([rows, np.zeros((length - len(rows), rows.shape[1]))])
