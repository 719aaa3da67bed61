"""Geometry of images on the host: resize, crop, flips and quarter turns.

Everything acts on HWC arrays of ``uint8`` or ``uint16`` and keeps the dtype. All image columns of
a record get the same geometry, so that pairs stay aligned. Intensities are left alone: they are
scaled on the device.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from medgen_jax.core.config import DataConfig

Images = Mapping[str, np.ndarray]


def resize(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Bicubic resize (anti-aliased when shrinking), rounded and clipped to the range of the dtype.

    Channels are resized one by one as float32: Pillow interpolates 16-bit samples in no other mode.
    """
    if image.shape[:2] == (height, width):
        return image
    channels = [Image.fromarray(np.asarray(image[..., c], np.float32)) for c in range(image.shape[-1])]
    resized = np.stack([np.asarray(c.resize((width, height), Image.Resampling.BICUBIC)) for c in channels], axis=-1)
    return np.clip(np.rint(resized), 0, np.iinfo(image.dtype).max).astype(image.dtype)


def crop(image: np.ndarray, top: int, left: int, size: int) -> np.ndarray:
    """The square of ``size`` pixels whose upper left corner is (top, left)."""
    return image[top : top + size, left : left + size]


def training_view(images: Images, rng: np.random.Generator, config: DataConfig) -> dict[str, np.ndarray]:
    """Resize to ``load_size``, crop at random to ``crop_size``, then flip and turn at random.

    Every image of the record must have the same size, at least ``crop_size`` on both sides. All
    numbers are drawn whatever the options, so that switching flips off leaves the crops alone.
    """
    images = _loaded(images, config.load_size)
    height, width, _ = next(iter(images.values())).shape
    size = config.crop_size
    top, left = int(rng.integers(height - size + 1)), int(rng.integers(width - size + 1))
    flip, turns = bool(rng.integers(2)), int(rng.integers(4))

    def view(image: np.ndarray) -> np.ndarray:
        image = crop(image, top, left, size)
        image = image[:, ::-1] if config.flip and flip else image
        return np.ascontiguousarray(np.rot90(image, turns) if config.rotate else image)

    return {name: view(image) for name, image in images.items()}


def evaluation_view(images: Images, config: DataConfig) -> dict[str, np.ndarray]:
    """Nothing random: the whole image, or with ``load_size`` its resized form, cropped at the centre."""
    if config.load_size is None:
        return dict(images)
    start, size = (config.load_size - config.crop_size) // 2, config.crop_size
    return {name: crop(image, start, start, size) for name, image in _loaded(images, config.load_size).items()}


def _loaded(images: Images, load_size: int | None) -> Images:
    if load_size is None:
        return images
    return {name: resize(image, load_size, load_size) for name, image in images.items()}
