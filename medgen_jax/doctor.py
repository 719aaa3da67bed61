"""Check this installation and say what to mend: ``python -m medgen_jax.doctor``.

Exit code 0 without faults, 1 with faults. Hints ("note") are no faults. With ``--init DIR`` it looks at a folder
of images instead, and writes a first configuration for them (exit code 2 where none fits).
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict

from medgen_jax import health
from medgen_jax.core.errors import UserError


def main(argv: Sequence[str] | None = None) -> int:
    """Look, report, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m medgen_jax.doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    parser.add_argument("--init", metavar="DIR", help="write a configuration for the images in DIR, or of a CSV file")
    parser.add_argument("--output", metavar="FILE", help="where to write it; DIR's name with .py by default")
    asked = parser.parse_args(argv)
    if asked.init is None and asked.output is not None:
        parser.error("--output goes with --init DIR")
    return _examine(asked.json) if asked.init is None else _init(asked.init, asked.output)


def _examine(as_json: bool) -> int:
    findings = health.examine(health.look())
    healthy = all(f.level != "fault" for f in findings)
    if as_json:
        print(json.dumps({"healthy": healthy, "findings": [asdict(f) for f in findings]}, indent=1))
    else:
        print(health.report(findings))
    return 0 if healthy else 1


def _init(place: str, output: str | None) -> int:
    # Imported here: the reader of images must not keep the doctor from looking at a broken installation.
    from medgen_jax import starter

    name = starter.run_name(place)
    output = output or f"{name}.py"
    try:
        made = starter.draft(place, output)
        path = starter.write(made, output)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"{path}: a configuration for {made.system}. See what it costs, then train:")
    print(f"  python -m medgen_jax.train --config {shlex.quote(str(path))} --dry_run")
    print(f"  python -m medgen_jax.train --config {shlex.quote(str(path))} --workdir {shlex.quote(f'runs/{name}')}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
