"""The deep convolutional generator and discriminator of Radford et al. 2016 (section 3 and figure 1)."""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError
from medgen_jax.nn.blocks import Conv, Norm, UpConv
from medgen_jax.nn.initialisers import kernel_init, scale_init

#: Side of the image that the first layer makes of a code, and the last one judges.
CORE = 4
#: Widths double from the image inwards, up to this many times that of the outermost layer.
WIDEST = 8


def valid_size(size: int) -> int:
    """The side, 4 * 2^k pixels with k >= 1, that is nearest to ``size``."""
    doublings = max(1, round(math.log2(max(size, 1) / CORE)))
    return CORE * 2**doublings


def widths(size: int, base: int) -> tuple[int, ...]:
    """Channels at the sides size / 2, size / 4, ..., 4: ``base``, twice that, ..., at most 8 times.

    Raises:
      UserError: a size that is not 4 * 2^k with k >= 1.
    """
    if size != valid_size(size):
        raise UserError(f"DCGAN of {size} pixels: sides are 4 * 2^k, at least 8; the nearest is {valid_size(size)}")
    return tuple(base * min(2**level, WIDEST) for level in range(int(math.log2(size // CORE))))


class FromLatent(nn.Module):
    """A code becomes an image of 4 x 4 pixels: the transposed convolution of one pixel.

    Attributes:
      features: output channels.
      initial: one of `medgen_jax.nn.initialisers.INITS`.
      dtype: compute and output dtype.

    Call: (n, latent) -> (n, 4, 4, features).
    """

    features: int
    initial: str = "uniform"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array) -> jax.Array:
        shape = (CORE, CORE, z.shape[-1], self.features)
        kernel = self.param("kernel", kernel_init(self.initial, transposed=True), shape, jnp.float32)
        return jnp.einsum("ni,hwio->nhwo", z.astype(self.dtype), kernel.astype(self.dtype))


class DCGANGenerator(nn.Module):
    """Makes images of codes by transposed 4 x 4 convolutions, each of which doubles the size.

    No layer has a bias; batch norm and ReLU follow all but the last, tanh that one. With 64 pixels, 3 channels and
    the default widths: 100 -> 512 -> 256 -> 128 -> 64 -> 3. Larger images get further layers of 8 ngf channels.

    Attributes:
      size: side of the images, 4 * 2^k pixels with k >= 1.
      channels: of the images.
      ngf: width of the last hidden layer.
      initial: one of `medgen_jax.nn.initialisers.INITS`.
      dtype: compute dtype of convolutions and activations.

    Call: ``(z, stats=...)`` with z (n, latent), N(0, 1) -> (n, size, size, channels) in [-1, 1], float32. ``stats`` as
    in `medgen_jax.nn.blocks.Norm`. Raises `UserError` for another size.
    """

    size: int = 64
    channels: int = 3
    ngf: int = 64
    initial: str = "uniform"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, *, stats: str = "batch") -> jax.Array:
        inner, *outer = reversed(widths(self.size, self.ngf))
        h = FromLatent(inner, self.initial, self.dtype, name="conv_1")(z)
        for number, width in enumerate((*outer, self.channels), 2):
            norm = Norm("batch", dtype=self.dtype, scale_init=scale_init(self.initial), name=f"norm_{number - 1}")
            h = nn.relu(norm(h, stats=stats))
            kernel = kernel_init(self.initial, transposed=True)
            h = UpConv(width, use_bias=False, dtype=self.dtype, kernel_init=kernel, name=f"conv_{number}")(h)
        return jnp.tanh(h.astype(jnp.float32))


class DCGANDiscriminator(nn.Module):
    """Judges whole images by 4 x 4 convolutions of stride 2 down to 4 x 4 pixels, and one more over all of these.

    No layer has a bias; LeakyReLU 0.2 follows all but the last, batch norm all but the first and the last.

    Attributes:
      ndf: width of the first layer; it doubles per layer up to 8 ndf.
      initial: one of `medgen_jax.nn.initialisers.INITS`.
      dtype: compute dtype of convolutions and activations.

    Call: ``(x, stats=...)`` with x (n, h, h, c) in [-1, 1], h = 4 * 2^k -> logits (n,) float32, without the sigmoid.
    ``stats`` as in `medgen_jax.nn.blocks.Norm`. Raises `UserError` for images of another shape.
    """

    ndf: int = 64
    initial: str = "uniform"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, stats: str = "batch") -> jax.Array:
        if x.ndim != 4 or x.shape[1] != x.shape[2]:
            raise UserError(f"DCGAN input of shape {x.shape}: expected square images (batch, side, side, channels)")
        h = x
        for number, width in enumerate(widths(x.shape[1], self.ndf), 1):
            h = self._conv(number, width, 2, 1)(h)
            if number > 1:
                scale = scale_init(self.initial)
                h = Norm("batch", dtype=self.dtype, scale_init=scale, name=f"norm_{number}")(h, stats=stats)
            h = nn.leaky_relu(h, 0.2)
        return self._conv(number + 1, 1, 1, 0)(h).astype(jnp.float32)[:, 0, 0, 0]

    def _conv(self, number: int, width: int, stride: int, padding: int) -> Conv:
        kernel = kernel_init(self.initial)
        return Conv(
            width, 4, stride, padding, use_bias=False, dtype=self.dtype, kernel_init=kernel, name=f"conv_{number}"
        )
