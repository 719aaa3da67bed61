"""Networks that were put into a directory, as a conversion does, are trained on there."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import small_runs
import untrained_runs

from medgen_jax import training
from medgen_jax.core.errors import UserError
from medgen_jax.engine import restore
from medgen_jax.engine.console import Console


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    return small_runs.make_pairs(tmp_path_factory.mktemp("pairs"))


class Noted(Console):
    """Remembers what was said."""

    def __init__(self):
        super().__init__(False)
        self.said = []

    def say(self, message):
        self.said.append(message)


def train(config, workdir):
    console = Noted()
    return training.train(config, workdir, devices=jax.devices()[:1], console=console), console.said


def networks(workdir):
    system, _ = restore.open_run(workdir)
    return jax.device_get(restore.read_part(system, restore.intact_step(workdir), lambda state: state.params))


def distance(one, two):
    """Mean difference of parameters."""
    apart = jax.tree.map(lambda a, b: np.abs(a - b).ravel(), one, two)
    return float(np.concatenate(jax.tree.leaves(apart)).mean())


def test_a_run_begins_with_its_networks_and_goes_on_as_any_other(pairs, tmp_path):
    converted = small_runs.config(pairs, steps=0, epochs=200.0)
    converted.data.source, converted.optim.beta1 = "", 0.4
    folder = untrained_runs.write(tmp_path / "run", converted)
    before = networks(folder)
    result, said = train(small_runs.config(pairs, seed=3), folder)
    assert f"training on from the networks in {folder}; changed since they were put there: " in said[0]
    assert "config.optim.beta1: 0.4 -> 0.5" in said[0] and "train" not in said[0].split("there: ")[1]
    assert result.step == 8
    # Eight steps of at most a few times the rate; networks of another key differ by more than ten times that.
    assert 0 < distance(result.state.params, before) < 2e-3
    stored = json.loads((folder / "config.json").read_text())
    assert stored["config"]["num_train"] == 6 and stored["start"]["num_train"] == 16
    # From here on it is a run like any other.
    assert train(small_runs.config(pairs, seed=3), folder)[0] is None
    with pytest.raises(UserError, match=r"started with another configuration \(config\.train\.seed: 3 -> 0\)"):
        train(small_runs.config(pairs), folder)
    assert json.loads((folder / "config.json").read_text())["start"] == stored["start"]


def test_what_does_not_fit_is_refused_before_anything_is_compiled(pairs, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("compiled before the networks were compared")

    folder = untrained_runs.write(tmp_path / "run", small_runs.config(pairs))
    before = (folder / "config.json").read_text()
    monkeypatch.setattr("medgen_jax.engine.step.CompiledSteps._compile", fail)
    config = small_runs.config(pairs)
    config.model.ngf = 6
    with pytest.raises(UserError, match=r"do not fit this configuration, g/.*config\.model\.ngf: 4 -> 6"):
        train(config, folder)
    assert (folder / "config.json").read_text() == before
