"""Layers of StyleGAN2 (Karras et al. 2018, 2020): equalised learning rate, modulation, FIR resampling.

Kernels are stored with unit variance and scaled by 1 / sqrt(fan-in) when they are used, so that Adam's step has
the same relative size in every layer. Activations are (b, h, w, c) of the compute dtype; everything about styles
and labels is (b, d) float32.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax

from medgen_jax.core.errors import UserError
from medgen_jax.core.parallel import over_batch
from medgen_jax.ops.conv import conv2d
from medgen_jax.ops.fir import down_conv, up_conv

SLOPE = 0.2
#: Keeps the variance of what a leaky ReLU lets through near that of its input.
GAIN = math.sqrt(2)
EPSILON = 1e-8
NOISES = ("random", "const", "none")
UNIT_NORMAL = nn.initializers.normal(1.0)
ZEROS = nn.initializers.zeros


def leaky(x: jax.Array, gain: float = GAIN) -> jax.Array:
    """Leaky ReLU of slope 0.2 below 0, times ``gain``."""
    return nn.leaky_relu(x, SLOPE) * gain


def unit_moment(x: jax.Array) -> jax.Array:
    """Rows scaled to a mean square of 1, (b, d) -> (b, d)."""
    return x * lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + EPSILON)


class Dense(nn.Module):
    """Linear layer with equalised learning rate, float32 in whole products on every backend.

    Attributes:
      features: width of the output.
      rate: learning rate of this layer relative to the optimiser's.
      bias_init: first value of the bias.
      activate: end with `leaky`.

    Call: (b, in) -> (b, features).
    """

    features: int
    rate: float = 1.0
    bias_init: float = 0.0
    activate: bool = False

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        width = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.normal(1 / self.rate), (width, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.constant(self.bias_init), (self.features,), jnp.float32)
        product = jnp.dot(x.astype(jnp.float32), kernel * (self.rate / math.sqrt(width)), precision="highest")
        y = product + (bias * self.rate)[None]
        return leaky(y) if self.activate else y


def _kernel(module: nn.Module, size: int, channels: int, features: int) -> jax.Array:
    """The parameter ``kernel`` (size, size, channels, features), refusing images of other channels than it had."""
    if module.has_variable("params", "kernel"):
        wanted = module.get_variable("params", "kernel").shape[2]
        if wanted != channels:
            where = "/".join(module.path) or "convolution"
            raise UserError(
                f"{where}: the input has {channels} channel(s), the weights were made for {wanted}; convert the "
                f"images to {wanted} channel(s), or use a network that was trained on {channels}"
            )
    return module.param("kernel", UNIT_NORMAL, (size, size, channels, features), jnp.float32)


def _add_bias(module: nn.Module, y: jax.Array) -> jax.Array:
    bias = module.param("bias", ZEROS, (y.shape[-1],), jnp.float32)
    return y + bias.reshape(1, 1, 1, -1).astype(y.dtype)


class Conv(nn.Module):
    """Convolution with equalised learning rate, of the discriminator.

    Attributes:
      features: output channels.
      kernel: side of the kernel, odd.
      down: halve the size through the FIR filter.
      linear: neither bias nor activation.
      gain: factor of the result, besides that of the activation.
      dtype: compute and output dtype.

    Call: (b, h, w, in) -> (b, h', w', features).
    """

    features: int
    kernel: int
    down: bool = False
    linear: bool = False
    gain: float = 1.0
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        channels = x.shape[-1]
        kernel = _kernel(self, self.kernel, channels, self.features) / math.sqrt(self.kernel**2 * channels)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        y = down_conv(x, kernel) if self.down else conv2d(x, kernel, padding=self.kernel // 2)
        return y * self.gain if self.linear else leaky(_add_bias(self, y), GAIN * self.gain)


class ResidualBlock(nn.Module):
    """Two convolutions, of which the second halves the size, added to a linear way round them, over sqrt 2.

    Attributes:
      features: output channels.
      dtype: compute dtype.

    Call: (b, h, w, in) -> (b, h / 2, w / 2, features).
    """

    features: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        half = math.sqrt(0.5)
        skip = Conv(self.features, 1, down=True, linear=True, gain=half, dtype=self.dtype, name="skip")(x)
        h = Conv(x.shape[-1], 3, dtype=self.dtype, name="conv_0")(x)
        return skip + Conv(self.features, 3, down=True, gain=half, dtype=self.dtype, name="conv_1")(h)


def modulated_conv(
    x: jax.Array, kernel: jax.Array, style: jax.Array, *, demodulate: bool = True, up: bool = False
) -> jax.Array:
    """Convolution of each image by its own kernel ``kernel * style``, normalised: Karras et al. 2020, section 2.2.

    The style scales the input channels, and ``1 / sqrt(sum (kernel style)^2 + 1e-8)`` over all that an output
    channel sums up scales that channel: the same as kernels per sample, whose grouped convolution is an order of
    magnitude slower on XLA:CPU.

    Args:
      x: (b, h, w, in).
      kernel: (k, k, in, out) float32, k odd.
      style: (b, in) float32.
      demodulate: normalise.
      up: double the size by a transposed convolution and the FIR filter (`medgen_jax.ops.fir.up_conv`); k is 3.

    Returns:
      (b, h, w, out), or twice as high and wide, of the dtype of ``x``.
    """
    scaled, shared = x * style[:, None, None, :].astype(x.dtype), kernel.astype(x.dtype)
    y = up_conv(scaled, shared) if up else conv2d(scaled, shared, padding=kernel.shape[0] // 2)
    if not demodulate:
        return y
    power = jnp.dot(jnp.square(style), jnp.sum(jnp.square(kernel), axis=(0, 1)), precision="highest")
    return y * lax.rsqrt(power + EPSILON)[:, None, None, :].astype(y.dtype)


class StyledConv(nn.Module):
    """Modulated 3 x 3 convolution, noise, bias and leaky ReLU.

    The kernel is not scaled by its fan-in: demodulation takes any scale away.

    Attributes:
      features: output channels.
      up: double the size.
      dtype: compute dtype.

    Call: ``(x, w, noise)`` with x (b, h, w, in), w (b, w_dim) float32 and noise one of `NOISES`: "random" draws a
    standard normal image per sample from the rng collection ``noise``; "const" takes the one that was drawn when
    the network was initialised, from the collection ``constants``; "none" adds none.

    Returns (b, h', w', features).
    """

    features: int
    up: bool
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array, noise: str) -> jax.Array:
        if noise not in NOISES:
            raise UserError(f"noise {noise!r}: expected one of {', '.join(NOISES)}")
        channels = x.shape[-1]
        style = Dense(channels, bias_init=1.0, name="style")(w)
        kernel = _kernel(self, 3, channels, self.features)
        y = modulated_conv(x.astype(self.dtype), kernel, style, up=self.up)
        strength = self.param("noise_strength", ZEROS, (), jnp.float32)
        const = self.variable("constants", "noise", self._draw, (y.shape[1], y.shape[2]))
        if noise == "random" and not self.is_initializing():
            drawn = over_batch(jax.random.normal(self.make_rng("noise"), (*y.shape[:3], 1), jnp.float32))
            y = y + (drawn * strength).astype(y.dtype)
        elif noise == "const":
            y = y + (const.value * strength)[None, :, :, None].astype(y.dtype)
        return leaky(_add_bias(self, y))

    def _draw(self, shape: tuple[int, int]) -> jax.Array:
        return jax.random.normal(self.make_rng("params"), shape, jnp.float32)


class ToImage(nn.Module):
    """Modulated 1 x 1 convolution to the channels of the image, without demodulation or activation.

    Attributes:
      channels: of the image.
      dtype: compute dtype.

    Call: x (b, h, w, in) and w (b, w_dim) float32 -> (b, h, w, channels) float32.
    """

    channels: int
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, w: jax.Array) -> jax.Array:
        width = x.shape[-1]
        style = Dense(width, bias_init=1.0, name="style")(w) / math.sqrt(width)
        kernel = _kernel(self, 1, width, self.channels)
        y = modulated_conv(x.astype(self.dtype), kernel, style, demodulate=False)
        return _add_bias(self, y.astype(jnp.float32))


def minibatch_stddev(x: jax.Array, group: int) -> jax.Array:
    """Append one channel that says how much the images of a group differ (Karras et al. 2018, section 3).

    Groups are consecutive images, which a batch split over devices in multiples of the group does not tear apart.
    The published code takes every (b / group)-th image instead: the same statistic of another order of the batch.

    Args:
      x: (b, h, w, c).
      group: images per group; a smaller batch is one group.

    Returns:
      (b, h, w, c + 1) of the dtype of ``x``: the deviation over each group, ``sqrt(variance + 1e-8)``, averaged
      over pixels and channels, in float32.

    Raises:
      UserError: the group does not divide the batch.
    """
    batch, height, width, channels = x.shape
    group = min(group, batch)
    if group < 1 or batch % group:
        raise UserError(f"batch of {batch} images: minibatch_group={group} must divide it")
    grouped = x.astype(jnp.float32).reshape(batch // group, group, height, width, channels)
    distance = grouped - jnp.mean(grouped, axis=1, keepdims=True)
    deviation = jnp.sqrt(jnp.mean(jnp.square(distance), axis=1) + EPSILON)
    of_group = jnp.repeat(jnp.mean(deviation, axis=(1, 2, 3)), group)
    plane = jnp.broadcast_to(of_group[:, None, None, None], (batch, height, width, 1))
    return jnp.concatenate((x, plane.astype(x.dtype)), axis=-1)
