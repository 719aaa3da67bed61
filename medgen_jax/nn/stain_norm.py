"""LStainNorm: a stain normalisation that a network learns together with its task.

Ke, Zhou, Shen, Guo, Liu, Han and Shen, "Learnable color space conversion and fusion for stain
normalization in pathology images", Medical Image Analysis 101:103424 (2025).

An image is brought, in each of several colour spaces, to a learned mean and standard deviation per
channel (up to equation 9). The results, back in RGB, are averaged pixel by pixel with weights from one
self-attention per space (equations 11 to 14). In one space this is Reinhard's normalisation (2001) with a learned
template.

The code that the authors published departs from their paper. ``paper`` follows equations and figure,
``published`` the code:

=============================  ======================================  ====================================
what                           paper                                   published
=============================  ======================================  ====================================
queries and keys               convolutions of each space              one pair for all spaces
values                         the pooled image                        a convolution of it, pooled
attention A                    A V                                     A^T V: columns that do not sum to 1
back in RGB                    clipped to [0, 1]                       Lab clipped, else absolute values
                                                                       which may exceed 1
pixel weight                   (delta att + x) / sum over spaces       (delta |att| + x) / (x + 1e-7) / sum
mean of hue                    on the circle                           of the numbers from 0 to 2 pi
a, b, delta                    positive (softplus)                     any sign: denominators may cross 0
=============================  ======================================  ====================================

In ``paper``, 1e-3 is added to every pixel weight, so that spaces share black pixels equally; the
quotient of ``published`` is ill-conditioned there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image
from medgen_jax.ops.colour_statistics import SPACES, average, check_images, check_spaces, distance_to, measure
from medgen_jax.ops.resize import resize

VARIANTS = ("paper", "published")
EPSILON = 1e-7  # added to a standard deviation, and to a divisor of ``published``
SHARE = 1e-3  # added to the pixel weights of ``paper``

#: Initial mean and standard deviation: Lab, HSV and RGB of the released configuration, which describe one
#: template; HED is that of H&E tissue brought to the row of Lab.
REFERENCE = {
    "lab": {"mean": (19.5645, 20.6909, -16.7789), "std": (16.3662, 7.3791, 7.2138)},
    "hsv": {"mean": (5.0052, 0.6096, 0.3046), "std": (0.4368, 0.1728, 0.1720)},
    "rgb": {"mean": (0.2604, 0.1451, 0.2891), "std": (0.1810, 0.1400, 0.1534)},
    "hed": {"mean": (0.1510, 0.0532, 0.0663), "std": (0.1211, 0.0872, 0.0469)},
}


def _per_channel(values: jax.Array) -> jax.Array:
    """(c,) or (b, c) -> (1 or b, 1, 1, c)."""
    return values.reshape(-1, 1, 1, values.shape[-1])


class Branch(nn.Module):
    """Normalisation in one colour space, x -> gamma (x - mu) / (sigma + eps) + beta, clipped (up to equation 9).

    Attributes:
      space: one of `medgen_jax.ops.colour_statistics.SPACES`.
      variant: see the module.

    Call: (b, h, w, 3) RGB in [0, 1] -> the same shape, back in RGB. Parameters ``mean`` and ``std`` (3,) are the
    learned offsets, from 0, to those of the collection ``reference``. mu and sigma are those of each image, or of the
    collection ``source`` where there is one.
    """

    space: str
    variant: str

    @nn.compact
    def __call__(self, images: Image) -> Image:
        convert = SPACES[self.space]
        std, distance = self._spread(convert.from_rgb(images))
        gamma, beta = (_per_channel(self._target(name)) for name in ("std", "mean"))
        rgb = convert.to_rgb(gamma * distance / (_per_channel(std) + EPSILON) + beta)
        if self.variant == "published" and self.space in ("hsv", "rgb"):
            return jnp.abs(rgb)
        return lax.clamp(0.0, rgb, 1.0)

    def source(self, images: Image) -> dict[str, jax.Array]:
        """Mean and standard deviation (3,) that (b, h, w, 3) have in common: averages, each image counting the same."""
        mean, std, _ = measure(SPACES[self.space].from_rgb(images), self._hue)
        return average(mean, std, self._hue)

    @property
    def _hue(self) -> bool:
        """Whether channel 0 is treated as an angle."""
        return SPACES[self.space].hue and self.variant != "published"

    def _spread(self, values: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Standard deviation (b, 3) or (3,), and every pixel's distance to the mean."""
        if self.has_variable("source", "mean"):
            mean, std = (self.get_variable("source", name) for name in ("mean", "std"))
            return std, distance_to(_per_channel(mean), values, self._hue)
        _, std, distance = measure(values, self._hue)
        return std, distance

    def _target(self, name: str) -> jax.Array:
        """Reference plus learned offset, (3,)."""
        start = self.variable("reference", name, lambda: jnp.asarray(REFERENCE[self.space][name], jnp.float32))
        return start.value + self.param(name, nn.initializers.zeros, (3,), jnp.float32)


def _cells(side: int, grid: int) -> tuple[int, int]:
    """Number and side (pixels) of the smallest cells of which ``grid`` or fewer cover ``side`` pixels."""
    cell = -(-side // grid)
    return -(-side // cell), cell


def pool_to_grid(x: jax.Array, grid: int) -> jax.Array:
    """Maxima over cells, the last of which may jut out.

    Args:
      x: (b, h, w, c).
      grid: most rows and columns of cells.

    Returns:
      (b, rows, columns, c).
    """
    (rows, high), (columns, wide) = (_cells(side, grid) for side in x.shape[1:3])
    juts = ((0, 0), (0, rows * high - x.shape[1]), (0, columns * wide - x.shape[2]), (0, 0))
    x = jnp.pad(x, juts, constant_values=-jnp.inf)
    x = _largest(x.reshape(x.shape[0], rows, high, columns * wide, -1), axis=2)
    return _largest(x.reshape(x.shape[0], rows, columns, wide, -1), axis=3)


def _largest(x: jax.Array, axis: int) -> jax.Array:
    """Maximum along ``axis``; the gradient goes to the first of equal ones.

    Not ``jnp.max``, whose gradient divides by the number of elements that equal the maximum. XLA may
    compute the elements anew for that, with other roundings, until none does: the gradient is infinite.
    """
    index = jnp.argmax(lax.stop_gradient(x), axis=axis, keepdims=True)
    chosen = lax.broadcasted_iota(index.dtype, x.shape, axis) == index
    return jnp.sum(jnp.where(chosen, x, 0), axis=axis)


def spread_from_grid(x: jax.Array, size: tuple[int, int], grid: int) -> jax.Array:
    """Bilinear enlargement of what `pool_to_grid` returned to the ``size`` (height, width) of its input."""
    whole = tuple(cells * cell for cells, cell in (_cells(side, grid) for side in size))
    return resize(x, whole, "torch-bilinear")[:, : size[0], : size[1]]


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: jnp.dtype) -> jax.Array:
    """PyTorch's first weights and biases of a 1 x 1 convolution of three channels."""
    bound = 1 / math.sqrt(3)
    return jax.random.uniform(key, shape, dtype, -bound, bound)


class Attention(nn.Module):
    """Self-attention between the cells of an image (equations 11 to 13).

    Attributes:
      grid: most cells per side.
      variant: see the module.

    Call: (b, h, w, 3) -> the same shape. Queries and keys have one channel, so the equation's divisor d is 1.
    """

    grid: int
    variant: str

    @nn.compact
    def __call__(self, x: Image) -> Image:
        def tokens(values: jax.Array) -> jax.Array:
            pooled = pool_to_grid(values, self.grid)
            return pooled.reshape(pooled.shape[0], -1, pooled.shape[-1])

        def mixed(name: str, features: int) -> jax.Array:
            mix = nn.Dense(features, precision="highest", kernel_init=_uniform, bias_init=_uniform, name=name)
            return mix(x)

        published = self.variant == "published"
        query, key = tokens(mixed("query", 1)), tokens(mixed("key", 1))
        value = tokens(mixed("value", 3) if published else x)
        weights = jax.nn.softmax(query * key.swapaxes(1, 2), axis=-1)
        along = "bij,bic->bjc" if published else "bij,bjc->bic"
        attended = jnp.einsum(along, weights, value, precision=lax.Precision.HIGHEST)
        rows, columns = (_cells(side, self.grid)[0] for side in x.shape[1:3])
        return spread_from_grid(attended.reshape(x.shape[0], rows, columns, 3), x.shape[1:3], self.grid)


def _positive(offset: jax.Array) -> jax.Array:
    """A positive number for every real one; 1 for 0."""
    return jax.nn.softplus(offset + math.log(math.e - 1))


class Fusion(nn.Module):
    """Weights with which the spaces' images are averaged.

    Attributes:
      spaces: names of the spaces, in order.
      variant, shared_attention, grid: see `LStainNorm`.

    Call: ``{space: (b, h, w, 3)}`` -> ``{space: (b, h, w, 3)}``, which sum to 1 over the spaces. Parameters, as
    offsets to 1: ``delta`` (spaces, 3), ``a`` and ``b`` (spaces,).
    """

    spaces: tuple[str, ...]
    variant: str
    shared_attention: bool
    grid: int

    @nn.compact
    def __call__(self, branches: Mapping[str, Image]) -> dict[str, Image]:
        x = jnp.stack([branches[space] for space in self.spaces])
        a, b = (self._scale(name, (len(x),)).reshape(-1, 1, 1, 1, 1) for name in ("a", "b"))
        pixel = self._pixel_weights(x)
        weights = a * pixel + b
        weights = weights / jnp.sum(weights, axis=0, keepdims=True)
        return dict(zip(self.spaces, weights, strict=True))

    def _pixel_weights(self, x: jax.Array) -> jax.Array:
        """(spaces, b, h, w, 3) -> the same shape; sums to 1 over the spaces."""
        delta = self._scale("delta", (len(x), 3)).reshape(-1, 1, 1, 1, 3)
        attended = self._attend(x)
        if self.variant == "paper":
            seen = delta * attended + x + SHARE
            return seen / jnp.sum(seen, axis=0, keepdims=True)
        seen = (delta * jnp.abs(attended) + x) / (x + EPSILON)
        first = seen[:-1] / (jnp.sum(seen, axis=0, keepdims=True) + EPSILON)
        return jnp.concatenate((first, 1 - jnp.sum(first, axis=0, keepdims=True)))

    def _attend(self, x: jax.Array) -> jax.Array:
        if self.shared_attention:
            shared = Attention(self.grid, self.variant, name="attention")
            return jnp.stack([shared(image) for image in x])
        own = [Attention(self.grid, self.variant, name=f"attention_{space}") for space in self.spaces]
        return jnp.stack([attention(image) for attention, image in zip(own, x, strict=True)])

    def _scale(self, name: str, shape: tuple[int, ...]) -> jax.Array:
        offset = self.param(name, nn.initializers.zeros, shape, jnp.float32)
        return _positive(offset) if self.variant == "paper" else 1 + offset


class LStainNorm(nn.Module):
    """Learned stain normalisation in several colour spaces, fused by self-attention.

    Everything is computed in float32. Statistics are of each image by itself, or those given for all; a tile of one
    colour becomes, by itself, the mean colour of the template.

    Attributes:
      spaces: some of ``lab``, ``hsv``, ``rgb``, ``hed``. One alone has nothing to fuse: the output is its branch.
      variant: ``paper`` or ``published`` (see the module). The latter has 53 parameters in three spaces.
      grid: most cells per side between which attention is computed, which bounds its memory to
        ``4 grid**4`` bytes per image and space, 2.5 MB, at any image size. The authors' cells of 8 pixels
        are 28 per side at 224 pixels.
      shared_attention: one attention for all spaces; None: the variant's own choice.

    Call: (b, h, w, 3) sRGB in [0, 1], any size -> the same shape, float32; in [0, 1], save that
    ``published`` does not clip and may exceed 1.

    Collections: ``params``, offsets that start at 0 and the attention's mixtures; ``reference``, not
    trained, ``{space: {"mean": (3,), "std": (3,)}}`` where the offsets start from, `REFERENCE` by default.
    Replace it by what `medgen_jax.ops.colour_statistics.pooled` returns for a template or a data set. ``source``,
    optional and of the same form, are the statistics that images are normalised by in place of their own: what
    `source` returns for tiles of one large image.

    Raises `UserError` for an unknown space or variant, and for images of another shape or of integers.
    """

    spaces: tuple[str, ...] = ("lab", "hsv", "rgb")
    variant: str = "paper"
    grid: int = 28
    shared_attention: bool | None = None

    def setup(self) -> None:
        check_spaces(self.spaces)
        if self.variant not in VARIANTS:
            raise UserError(f"LStainNorm variant {self.variant!r}: expected one of {', '.join(VARIANTS)}")
        if self.grid < 1:
            raise UserError(f"LStainNorm grid {self.grid}: at least 1 cell per side is needed")
        shared = self.variant == "published" if self.shared_attention is None else self.shared_attention
        self.branch = {space: Branch(space, self.variant, name=space) for space in self.spaces}
        self.fusion = Fusion(self.spaces, self.variant, shared, self.grid)

    def __call__(self, images: Image) -> Image:
        branches = self.branches(images)
        if len(branches) == 1:
            return branches[self.spaces[0]]
        weights = self.fusion(branches)
        return sum(weights[space] * branches[space] for space in self.spaces)

    def branches(self, images: Image) -> dict[str, Image]:
        """The image normalised in each space, ``{space: (b, h, w, 3)}`` RGB float32."""
        check_images(images)
        images = images.astype(jnp.float32)
        return {space: self.branch[space](images) for space in self.spaces}

    def source(self, images: Image) -> dict[str, dict[str, jax.Array]]:
        """Statistics of images (b, h, w, 3) together, ``{space: {"mean": (3,), "std": (3,)}}``."""
        check_images(images)
        images = images.astype(jnp.float32)
        return {space: self.branch[space].source(images) for space in self.spaces}

    def weights(self, images: Image) -> dict[str, Image]:
        """Share of each space in every pixel and channel, ``{space: (b, h, w, 3)}``; they sum to 1."""
        branches = self.branches(images)
        if len(branches) == 1:
            return {space: jnp.ones_like(image) for space, image in branches.items()}
        return self.fusion(branches)
