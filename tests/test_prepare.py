"""``python -m medgen_jax.prepare`` from the outside."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import small_runs

from medgen_jax.core.config import DataConfig
from medgen_jax.data.images import write_image
from medgen_jax.data.sources import open_tables


@pytest.fixture
def source(tmp_path):
    for side, channels in (("A", 1), ("B", 3)):
        for i in range(4):
            path = tmp_path / "slides" / "train" / side / f"n{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = np.random.default_rng(i).integers(0, 256, (64, 64, channels), dtype=np.uint8)
            write_image(path, image)
    return tmp_path / "slides"


@pytest.fixture
def prepare(root):
    def run(*arguments, limit="unlimited"):
        command = ["bash", "-c", 'ulimit -f "$1"; shift; exec "$@"', "bash", limit]
        command += [sys.executable, "-m", "medgen_jax.prepare", *map(str, arguments)]
        environment = small_runs.child_environment(measured=limit == "unlimited")
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=300)

    return run


def test_prepare_then_train_from_the_printed_directory(prepare, source, tmp_path):
    words = ("--dataset", "paired_folder", "--source", source, "--data_dir", tmp_path / "out", "--size", 32)
    first = prepare(*words)
    assert first.returncode == 0, first.stderr
    directory, _, rest = first.stdout.strip().rpartition(": ")
    assert rest == "train 4 records"
    assert open_tables(DataConfig(source=directory), "train")["pairs"][0]["b"].shape == (32, 32, 3)
    again = prepare(*words)
    assert again.returncode == 0
    assert "already prepared" in again.stdout


def test_bad_input_is_one_line_and_code_2(prepare, source, tmp_path):
    whole = prepare("--dataset", "paired_folder", "--source", source / "nowhere", "--data_dir", tmp_path / "out")
    assert (whole.returncode, whole.stdout) == (2, "")
    assert whole.stderr.strip() == f"error: --source {source / 'nowhere'}: no such directory"
    missing = prepare("--dataset", "paired_folder", "--source", source)
    assert missing.returncode == 2
    assert "--data_dir is missing" in missing.stderr
    assert "Traceback" not in missing.stderr


def test_options_are_explained_and_refused_in_one_line(prepare, source, tmp_path):
    told = prepare("--dataset", "kermany", "--help_options")
    assert told.returncode == 0, told.stderr
    first, split, *_ = told.stdout.splitlines()
    assert first.startswith("Column image; labels label (NORMAL, PNEUMONIA)")
    assert split.split(maxsplit=2)[:2] == ["--set", "split=patient"]
    words = ("--dataset", "folder", "--source", source, "--data_dir", tmp_path / "out")
    wrong = prepare(*words, "--set", "layout=pairs")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert wrong.stderr.strip().startswith("error: --set layout=pairs: must be one of auto, paired, unpaired")
    right = prepare(*words, "--set", "layout=paired")
    assert right.returncode == 0, right.stderr
    assert "slides-full-layout_paired-" in right.stdout


def test_full_disk_is_one_line_and_leaves_nothing(prepare, source, tmp_path):
    out = tmp_path / "out"
    failed = prepare("--dataset", "paired_folder", "--source", source, "--data_dir", out, limit="8")
    assert failed.returncode == 2
    assert failed.stderr.strip() == (
        f"error: {out}: cannot be written (File too large); free space or choose another --data_dir"
    )
    assert list(out.iterdir()) == []
