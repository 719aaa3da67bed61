"""C_T: do generated images lie nearer to the training images than held-out images do, region by region?

Meehan, Chaudhuri and Dasgupta, AISTATS 2020. Features are projected on the leading
principal components of the training set (64, as later comparisons of such tests do; fewer where the
set spans fewer) and cut into cells by k-means on the training set. L(x) is the Euclidean distance
of x to the nearest training feature of its own cell. In cell c, U_c counts the pairs of a generated and a
held-out image of which the generated one has the larger L, ties as one half; Z_c is U_c less its
mean over its standard deviation, both those of equal distributions, ties taken into account
(Mann and Whitney 1947). With w_c the share of the held-out images in cell c,

    C_T = sum_c w_c Z_c / sum_c w_c

over the cells with enough images of both sets. Far below zero is copying, far above is a generator
that misses the data. As cells are independent, C_T has the standard deviation
sqrt(sum_c w_c^2) / sum_c w_c where nothing is copied, less than 1 with several cells; `c_t` gives the
p-value of that normal distribution.

Copies in one part of a cell and misses in another cancel (Bhattacharjee, Dasgupta and Chaudhuri,
ICML 2023).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Features
from medgen_jax.metrics.features import as_features
from medgen_jax.metrics.memorisation.neighbours import nearest

CELLS, COMPONENTS = 3, 64
MINIMUM = 8  # images of either set that a cell must hold for its Z to be about normal
ITERATIONS, RESTARTS = 100, 5


class Cells(NamedTuple):
    """What `fit_cells` learnt from the training features (n, d).

    Attributes:
      mean: (d,).
      axes: (d, p), orthonormal.
      centres: (cells, p).
      train: (n, p), projected training features.
      train_cell: (n,), their cells.
    """

    mean: np.ndarray
    axes: np.ndarray
    centres: np.ndarray
    train: np.ndarray
    train_cell: np.ndarray


def fit_cells(train: Features, *, cells: int = CELLS, components: int = COMPONENTS, seed: int = 0) -> Cells:
    """Principal components of the training features (n, d) and k-means cells in their space.

    Fewer distinct features than ``cells`` make as many cells as there are.

    Raises:
      UserError: without features, when one is not finite, or ``cells`` or ``components`` is below 1.
    """
    train = as_features("training features", train, 1)
    if cells < 1 or components < 1:
        raise UserError(f"C_T: {cells} cells and {components} components; at least 1 of each is needed")
    mean = train.mean(axis=0)
    axes = principal_axes(train - mean, components)
    projected = (train - mean) @ axes
    centres = k_means(projected, cells, seed)
    return Cells(mean, axes, centres, projected, _squared(projected, centres).argmin(axis=1))


def place(features: Features, cells: Cells) -> tuple[np.ndarray, np.ndarray]:
    """Cell (m,) of each feature (m, d), and its distance (m,) to the nearest training feature in there.

    Raises:
      UserError: when a feature is not finite or has another d.
    """
    features = as_features("features", features, 1)
    if features.shape[1] != len(cells.mean):
        raise UserError(f"C_T: features of {features.shape[1]} numbers meet training features of {len(cells.mean)}")
    projected = (features - cells.mean) @ cells.axes
    cell = _squared(projected, cells.centres).argmin(axis=1)
    distance = np.empty(len(features))
    for c in np.unique(cell):
        here = cell == c
        distance[here] = nearest(projected[here], cells.train[cells.train_cell == c]).distance[:, 0]
    return cell, distance


def c_t(
    generated_distance: np.ndarray,
    generated_cell: np.ndarray,
    held_out_distance: np.ndarray,
    held_out_cell: np.ndarray,
    *,
    minimum: int = MINIMUM,
) -> dict[str, Any]:
    """C_T of the distances and cells that `place` gave.

    Returns:
      ``c_t``; ``p_value``, the chance of a C_T as low where nothing is copied; ``cells``, one record for
      each: ``cell``, ``generated``, ``held_out``, ``z``, None for the cells left out, which have fewer
      than ``minimum`` images of either set. Without any cell left, the first two are None.
    """
    records, weights = [], []
    for c in np.unique(np.concatenate([generated_cell, held_out_cell])):
        generated, held_out = generated_distance[generated_cell == c], held_out_distance[held_out_cell == c]
        enough = min(len(generated), len(held_out)) >= max(1, minimum)
        z = mann_whitney(generated, held_out)[1] if enough else None
        records.append({"cell": int(c), "generated": len(generated), "held_out": len(held_out), "z": z})
        if enough:
            weights.append((len(held_out), z))
    if not weights:
        return {"c_t": None, "p_value": None, "cells": records}
    w, z = np.array(weights).T
    value = float(w @ z / w.sum())
    deviation = float(np.sqrt(w @ w) / w.sum())
    return {"c_t": value, "p_value": normal_tail(value / deviation), "cells": records}


def mann_whitney(x: np.ndarray, y: np.ndarray) -> tuple[float, float]:
    """U of x, the pairs with x_i > y_j and half of those with x_i = y_j, and its z-score; z 0 if all are equal.

    The variance is corrected for ties; there is no correction for continuity.
    """
    n, m, total = len(x), len(y), len(x) + len(y)
    ordered = np.sort(y)
    below, not_above = (np.searchsorted(ordered, x, side) for side in ("left", "right"))
    u = float(np.sum(below + not_above) / 2)
    ties = np.unique(np.concatenate([x, y]), return_counts=True)[1].astype(float)
    variance = n * m / 12 * (total + 1 - np.sum(ties**3 - ties) / (total * (total - 1)))
    if len(ties) == 1:
        return u, 0.0
    return u, float((u - n * m / 2) / np.sqrt(variance))


def normal_tail(z: float) -> float:
    """Chance that a standard normal number is at most z."""
    return 0.5 * math.erfc(-z / math.sqrt(2))


def principal_axes(centred: np.ndarray, components: int) -> np.ndarray:
    """The leading eigenvectors (d, p) of the covariance of centred features (n, d), p <= ``components``.

    Directions without variance are left out; one always stays.
    """
    n, d = centred.shape
    values, vectors = np.linalg.eigh(centred.T @ centred if d <= n else centred @ centred.T)
    values, vectors = values[::-1][:components], vectors[:, ::-1][:, :components]
    kept = values > max(values[0], 0.0) * max(n, d) * np.finfo(float).eps
    if not kept.any():
        return np.eye(d, 1)
    if d <= n:
        return vectors[:, kept]
    return centred.T @ (vectors[:, kept] / np.sqrt(values[kept]))


def k_means(points: np.ndarray, cells: int, seed: int) -> np.ndarray:
    """Centres (k, p) of Lloyd's algorithm, the best of several starts by k-means++; one answer per seed.

    Arthur and Vassilvitskii, SODA 2007. A centre that loses its last point is dropped, so every cell
    holds a point.
    """
    rng = np.random.default_rng(seed)
    starts = (_lloyd(points, _spread(points, cells, rng)) for _ in range(RESTARTS))
    return min(starts, key=lambda centres: _squared(points, centres).min(axis=1).sum())


def _spread(points: np.ndarray, cells: int, rng: np.random.Generator) -> np.ndarray:
    """Points drawn one by one with chances as their squared distance to those drawn before."""
    centres = points[[rng.integers(len(points))]]
    while len(centres) < cells:
        chance = _squared(points, centres).min(axis=1)
        if not chance.sum():
            break
        centres = np.concatenate([centres, points[[rng.choice(len(points), p=chance / chance.sum())]]])
    return centres


def _lloyd(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    cell = None
    for _ in range(ITERATIONS):
        before, cell = cell, _squared(points, centres).argmin(axis=1)
        if before is not None and np.array_equal(before, cell):
            break
        centres = np.array([points[cell == c].mean(axis=0) for c in np.unique(cell)])
    return centres[np.unique(_squared(points, centres).argmin(axis=1))]


def _squared(points: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """(n, p) and (k, p) -> (n, k), through differences: there are few centres."""
    return np.stack([np.sum(np.square(points - centre), axis=1) for centre in centres], axis=1)
