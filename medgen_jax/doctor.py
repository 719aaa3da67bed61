"""Check this installation and say what to mend: ``python -m medgen_jax.doctor``.

Exit code 0 without faults, 1 with faults. Hints ("note") are no faults.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict

from medgen_jax import health


def main(argv: Sequence[str] | None = None) -> int:
    """Look, report, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m medgen_jax.doctor", description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    as_json = parser.parse_args(argv).json
    findings = health.examine(health.look())
    healthy = all(f.level != "fault" for f in findings)
    if as_json:
        print(json.dumps({"healthy": healthy, "findings": [asdict(f) for f in findings]}, indent=1))
    else:
        print(health.report(findings))
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
