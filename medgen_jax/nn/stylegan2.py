"""StyleGAN2 with classes: mapping, skip generator and residual projection discriminator.

Karras et al. 2020 (architecture of figure 7: output skips, residual discriminator), with the class conditioning of
Karras et al. 2020b (StyleGAN2-ADA) and the widths of its configurations. Images are (b, size, size, channels), of
any power-of-two size and any number of channels, nominally in [-1, 1]. Convolutions have the compute dtype; the
mapping, the styles, the sum of the images and the discriminator's head are float32.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from medgen_jax.core.errors import UserError
from medgen_jax.nn.stylegan2_blocks import (
    UNIT_NORMAL,
    Conv,
    Dense,
    ResidualBlock,
    StyledConv,
    ToImage,
    minibatch_stddev,
    unit_moment,
)
from medgen_jax.ops.fir import upsample2x

#: Learning rate of the mapping relative to that of the rest.
MAPPING_RATE = 0.01
#: Share of the old average of w that an update keeps.
AVERAGE_DECAY = 0.995
#: Side of the images that the generator starts from and the discriminator ends at.
SMALLEST = 4


def sides(size: int) -> tuple[int, ...]:
    """Sides of the levels, 4, 8, ..., size.

    Raises:
      UserError: size is no power of two from 8 on.
    """
    if size < 2 * SMALLEST or size & (size - 1):
        raise UserError(f"StyleGAN2 size={size!r}: must be a power of two, 8 pixels or more")
    return tuple(2**power for power in range(2, size.bit_length()))


def channels_at(side: int, channel_base: int, channel_max: int) -> int:
    """Width of the level of this side: ``channel_base / side``, ``channel_max`` at most.

    Raises:
      UserError: no channel would be left.
    """
    width = min(channel_base // side, channel_max)
    if width < 1:
        raise UserError(
            f"StyleGAN2 channel_base={channel_base}, channel_max={channel_max}: the level of {side} pixels "
            f"would have no channel; channel_base must be at least {side}, channel_max at least 1"
        )
    return width


def style_count(size: int) -> int:
    """Number of styles that a generator of this size takes: two per level, ``2 log2(size) - 2``."""
    return 2 * len(sides(size))


def spread(w: jax.Array, styles: int) -> jax.Array:
    """The same w for all styles, (b, w_dim) -> (b, styles, w_dim)."""
    return jnp.broadcast_to(w[:, None, :], (w.shape[0], styles, w.shape[1]))


def mix_styles(ws: jax.Array, others: jax.Array, crossover: jax.Array | int) -> jax.Array:
    """Style mixing: ``ws`` below the layer ``crossover``, ``others`` from it on; both (b, styles, w_dim)."""
    first = jnp.arange(ws.shape[1]) < crossover
    return jnp.where(first[None, :, None], ws, others)


def truncate(
    ws: jax.Array, average: jax.Array, truncation: jax.Array | float, cutoff: jax.Array | int | None = None
) -> jax.Array:
    """Pull styles towards their average: ``average + truncation (w - average)`` (Karras et al. 2018, section B).

    Args:
      ws: (b, styles, w_dim).
      average: (w_dim,).
      truncation: 1 changes nothing, 0 leaves the average.
      cutoff: pull only so many of the first styles; None: all.
    """
    average = average[None, None, :]
    pulled = average + truncation * (ws - average)
    return pulled if cutoff is None else mix_styles(pulled, ws, cutoff)


class Mapping(nn.Module):
    """From codes and classes to w.

    Codes and class embeddings are each scaled to unit mean square, joined and passed through ``layers`` layers.

    Attributes:
      w_dim: width of the class embedding, the hidden layers and the output.
      classes: number of classes; 0: none.
      layers: number of layers.
      averaged: keep the moving average of w, ``w`` (w_dim,) in the collection ``averages``. A call in which that
        collection is mutable updates it by the mean over the batch, cut off from the gradient.

    Call: ``(z, labels)``

    * z: (b, z_dim) standard normal, or None for a function of the class alone.
    * labels: (b,) integers, or (b, classes) weights, with which classes can be blended; None without classes.

    Returns (b, w_dim) float32.
    """

    w_dim: int
    classes: int
    layers: int
    averaged: bool = True

    @nn.compact
    def __call__(self, z: jax.Array | None, labels: jax.Array | None) -> jax.Array:
        parts = [] if z is None else [unit_moment(z.astype(jnp.float32))]
        if self.classes:
            parts.append(unit_moment(Dense(self.w_dim, name="embed")(self._weights(labels))))
        elif labels is not None:
            raise UserError("StyleGAN2: labels were given to a network without classes")
        w = jnp.concatenate(parts, axis=-1)
        for layer in range(self.layers):
            w = Dense(self.w_dim, rate=MAPPING_RATE, activate=True, name=f"layer_{layer}")(w)
        if self.averaged:
            average = self.variable("averages", "w", jnp.zeros, (self.w_dim,), jnp.float32)
            if self.is_mutable_collection("averages") and not self.is_initializing():
                mean = lax.stop_gradient(jnp.mean(w, axis=0))
                average.value = mean + AVERAGE_DECAY * (average.value - mean)
        return w

    def _weights(self, labels: jax.Array | None) -> jax.Array:
        """Labels as (b, classes) float32."""
        if labels is None:
            raise UserError(f"StyleGAN2: a network of {self.classes} classes needs labels")
        labels = jnp.asarray(labels)
        if labels.ndim == 1 and jnp.issubdtype(labels.dtype, jnp.integer):
            return jax.nn.one_hot(labels, self.classes, dtype=jnp.float32)
        if labels.ndim == 2 and labels.shape[1] == self.classes:
            return labels.astype(jnp.float32)
        raise UserError(
            f"StyleGAN2 labels of shape {labels.shape} and type {labels.dtype}: expected one integer per image, or "
            f"(batch, {self.classes}) weights"
        )


class Synthesis(nn.Module):
    """From styles to images; every level adds its image to that of the level below, doubled.

    Attributes: as those of `Generator`.

    Call: ws (b, styles, w_dim) and the kind of noise (`StyledConv`) -> (b, size, size, channels) float32.
    """

    size: int
    channels: int
    channel_base: int
    channel_max: int
    dtype: Any

    @nn.compact
    def __call__(self, ws: jax.Array, noise: str) -> jax.Array:
        if ws.ndim != 3 or ws.shape[1] != style_count(self.size):
            raise UserError(
                f"StyleGAN2 styles of shape {ws.shape}: expected (batch, {style_count(self.size)}, w_dim) for images "
                f"of {self.size} pixels"
            )
        styles = jnp.moveaxis(ws.astype(jnp.float32), 1, 0)
        image, layer = None, 0
        for side in sides(self.size):
            width = channels_at(side, self.channel_base, self.channel_max)
            if image is None:
                const = self.param("const", UNIT_NORMAL, (side, side, width), jnp.float32)
                x = jnp.broadcast_to(const[None], (ws.shape[0], *const.shape))
            else:
                x = StyledConv(width, True, self.dtype, name=f"conv_{side}_0")(x, styles[layer], noise)
                layer += 1
            x = StyledConv(width, False, self.dtype, name=f"conv_{side}_1")(x, styles[layer], noise)
            layer += 1
            # The image shares its style with the first convolution of the next level.
            made = ToImage(self.channels, self.dtype, name=f"image_{side}")(x, styles[layer])
            image = made if image is None else upsample2x(image) + made
        return image


class Generator(nn.Module):
    """Mapping and synthesis.

    Attributes:
      size: side of the images, a power of two from 8 on.
      channels: of the images; 1 is grey.
      classes: number of classes; 0: none.
      z_dim: width of the codes.
      w_dim: width of w.
      map_layers: layers of the mapping.
      channel_base: a level of side s is ``channel_base / s`` wide,
      channel_max: or this, if that is less.
      dtype: compute dtype of the convolutions.

    Call: ``(z, labels, truncation, cutoff, noise)``; see `Mapping`, `truncate` and `StyledConv`. Returns
    (b, size, size, channels) float32. `latents` and `synthesise` are its halves, for ``apply(..., method=...)``.
    Initialise with "const" or any noise; collections ``params``, ``constants`` and ``averages``.
    """

    size: int
    channels: int = 1
    classes: int = 0
    z_dim: int = 512
    w_dim: int = 512
    map_layers: int = 8
    channel_base: int = 16384
    channel_max: int = 512
    dtype: Any = jnp.float32

    def setup(self) -> None:
        for name in ("channels", "z_dim", "w_dim", "map_layers"):
            if getattr(self, name) < 1:
                raise UserError(f"StyleGAN2 generator {name}={getattr(self, name)!r}: must be at least 1")
        self.mapping = Mapping(self.w_dim, self.classes, self.map_layers)
        self.synthesis = Synthesis(self.size, self.channels, self.channel_base, self.channel_max, self.dtype)

    @property
    def styles(self) -> int:
        """Number of styles that the synthesis takes."""
        return style_count(self.size)

    def latents(self, z: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        """Codes (b, z_dim) and labels -> w (b, w_dim); updates ``averages`` where it is mutable."""
        if z.ndim != 2 or z.shape[1] != self.z_dim:
            raise UserError(f"StyleGAN2 codes of shape {z.shape}: expected (batch, {self.z_dim})")
        return self.mapping(z, labels)

    def synthesise(self, ws: jax.Array, noise: str = "random") -> jax.Array:
        """Styles (b, styles, w_dim) -> images (b, size, size, channels) float32."""
        return self.synthesis(ws, noise)

    def __call__(
        self,
        z: jax.Array,
        labels: jax.Array | None = None,
        *,
        truncation: jax.Array | float | None = None,
        cutoff: jax.Array | int | None = None,
        noise: str = "random",
    ) -> jax.Array:
        ws = spread(self.latents(z, labels), self.styles)
        if truncation is not None:
            ws = truncate(ws, self.mapping.get_variable("averages", "w"), truncation, cutoff)
        return self.synthesise(ws, noise)


class Discriminator(nn.Module):
    """Residual blocks down to 4 x 4 pixels, the deviation within groups, and a head.

    With classes, the head's output is projected onto a vector made of the label: the logit is their product over
    the square root of their width (Miyato and Koyama 2018), which is that of the smallest level.

    Attributes:
      size, channels, classes, map_layers, channel_base, channel_max, dtype: as `Generator`'s.
      minibatch_group: consecutive images per group of `minibatch_stddev`; 0 leaves it out.

    Call: images (b, size, size, channels) and labels (`Mapping`) -> logits (b,) float32.
    """

    size: int
    channels: int = 1
    classes: int = 0
    map_layers: int = 8
    channel_base: int = 16384
    channel_max: int = 512
    minibatch_group: int = 4
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array, labels: jax.Array | None = None) -> jax.Array:
        shape = (self.size, self.size, self.channels)
        levels = sides(self.size)
        if images.ndim != 4 or images.shape[1:] != shape:
            raise UserError(f"StyleGAN2 discriminator input of shape {images.shape}: expected (batch, *{shape})")
        widths = {side: channels_at(side, self.channel_base, self.channel_max) for side in levels}
        x = Conv(widths[self.size], 1, dtype=self.dtype, name="from_image")(images)
        for side in reversed(levels[1:]):
            x = ResidualBlock(widths[side // 2], self.dtype, name=f"block_{side}")(x)
        x = x.astype(jnp.float32)
        if self.minibatch_group:
            x = minibatch_stddev(x, self.minibatch_group)
        width = widths[SMALLEST]
        x = Conv(width, 3, name="conv")(x).reshape(len(x), -1)
        x = Dense(width, activate=True, name="hidden")(x)
        if not self.classes:
            if labels is not None:
                raise UserError("StyleGAN2: labels were given to a network without classes")
            return Dense(1, name="out")(x)[:, 0]
        of_label = Mapping(width, self.classes, self.map_layers, averaged=False, name="mapping")(None, labels)
        return jnp.sum(Dense(width, name="out")(x) * of_label, axis=-1) / math.sqrt(width)
