"""Convolutions against hand-computed sums and against XLA's own dilated form."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from medgen_jax.core.errors import UserError
from medgen_jax.ops import conv


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), jnp.float32)


def dilated(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """The transposed convolution as a dilated one: slow to differentiate, plain to read."""
    k = kernel.shape[0]
    pads = ((k - 2, 2), (k - 2, 2))  # k - 1 - padding, plus one row of output padding for k = 3
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel[::-1, ::-1], (1, 1), pads, (2, 2), dimension_numbers=numbers)


def test_conv2d_sums_by_hand() -> None:
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.array([[1.0, 2.0], [3.0, 4.0]]).reshape(2, 2, 1, 1)
    valid = [[1 * 0 + 2 * 1 + 3 * 3 + 4 * 4, 37], [57, 67]]
    np.testing.assert_array_equal(conv.conv2d(x, kernel)[0, :, :, 0], valid)
    # One pixel of zeros around, stride 2: 4*x00, 3*x01 + 4*x02; 2*x10 + 4*x20, all four taps.
    np.testing.assert_array_equal(conv.conv2d(x, kernel, stride=2, padding=1)[0, :, :, 0], [[0, 11], [30, 67]])
    one_sided = conv.conv2d(x, kernel, padding=((1, 0), (0, 1)))
    np.testing.assert_array_equal(one_sided[0, :, :, 0], [[4, 11, 6], [27, 37, 17], [57, 67, 29]])


def test_conv2d_accumulates_bfloat16_operands_in_float32() -> None:
    # Ones added up in bfloat16 stop growing at 256.
    x = jnp.ones((1, 1, 1, 4096), jnp.bfloat16)
    y = conv.conv2d(x, jnp.ones((1, 1, 4096, 1), jnp.bfloat16))
    assert y.dtype == jnp.bfloat16
    assert float(y[0, 0, 0, 0]) == 4096


def test_reflect_conv2d_mirrors_without_repeating_the_edge() -> None:
    x = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)  # [[1, 2], [3, 4]]
    shift = jnp.zeros((3, 3, 1, 1)).at[0, 0].set(1.0)  # picks the upper left neighbour
    np.testing.assert_array_equal(conv.reflect_conv2d(x, shift)[0, :, :, 0], [[4, 3], [2, 1]])


@pytest.mark.parametrize("size", [1, 3, 7])
def test_reflect_conv2d_equals_pad_then_valid(size: int) -> None:
    x, kernel = normal(0, 2, 9, 8, 3), normal(1, size, size, 3, 4)
    pad = size // 2
    mirrored = jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect")
    wanted, wanted_vjp = jax.vjp(lambda m, k: conv.conv2d(m, k), mirrored, kernel)
    got, vjp = jax.vjp(conv.reflect_conv2d, x, kernel)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(vjp(got)[1], wanted_vjp(wanted)[1], rtol=1e-4, atol=1e-4)


def test_reflect_conv2d_refuses_an_image_smaller_than_its_border() -> None:
    with pytest.raises(UserError, match="3 x 8 pixels: mirroring 3 border pixels needs at least 4"):
        conv.reflect_conv2d(jnp.zeros((1, 3, 8, 1)), jnp.zeros((7, 7, 1, 1)))


@pytest.mark.parametrize("size", [3, 4])
def test_conv_transpose2x_scatters_one_pixel(size: int) -> None:
    """Input pixel i adds kernel tap a to output pixel 2 i + a - 1; taps outside the image are lost."""
    kernel = normal(2, size, size, 1, 1)
    x = jnp.zeros((1, 3, 3, 1)).at[0, 1, 0, 0].set(1.0)
    wanted = np.zeros((6, 6), np.float32)
    for a in range(size):
        for b in range(size):
            if b - 1 >= 0:
                wanted[2 + a - 1, b - 1] = kernel[a, b, 0, 0]
    np.testing.assert_array_equal(conv.conv_transpose2x(x, kernel)[0, :, :, 0], wanted)


@pytest.mark.parametrize("size", [3, 4])
def test_conv_transpose2x_equals_the_dilated_form(size: int) -> None:
    x, kernel, cotangent = normal(3, 2, 4, 5, 6), normal(4, size, size, 6, 3), normal(5, 2, 8, 10, 3)
    got, got_vjp = jax.vjp(conv.conv_transpose2x, x, kernel)
    wanted, wanted_vjp = jax.vjp(dilated, x, kernel)
    assert got.shape == (2, 8, 10, 3)
    for ours, theirs in zip((got, *got_vjp(cotangent)), (wanted, *wanted_vjp(cotangent)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * float(jnp.abs(theirs).max()))


def test_conv_transpose2x_equals_lax_conv_transpose() -> None:
    x, kernel = normal(6, 1, 4, 4, 2), normal(7, 4, 4, 2, 3)
    numbers = ("NHWC", "HWIO", "NHWC")
    wanted = lax.conv_transpose(x, kernel[::-1, ::-1], (2, 2), ((2, 2), (2, 2)), dimension_numbers=numbers)
    np.testing.assert_allclose(conv.conv_transpose2x(x, kernel), wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("function", [conv.conv_transpose2x, conv.nearest_conv2x])
def test_upsampling_never_dilates_its_input(monkeypatch, function) -> None:
    """Neither the value nor the gradients run a dilated convolution over the image."""
    monkeypatch.setattr(conv, "AS_PRODUCTS", frozenset())
    x, kernel = jnp.zeros((1, 4, 4, 2)), jnp.zeros((3, 3, 2, 3))
    text = str(jax.make_jaxpr(jax.grad(lambda x, k: function(x, k).sum(), argnums=(0, 1)))(x, kernel))
    assert text.count("conv_general_dilated") >= 12
    assert "lhs_dilation=(2, 2)" not in text
    assert "rhs_dilation=(2, 2)" not in text


def test_conv_transpose2x_in_bfloat16_and_with_another_kernel_size() -> None:
    x, kernel = normal(8, 1, 3, 3, 4), normal(9, 4, 4, 4, 2)
    low = conv.conv_transpose2x(x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), dilated(x, kernel), atol=0.15)
    with pytest.raises(ValueError, match="not 5 x 5"):
        conv.conv_transpose2x(x, jnp.zeros((5, 5, 4, 2)))


def test_nearest_conv2x_equals_repeat_then_conv() -> None:
    x, kernel, cotangent = normal(10, 2, 3, 4, 3), normal(11, 3, 3, 3, 2), normal(12, 2, 6, 8, 2)

    def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return conv.conv2d(jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2), kernel, padding=1)

    got, got_vjp = jax.vjp(conv.nearest_conv2x, x, kernel)
    wanted, wanted_vjp = jax.vjp(plain, x, kernel)
    for ours, theirs in zip((got, *got_vjp(cotangent)), (wanted, *wanted_vjp(cotangent)), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * float(jnp.abs(theirs).max()))


def test_conv_mean2x_is_a_convolution_and_means() -> None:
    x, kernel = (np.asarray(a, np.float64) for a in (normal(14, 2, 6, 4, 3), normal(15, 3, 3, 3, 2)))
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    whole = sum(padded[:, r : r + 6, c : c + 4] @ kernel[r, c] for r in range(3) for c in range(3))
    wanted = whole.reshape(2, 3, 2, 2, 2, 2).mean((2, 4))
    got = conv.conv_mean2x(jnp.asarray(x, jnp.float32), jnp.asarray(kernel, jnp.float32))
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    with pytest.raises(ValueError, match="not 4 x 4"):
        conv.conv_mean2x(jnp.zeros((1, 4, 4, 1)), jnp.zeros((4, 4, 1, 1)))


def test_nearest_conv2x_of_a_constant_has_no_checkerboard() -> None:
    """Away from the border all four phases of a flat image agree, whatever the kernel."""
    y = conv.nearest_conv2x(jnp.ones((1, 4, 4, 1)), normal(13, 3, 3, 1, 1))[0, 1:-1, 1:-1, 0]
    np.testing.assert_allclose(y, np.full((6, 6), y[0, 0]), rtol=1e-5)
    uneven = conv.conv_transpose2x(jnp.ones((1, 4, 4, 1)), normal(13, 4, 4, 1, 1))[0, 1:-1, 1:-1, 0]
    assert float(uneven.max() - uneven.min()) > 0.1
