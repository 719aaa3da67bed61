"""Speed of counterfactuals beside PyTorch: images encoded by DDIM, decoded under guidance, and decoded without.

    python -m benchmarks.counterfactual --sizes small --out lines.jsonl

One JSON line per form and number of steps. N steps ask the network 4 N times for each image: once to encode, twice to
decode under classifier-free guidance, once for the control. Network and process are those of the case ``diffusion``
in `benchmarks.cases`.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

from benchmarks import cases, lines, machine, operations, run
from benchmarks.cases import Case
from benchmarks.player import build
from benchmarks.timing import Form, significant
from medgen_jax.core.streams import LABEL
from medgen_jax.diffusion import schedules
from medgen_jax.diffusion.counterfactual import Guidance, Recipe, counterfactual

SYSTEM, SCALE = "diffusion", 1.0


def program(case: Case, batch: int, steps: int, dtype: str, device: jax.Device) -> tuple[Any, Any]:
    """A function of (variables, images, classes) that makes counterfactuals, and such arguments on the device."""
    system = build(case.configure(batch), dtype)
    (stream,) = system.streams.values()
    fields, rng = dict(stream.fields), np.random.default_rng(0)
    grid = schedules.respace(system.schedule, schedules.uniform_timesteps(len(system.schedule), steps))
    recipe = Recipe(grid, method="destination", null={LABEL: np.full(batch, system.network.null[LABEL], np.int32)})

    def made(variables: Any, images: jax.Array, labels: jax.Array) -> Any:
        def denoise(x: jax.Array, t: jax.Array, condition: Any) -> jax.Array:
            return system.denoise(variables, x, t, condition)

        guidance = Guidance({LABEL: 1 - labels}, scale=SCALE)
        return counterfactual(recipe, denoise, None, images, {LABEL: labels}, guidance)

    variables = jax.jit(lambda key: system.inference_variables(system.init(key)))(jax.random.key(0))
    images = rng.uniform(-1, 1, (batch, *fields["image"].shape)).astype(np.float32)
    labels = rng.integers(0, 2, batch).astype(np.int32)
    return made, jax.device_put((variables, images, labels), device)


def measured(case: Case, batch: int, steps: int, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A line per form."""
    device = jax.devices()[0]
    function, arguments = program(case, batch, steps, given.dtype, device)

    def make_ours() -> Form:
        compiled = jax.jit(function).lower(*arguments).compile()
        return lambda: jax.block_until_ready(compiled(*arguments))

    makers = run.partners(case, batch, given, device.platform, "counterfactual", steps=steps)
    common = {"benchmark": "counterfactual", "system": case.name, "size": case.size, "batch": batch, "steps": steps}
    common["rounds"] = given.rounds
    others: dict[str, Any] = {}
    for name, found in run.measure({**makers, run.OURS: make_ours}, given, device.platform):
        if isinstance(found, str):
            yield {**common, "form": name, "failed": found, **machine.facts(device)}
            continue
        line = {**common, **run.timed(name, found, batch)}
        if name == run.OURS:
            line |= {"dtype": given.dtype, "gflop": significant(operations.count(function, *arguments) / 1e9)}
            line |= run.beside(others, found)
        else:
            others[name] = found
        yield {**line, **machine.facts(device)}


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases.add_options(parser)
    parser.set_defaults(systems=[SYSTEM])
    parser.add_argument("--steps", type=int, nargs="+", default=[50, 100, 500])
    parser.add_argument("--rounds", type=int, default=5)
    run.add_options(parser)
    given = parser.parse_args()
    for case in cases.chosen((SYSTEM,), tuple(given.sizes)):
        for batch in given.batches or case.batches:
            for steps in given.steps:
                for line in measured(case, batch, steps, given):
                    lines.append(given.out, line)
                    print(f"{case.size} b{batch}, {steps} steps, {line['form']}: {run.told(line)}", flush=True)


if __name__ == "__main__":
    main()
