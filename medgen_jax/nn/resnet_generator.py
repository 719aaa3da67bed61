"""The residual generator of unpaired translation (Zhu et al. 2017, section 7.1, after Johnson et al. 2016)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError
from medgen_jax.nn.blocks import Conv, Norm, UpConv

#: Sides are halved twice and doubled twice.
STEP = 4
MIN_SIZE = 8


def valid_size(size: int) -> int:
    """The image side nearest to ``size`` that the generator takes."""
    return max(MIN_SIZE, (size + STEP // 2) // STEP * STEP)


class ResidualBlock(nn.Module):
    """Two mirrored 3 x 3 convolutions with norms, added to the input; no activation after the sum.

    Call: ``(x, stats=..., dropout=...)`` (n, h, w, c) -> the same shape.
    """

    norm: str
    dropout: float
    dtype: Any

    @nn.compact
    def __call__(self, x: jax.Array, *, stats: str, dropout: bool) -> jax.Array:
        def half(h: jax.Array, number: int) -> jax.Array:
            bias = self.norm != "batch"
            h = Conv(x.shape[-1], 3, reflect=True, use_bias=bias, dtype=self.dtype, name=f"conv_{number}")(h)
            return Norm(self.norm, dtype=self.dtype, name=f"norm_{number}")(h, stats=stats)

        h = nn.relu(half(x, 0))
        h = nn.Dropout(self.dropout, deterministic=not dropout)(h)
        return x + half(h, 1)


class ResNetGenerator(nn.Module):
    """Two halvings, residual blocks, two doublings, between two mirrored 7 x 7 convolutions.

    Attributes:
      out_channels: channels of the image made.
      ngf: width of the first layer; the blocks have 4 ngf.
      blocks: residual blocks; 9 for images of 256 pixels and more, 6 below, in the paper.
      norm: ``instance`` (the paper) | ``batch`` | ``sample``; convolutions have a bias unless it is ``batch``.
      dropout: rate inside the blocks; the paper has none.
      upsample: ``convt`` (3 x 3, the reference) | ``nearest_conv`` (no checkerboard).
      residual: add the input to the output, which then lies in [-2, 2] (the focus paper).
      dtype: compute dtype of convolutions and activations.

    Call: ``(x, stats=..., dropout=...)``

    * x: (n, h, w, c) in [-1, 1]; h and w multiples of 4, at least 8.
    * stats: whose statistics the norms use (`medgen_jax.nn.blocks.Norm`).
    * dropout: drop activations; draws from the rng collection ``dropout``.

    Returns (n, h, w, out_channels) float32. Raises `UserError` for a wrong size or channel count.
    """

    out_channels: int
    ngf: int = 64
    blocks: int = 9
    norm: str = "instance"
    dropout: float = 0.0
    upsample: str = "convt"
    residual: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, stats: str = "batch", dropout: bool = False) -> jax.Array:
        self._check(x)
        bias = self.norm != "batch"

        def normed(h: jax.Array, name: str) -> jax.Array:
            return nn.relu(Norm(self.norm, dtype=self.dtype, name=f"{name}_norm")(h, stats=stats))

        h = normed(Conv(self.ngf, 7, reflect=True, use_bias=bias, dtype=self.dtype, name="stem")(x), "stem")
        for level in (1, 2):
            h = Conv(self.ngf * 2**level, 3, 2, 1, use_bias=bias, dtype=self.dtype, name=f"down_{level}")(h)
            h = normed(h, f"down_{level}")
        for number in range(self.blocks):
            block = ResidualBlock(self.norm, self.dropout, self.dtype, name=f"block_{number}")
            h = block(h, stats=stats, dropout=dropout)
        for level in (1, 0):
            width = self.ngf * 2**level
            h = UpConv(width, self.upsample, 3, use_bias=bias, dtype=self.dtype, name=f"up_{level}")(h)
            h = normed(h, f"up_{level}")
        h = Conv(self.out_channels, 7, reflect=True, dtype=self.dtype, name="head")(h)
        image = jnp.tanh(h.astype(jnp.float32))
        return image + x.astype(jnp.float32) if self.residual else image

    def _check(self, x: jax.Array) -> None:
        if x.ndim != 4:
            raise UserError(f"ResNet generator input of shape {x.shape}: expected (batch, height, width, channels)")
        height, width, channels = x.shape[1:]
        if height % STEP or width % STEP or min(height, width) < MIN_SIZE:
            raise UserError(
                f"ResNet generator input of {height} x {width} pixels: two halvings need multiples of {STEP} from "
                f"{MIN_SIZE} on; the nearest valid size is {valid_size(height)} x {valid_size(width)}"
            )
        if self.residual and channels != self.out_channels:
            raise UserError(
                f"ResNet generator: adding the input needs equal channels, not {channels} and {self.out_channels}"
            )
