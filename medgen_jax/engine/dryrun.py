"""What a run would cost: parameters, memory, time per step, measured on empty batches."""

from __future__ import annotations

import time
from typing import Any

import jax
from clu import parameter_overview

from medgen_jax.core import trees
from medgen_jax.core.config import total_steps
from medgen_jax.engine import mesh as meshes
from medgen_jax.engine.step import Augment, abstract_state, augmented, fused, guarded, init_state, lowered
from medgen_jax.systems.base import System

PyTree = Any
#: Seconds of steps after which no further one is timed.
LONG_ENOUGH = 5.0


def parameter_table(system: System) -> str:
    """Names, shapes and sizes of all parameters, network by network; nothing is computed."""
    tables = []
    for name, tree in abstract_state(system).params.items():
        overview = parameter_overview.get_parameter_overview(tree, include_stats=False)
        tables.append(f"network {name!r}: {trees.count(tree):,} parameters\n{overview}")
    return "\n".join(tables)


def estimate(
    system: System,
    config: Any,
    frozen: dict[str, PyTree] | None = None,
    timed_steps: int = 3,
    augment: Augment | None = None,
) -> dict[str, Any]:
    """Compile every variant, run a few steps on zero-filled batches, and extrapolate.

    Returns:
      ``{"device", "parameters", "steps", "variants": {name: {"bytes", "seconds_per_step"}}, "hours"}``;
      ``hours`` takes the slowest variant; the data pipeline and evaluations are not in it.
    """
    mesh = meshes.make_mesh()
    fixed = jax.device_put(dict(frozen or {}), meshes.replicated(mesh))
    per_step = next(iter(system.streams.values())).per_step
    processes = jax.process_count()
    batch = {
        name: meshes.put_local(stream.zeros(stream.per_step // processes), mesh)
        for name, stream in system.streams.items()
    }
    variants: dict[str, dict[str, float]] = {}
    for name, step in system.step_variants.items():
        state = init_state(system, mesh, config.train.seed)
        run = fused(guarded(augmented(step, augment), per_step))
        compiled = lowered(run, mesh, state, (batch,), fixed).compile()
        variants[name] = {"bytes": _bytes(compiled), "seconds_per_step": 0.0}
        seconds = []
        while len(seconds) <= timed_steps and sum(seconds) < LONG_ENOUGH:
            start = time.perf_counter()
            state, _ = jax.block_until_ready(compiled(state, (batch,), fixed))
            seconds.append(time.perf_counter() - start)
        # The first step also warms up, and counts only where it is long enough to be the only one.
        timed = seconds[1:] or seconds
        variants[name]["seconds_per_step"] = sum(timed) / len(timed)
    steps = total_steps(config)
    slowest = max(v["seconds_per_step"] for v in variants.values())
    return {
        "device": f"{jax.devices()[0].device_kind} x {mesh.size}",
        "parameters": {name: trees.count(p) for name, p in abstract_state(system).params.items()},
        "steps": steps,
        "variants": variants,
        "hours": steps * slowest / 3600,
    }


def _bytes(compiled: Any) -> int:
    """Arguments, results and scratch of one device; donated buffers count once."""
    memory = compiled.memory_analysis()
    if memory is None:
        return 0
    return (
        memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        + memory.temp_size_in_bytes
        - memory.alias_size_in_bytes
    )
