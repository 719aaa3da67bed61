"""Layers and networks of StyleGAN2 against explicit float64 formulas, and what their callers may rely on."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.nn import stylegan2 as nets
from medgen_jax.nn import stylegan2_blocks as blocks
from medgen_jax.ops.fir import up_conv

SMALL = {"map_layers": 1, "channel_base": 16, "channel_max": 4}


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("side", "demodulate", "up"), [(3, True, False), (3, True, True), (1, False, False)])
def test_modulated_conv_is_a_kernel_per_sample(side: int, demodulate: bool, up: bool) -> None:
    """Every image by ``kernel * style``, whose output channels have unit norm where demodulated."""
    x, kernel, style = normal(0, 2, 4, 5, 3), normal(1, side, side, 3, 4), normal(2, 2, 3)
    got = jax.jit(lambda *a: blocks.modulated_conv(*a, demodulate=demodulate, up=up))(x, kernel, style)
    for image, scale, made in zip(x, style, got, strict=True):
        own = kernel.astype(np.float64) * scale[None, None, :, None]
        if demodulate:
            own = own / np.sqrt(np.sum(own**2, axis=(0, 1, 2), keepdims=True) + 1e-8)
        if up:
            # The plain form is held to direct sums in the tests of the filters.
            wanted = np.asarray(up_conv(jnp.asarray(image[None]), jnp.asarray(own, jnp.float32)))[0]
        else:
            pad = side // 2
            padded = np.pad(image.astype(np.float64), ((pad, pad), (pad, pad), (0, 0)))
            wanted = sum(padded[a : a + 4, b : b + 5] @ own[a, b] for a in range(side) for b in range(side))
        np.testing.assert_allclose(made, wanted, atol=2e-5)


def test_minibatch_stddev_is_that_of_consecutive_images() -> None:
    x = normal(3, 4, 2, 3, 5)
    made = blocks.minibatch_stddev(jnp.asarray(x), 2)
    np.testing.assert_array_equal(made[..., :5], x)
    for group in (slice(0, 2), slice(2, 4)):
        wanted = np.mean(np.sqrt(np.var(x[group].astype(np.float64), axis=0) + 1e-8))
        np.testing.assert_allclose(made[group, ..., 5], wanted, rtol=1e-5)
    whole = blocks.minibatch_stddev(jnp.asarray(x[:3]), 8)
    np.testing.assert_allclose(whole[..., 5], np.mean(np.std(x[:3].astype(np.float64), axis=0)), rtol=1e-4)


def test_images_that_agree_have_no_deviation_and_finite_gradients() -> None:
    x = jnp.ones((2, 2, 2, 1))
    total, slope = jax.jit(jax.value_and_grad(lambda x: jnp.sum(blocks.minibatch_stddev(x, 2)[..., 1])))(x)
    np.testing.assert_allclose(total, 8e-4, rtol=1e-5)
    assert np.all(np.isfinite(slope))


def test_a_group_must_divide_the_batch() -> None:
    with pytest.raises(UserError, match="batch of 3 images: minibatch_group=2 must divide it"):
        blocks.minibatch_stddev(jnp.zeros((3, 2, 2, 1)), 2)


def test_slow_layers_start_as_wide_and_learn_slower() -> None:
    """The rate divides the first weights and multiplies them in use."""
    x = normal(4, 3, 400)
    layer = blocks.Dense(500, rate=0.01)
    variables = layer.init(jax.random.key(0), x)
    assert float(jnp.std(variables["params"]["kernel"])) == pytest.approx(100, rel=0.02)
    assert float(jnp.std(layer.apply(variables, x))) == pytest.approx(1, rel=0.1)
    bias = {"params": {"kernel": jnp.zeros((400, 500)), "bias": jnp.full((500,), 2.0)}}
    np.testing.assert_allclose(layer.apply(bias, x), 0.02, rtol=1e-6)


def test_levels() -> None:
    assert nets.sides(32) == (4, 8, 16, 32)
    assert [nets.channels_at(side, 2048, 128) for side in (8, 16, 64)] == [128, 128, 32]
    assert nets.style_count(256) == 14
    for size in (4, 48, 0):
        with pytest.raises(UserError, match=rf"size={size}: must be a power of two"):
            nets.sides(size)
    with pytest.raises(UserError, match="channel_base must be at least 64"):
        nets.channels_at(64, 32, 512)


def test_mixing_and_truncation() -> None:
    ws, others, average = normal(5, 2, 4, 3), normal(6, 2, 4, 3), normal(7, 3)
    mixed = nets.mix_styles(ws, others, 1)
    np.testing.assert_array_equal(mixed[:, :1], ws[:, :1])
    np.testing.assert_array_equal(mixed[:, 1:], others[:, 1:])
    pulled = nets.truncate(ws, average, 0.25, cutoff=3)
    np.testing.assert_allclose(pulled[:, :3], 0.75 * average + 0.25 * ws[:, :3], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(pulled[:, 3:], ws[:, 3:])
    assert nets.spread(ws[:, 0], 6).shape == (2, 6, 3)


def test_mapping_normalises_codes_blends_classes_and_averages_w() -> None:
    net = nets.Mapping(4, 3, 1)
    z, labels = normal(8, 2, 6), np.array([0, 2])
    variables = net.init(jax.random.key(0), z, labels)
    np.testing.assert_array_equal(variables["averages"]["w"], 0)
    w, changed = net.apply(variables, z, labels, mutable=["averages"])
    np.testing.assert_allclose(changed["averages"]["w"], 0.005 * np.mean(w, axis=0), rtol=1e-4)
    np.testing.assert_allclose(net.apply(variables, 7 * z, labels), w, rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(net.apply(variables, z, np.eye(3, dtype=np.float32)[labels]), w)
    assert np.abs(net.apply(variables, z, np.array([1, 2])) - w)[0].max() > 1e-3
    for wrong, said in ((None, "needs labels"), (np.zeros((2, 2)), "expected one integer per image")):
        with pytest.raises(UserError, match=said):
            net.apply(variables, z, wrong)


@pytest.fixture(scope="module")
def generator():
    """A small generator in bfloat16 whose noise has an effect, and its variables."""
    net = nets.Generator(8, 1, 2, 6, 5, dtype=jnp.bfloat16, **SMALL)
    variables = jax.jit(net.init)(jax.random.key(0), jnp.zeros((1, 6)), jnp.zeros(1, int))
    loud = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf + 1 if path[-1].key == "noise_strength" else leaf, variables["params"]
    )
    return net, {**variables, "params": loud}


def test_noise_and_truncation_of_images(generator) -> None:
    net, variables = generator
    z, labels = normal(9, 2, 6), np.array([0, 1])

    @jax.jit
    def images(truncation, key):
        def made(noise, truncation=None):
            return net.apply(variables, z, labels, truncation=truncation, noise=noise, rngs={"noise": key})

        return {noise: made(noise) for noise in blocks.NOISES} | {"average": made("const", truncation)}

    first, second = images(0.0, jax.random.key(1)), images(1.0, jax.random.key(2))
    assert first["random"].shape == (2, 8, 8, 1) and first["random"].dtype == jnp.float32
    for noise in ("const", "none"):
        np.testing.assert_array_equal(first[noise], second[noise])
    assert np.all(np.abs(first["random"] - second["random"]).max(axis=(1, 2, 3)) > 1e-2)
    assert np.abs(first["const"] - first["none"]).max() > 1e-2
    np.testing.assert_array_equal(first["average"][0], first["average"][1])
    assert np.abs(second["average"] - second["const"]).max() < 0.05 * np.ptp(second["const"])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda net, v: net.apply(v, jnp.zeros((1, 5)), jnp.zeros(1, int)), r"codes of shape \(1, 5\)"),
        (lambda net, v: net.apply(v, jnp.zeros((1, 3, 5)), method="synthesise"), r"\(batch, 4, w_dim\)"),
        (lambda net, v: net.apply(v, jnp.zeros((1, 4, 5)), "loud", method="synthesise"), "random, const, none"),
    ],
)
def test_generator_names_what_does_not_fit(generator, call, said: str) -> None:
    with pytest.raises(UserError, match=said):
        jax.eval_shape(lambda: call(*generator))


def test_discriminator_names_what_does_not_fit() -> None:
    net = nets.Discriminator(8, **SMALL)
    for shape, labels, said in (
        ((4, 16, 16, 1), None, r"\(4, 16, 16, 1\)"),
        ((4, 8, 8, 3), None, r"\(4, 8, 8, 3\)"),
        ((4, 8, 8, 1), jnp.zeros(4, int), "without classes"),
    ):
        with pytest.raises(UserError, match=said):
            jax.eval_shape(net.init, jax.random.key(0), jnp.zeros(shape), labels)


def test_blank_images_have_finite_slopes() -> None:
    net = nets.Discriminator(8, 1, 2, **SMALL, dtype=jnp.bfloat16)
    blank, labels = jnp.zeros((4, 8, 8, 1)), jnp.zeros(4, int)

    @jax.jit
    def slopes(key):
        variables = net.init(key, blank, labels)
        return jax.value_and_grad(lambda v: jnp.sum(net.apply(v, blank, labels)))(variables)

    value, gradient = slopes(jax.random.key(0))
    assert value.dtype == jnp.float32
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(gradient))
