"""Both StyleGAN2 weight layouts: round trips, names, our networks' trees, wrong files by name."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.interop import stylegan2_ada_layout as ada
from medgen_jax.interop import stylegan2_rosinality_layout as rosinality
from medgen_jax.interop import stylegan2_tables as tables
from medgen_jax.interop.stylegan2_tables import Info
from medgen_jax.nn.stylegan2 import Discriminator, Generator

PLAIN = Info(16, 3, 0, 5, 5, 2, 48, 8)
CLASSES = Info(16, 1, 3, 4, 5, 2, 48, 8, judge_layers=3)
NO_DEVIATION = dataclasses.replace(PLAIN, deviation=False)
CASES = [(ada, PLAIN), (ada, CLASSES), (ada, NO_DEVIATION), (rosinality, PLAIN)]
IDS = ["ada", "ada-classes", "ada-no-deviation", "rosinality"]


@functools.cache
def shapes_of(info: Info) -> dict[str, dict[str, Any]]:
    """Collections of all networks of our modules."""
    sizes = {"channel_base": info.channel_base, "channel_max": info.channel_max}
    generator = Generator(info.size, info.channels, info.classes, info.z_dim, info.w_dim, info.map_layers, **sizes)
    group = 4 if info.deviation else 0
    judge = Discriminator(
        info.size, info.channels, info.classes, info.judge_layers or 1, minibatch_group=group, **sizes
    )
    labels = jnp.zeros(1, jnp.int32) if info.classes else None
    image = jnp.zeros((1, info.size, info.size, info.channels))
    key = jax.random.key(0)
    shapes = {
        "g": jax.eval_shape(lambda: generator.init(key, jnp.zeros((1, info.z_dim)), labels, noise="const")),
        "d": jax.eval_shape(lambda: judge.init(key, image, labels)),
    }
    return shapes | {"g_ema": shapes["g"]}


def networks_of(info: Info) -> dict[str, dict[str, Any]]:
    """The same with random values."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda leaf: np.asarray(rng.standard_normal(leaf.shape), np.float32), shapes_of(info))


def flat(states: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Names joined by dots, as files are read."""
    found: dict[str, np.ndarray] = {}
    for network, state in states.items():
        found |= {f"{network}.{n}": a for n, a in state.items()} if isinstance(state, Mapping) else {network: state}
    return found


def same(one: Any, other: Any) -> bool:
    equal = jax.tree.map(lambda a, b: a.dtype == b.dtype and np.array_equal(a, b), one, other)
    return all(jax.tree.leaves(equal))


@pytest.mark.parametrize(("module", "info"), CASES, ids=IDS)
def test_round_trip(module: Any, info: Info) -> None:
    """What a file is made of comes back bit by bit, and the file tells all sizes."""
    networks = networks_of(info)
    state = flat(module.to_torch(networks, info))
    assert module.networks_info(state) == info
    found = module.from_torch(state, info)
    if module is rosinality:  # one average in the file, for both generators
        networks["g"]["averages"] = networks["g_ema"]["averages"]
    assert jax.tree.structure(found) == jax.tree.structure(networks)
    assert same(found, networks)
    again = flat(module.to_torch(found, info))
    assert list(again) == list(state) and same(again, state)


@pytest.mark.parametrize(("module", "info"), [CASES[1], CASES[3]], ids=[IDS[1], IDS[3]])
def test_one_generator_alone_is_the_averaged_one(module: Any, info: Info) -> None:
    networks = networks_of(info)
    named = {ada: "G_ema", rosinality: "g_ema"}[module]
    state = module.to_torch(networks, info)[named]
    alone = dataclasses.replace(info, judge_layers=0)
    assert module.networks_info(state) == alone
    found = module.from_torch({name: array.astype(np.float16) for name, array in state.items()}, alone)
    assert list(found) == ["g_ema"]
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {np.dtype(np.float32)}


ROSINALITY_GENERATOR = """
style.1.weight style.1.bias style.2.weight style.2.bias input.input
conv1.conv.weight conv1.conv.modulation.weight conv1.conv.modulation.bias conv1.noise.weight conv1.activate.bias
to_rgb1.bias to_rgb1.conv.weight to_rgb1.conv.modulation.weight to_rgb1.conv.modulation.bias
convs.0.conv.weight convs.0.conv.blur.kernel convs.0.conv.modulation.weight convs.0.conv.modulation.bias
convs.0.noise.weight convs.0.activate.bias
convs.1.conv.weight convs.1.conv.modulation.weight convs.1.conv.modulation.bias convs.1.noise.weight
convs.1.activate.bias to_rgbs.0.bias to_rgbs.0.upsample.kernel to_rgbs.0.conv.weight
to_rgbs.0.conv.modulation.weight to_rgbs.0.conv.modulation.bias noises.noise_0 noises.noise_1 noises.noise_2
"""
ROSINALITY_DISCRIMINATOR = """
convs.0.0.weight convs.0.1.bias convs.1.conv1.0.weight convs.1.conv1.1.bias convs.1.conv2.0.kernel
convs.1.conv2.1.weight convs.1.conv2.2.bias convs.1.skip.0.kernel convs.1.skip.1.weight
final_conv.0.weight final_conv.1.bias final_linear.0.weight final_linear.0.bias final_linear.1.weight
final_linear.1.bias
"""
ADA_GENERATOR = """
mapping.fc0.weight mapping.fc0.bias mapping.fc1.weight mapping.fc1.bias mapping.w_avg
synthesis.b4.resample_filter synthesis.b4.const synthesis.b4.conv1.weight synthesis.b4.conv1.noise_strength
synthesis.b4.conv1.bias synthesis.b4.conv1.resample_filter synthesis.b4.conv1.noise_const
synthesis.b4.conv1.affine.weight synthesis.b4.conv1.affine.bias synthesis.b4.torgb.weight synthesis.b4.torgb.bias
synthesis.b4.torgb.affine.weight synthesis.b4.torgb.affine.bias
synthesis.b8.resample_filter synthesis.b8.conv0.weight synthesis.b8.conv0.noise_strength synthesis.b8.conv0.bias
synthesis.b8.conv0.resample_filter synthesis.b8.conv0.noise_const synthesis.b8.conv0.affine.weight
synthesis.b8.conv0.affine.bias synthesis.b8.conv1.weight synthesis.b8.conv1.noise_strength synthesis.b8.conv1.bias
synthesis.b8.conv1.resample_filter synthesis.b8.conv1.noise_const synthesis.b8.conv1.affine.weight
synthesis.b8.conv1.affine.bias synthesis.b8.torgb.weight synthesis.b8.torgb.bias synthesis.b8.torgb.affine.weight
synthesis.b8.torgb.affine.bias
"""
ADA_DISCRIMINATOR = """
b8.resample_filter b8.fromrgb.weight b8.fromrgb.bias b8.fromrgb.resample_filter b8.conv0.weight b8.conv0.bias
b8.conv0.resample_filter b8.conv1.weight b8.conv1.bias b8.conv1.resample_filter b8.skip.weight
b8.skip.resample_filter b4.conv.weight b4.conv.bias b4.conv.resample_filter b4.fc.weight b4.fc.bias b4.out.weight
b4.out.bias
"""


@pytest.mark.parametrize(
    ("module", "network", "names"),
    [
        (rosinality, "g_ema", ROSINALITY_GENERATOR),
        (rosinality, "d", ROSINALITY_DISCRIMINATOR),
        (ada, "g_ema", ADA_GENERATOR),
        (ada, "d", ADA_DISCRIMINATOR),
    ],
)
def test_names_of_the_smallest_networks(module: Any, network: str, names: str) -> None:
    info = dataclasses.replace(PLAIN, size=8)
    found = {row.name for row in module.tensors(network, info)} | set(module.filters(network, info))
    assert found == set(names.split())


def test_shapes_and_axes_that_differ_between_the_layouts() -> None:
    """The same networks in both: axes of length 1 before kernels and around biases, strengths and noises."""
    networks = networks_of(PLAIN)
    one, other = ada.to_torch(networks, PLAIN), rosinality.to_torch(networks, PLAIN)
    pairs = {
        "synthesis.b16.conv0.weight": "convs.2.conv.weight",
        "synthesis.b16.conv1.noise_const": "noises.noise_4",
        "synthesis.b8.conv0.noise_strength": "convs.0.noise.weight",
        "synthesis.b4.const": "input.input",
        "synthesis.b8.torgb.bias": "to_rgbs.0.bias",
        "mapping.fc1.weight": "style.2.weight",
    }
    for theirs, named in pairs.items():
        a, b = one["G_ema"][theirs], other["g_ema"][named]
        assert a.size == b.size and np.array_equal(a.ravel(), b.ravel()), named
    assert other["g_ema"]["convs.2.conv.weight"].shape == (1, 3, 6, 3, 3)
    assert other["g_ema"]["noises.noise_4"].shape == (1, 1, 16, 16)
    assert other["g_ema"]["convs.0.noise.weight"].shape == (1,) and one["G_ema"]["mapping.w_avg"].shape == (5,)
    assert other["g_ema"]["to_rgbs.0.bias"].shape == (1, 3, 1, 1)
    params = networks["g_ema"]["params"]["synthesis"]
    kernel = params["conv_16_0"]["kernel"]
    np.testing.assert_array_equal(one["G_ema"]["synthesis.b16.conv0.weight"], kernel.transpose(3, 2, 0, 1))
    np.testing.assert_array_equal(one["G_ema"]["synthesis.b4.const"], params["const"].transpose(2, 0, 1))
    # Rows of the head's layer are pixels of all channels in turn there, channels of all pixels in turn here.
    head = networks["d"]["params"]["hidden"]["kernel"].reshape(4, 4, 8, 8)
    np.testing.assert_array_equal(one["D"]["b4.fc.weight"].reshape(8, 8, 4, 4), head.transpose(3, 2, 0, 1))
    gains = [other["g_ema"]["convs.0.conv.blur.kernel"].sum(), other["d"]["convs.1.skip.0.kernel"].sum()]
    np.testing.assert_allclose(gains, [4, 1], rtol=1e-6)


def test_entries_that_are_no_networks_are_left_out() -> None:
    state = flat(rosinality.to_torch(networks_of(PLAIN), PLAIN))
    more = {"g_optim.state.0.exp_avg": np.zeros(3), "ada_aug_p": np.zeros(())}
    assert same(rosinality.from_torch(state | more, PLAIN), rosinality.from_torch(state, PLAIN))
    state = flat(ada.to_torch(networks_of(CLASSES), CLASSES))
    assert list(ada.split(state | {"augment_pipe.p": np.zeros(())})) == ["d", "g", "g_ema"]
    bare = {name: array for name, array in state.items() if not name.startswith("G_ema.")}
    assert list(ada.split(bare)) == ["d", "g"]


def changed(module: Any, info: Info, name: str, change: Any) -> dict[str, np.ndarray]:
    """A file with one tensor changed, or left out where the change is None."""
    state = flat(module.to_torch(networks_of(info), info))
    array = state.pop(name)
    return state if change is None else state | {name: change(array)}


def grown(array: np.ndarray) -> np.ndarray:
    return np.concatenate((array, array))


@pytest.mark.parametrize(
    ("module", "info", "name", "change", "words"),
    [
        (ada, CLASSES, "G.mapping.w_avg", None, r"ADA G weights: the file lacks mapping\.w_avg"),
        (ada, CLASSES, "D.b16.skip.weight", None, r"ADA D weights: the file lacks b16\.skip\.weight"),
        (ada, CLASSES, "D.b8.conv1.resample_filter", None, r"D weights: the file lacks b8\.conv1\.resample_filter"),
        (ada, PLAIN, "G_ema.synthesis.b8.conv0.resample_filter", lambda a: 2 * a, r"conv0\.resample_filter is not the"),
        (ada, CLASSES, "G_ema.mapping.embed.bias", grown, r"mapping\.embed\.bias has shape \(10,\), expected \(5,\)"),
        (ada, CLASSES, "D.mapping.embed.weight", grown, r"mapping\.embed\.weight has shape \(16, 3\), expected \(8, 3"),
        (rosinality, PLAIN, "g_ema.noises.noise_3", None, r"g_ema weights: the file lacks noises\.noise_3"),
        (rosinality, PLAIN, "d.convs.1.skip.0.kernel", lambda a: a[:3], r"skip\.0\.kernel is not the filter 1 3 3 1"),
        (rosinality, PLAIN, "g.to_rgbs.1.upsample.kernel", lambda a: a / 4, r"of gain 4, the only one that is known"),
        (rosinality, PLAIN, "latent_avg", grown, r"latent_avg has 10 numbers, expected 5"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_file_is_named(module: Any, info: Info, name: str, change: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        module.from_torch(changed(module, info, name, change), info)


@pytest.mark.parametrize(
    ("module", "state", "words"),
    [
        (ada, {"generator.x": np.zeros(1)}, r"generator\.x is of none of the networks G, D, G_ema"),
        (ada, {"D.b4.out.bias": np.zeros(1)}, "the file holds no generator, neither G_ema nor G"),
        (ada, {"G.mapping.fc0.weight": np.zeros((2, 2))}, r"no tensor synthesis\.b4\.conv1\.weight with 4 axes"),
        (rosinality, {"netG.x": np.zeros(1)}, r"netG\.x is of none of the networks g, d, g_ema"),
        (rosinality, {"d.final_linear.1.bias": np.zeros(1)}, "the file holds no generator, neither g_ema nor g"),
        (rosinality, {"g.style.1.bias": np.zeros(2)}, r"no tensor conv1\.conv\.weight with 5 axes"),
    ],
)
def test_files_of_other_networks_are_refused(module: Any, state: dict[str, np.ndarray], words: str) -> None:
    with pytest.raises(UserError, match=words):
        module.networks_info(state)


@pytest.mark.parametrize(
    ("info", "words"),
    [
        (CLASSES, "3 classes: no counterpart in the layout of rosinality's StyleGAN2, its networks have none"),
        (dataclasses.replace(PLAIN, z_dim=4), "z_dim 4, w_dim 5: no counterpart"),
        (dataclasses.replace(PLAIN, channels=1), "1 channel: no counterpart .* its images have 3"),
        (NO_DEVIATION, "no minibatch deviation: no counterpart"),
    ],
)
def test_networks_that_a_layout_does_not_know(info: Info, words: str) -> None:
    with pytest.raises(UserError, match=words):
        rosinality.to_torch(networks_of(info), info)


def test_parameters_that_do_not_fit_are_named() -> None:
    networks = networks_of(PLAIN)
    synthesis = networks["g"]["params"]["synthesis"]
    synthesis["more"] = np.zeros(1)
    with pytest.raises(UserError, match="ADA G weights: params/synthesis/more has no counterpart"):
        ada.to_torch(networks, PLAIN)
    del synthesis["more"], synthesis["const"]
    with pytest.raises(UserError, match=r"rosinality StyleGAN2 g weights: no params/synthesis/const.* input\.input"):
        rosinality.to_torch(networks, PLAIN)
    synthesis["const"] = np.zeros((4, 4, 7), np.float32)
    with pytest.raises(UserError, match=r"params/synthesis/const has shape \(4, 4, 7\), the layout needs \(4, 4, 8\)"):
        ada.to_torch(networks, PLAIN)


def test_the_rule_of_widths() -> None:
    assert tables.width_rule("", {4: 8, 8: 6, 16: 3}) == (48, 8)
    assert tables.width_rule("", {4: 512, 8: 512}) == (4096, 512)
    assert tables.width_rule("", {4: 512, 64: 512, 128: 256}) == (32768, 512)
    with pytest.raises(UserError, match=r"N weights: no channel_base .*\(4 px: 8, 8 px: 6, 16 px: 5\)"):
        tables.width_rule("N", {4: 8, 8: 6, 16: 5})


@pytest.mark.parity
def test_state_dicts_of_the_twins() -> None:
    """Their names, and our trees by a mapping that was written apart from the layout's."""
    pytest.importorskip("torch", reason="needs PyTorch")
    import stylegan2_layout

    from twins import stylegan2 as twins

    info = CLASSES
    widths = (info.channel_base, info.channel_max)
    generator = twins.Generator(info.size, info.channels, 3, info.z_dim, info.w_dim, info.map_layers, *widths)
    judge = twins.Discriminator(info.size, info.channels, 3, info.judge_layers, *widths, 4)
    states = {n: stylegan2_layout.arrays(net.state_dict().items()) for n, net in (("g", generator), ("d", judge))}
    state = flat({ada.NAMES[name]: own | ada.filters(name, info) for name, own in states.items()})
    assert ada.networks_info(state) == info
    found = ada.from_torch(state, info)
    params, constants = stylegan2_layout.generator_tree(states["g"])
    assert same(found["g"], {"params": params, "constants": constants, "averages": found["g"]["averages"]})
    assert same(found["d"], {"params": stylegan2_layout.discriminator_tree(states["d"])})
