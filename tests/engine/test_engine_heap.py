"""Freed memory that stays: in a process of its own, told by page faults; and where it is left to the system."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from medgen_jax.engine import heap

#: Takes and frees 128 MiB six times; prints whether memory is kept, and the page faults of the last five.
CODE = """
import os, resource
from medgen_jax.engine import heap
kept = heap.keep_freed(os.environ)
def touch():
    block = b"x" * 2**27
touch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    touch()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 5 * 2**27 // 4096


def told(root, **environ):
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "MALLOC_", "GLIBC_"))}
    command, env = [sys.executable, "-c", CODE], {**clean, "PYTHONPATH": str(root), **environ}
    kept, faults = subprocess.run(command, env=env, text=True, capture_output=True, check=True).stdout.split()
    return kept == "True", int(faults)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_memory_is_taken_from_the_system_once(root):
    kept, faults = told(root, JAX_PLATFORMS="cpu")
    assert kept and faults < PAGES / 100


@pytest.mark.parametrize(
    "environ", [{"JAX_PLATFORMS": "cuda"}, {"JAX_PLATFORMS": "cpu", "MALLOC_ARENA_MAX": "4"}], ids=["gpu", "tuned"]
)
def test_memory_is_left_to_the_system(root, environ):
    assert not heap.keep_freed(environ)
    assert not told(root, **environ)[0]


def test_plugins_tell_of_accelerators(monkeypatch):
    monkeypatch.setattr(heap.importlib.metadata, "entry_points", lambda group: [group])
    assert not heap.keep_freed({})
