"""Results as files of JSON lines: one object per measurement, appended as it comes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

Line = Mapping[str, Any]


def append(out: Path, line: Line) -> None:
    """Add a line to a file, and its folder where that is missing."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("a") as file:
        file.write(json.dumps(line) + "\n")


def read(files: Iterable[Path], benchmark: str | None = None) -> list[dict[str, Any]]:
    """The lines of files, in their order; of one ``benchmark`` where one is named.

    Raises:
      ValueError: a line that is no JSON, by file and number.
    """
    found = []
    for path in files:
        for number, text in enumerate(path.read_text().splitlines(), 1):
            try:
                line = json.loads(text)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: is no JSON ({error})") from error
            if benchmark is None or line.get("benchmark") == benchmark:
                found.append(line)
    return found
