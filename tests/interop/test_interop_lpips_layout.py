"""Packs of LPIPS become variables of the networks: names, order, dtypes, messages."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.interop import packs
from medgen_jax.interop.lpips_layout import variables_from_pack
from medgen_jax.nn import lpips

NETS = ("alex", "vgg")
Arrays = dict[str, np.ndarray]


def pack(net: str, dtype: type = np.float32) -> tuple[Arrays, Arrays]:
    """A backbone whose i-th convolution holds i, with shapes from the network, and heads that hold their layer."""
    module = lpips.NETS[net]()
    shapes = jax.eval_shape(module.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 31, 31, 3), jnp.float32))
    backbone = {}
    for i, layer in enumerate(module.LAYERS):
        for kind, leaf in shapes["params"][f"conv{layer.name}"].items():
            backbone[f"Conv_{i}/{kind}"] = np.full(leaf.shape, i, dtype)
    widths = {f"relu{layer.name}": layer.features for layer in module.LAYERS}
    heads = {f"{net}_lin{i}": np.full(widths[tap], i, np.float32) for i, tap in enumerate(module.TAPS)}
    return backbone, heads | {"squeeze_lin0": np.zeros(64, np.float32)}


@pytest.mark.parametrize("net", NETS)
def test_every_layer_gets_its_own_arrays(net: str) -> None:
    variables = variables_from_pack(*pack(net, np.float16), net)
    module = lpips.NETS[net]()
    assert list(variables["params"]) == [f"conv{layer.name}" for layer in module.LAYERS]
    assert list(variables["heads"]) == list(module.TAPS)
    for i, layer in enumerate(module.LAYERS):
        assert all((leaf == i).all() for leaf in variables["params"][f"conv{layer.name}"].values())
    assert [head[0] for head in variables["heads"].values()] == [0, 1, 2, 3, 4]
    assert {leaf.dtype for leaf in jax.tree.leaves(variables)} == {np.dtype(np.float32)}


@pytest.mark.parametrize("net", NETS)
def test_the_network_runs_on_them(net: str) -> None:
    variables = variables_from_pack(*pack(net), net)
    x = jax.ShapeDtypeStruct((2, 31, 31, 1), jnp.float32)
    assert jax.eval_shape(lambda v, x: lpips.distance(v, x, x, net), variables, x).shape == (2,)


def test_a_backbone_alone_is_enough_for_features() -> None:
    variables = variables_from_pack(pack("vgg")[0], None, "vgg")
    assert set(variables) == {"params"}
    x = jax.ShapeDtypeStruct((1, 8, 8, 3), jnp.float32)
    assert jax.eval_shape(lpips.features, variables, x)["relu3_3"].shape == (1, 2, 2, 256)


def test_published_packs(shared) -> None:
    """Rounded and exact weights; the heads lie in a file of their own."""
    heads = packs.read_npz(shared / "weights" / "lpips_lin_v0_1.npz")
    for net, file in (("alex", "lpips_alexnet_fp32.npz"), ("vgg", "lpips_vgg16_fp16.npz")):
        variables = variables_from_pack(packs.read_pack(shared / "weights" / file), heads, net)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(variables))
        assert all(head.min() >= 0 and head.max() > 0 for head in variables["heads"].values())


def test_missing_names_are_listed() -> None:
    backbone, heads = pack("alex")
    with pytest.raises(
        UserError, match=r"vgg backbone: the pack lacks Conv_5/kernel, .* and 13 more; is it the pack of"
    ):
        variables_from_pack(backbone, heads, "vgg")
    del backbone["Conv_3/bias"]
    with pytest.raises(UserError, match=r"alex backbone: the pack lacks Conv_3/bias;"):
        variables_from_pack(backbone, heads, "alex")
    with pytest.raises(UserError, match=r"vgg heads: the pack lacks vgg_lin0, .*vgg_lin2 and 2 more"):
        variables_from_pack(pack("vgg")[0], heads, "vgg")


def test_wrong_arrays_are_named() -> None:
    backbone, heads = pack("alex")
    turned = backbone | {"Conv_1/kernel": backbone["Conv_1/kernel"].transpose(3, 2, 0, 1)}
    with pytest.raises(UserError, match=r"Conv_1/kernel has shape \(192, 64, 5, 5\), expected \(5, 5, 64, 192\)"):
        variables_from_pack(turned, heads, "alex")
    with pytest.raises(UserError, match=r"Conv_0/bias holds NaN or infinity"):
        variables_from_pack(backbone | {"Conv_0/bias": np.full(64, np.inf)}, heads, "alex")
    with pytest.raises(UserError, match=r"alex_lin2 holds -0.5; a distance has no negative weights"):
        variables_from_pack(backbone, heads | {"alex_lin2": np.full(384, -0.5)}, "alex")
    with pytest.raises(UserError, match=r"network 'squeeze': expected one of alex, vgg"):
        variables_from_pack(backbone, heads, "squeeze")
