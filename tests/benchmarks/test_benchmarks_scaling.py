"""What several devices tell each other: collectives of programs and of every step, and their cost on paper."""

from __future__ import annotations

import sys

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


#: Per toy system and variant, on 4 devices: all-reduces of gradients, one for each player or for several at once, and
#: the most of statistics beside them, those of batch norm: two on the way forth and two back, in every layer and pass.
#: The generators of `gan` and `dcgan` have none, for every device draws all codes and does all of their work.
EXPECTED = {
    ("gan", "train"): (1, 0),
    ("dcgan", "train"): (1, 4),
    ("pix2pix", "train"): (2, 64),
    ("pix2pix-seed", "d0"): (1, 30),
    ("pix2pix-seed", "g"): (1, 28),
    ("pix2pix-seed", "d"): (1, 44),
    ("cyclegan", "train"): (1, 0),
}


def is_kernel(shape):
    """Whether an array is no vector: statistics and biases are."""
    return sum(n > 1 for n in shape) > 1


def steps():
    """All that is expected; what takes long to compile is slow."""
    for name, variant in sorted(EXPECTED):
        slow = name not in ("gan", "dcgan", "pix2pix")
        marks = [pytest.mark.slow, pytest.mark.ci_slow] if slow else []
        yield pytest.param((name, variant), marks=marks, id=f"{name}-{variant}")


@pytest.fixture(scope="module", params=steps())
def step(request):
    """Toy system, variant, and the collectives of its step over 4 devices."""
    name, variant = request.param
    compiled = scaling.compiled_step(small_systems.build(name), variant, jax.devices()[:4])
    return name, variant, collectives.of_program(compiled.as_text())


def test_gradients_come_in_one_all_reduce_and_statistics_are_listed(step):
    name, variant, found = step
    reduced = [one for one in found if one.kind == "all-reduce"]
    gradients = [one for one in reduced if any(map(is_kernel, one.shapes))]
    groups, statistics = EXPECTED[name, variant]
    assert len(gradients) == groups
    assert len(reduced) - groups <= statistics
    params = trees.count(small_systems.initial_state(name).params)
    # Statistics are vectors: next to nothing beside the gradients even of a toy.
    assert sum(one.bytes for one in reduced) < 1.1 * sum(one.bytes for one in gradients) < 1.1 * 3 * 4 * params


def test_images_stay_where_they_are(step):
    """But for those of `cyclegan`, which joins batches end to end for one pass and cuts them again."""
    name, _, found = step
    assert {one.kind for one in found} == {"all-reduce"} or name == "cyclegan"
