"""LStainNorm before a classifier: where the layer starts, what learns, a step by hand, predictions, refusals."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_systems

from medgen_jax.core import config as configs
from medgen_jax.core.errors import UserError
from medgen_jax.ops import colour_statistics
from medgen_jax.systems import stain_classifier
from medgen_jax.systems.stain_classifier import Normaliser, Start


def changed(**fields):
    """The toy configuration with some fields set, by dotted name."""
    config = small_systems.CONFIGS["stain_classifier"]()
    for name, value in fields.items():
        *path, last = name.split("__")
        setattr(functools.reduce(getattr, path, config), last, value)
    return config


def build(**fields):
    return stain_classifier.build(configs.resolve(changed(**fields), 16))


class Linear:
    """Stands in for the backbone: logits from the mean colour."""

    def init(self, key, image, train):
        return {"params": {"w": jnp.zeros((3, 2))}, "batch_stats": {"seen": jnp.zeros(())}}

    def apply(self, variables, x, train, mutable=()):
        logits = jnp.mean(x, axis=(1, 2)) @ variables["params"]["w"]
        return (logits, {"batch_stats": {"seen": variables["batch_stats"]["seen"] + 1}}) if mutable else logits


def linear(**fields):
    """The system around a linear backbone, and its state."""
    system = dataclasses.replace(build(**fields), backbone=Linear())
    return system, system.init(jax.random.key(0))


@pytest.fixture(scope="module")
def tiles():
    """Twelve tiles of different colours, uint8."""
    rng = np.random.default_rng(1)
    base = rng.integers(60, 200, (12, 1, 1, 3))
    return (base + rng.integers(-40, 40, (12, 40, 40, 3))).astype(np.uint8)


def test_the_layer_starts_from_the_mean_colours_of_the_tiles(tiles):
    system, state = linear()
    found = jax.jit(system.observe)(state, {"image": jnp.asarray(tiles)}).mutable["norm"]["reference"]
    rgb = tiles / 255.0
    np.testing.assert_allclose(found["rgb"]["mean"], rgb.mean(axis=(0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(found["rgb"]["std"], rgb.std(axis=(1, 2), ddof=1).mean(0), atol=1e-5)

    @jax.jit
    def at_once(rgb):
        return colour_statistics.pooled(colour_statistics.statistics(rgb, ("lab", "hsv", "rgb")))

    whole = at_once(jnp.float32(rgb))
    # Directions of random hues nearly cancel, so rounding moves the one of their mean.
    for space in whole:
        for name in ("mean", "std"):
            np.testing.assert_allclose(found[space][name], whole[space][name], rtol=1e-4, atol=1e-3)


def test_tiles_are_spread_over_a_table_stored_class_by_class():
    observation = build(norm__tiles=4).observation
    assert observation.stream == "records" and observation.choose(100) == [0, 25, 50, 75]
    assert observation.choose(3) == [0, 1, 2]


def test_a_template_is_one_tile():
    observation = build(norm__start=Start.TEMPLATE, norm__template=7).observation
    assert observation.choose(8) == [7]
    with pytest.raises(UserError, match=r"config\.norm\.template = 7: there are 5 training tiles"):
        observation.choose(5)


def test_nothing_is_looked_at_without_need():
    assert build(norm__start=Start.RELEASED).observation is None
    assert build(norm__kind=Normaliser.NONE).observation is None


def test_one_step_of_adamw_by_hand(tiles):
    system, state = linear(norm__kind=Normaliser.NONE, optim__weight_decay=0.1, optim__lr=0.01)
    start = jnp.asarray(np.random.default_rng(2).normal(size=(3, 2)), jnp.float32)
    state = state.replace(params={"net": {"w": start}})
    labels = np.array([0, 1, 1, 0])
    batch = {"records": {"image": jnp.asarray(tiles[:4]), "label": jnp.asarray(labels)}}
    new, metrics = jax.jit(system.train_step)(state, batch, {})

    x = np.float64(tiles[:4]).mean(axis=(1, 2)) / 255
    logits = x @ np.float64(start)
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    gradient = x.T @ (p - np.eye(2)[labels]) / 4
    # The first step of Adam is the sign of the gradient; decay is decoupled from it.
    wanted = start - 0.01 * (gradient / (np.abs(gradient) + 1e-8) + 0.1 * start)
    np.testing.assert_allclose(new.params["net"]["w"], wanted, atol=1e-5)
    assert float(metrics["cross_entropy"]) == pytest.approx(-np.log(p[range(4), labels]).mean(), rel=1e-5)
    assert float(metrics["accuracy"]) == np.mean(logits.argmax(1) == labels)
    assert float(metrics["lr"]) == pytest.approx(0.01) and float(new.mutable["net"]["batch_stats"]["seen"]) == 1


def test_the_layer_learns_unless_it_is_told_not_to(tiles):
    labels = jnp.array([0, 1, 1, 0])
    batch = {"records": {"image": jnp.asarray(tiles[:4]), "label": labels}}
    for trained in (True, False):
        system, state = linear(norm__trained=trained, norm__spaces=("lab",))
        state = state.replace(params={**state.params, "net": {"w": jnp.eye(3)[:, :2]}})
        new, _ = jax.jit(system.train_step)(state, batch, {})
        moved = jax.tree.map(lambda a, b: bool(jnp.any(a != b)), new.params["norm"], state.params["norm"])
        assert all(jax.tree.leaves(moved)) is trained and any(jax.tree.leaves(moved)) is trained
        assert ("norm" in new.opt) is trained


def test_it_learns_which_class_is_which():
    rng = np.random.default_rng(3)
    labels = np.tile([0, 1], 16)
    colours = np.array([[200, 90, 160], [90, 90, 180]])[labels][:, None, None]
    images = np.clip(colours + rng.integers(-60, 60, (32, 32, 32, 3)), 0, 255).astype(np.uint8)
    # Its kind of normalisation would take the classes' colours away.
    system, state = linear(norm__kind=Normaliser.NONE, optim__lr=0.05)
    step = jax.jit(system.train_step)
    batch = {"records": {"image": jnp.asarray(images), "label": jnp.asarray(labels)}}
    losses = []
    for _ in range(60):
        state, metrics = step(state, batch, {})
        losses.append(float(metrics["cross_entropy"]))
    assert losses[-1] < 0.5 * losses[0] and float(metrics["accuracy"]) == 1


def test_predictions_are_probabilities_of_each_tile_alone(tiles):
    system, name = small_systems.build("stain_classifier"), "stain_classifier"
    variables = system.inference_variables(small_systems.initial_state(name))
    predict = jax.jit(system.samplers["predict"])
    found = predict(variables, {"image": tiles[:3]}, jax.random.key(0))
    assert found.shape == (3, 2) and float(found.min()) >= 0
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    alone = predict(variables, {"image": tiles[[1, 7, 8]]}, jax.random.key(0))
    np.testing.assert_allclose(found[1], alone[0], atol=1e-5)


def test_the_layer_by_itself_is_a_sampler(tiles):
    system, name = small_systems.build("stain_classifier"), "stain_classifier"
    variables = system.inference_variables(small_systems.initial_state(name))
    image = jax.jit(system.samplers["normalize"])(variables, {"image": tiles[:2]}, jax.random.key(0))
    layer = jax.jit(system.layer.apply)(variables["norm"], jnp.float32(tiles[:2] / 255.0))
    np.testing.assert_allclose(image, 2 * layer - 1, atol=1e-5)
    assert list(system.samplers) == ["predict", "normalize"]
    without = build(norm__kind=Normaliser.NONE)
    assert list(without.samplers) == ["predict"]
    assert set(system.tile_variables) == {"normalize"} and not without.tile_variables


def test_the_rate_falls_over_the_run_or_swings_as_published():
    whole, swinging = build(train__steps=40).lr, build(train__steps=40, optim__cosine_epochs=2.0).lr
    assert float(whole(0)) == pytest.approx(5e-4) and float(whole(40)) == pytest.approx(5e-6)
    assert float(whole(20)) == pytest.approx((5e-4 + 5e-6) / 2)
    # 16 records and batches of 4: an epoch has 4 steps.
    assert float(swinging(8)) == pytest.approx(5e-6) and float(swinging(16)) == pytest.approx(5e-4)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"norm__spaces": ("lab", "luv")}, r"config\.norm\.spaces: no colour space 'luv'; there are lab, hsv"),
        ({"norm__spaces": ()}, r"config\.norm\.spaces = \(\): must name one or more"),
        ({"norm__spaces": ("lab", "lab")}, r"config\.norm\.spaces = .*each once"),
        ({"norm__variant": "official"}, r"config\.norm\.variant = 'official': must be one of paper, published"),
        ({"norm__tiles": 0}, r"config\.norm\.tiles = 0: must be at least 1"),
        ({"model__depth": 101}, r"config\.model\.depth = 101: must be one of"),
        ({"optim__lowest_lr": 1.0}, r"config\.optim\.lowest_lr = 1\.0: must lie in \[0, optim\.lr\]"),
        ({"stop__metric": "dice"}, r"config\.stop\.metric = 'dice': must be one of accuracy"),
        ({"data__classes": ("x",)}, r"config\.data\.classes = \('x',\): a classifier needs two or more"),
        ({"model__channels": 2}, r"config\.model\.channels = 2: must be 3 \(RGB\) or 1 \(grey\)"),
        ({"model__channels": 1}, "grey images have no stains: set config.norm.kind=none"),
    ],
)
def test_refusals(fields, message):
    with pytest.raises(UserError, match=message):
        build(**fields)


def test_grey_images_are_classified():
    system = build(norm__kind=Normaliser.NONE, model__channels=1)
    image = dict(system.streams["records"].fields)["image"]
    assert image.shape == (40, 40, 1) and image.setting == "config.model.channels"
    state = jax.jit(system.init)(jax.random.key(0))
    assert state.params["net"]["trunk"]["stem"]["kernel"].shape[2] == 1
    shown = np.zeros((3, 40, 40, 1), np.uint8)
    answers = system.samplers["predict"](system.inference_variables(state), {"image": shown}, jax.random.key(0))
    np.testing.assert_allclose(answers.sum(-1), 1, rtol=1e-6)
