"""Inception-v3 as FID, KID and their kin use it: 2048 features of an image.

The network is that of Szegedy, Vanhoucke, Ioffe, Shlens and Wojna (CVPR 2016) as TensorFlow released
it on 2015-12-05, up to its last average pooling. It differs from later releases in its weights, in
averages that leave out the padding, and in a maximum where the last block would have an average.

Inference only. Its 94 batch norms (gamma 1, epsilon 1e-3) are folded into the kernels and biases when
the weights are read, by `medgen_jax.interop.inception_layout`.

Two rewritings, both exact but for rounding: the 3 x 3 averages in front of 1 x 1 convolutions are taken
behind them, where there are a quarter or less of the channels; and 3 x 3 windows are pooled as three
rows, then three columns.

Features of different libraries differ because they resize and scale differently before the network:
`PROTOCOLS`. Numbers may be compared within one protocol only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from medgen_jax.core.errors import UserError
from medgen_jax.core.precision import whole_products
from medgen_jax.core.types import Features, Image
from medgen_jax.ops.conv import conv2d
from medgen_jax.ops.pool import max_pool, pool
from medgen_jax.ops.resize import resize as resize_images

SIZE = 299  # pixels, side of the input
WIDTH = 2048  # numbers per image
SMALLEST = 75  # pixels; below, a layer's output has no pixel left


def _border(x: jax.Array, value: float) -> jax.Array:
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), constant_values=value)


def max3(x: jax.Array) -> jax.Array:
    """Maximum of the 3 x 3 neighbourhood, (b, h, w, c) -> the same."""
    return max_pool(_border(x, -jnp.inf), 3, stride=1)


def mean3(x: jax.Array) -> jax.Array:
    """Mean of those of the 3 x 3 neighbours that lie inside, (b, h, w, c) -> the same."""
    rows, columns = (3.0 - (np.arange(n) == 0) - (np.arange(n) == n - 1) for n in x.shape[1:3])
    share = jnp.asarray(1 / np.outer(rows, columns), x.dtype)[None, :, :, None]
    return pool(_border(x, 0), 3, 1, jnp.add) * share


def _convolve(x: jax.Array, kernel: jax.Array, stride: int, padded: bool) -> jax.Array:
    height, width = kernel.shape[:2]
    if height == width == 1:  # as a matrix product XLA:CPU runs it 1.5 times faster
        return lax.dot_general(x, kernel[0, 0], (((3,), (0,)), ((), ())))
    if padded:
        return conv2d(x, kernel, stride=stride, padding=((height // 2,) * 2, (width // 2,) * 2))
    # Without any padding XLA:CPU would leave its fast path: one column of zeros, and what it adds is cut.
    columns = (x.shape[2] - width) // stride + 1
    return conv2d(x, kernel, stride=stride, padding=((0, 0), (0, 1)))[:, :, :columns]


class Unit(nn.Module):
    """Convolution with its folded batch norm, then ReLU.

    Attributes:
      features: output channels.
      kernel: height and width.
      stride: step in both directions.
      padded: zeros keep the size; otherwise only whole windows count.
      averaged: `mean3` in front of the ReLU.
      dtype: compute and output dtype.

    Call: (b, h, w, in) -> (b, h', w', features).
    """

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padded: bool = True
    averaged: bool = False
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        shape = (*self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.he_normal(), shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        y = _convolve(x, kernel.astype(self.dtype), self.stride, self.padded)
        if self.averaged:
            y = mean3(y)
        return nn.relu(y + bias.astype(self.dtype).reshape(1, 1, 1, -1))


class _Block(nn.Module):
    """What the blocks share: a dtype, and makers of units named as in the weight files."""

    dtype: Any = jnp.float32

    def unit(self, name: str, features: int, kernel: tuple[int, int] = (1, 1), **options: Any) -> Unit:
        return Unit(features, kernel, dtype=self.dtype, name=name, **options)


class MixedA(_Block):
    """35 x 35: 1 x 1, 5 x 5 and double 3 x 3 convolutions, and an average of ``pooled`` channels."""

    pooled: int = 64

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        five = self.unit("branch5x5_1", 48)(x)
        five = self.unit("branch5x5_2", 64, (5, 5))(five)
        three = self.unit("branch3x3dbl_1", 64)(x)
        three = self.unit("branch3x3dbl_2", 96, (3, 3))(three)
        three = self.unit("branch3x3dbl_3", 96, (3, 3))(three)
        one, pool = self.unit("branch1x1", 64)(x), self.unit("branch_pool", self.pooled, averaged=True)(x)
        return jnp.concatenate((one, five, three, pool), axis=-1)


class MixedB(_Block):
    """35 x 35 -> 17 x 17."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = self.unit("branch3x3", 384, (3, 3), stride=2, padded=False)(x)
        double = self.unit("branch3x3dbl_1", 64)(x)
        double = self.unit("branch3x3dbl_2", 96, (3, 3))(double)
        double = self.unit("branch3x3dbl_3", 96, (3, 3), stride=2, padded=False)(double)
        return jnp.concatenate((three, double, max_pool(x, 3)), axis=-1)


class MixedC(_Block):
    """17 x 17: 7 x 7 convolutions as rows and columns, ``middle`` channels between them."""

    middle: int = 128

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        row, column = (1, 7), (7, 1)
        once = self.unit("branch7x7_1", self.middle)(x)
        once = self.unit("branch7x7_2", self.middle, row)(once)
        once = self.unit("branch7x7_3", 192, column)(once)
        twice = self.unit("branch7x7dbl_1", self.middle)(x)
        twice = self.unit("branch7x7dbl_2", self.middle, column)(twice)
        twice = self.unit("branch7x7dbl_3", self.middle, row)(twice)
        twice = self.unit("branch7x7dbl_4", self.middle, column)(twice)
        twice = self.unit("branch7x7dbl_5", 192, row)(twice)
        one, pool = self.unit("branch1x1", 192)(x), self.unit("branch_pool", 192, averaged=True)(x)
        return jnp.concatenate((one, once, twice, pool), axis=-1)


class MixedD(_Block):
    """17 x 17 -> 8 x 8."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        three = self.unit("branch3x3_1", 192)(x)
        three = self.unit("branch3x3_2", 320, (3, 3), stride=2, padded=False)(three)
        seven = self.unit("branch7x7x3_1", 192)(x)
        seven = self.unit("branch7x7x3_2", 192, (1, 7))(seven)
        seven = self.unit("branch7x7x3_3", 192, (7, 1))(seven)
        seven = self.unit("branch7x7x3_4", 192, (3, 3), stride=2, padded=False)(seven)
        return jnp.concatenate((three, seven, max_pool(x, 3)), axis=-1)


class MixedE(_Block):
    """8 x 8: branches that end in a row and a column side by side; ``pool`` is ``mean`` or ``max``."""

    pool: str = "mean"

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        row, column = (1, 3), (3, 1)
        once = self.unit("branch3x3_1", 384)(x)
        twice = self.unit("branch3x3dbl_1", 448)(x)
        twice = self.unit("branch3x3dbl_2", 384, (3, 3))(twice)
        ends = (
            self.unit("branch3x3_2a", 384, row)(once),
            self.unit("branch3x3_2b", 384, column)(once),
            self.unit("branch3x3dbl_3a", 384, row)(twice),
            self.unit("branch3x3dbl_3b", 384, column)(twice),
        )
        if self.pool == "mean":
            pool = self.unit("branch_pool", 192, averaged=True)(x)
        else:
            pool = self.unit("branch_pool", 192)(max3(x))
        return jnp.concatenate((self.unit("branch1x1", 320)(x), *ends, pool), axis=-1)


class InceptionFid(nn.Module):
    """The feature network; input is scaled already (`network_input`).

    Attributes:
      dtype: compute dtype. With float32 the products are those of float32 on every backend, not TF32 or
        bfloat16, as FID needs. The mean at the end is float32.

    Call: (b, h, w, 3), 299 pixels a side for comparable numbers and 75 at least -> (b, 2048) float32.
    Parameters: ``{"params": {block: {branch: {"kernel" HWIO, "bias"}}}}``, named as in the weight files.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Image) -> Features:
        if x.ndim != 4 or x.shape[3] != 3 or min(x.shape[1:3]) < SMALLEST:
            raise UserError(
                f"Inception input of shape {x.shape}: (b, h, w, 3) with at least {SMALLEST} pixels a side is needed"
            )
        with whole_products(self.dtype):
            x = self._stem(x.astype(self.dtype))
            for block in self._blocks():
                x = block(x)
        return jnp.mean(x.astype(jnp.float32), axis=(1, 2))

    def _stem(self, x: jax.Array) -> jax.Array:
        unit = partial(Unit, dtype=self.dtype)
        x = unit(32, (3, 3), stride=2, padded=False, name="Conv2d_1a_3x3")(x)
        x = unit(32, (3, 3), padded=False, name="Conv2d_2a_3x3")(x)
        x = unit(64, (3, 3), name="Conv2d_2b_3x3")(x)
        x = unit(80, name="Conv2d_3b_1x1")(max_pool(x, 3))
        return max_pool(unit(192, (3, 3), padded=False, name="Conv2d_4a_3x3")(x), 3)

    def _blocks(self) -> list[nn.Module]:
        dtype = self.dtype
        return [
            MixedA(dtype, 32, name="Mixed_5b"),
            MixedA(dtype, 64, name="Mixed_5c"),
            MixedA(dtype, 64, name="Mixed_5d"),
            MixedB(dtype, name="Mixed_6a"),
            MixedC(dtype, 128, name="Mixed_6b"),
            MixedC(dtype, 160, name="Mixed_6c"),
            MixedC(dtype, 160, name="Mixed_6d"),
            MixedC(dtype, 192, name="Mixed_6e"),
            MixedD(dtype, name="Mixed_7a"),
            MixedE(dtype, "mean", name="Mixed_7b"),
            MixedE(dtype, "max", name="Mixed_7c"),
        ]


def _graph_scale(x: jax.Array) -> jax.Array:
    """0..255 as the TensorFlow graph scales it: -1 to 127/128."""
    return (x - 128) / 128


def _unit_scale(x: jax.Array) -> jax.Array:
    """0..255 onto [-1, 1]."""
    return x * (2 / 255) - 1


@dataclass(frozen=True)
class Protocol:
    """What happens to an image between its file and the network.

    Attributes:
      resize: method of `medgen_jax.ops.resize` that brings it to 299 x 299; pixels are never rounded.
      clip: cut to 0..255 behind the resize.
      scale: 0..255 -> input of the network.
      about: whose rule it is, for reports.
    """

    resize: str
    clip: bool
    scale: Callable[[jax.Array], jax.Array]
    about: str


PROTOCOLS: dict[str, Protocol] = {
    # What TensorFlow 1 did for the papers up to StyleGAN3: no filter when shrinking, a grid shifted by
    # up to half a pixel. Equals the original TTUR code and torch-fidelity's "inception-v3-compat".
    "torch-fidelity": Protocol("tf1-bilinear", False, _graph_scale, "torch-fidelity and TTUR: TensorFlow 1 bilinear"),
    # Filtered when shrinking, so fine texture does not alias: the rule of Parmar, Zhang and Zhu
    # (CVPR 2022). Bicubic overshoot is cut, nothing is rounded to 8 bits.
    "clean-fid": Protocol("pil-bicubic", True, _graph_scale, "clean-fid: Pillow bicubic"),
    # No filter when shrinking, edges aligned, and [-1, 1] instead of the graph's scaling: about 0.1 %
    # off in FID from the scaling alone.
    "pytorch-fid": Protocol("torch-bilinear", False, _unit_scale, "pytorch-fid: torch bilinear, inputs in [-1, 1]"),
}


def network_input(images: jax.Array, resize: str = "torch-fidelity") -> Image:
    """Images as the network of one protocol gets them.

    Args:
      images: (b, h, w, c), any size; uint8, or floats in 0..255; c = 3, or 1 that is repeated.
      resize: a key of `PROTOCOLS`.

    Returns:
      (b, 299, 299, 3) float32, in about [-1, 1].

    Raises:
      UserError: unknown protocol, another shape, or another dtype, such as uint16, whose window to
        8 bits is a choice to be made by the caller.
    """
    if resize not in PROTOCOLS:
        raise UserError(f"FID protocol {resize!r}: expected one of {', '.join(PROTOCOLS)}")
    images, protocol = jnp.asarray(images), PROTOCOLS[resize]
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise UserError(f"images of shape {images.shape}: (b, h, w, 1) or (b, h, w, 3) is needed for features")
    if images.dtype != jnp.uint8 and not jnp.issubdtype(images.dtype, jnp.floating):
        raise UserError(f"images of dtype {images.dtype}: features need uint8, or floats in 0..255; rescale them first")
    x = resize_images(images, (SIZE, SIZE), protocol.resize)
    if protocol.clip:
        x = jnp.clip(x, 0, 255)
    return jnp.broadcast_to(protocol.scale(x), (*x.shape[:3], 3))


def features(
    variables: Mapping[str, Any],
    images: jax.Array,
    resize: str = "torch-fidelity",
    dtype: Any = jnp.float32,
) -> Features:
    """Features of images, ready for `medgen_jax.metrics`. Pure; jit it with ``resize`` and ``dtype`` static.

    Args:
      variables: `medgen_jax.interop.inception_layout.variables_from_pack`.
      images: (b, h, w, c), any size; uint8, or floats in 0..255; c = 3, or 1 that is repeated.
      resize: a key of `PROTOCOLS`. Published numbers say which one they follow.
      dtype: compute dtype. float32 for numbers to be compared; bfloat16 is faster on accelerators and
        moves features by 2 or 3 %.

    Returns:
      (b, 2048) float32, none negative.

    Raises:
      UserError: as `network_input` does.
    """
    return InceptionFid(dtype).apply(variables, network_input(images, resize))
