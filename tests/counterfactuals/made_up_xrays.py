"""X-rays of nobody."""

from __future__ import annotations

import numpy as np


def xray(seed, sick=False, size=16, dtype=np.uint8):
    """(size, size, 1): smooth, and brighter in one place where it is sick."""
    coarse = np.random.default_rng(seed).integers(60, 120, (4, 4))
    image = coarse.repeat(size // 4, 0).repeat(size // 4, 1)[..., None]
    image[size // 4 : size // 2, size // 4 : size // 2] += 100 * sick
    return (image * (np.iinfo(dtype).max // 255)).astype(dtype)
