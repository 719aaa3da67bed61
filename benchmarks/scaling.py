"""What several devices have to tell each other in a training step, and what that costs on paper.

    python -m benchmarks.scaling --systems all --sizes small --out lines.jsonl
    python -m benchmarks.scaling --lines results.jsonl lines.jsonl --out paper.jsonl
    python -m benchmarks.scaling --table lines.jsonl --out table.md

The first form compiles every variant of every step for 1, 2 and 4 fake CPU devices, without running it. Its lines
hold the collectives by kind, how many of them sum gradients (``gradients``: one for every update of the step where all
is well), their bytes, and ``share_of_work``: operations of one device over those of the same step on a single device,
1 / n where all of the work is cut. The optimisers' work never is, which shows where a batch is small. (``--platform``
leaves fake devices out and takes real ones.) The third form makes a Markdown table of these lines.

The second form joins those bytes with steps that `benchmarks.run` measured at the same batch *per device*:

    seconds(n) = step + 2 (n - 1) / n bytes / rate,        images/s = n batch / seconds(n)

for n = 1 to 8 and every rate of ``--rates`` (GB/s in one direction). Nothing is taken to overlap, so it is a lower
bound; bytes are those of the variant with the most.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from benchmarks import cases, collectives
from benchmarks import lines as files
from benchmarks.cases import Case
from benchmarks.player import build, fixed_weights
from benchmarks.timing import significant
from medgen_jax.engine import mesh as meshes
from medgen_jax.engine.step import fused, guarded, lowered

Line = Mapping[str, Any]
#: GB/s in one direction: NVLink 4 and a PCIe 5.0 slot of 16 lanes.
RATES = ("nvlink=450", "pcie=64")
HEAD = ("system", "variant", "batch", "devices", "all-reduces", "of gradients", "others", "MB", "work of each")


def compiled_step(system: Any, variant: str, devices: list[jax.Device]) -> Any:
    """A step as the engine compiles it over the devices; nothing is computed."""
    mesh = meshes.make_mesh(devices)
    streams = system.streams

    def placed(tree: Any, sharding: Any) -> Any:
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)

    state = meshes.abstract(jax.eval_shape(system.init, jax.random.key(0)), mesh)
    batch = placed({name: stream.zeros() for name, stream in streams.items()}, meshes.over_data(mesh))
    frozen = meshes.abstract(jax.eval_shape(lambda: fixed_weights(system)), mesh)
    step = fused(guarded(system.step_variants[variant], next(iter(streams.values())).per_step))
    return lowered(step, mesh, state, (batch,), frozen).compile()


def operations(compiled: Any) -> float:
    """Of one device, as XLA counts them; bodies of loops once."""
    return float(compiled.cost_analysis().get("flops", 0.0))


def measured(case: Case, batch: int, counts: list[int], dtype: str) -> Iterator[dict[str, Any]]:
    """A line per variant and number of devices that share a batch."""
    system = build(case.configure(batch), dtype)
    for variant in system.step_variants:
        single = compiled_step(system, variant, jax.devices()[:1])
        alone = operations(single)
        for count in counts:
            compiled = single if count == 1 else compiled_step(system, variant, jax.devices()[:count])
            found = collectives.of_program(compiled.as_text())
            yield {
                "benchmark": "scaling", "system": case.name, "size": case.size, "variant": variant, "batch": batch,
                "devices": count, "collectives": dict(Counter(one.kind for one in found)),
                "gradients": sum(one.of_gradients for one in found), "bytes": sum(one.bytes for one in found),
                "share_of_work": significant(operations(compiled) / alone) if alone else None,
            }  # fmt: skip


def on_paper(lines: Iterable[Line], rates: Mapping[str, float]) -> Iterator[dict[str, Any]]:
    """Lines for 1 to 8 devices, for every step of ours whose bytes are known.

    Args:
      lines: of `benchmarks.run` and of this measurement.
      rates: of an all-reduce by name, GB/s in one direction.
    """
    lines = list(lines)
    sizes: dict[tuple[str, str], int] = {}
    for line in lines:
        if line["benchmark"] == "scaling":
            key = line["system"], line["size"]
            sizes[key] = max(sizes.get(key, 0), line["bytes"])
    for line in lines:
        key = line.get("system"), line.get("size")
        ours = (line["benchmark"], line.get("what"), line.get("form")) == ("run", "train", "jax")
        if not ours or key not in sizes or "failed" in line:
            continue
        for name, rate in rates.items():
            for count in range(1, 9):
                told = 1e3 * collectives.seconds_of_all_reduce(sizes[key], count, rate)
                yield {
                    "benchmark": "on_paper", "system": key[0], "size": key[1], "device": line["device"],
                    "dtype": line["dtype"], "batch_per_device": line["batch"], "devices": count, "link": name,
                    "gb_per_s": rate, "bytes": sizes[key], "step_ms": line["ms_p50"],
                    "all_reduce_ms": significant(told),
                    "images_per_s": significant(1e3 * count * line["batch"] / (line["ms_p50"] + told)),
                    "efficiency": significant(line["ms_p50"] / (line["ms_p50"] + told)),
                }  # fmt: skip


def table(lines: Iterable[Line]) -> Iterator[str]:
    """Markdown of this measurement's lines for several devices."""
    yield f"| {' | '.join(HEAD)} |"
    yield f"|{'---|' * len(HEAD)}"
    for line in lines:
        if line["benchmark"] != "scaling" or line["devices"] == 1:
            continue
        kinds = dict(line["collectives"])
        reduced = kinds.pop("all-reduce", 0)
        others = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        cells = (
            line["system"], line["variant"], line["batch"], line["devices"], reduced, line["gradients"], others,
            f"{line['bytes'] / 1e6:.3g}", line["share_of_work"],
        )  # fmt: skip
        yield f"| {' | '.join(map(str, cells))} |"


def read_rates(texts: Iterable[str]) -> dict[str, float]:
    """``name=GB/s`` texts as numbers.

    Raises:
      ValueError: a text that is none.
    """
    found = {}
    for text in texts:
        name, _, rate = text.partition("=")
        if not name or not rate.replace(".", "", 1).isdigit() or not float(rate):
            raise ValueError(f"--rates {text}: expected NAME=GB_PER_SECOND, such as nvlink=450")
        found[name] = float(rate)
    return found


def main() -> None:
    """Compile and count, join lines, or make a table of them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cases.add_options(parser)
    parser.add_argument("--devices", type=int, nargs="+", default=[1, 2, 4], help="that share a batch")
    parser.add_argument("--platform", help="of real devices, such as gpu, in place of fake CPU devices")
    parser.add_argument("--lines", type=Path, nargs="+", help="files to join; nothing is compiled then")
    parser.add_argument("--table", type=Path, nargs="+", help="files to make a table of; nothing is compiled then")
    parser.add_argument("--rates", nargs="+", default=RATES, help="NAME=GB_PER_SECOND, in one direction")
    given = parser.parse_args()
    if given.table:
        given.out.write_text("\n".join(table(files.read(given.table))) + "\n")
        return
    if given.lines:
        for line in on_paper(files.read(given.lines), read_rates(given.rates)):
            files.append(given.out, line)
        return
    jax.config.update("jax_platforms", given.platform or "cpu")
    if given.platform is None:
        jax.config.update("jax_num_cpu_devices", max(given.devices))
    for case in cases.chosen(tuple(given.systems), tuple(given.sizes)):
        # The least batch that all numbers of devices can share.
        batch = (given.batches or [max(given.devices)])[0]
        for line in measured(case, batch, given.devices, given.dtype):
            files.append(given.out, line)
            said = ", ".join(f"{count} {kind}" for kind, count in line["collectives"].items()) or "no collectives"
            share = f"{line['bytes']:,} bytes, {line['share_of_work']} of the work each"
            print(f"{case.name} {case.size} {line['variant']}, {line['devices']} devices: {said}, {share}", flush=True)


if __name__ == "__main__":
    main()
