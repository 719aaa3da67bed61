"""The loop, driven by a toy system that uses every part of the contract."""

from __future__ import annotations

import json
import os
import signal

import jax
import numpy as np
import pytest
import toy_system

from medgen_jax.core import config as configs
from medgen_jax.core import trees
from medgen_jax.core.errors import UserError
from medgen_jax.engine import rundir
from medgen_jax.engine.console import Console
from medgen_jax.engine.interrupt import Interrupted
from medgen_jax.engine.loop import Run


def toy_config(**train):
    config = toy_system.Config()
    values = {"steps": 20, "batch_size": 4, "log_every": 2, "save_every": 4, "sample_every": 0} | train
    for name, value in values.items():
        setattr(config.train, name, value)
    return config


def toy_run(folder, config, *, bad=(), devices=1, draw=None, evaluate=False, context=None, scale=0.5):
    config = configs.resolve(config, 10)
    system = toy_system.build(config)

    def open_streams(positions):
        return {n: toy_system.ArrayStream(n, s, (positions or {}).get(n), bad) for n, s in system.streams.items()}

    def evaluation():
        for value in (0, 100):
            yield {"x": np.full((4, 2, 2, 1), value, np.uint8), "mask": np.array([1, 1, 1, 0], np.float32)}

    return Run(
        system,
        config,
        rundir.open_rundir(folder),
        open_streams,
        evaluation={"left": evaluation} if evaluate else None,
        draw=draw,
        context=context,
        frozen={"scale": np.float32(scale)},
        frozen_digests={"scale": str(scale)},
        devices=jax.devices()[:devices],
        console=Console(False),
    )


def stop_at(step, number=signal.SIGTERM):
    """A ``draw`` that sends this process a signal at a step."""

    def draw(now, variables):
        if now == step:
            os.kill(os.getpid(), number)

    return draw


def rows(folder, split="train"):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row for row in lines if row["split"] == split]


def test_counts_steps_images_and_variants(tmp_path):
    result = toy_run(tmp_path, toy_config())()
    assert int(result.state.step) == 20 and int(result.state.images) == 80
    # A wish after 6 steps is granted at the next even step: turns of 6 left, 6 right, ...
    assert [row["side"] for row in rows(tmp_path)] == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1]
    assert result.state.extra["turns"].tolist() == [12, 8]
    assert [row["images"] for row in rows(tmp_path)] == list(range(8, 81, 8))


@pytest.mark.parametrize("steps_per_call", [1, 2])
@pytest.mark.parametrize("stop", [4, 10])
def test_resume_is_exact(tmp_path, steps_per_call, stop):
    config = {"steps_per_call": steps_per_call, "sample_every": 2}
    straight = toy_run(tmp_path / "straight", toy_config(**config))()
    with pytest.raises(Interrupted) as error:
        toy_run(tmp_path / "stopped", toy_config(**config), draw=stop_at(stop))()
    assert error.value.code == 75
    resumed = toy_run(tmp_path / "stopped", toy_config(**config))()
    assert trees.digest(straight.state) == trees.digest(resumed.state)
    same = [[r["step"], r["loss"]] for r in rows(tmp_path / "straight")]
    assert same == [[r["step"], r["loss"]] for r in rows(tmp_path / "stopped")]


def test_interrupt_codes(tmp_path):
    for number, code in ((signal.SIGUSR1, 75), (signal.SIGINT, 130)):
        with pytest.raises(Interrupted) as error:
            toy_run(tmp_path / str(number), toy_config(sample_every=2), draw=stop_at(4, number))()
        assert error.value.code == code and "saved at step 4" in str(error.value)


def test_scan_agrees_with_single_steps(tmp_path):
    single = toy_run(tmp_path / "a", toy_config())()
    scanned = toy_run(tmp_path / "b", toy_config(steps_per_call=2))()
    assert single.state.extra["checksum"] == scanned.state.extra["checksum"]
    np.testing.assert_allclose(single.state.params["net"]["w"], scanned.state.params["net"]["w"], rtol=1e-5)
    assert set(scanned.compile_seconds) == {"left x 2", "right x 2"}


def test_one_to_four_to_one_devices(tmp_path):
    straight = toy_run(tmp_path / "one", toy_config())()
    for stop, devices in ((4, 1), (12, 4)):
        with pytest.raises(Interrupted):
            toy_run(tmp_path / "many", toy_config(sample_every=2), devices=devices, draw=stop_at(stop))()
    config = toy_config(sample_every=2)
    resumed = toy_run(tmp_path / "many", config)()
    assert straight.state.extra["checksum"] == resumed.state.extra["checksum"]
    np.testing.assert_allclose(straight.state.params["net"]["w"], resumed.state.params["net"]["w"], rtol=1e-4)


def test_a_finished_run_says_so(tmp_path):
    assert toy_run(tmp_path, toy_config())() is not None
    assert toy_run(tmp_path, toy_config())() is None
    longer = toy_run(tmp_path, toy_config(steps=24))()
    assert longer.step == 24


def test_non_finite_steps_are_skipped_and_counted(tmp_path):
    result = toy_run(tmp_path, toy_config(max_skipped=5), bad=(3, 4, 9))()
    assert result.state.skipped.tolist() == [3, 0]
    assert result.step == 20
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(result.state.params))
    # Steps 3 and 4 are undone and not saved: their turns are not counted either.
    assert int(result.state.extra["turns"].sum()) == 17


def test_too_many_non_finite_steps_abort_and_keep_the_last_good_one(tmp_path):
    with pytest.raises(UserError, match=r"6 steps in a row .*last finite checkpoint is step 4"):
        toy_run(tmp_path, toy_config(max_skipped=6), bad=tuple(range(4, 20)))()
    resumed = toy_run(tmp_path, toy_config(max_skipped=6))()
    assert resumed.step == 20 and resumed.state.skipped.tolist() == [0, 0]


def test_evaluation_masks_padding_and_keeps_the_best_step(tmp_path):
    run = toy_run(tmp_path, toy_config(eval_every=4, save_every=20, keep=1), evaluate=True)
    result = run()
    errors = {row["step"]: row["error"] for row in rows(tmp_path, "val")}
    assert sorted(errors) == [4, 8, 12, 16, 20]
    w = float(np.mean(result.state.ema["net"]["w"]))
    np.testing.assert_allclose(errors[20], (w**2 + (w - 100 / 255) ** 2) / 2, rtol=1e-5)
    best = min(errors, key=errors.get)
    assert set(run.store.steps()) == {best, 20}


def test_early_stopping_is_remembered(tmp_path):
    config = toy_config(eval_every=4)
    config.patience, config.lr = 1, 1e-9
    first = toy_run(tmp_path, config, evaluate=True, scale=0.0)
    result = first()
    assert result.step < 20
    assert toy_run(tmp_path, config, evaluate=True, scale=0.0)() is None


def test_results_are_written_with_their_context(tmp_path):
    result = toy_run(tmp_path, toy_config(), evaluate=True, context=lambda: {"notes": ["n"]})()
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["step"] == 20 and results["images"] == 80 and results["notes"] == ["n"]
    assert results["metrics"] == {"error": pytest.approx(result.numbers["error"])}


def test_a_failure_after_the_last_step_loses_nothing(tmp_path):
    def broken(step, variables):
        raise RuntimeError("no ink")

    with pytest.raises(RuntimeError, match="no ink"):
        toy_run(tmp_path, toy_config(), evaluate=True, draw=broken)()
    assert not (tmp_path / "results.json").exists()
    result = toy_run(tmp_path, toy_config(), evaluate=True)()  # concludes without another step
    assert result.step == 20 and result.compile_seconds == {}
    assert (tmp_path / "results.json").exists()
    assert toy_run(tmp_path, toy_config(), evaluate=True)() is None


def test_changed_fixed_weights_are_refused(tmp_path):
    toy_run(tmp_path, toy_config(steps=4))()
    with pytest.raises(UserError, match="fixed weights"):
        toy_run(tmp_path, toy_config(), scale=0.7)()


def test_grids_must_fit_the_scan(tmp_path):
    with pytest.raises(UserError, match="train.log_every = 2: must be a multiple of train.steps_per_call = 4"):
        toy_run(tmp_path, toy_config(steps_per_call=4))


def test_batch_that_devices_cannot_share(tmp_path):
    with pytest.raises(UserError, match="config.train.batch_size to 4 or 8"):
        toy_run(tmp_path, toy_config(batch_size=6), devices=4)


def test_a_stream_error_reaches_the_user(tmp_path, monkeypatch):
    def broken(self):
        raise UserError("left.png: truncated")

    monkeypatch.setattr(toy_system.ArrayStream, "__next__", broken)
    with pytest.raises(UserError, match=r"left\.png: truncated"):
        toy_run(tmp_path, toy_config())()
