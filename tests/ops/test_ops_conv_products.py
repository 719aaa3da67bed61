"""Convolutions with derivatives as matrix products, against XLA's own, first and second order."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from benchmarks import operations
from medgen_jax.ops import conv, conv_products

SAME, NONE = ((1, 1), (1, 1)), ((0, 0), (0, 0))
#: Image, kernel, stride, zeros around.
CASES = {
    "small output, folded": ((2, 8, 9, 24), (3, 3, 24, 16), 1, SAME),
    "small output, few channels": ((2, 8, 9, 24), (3, 3, 24, 3), 1, SAME),
    "image unfolded": ((1, 34, 33, 8), (3, 3, 8, 16), 1, SAME),
    "gradient unfolded by rows": ((1, 34, 33, 24), (3, 3, 24, 16), 1, SAME),
    "gradient unfolded at once": ((1, 34, 33, 64), (7, 7, 64, 3), 1, ((3, 3), (3, 3))),
    "stride 2, even": ((2, 8, 8, 16), (4, 4, 16, 24), 2, SAME),
    "stride 2, odd": ((1, 66, 69, 4), (3, 3, 4, 16), 2, SAME),
    "a phase": ((1, 33, 34, 24), (2, 1, 24, 16), 1, ((1, 0), (0, 0))),
    "1 x 1": ((1, 33, 34, 24), (1, 1, 24, 16), 1, NONE),
    "more zeros than the kernel reaches": ((1, 33, 34, 24), (2, 2, 24, 16), 1, ((4, 3), (2, 0))),
    "one pixel": ((1, 2, 2, 24), (4, 4, 24, 16), 2, SAME),
}


def normal(seed: int, shape: tuple[int, ...], dtype: str = "float32") -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape), dtype)


def plain(x: jax.Array, kernel: jax.Array, stride: int, pads: conv.Pads) -> jax.Array:
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


FORMS = (conv_products.conv2d, plain)


def assert_close(got: jax.Array, wanted: jax.Array, tolerance: float = 1e-5) -> None:
    assert got.shape == wanted.shape and got.dtype == wanted.dtype
    got, wanted = (np.asarray(array, np.float64) for array in (got, wanted))
    np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


@pytest.mark.parametrize("case", CASES)
def test_derivatives_are_those_of_xla(case: str) -> None:
    shape, kernel_shape, stride, pads = CASES[case]
    x, kernel = normal(0, shape), normal(1, kernel_shape)

    @jax.jit
    def both(x, kernel, seed):
        found = []
        for form in FORMS:
            y, back = jax.vjp(functools.partial(form, stride=stride, pads=pads), x, kernel)
            found.append((y, *back(seed[: len(y), : y.shape[1], : y.shape[2], : y.shape[3]])))
        return found

    for got, wanted in zip(*both(x, kernel, normal(2, (2, 48, 48, 24))), strict=True):
        assert_close(got, wanted)


@pytest.mark.parametrize("case", ["small output, folded", "gradient unfolded by rows", "stride 2, odd"])
def test_gradient_penalties_are_those_of_xla(case: str) -> None:
    # As R1 does: a derivative by the kernel of a derivative by the image.
    shape, kernel_shape, stride, pads = CASES[case]

    def penalty(kernel, x, form):
        slope = jax.grad(lambda x: jnp.sum(jnp.tanh(form(x, kernel, stride, pads))))(x)
        return jnp.sum(slope**2)

    both = jax.jit(lambda kernel, x: [jax.grad(penalty)(kernel, x, form) for form in FORMS])
    assert_close(*both(0.1 * normal(1, kernel_shape), normal(0, shape)), tolerance=1e-4)


def test_sums_of_bfloat16_are_float32() -> None:
    # Ones added up in bfloat16 stop growing at 256.
    x, kernel = jnp.ones((1, 64, 64, 32), jnp.bfloat16), jnp.ones((1, 1, 32, 16), jnp.bfloat16)
    found = jax.grad(lambda kernel: conv_products.conv2d(x, kernel, 1, NONE).astype(jnp.float32).sum())(kernel)
    assert found.dtype == jnp.bfloat16 and float(found[0, 0, 0, 0]) == 4096


def test_images_can_be_mapped_over() -> None:
    x, kernel = normal(0, (3, 1, 8, 9, 24)), normal(1, (3, 3, 24, 16))
    found = jax.vmap(jax.grad(lambda x: jnp.sum(conv_products.conv2d(x, kernel, 1, SAME) ** 2)))(x)
    assert_close(found[1], jax.grad(lambda x: jnp.sum(plain(x, kernel, 1, SAME) ** 2))(x[1]))


def test_only_what_is_asked_for_is_computed() -> None:
    x, kernel = jax.ShapeDtypeStruct((1, 34, 33, 24), jnp.float32), jax.ShapeDtypeStruct((3, 3, 24, 16), jnp.float32)

    def total(x, kernel):
        return jnp.sum(conv_products.conv2d(x, kernel, 1, SAME))

    alone = operations.count(total, x, kernel)
    for arguments, times in ((0, 2), (1, 2), ((0, 1), 3)):
        assert operations.count(jax.value_and_grad(total, arguments), x, kernel) == times * alone


@pytest.mark.parametrize(("backend", "products"), [("cpu", True), ("gpu", False), ("tpu", False)])
def test_backends_have_their_form(monkeypatch: pytest.MonkeyPatch, backend: str, products: bool) -> None:
    monkeypatch.setattr(conv.jax, "default_backend", lambda: backend)
    asked = jax.ShapeDtypeStruct((1, 8, 9, 4), jnp.float32), jax.ShapeDtypeStruct((3, 3, 4, 4), jnp.float32)
    assert (
        "custom_vjp" in str(jax.make_jaxpr(lambda x, kernel: conv.conv2d(x, kernel, padding=1))(*asked))
    ) == products


def test_batches_may_be_of_any_size() -> None:
    (count,) = jax.export.symbolic_shape("b")
    kernel = normal(1, (4, 4, 24, 16))
    slope = jax.jit(jax.grad(lambda x: jnp.sum(conv_products.conv2d(x, kernel, 2, SAME) ** 2)))
    exported = jax.export.export(slope)(jax.ShapeDtypeStruct((count, 2, 2, 24), jnp.float32))
    for images in (1, 3):
        x = normal(0, (images, 2, 2, 24))
        assert_close(exported.call(x), slope(x))
