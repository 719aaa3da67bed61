"""What the networks of diffusion models share: blocks and the encoder of Dhariwal and Nichol (2021, appendix A).

Images and activations are (b, h, w, c). Convolutions and activations have the compute dtype; group norms, softmax,
and everything about the time embedding are float32. Kernels start uniform within 1 / sqrt(fan-in), PyTorch's own
start; biases start at 0; the last convolution of every residual block, the last product of every attention and the
network's last layer start at 0, so that every block starts as the identity.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from medgen_jax.core.errors import UserError
from medgen_jax.nn.blocks import Conv, UpConv, sample_moments
from medgen_jax.ops.pool import mean_pool
from medgen_jax.ops.resize import nearest2x

KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
ZEROS = nn.initializers.zeros
EPSILON = 1e-5
LONGEST_PERIOD = 10_000.0
#: Queries whose scores are held at a time.
QUERIES = 1024

HEAD_ORDERS = ("legacy", "new")
RESAMPLES = ("block", "conv", "pool")
#: Widths of the levels of the published networks by image side, as multiples of the first width.
MULTIPLIERS = {
    64: (1, 2, 3, 4),
    128: (1, 1, 2, 3, 4),
    256: (1, 1, 2, 2, 4, 4),
    512: (0.5, 1, 1, 2, 2, 4, 4),
}


def timestep_embedding(t: jax.Array, width: int) -> jax.Array:
    """Cosines, then sines, of ``t`` at ``width / 2`` frequencies from 1 down to nearly 1 / 10,000.

    Args:
      t: (b,) steps, integers or fractions.
      width: even.

    Returns:
      (b, width) float32.
    """
    half = width // 2
    frequencies = np.exp(-math.log(LONGEST_PERIOD) * np.arange(half) / half).astype(np.float32)
    angles = t.astype(jnp.float32)[:, None] * frequencies[None]
    return jnp.concatenate((jnp.cos(angles), jnp.sin(angles)), axis=-1)


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018) with an optional second scale and shift per image.

    Attributes:
      groups: number of groups; where it does not divide the channels, their greatest common divisor.
      dtype: output dtype. Everything else is float32.

    Call: ``(x, scale, shift)`` with x (b, h, w, c) and, if given, scale and shift (b, c) float32:
    ``norm(x) (1 + scale) + shift``, of the shape of x.
    """

    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, scale: jax.Array | None = None, shift: jax.Array | None = None) -> jax.Array:
        batch, channels = x.shape[0], x.shape[-1]
        gain = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)[None]
        bias = self.param("bias", ZEROS, (channels,), jnp.float32)[None]
        if scale is not None and shift is not None:
            gain, bias = gain * (1 + scale), bias * (1 + scale) + shift

        def of_channels(values: jax.Array) -> jax.Array:
            return values.reshape(-1, 1, 1, channels)

        x = x.astype(jnp.float32)
        grouped = (batch, math.gcd(self.groups, channels), -1)
        means, variances = (moment.reshape(grouped) for moment in sample_moments(x))
        mean = jnp.mean(means, axis=-1, keepdims=True)
        variance = jnp.mean(variances + jnp.square(means - mean), axis=-1, keepdims=True)
        mean, factor = (
            jnp.broadcast_to(moment, means.shape).reshape(batch, channels)
            for moment in (mean, lax.rsqrt(variance + EPSILON))
        )
        y = (x - of_channels(mean)) * of_channels(factor * gain) + of_channels(bias)
        return y.astype(self.dtype)


def dense(width: int, dtype: Any, name: str, *, zero: bool = False) -> nn.Dense:
    """A linear layer over the last axis; a 1 x 1 convolution as the matrix product it is."""
    return nn.Dense(width, dtype=dtype, kernel_init=ZEROS if zero else KERNEL_INIT, name=name)


def small_dense(width: int, name: str, *, zero: bool = False) -> nn.Dense:
    """A float32 linear layer of a vector per image, in whole products on every backend."""
    return nn.Dense(width, precision="highest", kernel_init=ZEROS if zero else KERNEL_INIT, name=name)


class ResidualBlock(nn.Module):
    """Norm, SiLU and 3 x 3 convolution, twice, added to the input.

    Attributes:
      width: channels of the output. The input goes through a 1 x 1 convolution where it has others.
      resample: "none"; "up" or "down": the size is doubled or halved in front of the first convolution, and on
        the way of the input.
      film: the embedding scales and shifts the second norm; else it is added in front of it.
      groups: of the norms.
      dropout: rate in front of the second convolution.
      dtype: compute dtype.

    Call: ``(x, embedding, train)``

    * x: (b, h, w, c).
    * embedding: (b, d) float32, behind its SiLU.
    * train: apply dropout; draws from the rng collection ``dropout``.

    Returns (b, h', w', width).
    """

    width: int
    resample: str
    film: bool
    groups: int
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, embedding: jax.Array, train: bool) -> jax.Array:
        h = nn.silu(GroupNorm(self.groups, self.dtype, name="norm_0")(x))
        if self.resample == "up":
            h = UpConv(self.width, "nearest_conv", dtype=self.dtype, kernel_init=KERNEL_INIT, name="conv_0")(h)
            x = nearest2x(x)
        else:
            if self.resample == "down":
                h, x = mean_pool(h), mean_pool(x)
            h = self._conv("conv_0", KERNEL_INIT)(h)

        told = small_dense((1 + self.film) * self.width, "embedding")(embedding)
        norm = GroupNorm(self.groups, self.dtype, name="norm_1")
        if self.film:
            h = norm(h, *jnp.split(told, 2, axis=-1))
        else:
            h = norm(h + told[:, None, None, :].astype(h.dtype))
        h = nn.Dropout(self.dropout, deterministic=not train)(nn.silu(h))
        h = self._conv("conv_1", ZEROS)(h)
        if x.shape[-1] != self.width:
            x = dense(self.width, self.dtype, "shortcut")(x)
        return x + h

    def _conv(self, name: str, init: Any) -> Conv:
        return Conv(self.width, 3, padding=1, dtype=self.dtype, kernel_init=init, name=name)


def attend(query: jax.Array, key: jax.Array, value: jax.Array, queries: int = QUERIES) -> jax.Array:
    """Softmax of the scaled products, times the values: attention (Vaswani et al. 2017 eq. (1)) of every head.

    Query and key are each scaled by the fourth root of their width, which keeps half precision in range; the
    softmax is float32. The scores of at most ``queries`` queries are in memory at a time, beyond which they are
    computed again in the backward pass.

    Args:
      query: (b, n, heads, d).
      key: (b, m, heads, d).
      value: (b, m, heads, e).
      queries: see above.

    Returns:
      (b, n, heads, e).
    """
    scale = query.shape[-1] ** -0.25
    query, key = query * scale, key * scale

    def of(some: jax.Array) -> jax.Array:
        scores = jnp.einsum("bqhd,bkhd->bhqk", some, key, preferred_element_type=jnp.float32)
        return jnp.einsum("bhqk,bkhe->bqhe", jax.nn.softmax(scores).astype(value.dtype), value)

    if query.shape[1] <= queries:
        return of(query)
    of_one = jax.checkpoint(lambda one: of(one[:, None])[:, 0])
    return jnp.moveaxis(lax.map(of_one, jnp.moveaxis(query, 1, 0), batch_size=queries), 0, 1)


def split_heads(qkv: jax.Array, heads: int, order: str) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Query, key and value (b, n, heads, d) from (b, n, 3 heads d).

    Args:
      qkv: their joint projection.
      heads: number of heads.
      order: "legacy": head, then which of the three; "new": which of the three, then head.
    """
    (sizes, which) = ((heads, 3), 3) if order == "legacy" else ((3, heads), 2)
    query, key, value = jnp.moveaxis(qkv.reshape(*qkv.shape[:2], *sizes, -1), which, 0)
    return query, key, value


class AttentionBlock(nn.Module):
    """Self-attention between all pixels, added to the input.

    Attributes:
      heads: number of heads; divides the channels.
      order: how query, key and value lie in their projection, see `split_heads`.
      groups: of the norm.
      dtype: compute dtype.

    Call: (b, h, w, c) -> the same shape.
    """

    heads: int
    order: str
    groups: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        pixels = GroupNorm(self.groups, self.dtype, name="norm")(x).reshape(x.shape[0], -1, channels)
        qkv = dense(3 * channels, self.dtype, "qkv")(pixels)
        mixed = attend(*split_heads(qkv, self.heads, self.order)).reshape(pixels.shape)
        return x + dense(channels, self.dtype, "out", zero=True)(mixed).reshape(x.shape)


class Encoder(nn.Module, kw_only=True):
    """Base of the networks here: the fields that they have in common, their time embedding and their encoder.

    Attributes:
      size: side of the images, pixels; places the attention.
      channels: of the images.
      width: channels of the first level at multiplier 1; even.
      multipliers: width of each level in multiples of ``width``; every level but the first has half the size
        of the one before. `MULTIPLIERS` has those of the published networks.
      blocks: residual blocks per level.
      attention: sides, in pixels, of the levels whose blocks are followed by attention. The middle always has it.
      heads: heads of each attention.
      head_width: channels per head instead; None: ``heads`` counts.
      head_order: "legacy" or "new" (`split_heads`); of two ways to store the same thing.
      film: whether embeddings scale and shift (`ResidualBlock`); else they are added.
      resample: between the levels; "block": inside residual blocks of their own (means, nearest neighbour);
        "conv": a convolution of stride 2, nearest neighbour and a convolution; "pool": means, nearest neighbour.
      groups: of every norm, see `GroupNorm`. With as many groups as channels a norm takes away what an added
        embedding says: such narrow networks need ``film`` or fewer groups.
      dropout: rate inside the residual blocks, while training.
      remat: compute the insides of blocks again in the backward pass instead of keeping them: less memory, about
        a third more time.
      dtype: compute dtype.
    """

    size: int
    channels: int
    width: int = 128
    multipliers: tuple[float, ...] = MULTIPLIERS[256]
    blocks: int = 2
    attention: tuple[int, ...] = (16,)
    heads: int = 1
    head_width: int | None = None
    head_order: str = "legacy"
    film: bool = True
    resample: str = "block"
    groups: int = 32
    dropout: float = 0.0
    remat: bool = False
    dtype: Any = jnp.float32

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(int(multiplier * self.width) for multiplier in self.multipliers)

    @property
    def step(self) -> int:
        """Sides of images must be multiples of this many pixels."""
        return 2 ** (len(self.multipliers) - 1)

    def _embed(self, t: jax.Array) -> jax.Array:
        """Two linear layers over the embedding of the steps, (b,) -> (b, 4 width)."""
        h = small_dense(4 * self.width, "time_0")(timestep_embedding(t, self.width))
        return small_dense(4 * self.width, "time_1")(nn.silu(h))

    def _encode(self, x: jax.Array, embedding: jax.Array, train: bool) -> tuple[jax.Array, list[jax.Array]]:
        """All levels on the way down and the middle.

        Args:
          x: (b, h, w, channels).
          embedding: (b, 4 width), in front of its SiLU.
          train: apply dropout.

        Returns:
          what the middle makes, (b, h / step, w / step, widths[-1]), and what every stage in front of it made.
        """
        embedding = nn.silu(embedding)
        h = Conv(self.widths[0], 3, padding=1, dtype=self.dtype, kernel_init=KERNEL_INIT, name="stem")(x)
        stages = [h]
        for level, width in enumerate(self.widths):
            for number in range(self.blocks):
                h = self._stage(h, embedding, train, level, f"down_{level}_{number}")
                stages.append(h)
            if level < len(self.widths) - 1:
                h = self._halve(h, embedding, train, width, f"down_{level}")
                stages.append(h)
        h = self._residual(self.widths[-1], "middle_0")(h, embedding, train)
        h = self._attention(self.widths[-1], "middle_attention")(h)
        return self._residual(self.widths[-1], "middle_1")(h, embedding, train), stages

    def _stage(self, h: jax.Array, embedding: jax.Array, train: bool, level: int, name: str) -> jax.Array:
        """A residual block and, where the level has it, attention."""
        h = self._residual(self.widths[level], name)(h, embedding, train)
        if self.size // 2**level in self.attention:
            h = self._attention(self.widths[level], f"{name}_attention")(h)
        return h

    def _halve(self, h: jax.Array, embedding: jax.Array, train: bool, width: int, name: str) -> jax.Array:
        if self.resample == "block":
            return self._residual(width, f"{name}_halve", "down")(h, embedding, train)
        if self.resample == "conv":
            halve = Conv(width, 3, 2, 1, dtype=self.dtype, kernel_init=KERNEL_INIT, name=f"{name}_halve")
            return halve(h)
        return mean_pool(h)

    def _double(self, h: jax.Array, embedding: jax.Array, train: bool, width: int, name: str) -> jax.Array:
        if self.resample == "block":
            return self._residual(width, f"{name}_double", "up")(h, embedding, train)
        if self.resample == "conv":
            double = UpConv(width, "nearest_conv", dtype=self.dtype, kernel_init=KERNEL_INIT, name=f"{name}_double")
            return double(h)
        return nearest2x(h)

    def _residual(self, width: int, name: str, resample: str = "none") -> nn.Module:
        kind = nn.remat(ResidualBlock, static_argnums=(3,)) if self.remat else ResidualBlock
        return kind(width, resample, self.film, self.groups, self.dropout, self.dtype, name=name)

    def _attention(self, width: int, name: str) -> nn.Module:
        kind = nn.remat(AttentionBlock) if self.remat else AttentionBlock
        heads = self.heads if self.head_width is None else width // self.head_width
        return kind(heads, self.head_order, self.groups, self.dtype, name=name)

    def _check(self, what: str, x: jax.Array, t: jax.Array) -> None:
        """Raise a UserError for fields that contradict each other or an input that does not fit them."""
        self._check_fields(what)
        if x.ndim != 4 or not x.size or x.shape[-1] != self.channels:
            raise UserError(f"{what} input of shape {x.shape}: expected (batch, height, width, {self.channels})")
        height, width = x.shape[1:3]
        if height % self.step or width % self.step:
            raise UserError(
                f"{what} input of {height} x {width} pixels: {len(self.multipliers)} levels need multiples of "
                f"{self.step}"
            )
        if t.shape != x.shape[:1]:
            raise UserError(f"{what} steps of shape {t.shape}: expected one per image, {x.shape[:1]}")

    def _check_fields(self, what: str) -> None:
        def require(fits: bool, name: str, expected: str) -> None:
            if not fits:
                raise UserError(f"{what} {name}={getattr(self, name)!r}: {expected}")

        for name in ("channels", "blocks", "heads", "groups"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        require(self.width >= 2 and self.width % 2 == 0, "width", "must be even and positive")
        require(len(self.widths) > 0 and min(self.widths) >= 1, "multipliers", "must leave every level a channel")
        require(
            self.size >= self.step and self.size % self.step == 0,
            "size",
            f"{len(self.multipliers)} levels need a multiple of {self.step} pixels",
        )
        require(self.resample in RESAMPLES, "resample", f"expected one of {', '.join(RESAMPLES)}")
        require(self.head_order in HEAD_ORDERS, "head_order", f"expected one of {', '.join(HEAD_ORDERS)}")
        require(0 <= self.dropout < 1, "dropout", "must lie in [0, 1)")
        sides = [self.size // 2**level for level in range(len(self.widths))]
        require(
            set(self.attention) <= set(sides),
            "attention",
            f"images of {self.size} pixels have levels of {', '.join(map(str, sides))} pixels",
        )
        attending = {w for w, side in zip(self.widths, sides, strict=True) if side in self.attention}
        divisor = "heads" if self.head_width is None else "head_width"
        for width in sorted(attending | {self.widths[-1]}):
            require(
                getattr(self, divisor) >= 1 and width % getattr(self, divisor) == 0,
                divisor,
                f"must divide {width}, the channels of a level with attention",
            )
