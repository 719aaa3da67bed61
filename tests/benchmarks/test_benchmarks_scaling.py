"""What several devices tell each other: collectives of programs and of every step, and their cost on paper."""

from __future__ import annotations

import sys
from collections import Counter

import jax
import pytest
import small_systems

from benchmarks import collectives, scaling
from benchmarks import lines as files
from medgen_jax.core import trees

PROGRAM = """
  %all-reduce.8 = (f32[8]{0}, f32[8,256]{1,0}, /*index=2*/bf16[]) all-reduce(%a, %b, %c), channel_id=1, to_apply=%sum
  %all-reduce-start.1 = f32[1,1,4]{2,1,0} all-reduce-start(%d), channel_id=2
  %all-reduce-done.1 = f32[1,1,4]{2,1,0} all-reduce-done(%all-reduce-start.1)
  ROOT %all-gather.3 = s32[4,2]{1,0} all-gather(f32[1,2]{1,0} %e), dimensions={0}, metadata={op_name="all-reduce(x)"}
  %fusion.1 = f32[9]{0} fusion(%all-reduce.8), calls=%all-reduce.clone
"""


def test_collectives_are_read_from_a_program():
    joined, started, gathered = collectives.of_program(PROGRAM)
    assert joined == ("all-reduce", ((8,), (8, 256), ()), 4 * (8 + 8 * 256) + 2)
    assert started == ("all-reduce", ((1, 1, 4),), 16)
    assert gathered == ("all-gather", ((4, 2),), 32)


def test_an_all_reduce_on_paper():
    # 100 MB over 4 devices: each sends 150 MB, at 50 GB/s in 3 ms.
    assert collectives.seconds_of_all_reduce(100e6, 4, 50) == pytest.approx(3e-3)
    assert collectives.seconds_of_all_reduce(100e6, 1, 50) == 0


RUN = {
    "benchmark": "run", "system": "gan", "size": "paper", "what": "train", "form": "jax", "device": "NVIDIA H200",
    "dtype": "bfloat16", "batch": 8, "ms_p50": 6.0,
}  # fmt: skip
COUNTED = {"benchmark": "scaling", "system": "gan", "size": "paper", "variant": "train", "bytes": 100_000_000}


def test_measured_steps_and_counted_bytes_are_joined():
    others = [{**RUN, "what": "sample"}, {**RUN, "form": "eager"}, {**RUN, "system": "pix2pix"}, {**RUN, "failed": "x"}]
    found = list(scaling.on_paper([RUN, *others, {**COUNTED, "bytes": 1}, COUNTED], {"slow": 50.0, "fast": 500.0}))
    assert len(found) == 2 * 8
    four = next(line for line in found if line["devices"] == 4 and line["link"] == "slow")
    # 6 ms of steps, then 3 ms of talk.
    assert four["all_reduce_ms"] == 3.0 and four["efficiency"] == pytest.approx(2 / 3, rel=1e-3)
    assert four["images_per_s"] == pytest.approx(4 * 8 / 9e-3, rel=1e-3)
    alone = [line for line in found if line["devices"] == 1]
    assert all(line["efficiency"] == 1 and line["all_reduce_ms"] == 0 for line in alone)


def test_rates_are_read():
    assert scaling.read_rates(scaling.RATES) == {"nvlink": 450.0, "pcie": 64.0}
    for wrong in ("nvlink", "=3", "pcie=fast", "pcie=0"):
        with pytest.raises(ValueError, match=f"--rates {wrong}: expected NAME=GB_PER_SECOND"):
            scaling.read_rates([wrong])


def test_files_are_joined_without_compiling(tmp_path, monkeypatch):
    for line in (RUN, COUNTED, {"benchmark": "input"}):
        files.append(tmp_path / "lines.jsonl", line)
    out = tmp_path / "paper.jsonl"
    monkeypatch.setattr(sys, "argv", ["scaling", "--lines", str(tmp_path / "lines.jsonl"), "--out", str(out)])
    monkeypatch.setattr(scaling, "compiled_step", None)
    scaling.main()
    assert {line["link"] for line in files.read([out], "on_paper")} == {"nvlink", "pcie"}


def test_a_table_of_lines(tmp_path, monkeypatch):
    line = {
        **COUNTED, "batch": 8, "devices": 2, "collectives": {"all-reduce": 5, "all-gather": 1}, "gradients": 2,
        "share_of_work": 0.51,
    }  # fmt: skip
    for one in ({**line, "devices": 1}, RUN, line):
        files.append(tmp_path / "lines.jsonl", one)
    out = tmp_path / "table.md"
    monkeypatch.setattr(sys, "argv", ["scaling", "--table", str(tmp_path / "lines.jsonl"), "--out", str(out)])
    scaling.main()
    head, rule, row = out.read_text().splitlines()
    assert row == "| gan | train | 8 | 2 | 5 | 2 | 1 all-gather | 100 | 0.51 |"
    assert len(head.split("|")) == len(rule.split("|")) == len(row.split("|"))


#: Per toy system and variant, on 2 devices: all-reduces of gradients, one for each update of the step; the most of
#: statistics beside them; and what else is told, by kind. Batch norm has two statistics on the way forth and two back,
#: in every layer and pass: 4 x (7 layers of G + 3 of D in 3 passes) are the 64 of `pix2pix`. Between such sums a few
#: kernels' gradients may go ahead of the others': once in `dcgan`, before and behind the trunk of `stain_classifier`.
#: XLA sums at most 256 arrays at once; `cyclegan-focus` has more on CPUs, where kernels' gradients come row by row.
#: Images travel only to the pools of `cyclegan`; `diffusion-variance` gathers the steps and losses that it remembers.
EXPECTED = {
    ("cyclegan", "train"): (1, 0, {"all-gather": 2}),
    ("cyclegan-focus", "train"): (2, 0, {}),
    ("dcgan", "train"): (3, 19, {}),
    ("diffusion", "train"): (1, 0, {}),
    ("diffusion-variance", "train"): (1, 0, {"all-gather": 3}),
    ("gan", "train"): (2, 12, {}),
    ("noise_classifier", "train"): (1, 0, {}),
    ("pix2pix", "train"): (2, 64, {}),
    ("pix2pix-seed", "d"): (1, 44, {}),
    ("pix2pix-seed", "d0"): (1, 30, {}),
    ("pix2pix-seed", "g"): (1, 28, {}),
    ("stain_classifier", "train"): (3, 90, {}),
    ("stargan_v2", "train"): (4, 8, {}),
    ("stylegan2", "main"): (2, 8, {}),
    ("stylegan2", "path_r1"): (4, 8, {}),
}
#: Records of a step: so many that what every device does for itself, the optimisers' work, is next to nothing.
BATCH = 64


def steps():
    """All there are; what takes long to compile is slow."""
    for name, variant in sorted(EXPECTED):
        slow = name not in ("gan", "dcgan")
        marks = [pytest.mark.slow, pytest.mark.ci_slow] if slow else []
        yield pytest.param((name, variant), marks=marks, id=f"{name}-{variant}")


def test_every_step_is_expected():
    assert {
        (name, variant) for name in small_systems.CONFIGS for variant in small_systems.build(name).step_variants
    } == set(EXPECTED)


def compiled(name, variant, devices):
    return scaling.compiled_step(small_systems.build(name, BATCH), variant, jax.devices()[:devices])


@pytest.fixture(scope="module", params=steps())
def step(request):
    """Toy system, variant, and its step over 2 devices."""
    name, variant = request.param
    return name, variant, compiled(name, variant, 2)


def test_gradients_come_in_one_all_reduce_and_statistics_are_listed(step):
    name, variant, program = step
    groups, statistics, others = EXPECTED[name, variant]
    found = collectives.of_program(program.as_text())
    reduced = [one for one in found if one.kind == "all-reduce"]
    gradients = [one for one in reduced if one.of_gradients]
    assert len(gradients) == groups
    assert len(reduced) - groups <= statistics
    assert Counter(one.kind for one in found if one.kind != "all-reduce") == others
    params = trees.count(small_systems.initial_state(name).params)
    # Statistics are vectors: next to nothing beside the gradients even of a toy. Of a weight that several losses of an
    # update use (of real and of made images, a penalty), the gradients travel side by side.
    assert sum(one.bytes for one in reduced) < 1.1 * sum(one.bytes for one in gradients) < 1.1 * 4 * 4 * params


def test_two_devices_have_half_of_the_work_each(step):
    name, variant, program = step
    assert scaling.operations(program) < 0.6 * scaling.operations(compiled(name, variant, 1))
