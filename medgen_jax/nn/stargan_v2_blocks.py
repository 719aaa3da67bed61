"""What the networks of StarGAN v2 share: residual blocks, adaptive norms, sizes (Choi et al. 2020, appendix E).

Images and activations are (n, h, w, c). Convolutions and activations have the compute dtype; norms and linear layers
are float32. Kernels start normal with variance 2 / fan-in (He et al. 2015), biases at 0, norms as the identity. The
sum of two branches of unit variance is divided by the square root of 2, which keeps the variance.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from medgen_jax.core.errors import UserError
from medgen_jax.nn.blocks import Conv, UpConv, sample_moments
from medgen_jax.ops.conv import conv_mean2x
from medgen_jax.ops.filters import correlate
from medgen_jax.ops.pool import mean_pool
from medgen_jax.ops.resize import nearest2x

KERNEL_INIT = nn.initializers.variance_scaling(2.0, "fan_in", "normal")
EPSILON = 1e-5
SLOPE = 0.2  # of LeakyReLU, everywhere
#: Width of the first layer times the image side.
WIDTH_TIMES_SIZE = 2**14
SMALLEST_SIZE = 16
_HALF = math.sqrt(0.5)


def activate(x: jax.Array) -> jax.Array:
    """LeakyReLU with slope 0.2."""
    return nn.leaky_relu(x, SLOPE)


def conv3(width: int, dtype: Any, name: str) -> Conv:
    """A 3 x 3 convolution that keeps the size."""
    return Conv(width, 3, padding=1, dtype=dtype, kernel_init=KERNEL_INIT, name=name)


def dense(width: int, name: str) -> nn.Dense:
    """A float32 linear layer of a vector per image, in whole products on every backend."""
    return nn.Dense(width, precision="highest", kernel_init=KERNEL_INIT, name=name)


class MeanConv(Conv):
    """A zero-padded 3 x 3 convolution that halves the size by means of 2 x 2 pixels; fields as in `Conv`.

    Call: (n, h, w, in) -> (n, h / 2, w / 2, features).
    """

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        kernel, bias = self.weights(x, 3)
        return self.add_bias(conv_mean2x(x.astype(self.dtype), kernel), bias)


def high_pass(x: jax.Array) -> jax.Array:
    """Nine times every pixel less the sum of the 3 x 3 around it, zeros outside; (n, h, w, c) float32."""
    x = x.astype(jnp.float32)
    sums = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for axis in (1, 2):
        sums = correlate(sums, [1.0, 1.0, 1.0], axis)
    return 9 * x - sums


def normalise(x: jax.Array) -> jax.Array:
    """Every channel of every image to mean 0 and variance 1 over its pixels, float32."""
    x = x.astype(jnp.float32)
    mean, var = sample_moments(x)
    return (x - mean) * lax.rsqrt(var + EPSILON)


class InstanceNorm(nn.Module):
    """Instance normalisation with a learned scale and bias per channel; the output has ``dtype``."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],), jnp.float32)
        return (normalise(x) * scale[None, None, None] + bias[None, None, None]).astype(self.dtype)


class AdaptiveNorm(nn.Module):
    """Instance normalisation whose scale and bias a style tells (AdaIN, Huang and Belongie 2017).

    Call: ``(x, style)`` with x (n, h, w, c), style (n, s) -> ``(1 + scale) normalised + bias``, the shape of x.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, style: jax.Array) -> jax.Array:
        told = dense(2 * x.shape[-1], "told")(style.astype(jnp.float32))
        scale, bias = jnp.split(told[:, None, None], 2, axis=-1)
        return (normalise(x) * (1 + scale) + bias).astype(self.dtype)


class ResBlock(nn.Module):
    """Norm, LeakyReLU and 3 x 3 convolution, twice, added to the input.

    Attributes:
      width: channels of the output. The input goes through a 1 x 1 convolution without bias where it has others.
      halve: halve the size by means of 2 x 2 pixels, behind the first convolution and on the way of the input.
      norm: normalise in front of both activations.
      dtype: compute dtype.

    Call: (n, h, w, c) -> (n, h, w, width), or half as high and wide.
    """

    width: int
    halve: bool = False
    norm: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        first = MeanConv if self.halve else Conv
        h = activate(self._normalised(x, "norm_1"))
        h = first(x.shape[-1], 3, padding=1, dtype=self.dtype, kernel_init=KERNEL_INIT, name="conv_1")(h)
        h = activate(self._normalised(h, "norm_2"))
        h = conv3(self.width, self.dtype, "conv_2")(h)
        return (self._input(x.astype(self.dtype)) + h) * _HALF

    def _normalised(self, x: jax.Array, name: str) -> jax.Array:
        return InstanceNorm(self.dtype, name=name)(x) if self.norm else x

    def _input(self, x: jax.Array) -> jax.Array:
        x = mean_pool(x) if self.halve else x
        return shortcut(x, self.width, self.dtype)


class AdaptiveBlock(nn.Module):
    """Adaptive norm, LeakyReLU and 3 x 3 convolution, twice; added to the input or not.

    Attributes:
      width: channels of the output.
      double: double the size by nearest neighbour, in front of the first convolution and on the way of the input.
      residual: add the input; where high-pass skips carry the detail it is not added, and the 1 x 1 convolution that
        would fit its channels has weights without effect.
      dtype: compute dtype.

    Call: ``(x, style)`` with x (n, h, w, c), style (n, s) -> (n, h, w, width), or twice as high and wide.
    """

    width: int
    double: bool = False
    residual: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, style: jax.Array) -> jax.Array:
        h = activate(AdaptiveNorm(self.dtype, name="norm_1")(x, style))
        if self.double:
            up = UpConv(self.width, "nearest_conv", dtype=self.dtype, kernel_init=KERNEL_INIT, name="conv_1")
            h = up(h)
        else:
            h = conv3(self.width, self.dtype, "conv_1")(h)
        h = activate(AdaptiveNorm(self.dtype, name="norm_2")(h, style))
        h = conv3(self.width, self.dtype, "conv_2")(h)
        straight = shortcut(x.astype(self.dtype), self.width, self.dtype)
        if not self.residual:
            return h
        return (h + (nearest2x(straight) if self.double else straight)) * _HALF


def shortcut(x: jax.Array, width: int, dtype: Any) -> jax.Array:
    """The input with ``width`` channels, by a 1 x 1 convolution without bias if it has others; inside a module."""
    if x.shape[-1] == width:
        return x
    return Conv(width, 1, use_bias=False, dtype=dtype, kernel_init=KERNEL_INIT, name="shortcut")(x)


def halvings(size: int, smallest: int) -> int:
    """How often ``size`` must be halved to become ``smallest``; both powers of 2."""
    return size.bit_length() - smallest.bit_length()


class Sized(nn.Module, kw_only=True):
    """Base of the networks that see images: the fields that they have in common.

    Attributes:
      size: side of the images, pixels: a power of 2, at least 16.
      channels: of the images.
      width: channels of the first layer; None: 2^14 / ``size``, 64 at 256 pixels.
      max_width: what the width doubles up to from level to level. It does not bound the first layer.
      dtype: compute dtype.
    """

    size: int = 256
    channels: int = 3
    width: int | None = None
    max_width: int = 512
    dtype: Any = jnp.float32

    def widths(self, levels: int) -> tuple[int, ...]:
        """Channels of the first layer and behind each of ``levels`` blocks."""
        found = [WIDTH_TIMES_SIZE // self.size if self.width is None else self.width]
        for _ in range(levels):
            found.append(min(2 * found[-1], self.max_width))
        return tuple(found)

    def _trunk(self, x: jax.Array) -> jax.Array:
        """Blocks without norms down to 4 x 4 pixels and a convolution over those, (n, 1, 1, c); for a compact call."""
        widths = self.widths(halvings(self.size, 4))
        h = conv3(widths[0], self.dtype, "stem")(x)
        for number, width in enumerate(widths[1:]):
            h = ResBlock(width, halve=True, dtype=self.dtype, name=f"block_{number}")(h)
        h = Conv(widths[-1], 4, dtype=self.dtype, kernel_init=KERNEL_INIT, name="join")(activate(h))
        return activate(h)

    def _check(self, what: str, x: jax.Array) -> None:
        """Raise a UserError for fields out of range or images that do not fit them."""

        def require(fits: bool, name: str, expected: str) -> None:
            if not fits:
                raise UserError(f"{what} {name}={getattr(self, name)!r}: {expected}")

        require(
            self.size >= SMALLEST_SIZE and self.size & (self.size - 1) == 0,
            "size",
            f"must be a power of 2, at least {SMALLEST_SIZE}",
        )
        for name in ("channels", "max_width"):
            require(getattr(self, name) >= 1, name, "must be at least 1")
        require(self.widths(0)[0] >= 1, "width", f"must be at least 1; by itself it is {WIDTH_TIMES_SIZE} / size")
        wanted = (self.size, self.size, self.channels)
        if x.ndim != 4 or not x.size or x.shape[1:] != wanted:
            raise UserError(f"{what} input of shape {x.shape}: expected (batch, {', '.join(map(str, wanted))})")


def check_vectors(what: str, name: str, vectors: jax.Array, count: int) -> None:
    """Raise a UserError unless there is one vector per image."""
    if vectors.ndim != 2 or vectors.shape[0] != count or not vectors.shape[1]:
        raise UserError(f"{what} {name} of shape {vectors.shape}: expected one vector per image, ({count}, length)")


def check_domains(what: str, domains: int, domain: jax.Array, count: int) -> None:
    """Raise a UserError unless there is at least one domain and an integer per image that names one."""
    if domains < 1:
        raise UserError(f"{what} domains={domains}: must be at least 1")
    if domain.shape != (count,) or not jnp.issubdtype(domain.dtype, jnp.integer):
        raise UserError(
            f"{what} domain is {domain.dtype} of shape {domain.shape}; expected one integer per image, ({count},)"
        )


def pick(rows: jax.Array, domain: jax.Array) -> jax.Array:
    """What each image's own domain says: rows (n, domains, ...), domain (n,) from 0 -> (n, ...).

    A number beyond the domains is taken for the nearest of them; the caller answers for their range.
    """
    index = jnp.clip(domain, 0, rows.shape[1] - 1).reshape(-1, *[1] * (rows.ndim - 1))
    return jnp.take_along_axis(rows, index, axis=1)[:, 0]
