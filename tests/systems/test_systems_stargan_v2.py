"""StarGAN v2: one step by hand, who learns when and how often, styles by number and by reference, refusals."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
import small_systems
from PIL import Image

from medgen_jax import sampler_inputs, training
from medgen_jax.core import config as configs
from medgen_jax.core import trees
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Records
from medgen_jax.engine.preflight import check_system
from medgen_jax.systems import stargan_v2

NAME = "stargan_v2"
RATE, MAPPING_RATE = 0.1, 0.05


def build(**fields):
    config = small_systems.CONFIGS[NAME]()
    for dotted, value in fields.items():
        *path, last = dotted.split("__")
        setattr(functools.reduce(getattr, path, config), last, value)
    return stargan_v2.build(configs.resolve(config, 16))


# ---- one step by hand ----------------------------------------------------------------------------


class OneNumber:
    """Stands in for a network: an answer with one learned number."""

    def __init__(self, value, answer):
        self.value, self.answer = value, answer

    def init(self, key, *inputs):
        return {"params": {"w": jnp.full((), self.value)}}

    def apply(self, variables, *inputs):
        return self.answer(variables["params"]["w"], *inputs)


def _level(image):
    return jnp.mean(image, axis=(1, 2, 3))


#: With images of one level x: G = x + g s, F = f z (1 + y), E = e x (1 + y), D = a x (1 + y).
START = {"generator": 0.5, "mapping_network": 0.8, "style_encoder": -0.7, "discriminator": 2.0}
ANSWERS = {
    "generator": lambda g, x, s: x + g * s[:, :, None, None],
    "mapping_network": lambda f, z, y: f * z[:, :1] * (1 + y)[:, None],
    "style_encoder": lambda e, x, y: (e * _level(x) * (1 + y))[:, None],
    "discriminator": lambda a, x, y: a * _level(x) * (1 + y),
}
LEVELS, LABELS, REFERENCES, TARGETS = [51, 204], [0, 1], [0, 102, 153, 255], [1, 0]


def unit(levels):
    return np.array(levels) / 127.5 - 1


def softplus(x):
    return np.mean(np.log1p(np.exp(x)))


X, Y, T = unit(LEVELS), 1 + np.array(LABELS), 1 + np.array(TARGETS)


def judged(a, g, style):
    """Terms of the discriminator; a level is a mean of 256 pixels, which is where R1's divisor comes from."""
    terms = {"real": softplus(-a * X * Y), "fake": softplus(a * (X + g * style) * T)}
    return terms | {"r1": 0.5 * np.mean((a * Y) ** 2) / 256}


def translated(a, g, e, style, second):
    """Terms of the generator; ``second`` is an image."""
    fake = X + g * style
    return {
        "gan": softplus(-a * fake * T),
        "style": np.mean(np.abs(e * fake * T - style)),
        "diversity": np.mean(np.abs(fake - second)),
        "cycle": np.mean(np.abs(fake + g * e * X * Y - X)),
    }


def total(terms, lambda_ds=1.5):
    weights = {"r1": 0.7, "style": 1.3, "diversity": -lambda_ds, "cycle": 0.6}
    return sum(weights.get(name, 1.0) * value for name, value in terms.items())


def moved(value, rate, loss):
    """Where Adam's first step leads: down by the rate, however steep."""
    return value - rate * np.sign(loss(value + 1e-4) - loss(value - 1e-4))


@pytest.mark.parametrize("slices", [1, 2])
def test_one_step_by_hand(slices):
    """Every update sees what those before it made; in slices it is the same step."""
    settings = {"optim__lr": RATE, "optim__mapping_lr": MAPPING_RATE, "optim__weight_decay": 0.0}
    system = build(train__batch_size=2, optim__accumulate=slices, **settings)
    system = dataclasses.replace(system, networks=tuple((n, OneNumber(v, ANSWERS[n])) for n, v in START.items()))
    state = jax.jit(system.init)(jax.random.key(0)).replace(step=jnp.int32(10))

    def flat(levels):
        return np.broadcast_to(np.array(levels, np.uint8)[:, None, None, None], (len(levels), 16, 16, 1))

    batch = {
        "source": {"image": flat(LEVELS), "label": np.array(LABELS, np.int32)},
        "reference": {"image": flat(REFERENCES), "label": np.repeat(TARGETS, 2).astype(np.int32)},
    }
    new, metrics = jax.jit(system.train_step)(state, batch, {})
    assert float(metrics["lambda_ds"]) == pytest.approx(1.5)  # 2, a quarter of the way to 0
    z, r = np.asarray(system.parts(state, batch)["latent"])[..., 0].T, unit(REFERENCES).reshape(2, 2).T
    g, f, e, a = START.values()

    def agree(name, terms):
        for term, value in terms.items():
            assert float(metrics[f"{name}_{term}"]) == pytest.approx(value, rel=1e-4), f"{name}_{term}"

    agree("d_latent", judged(a, g, f * z[0] * T))
    a_1 = moved(a, RATE, lambda a: total(judged(a, g, f * z[0] * T)))
    agree("d_reference", judged(a_1, g, e * r[0] * T))
    a_2 = float(new.params["discriminator"]["w"])
    assert abs(a_2 - a_1) > 0.01

    second = X + g * f * z[1] * T
    agree("g_latent", translated(a_2, g, e, f * z[0] * T, second))
    g_1 = moved(g, RATE, lambda g: total(translated(a_2, g, e, f * z[0] * T, second)))
    f_1 = moved(f, MAPPING_RATE, lambda f: total(translated(a_2, g, e, f * z[0] * T, second)))
    e_1 = moved(e, RATE, lambda e: total(translated(a_2, g, e, f * z[0] * T, second)))
    agree("g_reference", translated(a_2, g_1, e_1, e_1 * r[0] * T, X + g_1 * e_1 * r[1] * T))
    assert float(new.params["mapping_network"]["w"]) == pytest.approx(f_1, rel=1e-4)
    assert float(new.params["style_encoder"]["w"]) == pytest.approx(e_1, rel=1e-4)
    assert abs(float(new.params["generator"]["w"]) - g_1) > 0.01


# ---- the networks --------------------------------------------------------------------------------


def test_two_of_the_networks_learn_twice_and_three_are_averaged():
    state, (new, metrics) = small_systems.initial_state(NAME), small_systems.stepped(NAME, "train")
    counts = {name: int(opt[1].count) for name, opt in new.opt.items()}
    assert counts == {"generator": 2, "mapping_network": 1, "style_encoder": 1, "discriminator": 2}
    assert set(new.ema) == {"generator", "mapping_network", "style_encoder"}
    for name, average in new.ema.items():
        wanted = jax.tree.map(lambda old, now: 0.9 * old + 0.1 * now, state.params[name], new.params[name])
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7), average, wanted)
    terms = {f"d_{o}_{t}" for o in ("latent", "reference") for t in ("real", "fake", "r1")}
    terms |= {f"g_{o}_{t}" for o in ("latent", "reference") for t in ("gan", "style", "diversity", "cycle")}
    assert set(metrics) == terms | {"lambda_ds"}


def test_without_averages_the_networks_themselves_are_used():
    system = build(optim__ema=0.0)
    state = jax.eval_shape(system.init, jax.random.key(0))
    assert state.ema == {}
    assert system.inference_variables(state)["generator"] is state.params["generator"]
    assert "discriminator" not in system.inference_variables(state)


def test_the_published_size():
    """Parameters of four networks at 256 pixels for three domains; high-pass skips add a level to the generator."""
    config = stargan_v2.Config()
    config.train.steps, config.data.classes = 1, ("covid", "lung", "normal")
    params = jax.eval_shape(stargan_v2.build(config).init, jax.random.key(0)).params
    assert {name: trees.count(tree) for name, tree in params.items()} == {
        "generator": 33_892_995, "mapping_network": 3_259_072, "style_encoder": 20_949_760,
        "discriminator": 20_852_803,
    }  # fmt: skip
    config.model.w_hpf = 1.0
    assert check_system(stargan_v2.build(config)) is None  # a mask of ones: its samplers need none


# ---- what it eats --------------------------------------------------------------------------------


def test_references_are_two_images_of_the_target_class():
    system = small_systems.build(NAME)
    source, reference = system.streams["source"], system.streams["reference"]
    assert next(iter(system.streams)) == "source" and (source.per_step, reference.per_step) == (4, 8)
    records = Records(9, 0, {"label": np.array([0, 1, 2] * 3)})
    drawn = [records.labels["label"][reference.order(i, None, records)] for i in range(12)]
    assert drawn[::2] == drawn[1::2] and sorted(drawn[:6:2]) == [0, 1, 2]
    assert sorted(records.labels["label"][source.order(i, None, records)] for i in range(3)) == [0, 1, 2]
    batch = small_systems.batch(NAME)
    batch["reference"]["label"] = np.array([1, 1, 0, 0, 0, 0, 1, 1], np.int32)
    part = system.parts(small_systems.initial_state(NAME), batch)
    assert part["target"].tolist() == [1, 0, 0, 1]
    pair = np.asarray(part["reference"][1])
    np.testing.assert_allclose(pair, batch["reference"]["image"][2:4] / 127.5 - 1, atol=1e-6)


def test_every_step_draws_other_codes_and_a_resumed_one_the_same():
    system, state, batch = small_systems.build(NAME), small_systems.initial_state(NAME), small_systems.batch(NAME)
    steps = (state, state, state.replace(step=state.step + 1))
    first, again, following = (np.asarray(system.parts(s, batch)["latent"]) for s in steps)
    assert first.shape == (4, 2, 3) and (first == again).all() and not np.allclose(first, following)
    assert not np.allclose(first[:, 0], first[:, 1])


# ---- use -----------------------------------------------------------------------------------------


def test_a_style_is_known_by_its_number():
    system, key = small_systems.build(NAME), jax.random.key(5)
    variables = system.inference_variables(small_systems.initial_state(NAME))
    image = np.repeat(small_systems.batch(NAME)["source"]["image"][:1], 4, axis=0)
    sample = jax.jit(system.samplers["latent"])
    inputs = {"image": image, "label": np.array([1, 1, 1, 0]), "number": np.array([3, 8, 3, 8])}
    images = sample(variables, inputs, key)
    np.testing.assert_allclose(images[0], images[2], atol=1e-6)
    assert float(jnp.abs(images[0] - images[1]).max()) > 1e-5  # another style
    assert float(jnp.abs(images[1] - images[3]).max()) > 1e-5  # another class
    z = jax.random.normal(jax.random.fold_in(key, 8), (1, 3))
    style = system._run("mapping_network", variables, z, jnp.array([1]))
    wanted = system._run("generator", variables, image[:1] / np.float32(127.5) - 1, style)
    np.testing.assert_allclose(images[1:2], jnp.clip(wanted, -1, 1), atol=1e-5)


def test_a_style_is_read_off_a_reference():
    system = small_systems.build(NAME)
    variables = system.inference_variables(small_systems.initial_state(NAME))
    sample, images = jax.jit(system.samplers["reference"]), small_systems.batch(NAME)["source"]["image"]
    inputs = {"image": images[[0, 0, 0, 1]], "reference": images[[1, 2, 1, 1]], "label": np.array([0, 0, 1, 0])}
    made = np.asarray(sample(variables, inputs, jax.random.key(0)))
    for other in (1, 2, 3):  # another reference, another class, another source
        assert np.abs(made[0] - made[other]).max() > 1e-5, other


def test_classes_that_there_are_not_are_refused():
    system = build(data__classes=("covid", "lung", "normal"))
    inputs = {"image": np.zeros((2, 16, 16, 1), np.uint8), "label": [0, 3], "number": [0, 1]}
    with pytest.raises(UserError, match=r"'label' holds 3; the classes are 0 to 2: covid, lung, normal"):
        sampler_inputs.converted(inputs, system.sampler_inputs["latent"], ("covid", "lung", "normal"))
    with pytest.raises(UserError, match="also needs.*reference"):
        sampler_inputs.converted(inputs, system.sampler_inputs["reference"], ("covid", "lung", "normal"))


@pytest.mark.parametrize(("classes", "wanted"), [(3, [1, 0, 1, 1]), (2, [1, 0, 1, 0]), (1, [0, 0, 0, 0])])
def test_the_preview_shows_other_classes(classes, wanted):
    system = build(data__classes=tuple("abc"[:classes]))
    labels = np.minimum([0, 1, 0, 2], classes - 1) if classes != 2 else np.array([0, 1, 0, 1])
    record = {"image": np.zeros((4, 16, 16, 1), np.uint8), "label": labels.astype(np.int32)}
    inputs = system.preview.inputs(record, jax.random.key(0))
    assert inputs["number"].tolist() == [0, 1, 2, 3] and inputs["label"].tolist() == wanted


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data__crop_size", 48, r"config\.data\.crop_size = 48: must be a power of 2, .*nearest valid size is 64"),
        ("data__crop_size", 8, r"config\.data\.crop_size = 8: .*at least 16; the nearest valid size is 16"),
        ("model__channels", 4, r"config\.model\.channels = 4: must be 1, 2 or 3"),
        ("model__width", 0, r"config\.model\.width = 0: must be at least 1, or None for 16384 / data\.crop_size"),
        ("model__latent", 0, r"config\.model\.latent = 0: must be at least 1"),
        ("model__w_hpf", -1.0, r"config\.model\.w_hpf = -1\.0: must be 0, for no high-pass skips, or a positive"),
        ("loss__lambda_ds", -2.0, r"config\.loss\.lambda_ds = -2\.0: must not be negative"),
        ("loss__ds_iter", 0, r"config\.loss\.ds_iter = 0: must be at least 1"),
        ("optim__mapping_lr", 0.0, r"config\.optim\.mapping_lr = 0\.0: must be positive"),
        ("optim__beta2", 1.0, r"config\.optim\.beta2 = 1\.0: must lie in \[0, 1\)"),
        ("optim__weight_decay", float("nan"), r"config\.optim\.weight_decay = nan: must not be negative"),
        ("optim__accumulate", 3, r"config\.optim\.accumulate = 3: must divide train\.batch_size = 4"),
    ],
)
def test_what_is_out_of_range_is_refused(field, value, message):
    with pytest.raises(UserError, match=message):
        build(**{field: value})


# ---- through the front door ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.ci_slow
def test_a_resumed_run_is_the_same_run(tmp_path):
    rng = np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for name in ("covid", "lung", "normal"):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for i in range(count):
                pixels = rng.integers(0, 256, (4, 4), np.uint8).repeat(4, 0).repeat(4, 1)
                Image.fromarray(pixels).save(tmp_path / "data" / split / name / f"{i}.png")

    def train(steps, folder):
        config = small_systems.CONFIGS[NAME]()
        config.data.source, config.train.steps = str(tmp_path / "data"), steps
        config.train.log_every = config.train.save_every = 2
        return training.train(config, tmp_path / folder, devices=jax.devices()[:1], console=small_runs.silent())

    whole = train(4, "whole")
    train(2, "cut")
    resumed = train(4, "cut")
    assert resumed.step == whole.step == 4 and int(resumed.state.opt["discriminator"][1].count) == 8
    for part in ("params", "opt", "ema"):
        one, other = (trees.digest(getattr(result.state, part)) for result in (resumed, whole))
        assert one == other, part
    assert whole.state.params["discriminator"]["judge"]["kernel"].shape[-1] == 3
    assert (tmp_path / "whole/samples/step_00000004.png").is_file()
