"""Our side of a measurement: training steps and samplers as the engine runs them, one compile each."""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from benchmarks import operations
from benchmarks.player import build, fixed_weights
from benchmarks.timing import Form, significant
from medgen_jax.engine import mesh as meshes
from medgen_jax.engine.runtime import CompileCounter
from medgen_jax.engine.step import fused, guarded, init_state

#: Steps over which variants are counted: whole turns of everything that comes every 2 to 10, 12, 14 or 16 steps.
COUNTED_STEPS = 10_080
#: Numbers of a call whose mean over variants counts.
WORK = ("gflop", "traffic_gb")


class Measured(NamedTuple):
    """A compiled program, ready to be timed.

    Attributes:
      form: runs it once.
      numbers: ``trace_s``, ``compile_cold_s``, ``compile_warm_s``, ``gflop`` and ``traffic_gb`` of one call (the latter
        as XLA counts what it reads and writes, bodies of loops once), ``memory_mb`` that it needs.
    """

    form: Form
    numbers: dict[str, float]


def shares(config: Any, dtype: str) -> dict[str, float]:
    """How often each variant of a system's step runs, of all steps: what a mean over a run weighs it by.

    Counted where the step alone decides. Where the data do, as of players that wait for each other, nobody knows
    before the run, and all count alike.
    """
    system = build(config, dtype)
    names = list(system.step_variants)
    if system.flag_every:
        return dict.fromkeys(names, 1 / len(names))
    counts = Counter(system.variant(step, ()) for step in range(COUNTED_STEPS))
    return {name: counts[name] / COUNTED_STEPS for name in names if counts[name]}


def weighted(numbers: Mapping[str, Mapping[str, float]], share: Mapping[str, float]) -> dict[str, float]:
    """The ``numbers`` of all variants as one: mean work, largest ``memory_mb``, the sum of all else."""
    first = next(iter(numbers.values()))
    found = {name: round(sum(each[name] for each in numbers.values()), 2) for name in first}
    for name in WORK:
        found[name] = significant(sum(share[variant] * each[name] for variant, each in numbers.items()))
    found["memory_mb"] = max(each["memory_mb"] for each in numbers.values())
    return found


def train_step(config: Any, dtype: str, device: jax.Device, variant: str) -> Measured:
    """One variant of a system's step on random records that lie on the device; the state is donated."""
    system = build(config, dtype)
    mesh = meshes.make_mesh([device])
    streams = system.streams
    step = fused(guarded(system.step_variants[variant], next(iter(streams.values())).per_step))
    batch = {name: meshes.put_local(_records(stream), mesh) for name, stream in streams.items()}
    state = init_state(system, mesh, seed=0)
    frozen = jax.device_put(fixed_weights(system), meshes.replicated(mesh))
    arguments = (state, (batch,), frozen)
    compiled, numbers = _compiled(step, arguments, donate_argnums=0, out_shardings=meshes.replicated(mesh))
    numbers["gflop"] = significant(operations.count(step, *arguments) / 1e9)
    box = [state]

    def form() -> None:
        # Nothing may come from the host or go back to it between steps.
        with jax.transfer_guard("disallow"):
            box[0], metrics = compiled(box[0], (batch,), frozen)
        jax.block_until_ready((box[0].params, metrics))

    return Measured(form, numbers)


def sampler(config: Any, name: str, dtype: str, batch: int, device: jax.Device) -> Measured:
    """A sampler on random inputs that lie on the device."""
    system = build(config, dtype)
    state = init_state(system, meshes.make_mesh([device]), seed=0)
    fields = system.sampler_inputs[name]
    inputs = {k: _random(np.random.default_rng(0), (batch, *f.shape), f.dtype) for k, f in fields.items()}
    arguments = jax.device_put((system.inference_variables(state), inputs, jax.random.key(0)), device)
    compiled, numbers = _compiled(system.samplers[name], arguments)
    numbers["gflop"] = significant(operations.count(system.samplers[name], *arguments) / 1e9)
    return Measured(lambda: jax.block_until_ready(compiled(*arguments)), numbers)


def recompilations(form: Form, calls: int = 3) -> int:
    """Programs compiled while a warm form runs again: 0, or something changes between calls."""
    with CompileCounter() as counter:
        for _ in range(calls):
            form()
    return counter.count


def _records(stream: Any) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {name: _random(rng, (stream.per_step, *f.shape), f.dtype) for name, f in stream.fields}


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    if dtype == "float32":
        return rng.normal(size=shape).astype(dtype)
    return rng.integers(0, 2 if dtype == "int32" else 256, shape).astype(dtype)


def _compiled(function: Callable[..., Any], arguments: Any, **options: Any) -> tuple[Any, dict[str, float]]:
    """The program, and seconds to trace it, to compile it, and to find it in the compile cache."""
    kept = jax.config.jax_compilation_cache_dir
    with tempfile.TemporaryDirectory() as cache:
        _use_cache(cache)
        try:
            spent = []
            for _ in range(2):
                jax.clear_caches()
                start = time.perf_counter()
                lowered = jax.jit(function, **options).lower(*arguments)
                traced = time.perf_counter()
                program = lowered.compile()
                spent.append((traced - start, time.perf_counter() - traced))
        finally:
            _use_cache(kept)
    analysis = program.memory_analysis()
    needed = analysis.temp_size_in_bytes + analysis.argument_size_in_bytes + analysis.output_size_in_bytes
    return program, {
        "trace_s": round(spent[0][0], 2),
        "compile_cold_s": round(spent[0][1], 2),
        "compile_warm_s": round(spent[1][1], 2),
        "traffic_gb": significant(program.cost_analysis().get("bytes accessed", 0.0) / 1e9),
        "memory_mb": significant((needed - analysis.alias_size_in_bytes) / 2**20),
    }


def _use_cache(folder: str | None) -> None:
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()
    jax.config.update("jax_compilation_cache_dir", folder)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
