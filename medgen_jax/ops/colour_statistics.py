"""Mean and standard deviation of an image's colours in several colour spaces, with hue as an angle.

They are what stain normalisation matches: the statistics of one template, or the average over a data
set. Colour spaces and their units are those of `medgen_jax.ops.colour`, hue in radians.

Hue runs round a circle, and that of haematoxylin and eosin lies close to where it is cut. Its mean
is therefore taken from the mean direction of the circle, plus the mean of the deviations from there, each the
shorter way round; its standard deviation is that of the same deviations. For hues within half a
circle that do not cross the cut, both are the ordinary ones.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from medgen_jax.core.errors import UserError
from medgen_jax.ops import colour

_CIRCLE = 2 * math.pi

Statistics = Mapping[str, Mapping[str, jax.Array]]


class ColourSpace(NamedTuple):
    """The way to a colour space and back, both (..., 3) -> (..., 3); ``hue``: whether channel 0 is an angle."""

    from_rgb: Callable[[jax.Array], jax.Array]
    to_rgb: Callable[[jax.Array], jax.Array]
    hue: bool = False


def _hed_to_rgb(hed: jax.Array) -> jax.Array:
    # Colours have amounts between -1.5 and 1.9. Further out the exponential overflows, and so do gradients.
    return colour.hed_to_rgb(lax.clamp(-2.0, hed, 2.0))


SPACES = {
    "lab": ColourSpace(colour.rgb_to_lab, colour.lab_to_rgb),
    "hsv": ColourSpace(colour.rgb_to_hsv, colour.hsv_to_rgb, hue=True),
    "rgb": ColourSpace(lambda rgb: rgb, lambda rgb: rgb),
    "hed": ColourSpace(colour.rgb_to_hed, _hed_to_rgb),
}


def check_spaces(spaces: Sequence[str]) -> None:
    """Raise a UserError unless ``spaces`` names one or more of `SPACES`, each once."""
    wrong = [space for space in spaces if space not in SPACES]
    if wrong or not spaces:
        raise UserError(f"colour space {wrong[0] if wrong else ''!r}: expected some of {', '.join(SPACES)}")
    if len(set(spaces)) < len(spaces):
        raise UserError(f"colour spaces {', '.join(spaces)}: each can be named once")


def check_images(images: jax.Array) -> None:
    """Raise a UserError unless ``images`` are floats (b, h, w, 3) with at least one pixel."""
    if images.ndim != 4 or images.shape[-1] != 3 or not images.size:
        raise UserError(f"colour statistics of images {images.shape}: expected (batch, height, width, 3)")
    if not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"colour statistics of {images.dtype} images: divide by the white level, to floats in [0, 1]")


def measure(values: jax.Array, hue: bool = False) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean and standard deviation of every image and channel, and each pixel's distance to the mean.

    Nothing is lost to cancellation when the spread is small: a constant image has exactly 0.

    Args:
      values: (b, h, w, 3) float32.
      hue: channel 0 is an angle in radians. Distances to its mean are then the shorter ones, and the
        mean lies in [0, 2 pi].

    Returns:
      mean, std: (b, 3). std has n - 1 in its denominator, and no gradient where it is 0.
      distance: (b, h, w, 3), adds up to 0 over the pixels.
    """
    origin = values[:, :1, :1]
    if hue:
        angle = values[..., :1]
        sine, cosine = (jnp.mean(wave(angle), axis=(1, 2), keepdims=True) for wave in (jnp.sin, jnp.cos))
        origin = jnp.concatenate((jnp.arctan2(sine, cosine), origin[..., 1:]), axis=-1)
    # The mean does not depend on the origin, so there is no gradient to lose; arctan2 has none at 0, 0.
    origin = lax.stop_gradient(origin)
    distance = distance_to(origin, values, hue)
    offset = jnp.mean(distance, axis=(1, 2), keepdims=True)
    distance = distance - offset
    mean = (origin + offset)[:, 0, 0]
    if hue:
        mean = jnp.concatenate((jnp.mod(mean[:, :1], _CIRCLE), mean[:, 1:]), axis=-1)
    return mean, _deviation(distance), distance


def distance_to(mean: jax.Array, values: jax.Array, hue: bool = False) -> jax.Array:
    """``values - mean``, both (..., 3); with ``hue`` channel 0 the shorter way round."""
    distance = values - mean
    if hue:
        angle = distance[..., :1]
        angle = angle - _CIRCLE * jnp.round(angle / _CIRCLE)
        distance = jnp.concatenate((angle, distance[..., 1:]), axis=-1)
    return distance


def _deviation(distance: jax.Array) -> jax.Array:
    """Standard deviation (b, 3) of pixels at ``distance`` (b, h, w, 3) to their mean."""
    degrees = max(distance.shape[1] * distance.shape[2] - 1, 1)
    variance = jnp.sum(jnp.square(distance), axis=(1, 2)) / degrees
    flat = variance == 0
    return jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, variance)))  # the root has no slope at 0


def statistics(images: jax.Array, spaces: Sequence[str]) -> dict[str, dict[str, jax.Array]]:
    """Colour statistics of every image.

    Args:
      images: (b, h, w, 3) sRGB, floats in [0, 1].
      spaces: names from `SPACES`.

    Returns:
      ``{space: {"mean": (b, 3), "std": (b, 3)}}`` float32, in the units of the space.

    Raises:
      UserError: on another shape, integers, or an unknown space.
    """
    check_spaces(spaces)
    check_images(images)
    found = {}
    for space in spaces:
        convert = SPACES[space]
        mean, std, _ = measure(convert.from_rgb(images.astype(jnp.float32)), convert.hue)
        found[space] = {"mean": mean, "std": std}
    return found


def pooled(per_image: Statistics) -> dict[str, dict[str, jax.Array]]:
    """Averages over images of what `statistics` returns: of one image a template, of many a data set's.

    Args:
      per_image: ``{space: {"mean": (b, 3), "std": (b, 3)}}``, of all the images; those of several batches
        are concatenated first.

    Returns:
      ``{space: {"mean": (3,), "std": (3,)}}``: the mean of the means, hue on its circle, and the mean of the
      standard deviations.
    """
    check_spaces(tuple(per_image))
    return {
        space: average(jnp.asarray(moments["mean"]), jnp.asarray(moments["std"]), SPACES[space].hue)
        for space, moments in per_image.items()
    }


def average(means: jax.Array, stds: jax.Array, hue: bool = False) -> dict[str, jax.Array]:
    """Of several images' (b, 3), in one space: the mean of the means, with ``hue`` on its circle, and of the stds."""
    mean, _, _ = measure(means.reshape(1, -1, 1, 3), hue)
    return {"mean": mean[0], "std": jnp.mean(stds, axis=0)}
