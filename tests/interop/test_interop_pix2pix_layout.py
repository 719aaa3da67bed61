"""Key sets, shapes and messages of the U-Net and PatchGAN layouts; NumPy alone."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.interop import pix2pix_layout as layout
from medgen_jax.nn.patchgan import PatchGAN
from medgen_jax.nn.unet import UNet

NORMS = ("batch", "instance")


def variables(net: Any, *shape: int) -> tuple[dict, dict]:
    """Random numbers in the shapes of a network's parameters and statistics."""
    tree = jax.eval_shape(lambda: net.init(jax.random.key(0), jnp.zeros(shape)))
    rng = np.random.default_rng(0)
    tree = jax.tree.map(lambda leaf: rng.normal(size=leaf.shape).astype(np.float32), tree)
    return tree["params"], tree.get("batch_stats", {})


def unet_state(norm: str = "batch", downs: int = 6) -> dict[str, np.ndarray]:
    params, stats = variables(UNet(3, ngf=2, downs=downs, norm=norm), 1, 2**downs, 2**downs, 1)
    return layout.unet_to_torch(params, stats, norm=norm, batches_tracked=12)


def patchgan_state(norm: str = "batch", layers: int = 3) -> dict[str, np.ndarray]:
    params, stats = variables(PatchGAN(ndf=2, layers=layers, norm=norm), 1, 64, 64, 4)
    return layout.patchgan_to_torch(params, stats, norm=norm, batches_tracked=12)


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("downs", [5, 6, 8])
def test_unet_round_trip_is_exact(norm: str, downs: int) -> None:
    state = unet_state(norm, downs)
    params, stats, info = layout.unet_from_torch(state)
    assert (info.in_channels, info.out_channels, info.downs, info.norm) == (1, 3, downs, norm)
    assert info.ngf == 2
    assert info.parameters == sum(leaf.size for leaf in jax.tree.leaves(params))
    again = layout.unet_to_torch(params, stats, norm=norm, batches_tracked=info.batches_tracked)
    assert_same(again, state)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("layers", [1, 3, 4])
def test_patchgan_round_trip_is_exact(norm: str, layers: int) -> None:
    state = patchgan_state(norm, layers)
    params, stats, info = layout.patchgan_from_torch(state)
    assert (info.in_channels, info.ndf, info.layers, info.norm) == (4, 2, layers, norm)
    assert info.batches_tracked == (12 if norm == "batch" else 0)
    assert_same(layout.patchgan_to_torch(params, stats, norm=norm, batches_tracked=info.batches_tracked), state)


def test_unet_names_of_the_reference() -> None:
    """Eight levels: the nesting adds `.model.3` per level, the innermost has its own places."""
    params, stats = variables(UNet(3, ngf=1), 1, 256, 256, 3)
    names = set(layout.unet_to_torch(params, stats, norm="batch"))
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    wanted = {"model.model.0.weight", "model.model.3.weight", "model.model.3.bias"}
    prefix = "model.model.1"
    for _ in range(6):
        wanted |= {f"{prefix}.model.{place}.weight" for place in (1, 5)}
        wanted |= {f"{prefix}.model.{place}.{key}" for place in (2, 6) for key in norm}
        prefix += ".model.3"
    wanted |= {f"{prefix}.model.{place}.weight" for place in (1, 3)} | {f"{prefix}.model.4.{key}" for key in norm}
    assert names == wanted


def test_patchgan_names_of_the_reference() -> None:
    names = set(patchgan_state())
    wanted = {f"model.{place}.weight" for place in (0, 2, 3, 5, 6, 8, 9, 11)} | {"model.0.bias", "model.11.bias"}
    wanted |= {
        f"model.{place}.{key}"
        for place in (3, 6, 9)
        for key in ("bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert names == wanted


def test_axes_go_where_the_reference_has_them() -> None:
    params, stats = variables(UNet(3, ngf=2, downs=5), 1, 32, 32, 1)
    state = layout.unet_to_torch(params, stats, norm="batch")
    assert state["model.model.0.weight"].shape == (2, 1, 4, 4)
    assert state["model.model.3.weight"].shape == (4, 3, 4, 4)
    assert state["model.model.0.weight"][1, 0, 2, 3] == params["down_0"]["kernel"][2, 3, 0, 1]
    assert state["model.model.3.weight"][1, 2, 0, 3] == params["up_0"]["kernel"][0, 3, 1, 2]
    np.testing.assert_array_equal(state["model.model.1.model.6.running_var"], stats["up_norm_1"]["var"])


@pytest.mark.parametrize(
    ("make", "read", "place"),
    [
        (unet_state, layout.unet_from_torch, "model.model.1.model.2"),
        (patchgan_state, layout.patchgan_from_torch, "model.3"),
    ],
    ids=["unet", "patchgan"],
)
def test_old_statistics_of_instance_norm_are_dropped(make: Any, read: Any, place: str) -> None:
    state = make("instance")
    old = {f"{place}.{key}": np.ones(4, np.float32) for key in ("running_mean", "running_var")}
    params, stats, info = read({**state, **old, f"{place}.num_batches_tracked": np.array(5)})
    assert info.norm == "instance"
    assert stats == {}
    assert_same(params, read(state)[0])


def test_half_precision_weights_become_float32() -> None:
    state = {name: array.astype(np.float16) for name, array in patchgan_state().items()}
    params, stats, _ = layout.patchgan_from_torch(state)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, stats))} == {np.dtype(np.float32)}


def test_missing_and_unknown_names_are_listed() -> None:
    state = patchgan_state()
    state["model.12.weight"] = state["extra"] = np.zeros(1)
    del state["model.9.running_var"]
    with pytest.raises(
        UserError, match=r"PatchGAN.*lacks model\.9\.running_var; it has unknown extra, model\.12\.weight"
    ):
        layout.patchgan_from_torch(state)
    state = unet_state()
    del state["model.model.1.model.3.model.1.weight"]  # everything further in loses its parent
    with pytest.raises(UserError, match=r"U-Net weights: the file .* and \d+ more"):
        layout.unet_from_torch(state)


def test_the_file_of_another_network_is_recognised() -> None:
    with pytest.raises(UserError, match=r"U-Net.*model\.model\.0\.weight.*another network"):
        layout.unet_from_torch(patchgan_state())
    with pytest.raises(UserError, match=r"PatchGAN.*model\.0\.weight.*another network"):
        layout.patchgan_from_torch(unet_state())


def test_wrong_shapes_are_named() -> None:
    state = unet_state()
    name = "model.model.1.model.5.weight"
    state[name] = state[name][:, :, :3]
    with pytest.raises(
        UserError, match=r"model\.model\.1\.model\.5\.weight has shape \(8, 2, 3, 4\), expected \(8, 2, 4, 4\)"
    ):
        layout.unet_from_torch(state)


def test_networks_without_a_counterpart_are_refused() -> None:
    params, stats = variables(UNet(1, ngf=2, downs=5, upsample="nearest_conv"), 1, 32, 32, 1)
    with pytest.raises(UserError, match=r"params/up_\d/kernel has shape .* the layout needs"):
        layout.unet_to_torch(params, stats, norm="batch")
    params, stats = variables(PatchGAN(ndf=2, norm="none"), 1, 32, 32, 1)
    with pytest.raises(UserError, match="norm 'none' has no counterpart"):
        layout.patchgan_to_torch(params, stats, norm="none")
    params, stats = variables(PatchGAN(ndf=2), 1, 32, 32, 1)
    with pytest.raises(UserError, match=r"batch_stats/norm_1/mean has no counterpart"):
        layout.patchgan_to_torch(params, stats, norm="instance")
    with pytest.raises(UserError, match=r"no batch_stats/norm_1/mean"):
        layout.patchgan_to_torch(params, {}, norm="batch")


def test_reference_without_any_norm_is_refused() -> None:
    state = {name: array for name, array in patchgan_state("instance").items() if name != "model.2.bias"}
    with pytest.raises(UserError, match=r"neither model\.3\.weight \(batch norm\) nor model\.2\.bias"):
        layout.patchgan_from_torch(state)
