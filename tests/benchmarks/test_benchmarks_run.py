"""The harness: forms take turns, every case has what it names, lines and tables say what was measured."""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import itertools
import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from benchmarks import cases, machine, run
from benchmarks.timing import Seconds, in_turns, summary
from medgen_jax import systems
from medgen_jax.core import config as configs
from medgen_jax.core import trees


def test_forms_take_turns_after_one_unmeasured_call_each():
    order = []
    seconds = in_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, rounds=3)
    assert order == ["a", "b"] * 4
    assert all(len(s.wall) == len(s.processor) == 3 for s in seconds.values())


#: As if Python were looking for the module of ``python -m``, or not: says whether freed memory is kept, and if in time.
BEGUN_AS = """
import sys
from medgen_jax.engine import heap
heap.keep_freed = lambda environ: print("kept", "jax" in sys.modules)
sys.argv = [sys.argv[1]]
import benchmarks
"""


@pytest.mark.parametrize(("started", "said"), [("-m", "kept False\n"), ("pytest", "")])
def test_measurements_keep_freed_memory_from_the_start(root, started, said):
    done = subprocess.run([sys.executable, "-c", BEGUN_AS, started], cwd=root, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == (said, "")


def test_a_summary_by_hand():
    found = summary(Seconds(np.array([0.001, 0.003, 0.002]), np.array([0.004, 0.004, 0.004])))
    assert found == {"ms_p50": 2.0, "ms_p90": 2.8, "ms_min": 1.0, "processor_ms_p50": 4.0}


@pytest.mark.parametrize("case", cases.CASES, ids=lambda c: f"{c.name}-{c.size}")
def test_every_case_builds_and_has_its_sampler(case):
    config = configs.resolve(case.configure(case.batches[0]), 1000)
    system = systems.load(systems.name_of(config)).build(config)
    assert next(iter(system.streams.values())).per_step == case.batches[0]
    assert case.sampler is None or case.sampler in system.samplers
    assert importlib.util.find_spec(f"benchmarks.partners.{case.partner}")


def test_every_system_is_measured_at_both_sizes():
    sizes = {}
    for case in cases.CASES:
        config = case.configure(case.batches[0])
        sizes.setdefault(systems.name_of(config), set()).add(case.size)
    medium = {"diffusion", "stargan_v2", "stylegan2"}
    assert sizes == {
        name: {cases.PAPER, cases.SMALL, *([cases.MEDIUM] * (name in medium))} for name in systems.REGISTRY
    }
    assert {paper.case for paper in cases.PAPERS} - {"fpm"} <= {case.name for case in cases.CASES}


def test_an_unknown_system_is_refused():
    assert {c.name for c in cases.chosen(("all",), (cases.SMALL,))} == {*systems.REGISTRY, "focus"}
    with pytest.raises(ValueError, match="--systems nerf: unknown; there are cyclegan"):
        cases.chosen(("nerf",), (cases.SMALL,))


@pytest.fixture(scope="module")
def tiny_lines():
    """Lines of the smallest Pair case, cut down once more, without PyTorch."""

    def configure(batch):
        config = cases.chosen(("pix2pix",), (cases.SMALL,))[0].configure(batch)
        config.data.crop_size, config.model.downs, config.model.ngf, config.model.ndf = 32, 5, 2, 2
        return config

    case = dataclasses.replace(cases.chosen(("pix2pix",), (cases.SMALL,))[0], configure=configure)
    given = argparse.Namespace(dtype="float32", rounds=2, forms="jax", compiled=False)
    limits = {"matrix_tflops": 0.1, "copy_gbs": 10.0}
    return [line for what in ("train", "sample") for line in run.lines(case, 2, what, given, limits)]


def test_lines_say_what_was_measured(tiny_lines):
    train, sample = tiny_lines
    for line in tiny_lines:
        json.dumps(line)
        assert line["recompilations"] == 0 and line["ms_p50"] > 0 and line["memory_mb"] > 0
        assert line["images_per_s"] == pytest.approx(2 / (line["ms_p50"] / 1e3), rel=2e-3)
        assert line["compile_cold_s"] > 0 and line["versions"]["jax"] == jax.__version__
        assert line["share_of_matrix_rate"] == pytest.approx(line["tflops"] / 0.1, rel=2e-3)
        copied = line["traffic_gb"] / (line["ms_p50"] / 1e3)
        assert line["share_of_copy_rate"] == pytest.approx(copied / 10, rel=2e-3) and copied > 0
    # G forward and backward, D on real and fake forward and backward, D once more for G.
    assert train["gflop"] > 3 * sample["gflop"] > 0


def test_the_machine_s_limits_are_positive():
    found = machine.limits(jax.devices()[0], "float32")
    assert found["matrix_tflops"] > 0 and found["copy_gbs"] > 0
    assert machine.facts(jax.devices()[0])["platform"] == "cpu"


#: A case of each name, at the small size.
SMALL = {case.name: case for case in cases.CASES if case.size == cases.SMALL}


@pytest.mark.parity
@pytest.mark.parametrize("name", sorted(SMALL))
def test_partners_train_and_sample(name):
    pytest.importorskip("torch", reason="needs PyTorch")
    from benchmarks.partners import variants

    case = SMALL[name]
    for program in ("train_step", "sampler"):
        found = variants.makers(case.partner, lambda: case.configure(2), 2, "cpu", program)
        assert set(found) == {"eager nchw float32", "eager channels_last float32"}
        for make in found.values():
            make()()


@pytest.mark.parity
def test_an_accelerator_has_every_form():
    pytest.importorskip("torch", reason="needs PyTorch")
    from benchmarks.partners import variants

    names = {str(v) for v in variants.variants("cuda")}
    words = [("eager", "compiled"), ("nchw", "channels_last"), ("float32", "bfloat16")]
    assert names == {" ".join(each) for each in itertools.product(*words)}


@pytest.mark.parity
@pytest.mark.parametrize("name", sorted(SMALL))
def test_partners_make_nothing_on_another_device(name):
    """On PyTorch's device without memory, which refuses to meet arrays of the CPU as an accelerator does."""
    torch = pytest.importorskip("torch", reason="needs PyTorch")
    case = SMALL[name]
    module = importlib.import_module(f"benchmarks.partners.{case.partner}")
    config = case.configure(2)
    nets = {key: net.to("meta") for key, net in module.networks(config).items()}
    records = module.records(config, 2, np.random.default_rng(0))
    data = {key: torch.from_numpy(array).to("meta") for key, array in records.items()}
    module.train_step(nets)(data)
    with torch.no_grad():
        module.sampler(nets)(data)
    assert all(weight.is_meta for net in nets.values() for weight in net.parameters())


@pytest.mark.parity
@pytest.mark.parametrize("name", sorted(SMALL))
def test_partners_have_as_many_weights(name):
    pytest.importorskip("torch", reason="needs PyTorch")
    case = SMALL[name]
    config = configs.resolve(case.configure(2), 1000)
    ours = jax.eval_shape(systems.load(systems.name_of(config)).build(config).init, jax.random.key(0)).params
    theirs = importlib.import_module(f"benchmarks.partners.{case.partner}").networks(config)
    learned = [p for net in theirs.values() for p in net.parameters() if p.requires_grad]
    unused = 6 if name == "stain_classifier" else 0  # parameters that the published layer holds and never reads
    assert sum(p.numel() for p in learned) - unused == trees.count(ours)
