"""One image in numbers, from which everything that is said about levels follows."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from medgen_jax.data.inspection.likeness import outline, perceptual_hash

_BLOCK = 1 << 20  # samples counted at a time: counting widens them to 64 bits


@dataclass(frozen=True)
class Measures:
    """One image.

    Attributes:
      low, high: darkest and brightest level.
      mean, std: of the levels.
      same_channels: three channels that differ by no more than 2 in 255: a grey picture stored as colour.
      coarse: 16-bit levels that are 8-bit ones in disguise: below 256, or multiples of 256 or 257.
      digest: sha256 of shape, type and pixels.
      hash: see `likeness.perceptual_hash`.
      outline: see `likeness.outline`.
    """

    low: int
    high: int
    mean: float
    std: float
    same_channels: bool
    coarse: bool
    digest: bytes
    hash: int
    outline: np.ndarray


def measure(image: np.ndarray) -> tuple[Measures, np.ndarray]:
    """Measure an HWC image of ``uint8`` or ``uint16``.

    Returns:
      The measures, and how often each of the 256 or 65,536 levels occurs.
    """
    counts = count_levels(image)
    levels = np.flatnonzero(counts)
    total = counts.sum()
    mean = float(levels @ counts[levels] / total)
    variance = float((levels - mean) ** 2 @ counts[levels] / total)
    small = outline(image)
    return (
        Measures(
            low=int(levels[0]),
            high=int(levels[-1]),
            mean=mean,
            std=variance**0.5,
            same_channels=_same_channels(image),
            coarse=image.dtype == np.uint16 and _is_coarse(levels),
            digest=_digest(image),
            hash=perceptual_hash(small),
            outline=quantised(small),
        ),
        counts,
    )


def count_levels(image: np.ndarray) -> np.ndarray:
    """Occurrences of every level, int64 (256,) or (65536,)."""
    samples, size = image.reshape(-1), 1 << (8 * image.dtype.itemsize)
    counts = np.zeros(size, np.int64)
    for start in range(0, samples.size, _BLOCK):
        counts += np.bincount(samples[start : start + _BLOCK], minlength=size)
    return counts


def quantile(counts: np.ndarray, share: float) -> int:
    """The smallest level that at least ``share`` of all samples do not exceed; ``counts`` as of `count_levels`."""
    sums = np.cumsum(counts)
    return int(np.searchsorted(sums, share * sums[-1]))


def quantised(small: np.ndarray) -> np.ndarray:
    """A small grey image spread over ``uint8``, of which only the shape is compared."""
    low, high = float(small.min()), float(small.max())
    return np.rint((small - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)


def _is_coarse(levels: np.ndarray) -> bool:
    return bool(levels[-1] < 256 or not (levels % 257).any() or not (levels % 256).any())


def _same_channels(image: np.ndarray) -> bool:
    if image.shape[-1] == 1:
        return False
    tolerance = 2 * (1 if image.dtype == np.uint8 else 257)
    return all(int(np.ptp(rows, axis=-1).max()) <= tolerance for rows in image)


def _digest(image: np.ndarray) -> bytes:
    digest = hashlib.sha256(f"{image.shape} {image.dtype}".encode())
    digest.update(np.ascontiguousarray(image))
    return digest.digest()
