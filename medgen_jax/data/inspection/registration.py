"""How far the two images of a pair are shifted against each other, by phase correlation (Kuglin and Hines 1975)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

_SIDE = 512  # the middle of the images that is compared, at most
_SMALLEST = 32
_TOLERANCE = 2  # pixels
#: A shift is believed when so many of the four halves of the images agree with the whole.
BELIEVED = 2


class Shift(NamedTuple):
    """Rows and columns by which b lies below and to the right of a, in pixels.

    ``agreeing`` counts the halves (upper, lower, left, right) that give the same shift to 2 pixels. The height of
    the correlation peak is no guide: on pairs of stains with known shifts wrong peaks were as high as right
    ones, while two agreeing halves were right in all cases. Of pairs of chest X-rays of different people 3 % pass.
    """

    rows: int
    columns: int
    agreeing: int

    @property
    def pixels(self) -> float:
        """Length."""
        return float(np.hypot(self.rows, self.columns))

    @property
    def believed(self) -> bool:
        """Whether enough halves agree."""
        return self.agreeing >= BELIEVED


def shift(a: np.ndarray, b: np.ndarray) -> Shift | None:
    """Estimate the shift of the middles (at most 512 pixels) of two HWC images of one size, to the pixel.

    Edges are compared, so that contrast may differ. Shifts beyond half of what is compared are not seen.

    Returns:
      None for images that differ in size, are smaller than 32 pixels, or of which one is constant.
    """
    if a.shape[:2] != b.shape[:2] or min(a.shape[:2]) < _SMALLEST:
        return None
    one, other = (_middle(image).mean(-1) for image in (a, b))
    whole = _peak(one, other)
    if whole is None:
        return None
    parts = [_peak(one[half], other[half]) for half in _halves(*one.shape)]
    return Shift(*whole, sum(part is not None and _near(part, whole) for part in parts))


def _peak(one: np.ndarray, other: np.ndarray) -> tuple[int, int] | None:
    """Shift of the highest phase correlation; None where an image has no edges."""
    first, second = (np.fft.rfft2(edges(grey)) for grey in (one, other))
    cross = second * first.conj()
    size = np.abs(cross)
    if size.max() <= 1e-9:
        return None
    surface = np.fft.irfft2(cross / np.maximum(size, size.max() * 1e-9), one.shape)
    place = np.unravel_index(surface.argmax(), surface.shape)
    rows, columns = (int(p - n if p > n // 2 else p) for p, n in zip(place, surface.shape, strict=True))
    return rows, columns


def _halves(height: int, width: int) -> list[tuple[slice, slice]]:
    rows, columns = (slice(0, height // 2), slice(height // 2, None)), (slice(0, width // 2), slice(width // 2, None))
    whole = slice(None)
    return [*((half, whole) for half in rows), *((whole, half) for half in columns)]


def _near(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return max(abs(p - q) for p, q in zip(one, other, strict=True)) <= _TOLERANCE


def _middle(image: np.ndarray) -> np.ndarray:
    tops = [max(0, (length - _SIDE) // 2) for length in image.shape[:2]]
    return image[tops[0] : tops[0] + _SIDE, tops[1] : tops[1] + _SIDE]


def edges(grey: np.ndarray) -> np.ndarray:
    """Gradient magnitude under a Hann window, without its mean: blind to inverted contrast and to the frame."""
    rows, columns = np.gradient(grey)
    edges = np.hypot(rows, columns)
    window = np.outer(np.hanning(grey.shape[0]), np.hanning(grey.shape[1]))
    return (edges - edges.mean()) * window
