"""The residual generator: sizes, counts, options, and what is refused."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.nn.resnet_generator import ResNetGenerator, valid_size

KEY = jax.random.key(0)


def shapes(net: ResNetGenerator, *shape: int) -> tuple:
    return jax.eval_shape(net.init_with_output, KEY, jax.ShapeDtypeStruct(shape, jnp.float32))


@pytest.mark.parametrize(("channels", "count"), [((3, 3), 11_378_179), ((1, 1), 11_365_633)])
def test_parameters_of_the_reference(channels: tuple[int, int], count: int) -> None:
    y, variables = shapes(ResNetGenerator(channels[1]), 1, 256, 256, channels[0])
    assert y.shape == (1, 256, 256, channels[1]) and y.dtype == jnp.float32
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


@pytest.fixture(scope="module")
def small():
    net = ResNetGenerator(2, ngf=4, blocks=2)
    x = jax.random.uniform(KEY, (2, 16, 24, 2), minval=-1)
    return net, jax.jit(net.init)(KEY, x), x


def test_residual_adds_the_input(small) -> None:
    net, variables, x = small
    plain = jax.jit(net.apply)(variables, x)
    added = jax.jit(ResNetGenerator(2, ngf=4, blocks=2, residual=True).apply)(variables, x)
    np.testing.assert_allclose(added, plain + x, atol=1e-6)
    assert float(jnp.abs(plain).max()) < 1


@pytest.mark.parametrize(("size", "nearest"), [(250, 252), (1, 8), (8, 8), (1023, 1024)])
def test_valid_size_is_the_nearest_multiple(size: int, nearest: int) -> None:
    assert valid_size(size) == nearest


def test_wrong_inputs_are_explained() -> None:
    with pytest.raises(UserError, match=r"250 x 401 pixels.*multiples of 4 from 8 on.*nearest valid size is 252 x 400"):
        shapes(ResNetGenerator(1), 1, 250, 401, 1)
    with pytest.raises(UserError, match=r"expected \(batch, height, width, channels\)"):
        shapes(ResNetGenerator(1), 256, 256, 1)
    with pytest.raises(UserError, match="equal channels, not 1 and 3"):
        shapes(ResNetGenerator(3, residual=True), 1, 16, 16, 1)
