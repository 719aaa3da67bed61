"""Generator and discriminator of fully connected layers, as in the first GAN (Goodfellow et al. 2014, section 5).

That paper gives no sizes. The defaults are the customary ones: 100 - 128 - 256 - 512 - 1024 - pixels, and the way back.
"""

from __future__ import annotations

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from medgen_jax.core.errors import UserError
from medgen_jax.nn.blocks import Norm
from medgen_jax.nn.initialisers import kernel_init, scale_init

WIDTHS = (128, 256, 512, 1024)


class MLPGenerator(nn.Module):
    """Makes all pixels of an image at once.

    LeakyReLU 0.2 after every hidden layer, batch norm before it in all but the first (whose layers have no bias then),
    tanh at the end.

    Attributes:
      shape: (height, width, channels) of the images, any.
      widths: of the hidden layers, from the code outwards.
      initial: one of `medgen_jax.nn.initialisers.INITS`.
      dtype: compute dtype of layers and activations.

    Call: ``(z, stats=...)`` with z (n, latent), N(0, 1) -> (n, *shape) in [-1, 1], float32. ``stats`` as in
    `medgen_jax.nn.blocks.Norm`.
    """

    shape: tuple[int, int, int]
    widths: tuple[int, ...] = WIDTHS
    initial: str = "uniform"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, z: jax.Array, *, stats: str = "batch") -> jax.Array:
        h = z
        for number, width in enumerate(self.widths, 1):
            h = self._layer(number, width, use_bias=number == 1)(h)
            if number > 1:
                norm = Norm("batch", dtype=self.dtype, scale_init=scale_init(self.initial), name=f"norm_{number}")
                h = norm(h[:, None, None, :], stats=stats)[:, 0, 0, :]
            h = nn.leaky_relu(h, 0.2)
        h = self._layer(len(self.widths) + 1, math.prod(self.shape), use_bias=True)(h)
        return jnp.tanh(h.astype(jnp.float32)).reshape(-1, *self.shape)

    def _layer(self, number: int, width: int, use_bias: bool) -> nn.Dense:
        kernel = kernel_init(self.initial)
        return nn.Dense(width, use_bias=use_bias, dtype=self.dtype, kernel_init=kernel, name=f"dense_{number}")


class MLPDiscriminator(nn.Module):
    """Judges all pixels of an image at once: the generator's widths backwards, LeakyReLU 0.2, no norm.

    Attributes:
      widths: of the hidden layers, from the judgement outwards, as the generator counts them.
      initial: one of `medgen_jax.nn.initialisers.INITS`.
      dtype: compute dtype of layers and activations.

    Call: ``(x, stats=...)`` with x (n, h, w, c) in [-1, 1] -> logits (n,) float32, without a sigmoid. There are no
    statistics: ``stats`` is taken so that discriminators are called alike. Raises `UserError` for another rank.
    """

    widths: tuple[int, ...] = WIDTHS
    initial: str = "uniform"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, stats: str = "batch") -> jax.Array:
        if x.ndim != 4:
            raise UserError(f"discriminator input of shape {x.shape}: expected (batch, height, width, channels)")
        h = x.reshape(x.shape[0], -1)
        for number, width in enumerate(reversed(self.widths), 1):
            h = nn.leaky_relu(self._layer(number, width)(h), 0.2)
        return self._layer(len(self.widths) + 1, 1)(h).astype(jnp.float32)[:, 0]

    def _layer(self, number: int, width: int) -> nn.Dense:
        return nn.Dense(width, dtype=self.dtype, kernel_init=kernel_init(self.initial), name=f"dense_{number}")
