"""The lines of a CSV file by column, and what is wrong with them by line number."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from medgen_jax.core.errors import UserError

DELIMITERS = ",;\t"
_SHOWN = 10  # faults told one by one


class Row(NamedTuple):
    """A record: the number of its line, counted from 1, and its cells by column, stripped."""

    line: int
    cells: Mapping[str, str]


class Faults:
    """What is wrong with a file, by line, told all at once.

    Args:
      file: what messages call it.
    """

    def __init__(self, file: Path):
        self.file = file
        self._found: list[tuple[int, str]] = []
        self._hints: dict[str, None] = {}

    def add(self, line: int, reason: str, hint: str = "") -> None:
        """Remember a fault; ``hint`` is told once, after all faults."""
        self._found.append((line, reason))
        if hint:
            self._hints[hint] = None

    def refuse(self) -> None:
        """Raise what was found.

        Raises:
          UserError: with the first ten faults and the number of the others, if there are any.
        """
        if not self._found:
            return
        told = [f"line {line}: {reason}" for line, reason in sorted(self._found)]
        rest = [f"and {len(told) - _SHOWN} more"] if len(told) > _SHOWN else []
        lines = len({line for line, _ in self._found})
        count = "1 line is" if lines == 1 else f"{lines} lines are"
        sentences = [f"{self.file}: {count} wrong: {'; '.join(told[:_SHOWN] + rest)}", *self._hints]
        raise UserError(". ".join(sentences))


def read_rows(file: Path, columns: Collection[str], faults: Faults) -> tuple[tuple[str, ...], list[Row]]:
    """Column names (in lower case) and records of a CSV file.

    Args:
      file: UTF-8 with or without byte order mark; separated by comma, semicolon or tab.
      columns: names that are expected in the first line; they tell the separator.
      faults: receives lines with another number of cells than the first one. Empty lines are no fault.

    Raises:
      UserError: for a file that cannot be read, is not UTF-8, is not CSV, names an expected column
        twice, or holds no records.
    """
    text = _text(file)
    lines = numbered_records(file, io.StringIO(text, newline=""), _delimiter(text, columns))
    number, header = next(lines, (1, []))
    names = tuple(name.strip().casefold() for name in header)
    for name in columns:
        if names.count(name) > 1:
            raise UserError(f"{file}: line {number} names the column {name!r} twice")
    rows = []
    for number, cells in lines:
        if len(cells) == len(names):
            rows.append(Row(number, dict(zip(names, map(str.strip, cells), strict=True))))
        else:
            faults.add(number, f"has {len(cells)} fields, the first line {len(names)}")
    if not rows:
        faults.refuse()
        raise UserError(f"{file}: holds no records; write one line of column names, then one line per record")
    return names, rows


def _text(file: Path) -> str:
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror})") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(f"{file}: line {line} is not UTF-8; save the file as UTF-8") from error
    if "\0" in text:
        raise UserError(f"{file}: holds zero bytes; save the file as UTF-8 text")
    return text


def _delimiter(text: str, columns: Collection[str]) -> str:
    """The one that finds most of the columns in the first line."""
    first = next((line for line in text.splitlines() if line.strip()), "")

    def known(delimiter: str) -> int:
        return sum(name.strip(' "').casefold() in columns for name in first.split(delimiter))

    return max(DELIMITERS, key=known)


def numbered_records(file: Path, text: Iterable[str], delimiter: str = ",") -> Iterator[tuple[int, list[str]]]:
    """The number of the line on which a record begins, and its cells; empty lines are left out.

    Args:
      file: what messages call it.
      text: its lines, with their ends.
      delimiter: what separates cells.

    Raises:
      UserError: naming the line where it stops to be CSV.
    """
    reader, start = csv.reader(text, delimiter=delimiter, strict=True), 1
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):
                yield start, cells
            start = reader.line_num + 1
    except csv.Error as error:
        raise UserError(f"{file}: line {start}: {error}; check its quotation marks") from error
