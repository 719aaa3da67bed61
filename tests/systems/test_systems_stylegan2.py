"""StyleGAN2: lazy regularisers and their Adam, the average, diversity, augmentation, resuming, refusals."""

from __future__ import annotations

import dataclasses
import functools
import math
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_systems

from medgen_jax.core import config as configs
from medgen_jax.core import trees
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import class_balanced, shuffled
from medgen_jax.engine import mesh as meshes
from medgen_jax.engine.checkpoint import CheckpointStore, load_step
from medgen_jax.systems import stylegan2
from medgen_jax.systems.stylegan2_options import DiversityScope, Pipe

NAME = "stylegan2"


def build(**fields):
    config = small_systems.CONFIGS[NAME]()
    for dotted, value in fields.items():
        *path, last = dotted.split("__")
        setattr(functools.reduce(getattr, path, config), last, value)
    return stylegan2.build(configs.resolve(config, 16))


# -- lazy regularisers ------------------------------------------------------------------------------


def test_path_lengths_every_4th_and_r1_every_16th_step():
    loss = stylegan2.LossConfig()
    assert (loss.path_every, loss.r1_every, loss.path, loss.r1) == (4, 16, 2.0, 1.0)
    system = build(loss=loss)
    assert [system.variant(step, ()) for step in range(18)] == (
        ["path_r1"] + (["main"] * 3 + ["path"]) * 3 + ["main"] * 3 + ["path_r1", "main"]
    )
    assert list(system.step_variants) == ["main", "path", "path_r1"]


@pytest.mark.parametrize(
    ("fields", "variants"),
    [
        ({"path_every": 2, "r1_every": 3}, {"main", "path", "r1", "path_r1"}),
        ({"path_every": 1, "r1_every": 2}, {"path", "path_r1"}),
        ({"path_every": 4, "r1": 0.0}, {"main", "path"}),
        ({"path": 0.0, "r1_every": 4}, {"main", "r1"}),
        ({"path": 0.0, "r1": 0.0}, {"main"}),
        ({"path_every": 1, "r1_every": 1}, {"path_r1"}),
    ],
)
def test_exactly_the_variants_that_occur_are_there(fields, variants):
    system = build(**{f"loss__{name}": value for name, value in fields.items()})
    assert set(system.step_variants) == {system.variant(step, ()) for step in range(24)} == variants


def test_adam_is_corrected_for_the_updates_on_top():
    """Of r steps r + 1 are updates: the rate times k = r / (r + 1), the decay to the power of k."""
    system = build(loss=stylegan2.LossConfig(), optim__lr=0.01)
    for (adam, rate), k in ((system.adam_g, Fraction(4, 5)), (system.adam_d, Fraction(16, 17))):
        assert rate == pytest.approx(0.01 * float(k))
        _, state = adam.update({"w": jnp.full(1, 3.0)}, adam.init({"w": jnp.zeros(1)}))
        assert float(state.nu["w"][0]) == pytest.approx(9 * (1 - 0.99 ** float(k)), rel=1e-4)
        assert float(state.mu["w"][0]) == pytest.approx(3.0)
    assert build(loss__path=0.0, optim__lr=0.01).adam_g[1] == 0.01


def test_a_regulariser_has_an_update_of_its_own():
    main, main_metrics = small_systems.stepped(NAME, "main")
    both, both_metrics = small_systems.stepped(NAME, "path_r1")
    for player in "gd":
        assert int(main.opt[player].count) == 1 and int(both.opt[player].count) == 2
    assert set(both_metrics) - set(main_metrics) == {"path_penalty", "path_length", "path_mean", "r1"}
    assert float(main.extra["path_mean"]) == 0
    length = float(both_metrics["path_length"][0])
    assert float(both.extra["path_mean"]) == pytest.approx(0.01 * length, rel=1e-4) and length > 0


# -- what a step remembers ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kimg", "ramp", "images", "half"), [(0.5, 0.0, 0, 500), (0.5, 0.05, 1000, 50), (0.5, 0.05, 1_000_000, 500)]
)
def test_the_average_forgets_half_in_so_many_images(kimg, ramp, images, half):
    system, state = build(ema__kimg=kimg, ema__ramp=ramp), small_systems.initial_state(NAME)
    ones = jax.tree.map(jnp.ones_like, state.params["g"])
    state = state.replace(images=jnp.int32(images), params={"g": ones}, ema={"g": jax.tree.map(jnp.zeros_like, ones)})
    kept = 1 - float(jax.tree.leaves(system._average(state).ema)[0].ravel()[0])
    assert kept == pytest.approx(2 ** (-4 / half), rel=1e-5)


def test_the_average_starts_as_the_network_and_may_be_left_out():
    new, _ = small_systems.stepped(NAME, "main")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), new.ema["g"], new.params["g"])
    system = build(ema__kimg=0.0)
    state = jax.eval_shape(system.init, jax.random.key(0))
    assert state.ema == {} and system.inference_variables(state)["params"] is state.params["g"]


def test_a_step_moves_the_average_of_w_and_p():
    before, (new, metrics) = small_systems.initial_state(NAME), small_systems.stepped(NAME, "main")
    old, now = (np.asarray(s.mutable["g"]["averages"]["mapping"]["w"]) for s in (before, new))
    assert not np.any(old) and np.any(now)
    jax.tree.map(np.testing.assert_array_equal, new.mutable["g"]["constants"], before.mutable["g"]["constants"])
    # The toy configuration starts at 0.5, sets p at every step and takes 80 images from 0 to 1: 4 / 80.
    sign = float(metrics["real_sign"][0])
    assert float(new.extra["ada"]["p"]) == pytest.approx(0.5 + np.sign(sign - 0.6) * 0.05) == float(metrics["ada_p"][0])


def test_a_resumed_run_is_the_same_run(tmp_path):
    """Four steps at once, and two, a checkpoint, two more: bit by bit, with p, path mean, optimisers and average."""
    system, device = small_systems.build(NAME), jax.devices()[0]

    def go(state, steps):
        for step in steps:
            run = small_systems.compiled(NAME, system.variant(step, ()))
            state, _ = run(state, small_systems.batch(NAME, seed=step))
        return jax.device_put(state, device)

    middle = go(small_systems.initial_state(NAME), range(2))
    whole = go(middle, range(2, 4))
    store = CheckpointStore(tmp_path / "checkpoints")
    store.save(2, middle, {})
    store.close()
    target = meshes.abstract(jax.eval_shape(lambda: middle), meshes.make_mesh(jax.devices()[:1]))
    resumed = go(load_step(store.folder(2), target), range(2, 4))
    assert trees.digest(resumed) == trees.digest(whole)
    assert float(whole.extra["path_mean"]) != float(middle.extra["path_mean"]) > 0
    assert float(whole.extra["ada"]["p"]) != 0.5 and int(whole.opt["d"].count) == 6


# -- diversity ----------------------------------------------------------------------------------------


def test_diversity_compares_codes_or_classes():
    key, labels = jax.random.key(2), jnp.array([0, 1, 1, 2] * 8)
    same = build(loss__ds=2.0, data__classes=("a", "b", "c"))
    codes = same.maker.codes(key, labels)
    other = same.others(jax.random.key(3), codes)
    np.testing.assert_array_equal(other["label"], labels)
    assert not np.any(np.isclose(other["z"], codes["z"]).all(1))
    inter = build(loss__ds=2.0, loss__ds_scope=DiversityScope.INTER_DOMAIN, data__classes=("a", "b", "c"))
    other = inter.others(jax.random.key(3), codes)
    np.testing.assert_array_equal(other["z"], codes["z"])
    np.testing.assert_array_equal(other["mixed"], codes["mixed"])
    assert np.all(other["label"] != labels) and set(other["label"].tolist()) == {0, 1, 2}


def test_the_weight_of_diversity_falls_to_nothing():
    _, metrics = small_systems.stepped(NAME, "main")
    assert float(metrics["diversity_weight"][0]) == 2.0 and float(metrics["diversity"][0]) > 0
    assert build(loss__ds=2.0).ds == (2.0, 40) and build(loss__ds=2.0, loss__ds_steps=7).ds == (2.0, 7)


def test_classes_may_come_equally_often():
    assert build(class_balanced=True).streams["records"].order == class_balanced("label")
    assert build(class_balanced=False).streams["records"].order is shuffled


# -- use ----------------------------------------------------------------------------------------------


def test_the_preview_draws_the_classes_of_real_images():
    system = small_systems.build(NAME)
    record = {"image": np.zeros((3, 8, 8, 1), np.uint8), "label": np.array([1, 0, 1], np.int32)}
    made = system.preview.inputs(record, jax.random.key(0))
    assert made["number"].tolist() == [0, 1, 2] and made["label"].tolist() == [1, 0, 1]
    assert made["truncation"].tolist() == [1.0] * 3 and system.preview.shown == (("image", "real"),)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data__crop_size", 48, r"config\.data\.crop_size = 48: must be a power of two, 8 or more"),
        ("model__channels", 2, r"config\.model\.channels = 2: must be 1 or 3"),
        ("model__channel_base", 4, r"config\.model\.channel_base = 4: must be at least data\.crop_size = 8"),
        ("model__map_layers", 0, r"config\.model\.map_layers = 0: must be at least 1"),
        ("model__minibatch_group", 3, r"config\.model\.minibatch_group = 3: must divide the 4 images"),
        ("optim__accumulate", 3, r"config\.optim\.accumulate = 3: must divide train\.batch_size = 4"),
        ("loss__path_shrink", 3, r"config\.loss\.path_shrink = 3: times optim\.accumulate = 1 must divide train"),
        ("loss__r1_every", 0, r"config\.loss\.r1_every = 0: must be at least 1"),
        ("loss__ds", -1.0, r"config\.loss\.ds = -1\.0: must not be negative"),
        ("loss__r1", math.inf, r"config\.loss\.r1 = inf: must not be negative, nor infinite"),
        ("optim__lr", math.inf, r"config\.optim\.lr = inf: must be positive, and finite"),
        ("loss__mixing", 1.5, r"config\.loss\.mixing = 1\.5: must lie in \[0, 1\]"),
        ("optim__beta2", 1.0, r"config\.optim\.beta2 = 1\.0: must lie in \[0, 1\)"),
        ("ada__p", 1.5, r"config\.ada\.p = 1\.5: must lie in \[0, 1\]"),
        ("ada__target", 1.0, r"config\.ada\.target = 1\.0: must lie between -1 and 1"),
        ("ada__kimg", 0.0, r"config\.ada\.kimg = 0\.0: must be positive"),
        ("ema__ramp", -0.1, r"config\.ema\.ramp = -0\.1: must not be negative"),
    ],
)
def test_what_is_out_of_range_is_refused(field, value, message):
    with pytest.raises(UserError, match=message):
        build(**{field: value})


def test_diversity_between_classes_needs_two():
    scope = DiversityScope.INTER_DOMAIN
    with pytest.raises(UserError, match=r"config\.loss\.ds_scope = 'inter_domain': needs two classes"):
        build(loss__ds=2.0, loss__ds_scope=scope, data__classes=("covid",))
    assert build(loss__ds=0.0, loss__ds_scope=scope, data__classes=("covid",)).ds[0] == 0


def test_slices_of_a_batch_make_the_same_gradient():
    """Without what looks at other images of a batch or draws by slice."""
    fields = {"ada__pipe": Pipe.NONE, "model__minibatch_group": 0, "loss__ds": 0.0, "optim__beta1": 0.0}
    found = []
    for slices in (1, 2):
        system = build(optim__accumulate=slices, **fields)
        system = dataclasses.replace(system, maker=dataclasses.replace(system.maker, noise="none"))
        state = jax.jit(system.init)(jax.random.key(0))
        new, metrics = jax.jit(system.train_step)(state, small_systems.batch(NAME), {})
        found.append((new.opt["g"].nu["synthesis"]["const"], new.opt["d"].nu, new.mutable, metrics))
    whole, parts = found
    assert jax.tree.structure(whole) == jax.tree.structure(parts)
    scale = max(float(jnp.abs(x).max()) for x in jax.tree.leaves(whole[1]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4 * scale), whole, parts)
