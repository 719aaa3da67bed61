"""The U-Net generator of image-to-image translation (Isola et al. 2017, section 6.1.1)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError
from medgen_jax.nn.blocks import Conv, Norm, UpConv

MIN_DOWNS = 5


def valid_size(size: int, downs: int = 8) -> int:
    """The image side nearest to ``size`` that a U-Net with ``downs`` halvings takes: a multiple of ``2**downs``."""
    step = 2**downs
    return max(1, (size + step // 2) // step) * step


class UNet(nn.Module):
    """Encoder and decoder with a skip connection at every size, down to one pixel or a few.

    Every level halves the size by a 4 x 4 convolution of stride 2, and doubles it again on the way up.
    Widths are ngf, 2 ngf, 4 ngf, then 8 ngf. The first level's convolution and the innermost one have no
    norm. ``downs=8`` is the reference ``unet_256``, ``downs=7`` its ``unet_128``.

    Attributes:
      out_channels: channels of the image made.
      ngf: width of the outermost level.
      downs: number of halvings, at least 5.
      norm: ``batch`` | ``instance`` | ``none``; convolutions have a bias unless it is ``batch``.
      dropout: rate in the ``downs - 5`` decoder levels that follow the innermost one.
      upsample: ``convt`` (4 x 4, the reference) | ``nearest_conv`` (no checkerboard).
      dtype: compute dtype of convolutions and activations.

    Call: ``(x, stats=..., dropout=...)``

    * x: (n, h, w, c) in [-1, 1]; h and w multiples of ``2**downs``.
    * stats: whose statistics the norms use (`medgen_jax.nn.blocks.Norm`).
    * dropout: drop activations; draws from the rng collection ``dropout``.

    Returns (n, h, w, out_channels) float32 in [-1, 1]. Raises `UserError` for a wrong size or channel count.
    """

    out_channels: int
    ngf: int = 64
    downs: int = 8
    norm: str = "batch"
    dropout: float = 0.5
    upsample: str = "convt"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, stats: str = "batch", dropout: bool = False) -> jax.Array:
        self._check(x)
        innermost = self.downs - 1
        bias = self.norm != "batch"

        skips = []
        h = x
        for level in range(self.downs):
            width = self.ngf * min(2**level, 8)
            h = h if level == 0 else nn.leaky_relu(h, 0.2)
            h = Conv(width, 4, 2, 1, use_bias=bias, dtype=self.dtype, name=f"down_{level}")(h)
            if 0 < level < innermost:
                h = Norm(self.norm, dtype=self.dtype, name=f"down_norm_{level}")(h, stats=stats)
            skips.append(h)

        for level in range(innermost, 0, -1):
            width = self.ngf * min(2 ** (level - 1), 8)
            h = self._up(level, width, bias)(nn.relu(h))
            h = Norm(self.norm, dtype=self.dtype, name=f"up_norm_{level}")(h, stats=stats)
            if 4 <= level < innermost:
                h = nn.Dropout(self.dropout, deterministic=not dropout)(h)
            h = jnp.concatenate((skips[level - 1], h), axis=-1)
        h = self._up(0, self.out_channels, True)(nn.relu(h))
        return jnp.tanh(h.astype(jnp.float32))

    def _up(self, level: int, width: int, bias: bool) -> UpConv:
        return UpConv(width, self.upsample, 4, use_bias=bias, dtype=self.dtype, name=f"up_{level}")

    def _check(self, x: jax.Array) -> None:
        if self.downs < MIN_DOWNS:
            raise UserError(f"U-Net with {self.downs} halvings: at least {MIN_DOWNS} are needed")
        if x.ndim != 4:
            raise UserError(f"U-Net input of shape {x.shape}: expected (batch, height, width, channels)")
        height, width = x.shape[1:3]
        step = 2**self.downs
        if height % step or width % step:
            nearest = f"{valid_size(height, self.downs)} x {valid_size(width, self.downs)}"
            raise UserError(
                f"U-Net input of {height} x {width} pixels: {self.downs} halvings need multiples of {step}; "
                f"the nearest valid size is {nearest}"
            )
