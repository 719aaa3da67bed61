"""The patch discriminator of image-to-image translation (Isola et al. 2017, section 6.1.2)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError
from medgen_jax.nn.blocks import Conv, Norm


class PatchGAN(nn.Module):
    """Judges overlapping patches of an image; three layers see patches of 70 x 70 pixels.

    ``layers`` 4 x 4 convolutions of stride 2 and two of stride 1, all with one pixel of zero padding;
    LeakyReLU 0.2 between them and a norm on all but the first and the last.

    Attributes:
      ndf: width of the first layer; it doubles per layer up to 8 ndf.
      layers: number of halvings, at least 1.
      norm: ``batch`` | ``instance`` | ``none``; a convolution before a batch norm has no bias.
      dtype: compute dtype of convolutions and activations.

    Call: ``(x, stats=...)`` with x (n, h, w, c) in [-1, 1] (a conditional discriminator gets the images
    concatenated by channel) -> logits (n, h', w', 1) float32, ``h' = h / 2**layers - 2``: 30 x 30 for 256 pixels
    and three layers. ``stats`` as in `medgen_jax.nn.blocks.Norm`. Raises `UserError` for an image
    too small to give a logit, or a wrong channel count.
    """

    ndf: int = 64
    layers: int = 3
    norm: str = "batch"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, stats: str = "batch") -> jax.Array:
        self._check(x)
        h = nn.leaky_relu(self._conv(0, self.ndf, 2, True)(x), 0.2)
        for layer in range(1, self.layers + 1):
            stride = 2 if layer < self.layers else 1
            h = self._conv(layer, self.ndf * min(2**layer, 8), stride, self.norm != "batch")(h)
            h = Norm(self.norm, dtype=self.dtype, name=f"norm_{layer}")(h, stats=stats)
            h = nn.leaky_relu(h, 0.2)
        return self._conv(self.layers + 1, 1, 1, True)(h).astype(jnp.float32)

    def _conv(self, layer: int, width: int, stride: int, bias: bool) -> Conv:
        return Conv(width, 4, stride, 1, use_bias=bias, dtype=self.dtype, name=f"conv_{layer}")

    def _check(self, x: jax.Array) -> None:
        if self.layers < 1:
            raise UserError(f"PatchGAN with {self.layers} layers: at least 1 is needed")
        if x.ndim != 4:
            raise UserError(f"PatchGAN input of shape {x.shape}: expected (batch, height, width, channels)")
        smallest = 3 * 2**self.layers
        if min(x.shape[1:3]) < smallest:
            height, width = x.shape[1:3]
            raise UserError(
                f"PatchGAN input of {height} x {width} pixels: {self.layers} layers need at least {smallest}"
            )
