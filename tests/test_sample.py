"""``python -m medgen_jax.sample`` from the command line."""

from __future__ import annotations

import subprocess
import sys

import pytest
import small_runs
import small_systems
import untrained_runs

from medgen_jax.data.images import read_image


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sample")
    untrained_runs.write(folder / "run", small_systems.CONFIGS["gan"]())

    def run(*arguments):
        command = [sys.executable, "-m", "medgen_jax.sample", *map(str, arguments)]
        environment = small_runs.child_environment()
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)
        return folder, done

    return run


def test_images_a_sheet_and_a_walk(sample):
    words = ("--workdir", "run", "--n", 5, "--output", "out", "--bits=16", "--batch=2", "--grid")
    folder, done = sample(*words, "--walk", "walk.gif", "--frames=3")
    assert done.returncode == 0, done.stderr
    note, count, speed, sheet, walk = done.stdout.splitlines()
    assert note.startswith("note: the sheet shows no real images: ")
    assert count == "5 images in out" and speed.startswith("5 images drawn and written in ")
    assert "images/s after that" in speed
    assert sheet == "contact sheet: out/pictures/sheet.png" and walk == "walk: walk.gif"
    assert sorted(path.name for path in (folder / "out").iterdir()) == [
        *(f"0000000{i}.png" for i in range(5)), "pictures", "samples.json"
    ]  # fmt: skip
    assert read_image(folder / "out/00000004.png").dtype.name == "uint16"
    assert (folder / "walk.gif").is_file() and (folder / "out/pictures/sheet.png").is_file()


def test_bad_input_is_one_line_and_code_2(sample):
    _, done = sample("--workdir", "run", "--n", 0, "--output", "out2")
    assert done.returncode == 2 and done.stderr == "error: --n = 0: must be at least 1\n"
