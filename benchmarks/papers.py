"""What the papers' runs cost on a machine: ``python -m benchmarks.papers --lines results.jsonl``.

Reads the lines of `benchmarks.run` at the papers' sizes, and of `benchmarks.fpm`, and prints a Markdown table: images x
epochs of each paper, operations, the rate at the fastest batch size, hours, and the ratios to PyTorch and to the
machine's limit, that is to hours at the rate of large matrix products. A paper whose system was not measured has an
empty row. ``--out benchmarks/results`` writes it as a dated file, with the machine, the versions and the command.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import lines as files
from benchmarks.cases import PAPER, PAPERS, Paper

HEAD = (
    "run",
    "images x epochs",
    "EFLOP",
    "batch",
    "images/s",
    "hours",
    "hours at the matrix rate",
    "of the matrix rate",
    "against the best other form",
    "memory, GB",
)
Line = Mapping[str, Any]


def fastest(lines: Iterable[Line], paper: Paper) -> Line | None:
    """Our line of a paper's system at paper size with the most images per second."""
    own = [
        line
        for line in lines
        if (line["system"], line["size"], line["what"], line["form"]) == (paper.case, PAPER, paper.what, "jax")
        and "failed" not in line
    ]
    return max(own, key=lambda line: line["images_per_s"], default=None)


def hours(paper: Paper, line: Line) -> float:
    """Of the whole run at the rate of a line; records of the first stream count."""
    return paper.images * paper.epochs / line["images_per_s"] / 3600


def exaflop(paper: Paper, line: Line) -> float:
    """Operations of the whole run, 1e18, from those of a line's step."""
    return paper.images * paper.epochs * line["gflop"] / line["batch"] / 1e9


def hours_at_limit(paper: Paper, line: Line) -> float:
    """Of the whole run, were all its operations matrix products as fast as large ones on this machine."""
    return exaflop(paper, line) * 1e6 / line["matrix_tflops"] / 3600


def against(line: Line, lines: Iterable[Line]) -> tuple[float, str] | None:
    """How many times as long the fastest other form takes, and its name; None where none was measured.

    Forms of one process take turns, so their own ratio counts; those of other processes are compared as they are. Of
    several variants of our step the first one does what the other forms do.
    """
    if "times_faster" in line:
        return line["times_faster"], line["best_partner"]
    same = ("system", "size", "what", "batch", "device")
    others = [
        other
        for other in lines
        if other["form"] != line["form"] and "failed" not in other and all(other[k] == line[k] for k in same)
    ]
    if not others:
        return None
    alike = next(iter(line["variants"].values())) if "variants" in line else line
    best = min(others, key=lambda other: other["ms_p50"])
    return best["ms_p50"] / alike["ms_p50"], best["form"]


def row(paper: Paper, lines: list[Line]) -> list[str]:
    """Cells of a paper; numbers that its line does not hold are left out."""
    line = fastest(lines, paper)
    cells = [f"{paper.case} ({paper.remark})", f"{paper.images:,} x {paper.epochs:g}"]
    if line is None:
        return [*cells, "not measured", *[""] * (len(HEAD) - 3)]
    counted = "gflop" in line
    batch = f"{line['batch']}, {line['dtype']}" if "dtype" in line else str(line["batch"])
    ratio = against(line, lines)
    return [
        *cells,
        f"{exaflop(paper, line):.3g}" if counted else "",
        batch,
        f"{line['images_per_s']:.3g}",
        f"{hours(paper, line):,.3g}",
        f"{hours_at_limit(paper, line):,.3g}" if counted else "",
        f"{line['share_of_matrix_rate']:.0%}" if counted else "",
        f"{ratio[0]:.2f} x ({ratio[1]})" if ratio else "",
        f"{line['memory_mb'] / 1024:.2f}" if "memory_mb" in line else "",
    ]


def table(lines: list[Line]) -> Iterator[str]:
    """Lines of the table."""
    yield f"| {' | '.join(HEAD)} |"
    yield f"|{'---|' * len(HEAD)}"
    for paper in PAPERS:
        yield f"| {' | '.join(row(paper, lines))} |"


def machines(lines: Iterable[Line]) -> list[str]:
    """Where and when lines were measured and with what, one sentence each."""
    said = set()
    for line in lines:
        versions = ", ".join(f"{name} {version}" for name, version in line["versions"].items())
        said.add(f"{line['date']}: {line['device']}; {versions}.")
    return sorted(said)


def page(lines: list[Line], command: str) -> str:
    """The dated file."""
    latest = max(line["date"] for line in lines)
    return "\n".join(
        [
            f"# What the papers' runs cost, {latest}",
            "",
            *machines(lines),
            "",
            "The rate is that of the fastest batch size measured; the input pipeline is measured apart. Hours at the",
            "matrix rate are those of the run's convolutions and matrix products at the rate of large matrix products,",
            "measured just before. Against PyTorch (of FPM: SciPy), above 1 we are faster.",
            "",
            *table(lines),
            "",
            f"    {command}",
            "",
        ]
    )


def file_name(lines: Iterable[Line]) -> str:
    """Date and device: ``2026-11-21-papers-nvidia-h200.md``."""
    line = max(lines, key=lambda line: line["date"])
    device = re.sub(r"[^a-z0-9]+", "-", line["device"].lower()).strip("-")
    return f"{line['date']}-papers-{device}.md"


def main() -> None:
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lines", type=Path, nargs="+", required=True, help="files of JSON lines")
    parser.add_argument("--out", type=Path, help="folder that a dated file is written to")
    given = parser.parse_args()
    lines = [line for line in files.read(given.lines) if line.get("benchmark") in ("run", "fpm")]
    if not lines:
        parser.error(f"--lines {given.lines[0]}: holds nothing that benchmarks.run or benchmarks.fpm measured")
    names = " ".join(path.name for path in given.lines)
    text = page(lines, f"python -m benchmarks.papers --lines {names}")
    if given.out is None:
        print(text)
        return
    given.out.mkdir(parents=True, exist_ok=True)
    target = given.out / file_name(lines)
    target.write_text(text)
    print(target)


if __name__ == "__main__":
    main()
