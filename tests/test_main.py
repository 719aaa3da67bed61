"""``python -m medgen_jax``: the overview names every command and costs nothing."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys

import pytest

import medgen_jax
from medgen_jax.__main__ import VERBS, main, overview

PACKAGE = pathlib.Path(medgen_jax.__file__).parent


def test_the_overview_names_every_main_and_no_other():
    mains = {p.stem for p in PACKAGE.glob("*.py") if '\nif __name__ == "__main__":' in p.read_text()}
    assert set(VERBS) == mains - {"__main__"}


def test_each_command_has_one_line_of_its_own():
    lines = overview().splitlines()
    for name, purpose in VERBS.items():
        assert [line for line in lines if f"medgen_jax.{name} " in line and line.endswith(purpose)]


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["--version"]])
def test_it_prints_the_overview(words, capsys):
    assert main(words) == 0
    assert capsys.readouterr().out == overview() + "\n"


def test_a_command_as_a_word_is_refused_with_the_right_spelling(capsys):
    assert main(["train", "--help"]) == 2
    assert "python -m medgen_jax.train" in capsys.readouterr().err.splitlines()[0]


def test_it_imports_no_numerics():
    code = (
        "import runpy, sys\n"
        "try: runpy.run_module('medgen_jax', run_name='__main__')\n"
        "except SystemExit: pass\n"
        "print([m for m in ('jax', 'numpy', 'absl', 'flax') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PACKAGE.parent, capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stderr


#: A child per command, since the flags of two would collide in one process; prints its name and what it has imported.
IMPORTS = """
import importlib, os, sys
for name in sys.argv[1:]:
    if os.fork() == 0:
        importlib.import_module(f"medgen_jax.{name}")
        print(name, *(module for module in ("jax", "numpy") if module in sys.modules), flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_commands_import_no_numerics_before_they_run():
    # Help and mistakes are answered at once, and freed memory can only be kept before jax is there.
    names = sorted(set(VERBS) - {"weights"})  # which runs no program, and needs NumPy for its files
    done = subprocess.run(
        [sys.executable, "-c", IMPORTS, *names], cwd=PACKAGE.parent, capture_output=True, text=True, check=True
    )
    assert done.stdout.split("\n")[:-1] == names, done.stderr
