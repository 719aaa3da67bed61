"""Convolutions whose derivatives are matrix products: the form that is fast on XLA:CPU.

XLA:CPU runs a convolution about as fast as a product of matrices of its size, but not the convolutions that autodiff
makes of it. The gradient of a kernel takes up to four times as long, and 8 to 20 times where few channels leave a wide
layer, as in the 7 x 7 layer that ends a ResNet generator; that of the image up to 50 times where images are small,
since the whole kernel is turned around first (`benchmarks.convolutions`). Products with one operand unfolded run both
at the rate of products. On GPUs and TPUs XLA's own derivatives are taken: `medgen_jax.ops.conv` chooses.

Shapes as there: images (n, h, w, in) and kernels (rows, columns, in, out) of one dtype, which results have too; sums
are float32.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero

Pads = tuple[tuple[int, int], tuple[int, int]]

#: Output pixels up to which the convolution itself is a product.
TINY = 16
#: Output pixels up to which the gradient of the image is one, unless its products are narrower than `NARROW` channels.
SMALL, NARROW = 1024, 16
#: How many times as wide as the image its gradient may get when it is unfolded at once, rather than row by row.
WIDE = 4


class Geometry(NamedTuple):
    """Of a convolution: height and width of image, output and kernel; stride; zeros around the image."""

    image: tuple[int, int]
    output: tuple[int, int]
    size: tuple[int, int]
    stride: int
    pads: Pads


def conv2d(x: jax.Array, kernel: jax.Array, stride: int, pads: Pads) -> jax.Array:
    """Cross-correlation with explicit zero padding: `medgen_jax.ops.conv.conv2d`, without forward-mode derivatives."""
    image, size = x.shape[1:3], kernel.shape[:2]
    output = tuple((image[axis] + sum(pads[axis]) - size[axis]) // stride + 1 for axis in (0, 1))
    return _conv2d(x, kernel, Geometry(image, output, size, stride, pads))


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _conv2d(x: jax.Array, kernel: jax.Array, given: Geometry) -> jax.Array:
    if _at_most(TINY, x, given):
        (unfolded,) = _together(_windows(x, given), given.size[0] * given.size[1])
        return _product(unfolded, kernel.reshape(-1, kernel.shape[-1]), (3,), (0,))
    return _by_xla(x, kernel, given)


def _by_xla(x: jax.Array, kernel: jax.Array, given: Geometry) -> jax.Array:
    strides, layout = (given.stride,) * 2, ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, strides, given.pads, dimension_numbers=layout)


def _forward(x, kernel, given):
    # What nothing depends on is not differentiated, nor kept for it.
    kept = (x.value if kernel.perturbed else None, kernel.value if x.perturbed else None)
    return _conv2d(x.value, kernel.value, given), kept


def _backward(given, kept, g):
    x, kernel = kept
    if isinstance(g, SymbolicZero):
        return None, None
    return (
        None if kernel is None else _image_gradient(g, kernel, given),
        None if x is None else _kernel_gradient(x, g, given),
    )


_conv2d.defvjp(_forward, _backward, symbolic_zeros=True)


def _image_gradient(g: jax.Array, kernel: jax.Array, given: Geometry) -> jax.Array:
    if _at_most(SMALL, g, given) and g.shape[-1] >= NARROW:
        return _folded(g, kernel, given)
    if given.stride == 1:
        # A convolution again, so that derivatives of this gradient are products too.
        return conv2d(g, jnp.swapaxes(kernel[::-1, ::-1], 2, 3), 1, _pads_back(given))
    image = jax.ShapeDtypeStruct((g.shape[0], *given.image, kernel.shape[2]), g.dtype)
    return jax.linear_transpose(lambda x: _by_xla(x, kernel, given), image)(g)[0]


def _folded(g: jax.Array, kernel: jax.Array, given: Geometry) -> jax.Array:
    """The image's gradient: each output pixel's share of all taps in one product, and their sum in place."""
    shares = _product(g, kernel.reshape(-1, g.shape[-1]), (3,), (1,), jnp.float32)
    shares = shares.reshape(*g.shape[:3], *kernel.shape[:3])

    def placed(row: int, column: int) -> jax.Array:
        """A tap's share, spread by the stride over the image; what lies outside of it is cut off."""
        config = [(0, 0, 0)] * 4
        for axis, tap in enumerate((row, column)):
            before = tap - given.pads[axis][0]
            after = given.image[axis] - before - ((given.output[axis] - 1) * given.stride + 1)
            config[1 + axis] = (before, after, given.stride - 1)
        return lax.pad(shares[:, :, :, row, column], jnp.float32(0), config)

    return sum(placed(row, column) for row, column in _taps(given)).astype(g.dtype)


def _kernel_gradient(x: jax.Array, g: jax.Array, given: Geometry) -> jax.Array:
    (rows, columns), channels, out = given.size, x.shape[-1], g.shape[-1]
    shape = (*given.size, channels, out)
    if given.stride > 1 or out > channels:
        unfolded = _together(_windows(x, given), columns)
        return jnp.stack([_over_pixels(part, g) for part in unfolded]).reshape(shape)
    # Where fewer channels leave than enter it is cheaper to unfold what comes back.
    windows = _windows(g, Geometry(given.output, given.image, given.size, 1, _pads_back(given)))
    at_once = rows * columns if rows * columns * out <= WIDE * channels else columns
    parts = [_over_pixels(x, part) for part in _together(windows[::-1], at_once)]
    taps = jnp.concatenate([part.reshape(channels, at_once, out) for part in parts], 1)
    return jnp.swapaxes(taps, 0, 1).reshape(shape)


def _pads_back(given: Geometry) -> Pads:
    """Zeros around the output of a convolution of stride 1 for the one that leads back to its image."""
    return tuple((size - 1 - low, size - 1 - high) for size, (low, high) in zip(given.size, given.pads, strict=True))


def _at_most(most: int, images: jax.Array, given: Geometry) -> bool:
    """Whether a batch has so few output pixels; not where its size is left open, as in exported programs."""
    pixels = images.shape[0] * math.prod(given.output)
    return isinstance(pixels, int) and pixels <= most


def _taps(given: Geometry) -> Iterator[tuple[int, int]]:
    return itertools.product(*map(range, given.size))


def _windows(x: jax.Array, given: Geometry) -> list[jax.Array]:
    """What each tap sees of an image, (n, h', w', in), row by row."""
    across = ((low, high, 0) for low, high in given.pads)
    padded = lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *across, (0, 0, 0)))
    high, wide = ((count - 1) * given.stride + 1 for count in given.output)
    steps = (1, given.stride, given.stride, 1)
    return [
        lax.slice(padded, (0, row, column, 0), (x.shape[0], row + high, column + wide, x.shape[-1]), steps)
        for row, column in _taps(given)
    ]


def _together(windows: list[jax.Array], count: int) -> Iterator[jax.Array]:
    """Neighbours side by side: ``count`` times the channels."""
    return (jnp.concatenate(windows[at : at + count], -1) for at in range(0, len(windows), count))


def _over_pixels(left: jax.Array, right: jax.Array) -> jax.Array:
    """(in, out): the product of two images summed over their pixels."""
    return _product(left, right, (0, 1, 2), (0, 1, 2))


def _product(left, right, over, and_over, dtype=None) -> jax.Array:
    numbers = ((over, and_over), ((), ()))
    found = lax.dot_general(left, right, numbers, preferred_element_type=jnp.float32)
    return found.astype(dtype or left.dtype)
