"""Boxes around lesions, in pixels of the original image, as masks of any size."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from medgen_jax.core.errors import UserError


def padded_boxes(
    boxes: Sequence[np.ndarray], image_sizes: Sequence[tuple[int, int]], names: Sequence[str] | None = None
) -> Float[np.ndarray, "n k 4"]:
    """Boxes of n images as one array for `box_masks`, padded by boxes of no size.

    Args:
      boxes: for each image (k_i, 4): x and y of the upper left corner, width, height, in pixels of
        the original image; an empty list for an image without a lesion.
      image_sizes: (height, width) of each original image.
      names: of the images, for messages.

    Raises:
      UserError: naming the first image with a box that is NaN, has no size, or reaches more than
        a pixel outside.
    """
    names = [f"record {i}" for i in range(len(boxes))] if names is None else names
    if not len(boxes) == len(image_sizes) == len(names):
        raise UserError(f"boxes of {len(boxes)} images, {len(image_sizes)} sizes and {len(names)} names; give one each")
    rows = [_checked_boxes(*record) for record in zip(boxes, image_sizes, names, strict=True)]
    padded = np.zeros((len(rows), max([1, *map(len, rows)]), 4), np.float32)
    for row, own in zip(padded, rows, strict=True):
        row[: len(own)] = own
    return padded


def box_masks(
    boxes: Float[Array, "b k 4"], image_sizes: Int[Array, "b 2"], map_size: tuple[int, int]
) -> Bool[Array, "b h w"]:
    """Union of each image's boxes on a map that covers the whole image, whatever its aspect.

    A map pixel is inside where its centre is, a box holding its upper and left edge but not its
    lower and right one; at the original size that is ``mask[y : y + height, x : x + width]`` for a
    box of integers. A box too thin to hold a centre keeps the pixels around its own, so that no
    lesion is lost on a small map.

    Args:
      boxes: (b, k, 4), x, y, width and height in original pixels; no width means no box.
      image_sizes: (b, 2), height and width of the original images.
      map_size: height and width of the map.
    """
    boxes, image_sizes = jnp.asarray(boxes, jnp.float32), jnp.asarray(image_sizes, jnp.float32)
    rows = _covered(boxes[..., 1], boxes[..., 3], image_sizes[:, :1], map_size[0])
    columns = _covered(boxes[..., 0], boxes[..., 2], image_sizes[:, 1:], map_size[1])
    return jnp.any(rows[:, :, :, None] & columns[:, :, None, :], axis=1)


def _covered(
    start: Float[Array, "b k"], length: Float[Array, "b k"], extent: Float[Array, "b 1"], pixels: int
) -> Bool[Array, "b k n"]:
    """Which of ``pixels`` equal cells of an extent have their centre in [start, start + length)."""

    def place(x: jax.Array) -> jax.Array:
        return x * pixels / extent  # multiplied first: a float32 then rounds only once

    first, stop = jnp.ceil(place(start) - 0.5), jnp.ceil(place(start + length) - 0.5)
    own = jnp.clip(jnp.floor(place(start + length / 2)), 0, pixels - 1)
    thin = stop <= first
    first, stop = jnp.where(thin, own, first), jnp.where(thin, own + 1, stop)
    cells = jnp.arange(pixels)[None, None]
    return (length > 0)[..., None] & (cells >= first[..., None]) & (cells < stop[..., None])


def _checked_boxes(boxes: np.ndarray, image_size: tuple[int, int], name: str) -> np.ndarray:
    boxes = np.asarray(boxes, np.float64)
    boxes = boxes.reshape(-1, 4) if boxes.size == 0 else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise UserError(f"{name}: boxes have shape {boxes.shape}; each is x, y, width, height")
    height, width = image_size
    for box in boxes:
        x, y, across, down = box
        if not np.isfinite(box).all():
            raise UserError(f"{name}: a box holds NaN or infinity; an image without a lesion gets an empty list")
        if min(across, down) <= 0:
            raise UserError(f"{name}: the box {box.tolist()} has no size; it is x, y, width, height")
        if min(x, y) < -1 or x + across > width + 1 or y + down > height + 1:
            raise UserError(
                f"{name}: the box {box.tolist()} (x, y, width, height) reaches outside the image of {width}x{height} "
                "pixels; give boxes in pixels of the original image, and that image's size"
            )
    return boxes
