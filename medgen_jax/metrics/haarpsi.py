"""Haar wavelet-based perceptual similarity index (HaarPSI) of image pairs.

Reisenhofer, Bosse, Kutyniok and Wiegand, Signal Process. Image Commun. 61, 2018, with the constants
C = 30 and alpha = 4.2 of section 3, on the scale 0..255 after halving the image by means of 2x2
pixels. Beyond the border the image is zero (black), as in the authors' code.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image

C, ALPHA = 30.0, 4.2
SCALES = 3
SMALLEST = 2 ** (SCALES + 1)  # pixels: after halving, the widest wavelet just fits

_LUMA = (0.299, 0.587, 0.114)
_CHROMA = ((0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))


def haar_psi(x: Image, y: Image) -> jax.Array:
    """HaarPSI of each image pair, (b,) in [0, 1]; 1 for equal images.

    Wavelets of 2 and 4 pixels compare the pictures, those of 8 pixels weigh the places. Two images
    without any structure, which have no such weight, score 1.

    Args:
      x: (b, h, w, c) in [-1, 1], c = 1 (grey) or 3 (RGB, compared in the YIQ space).
      y: same shape and range; the index is symmetric.

    Raises:
      UserError: another number of channels, or fewer than 16 pixels on a side.
    """
    check_size(x.shape)
    planes = [_planes(image) for image in (x, y)]
    luma = [wavelets(channels[0]) for channels in planes]
    similarities, weights = [], []
    for orientation in (0, 1):
        fine = [_similarity(*(side[scale][orientation] for side in luma)) for scale in (0, 1)]
        similarities.append((fine[0] + fine[1]) / 2)
        weights.append(jnp.maximum(*(side[2][orientation] for side in luma)))
    if x.shape[-1] == 3:
        chroma = [_similarity(*(jnp.abs(_mean2x2(channels[i])) for channels in planes)) for i in (1, 2)]
        similarities.append((chroma[0] + chroma[1]) / 2)
        weights.append((weights[0] + weights[1]) / 2)
    weight, value = jnp.stack(weights), jax.nn.sigmoid(ALPHA * jnp.stack(similarities))
    total = jnp.sum(weight, axis=(0, 2, 3))
    structured = total != 0  # a NaN counts as structure, so that it shows
    mean = jnp.sum(value * weight, axis=(0, 2, 3)) / jnp.where(structured, total, 1.0)
    score = (jnp.log(mean / (1 - mean)) / ALPHA) ** 2
    return jnp.where(structured, score, 1.0)


def check_size(shape: tuple[int, ...]) -> None:
    """Refuse images (b, h, w, c) that are neither grey nor RGB, or too small for the widest wavelet."""
    height, width, channels = shape[1:]
    if channels not in (1, 3):
        raise UserError(f"HaarPSI: images of {channels} channels; it is defined for 1 (grey) and 3 (RGB)")
    if min(height, width) < SMALLEST:
        raise UserError(
            f"HaarPSI: images of {height}x{width} pixels are smaller than {SMALLEST} pixels, twice its widest wavelet"
        )


def wavelets(x: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    """Magnitudes of the Haar wavelets of 2, 4 and 8 pixels: across rows, and across columns.

    Args:
      x: (b, h, w), zero beyond its border.

    Returns:
      One pair of (b, h, w) per scale. A wavelet of n pixels holds values of +-1/n; at (i, j) it starts
      n/2 - 1 pixels above and to the left.
    """
    scales = []
    for scale in range(1, SCALES + 1):
        size = 2**scale
        before, after = size // 2 - 1, size // 2
        padded = jnp.pad(x, ((0, 0), (before, after), (before, after)))
        rows = [_halves(padded, size, 1, sign) for sign in (-1, 1)]
        scales.append(tuple(jnp.abs(_halves(rows[i], size, 2, (1, -1)[i])) / size for i in (0, 1)))
    return scales


def _halves(x: jax.Array, size: int, axis: int, sign: int) -> jax.Array:
    """Sum of the first half of a window plus ``sign`` times the second half, at every whole window."""
    width = 1
    while width < size // 2:
        x = _shifted(x, width, axis, 1)
        width *= 2
    return _shifted(x, width, axis, sign)


def _shifted(x: jax.Array, shift: int, axis: int, sign: int) -> jax.Array:
    last = x.shape[axis] - shift
    return jax.lax.slice_in_dim(x, 0, last, axis=axis) + sign * jax.lax.slice_in_dim(x, shift, None, axis=axis)


def _planes(x: Image) -> list[jax.Array]:
    """Luma, and for RGB both chroma planes, on the scale 0..255, at half the size: (b, h', w') each."""
    levels = (x + 1.0) * 127.5
    odd = [side % 2 for side in x.shape[1:3]]
    levels = jnp.pad(levels, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)))
    b, h, w, c = levels.shape
    small = jnp.mean(levels.reshape(b, h // 2, 2, w // 2, 2, c), axis=(2, 4))
    if c == 1:
        return [small[..., 0]]
    return [sum(weight * small[..., i] for i, weight in enumerate(row)) for row in (_LUMA, *_CHROMA)]


def _mean2x2(x: jax.Array) -> jax.Array:
    """Mean of each pixel and its neighbours below and to the right, zero beyond the border."""
    padded = jnp.pad(x, ((0, 0), (0, 1), (0, 1)))
    return _halves(_halves(padded, 2, 1, 1), 2, 2, 1) / 4


def _similarity(a: jax.Array, b: jax.Array) -> jax.Array:
    return (2 * a * b + C) / (a * a + b * b + C)
