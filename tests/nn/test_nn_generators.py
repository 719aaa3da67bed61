"""What the translation networks have in common: dropout on request, given statistics, blank tiles."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.nn.resnet_generator import ResNetGenerator
from medgen_jax.nn.unet import UNet

KEY = jax.random.key(0)
BLANK = {
    "unet": (UNet(1, ngf=2, downs=5), 32, ("batch", "instance"), (jnp.bfloat16,)),
    "resnet": (
        ResNetGenerator(1, ngf=2, blocks=1, upsample="nearest_conv"),
        8,
        ("batch", "instance", "sample"),
        (jnp.float32, jnp.bfloat16),
    ),
}


@pytest.fixture(
    scope="module",
    params=[(UNet(1, ngf=4, downs=6), (64, 64)), (ResNetGenerator(1, ngf=4, blocks=2, dropout=0.5), (16, 24))],
    ids=["unet", "resnet"],
)
def small(request):
    net, size = request.param
    x = jax.random.uniform(KEY, (2, *size, 1), minval=-1)
    return net, jax.jit(net.init)(KEY, x), x


def test_dropout_draws_only_when_asked(small) -> None:
    net, variables, x = small
    apply = jax.jit(net.apply, static_argnames=("dropout",))
    still = apply(variables, x)
    drawn = [apply(variables, x, rngs={"dropout": jax.random.key(i)}, dropout=True) for i in (1, 1, 2)]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert float(jnp.abs(drawn[0] - drawn[2]).max()) > 1e-6
    assert float(jnp.abs(drawn[0] - still).max()) > 1e-6


def test_given_statistics_make_tiles_agree(small) -> None:
    """The statistics of a first pass make each tile what it was among the others."""
    net, variables, x = small
    whole, captured = jax.jit(lambda v, x: net.apply(v, x, stats="pooled", mutable=["given_stats"]))(variables, x)
    given = jax.jit(lambda v, x: net.apply(v, x, stats="given"))({**variables, **captured}, x[1:])
    np.testing.assert_allclose(given, whole[1:], atol=1e-5)
    alone = jax.jit(net.apply)(variables, x[1:])
    assert float(jnp.abs(alone - given).max()) > 1e-4


@pytest.mark.parametrize(
    ("net", "size"),
    [
        pytest.param(net.clone(norm=norm, dtype=dtype), size, id=f"{name}-{norm}-{jnp.dtype(dtype)}")
        for name, (net, size, norms, dtypes) in BLANK.items()
        for norm in norms
        for dtype in dtypes
    ],
)
def test_a_blank_tile_has_finite_output_and_gradients(net, size: int) -> None:
    x = jnp.ones((1, size, size, 1))
    params = jax.jit(net.init)(KEY, x)["params"]

    @jax.jit
    def loss_and_gradient(params, x):
        return jax.value_and_grad(lambda p, x: jnp.mean(net.apply({"params": p}, x)), argnums=(0, 1))(params, x)

    loss, gradients = loss_and_gradient(params, x)
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
