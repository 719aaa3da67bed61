"""Adaptive augmentation of all that a discriminator sees (Karras et al. 2020b, sections 2 and 3 and appendix B).

Real and made images are changed alike and at random before they are judged, each change with the chance p; p rises
while the discriminator is too sure of the training images and falls when it is not. The generator is taught through
the changes and, p staying well below 1, does not learn them.

Three groups of changes, named as in the paper: ``b`` (flips, quarter turns, shifts by whole pixels: exact), ``g``
(scale, rotation, stretch, shifts by fractions) and ``c`` (brightness, contrast, negative; of coloured images also hue
and saturation, which grey ones do not have). Images are square, (b, n, n, c), nominally in [-1, 1], float32. All
numbers are those of the paper; an image for which nothing is drawn stays as it is.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medgen_jax.core import rng
from medgen_jax.core.parallel import over_batch
from medgen_jax.ops.fir import fir

PyTree = Any

#: Largest shift by whole pixels, and deviation of that by fractions; shares of the side.
SHIFT = 0.125
#: Deviations of the binary logarithms of scale, stretch, contrast and saturation, and of the brightness.
SCALE, STRETCH, CONTRAST, SATURATION, BRIGHTNESS = 0.2, 0.2, 0.5, 1.0, 0.2

#: All changes by their group.
CHANGES = {
    "flip": "b", "turns": "b", "shift": "b",
    "scale": "g", "first rotation": "g", "stretch": "g", "second rotation": "g", "offset": "g",
    "brightness": "c", "contrast": "c", "negative": "c", "hue": "c", "saturation": "c",
}  # fmt: skip

#: Low-pass filter of the symlet of 12 taps (Daubechies 1992): doubling the size by it and halving it again changes
#: nothing, so that images lose no sharpness by being warped.
SYM6 = (
    0.015404109327027373, 0.0034907120842174702, -0.11799011114819057, -0.048311742585633, 0.4910559419267466,
    0.787641141030194, 0.3379294217276218, -0.07263752278646252, -0.021060292512300564, 0.04472490177066578,
    0.0017677118642428036, -0.007800708325034148,
)  # fmt: skip
_PEAK = 5
#: Of the doubled image, the place of pixel i is ``2 i + _DELAY``.
_DELAY = sum(k * tap for k, tap in enumerate(SYM6)) / sum(SYM6) - _PEAK
#: Mirrored pixels that the filter needs on each side.
_MARGIN = 6


class Draw(NamedTuple):
    """What happens to each image of a batch, in this order.

    Attributes:
      flip: (b,) bool, left and right exchanged.
      turns: (b,) int32, quarter turns counter-clockwise, 0 to 3.
      shift: (b, 2) int32, pixels down and right.
      inverse: (b, 2, 2), from places (row, column) in the result, from its middle, to those in the image.
      offset: (b, 2), pixels down and right, after that.
      brightness: (b,), added to all channels.
      colour: (b, c, c), multiplies the channels then.
    """

    flip: jax.Array
    turns: jax.Array
    shift: jax.Array
    inverse: jax.Array
    offset: jax.Array
    brightness: jax.Array
    colour: jax.Array


def draw(key: jax.Array, p: jax.Array | float, shape: tuple[int, int, int, int], pipe: str) -> Draw:
    """What happens to a batch.

    Args:
      key: of this batch.
      p: chance of each change, in [0, 1]; that of the two rotations around the stretch is ``1 - sqrt(1 - p)`` each.
      shape: (b, n, n, c) of the images; c is 1 or 3.
      pipe: groups of changes: any of the letters b, g and c.
    """
    batch, side, _, channels = shape
    half = 1 - jnp.sqrt(1 - jnp.clip(p, 0.0, 1.0))
    chances = [(half if "rotation" in name else p) * (group in pipe) for name, group in CHANGES.items()]
    # A few large draws: many small ones would be most of what there is to compile.
    keys = rng.named(key, "used", "even", "normal")
    used = jax.random.uniform(keys["used"], (batch, len(CHANGES))) < jnp.stack([jnp.asarray(c) for c in chances])[None]
    used = dict(zip(CHANGES, used.T, strict=True))
    even = jax.random.uniform(keys["even"], (8, batch), minval=-1.0)
    normal = jax.random.normal(keys["normal"], (7, batch))

    def chosen(name: str, drawn: jax.Array, neutral: float) -> jax.Array:
        """``drawn`` (b, ...) where the change is made."""
        of_image = used[name].reshape(batch, *[1] * (drawn.ndim - 1))
        return jnp.where(of_image, drawn, jnp.asarray(neutral, drawn.dtype))

    scale = chosen("scale", jnp.exp2(SCALE * normal[0]), 1)
    stretch = chosen("stretch", jnp.exp2(STRETCH * normal[1]), 1)
    first, second = (rotation(chosen(f"{n} rotation", math.pi * even[i], 0)) for i, n in enumerate(("first", "second")))
    zero = jnp.zeros((batch,))
    stretched = _matrix(1 / stretch, zero, zero, stretch) / scale[:, None, None]
    contrast = chosen("contrast", jnp.exp2(CONTRAST * normal[2]), 1)
    saturation = chosen("saturation", jnp.exp2(SATURATION * normal[3]), 1)
    sign = chosen("negative", jnp.where(even[2] < 0, -1.0, 1.0), 1)
    drawn = Draw(
        flip=chosen("flip", even[4] < 0, 0),
        turns=chosen("turns", jnp.floor(2 * (even[5] + 1)).astype(jnp.int32), 0),
        shift=chosen("shift", jnp.round(SHIFT * side * even[6:8].T).astype(jnp.int32), 0),
        inverse=jnp.einsum("bij,bjk,bkl->bil", first, stretched, second, precision="highest"),
        offset=chosen("offset", SHIFT * side * normal[5:7].T, 0),
        brightness=chosen("brightness", BRIGHTNESS * normal[4], 0),
        colour=colour_matrix(channels, contrast, sign, chosen("hue", math.pi * even[3], 0), saturation),
    )
    return over_batch(drawn)


def _matrix(a: jax.Array, b: jax.Array, c: jax.Array, d: jax.Array) -> jax.Array:
    """Rows (a, b) and (c, d), each (n,) -> (n, 2, 2)."""
    return jnp.stack([jnp.stack([a, b], -1), jnp.stack([c, d], -1)], -2)


def rotation(angle: jax.Array) -> jax.Array:
    """(b,) radians -> (b, 2, 2)."""
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return _matrix(cosine, -sine, sine, cosine)


def colour_matrix(
    channels: int, contrast: jax.Array, sign: jax.Array, hue: jax.Array, saturation: jax.Array
) -> jax.Array:
    """What the channels are multiplied with, (b, c, c).

    On the grey axis of the colour cube that is contrast and sign; across it contrast, saturation and a rotation by the
    hue. Grey images have the axis alone.

    Args:
      channels: 1 or 3.
      contrast, sign, hue, saturation: (b,); sign is 1 or -1, hue in radians.
    """
    along = jnp.full((channels, channels), 1 / channels)[None]
    grey = (contrast * sign)[:, None, None] * along
    if channels == 1:
        return grey
    turned = jnp.array([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]])[None] / math.sqrt(3)
    across = jnp.cos(hue)[:, None, None] * (jnp.eye(3)[None] - along) + jnp.sin(hue)[:, None, None] * turned
    return grey + (contrast * saturation)[:, None, None] * across


def augment(key: jax.Array, p: jax.Array | float, images: jax.Array, pipe: str) -> jax.Array:
    """Images (b, n, n, c) changed at random, each by itself; see `draw`. Differentiable by the images."""
    drawn = draw(key, p, images.shape, pipe)
    if "b" in pipe:
        images = blit(images, drawn.flip, drawn.turns, drawn.shift)
    if "g" in pipe:
        moved = jnp.any(drawn.inverse != jnp.eye(2)[None], axis=(1, 2)) | jnp.any(drawn.offset != 0, axis=1)
        images = jnp.where(moved[:, None, None, None], warp(images, drawn.inverse, drawn.offset), images)
    return recolour(images, drawn.brightness, drawn.colour) if "c" in pipe else images


def _mirrored(place: jax.Array, side: int) -> jax.Array:
    """Places anywhere as places in [0, side - 1] of an image that is mirrored at its edge pixels, again and again."""
    last = side - 1
    return last - jnp.abs(last - jnp.abs(place) % (2 * last))


def _look_up(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Pixels of (b, h, w, c) at integer places (b, m, n) -> (b, m, n, c)."""
    batch, height, width, channels = x.shape
    index = (rows * width + columns).reshape(batch, -1, 1)
    found = jnp.take_along_axis(x.reshape(batch, height * width, channels), index, axis=1, mode="clip")
    return found.reshape(*rows.shape, channels)


def blit(x: jax.Array, flip: jax.Array, turns: jax.Array, shift: jax.Array) -> jax.Array:
    """Flip, turn and shift images (b, n, n, c) by whole pixels, see `Draw`; beyond the edge they are mirrored."""
    side, last = x.shape[1], x.shape[1] - 1
    place = jnp.arange(side)
    row = _mirrored(place[None, :, None] - shift[:, 0, None, None], side)
    column = _mirrored(place[None, None, :] - shift[:, 1, None, None], side)
    shape = (x.shape[0], side, side)
    row, column, turn = (jnp.broadcast_to(a, shape) for a in (row, column, turns[:, None, None]))
    before = jax.lax.select_n(turn, row, column, last - row, last - column)
    beside = jax.lax.select_n(turn, column, last - row, last - column, row)
    return _look_up(x, before, jnp.where(flip[:, None, None], last - beside, beside))


def warp(x: jax.Array, inverse: jax.Array, offset: jax.Array) -> jax.Array:
    """Map images (b, n, n, c), n at least 8, about their middle; see `Draw`. Beyond the edge they are mirrored.

    At twice the size, between low-pass filters, so that neither interpolation nor shrinking leaves false detail.
    """
    side = x.shape[1]
    middle, pad = (side - 1) / 2, (_MARGIN, _MARGIN)
    taps = len(SYM6)
    fine = fir(jnp.pad(x, ((0, 0), pad, pad, (0, 0)), mode="reflect"), SYM6, up=2, padding=(6, 5), gain=4.0)
    # Places of all samples that the filter makes a pixel of, in pixels from the middle.
    place = (jnp.arange(2 * side + taps - 2) - _PEAK - _DELAY) / 2 - middle
    row, column = place[None, :, None] - offset[:, 0, None, None], place[None, None, :] - offset[:, 1, None, None]

    def sample(axis: int) -> jax.Array:
        at = inverse[:, axis, 0, None, None] * row + inverse[:, axis, 1, None, None] * column
        return 2 * (_mirrored(at + middle, side) + _MARGIN) + _DELAY

    return fir(_between(fine, sample(0), sample(1)), SYM6[::-1], down=2)


def _between(x: jax.Array, rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Bilinear interpolation of (b, h, w, c) at places (b, m, n) inside of the image."""
    top, left = jnp.floor(rows), jnp.floor(columns)
    down, right = (rows - top)[..., None], (columns - left)[..., None]
    i, j = top.astype(jnp.int32), left.astype(jnp.int32)
    upper = (1 - right) * _look_up(x, i, j) + right * _look_up(x, i, j + 1)
    lower = (1 - right) * _look_up(x, i + 1, j) + right * _look_up(x, i + 1, j + 1)
    return (1 - down) * upper + down * lower


def recolour(x: jax.Array, brightness: jax.Array, colour: jax.Array) -> jax.Array:
    """``colour (x + brightness)`` of every pixel; see `Draw`."""
    brighter = x + brightness[:, None, None, None]
    if x.shape[-1] == 1:
        return brighter * colour[:, :, :, None]
    return jnp.einsum("bhwc,bdc->bhwd", brighter, colour, precision="highest")


# -- how often ----------------------------------------------------------------------------------------


class Policy(NamedTuple):
    """How often images are changed.

    Attributes:
      pipe: groups of changes, any of the letters b, g and c; none of them: no augmentation.
      p: chance of each change at the start.
      target: mean sign of the logits of real images above which p rises and below which it falls; None: p stays.
      every: steps between two changes of p.
      span: images in which p goes from 0 to 1 while it only rises.
    """

    pipe: str
    p: float
    target: float | None
    every: int
    span: float


def initial(policy: Policy) -> PyTree:
    """What a run remembers: p, and what has been seen of the discriminator since p was last set; float32 scalars."""
    return {"p": jnp.full((), policy.p, jnp.float32), "signs": jnp.zeros(()), "steps": jnp.zeros(())}


def steer(policy: Policy, memory: PyTree, sign: jax.Array, step: jax.Array, images: int) -> PyTree:
    """Look at the discriminator once more and, when it is time, set p: section 3.2 of the paper, by its r_t.

    Args:
      memory: of `initial`.
      sign: mean sign of the logits of this step's real images: 0 where they look like made ones, 1 where it knows all.
      step: of this update, from 0.
      images: real images per step.
    """
    if policy.target is None:
        return memory
    signs, steps = memory["signs"] + sign, memory["steps"] + 1
    due = (step + 1) % policy.every == 0
    moved = memory["p"] + jnp.sign(signs / steps - policy.target) * (images * policy.every / policy.span)
    return {
        # Above 1 nothing would change but the time that it takes to come back.
        "p": jnp.where(due, jnp.clip(moved, 0.0, 1.0), memory["p"]),
        "signs": jnp.where(due, 0.0, signs),
        "steps": jnp.where(due, 0.0, steps),
    }
