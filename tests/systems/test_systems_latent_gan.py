"""GAN and DCGAN: losses and updates by hand, images by number, refusals."""

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
from medgen_jax.systems import dcgan, gan

MODULES = {"dcgan": dcgan, "gan": gan}
SYSTEMS = tuple(MODULES)


def build(name="dcgan", **fields):
    config = small_systems.CONFIGS[name]()
    for dotted, value in fields.items():
        *path, last = dotted.split("__")
        setattr(functools.reduce(getattr, path, config), last, value)
    return MODULES[name].build(configs.resolve(config, 16))


class Grey:
    """Stands in for the generator: all pixels have one learned value."""

    def init(self, key, z):
        return {"params": {"w": jnp.full((), -0.5)}}

    def apply(self, variables, z, stats, mutable=False):
        image = jnp.full((z.shape[0], 16, 16, 1), 1.0) * variables["params"]["w"]
        return (image, {}) if mutable else image


class Slope:
    """Stands in for the discriminator: a learned multiple of the mean."""

    def init(self, key, x):
        return {"params": {"a": jnp.full((), 2.0)}}

    def apply(self, variables, x, stats, mutable=False):
        return variables["params"]["a"] * jnp.mean(x, axis=(1, 2, 3)), {}


def softplus(x):
    return float(np.log1p(np.exp(x)))


def test_one_step_by_hand():
    """White images of 1, made ones of -0.5, a slope of 2; D's first step has the size of the rate, G sees the new D."""
    system = dataclasses.replace(build(optim__lr=0.1, optim__ema=0.0), generator=Grey(), discriminator=Slope())
    state = jax.jit(system.init)(jax.random.key(0))
    white = {"records": {"image": np.full((4, 16, 16, 1), 255, np.uint8)}}
    new, metrics = jax.jit(system.train_step)(state, white, {})
    assert float(metrics["d_real"]) == pytest.approx(softplus(-2), rel=1e-5)
    assert float(metrics["d_fake"]) == pytest.approx(softplus(-1), rel=1e-5)
    assert float(metrics["real_believed"]) == pytest.approx(1 / (1 + np.exp(-2)), rel=1e-5)
    assert float(metrics["fake_believed"]) == pytest.approx(1 / (1 + np.exp(1)), rel=1e-5)
    assert float(new.params["d"]["a"]) == pytest.approx(2.1, rel=1e-5)
    assert float(metrics["g_gan"]) == pytest.approx(softplus(1.05), rel=1e-5)
    assert float(new.params["g"]["w"]) == pytest.approx(-0.4, rel=1e-5)
    # Adam's first moment is half the gradient: both losses count whole, and each player's gradient is its own.
    of_d = -1 / (1 + np.exp(2)) - 0.5 / (1 + np.exp(1))
    assert float(new.opt["d"].mu["a"]) == pytest.approx(0.5 * of_d, rel=1e-4)
    assert float(new.opt["g"].mu["w"]) == pytest.approx(0.5 * -2.1 / (1 + np.exp(-1.05)), rel=1e-4)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_rate_stays_and_no_average_is_kept_by_default(name):
    system = build(name, optim=MODULES[name].Config().optim)
    assert [float(system.lr(step)) for step in (0, 20, 39)] == pytest.approx([2e-4] * 3)
    state = jax.eval_shape(system.init, jax.random.key(0))
    assert state.ema == {}
    assert system.inference_variables(state)["params"] is state.params["g"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_step_draws_other_codes_and_a_resumed_one_the_same(name):
    system, state = small_systems.build(name), small_systems.initial_state(name)
    first, again, next_ = (system.codes(s) for s in (state, state, state.replace(step=state.step + 1)))
    assert (np.asarray(first) == np.asarray(again)).all() and not np.allclose(first, next_)
    assert first.shape == (4, 5) and abs(float(first.mean())) < 1


def test_a_step_moves_the_statistics_of_both_and_the_average():
    system, state = small_systems.build("dcgan"), small_systems.initial_state("dcgan")
    new, _ = small_systems.stepped("dcgan", "train")
    for name in ("g", "d"):
        before, after = (jax.tree.leaves(s.mutable[name]["batch_stats"]) for s in (state, new))
        assert before and not any(np.allclose(a, b) for a, b in zip(before, after, strict=True))
    # The average starts short: a tenth of the start and nine tenths of what the step made.
    wanted = jax.tree.map(lambda a, b: 0.1 * a + 0.9 * b, state.params["g"], new.params["g"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), new.ema["g"], wanted)
    assert system.inference_variables(new)["params"] is new.ema["g"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_an_image_is_known_by_its_number(name):
    system, key = small_systems.build(name), jax.random.key(5)
    variables = system.inference_variables(small_systems.initial_state(name))
    sample, latent = (jax.jit(system.samplers[n]) for n in ("sample", "latent"))
    images = sample(variables, {"number": jnp.array([3, 8, 3, 0])}, key)
    assert images.shape == (4, 16, 16, 1) and images.dtype == jnp.float32
    np.testing.assert_allclose(images[0], images[2], atol=1e-6)
    np.testing.assert_allclose(sample(variables, {"number": jnp.array([8])}, key)[0], images[1], atol=1e-6)
    assert float(jnp.abs(images[0] - images[1]).max()) > 1e-4
    assert float(jnp.abs(sample(variables, {"number": jnp.array([8])}, jax.random.key(6)) - images[1:2]).max()) > 1e-4
    z = jax.random.normal(jax.random.fold_in(key, 8), (1, 5))
    np.testing.assert_allclose(latent(variables, {"z": z}, jax.random.key(9))[0], images[1], atol=1e-6)


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_preview_draws_the_first_numbers_beside_real_images(name):
    system = small_systems.build(name)
    inputs = system.preview.inputs({"image": np.zeros((3, 16, 16, 1), np.uint8)}, jax.random.key(0))
    assert inputs["number"].tolist() == [0, 1, 2] and system.preview.shown == (("image", "real"),)


@pytest.mark.parametrize(
    ("name", "field", "value", "message"),
    [
        ("dcgan", "data__crop_size", 48, r"config\.data\.crop_size = 48: must be 4 \* 2\^k.*nearest valid size is 64"),
        ("dcgan", "model__ngf", 0, r"config\.model\.ngf = 0: must be at least 1"),
        ("dcgan", "model__latent", 0, r"config\.model\.latent = 0: must be at least 1"),
        ("dcgan", "train__batch_size", 1, r"config\.train\.batch_size = 1: must be at least 2"),
        ("gan", "model__widths", (), r"config\.model\.widths = \(\): must name at least one layer"),
        ("gan", "model__widths", (8, 0), r"config\.model\.widths = \(8, 0\): must name at least one layer, each"),
        ("gan", "model__channels", 4, r"config\.model\.channels = 4: must be 1, 2 or 3"),
        ("gan", "optim__lr", 0.0, r"config\.optim\.lr = 0\.0: must be positive"),
    ],
)
def test_what_is_out_of_range_is_refused(name, field, value, message):
    with pytest.raises(UserError, match=message):
        build(name, **{field: value})


def test_a_gan_takes_any_size():
    assert build("gan", data__crop_size=13).streams["records"].zeros(1)["image"].shape == (1, 13, 13, 1)
