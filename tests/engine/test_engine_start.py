"""Runs that begin with networks from elsewhere: what is taken, what is new, what must fit."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import small_systems
import untrained_runs

from medgen_jax.core import config as configs
from medgen_jax.core.errors import UserError
from medgen_jax.engine import mesh as meshes
from medgen_jax.engine import rundir, start
from medgen_jax.engine.step import init_state
from medgen_jax.systems import diffusion, phases, pix2pix

CLASSES = ("normal", "sick")


def pair(**optim):
    config = small_systems.CONFIGS["pix2pix"]()
    for name, value in optim.items():
        setattr(config.optim, name, value)
    return config


def conditional(classes=CLASSES, width=8, drop=0.1):
    config = small_systems.CONFIGS["diffusion"]()
    config.data.classes, config.network.width, config.condition.drop = classes, width, drop
    return config


@pytest.fixture(scope="module")
def pair_run(tmp_path_factory):
    """A run whose networks are those of key 0, with no averages."""
    return untrained_runs.write(tmp_path_factory.mktemp("start") / "pair", pair(ema=0.0))


@pytest.fixture(scope="module")
def conditional_run(tmp_path_factory):
    return untrained_runs.write(tmp_path_factory.mktemp("start") / "conditional", conditional(drop=0.0))


def begun(workdir, config, module, seed=5):
    """A fresh state, and the same with the networks of a run."""
    config = configs.resolve(config, 12)
    system = module.build(config)
    fresh = init_state(system, meshes.make_mesh(jax.devices()[:1]), seed)
    place, changed = start.of_run(workdir, system, config)
    return fresh, place(fresh), changed


def equal(one, two):
    return all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True))


def test_networks_are_taken_and_all_else_is_new(pair_run):
    own = jax.jit(pix2pix.build(configs.resolve(pair(ema=0.0), 16)).init)(jax.random.key(0))
    fresh, state, changed = begun(pair_run, pair(ema=0.9, beta1=0.4), pix2pix)
    assert equal(state.params, own.params) and not equal(state.params, fresh.params)
    assert equal(state.mutable, own.mutable)
    assert equal(state.ema["g"], own.params["g"])  # there was no average: it begins with what it averages
    assert state.ema["g"]["down_0"]["kernel"] is not state.params["g"]["down_0"]["kernel"]
    assert equal(state.opt, fresh.opt) and int(state.step) == 0
    np.testing.assert_array_equal(jax.random.key_data(state.key), jax.random.key_data(fresh.key))
    assert changed == ["config.optim.beta1: 0.5 -> 0.4", "config.optim.ema: 0.0 -> 0.9"]


def test_statistics_that_the_networks_came_without_are_fresh(pair_run):
    """The schedule of turns gives the discriminator a second set of statistics."""
    config = pair()
    config.schedule.kind = phases.Kind.SEED
    fresh, state, _ = begun(pair_run, config, pix2pix)
    assert equal(state.mutable["d"]["given_stats"], fresh.mutable["d"]["given_stats"])
    assert jax.tree.structure(state) == jax.tree.structure(fresh)


def test_only_step_0_is_a_beginning(pair_run, tmp_path):
    assert start.is_untrained(pair_run) and not start.is_untrained(tmp_path)
    (tmp_path / "checkpoints").mkdir()
    for step in ("00000000", "00000004"):
        (tmp_path / "checkpoints" / step).symlink_to(pair_run / "checkpoints" / "00000000")
    assert not start.is_untrained(tmp_path)


def of_run(workdir, config):
    config = configs.resolve(config, 12)
    return start.of_run(workdir, diffusion.build(config), config)


def test_a_null_row_may_be_learned_and_length_and_data_are_not_mentioned(conditional_run):
    config = conditional(drop=0.2)
    config.train.steps, config.train.seed, config.data.source = 7, 3, "elsewhere"
    assert of_run(conditional_run, config)[1] == ["config.condition.drop: 0.0 -> 0.2"]


def test_networks_of_another_size_are_refused_with_what_was_changed(conditional_run):
    message = (
        r"--workdir .*conditional: its networks do not fit this configuration, net/\S+ is \([\d, ]+\) there and "
        r"\([\d, ]+\) here; changed: .*config\.network\.width: 8 -> 12; give the settings they came with"
    )
    with pytest.raises(UserError, match=message):
        of_run(conditional_run, conditional(width=12))
    with pytest.raises(UserError, match="there and .* here; changed: config.condition.drop.*config.data.classes"):
        of_run(numbered(conditional_run), conditional(classes=("a", "b", "c")))


def numbered(run):
    """The same run, whose classes have no names but numbers."""
    folder = run.with_name("numbered")
    if not folder.exists():
        folder.mkdir()
        (folder / "checkpoints").symlink_to(run / "checkpoints")
        stored = json.loads((run / "config.json").read_text())
        stored["config"]["data"]["classes"] = ["0", "1"]
        (folder / "config.json").write_text(json.dumps(stored))
    return folder


def test_classes_keep_their_meaning(conditional_run):
    with pytest.raises(UserError, match="know the classes normal, sick, in this order, the data have sick, normal;"):
        of_run(conditional_run, conditional(classes=CLASSES[::-1]))
    assert (
        "config.data.classes: ['0', '1'] -> ['normal', 'sick']" in of_run(numbered(conditional_run), conditional())[1]
    )


def test_the_networks_are_known_by_the_configuration_they_came_with(conditional_run, tmp_path):
    """A run that was stopped before its first save has already written its own."""
    (tmp_path / "checkpoints").symlink_to(conditional_run / "checkpoints")
    stored, config = rundir.read_config(conditional_run), conditional(drop=0.2)
    config.ema = 0.0
    rundir.write_config(tmp_path, "diffusion", configs.to_dict(configs.resolve(config, 9)), {}, stored["config"])
    _, state, changed = begun(tmp_path, config, diffusion)
    assert changed == ["config.condition.drop: 0.0 -> 0.2", "config.ema: 0.9 -> 0.0"] and not state.ema
