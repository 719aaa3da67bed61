"""A short run of the fuzzer; `fuzz_readers.py` says how to run it for longer."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.ci_slow
def test_damaged_files_give_an_image_or_one_message():
    script = pathlib.Path(__file__).with_name("fuzz_readers.py")
    done = subprocess.run(
        [sys.executable, script, "--seconds", "10", "--seed", "0"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads(done.stdout)
    assert found["cases"] > 200
    assert found["accepted"] > 10
    assert found["problems"] == []
