"""The script for a GPU machine: what it lists, what it repeats, what it leaves."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import re
import subprocess
import sys

import pytest

#: In place of Python: writes a line to --out; what is asked to fail or to dawdle does.
STUB = """#!/usr/bin/env bash
if [ "$1" = -c ]; then [[ "$2" != "import grain" ]]; exit; fi
echo "$@" >> "$(dirname "$0")/calls"
out="${@: -1}"
echo '{"benchmark": "run"}' >> "$out"
case "$*" in *"$FAILING"*) echo no memory; exit 1 ;; esac
case "$*" in *"$DAWDLING"*) sleep 30 ;; esac
"""


@pytest.fixture
def stub(tmp_path):
    """Calls the script with the stub for Python."""
    (tmp_path / "python").write_text(STUB)
    (tmp_path / "python").chmod(0o755)

    def call(root, *arguments, failing="never", dawdling="never", seconds="590"):
        names = {"PYTHON": str(tmp_path / "python"), "FAILING": failing, "DAWDLING": dawdling, "SLICE_SECONDS": seconds}
        command = ["bash", str(root / "benchmarks/gpu.sh"), *arguments]
        return subprocess.run(command, env=os.environ | names, capture_output=True, text=True)

    call.calls = lambda: (tmp_path / "calls").read_text().splitlines()
    return call


def slices(root):
    """Number, name and words of each slice."""
    found = subprocess.run(["bash", str(root / "benchmarks/gpu.sh"), "--list"], capture_output=True, text=True)
    return [(int(n), name, words) for n, name, *words in (line.split(" ") for line in found.stdout.splitlines())]


def test_every_slice_is_a_command_that_its_measurement_takes(root, monkeypatch):
    found = slices(root)
    assert [number for number, *_ in found] == list(range(1, len(found) + 1))
    assert len({name for _, name, _ in found}) == len(found)
    read = argparse.ArgumentParser.parse_args
    for _, name, (python, m, module, *options) in found:
        assert (python, m) == ("python3", "-m")

        def parsed(self, arguments=None, namespace=None, options=options):
            given = read(self, [*options, "--out", "x.jsonl"], namespace)  # exits where an option is wrong
            re.compile(getattr(given, "forms", ""))
            raise KeyboardInterrupt

        monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
        with pytest.raises(KeyboardInterrupt):
            importlib.import_module(module).main()
        assert name


BARE = """
import sys
for name in ("clu", "grain", "ml_collections", "pydicom", "tensorboardX", "tensorflow_datasets"):
    sys.modules[name] = None  # as if it were not installed
from benchmarks import counterfactual, first_step, fpm, papers, run
"""


def test_jax_flax_and_optax_are_all_that_measurements_import(root):
    done = subprocess.run([sys.executable, "-c", BARE], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_system_is_measured_on_a_gpu(root):
    from benchmarks import cases

    asked = {word for _, _, words in slices(root) if "paper" in words for word in words}
    assert {case.name for case in cases.CASES} <= asked


def test_slices_that_are_done_are_not_repeated(root, stub, tmp_path):
    out = tmp_path / "out"
    first = stub(root, "--out", str(out), failing="--systems focus", dawdling="--systems stain_classifier", seconds="1")
    names = [name for _, name, _ in slices(root)]
    missing = {"focus-eager", "focus-compiled", "stain", "input", "input-big", "pair-in-full"}
    assert {name for name in names if not (out / f"{name}.jsonl").exists()} == missing
    assert first.returncode == 1 and first.stdout.splitlines()[-1].startswith(f"{len(missing)} left to measure")
    assert "left out, needs grain" in first.stdout
    # What a slice had measured before it failed stays, and so do its last words.
    assert json.loads((out / "focus-eager.part.jsonl").read_text()) == {"benchmark": "run"}
    assert (out / "focus-eager.log").read_text() == "no memory\n"
    before = len(stub.calls())
    stub(root, "--out", str(out))
    repeated = stub.calls()[before:]
    assert len(repeated) == 3 and all("focus" in call or "stain_classifier" in call for call in repeated)


def test_one_slice_alone_is_measured_again(root, stub, tmp_path):
    out = tmp_path / "out"
    for _ in range(2):
        done = stub(root, "--out", str(out), "--slice", "2")
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(stub.calls()) == 2
    assert [path.name for path in out.glob("*.jsonl")] == ["pix2pix.jsonl"]
    assert len((out / "pix2pix.jsonl").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "--out: name the folder"),
        (["--out", "x", "--slice", "0"], "--slice 0: expected a number from 1 to"),
        (["--out", "x", "--slice", "two"], "--slice two: expected a number"),
        (["--slices"], "--slices: unknown"),
    ],
)
def test_what_is_wrong_is_said(root, stub, arguments, said):
    done = stub(root, *arguments)
    assert done.returncode == 2 and done.stderr.startswith(said) and done.stderr.count("\n") == 1
