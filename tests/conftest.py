"""Suite-wide settings: four fake CPU devices, a persistent compile cache, parsed absl flags."""

from __future__ import annotations

import gc
import os
import pathlib
import time
from collections.abc import Iterator

import jax
import pytest
from absl import flags

ROOT = pathlib.Path(__file__).resolve().parents[1]
CACHE = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(pathlib.Path.home() / ".cache/medgen_jax/xla-tests")

jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.config.update("jax_numpy_rank_promotion", "raise")
# XLA's optimisation of generated code is most of the time that tests of small sizes take; see below.
QUICK = "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ
# Grain's worker processes read absl flags, which pytest never parses.
flags.FLAGS.mark_as_parsed()


#: Memory maps of this process above which compiled programs are let go. Each one holds a few, and Linux grants a
#: process 65,530; past them it dies.
MOST_MAPS = 20_000


@pytest.fixture(autouse=True)
def _few_memory_maps() -> Iterator[None]:
    """Between two tests, forget what was compiled once it has become too much; the cache on disk stays."""
    began = time.monotonic()
    yield
    # A test that took no time compiled nothing, and counting is not free.
    if time.monotonic() - began > 0.2 and memory_maps() > MOST_MAPS:
        jax.clear_caches()
        gc.collect()


def memory_maps() -> int:
    """How many memory maps this process holds; 0 where the system does not say."""
    maps = pathlib.Path("/proc/self/maps")
    return maps.read_bytes().count(b"\n") if maps.exists() else 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Comparisons with PyTorch and slow tests compile as a user's run does, the others in a fraction of the time.

    ``JAX_DISABLE_MOST_OPTIMIZATIONS=0`` in the environment lets all of them compile so.
    """
    if QUICK:
        as_users_do = any(item.get_closest_marker(name) for name in ("parity", "slow"))
        jax.config.update("jax_disable_most_optimizations", not as_users_do)


def shared_folder() -> pathlib.Path:
    """The folder of shared test material, whether it exists or not."""
    return pathlib.Path(os.environ.get("MEDGEN_SHARED", ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of shared test material; skips where it is absent."""
    folder = shared_folder()
    if not (folder / "data").is_dir():
        pytest.skip("needs the shared data folder (../shared or MEDGEN_SHARED), which is absent")
    return folder


@pytest.fixture(scope="session")
def root() -> pathlib.Path:
    """The project's root folder."""
    return ROOT
