"""Images inside a page, encoded anew, so that no metadata of a file gets in."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from medgen_jax.viz.markup import Markup, element


def embedded(image: np.ndarray | Image.Image, alt: str, jpeg: int | None = None) -> Markup:
    """An ``img`` that holds its pixels.

    Args:
      image: grey or RGB, uint8: (h, w, 1 or 3), or one of Pillow's.
      alt: what it shows, in words.
      jpeg: quality of a JPEG; None for a PNG.
    """
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image)
    kind, options = ("png", {"optimize": True}) if jpeg is None else ("jpeg", {"quality": jpeg})
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    source = f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return element("img", src=source, alt=alt, width=image.width, height=image.height)


def captioned(image: np.ndarray, caption: str, alt: str | None = None) -> Markup:
    """A ``figure`` of an image, as `embedded` takes it, and its caption, which also says what it shows, or ``alt``."""
    return element("figure", embedded(image, alt or caption), element("figcaption", caption))


def enlarged(image: np.ndarray, smallest: int) -> np.ndarray:
    """An image (h, w, c) whose pixels are repeated as often as its longer side stays within ``smallest`` pixels."""
    factor = max(1, smallest // max(image.shape[:2]))
    return image.repeat(factor, 0).repeat(factor, 1)


def under_headings(shown: Sequence[Any], draw: Callable[[Any], Markup], cls: str) -> list[Markup]:
    """A section for each ``heading``, in the order in which they first occur, with what belongs there, drawn."""
    return [
        element(
            "section",
            element("h2", heading),
            element("div", [draw(one) for one in shown if one.heading == heading], cls=cls),
        )
        for heading in dict.fromkeys(one.heading for one in shown)
    ]
