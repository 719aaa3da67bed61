"""Time to the first step, in fresh processes: with an empty compile cache, and again with what that one left there.

    python -m benchmarks.first_step --systems all --sizes small --out lines.jsonl

One JSON line per process: seconds from the start of Python to the end of the first training step, in parts.

``start``     Python itself           ``batch``     the first batch through Grain, on the device
``import``    all that a run imports  ``trace``     the step as a program
``devices``   the backend             ``compile``   of the step, or its way out of the cache
``build``     the system              ``step``      the first step
``init``      the fresh state, compiled and made

``programs`` counts what was compiled on the way, ``out_of_cache`` how many of them were found there.
Where Grain is missing the batch is made in place and ``batch`` stands for its way to the device. Of a system with
several variants of its step, the first one counts: a run compiles the others when they are due.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

#: In the order in which they pass.
PARTS = ("start", "import", "devices", "build", "init", "batch", "trace", "compile", "step")


def parts(name: str, size: str, batch: int, dtype: str, began: float, cache: str) -> dict[str, Any]:
    """Take the first step of a case, in this process; seconds of its `PARTS` and what it ran on.

    Args:
      name, size: of the case.
      batch: its size.
      dtype: of computations.
      began: `time.time` when this process was asked for.
      cache: folder of the compile cache.
    """
    seconds, clock = {"start": time.time() - began}, time.perf_counter()

    def passed(part: str) -> None:
        nonlocal clock
        now = time.perf_counter()
        seconds[part], clock = now - clock, now

    import jax

    from benchmarks import cases, machine
    from benchmarks.player import Player, build
    from medgen_jax.engine import mesh as meshes
    from medgen_jax.engine import runtime

    if piped := importlib.util.find_spec("grain") is not None:
        from benchmarks import input_pipeline
    runtime.start(cache_dir=cache)
    passed("import")
    with runtime.CompileCounter() as counter:
        mesh = meshes.make_mesh(jax.devices()[:1])
        passed("devices")
        (case,) = cases.chosen((name,), (size,))
        config = case.configure(batch)
        system = build(config, dtype)
        passed("build")
        player = Player(system, mesh)
        player.wait()
        passed("init")
        feed = None
        if piped:
            tables = {n: input_pipeline.random_table(s, count=2 * batch) for n, s in system.streams.items()}
            clock = time.perf_counter()  # making up records is no part of a start
            feed = input_pipeline.Job(system, config, tables).feed(mesh)
            records = next(feed).batch
        else:
            records = {n: meshes.put_local(s.zeros(), mesh) for n, s in system.streams.items()}
        jax.block_until_ready(records)
        passed("batch")
        player.play(records)
        player.wait()
        passed("step")
        if feed is not None:
            feed.close()
    # The first call of a step traces and compiles it.
    made = next(iter(player.seconds.values()))
    seconds |= made | {"step": seconds["step"] - sum(made.values())}
    rounded = {f"{part}_s": round(seconds[part], 3) for part in PARTS}
    programs = {"programs": counter.count, "out_of_cache": counter.cached}
    return {**rounded, "total_s": round(sum(seconds.values()), 3), **programs, **machine.facts(jax.devices()[0])}


def in_a_fresh_process(case: Any, batch: int, dtype: str, cache: str) -> dict[str, Any]:
    """What `parts` says in a process of its own.

    Raises:
      RuntimeError: with what the process said before it failed.
    """
    asked = {"name": case.name, "size": case.size, "batch": batch, "dtype": dtype, "cache": cache}
    command = [sys.executable, "-m", "benchmarks.first_step", "--child", json.dumps({**asked, "began": time.time()})]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).resolve().parents[1])
    if done.returncode:
        raise RuntimeError(f"{case.name} {case.size} b{batch}: {done.stderr.strip().splitlines()[-1]}")
    return json.loads(done.stdout.splitlines()[-1])


def told(line: Mapping[str, Any]) -> str:
    """The parts of a line in words."""
    return f"{line['total_s']:.1f} s: " + ", ".join(f"{part} {line[f'{part}_s']:.2f}" for part in PARTS)


def main() -> None:
    """Start the processes, or be one of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--systems", nargs="+", default=["all"], help="names of systems, or all")
    parser.add_argument("--sizes", nargs="+", default=["small"], choices=["small", "medium", "paper"])
    parser.add_argument("--batches", nargs="+", type=int, help="in place of the first of each case's own")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, help="file of JSON lines, appended to")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(parts(**json.loads(given.child))))
        return
    if given.out is None:
        parser.error("--out: name the file that lines are appended to")
    from benchmarks import cases, lines

    for case in cases.chosen(tuple(given.systems), tuple(given.sizes)):
        for batch in given.batches or case.batches[:1]:
            with tempfile.TemporaryDirectory() as cache:
                for state in ("cold", "warm"):
                    found = in_a_fresh_process(case, batch, given.dtype, cache)
                    common = {"benchmark": "first_step", "system": case.name, "size": case.size, "batch": batch}
                    lines.append(given.out, {**common, "dtype": given.dtype, "cache": state, **found})
                    print(f"{case.name} {case.size} b{batch}, {state} cache: {told(found)}", flush=True)


if __name__ == "__main__":
    main()
