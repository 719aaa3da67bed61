"""StarGAN v2: parameter counts, first weights, blocks by formula, skips and masks, domains, precision, wrong input."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.nn import stargan_v2_blocks as blocks
from medgen_jax.nn.stargan_v2 import Discriminator, Generator, MappingNetwork, StyleEncoder

KEY = jax.random.key(0)
LABELS = jnp.array([1, 0])
SMALL = {"size": 32, "channels": 1, "width": 2, "max_width": 4}
X, STYLE = jnp.zeros((2, 32, 32, 1)), jnp.zeros((2, 3))


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def count(net: Any, *inputs: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(net.init, KEY, *inputs)))


def randomised(tree: Any) -> Any:
    """Weights of which none is 0, of unit gain."""
    leaves, structure = jax.tree.flatten(tree)
    gains = [np.sqrt(leaf.size / leaf.shape[-1]) for leaf in leaves]
    return structure.unflatten([normal(i, *leaf.shape) / gains[i] for i, leaf in enumerate(leaves)])


# -------------------------------------------------------------------------- sizes


def test_parameter_counts_of_the_paper_at_256_pixels() -> None:
    """Three domains; the generator with high-pass skips has a level more."""
    x = jnp.zeros((2, 256, 256, 3))
    assert count(Generator(), x, jnp.zeros((2, 64))) == 33_892_995
    assert count(Generator(w_hpf=1.0), x, jnp.zeros((2, 64))) == 43_467_395
    assert count(MappingNetwork(3), jnp.zeros((2, 16)), LABELS) == 3_259_072
    assert count(StyleEncoder(domains=3), x, LABELS) == 20_949_760
    assert count(Discriminator(domains=3), x, LABELS) == 20_852_803


def test_widths() -> None:
    assert Discriminator(domains=1).widths(6) == (64, 128, 256, 512, 512, 512, 512)
    assert Discriminator(domains=1, size=1024).widths(2) == (16, 32, 64)
    assert Discriminator(domains=1, size=64, width=32, max_width=96).widths(3) == (32, 64, 96, 96)
    assert [Generator(size=size, w_hpf=w).levels for size, w in ((256, 0), (256, 1), (16, 0), (16, 1))] == [4, 5, 0, 1]


def test_first_weights() -> None:
    """Kernels are normal, not cut off, with variance 2 / fan-in; biases 0; a style starts as it is told by chance."""
    first = MappingNetwork(2).init(KEY, jnp.zeros((1, 16)), LABELS[:1])["params"]
    for name, width in (("shared_0", 16), ("domain_1_0", 512)):
        kernel = np.asarray(first[name]["kernel"])
        assert np.std(kernel) == pytest.approx((2 / width) ** 0.5, rel=0.05)
        assert np.abs(kernel).max() > 3 * (2 / width) ** 0.5
        assert not np.any(first[name]["bias"])
    kernel = np.asarray(blocks.conv3(64, jnp.float32, "c").init(KEY, jnp.zeros((1, 2, 2, 16)))["params"]["kernel"])
    assert np.std(kernel) == pytest.approx((2 / 144) ** 0.5, rel=0.05)
    norm = blocks.InstanceNorm().init(KEY, jnp.zeros((1, 2, 2, 3)))["params"]
    np.testing.assert_array_equal(norm["scale"], np.ones(3))
    np.testing.assert_array_equal(norm["bias"], np.zeros(3))


# -------------------------------------------------------------------------- parts


def test_high_pass() -> None:
    """Nothing of a plane; eight times a point less its neighbours; what lies outside counts as 0."""
    plane = jnp.arange(5.0)[:, None] + 2 * jnp.arange(4.0)[None]
    np.testing.assert_allclose(blocks.high_pass(plane[None, :, :, None])[0, 1:-1, 1:-1, 0], 0, atol=1e-5)
    point = jnp.zeros((1, 5, 5, 1)).at[0, 2, 1, 0].set(1)
    wanted = np.zeros((5, 5))
    wanted[1:4, 0:3] = -1
    wanted[2, 1] = 8
    np.testing.assert_allclose(blocks.high_pass(point)[0, :, :, 0], wanted)
    np.testing.assert_allclose(blocks.high_pass(jnp.ones((1, 3, 3, 1)))[0, :, :, 0], [[5, 3, 5], [3, 0, 3], [5, 3, 5]])


def test_adaptive_norm() -> None:
    """The first half of what the style tells scales as 1 + scale, the second shifts."""
    x, style = 5 + 3 * normal(0, 2, 4, 6, 2), normal(1, 2, 3)
    kernel, bias = normal(2, 3, 4), normal(3, 4)
    got = blocks.AdaptiveNorm().apply({"params": {"told": {"kernel": kernel, "bias": bias}}}, x, style)
    told = (style.astype(np.float64) @ kernel + bias)[:, None, None]
    plain = (x - x.mean((1, 2), keepdims=True)) / np.sqrt(x.var((1, 2), keepdims=True) + 1e-5)
    np.testing.assert_allclose(got, (1 + told[..., :2]) * plain + told[..., 2:], atol=1e-4)


def test_flat_image_becomes_the_bias() -> None:
    params = {"scale": jnp.ones(2), "bias": jnp.array([3.0, -1.0])}
    got, slope = jax.value_and_grad(lambda x: jnp.sum(blocks.InstanceNorm().apply({"params": params}, x)))(
        jnp.full((1, 2, 2, 2), 7.0)
    )
    assert got == 4 * (3 - 1) and np.all(np.isfinite(slope))


def test_sums_keep_the_variance() -> None:
    """With kernels of 0 only the input is left, over the square root of 2, or nothing without residuals."""
    x, style = jnp.asarray(normal(0, 1, 4, 4, 2)), jnp.zeros((1, 3))

    def out(block: Any, *inputs: jax.Array) -> Any:
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape), jax.eval_shape(block.init, KEY, *inputs))
        return np.asarray(block.apply(zeros, *inputs))

    means = np.asarray(x).reshape(1, 2, 2, 2, 2, 2).mean((2, 4))
    np.testing.assert_allclose(out(blocks.ResBlock(2), x), x / np.sqrt(2), rtol=1e-6)
    np.testing.assert_allclose(out(blocks.ResBlock(2, halve=True, norm=True), x), means / np.sqrt(2), rtol=1e-5)
    twice = np.asarray(x).repeat(2, 1).repeat(2, 2)
    np.testing.assert_allclose(out(blocks.AdaptiveBlock(2, double=True), x, style), twice / np.sqrt(2), rtol=1e-6)
    assert not out(blocks.AdaptiveBlock(2, double=True, residual=False), x, style).any()


def test_pick() -> None:
    rows = jnp.arange(12.0).reshape(2, 3, 2)
    np.testing.assert_array_equal(blocks.pick(rows, jnp.array([2, 0])), [[4, 5], [6, 7]])
    np.testing.assert_array_equal(blocks.pick(rows[..., 0], jnp.array([-1, 7])), [0, 10])
    slope = jax.grad(lambda rows: jnp.sum(blocks.pick(rows, jnp.array([2, 0]))))(rows)
    np.testing.assert_array_equal(slope[..., 0], [[0, 0, 1], [1, 0, 0]])


# -------------------------------------------------------------------------- networks


def test_domains_have_styles_of_their_own() -> None:
    net = MappingNetwork(3, 4, 8)
    z, labels = normal(0, 3, 5), jnp.array([0, 2, 1])
    params = randomised(jax.eval_shape(net.init, KEY, z, labels))
    whole = net.apply(params, z, labels)
    np.testing.assert_allclose(net.apply(params, z[::-1], labels[::-1])[::-1], whole, atol=1e-6)
    other = net.apply(params, z, jnp.array([0, 1, 1]))
    np.testing.assert_array_equal(np.abs(other - whole).max(1) > 1e-3, [False, True, False])


def test_masks_of_high_pass_skips() -> None:
    """None is a mask of ones; zeros let nothing skip; of two channels 32 pixels take the first. Flat stays finite."""
    net = Generator(**SMALL, w_hpf=1.0)
    x, style = normal(0, 2, 32, 32, 1), normal(1, 2, 3)
    params = randomised(jax.eval_shape(net.init, KEY, x, style))
    run = jax.jit(lambda x, mask: net.apply(params, x, style, mask))
    ones, zeros = np.ones((2, 32, 32, 2), np.float32), np.zeros((2, 32, 32, 2), np.float32)
    whole = run(x, ones)
    assert np.all(np.isfinite(run(np.full_like(x, -1), ones)))
    np.testing.assert_allclose(run(x, None), whole, atol=1e-4)
    assert np.abs(run(x, zeros) - whole).max() > 1e-2
    np.testing.assert_allclose(run(x, np.concatenate((ones[..., :1], zeros[..., :1]), -1)), whole, atol=1e-6)


def test_compute_dtype() -> None:
    """Parameters and what comes out stay float32."""
    for net, inputs in (
        (Generator(**SMALL, w_hpf=1.0, dtype=jnp.bfloat16), (X, STYLE)),
        (StyleEncoder(**SMALL, domains=2, dtype=jnp.bfloat16), (X, LABELS)),
        (Discriminator(**SMALL, domains=2, dtype=jnp.bfloat16), (X, LABELS)),
    ):
        out, params = jax.eval_shape(net.init_with_output, KEY, *inputs)
        assert {leaf.dtype for leaf in jax.tree.leaves((out, params))} == {jnp.dtype(jnp.float32)}
        _, seen = jax.eval_shape(lambda v, n=net, i=inputs: n.apply(v, *i, capture_intermediates=True), params)
        block = "encode_0" if "encode_0" in seen["intermediates"] else "block_0"
        assert seen["intermediates"][block]["__call__"][0].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("net", "inputs", "words"),
    [
        (Generator(**{**SMALL, "size": 48}), (X, STYLE), "generator size=48: must be a power of 2, at least 16"),
        (Generator(**{**SMALL, "size": 8}), (X, STYLE), "size=8: must be a power of 2, at least 16"),
        (Generator(**{**SMALL, "max_width": 0}), (X, STYLE), "max_width=0: must be at least 1"),
        (Generator(**{**SMALL, "width": 0}), (X, STYLE), "width=0: must be at least 1; by itself it is 16384 / size"),
        (Generator(**SMALL), (X[:, :16], STYLE), r"shape \(2, 16, 32, 1\): expected \(batch, 32, 32, 1\)"),
        (Generator(**SMALL), (X, STYLE[:1]), r"style of shape \(1, 3\): expected one vector per image, \(2, length\)"),
        (Generator(**SMALL, w_hpf=-1.0), (X, STYLE), "w_hpf=-1.0: must be 0 .* or a positive number"),
        (Generator(**SMALL), (X, STYLE, X), "a mask is for high-pass skips, of which w_hpf=0 has none"),
        (Generator(**SMALL, w_hpf=1.0), (X, STYLE, X[:1]), r"mask of shape \(1, 32, 32, 1\): expected \(2, height"),
        (MappingNetwork(2), (STYLE[0], LABELS), r"latent of shape \(3,\): expected one vector per image"),
        (MappingNetwork(0), (STYLE, LABELS), "mapping network domains=0: must be at least 1"),
        (StyleEncoder(**SMALL, domains=2), (X, LABELS[:1]), r"domain is int32 of shape \(1,\); expected one integer"),
        (Discriminator(**SMALL, domains=2), (X, STYLE[:, 0]), "discriminator domain is float32"),
    ],
)
def test_wrong_input_is_named(net: Any, inputs: tuple[Any, ...], words: str) -> None:
    with pytest.raises(UserError, match=words):
        jax.eval_shape(net.init, KEY, *inputs)
