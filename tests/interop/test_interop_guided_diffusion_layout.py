"""Names and shapes of guided-diffusion's files, there and back; released files; wrong files and configurations."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.interop import guided_diffusion_layout as layout
from medgen_jax.interop.guided_diffusion_tables import (
    ClassifierInfo,
    UNetInfo,
    classifier_rows,
    unet_rows,
)
from medgen_jax.nn.diffusion_blocks import MULTIPLIERS
from medgen_jax.nn.diffusion_classifier import POOLS, NoiseClassifier
from medgen_jax.nn.diffusion_unet import DiffusionUNet

SMALL = {"size": 16, "channels": 1, "width": 32, "multipliers": (1, 2, 2), "blocks": 1, "attention": (8,)}
SMALL |= {"film": True, "resample": "block", "conditions": (("class", 2),), "null_rows": True, "learned_variance": True}
CLASSIFIER = {key: SMALL[key] for key in ("size", "channels", "width", "multipliers", "blocks", "attention", "film")}


def unet(**change: Any) -> UNetInfo:
    return UNetInfo(**{**SMALL, **change})


def classifier(**change: Any) -> ClassifierInfo:
    return ClassifierInfo(**{**CLASSIFIER, "resample": "block", "classes": 3, "pool": "attention", **change})


def state_of(rows: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {row.name: rng.standard_normal(row.shape).astype(np.float32) for row in rows}


def shapes_of(net: Any, *labels: Any) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Path -> shape of every parameter of a network of ours."""
    x = jax.ShapeDtypeStruct((1, net.size, net.size, net.channels), jnp.float32)
    variables = jax.eval_shape(net.init, jax.random.key(0), x, jax.ShapeDtypeStruct((1,), jnp.int32), *labels)
    leaves = jax.tree_util.tree_leaves_with_path(variables)
    return {tuple(entry.key for entry in path): leaf.shape for path, leaf in leaves}


ADM = {"channels": 3, "width": 256, "blocks": 2, "attention": (32, 16, 8), "film": True, "resample": "block"}
ADM |= {"learned_variance": True, "null_rows": False}
CHEXPERT = {"channels": 1, "width": 128, "attention": (16,), "film": False, "resample": "conv"}
IMAGENET = (("class", 1000),)
#: Fields, keys, millions of parameters.
PUBLISHED = {
    "adm-256": ({**ADM, "size": 256, "conditions": ()}, 566, 552.81),
    "adm-256-classes": ({**ADM, "size": 256, "conditions": IMAGENET}, 567, 553.84),
    "adm-64": ({**ADM, "size": 64, "width": 192, "blocks": 3, "conditions": IMAGENET}, 541, 295.90),
    "chexpert": ({**ADM, **CHEXPERT, "size": 256, "conditions": (("class", 2),)}, 427, 113.67),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_networks(name: str) -> None:
    """Keys and millions of parameters of the released networks, and of ours of the same description."""
    fields, keys, millions = PUBLISHED[name]
    info = UNetInfo(**fields, multipliers=MULTIPLIERS[fields["size"]])
    rows = unet_rows(info)
    assert len({row.name for row in rows}) == len(rows) == keys
    assert sum(math.prod(row.shape) for row in rows) / 1e6 == pytest.approx(millions, abs=0.006)
    labels = ({"class": jax.ShapeDtypeStruct((1,), jnp.int32)},) if info.conditions else ()
    ours = shapes_of(DiffusionUNet(**dataclasses.asdict(info), heads=4), *labels)
    assert {row.path for row in rows} == set(ours)
    assert all(math.prod(row.shape) == math.prod(ours[row.path]) for row in rows)


def test_names_of_the_layout() -> None:
    """One of each kind of name, with shapes, of a network with attention at its second of three levels."""
    shapes = {row.name: row.shape for row in unet_rows(unet())}
    assert {
        "time_embed.2.weight": (128, 128),
        "label_emb.weight": (3, 128),
        "input_blocks.0.0.weight": (32, 1, 3, 3),
        "input_blocks.1.0.emb_layers.1.weight": (64, 128),
        "input_blocks.2.0.in_layers.2.weight": (32, 32, 3, 3),  # halves
        "input_blocks.3.0.skip_connection.weight": (64, 32, 1, 1),
        "input_blocks.3.1.qkv.weight": (192, 64, 1),
        "middle_block.2.out_layers.3.bias": (64,),
        "output_blocks.1.1.in_layers.0.weight": (64,),  # doubles, no attention before it
        "output_blocks.3.2.in_layers.0.weight": (64,),  # doubles, behind attention
        "output_blocks.5.0.in_layers.2.weight": (32, 64, 3, 3),
        "out.2.weight": (2, 32, 3, 3),
    }.items() <= shapes.items()
    plain = {row.name for row in unet_rows(unet(resample="conv"))}
    assert {"input_blocks.2.0.op.weight", "output_blocks.1.1.conv.weight", "output_blocks.3.2.conv.bias"} <= plain


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"film": False, "resample": "conv", "blocks": 2, "conditions": ()},
        {"resample": "pool", "attention": (16, 4), "learned_variance": False, "channels": 3},
        {"multipliers": (2,), "attention": (), "blocks": 3},
        {"multipliers": (0.5, 1), "width": 64, "attention": (16, 8), "resample": "conv"},
    ],
    ids=["block", "conv", "pool", "one-level", "half"],
)
def test_unet_there_and_back(change: dict[str, Any]) -> None:
    info = unet(**change)
    old = state_of(unet_rows(info))
    assert not layout.is_classifier(old)
    found = layout.unet_info(old, size=16, null_row=True)
    assert found == info
    params, lines = layout.unet_from_torch(old, found)
    assert lines == []
    new = layout.unet_to_torch(params, info)
    assert list(new) == list(old) and all(np.array_equal(new[name], old[name]) for name in old)


@pytest.mark.parametrize("pool", POOLS)
def test_classifier_there_and_back(pool: str) -> None:
    info = classifier(pool=pool, resample="block" if pool == "attention" else "conv" if pool == "spatial" else "pool")
    old = state_of(classifier_rows(info))
    assert layout.is_classifier(old)
    assert layout.classifier_info(old, size=16, blocks=1) == info
    new = layout.classifier_to_torch(layout.classifier_from_torch(old, info), info)
    assert list(new) == list(old) and all(np.array_equal(new[name], old[name]) for name in old)


@pytest.mark.parametrize("pool", POOLS)
def test_our_classifier_has_these_tensors(pool: str) -> None:
    info = classifier(pool=pool)
    params = jax.tree.map(lambda a: a.shape, layout.classifier_from_torch(state_of(classifier_rows(info)), info))
    x, t = jax.ShapeDtypeStruct((1, 16, 16, 1), jnp.float32), jax.ShapeDtypeStruct((1,), jnp.int32)
    ours = jax.eval_shape(NoiseClassifier(**dataclasses.asdict(info)).init, jax.random.key(0), x, t)["params"]
    assert jax.tree.map(lambda a: a.shape, ours) == params


def test_values_land_where_they_belong() -> None:
    info = unet()
    state = state_of(unet_rows(info))
    params, _ = layout.unet_from_torch({name: array.astype(np.float16) for name, array in state.items()}, info)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    half = {name: array.astype(np.float16).astype(np.float32) for name, array in state.items()}
    np.testing.assert_array_equal(params["stem"]["kernel"][2, 0, 0, 5], half["input_blocks.0.0.weight"][5, 0, 2, 0])
    np.testing.assert_array_equal(params["time_0"]["kernel"], half["time_embed.0.weight"].T)
    qkv = half["input_blocks.3.1.qkv.weight"]
    np.testing.assert_array_equal(params["down_1_0_attention"]["qkv"]["kernel"], qkv[:, :, 0].T)
    np.testing.assert_array_equal(params["condition_class"], half["label_emb.weight"])
    info = classifier()
    state = state_of(classifier_rows(info))
    position = layout.classifier_from_torch(state, info)["head"]["position"]
    np.testing.assert_array_equal(position, state["out.2.positional_embedding"].T)


def test_a_released_model_gets_a_null_row_of_zeros() -> None:
    released = state_of(unet_rows(unet(null_rows=False)))
    info = layout.unet_info(released, size=16, condition="opacity")
    assert info.conditions == (("opacity", 2),) and info.null_rows
    params, lines = layout.unet_from_torch(released, info)
    np.testing.assert_array_equal(params["condition_opacity"][:2], released["label_emb.weight"])
    assert params["condition_opacity"].shape == (3, 128) and not params["condition_opacity"][2].any()
    assert len(lines) == 1 and "2 classes and no null row; one of zeros is appended" in lines[0]
    assert layout.unet_to_torch(params, info)["label_emb.weight"].shape == (3, 128)
    back = layout.unet_to_torch(params, info, null_row=False)
    assert all(np.array_equal(back[name], released[name]) for name in released)
    without = dataclasses.replace(info, null_rows=False)
    params, lines = layout.unet_from_torch(released, without)
    assert params["condition_opacity"].shape == (2, 128) and lines == []
    with pytest.raises(UserError, match=r"label_emb.weight has shape \(2, 128\), this configuration needs \(3, 128\)"):
        layout.unet_from_torch(released, info, null_row=True)
    one_less = dataclasses.replace(info, conditions=(("opacity", 1),))
    with pytest.raises(UserError, match=r"label_emb.weight has shape \(2, 128\), this configuration needs \(1, 128\)"):
        layout.unet_from_torch(released, one_less, null_row=False)


def test_an_unconditional_model_gets_a_table_of_zeros() -> None:
    released = state_of(unet_rows(unet(conditions=())))
    params, lines = layout.unet_from_torch(released, unet())
    assert params["condition_class"].shape == (3, 128) and not params["condition_class"].any()
    assert lines == ["no label_emb.weight: an unconditional network, whatever class it is told"]
    for null_row in (True, False):
        back = layout.unet_to_torch(params, unet(), null_row=null_row)
        assert list(back) == list(released) and all(np.array_equal(back[name], released[name]) for name in released)
    for needs, info in ((True, unet()), (None, unet(null_rows=False))):
        with pytest.raises(UserError, match="the file has no label_emb.weight"):
            layout.unet_from_torch(released, info, null_row=needs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"width": 64},
            r"time_embed.0.weight has shape \(128, 32\), this configuration needs \(256, 64\); \d+ tensors differ",
        ),
        ({"film": False}, r"input_blocks.1.0.emb_layers.1.weight has shape \(64, 128\).*needs \(32, 128\)"),
        ({"resample": "conv"}, r"has input_blocks.2.0.emb_layers.1.weight \(64, 128\), for which"),
        (
            {"resample": "pool"},
            r"the file has input_blocks.2.0.emb_layers.1.weight \(64, 128\), for which this configuration has no place",
        ),
        ({"attention": (16,)}, r"the file has no input_blocks.1.1.norm.weight \(32,\)"),
        ({"attention": ()}, r"has input_blocks.3.1.norm.weight \(64,\), for which"),
        ({"size": 32}, "has input_blocks.3.1.norm.weight"),
        ({"conditions": ()}, r"has label_emb.weight \(3, 128\), for which"),
        ({"conditions": (("class", 5),)}, r"label_emb.weight has shape \(3, 128\).*needs \(6, 128\)"),
        (
            {"learned_variance": False},
            r"out.2.weight has shape \(2, 32, 3, 3\), this.* \(1, 32, 3, 3\); 2 tensors differ",
        ),
        ({"conditions": (("class", 2), ("view", 3))}, "one table of classes; this network has conditions class, view"),
        ({"width": 24}, "a level has 24 channels; the layout knows multiples of 32 only"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_wrong_configurations_name_the_first_key(change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        layout.unet_from_torch(state_of(unet_rows(unet())), unet(**change))


def test_wrong_files_are_named() -> None:
    whole = state_of(unet_rows(unet()))
    with pytest.raises(UserError, match="no tensor time_embed.0.weight with 2 axes"):
        layout.unet_info({"model.0.weight": np.zeros((1, 1, 4, 4))}, size=16)
    with pytest.raises(UserError, match="3 levels need a size that is a multiple of 4, not 18"):
        layout.unet_info(whole, size=18)
    with pytest.raises(UserError, match="out.2.weight makes 7 channels of 1"):
        layout.unet_info({**whole, "out.2.weight": np.zeros((7, 32, 3, 3))}, size=16)
    with pytest.raises(UserError, match="no out.2 or out.3 of a classifier; is it a U-Net's"):
        layout.classifier_info(whole, size=16, blocks=1)
    judge = state_of(classifier_rows(classifier()))
    with pytest.raises(UserError, match="6 input_blocks are no whole levels of 3 blocks each; .* 1, 2, 5 would be"):
        layout.classifier_info(judge, size=16, blocks=3)
    del whole["input_blocks.5.0.out_layers.3.weight"], whole["middle_block.0.in_layers.0.bias"]
    with pytest.raises(UserError, match="the file has no input_blocks.5.0.out_layers.3.weight"):
        layout.unet_from_torch(whole, unet())
    with pytest.raises(UserError, match=r"out.2.positional_embedding has shape \(64, 17\).*needs \(64, 65\)"):
        layout.classifier_from_torch(judge, classifier(size=32, attention=(16,)))


def test_wrong_parameters_are_named() -> None:
    params, _ = layout.unet_from_torch(state_of(unet_rows(unet())), unet())
    needed = "no params/down_0_halve/norm_0/scale, which the layout needs for input_blocks.2.0.in_layers.0.weight"
    with pytest.raises(UserError, match=needed):
        layout.unet_to_torch({k: v for k, v in params.items() if k != "down_0_halve"}, unet())
    with pytest.raises(UserError, match="condition_class has no counterpart"):
        layout.unet_to_torch(params, unet(conditions=()))
    with pytest.raises(UserError, match=r"time_0/kernel has shape \(32, 128\), the layout needs \(64, 256\) for time"):
        layout.unet_to_torch(params, unet(width=64))
    flat = {**params, "stem": {**params["stem"], "kernel": np.zeros((1, 32))}}
    with pytest.raises(UserError, match=r"stem/kernel has shape \(1, 32\), the layout needs \(3, 3, 1, 32\)"):
        layout.unet_to_torch(flat, unet())
