"""Steps with several variants: how often each runs, and what they make together."""

from __future__ import annotations

import argparse

import jax
import numpy as np
import pytest

from benchmarks import cases, ours, run, timing
from benchmarks.timing import Seconds
from medgen_jax.systems import phases


def small(name):
    (case,) = cases.chosen((name,), (cases.SMALL,))
    return case


def test_shares_are_counted_where_the_step_alone_decides():
    """Path lengths every 4 steps, R1 every 16, at which path lengths are due as well."""
    config = small("stylegan2").configure(4)
    assert (config.loss.path_every, config.loss.r1_every) == (4, 16)
    assert ours.shares(config, "float32") == {"main": 12 / 16, "path": 3 / 16, "path_r1": 1 / 16}
    assert ours.shares(small("pix2pix").configure(4), "float32") == {"train": 1}


def test_shares_are_equal_where_the_data_decide():
    config = small("pix2pix").configure(4)
    config.schedule.kind = phases.Kind.SEED
    assert ours.shares(config, "float32") == pytest.approx({"d0": 1 / 3, "g": 1 / 3, "d": 1 / 3})


def test_the_mean_of_works_that_take_turns():
    seconds = {"a": Seconds(np.array([1.0, 2.0]), np.array([3.0, 3.0])), "b": Seconds(*np.full((2, 2), 5.0))}
    found = timing.mean(seconds, {"a": 0.75, "b": 0.25})
    np.testing.assert_allclose(found.wall, [2, 2.75])
    np.testing.assert_allclose(found.processor, [3.5, 3.5])


def numbers(trace, compiled, gflop, memory):
    times = {"trace_s": trace, "compile_cold_s": compiled, "compile_warm_s": 0.5}
    return times | {"gflop": gflop, "traffic_gb": gflop / 4, "memory_mb": memory}


OFTEN, RARELY = numbers(1.0, 10.25, 4.0, 30.0), numbers(2.0, 20.5, 8.0, 50.0)


def test_numbers_of_all_variants_as_one():
    found = ours.weighted({"often": OFTEN, "rarely": RARELY}, {"often": 0.75, "rarely": 0.25})
    assert found == {
        "trace_s": 3.0, "compile_cold_s": 30.75, "compile_warm_s": 1.0,
        "gflop": 5.0, "traffic_gb": 1.25, "memory_mb": 50.0,
    }  # fmt: skip


@pytest.fixture
def measured(monkeypatch):
    """``measured(rarely)``: lines of a step that runs often or rarely, by a clock that each call moves."""
    clock = {"now": 0.0}

    def form(seconds):
        def once():
            clock["now"] += seconds

        return once

    def lines(rarely):
        found = {"often": ours.Measured(form(0.1), OFTEN), "rarely": rarely}
        monkeypatch.setattr(ours, "shares", lambda config, dtype: {"often": 0.75, "rarely": 0.25})
        monkeypatch.setattr(ours, "train_step", lambda config, dtype, device, variant: found[variant])
        monkeypatch.setattr(run, "partners", lambda *_: {"eager": lambda: form(0.2)})
        monkeypatch.setattr(timing.time, "perf_counter", lambda: clock["now"])
        given = argparse.Namespace(dtype="float32", rounds=3, compiled=False, forms="")
        limits = {"matrix_tflops": 1.0, "copy_gbs": 1.0}
        return {line["form"]: line for line in run.lines(small("stylegan2"), 4, "train", given, limits)}

    lines.form = form
    return lines


def test_a_line_is_the_mean_step_and_holds_every_variant(measured):
    line = measured(ours.Measured(measured.form(0.5), RARELY))[run.OURS]
    assert line["ms_p50"] == pytest.approx(200) and line["images_per_s"] == pytest.approx(20)
    assert line["gflop"] == 5.0 and line["tflops"] == pytest.approx(0.025)
    assert line["compile_cold_s"] == 30.75 and line["recompilations"] == 0
    often, rarely = line["variants"]["often"], line["variants"]["rarely"]
    assert (often["share"], often["ms_p50"], often["compile_cold_s"]) == (0.75, pytest.approx(100), 10.25)
    assert (rarely["share"], rarely["ms_p50"], rarely["compile_cold_s"]) == (0.25, pytest.approx(500), 20.5)
    # The partner does what the first variant does.
    assert line["times_faster"] == pytest.approx(2)


def test_without_one_of_its_variants_a_step_has_no_line(measured):
    def fails():
        raise MemoryError("too large")

    found = measured(ours.Measured(fails, RARELY))
    assert set(found) == {"jax rarely", "eager"}
    assert found["jax rarely"]["failed"] == "MemoryError: too large"


def test_the_variant_that_is_asked_for_is_measured(monkeypatch):
    """The discriminator alone costs less than with the generator's images; nothing is compiled but first weights."""
    monkeypatch.setattr(ours, "_compiled", lambda *_, **__: (None, {}))
    config = small("pix2pix").configure(2)
    config.data.crop_size, config.model.downs, config.model.ngf, config.model.ndf = 32, 5, 2, 2
    config.schedule.kind = phases.Kind.SEED
    alone, together = (
        ours.train_step(config, "float32", jax.devices()[0], variant).numbers["gflop"] for variant in ("d0", "d")
    )
    assert 0 < alone < together
