"""The patch discriminator's sizes, its field of view and its frozen use."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.nn.patchgan import PatchGAN

KEY = jax.random.key(0)


def shapes(net: PatchGAN, *shape: int):
    return jax.eval_shape(lambda: net.init_with_output(KEY, jnp.zeros(shape)))


def count(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize(
    ("norm", "channels", "parameters"),
    [("batch", 6, 2_768_705), ("batch", 2, 2_764_609), ("instance", 3, 2_764_737), ("instance", 1, 2_762_689)],
)
def test_parameters_of_the_reference(norm: str, channels: int, parameters: int) -> None:
    logits, variables = shapes(PatchGAN(norm=norm), 1, 256, 256, channels)
    assert logits.shape == (1, 30, 30, 1)
    assert count(variables["params"]) == parameters


@pytest.mark.parametrize(("layers", "field"), [(1, 16), (2, 34), (3, 70)])
def test_field_of_view(layers: int, field: int) -> None:
    """Exactly ``field`` pixels along an axis move one logit in the middle."""
    net, x = PatchGAN(ndf=2, layers=layers, norm="none"), jnp.zeros((1, 96, 96, 1))
    params = jax.tree.map(jnp.ones_like, net.init(KEY, x))
    middle = net.apply(params, x).shape[1] // 2
    touched = jax.jit(jax.grad(lambda x: net.apply(params, x)[0, middle, middle, 0]))(x)
    assert int((touched[0, :, :, 0].max(1) > 0).sum()) == field


def test_frozen_discriminator_keeps_the_statistics_of_its_last_real_pass() -> None:
    net = PatchGAN(ndf=4, layers=2)
    real, fake = (jax.random.uniform(jax.random.key(i), (2, 32, 32, 2), minval=-1) for i in (1, 2))
    variables = net.init(KEY, real)
    logits, captured = jax.jit(lambda v, x: net.apply(v, x, mutable=["given_stats"]))(variables, real)
    frozen = jax.jit(lambda v, x: net.apply(v, x, stats="given"))
    fed = {**variables, **captured}
    np.testing.assert_allclose(frozen(fed, real), logits, atol=1e-5)
    # Each fake is judged by itself, whatever stands beside it.
    np.testing.assert_allclose(frozen(fed, fake)[:1], frozen(fed, fake[:1]), atol=1e-5)
    assert jax.tree.structure(captured["given_stats"]) == jax.tree.structure(variables["batch_stats"])


def test_logits_are_float32_also_in_bfloat16() -> None:
    logits, _ = shapes(PatchGAN(ndf=4, dtype=jnp.bfloat16), 1, 32, 32, 2)
    assert logits.dtype == jnp.float32


def test_smallest_image_and_messages() -> None:
    assert shapes(PatchGAN(ndf=2), 1, 24, 24, 1)[0].shape == (1, 1, 1, 1)
    with pytest.raises(UserError, match="23 x 40 pixels: 3 layers need at least 24"):
        shapes(PatchGAN(ndf=2), 1, 23, 40, 1)
    with pytest.raises(UserError, match=r"expected \(batch, height, width, channels\)"):
        shapes(PatchGAN(), 64, 64, 1)
    with pytest.raises(UserError, match="0 layers"):
        shapes(PatchGAN(layers=0), 1, 64, 64, 1)
