"""The diffusion model and the noise classifier: terms by hand, dropped conditions, samples, refusals."""

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
from medgen_jax.core.streams import Balanced
from medgen_jax.systems import diffusion, diffusion_options, noise_classifier
from medgen_jax.systems.diffusion_options import Balance, Noise, Prediction, Steps, Weighting


def changed(name, **fields):
    config = small_systems.CONFIGS[name]()
    for dotted, value in fields.items():
        *path, last = dotted.split("__")
        setattr(functools.reduce(getattr, path, config), last, value)
    return config


def build(name="diffusion", **fields):
    module = noise_classifier if name == "noise_classifier" else diffusion
    return module.build(configs.resolve(changed(name, **fields), 16))


class Constant:
    """Stands in for the network: answers one learned number everywhere."""

    learned_variance = False

    def __init__(self, null):
        self.null = null

    def init(self, key, x, t):
        return {"params": {"w": jnp.zeros(())}}

    def apply(self, variables, x, t, condition, train=False, rngs=None):
        return jnp.full(x.shape, variables["params"]["w"])


def constant(**fields):
    system = build(**fields)
    system = dataclasses.replace(system, network=Constant(system.network.null))
    return system, system.init(jax.random.key(0))


@pytest.fixture(scope="module")
def batch():
    return small_systems.batch("diffusion")


def test_one_step_by_hand(batch):
    """The answer w = 0 to noise of unit variance: a loss of 1, and a first step of Adam of the rate's size."""
    system, state = constant(optim__lr=0.01)
    new, metrics = jax.jit(system.train_step)(state, batch, {})
    assert float(metrics["mse"]) == float(metrics["loss"]) == pytest.approx(1, abs=0.15)
    assert abs(float(new.params["net"]["w"])) == pytest.approx(0.01, rel=1e-4)
    assert float(metrics["lr"]) == pytest.approx(0.01)


def test_what_is_predicted_is_what_the_error_is_of(batch):
    """Of a black image -1: predicting x0 costs 1 at every step, with min-SNR the mean of min(snr, gamma)."""
    black = {"records": {**batch["records"], "image": np.zeros_like(batch["records"]["image"])}}
    system, state = constant(loss__prediction=Prediction.X0)
    _, metrics = jax.jit(system.train_step)(state, black, {})
    assert float(metrics["loss"]) == pytest.approx(1, rel=1e-5)
    weighted, state = constant(loss__prediction=Prediction.X0, loss__weighting=Weighting.MIN_SNR)
    _, metrics = jax.jit(weighted.train_step)(state, black, {})
    assert float(metrics["mse"]) == pytest.approx(1, rel=1e-5) and 0 < float(metrics["loss"]) <= 5.0001
    t = jnp.arange(40)
    bar = np.cumprod(1 - np.linspace(1e-4 * 25, 0.02 * 25, 40))
    np.testing.assert_allclose(weighted._weights(t), np.minimum(bar / (1 - bar), 5), rtol=1e-4)


def test_slices_one_after_another_are_the_batch_at_once(batch):
    """Accumulation over slices gives a loss of the same batch, and losses in the batch's order."""
    system, state = constant(optim__accumulate=2, loss__steps=Steps.IMPORTANCE, loss__prediction=Prediction.X0)
    images = np.stack([np.full((16, 16, 1), level, np.uint8) for level in (0, 0, 255, 128)])
    records = {"records": {**batch["records"], "image": images}}
    new, metrics = jax.jit(system.train_step)(state, records, {})
    history = new.extra["history"]
    # Squared distance of the answer 0 from -1, -1, 1 and about 0.
    remembered = sorted(float(x) for x in np.asarray(history["losses"]).ravel() if x > 0.5)
    np.testing.assert_allclose(remembered, [1, 1, 1], rtol=1e-5)
    assert int(history["seen"].sum()) == 4 and float(metrics["loss"]) == pytest.approx(0.75, abs=1e-4)


def test_conditions_are_dropped_each_by_itself():
    system = build("diffusion-variance")
    labels = {"label": jnp.tile(jnp.array([0, 1]), 5000), "view": jnp.tile(jnp.array([0, 1, -1, 0]), 2500)}
    found = jax.jit(system._dropped)(labels, jax.random.key(0))
    for name in ("label", "view"):
        gone = found[name] == 2
        assert float(jnp.mean(gone)) == pytest.approx(0.1, abs=0.01)
        np.testing.assert_array_equal(found[name][~gone], labels[name][~gone])
    both = jnp.mean((found["label"] == 2) & (found["view"] == 2))
    assert float(both) == pytest.approx(0.01, abs=0.004)


@pytest.fixture(scope="module")
def sampled():
    """A sampler of a network whose answers depend on everything, jitted."""
    system = build("diffusion")
    params = system.inference_variables(small_systems.initial_state("diffusion"))
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda p: p + 0.05 * rng.normal(size=p.shape).astype(np.float32), params)
    return functools.partial(jax.jit(system.samplers["sample"]), moved)


def asked(labels, scale=0.0, numbers=None):
    """Inputs of the sampler; images 0, 1, ... where no numbers are given."""
    count = len(labels)
    numbers = np.arange(count) if numbers is None else np.array(numbers)
    return {
        "number": numbers.astype(np.int32), "label": np.array(labels, np.int32),
        "scale": np.full(count, scale, np.float32),
    }  # fmt: skip


def test_samples_are_images_of_their_own(sampled):
    images = sampled(asked([0, 1, 0]), jax.random.key(1))
    assert images.shape == (3, 16, 16, 1) and float(jnp.abs(images).max()) <= 1
    assert float(jnp.abs(images[0] - images[2]).max()) > 0.01
    again = sampled(asked([0, 0, 1]), jax.random.key(1))
    np.testing.assert_allclose(again[0], images[0], atol=1e-5)
    assert float(jnp.abs(again[1] - images[1]).max()) > 1e-4  # another class from the same noise


def test_an_image_is_known_by_its_number(sampled):
    """Whatever it is drawn with, and wherever it stands in the batch."""
    images = sampled(asked([0, 1, 0]), jax.random.key(1))
    others = sampled(asked([0, 1, 0], numbers=[7, 1, 0]), jax.random.key(1))
    np.testing.assert_allclose(others[1:], images[jnp.array([1, 0])], atol=1e-5)
    assert float(jnp.abs(others[0] - images[0]).max()) > 0.01
    twice = sampled(asked([0, 0, 0], numbers=[7, 7, 7]), jax.random.key(1))
    np.testing.assert_allclose(twice, jnp.broadcast_to(others[:1], twice.shape), atol=1e-5)


def test_guidance_is_away_from_the_unknown_class(sampled):
    plain, unknown = sampled(asked([1] * 3), jax.random.key(2)), sampled(asked([2] * 3), jax.random.key(2))
    np.testing.assert_allclose(sampled(asked([1] * 3, -1.0), jax.random.key(2)), unknown, atol=1e-4)
    np.testing.assert_allclose(sampled(asked([7] * 3), jax.random.key(2)), unknown, atol=1e-5)
    strong = sampled(asked([1] * 3, 3.0), jax.random.key(2))
    assert float(jnp.abs(strong - plain).max()) > 1e-4


def test_evaluation_repeats_itself(batch):
    system, state = constant()
    evaluator = system.evaluators["loss"]
    records = {**batch["records"], "mask": np.array([1, 1, 1, 0], np.float32)}
    run = jax.jit(evaluator.accumulate)
    variables, key = system.inference_variables(state), jax.random.key(5)
    once = evaluator.compute(jax.device_get(run(evaluator.init(), variables, records, key)))
    assert once == evaluator.compute(jax.device_get(run(evaluator.init(), variables, records, key)))
    assert list(once) == ["mse", "mse_t2", "mse_t10", "mse_t20", "mse_t30", "mse_t38"]
    assert once["mse"] == pytest.approx(np.mean(list(once.values())[1:])) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize("name", ["diffusion", "noise_classifier"])
def test_the_setting_that_turns_balance_off_is_named(name):
    on, off = (build(name, balance=balance).streams["records"] for balance in (Balance.LABEL, Balance.NONE))
    assert isinstance(on.order, Balanced) and not isinstance(off.order, Balanced)
    assert on.unbalanced == f"config.balance={Balance.NONE.value}"


def test_the_rate_warms_up_and_anneals():
    optim = diffusion_options.AdamConfig(lr=1.0, warmup=4, anneal=True)
    rate = diffusion_options.rate(optim, 12)
    np.testing.assert_allclose([rate(s) for s in (0, 3, 4, 8, 12)], [0.25, 1, 1, 0.5, 0], atol=1e-6)
    flat = diffusion_options.rate(diffusion_options.AdamConfig(lr=1.0), 12)
    np.testing.assert_allclose([flat(s) for s in (0, 5, 11)], 1)


def test_the_classifier_sees_noise_at_every_step_but_is_judged_without():
    system = build("noise_classifier")
    variables = system.inference_variables(small_systems.initial_state("noise_classifier"))
    image = small_systems.batch("noise_classifier")["records"]["image"]
    predict = jax.jit(system.samplers["predict"])
    found = predict(variables, {"image": image}, jax.random.key(0))
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-6)
    np.testing.assert_array_equal(found, predict(variables, {"image": image}, jax.random.key(1)))
    noised = system._noised(jnp.zeros((500, 2, 2, 1)), jnp.repeat(jnp.array([0, 39]), 250), jax.random.key(0))
    bar = np.cumprod(1 - np.linspace(1e-4 * 25, 0.02 * 25, 40))
    for part, share in ((noised[:250], bar[0]), (noised[250:], bar[39])):
        assert float(jnp.std(part)) == pytest.approx(np.sqrt(1 - share), rel=0.05)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        (
            "diffusion",
            {"network__attention": (3,)},
            r"config\.network\.attention: no level has a side of 3 pixels; .*16, 8",
        ),
        ("diffusion", {"data__crop_size": 17}, r"config\.data\.crop_size = 17: must be a multiple of 2"),
        ("diffusion", {"network__multipliers": ()}, r"config\.network\.multipliers = \(\): must be positive numbers"),
        ("diffusion", {"process__steps": 12}, r"config\.process\.steps = 12: linear schedule of 12 steps"),
        (
            "diffusion",
            {"inference__steps": 41},
            r"config\.inference\.steps = 41: must lie in 1 \.\. process",
        ),
        ("diffusion", {"condition__drop": 1.0}, r"config\.condition\.drop = 1\.0: must lie in"),
        ("diffusion", {"balance": Balance.LABEL_VIEW}, r"config\.balance = 'label_view': needs data\.views"),
        ("diffusion", {"optim__accumulate": 3}, r"config\.optim\.accumulate = 3: must divide train\.batch_size = 4"),
        ("diffusion", {"ema": 1.0}, r"config\.ema = 1\.0: must lie in"),
        (
            "noise_classifier",
            {"head__pool": "mean"},
            r"config\.head\.pool = 'mean': must be one of attention",
        ),
        ("noise_classifier", {"data__classes": ("x",)}, r"config\.data\.classes = .*needs two or more"),
    ],
)
def test_refusals(name, fields, message):
    with pytest.raises(UserError, match=message):
        build(name, **fields)


def test_short_processes_need_another_schedule():
    assert len(build("diffusion", process__steps=12, process__noise=Noise.COSINE, inference__steps=3).schedule) == 12


class Told:
    """Stands in for the network: its answer is a number for the class plus one for the view."""

    learned_variance = False

    def __init__(self, null, of_class):
        self.null, self.of_class = null, jnp.asarray(of_class)

    def apply(self, variables, x, t, condition):
        answer = self.of_class[condition["label"]] + jnp.array([-0.3, 0.2, 0.6])[condition["view"]]
        return jnp.broadcast_to(answer.reshape(-1, 1, 1, 1), x.shape)


def drawn(of_class, labels, views, scale):
    """Images of that network, of equal noise whatever is asked for; class and view 2 are unknown."""
    system = build(data__views=("PA", "AP"))
    system = dataclasses.replace(system, network=Told(system.network.null, of_class))
    assert system.network.null == {"label": 2, "view": 2}
    inputs = asked(labels, scale) | {"view": np.array(views, np.int32)}
    return jax.jit(system.samplers["sample"])({}, inputs, jax.random.key(3))


def test_guidance_leaves_the_view_as_it_is():
    """Where the class says nothing there is nothing to be guided by; dropping the view would be seen."""
    by_view = (0.0, 0.0, 0.0)
    plain = drawn(by_view, [0, 1, 1], [0, 1, 2], 0.0)
    np.testing.assert_allclose(drawn(by_view, [0, 1, 1], [0, 1, 2], 3.0), plain, atol=1e-6)
    assert float(jnp.abs(drawn(by_view, [0, 1, 1], [1, 0, 1], 0.0) - plain).mean((1, 2, 3)).min()) > 0.01
    # Minus one is the unknown class, of the view that was asked for.
    by_both = (0.4, -0.5, 0.1)
    away = drawn(by_both, [0, 1, 1], [0, 1, 2], -1.0)
    np.testing.assert_allclose(away, drawn(by_both, [2, 2, 2], [0, 1, 2], 0.0), atol=1e-6)
    assert float(jnp.abs(away - drawn(by_both, [2, 2, 2], [2, 2, 0], 0.0)).mean((1, 2, 3)).min()) > 0.01


def test_a_network_that_has_met_no_unknown_class_is_told_one_and_not_guided():
    system = build(condition__drop=0.0)
    takes = system.sampler_inputs["sample"]
    assert set(takes) == {"number", "label"} and not takes["label"].unknown
    state = system.init(jax.random.key(0))
    inputs = {"number": jnp.arange(2), "label": jnp.array([0, 1])}
    image = system.samplers["sample"](system.inference_variables(state), inputs, jax.random.key(1))
    assert image.shape == (2, 16, 16, 1) and bool(jnp.isfinite(image).all())
    assert build().sampler_inputs["sample"]["label"].unknown and "scale" in build().sampler_inputs["sample"]
