"""StarGAN v2's weight layout: round trips, the twins' own state dicts and files, wrong files by name."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.interop import stargan_v2_layout as layout
from medgen_jax.interop.torch_file import read_state_dict
from medgen_jax.nn.stargan_v2 import Discriminator, Generator, MappingNetwork, StyleEncoder

PLAIN = layout.Info(32, 1, 4, 6, 2, 5, 3, 7, 0.0)
SKIPS = layout.Info(32, 3, 2, 16, 3, 5, 3, 7, 2.5)


def shapes(info: layout.Info) -> dict[str, Any]:
    """Parameter trees of our own networks."""
    sizes = {"size": info.size, "channels": info.channels, "width": info.width, "max_width": info.max_width}
    key, x = jax.random.key(0), jnp.zeros((1, info.size, info.size, info.channels))
    label, style = jnp.zeros(1, jnp.int32), jnp.zeros((1, info.style_width))
    mapping = MappingNetwork(info.domains, info.style_width, info.hidden)
    encoder = StyleEncoder(**sizes, domains=info.domains, style_width=info.style_width)
    trees = (
        jax.eval_shape(Generator(**sizes, w_hpf=info.w_hpf).init, key, x, style),
        jax.eval_shape(mapping.init, key, jnp.zeros((1, info.latent_width)), label),
        jax.eval_shape(encoder.init, key, x, label),
        jax.eval_shape(Discriminator(**sizes, domains=info.domains).init, key, x, label),
    )
    return {name: tree["params"] for name, tree in zip(layout.NETWORKS, trees, strict=True)}


def state_of(info: layout.Info, count: int = 4) -> dict[str, np.ndarray]:
    """A file's tensors with random values."""
    rng = np.random.default_rng(0)
    state = {
        f"{network}.{row.name}": rng.standard_normal(row.shape).astype(np.float32)
        for network in layout.NETWORKS[:count]
        for row in layout.network_rows(network, info)
    }
    return state | ({"generator.hpf.filter": layout.high_pass_filter(info.w_hpf)} if info.w_hpf else {})


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return set(a) == set(b) and all(np.array_equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("info", [PLAIN, SKIPS], ids=["plain", "skips"])
def test_round_trip(info: layout.Info) -> None:
    """The file tells its sizes; its tensors fill our networks' trees and come back as they were."""
    state = state_of(info)
    assert layout.networks_info(state) == info
    params = layout.from_torch(state, info)
    want = shapes(info)
    assert jax.tree.map(np.shape, params) == jax.tree.map(lambda leaf: leaf.shape, want)
    assert same(layout.to_torch(params, info), state)
    parallel = layout.to_torch(params, info, data_parallel=True)
    assert all(name.split(".")[1] == "module" for name in parallel)
    assert layout.networks_info(parallel) == info
    assert same(layout.to_torch(layout.from_torch(parallel, info), info), state)


def test_without_discriminator_and_with_a_landmark_network() -> None:
    state = state_of(PLAIN, 3)
    assert list(layout.from_torch({**state, "fan.conv1.weight": np.zeros(3)}, PLAIN)) == list(layout.NETWORKS[:3])
    assert same(layout.to_torch(layout.from_torch(state, PLAIN), PLAIN), state)


def test_axes() -> None:
    state = state_of(PLAIN)
    params = layout.from_torch({name: array.astype(np.float16) for name, array in state.items()}, PLAIN)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    half = {name: array.astype(np.float16).astype(np.float32) for name, array in state.items()}
    generator = params["generator"]
    np.testing.assert_array_equal(
        generator["decode_2"]["conv_1"]["kernel"], half["generator.decode.2.conv1.weight"].transpose(2, 3, 1, 0)
    )
    np.testing.assert_array_equal(
        generator["decode_0"]["norm_2"]["told"]["kernel"], half["generator.decode.0.norm2.fc.weight"].T
    )
    np.testing.assert_array_equal(
        params["mapping_network"]["domain_1_3"]["kernel"], half["mapping_network.unshared.1.6.weight"].T
    )
    np.testing.assert_array_equal(
        params["discriminator"]["judge"]["kernel"][0, 0], half["discriminator.main.7.weight"][:, :, 0, 0].T
    )


def test_a_filter_that_is_not_in_the_file() -> None:
    state = state_of(SKIPS)
    del state["generator.hpf.filter"]
    with pytest.raises(UserError, match="filter is not in the file; say with which w_hpf"):
        layout.networks_info(state)
    assert layout.networks_info(state, w_hpf=2.5) == SKIPS


def without(info: layout.Info, start: str) -> dict[str, np.ndarray]:
    return {name: array for name, array in state_of(info).items() if not name.startswith(start)}


@pytest.mark.parametrize(
    ("state", "w_hpf", "words"),
    [
        (without(PLAIN, "style_encoder"), None, "the file lacks the network style_encoder"),
        ({"model.0.weight": np.zeros(1)}, None, r"model.0.weight is of none of the networks gen.*another project"),
        (without(PLAIN, "generator.from_rgb"), None, "generator weights: no tensor from_rgb.weight with 4 axes"),
        (without(PLAIN, "generator.encode.2"), None, "end at neither 16 nor 8"),
        (without(PLAIN, "style_encoder.shared.2"), None, "style_encoder weights: 1 blocks"),
        (state_of(PLAIN), 1.0, "w_hpf 1.0: the generator in this file has no high-pass skips"),
        (state_of(SKIPS), 0.0, "w_hpf 0.0: .* must be above 0"),
        (state_of(SKIPS), 1.0, "w_hpf 1.0: the filter in this file says 2.5"),
    ],
)
def test_wrong_files_are_named(state: dict[str, np.ndarray], w_hpf: float | None, words: str) -> None:
    with pytest.raises(UserError, match=words):
        layout.networks_info(state, w_hpf=w_hpf)


def test_wrong_tensors_and_parameters_are_named() -> None:
    state = state_of(PLAIN)
    with pytest.raises(UserError, match=r"mapping_network weights: shared.0.weight has shape \(7, 3\), expected"):
        layout.from_torch(state, dataclasses.replace(PLAIN, latent_width=9))
    with pytest.raises(UserError, match=r"discriminator weights: the file lacks main.1.conv1x1.weight"):
        layout.from_torch(without(PLAIN, "discriminator.main.1.conv1x1"), PLAIN)
    params = layout.from_torch(state, PLAIN)
    with pytest.raises(UserError, match="unknown network critic"):
        layout.to_torch({**params, "critic": {}}, PLAIN)
    with pytest.raises(UserError, match="no network generator"):
        layout.to_torch({"mapping_network": {}}, PLAIN)
    with pytest.raises(UserError, match="mapping_network weights: no params/domain_2_0/kernel"):
        layout.to_torch(params, dataclasses.replace(PLAIN, domains=3))


@pytest.mark.parity
@pytest.mark.parametrize("info", [PLAIN, SKIPS], ids=["plain", "skips"])
@pytest.mark.parametrize("parallel", [False, True], ids=["bare", "parallel"])
def test_files_of_the_twins(info: layout.Info, parallel: bool, tmp_path: pathlib.Path) -> None:
    torch = pytest.importorskip("torch")
    from twins import stargan_v2 as twins

    sizes = {"widest": info.max_width, "channels": info.channels, "width": info.width}
    nets = {
        "generator": twins.Generator(info.size, info.style_width, w_hpf=info.w_hpf, **sizes),
        "mapping_network": twins.MappingNetwork(info.latent_width, info.style_width, info.domains, info.hidden),
        "style_encoder": twins.StyleEncoder(info.size, info.style_width, info.domains, **sizes),
        "discriminator": twins.Discriminator(info.size, info.domains, **sizes),
    }
    saved = {n: (torch.nn.DataParallel(net) if parallel else net).state_dict() for n, net in nets.items()}
    torch.save(saved, tmp_path / "000000_nets.ckpt")
    state = read_state_dict(tmp_path / "000000_nets.ckpt")
    assert layout.networks_info(state) == info
    back = layout.to_torch(layout.from_torch(state, info), info, data_parallel=parallel)
    for network, net in nets.items():
        (torch.nn.DataParallel(net) if parallel else net).load_state_dict(
            {
                name.removeprefix(f"{network}."): torch.from_numpy(array)
                for name, array in back.items()
                if name.startswith(f"{network}.")
            }
        )
    assert set(back) == {f"{network}.{name}" for network, own in saved.items() for name in own}
    assert all(
        np.array_equal(back[f"{network}.{name}"], tensor.numpy())
        for network, own in saved.items()
        for name, tensor in own.items()
    )
