"""Augmentation by stain: the same tissue as other laboratories would have stained it.

`randstain` draws every image a virtual template from what a data set shows of itself (RandStainNA: Shen, Luo,
Shen & Ke, MICCAI 2022): a colour space among Lab, HSV and HED, and within it a mean and a standard deviation per
channel, normally distributed around the data's; the image takes them on. `jitter` needs no data: it multiplies and
shifts the amounts of haematoxylin and eosin (Tellez et al., IEEE Trans. Med. Imaging 37, 2018).

Two things differ from the papers, both for the sake of glass. Statistics are those of the stained pixels
(`medgen_jax.ops.tissue`), so they do not depend on how much tissue a tile holds; and a change fades out towards
glass, in proportion to optical density below that mask's threshold, so that white stays white. Hue is an
angle: its means are circular, its deviations taken the short way round.

Images are (b, h, w, 3) floats in [0, 1]. All functions are pure and compile once; those that draw give every image
a key of its own, so that an image comes out the same whatever stands beside it and on however many devices. An image
without tissue (glass, black, NaN) is returned as it came.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from medgen_jax.core.parallel import over_batch
from medgen_jax.ops import colour
from medgen_jax.ops.tissue import DENSITY, tissue_mask
from medgen_jax.stain import normalised

#: What `randstain` and `jitter` take when nothing else is said: RandStainNA's spread, which its authors shrink by .3,
#: and the half-width of the strong perturbation of Tellez et al. (Med. Image Anal. 58, 2019).
RANDSTAIN_STRENGTH, JITTER_STRENGTH = 0.7, 0.2

_DARKEST = 1 / 255  # below it the logarithm of density runs away
_LEAST_SPREAD = 0.1  # of a channel's usual deviation: the least that an image or a template counts as having


class _Space(NamedTuple):
    forward: Callable[[jax.Array], jax.Array]
    backward: Callable[[jax.Array], jax.Array]
    low: tuple[float, ...]  # of the channels: what lies beyond is no colour, and might overflow on the way back
    high: tuple[float, ...]
    hue: bool = False  # whether the first channel is an angle


_SPACES = (
    _Space(colour.rgb_to_lab, colour.lab_to_rgb, (0, -128, -128), (100, 128, 128)),
    _Space(colour.rgb_to_hsv, colour.hsv_to_rgb, (-2 * math.pi, 0, 0), (4 * math.pi, 1, 1), hue=True),
    _Space(colour.rgb_to_hed, colour.hed_to_rgb, (-1, -1, -1), (1, 1, 1)),
)


class Moments(NamedTuple):
    """Colour of single images, over their stained pixels.

    Attributes:
      mean: (b, 3, 3) float32: space (Lab, HSV, HED), channel; hue in radians.
      std: (b, 3, 3), with the full count as divisor.
      ok: (b,) bool, whether the image shows enough tissue; the rest means nothing otherwise.
    """

    mean: jax.Array
    std: jax.Array
    ok: jax.Array


class Statistics(NamedTuple):
    """Colour of a set of images: where their moments lie, and how far they scatter.

    Attributes:
      mean: (3, 3) float32, average of the images' means: space (Lab, HSV, HED), channel; hue in radians.
      mean_spread: (3, 3), standard deviation of the means over images.
      std: (3, 3), average of the images' deviations.
      std_spread: (3, 3), standard deviation of the deviations over images.
      ok: () bool, whether any image showed tissue.
    """

    mean: jax.Array
    mean_spread: jax.Array
    std: jax.Array
    std_spread: jax.Array
    ok: jax.Array


def measure(images: jax.Array) -> Moments:
    """Mean and deviation of every image in the three spaces.

    Args:
      images: (b, h, w, 3) in [0, 1].

    Raises:
      UserError: not (b, h, w, 3), or integers.
    """
    lit, mask, ok = _seen(images)
    count = len(mask)
    rows = [
        _mean_and_std(space.forward(lit).reshape(count, -1, 3), mask.reshape(count, -1), space.hue) for space in _SPACES
    ]
    mean, std = (jnp.stack(x, 1) for x in zip(*rows, strict=True))
    return Moments(mean, std, ok)


def pool(moments: Moments) -> Statistics:
    """Statistics of the images that are ok, each of equal weight."""
    rows = [_mean_and_std(moments.mean[:, i], moments.ok, space.hue) for i, space in enumerate(_SPACES)]
    mean, mean_spread = (jnp.stack(x) for x in zip(*rows, strict=True))
    rows = [_mean_and_std(moments.std[:, i], moments.ok, False) for i in range(len(_SPACES))]
    std, std_spread = (jnp.stack(x) for x in zip(*rows, strict=True))
    return Statistics(mean, mean_spread, std, std_spread, jnp.any(moments.ok))


def fit(images: jax.Array) -> Statistics:
    """What `randstain` needs to know of a data set.

    For more images than fit into memory: `measure` batch by batch, and `pool` of the moments put together.

    Args:
      images: (n, h, w, 3) in [0, 1].

    Raises:
      UserError: not (n, h, w, 3), or integers.
    """
    return pool(measure(images))


def randstain(
    key: jax.Array,
    statistics: Statistics,
    images: jax.Array,
    *,
    strength: float = RANDSTAIN_STRENGTH,
    probability: float = 1.0,
) -> jax.Array:
    """Every image as a member of the data set that was stained another day.

    Args:
      key: its fold with an image's place in the batch draws for that image.
      statistics: of `fit`; unless ok, the images are returned.
      images: (b, h, w, 3) in [0, 1].
      strength: how far templates scatter, in units of the data's own spread; 0 draws the average look.
      probability: share of the images that are changed.

    Returns:
      (b, h, w, 3) float32 in [0, 1], NaN where the image is.

    Raises:
      UserError: not (b, h, w, 3), or integers.
    """
    lit, _, ok = _seen(images)
    own = measure(images)
    draws = _draws(key, len(images), 8)
    drawn = jnp.minimum((draws[:, 0] * len(_SPACES)).astype(jnp.int32), len(_SPACES) - 1)
    noise = strength * jax.scipy.special.ndtri(draws[:, 1:7]).reshape(-1, 2, 3)
    # The virtual template, and how far each image is stretched to it.
    mean = statistics.mean[drawn] + noise[:, 0] * statistics.mean_spread[drawn]
    flat = _LEAST_SPREAD * statistics.std[drawn]
    std = jnp.maximum(statistics.std[drawn] + noise[:, 1] * statistics.std_spread[drawn], flat)
    own_mean, own_std = (jnp.take_along_axis(moment, drawn[:, None, None], 1)[:, 0] for moment in own[:2])
    own_std = jnp.maximum(own_std, flat)
    able = ok[:, None] & (own_std > 0)
    stretch = jnp.where(able, std / jnp.where(able, own_std, 1.0), 1.0)

    changed = lit
    for i, space in enumerate(_SPACES):
        moved = _restretched(lit, space, *(x[:, None, None] for x in (own_mean, stretch, mean)))
        changed = jnp.where((drawn == i)[:, None, None, None], moved, changed)
    chosen = draws[:, 7] < probability
    return _faded(images, lit, changed, chosen & ok & statistics.ok)


def jitter(
    key: jax.Array, images: jax.Array, *, strength: float = JITTER_STRENGTH, probability: float = 1.0
) -> jax.Array:
    """Haematoxylin and eosin, each times 1 + u and plus v, with u and v uniform within ``strength``.

    Amounts are natural optical densities along the colours of Ruifrok & Johnston; the third component,
    which holds what the two stains do not explain, stays.

    Args:
      key: its fold with an image's place in the batch draws for that image.
      images: (b, h, w, 3) in [0, 1].
      strength: in [0, 1): 0.05 is the light, 0.2 the strong perturbation of Tellez et al. 2019.
      probability: share of the images that are changed.

    Returns:
      (b, h, w, 3) float32 in [0, 1], NaN where the image is.

    Raises:
      UserError: not (b, h, w, 3), or integers.
    """
    lit, _, ok = _seen(images)
    draws = _draws(key, len(images), 5)
    noise = strength * (2 * draws[:, :4] - 1).reshape(-1, 2, 2)
    noise = jnp.pad(noise, ((0, 0), (0, 0), (0, 1)))[:, :, None, None]  # the third component stays
    density = -math.log(colour.FLOOR)  # of one unit of `rgb_to_hed`
    amounts = colour.rgb_to_hed(lit)
    changed = colour.hed_to_rgb(amounts * (1 + noise[:, 0]) + noise[:, 1] / density)
    return _faded(images, lit, changed, (draws[:, 4] < probability) & ok)


def _restretched(lit: jax.Array, space: _Space, own_mean: jax.Array, stretch: jax.Array, mean: jax.Array) -> jax.Array:
    """Images moved, in a space, from their own means to other ones; deviations times ``stretch``."""
    moved = _offset(space.forward(lit), own_mean, space.hue) * stretch + mean
    low, high = (jnp.asarray(bound, jnp.float32)[None, None, None] for bound in (space.low, space.high))
    return space.backward(jnp.clip(moved, low, high))


def _draws(key: jax.Array, count: int, numbers: int) -> jax.Array:
    """(count, numbers) uniform in (0, 1); a row depends on its place in the batch, not on the size of the batch."""
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(count))
    return over_batch(jax.vmap(lambda k: jax.random.uniform(k, (numbers,), minval=jnp.finfo(jnp.float32).eps))(keys))


def _seen(images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The images as logarithms bear them, their stained pixels (b, h, w) and whether those are enough (b,)."""
    safe, finite = normalised.checked(images)
    mask, _, ok = tissue_mask(safe)
    ok &= finite & normalised.enough(mask)
    return jnp.clip(safe, _DARKEST, 1), mask & ok[:, None, None], ok


def _faded(images: jax.Array, lit: jax.Array, changed: jax.Array, chosen: jax.Array) -> jax.Array:
    """``changed`` on tissue, ``images`` on glass and where not ``chosen`` (b,), and their mixture in between."""
    absorbed = jnp.mean(colour.rgb_to_od(lit), -1, keepdims=True)
    share = jnp.clip(absorbed / DENSITY, 0, 1)
    mixed = lit + share * (jnp.clip(changed, 0, 1) - lit)
    return normalised.settled(images, mixed, chosen).images


def _mean_and_std(values: jax.Array, mask: jax.Array, hue: bool) -> tuple[jax.Array, jax.Array]:
    """Of (..., n, 3) over the n that the mask (..., n) counts: two (..., 3), 0 where nothing counts."""
    mask = mask[..., None]
    count = jnp.maximum(jnp.sum(mask, -2), 1).astype(jnp.float32)
    values = jnp.where(mask, values, 0.0)
    mean = jnp.sum(values, -2) / count
    if hue:
        angle, counts = values[..., 0], mask[..., 0]
        sine, cosine = (jnp.sum(jnp.where(counts, f(angle), 0.0), -1) for f in (jnp.sin, jnp.cos))
        # No direction, no gradient: where all angles cancel, or none counts, the mean is 0.
        spread_out = sine * sine + cosine * cosine < 1e-12
        angle = jnp.arctan2(jnp.where(spread_out, 0.0, sine), jnp.where(spread_out, 1.0, cosine))
        mean = jnp.concatenate([jnp.mod(angle, 2 * math.pi)[..., None], mean[..., 1:]], -1)
    offset = jnp.where(mask, _offset(values, mean[..., None, :], hue), 0.0)
    variance = jnp.sum(offset * offset, -2) / count
    some = variance > 0
    return mean, jnp.where(some, jnp.sqrt(jnp.where(some, variance, 1.0)), 0.0)


def _offset(values: jax.Array, mean: jax.Array, hue: bool) -> jax.Array:
    """``values - mean`` of (..., 3); the first channel in [-pi, pi) if it is a hue."""
    offset = values - mean
    if not hue:
        return offset
    angle = jnp.mod(offset[..., :1] + math.pi, 2 * math.pi) - math.pi
    return jnp.concatenate([angle, offset[..., 1:]], -1)
