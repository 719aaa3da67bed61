"""DCGAN's weight layout: round trips, names, our networks' trees, the twins' state dicts, wrong files by name."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.interop import dcgan_layout as layout
from medgen_jax.interop.dcgan_layout import Info
from medgen_jax.nn.dcgan import DCGANDiscriminator, DCGANGenerator

SMALL = Info(16, 1, 5, 2, 3)
LARGE = Info(128, 3, 7, 2, 2)  # five doublings, so that widths meet their limit


def shapes(info: Info) -> dict[str, Any]:
    """``(params, batch_stats)`` of our own networks."""
    key, image = jax.random.key(0), jnp.zeros((1, info.size, info.size, info.channels))
    trees = {
        "g": jax.eval_shape(DCGANGenerator(info.size, info.channels, info.ngf).init, key, jnp.zeros((1, info.latent))),
        "d": jax.eval_shape(DCGANDiscriminator(info.ndf).init, key, image),
    }
    return {name: (tree["params"], tree["batch_stats"]) for name, tree in trees.items()}


def networks_of(info: Info) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.asarray(rng.standard_normal(leaf.shape), np.float32), shapes(info))


def flat(states: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {f"{network}.{name}": array for network, state in states.items() for name, array in state.items()}


def same(one: Any, other: Any) -> bool:
    return all(jax.tree.leaves(jax.tree.map(np.array_equal, one, other)))


@pytest.mark.parametrize("info", [SMALL, LARGE], ids=["small", "large"])
def test_round_trip(info: Info) -> None:
    networks = networks_of(info)
    state = flat(layout.to_torch(networks, info, batches_tracked=7))
    assert layout.networks_info(state) == info
    found = layout.from_torch(state, info)
    assert jax.tree.structure(found) == jax.tree.structure(networks) and same(found, networks)
    assert int(state["generator.bn1.num_batches_tracked"]) == 7
    again = flat(layout.to_torch(found, info, batches_tracked=7))
    assert list(again) == list(state) and same(again, state)


def test_names_and_axes_of_the_published_size() -> None:
    info = Info(64, 3, 100, 64, 64)
    names = {network: {row.name for row in layout.network_rows(network, info)} for network in "gd"}
    norm = ("weight", "bias", "running_mean", "running_var")
    assert names["g"] == {f"tconv{n}.weight" for n in range(1, 6)} | {f"bn{n}.{k}" for n in range(1, 5) for k in norm}
    assert names["d"] == {f"conv{n}.weight" for n in range(1, 6)} | {f"bn{n}.{k}" for n in range(2, 5) for k in norm}
    counts = {
        network: sum(np.prod(row.shape) for row in layout.network_rows(network, info) if row.path[0] == "params")
        for network in "gd"
    }
    assert counts == {"g": 3_576_704, "d": 2_765_568}
    networks = networks_of(SMALL)
    state = layout.to_torch(networks, SMALL)
    kernels = (networks["g"][0]["conv_1"]["kernel"], networks["d"][0]["conv_2"]["kernel"])
    np.testing.assert_array_equal(state["generator"]["tconv1.weight"], kernels[0].transpose(2, 3, 0, 1))
    np.testing.assert_array_equal(state["discriminator"]["conv2.weight"], kernels[1].transpose(3, 2, 0, 1))


def test_a_generator_alone_and_what_else_a_file_holds() -> None:
    states = layout.to_torch(networks_of(SMALL), SMALL)
    alone = layout.networks_info(states["generator"])
    assert alone == Info(16, 1, 5, 2, None) and list(layout.from_torch(states["generator"], alone)) == ["g"]
    more = {"optimizerG.state.0.exp_avg": np.zeros(1), "optimizerD.x": np.zeros(1), "params.nz": np.array(5)}
    assert same(layout.from_torch(flat(states) | more, SMALL), layout.from_torch(flat(states), SMALL))


def without(start: str) -> dict[str, np.ndarray]:
    state = flat(layout.to_torch(networks_of(SMALL), SMALL))
    return {name: array for name, array in state.items() if not name.startswith(start)}


@pytest.mark.parametrize(
    ("state", "words"),
    [
        (without("generator"), "the file holds no generator"),
        ({"model.0.weight": np.zeros(1)}, r"model\.0\.weight is of none of the networks generator, discriminator"),
        (without("generator.tconv2"), "generator weights: 1 layer;"),
        (without("generator.tconv1"), r"no tensor tconv1\.weight with 4 axes"),
        (without("discriminator.conv1"), r"discriminator weights: no tensor conv1\.weight"),
        (without("generator.bn2.running_var"), r"generator weights: the file lacks bn2\.running_var"),
        (without("discriminator.conv3"), r"discriminator weights: the file lacks conv3\.weight"),
        (without("x") | {"generator.tconv1.bias": np.zeros(4)}, r"the file has unknown tconv1\.bias"),
        (without("x") | {"generator.bn1.weight": np.zeros(5)}, r"bn1\.weight has shape \(5,\), expected \(4,\)"),
    ],
)
def test_wrong_files_are_named(state: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(UserError, match=words):
        layout.from_torch(state, layout.networks_info(state))


@pytest.mark.parity
def test_state_dicts_of_the_twins() -> None:
    pytest.importorskip("torch", reason="needs PyTorch")
    import latent_layout

    from twins import dcgan as twins

    nets = {"generator": twins.Generator(1, 5, 2, 2), "discriminator": twins.Discriminator(1, 3, 2)}
    states = {name: net.state_dict() for name, net in nets.items()}
    state = flat({name: {key: tensor.numpy() for key, tensor in own.items()} for name, own in states.items()})
    assert layout.networks_info(state) == SMALL
    found = layout.from_torch(state, SMALL)
    assert same(found, {"g": latent_layout.ours(states["generator"]), "d": latent_layout.ours(states["discriminator"])})
