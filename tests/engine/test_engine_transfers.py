"""Between two log steps the loop neither compiles anything nor asks the device for anything."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import toy_system

from medgen_jax.core import config as configs
from medgen_jax.engine import prefetch, rundir
from medgen_jax.engine.console import Console
from medgen_jax.engine.loop import Run
from medgen_jax.engine.runtime import CompileCounter


def toy_run(folder, steps=40, **train):
    """A run of the toy system that logs, saves and latches every 10 steps; both variants take turns of 6."""
    config = toy_system.Config()
    values = {"steps": steps, "batch_size": 4, "log_every": 10, "save_every": 10, "sample_every": 0} | train
    for name, value in values.items():
        setattr(config.train, name, value)
    system = toy_system.build(configs.resolve(config, 10))
    return Run(
        system,
        configs.resolve(config, 10),
        rundir.open_rundir(folder),
        lambda _: {name: toy_system.ArrayStream(name, stream, None) for name, stream in system.streams.items()},
        frozen={"scale": np.float32(0.5)},
        devices=jax.devices()[:1],
        console=Console(False),
    )


@pytest.fixture
def seen(monkeypatch):
    """What a run reads back from its device, and what it compiles, each with the number of steps done by then."""
    steps, read = [0], []
    get, take = jax.device_get, prefetch.Prefetcher.__next__

    def device_get(tree):
        read.append(steps[0])
        return get(tree)

    def step(self):
        steps[0] += 1
        compiled.append((steps[0], counter.count))
        return take(self)

    compiled = []
    monkeypatch.setattr(jax, "device_get", device_get)
    monkeypatch.setattr(prefetch.Prefetcher, "__next__", step)
    with CompileCounter() as counter:
        yield read, compiled


def test_the_device_is_read_on_the_grid_alone(tmp_path, seen, monkeypatch):
    read, _ = seen
    monkeypatch.setattr(toy_system.Toy, "flag_every", 10)
    toy_run(tmp_path)()
    assert read and {step % 10 for step in read} == {0}


@pytest.mark.parametrize("steps_per_call", [1, 2])
def test_nothing_compiles_after_the_warm_up(tmp_path, seen, steps_per_call):
    _, compiled = seen
    toy_run(tmp_path, steps_per_call=steps_per_call)()
    # Both variants have run, and the first logs and saves are done, after 20 of 40 steps.
    after = dict(compiled)
    assert after[40] == after[21] > after[1]


def test_a_batch_from_the_host_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(prefetch, "put_local", lambda batch, mesh: batch)
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        toy_run(tmp_path)()
    assert not list(tmp_path.glob("results.json"))
