"""Pixels as features: small grey thumbnails, and what flips, shifts and crops make of them.

A thumbnail has mean 0 and length 1, so the Euclidean distance of two is sqrt(2 (1 - r)), r being
their correlation: 0 for images that differ in brightness and contrast only, sqrt(2) for unrelated
ones, at most 2. An image without contrast becomes zeros: 0 away from its like, 1 from all others.

Every variant of a thumbnail is a pair of matrices, ``rows @ thumbnail @ columns.T``, brought back to
mean 0 and length 1; a set of variants is one array (v, 2, s, s). The thumbnail itself always counts
as a variant and is not in that array.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError

SIZE = 32
FLAT = 1e-7  # an image whose deviation is less, in parts of its largest value, has no contrast
BLOCK_VALUES = 1 << 24  # pixels held in float64 at a time: 128 MB

FLIPS = {"none": [(0, 0)], "horizontal": [(0, 0), (0, 1)], "both": [(0, 0), (0, 1), (1, 0), (1, 1)]}


def pixel_features(images: Any, *, size: int = SIZE) -> np.ndarray:
    """Thumbnails (n, size * size) float32 of images (n, h, w, c), each of mean 0 and length 1.

    Channels are averaged, then every thumbnail pixel is the mean of the area it covers, parts of
    pixels included.

    Args:
      images: any type and range, as the thumbnail is free of both.
      size: height and width of the thumbnail.

    Raises:
      UserError: when the array is no stack of images, or an image holds NaN or infinity.
    """
    images = np.asarray(images)
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(f"pixel features: shape {images.shape}; (images, height, width, channels) is needed")
    if size < 2:
        raise UserError(f"pixel features: size is {size}; at least 2 is needed")
    rows, columns = (_area_average(length, size) for length in images.shape[1:3])
    step = max(1, BLOCK_VALUES // images[0].size)
    blocks = []
    for start in range(0, len(images), step):
        grey = images[start : start + step].astype(np.float64).mean(axis=-1)
        _require_finite(grey, start)
        blocks.append(_unit((rows @ grey @ columns.T).reshape(len(grey), -1), np).astype(np.float32))
    return np.concatenate(blocks)


def pixel_variants(
    size: int = SIZE, *, flips: str = "horizontal", shift: int = 1, zooms: Sequence[float] = (0.9,)
) -> np.ndarray:
    """All combinations of flips, shifts and zooms of a thumbnail, (v, 2, size, size) float64.

    The thumbnail itself is left out. The defaults make 35: whatever was flipped left to right, moved
    by up to 3 % of the width, or cut out of the middle and enlarged stays near its source. More
    variants find more copies, and bring all other images nearer as well.

    Args:
      size: as for `pixel_features`.
      flips: ``none``, ``horizontal``, or ``both``, for images without an upper side.
      shift: largest shift in thumbnail pixels, in either direction of both axes; the edge is repeated.
      zooms: shares of the width and height, in (0, 1), that crops of the middle keep.

    Raises:
      UserError: on an unknown flip, a shift below 0 or a zoom outside (0, 1).
    """
    if flips not in FLIPS:
        raise UserError(f"pixel variants: flips is {flips!r}; one of {', '.join(FLIPS)} is needed")
    if not 0 <= shift < size or not all(0 < zoom < 1 for zoom in zooms):
        raise UserError(
            f"pixel variants: shift is {shift} and zooms are {tuple(zooms)}; "
            f"0 to {size - 1}, and numbers between 0 and 1, are needed"
        )
    moves = range(-shift, shift + 1)
    pairs = [
        (_axis(size, zoom, down, flip_y), _axis(size, zoom, right, flip_x))
        for zoom in (1.0, *zooms)
        for flip_y, flip_x in FLIPS[flips]
        for down in moves
        for right in moves
        if (zoom, flip_y, flip_x, down, right) != (1.0, 0, 0, 0, 0)
    ]
    return np.array(pairs).reshape(-1, 2, size, size)


def vary(thumbnails: Any, variants: Any, xp: ModuleType = np) -> Any:
    """Thumbnails (..., s * s) under variants (..., 2, s, s), leading axes broadcast; ``xp`` NumPy or JAX's."""
    size = variants.shape[-1]
    square = thumbnails.reshape(*thumbnails.shape[:-1], size, size)
    varied = variants[..., 0, :, :] @ square @ xp.swapaxes(variants[..., 1, :, :], -1, -2)
    return _unit(varied.reshape(*varied.shape[:-2], size * size), xp)


def linear_resampling(length: int, size: int, start: float, extent: float) -> np.ndarray:
    """Weights (size, length) that draw ``size`` pixels from the stretch [start, start + extent).

    Linear interpolation between pixel centres, in units of pixels; beyond the ends the last pixel is
    repeated.
    """
    at = np.clip(start + (np.arange(size) + 0.5) * (extent / size) - 0.5, 0, length - 1)
    low = np.minimum(at.astype(int), max(length - 2, 0))
    high = np.minimum(low + 1, length - 1)
    weights, rows = np.zeros((size, length)), np.arange(size)
    np.add.at(weights, (rows, low), 1 - (at - low))
    np.add.at(weights, (rows, high), at - low)
    return weights


def _axis(size: int, zoom: float, shift: int, flipped: int) -> np.ndarray:
    weights = linear_resampling(size, size, (1 - zoom) / 2 * size - shift, zoom * size)
    return weights[::-1] if flipped else weights


def _area_average(length: int, size: int) -> np.ndarray:
    edges = np.linspace(0, length, size + 1)
    pixels = np.arange(length)
    covered = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return np.maximum(covered, 0) * (size / length)


def _unit(rows: Any, xp: ModuleType) -> Any:
    largest = xp.max(xp.abs(rows), axis=-1, keepdims=True)
    rows = rows - xp.mean(rows, axis=-1, keepdims=True)
    length = xp.sqrt(xp.sum(rows * rows, axis=-1, keepdims=True))
    flat = length <= FLAT * largest * rows.shape[-1] ** 0.5
    return xp.where(flat, 0.0, rows / xp.where(flat, 1.0, length))


def _require_finite(grey: np.ndarray, start: int) -> None:
    bad = np.flatnonzero(~np.isfinite(grey).all(axis=(1, 2)))
    if len(bad):
        raise UserError(f"pixel features: image {start + bad[0]}, counted from 0, holds NaN or infinity; remove it")
