"""What a run's directory says about the run, finished or not: read with patience, never changed."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgen_jax.core.errors import UserError


@dataclass
class RunData:
    """Contents of a run directory.

    Attributes:
      system: the system's name, or "unknown system".
      config, environment: nested, from ``config.json``.
      rows: ``metrics.jsonl``: dicts with an integer ``step``, in file order.
      results: ``results.json``, or None while the run is not finished.
      samples: ``(step, path)`` of ``samples/*.png``, oldest first.
      missing: what a half-finished run does not have yet, as sentences.
      warnings: what is damaged or deserves attention, as sentences.
    """

    system: str = "unknown system"
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    rows: list[dict[str, Any]] = field(default_factory=list)
    results: dict[str, Any] | None = None
    samples: list[tuple[int, Path]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_run(workdir: str | Path) -> RunData:
    """Read whatever a run has written so far.

    Raises:
      UserError: when the directory does not exist.
    """
    workdir = Path(workdir)
    if not workdir.is_dir():
        raise UserError(f"{workdir}: is no directory; give the --workdir of a run")
    run = RunData()
    config = _read_object(workdir / "config.json", run, "the configuration is unknown")
    run.system = str(config.get("system", run.system))
    run.config, run.environment = _mapping(config.get("config")), _mapping(config.get("environment"))
    run.rows = _read_rows(workdir / "metrics.jsonl", run)
    results = _read_object(workdir / "results.json", run, "the run is still going on, or stopped before its end")
    run.results = results or None
    run.samples = sorted((_step(path), path) for path in (workdir / "samples").glob("*.png"))
    if not run.samples:
        run.missing.append("samples/: no images yet")
    run.warnings += _remarks(run.rows)
    return run


def _read_object(path: Path, run: RunData, consequence: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(errors="replace"))
    except FileNotFoundError:
        run.missing.append(f"{path.name}: not there; {consequence}")
    except (OSError, ValueError):
        run.warnings.append(f"{path.name}: damaged and left out; {consequence}")
    else:
        if isinstance(content, dict):
            return content
        run.warnings.append(f"{path.name}: not a JSON object, left out; {consequence}")
    return {}


def _read_rows(path: Path, run: RunData) -> list[dict[str, Any]]:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError:
        run.missing.append(f"{path.name}: not there; no curves yet")
        return []
    rows = [_row(line) for line in lines if line.strip()]
    if rows and rows[-1] is None:
        run.warnings.append(f"{path.name}: the last line was cut off and is left out")
        rows.pop()
    if damaged := sum(row is None for row in rows):
        run.warnings.append(f"{path.name}: {damaged} damaged line{'s' * (damaged > 1)} left out")
    kept = [row for row in rows if row is not None]
    if not kept:
        run.missing.append(f"{path.name}: empty; no curves yet")
    return kept


def _row(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    steps = row.get("step") if isinstance(row, dict) else None
    return row if isinstance(steps, int) and not isinstance(steps, bool) else None


def _remarks(rows: list[dict[str, Any]]) -> list[str]:
    """Non-finite numbers and skipped steps."""
    remarks = []
    holes: dict[str, list[int]] = {}
    for row in rows:
        for name, value in row.items():
            if value is None:
                holes.setdefault(f"{row.get('split', 'train')} {name}", []).append(row["step"])
    for name, steps in holes.items():
        times = "once" if len(steps) == 1 else f"{len(steps)} times"
        remarks.append(f"{name}: not finite {times}, first at step {steps[0]}")
    skipped = max((n for row in rows if isinstance(n := row.get("skipped_steps"), (int, float))), default=0)
    if skipped:
        remarks.append(f"{skipped:.0f} training step{'s' * (skipped != 1)} skipped because the update was not finite")
    return remarks


def _step(path: Path) -> int:
    found = re.search(r"step_(\d+)", path.stem)
    return int(found[1]) if found else -1


def _mapping(value: Any) -> dict[str, Any]:
    return dict(value) if isinstance(value, Mapping) else {}
