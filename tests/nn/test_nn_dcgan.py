"""DCGAN and the fully connected networks: shapes, counts, layers by hand, first values, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core import trees
from medgen_jax.core.errors import UserError
from medgen_jax.nn import dcgan
from medgen_jax.nn.dcgan import DCGANDiscriminator, DCGANGenerator
from medgen_jax.nn.initialisers import kernel_init, scale_init
from medgen_jax.nn.mlp_gan import MLPDiscriminator, MLPGenerator


def shaped(network, *shape):
    """Parameters, and the shape of the answer; nothing is computed."""
    x = jax.ShapeDtypeStruct(shape, jnp.float32)
    variables = jax.eval_shape(network.init, jax.random.key(0), x)
    answer = jax.eval_shape(lambda v, x: network.apply(v, x, stats="running"), variables, x)
    return variables["params"], answer


def ones(network, x):
    """Parameters that are all 1."""
    return jax.tree.map(lambda p: np.ones(p.shape, p.dtype), shaped(network, *x.shape)[0])


def test_counts_of_the_published_networks():
    params, images = shaped(DCGANGenerator(), 2, 100)
    assert trees.count(params) == 3_576_704 and images.shape == (2, 64, 64, 3)
    params, logits = shaped(DCGANDiscriminator(), 2, 64, 64, 3)
    assert trees.count(params) == 2_765_568 and logits.shape == (2,)
    assert not any("bias" in layer for name, layer in params.items() if name.startswith("conv"))


@pytest.mark.parametrize(("size", "inner"), [(8, 64), (16, 128), (32, 256), (128, 512), (256, 512)])
def test_other_sizes_have_more_or_fewer_layers(size, inner):
    params, images = shaped(DCGANGenerator(size=size, channels=1), 1, 100)
    assert images.shape == (1, size, size, 1) and params["conv_1"]["kernel"].shape == (4, 4, 100, inner)
    assert {name for name in params if name.startswith("conv")} == {
        f"conv_{n}" for n in range(1, size.bit_length() - 1)
    }
    params, logits = shaped(DCGANDiscriminator(), 1, size, size, 1)
    assert logits.shape == (1,) and max(params["conv_1"]["kernel"].shape) == 64


@pytest.mark.parametrize(("size", "nearest"), [(4, 8), (1, 8), (48, 64), (60, 64), (90, 64), (96, 128), (300, 256)])
def test_sizes_between_are_refused_with_the_nearest(size, nearest):
    assert dcgan.valid_size(size) == nearest
    with pytest.raises(UserError, match=f"DCGAN of {size} pixels: .* the nearest is {nearest}"):
        dcgan.widths(size, 64)


def test_images_that_are_not_square_are_refused():
    with pytest.raises(UserError, match=r"DCGAN input of shape \(1, 64, 32, 3\): expected square images"):
        shaped(DCGANDiscriminator(), 1, 64, 32, 3)
    with pytest.raises(UserError, match=r"discriminator input of shape \(1, 9\)"):
        shaped(MLPDiscriminator(), 1, 9)


def test_the_first_layer_by_hand():
    z = np.array([[1, -2]], np.float32)
    kernel = np.random.default_rng(0).normal(size=(4, 4, 2, 3)).astype(np.float32)
    image = dcgan.FromLatent(3).apply({"params": {"kernel": kernel}}, z)[0]
    np.testing.assert_allclose(image, kernel[:, :, 0] - 2 * kernel[:, :, 1], rtol=1e-5, atol=1e-6)


def test_one_doubling_by_hand():
    """Ones everywhere: the code's sum in all 4 x 4 pixels, of which inner ones of 8 x 8 add up four."""
    net, z = DCGANGenerator(size=8, channels=1, ngf=1), np.array([[0.25, 0.5]], np.float32)
    params = ones(net, z)
    params["norm_1"]["bias"] -= 1.5
    variables = {"params": params, "batch_stats": {"norm_1": {"mean": np.zeros(1), "var": np.ones(1) - 1e-5}}}
    image = jax.jit(lambda v, z: net.apply(v, z, stats="running"))(variables, z)[0, :, :, 0]
    np.testing.assert_allclose(image[3:5, 3:5], np.tanh(4 * 0.25), rtol=1e-5)
    np.testing.assert_allclose(image[0, 0], np.tanh(0.25), rtol=1e-5)


def test_the_judge_by_hand():
    """Ones everywhere, an image of -1: leaks of 0.2, and the outermost pixels see fewer taps."""
    net, x = DCGANDiscriminator(ndf=1), -np.ones((1, 8, 8, 1), np.float32)
    rows = np.array([3, 4, 4, 3])
    logits = jax.jit(net.apply)({"params": ones(net, x)}, x)
    np.testing.assert_allclose(logits, -0.2 * np.outer(rows, rows).sum(), rtol=1e-5)


def test_the_fully_connected_networks_by_hand():
    z, net = np.array([[1, -3]], np.float32), MLPGenerator((1, 2, 1), (1,))
    params = {"dense_1": {"kernel": np.ones((2, 1)), "bias": np.ones(1)}}
    params["dense_2"] = {"kernel": np.array([[1.0, -2.0]]), "bias": np.zeros(2)}
    image = jax.jit(net.apply)({"params": params}, z)
    np.testing.assert_allclose(image[0, 0, :, 0], np.tanh([-0.2, 0.4]), rtol=1e-5)
    judge = MLPDiscriminator((1,))
    params = {"dense_1": {"kernel": np.array([[1.0], [2.0]]), "bias": np.zeros(1)}}
    params["dense_2"] = {"kernel": np.full((1, 1), 3.0), "bias": np.ones(1)}
    logits = jax.jit(judge.apply)({"params": params}, np.array([[[[1.0], [-1.0]]]], np.float32))
    np.testing.assert_allclose(logits, 1 - 0.6, rtol=1e-5)


def test_fully_connected_networks_mirror_each_other():
    made, images = shaped(MLPGenerator((48, 40, 1)), 3, 100)
    judged, logits = shaped(MLPDiscriminator(), 3, 48, 40, 1)
    assert images.shape == (3, 48, 40, 1) and logits.shape == (3,)
    assert [made[f"dense_{n}"]["kernel"].shape for n in range(1, 6)] == [
        (100, 128), (128, 256), (256, 512), (512, 1024), (1024, 1920),
    ]  # fmt: skip
    assert [judged[f"dense_{n}"]["kernel"].shape[0] for n in range(1, 6)] == [1920, 1024, 512, 256, 128]
    assert {n for n in made if n.startswith("norm")} == {"norm_2", "norm_3", "norm_4"}


def test_first_values():
    key, shape = jax.random.key(0), (4, 4, 50, 80)
    for transposed, fan in ((False, 16 * 50), (True, 16 * 80)):
        values = kernel_init("uniform", transposed)(key, shape, jnp.float32)
        assert 0.99 < float(jnp.abs(values).max()) * fan**0.5 <= 1
        assert float(values.std()) * fan**0.5 == pytest.approx(3**-0.5, rel=0.02)
    values = kernel_init("normal")(key, shape, jnp.float32)
    assert float(values.std()) == pytest.approx(0.02, rel=0.02)
    assert (np.asarray(scale_init("uniform")(key, (9,), jnp.float32)) == 1).all()
    assert float(scale_init("normal")(key, (9999,)).std()) == pytest.approx(0.02, rel=0.05)
    with pytest.raises(ValueError, match="init 'he': expected one of uniform, normal"):
        kernel_init("he")


def test_networks_start_as_they_are_told():
    uniform, normal = (
        jax.jit(DCGANGenerator(8, 1, 32, i).init)(jax.random.key(0), np.zeros((1, 30), np.float32))["params"]
        for i in ("uniform", "normal")
    )
    assert float(jnp.abs(uniform["conv_2"]["kernel"]).max()) == pytest.approx(0.25, rel=0.02)  # 16 outputs
    assert float(normal["conv_1"]["kernel"].std()) == pytest.approx(0.02, rel=0.05)
    assert (np.asarray(uniform["norm_1"]["scale"]) == 1).all() and float(normal["norm_1"]["scale"].std()) > 0.005
