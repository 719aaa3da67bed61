"""What comes beside the images of public sets: CSV files, plain or gzipped, and what they say about which image."""

from __future__ import annotations

import gzip
import math
import re
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from medgen_jax.core.errors import UserError
from medgen_jax.data.csv_rows import Faults, Row, numbered_records
from medgen_jax.data.fence import Fence
from medgen_jax.data.listing import Box, Listing
from medgen_jax.data.splits import by_group

#: Our name of a column -> how headers spell it, in any case.
Columns = Mapping[str, tuple[str, ...]]

_Record = TypeVar("_Record")
_NONE: Columns = MappingProxyType({})
#: Text of the largest such file that is read; the public ones have at most 60 MB.
_MAX_CHARACTERS = 1 << 30
_AGE = re.compile(r"0*(\d{1,3})([DWMY]?)")
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0, "": 1.0}
#: Beyond this an age is a slip of the pen; public sets have some, up to 414.
_OLDEST = 120


# ---- files ---------------------------------------------------------------------------------------


def find_file(source: Path, *names: str) -> Path:
    """The first of several files that a folder has.

    Raises:
      UserError: when it has none of them.
    """
    for name in names:
        if (source / name).is_file():
            return source / name
    raise UserError(f"{source}: lacks {' or '.join(names)}, which comes with the data set; put it there")


def find_folder(source: Path, *names: str) -> Path:
    """The first of several folders that a folder has; ``""`` is the folder itself.

    Raises:
      UserError: when it has none of them.
    """
    for name in names:
        if (source / name).is_dir():
            return source / name
    raise UserError(f"{source}: lacks the folder {' or '.join(names)}; give the folder that the data set unpacks to")


def read_metadata(file: Path, needed: Columns, faults: Faults, optional: Columns = _NONE, skip: int = 0) -> list[Row]:
    """The records of a CSV file by the columns asked for.

    A repeated column is spelt with ``.1`` from its second appearance on, as pandas does.

    Args:
      file: UTF-8, separated by commas; gzipped when it ends in .gz.
      needed: columns that must be there.
      faults: receives lines with another number of cells than the header.
      optional: columns whose cells are empty where the file has none of them.
      skip: lines before the header; those that start with # are passed over besides.

    Returns:
      Rows whose cells have our names, stripped.

    Raises:
      UserError: for a file that cannot be read, is no CSV, lacks a column or holds no records.
    """
    rows: list[Row] = []
    lines = numbered_records(file, _from_header(_text(file), skip))
    header_line, header = next(lines, (1, []))
    header = _unique(header)
    places = _places(file, header_line, header, {**needed, **optional}, set(needed))
    for number, cells in lines:
        if len(cells) < len(header) or any(cell.strip() for cell in cells[len(header) :]):
            faults.add(number, f"has {len(cells)} fields, the header {len(header)}")
            continue
        found = {name: "" if place is None else cells[place].strip() for name, place in places.items()}
        rows.append(Row(number, found))
    if not rows:
        faults.refuse()
        raise UserError(f"{file}: holds no records; replace it by the original file")
    return rows


def read_names(file: Path) -> set[str]:
    """The lines of a list of names; empty ones do not count.

    Raises:
      UserError: for a file that cannot be read.
    """
    return {name for line in _text(file) if (name := line.strip())}


def _from_header(text: Iterator[str], skip: int) -> Iterator[str]:
    """Blank lines in place of those before the header, which keeps the numbers right."""
    for place, line in enumerate(text):
        if place >= skip and not line.startswith("#"):
            yield line
            break
        yield "\n"
    yield from text


def _text(file: Path) -> Iterator[str]:
    number, characters = 0, 0
    try:
        with (gzip.open if file.suffix == ".gz" else open)(file, "rt", encoding="utf-8-sig", newline="") as stream:
            for number, line in enumerate(stream, 1):  # noqa: B007
                characters += len(line)
                if characters > _MAX_CHARACTERS:
                    raise UserError(
                        f"{file}: unpacks to more than {_MAX_CHARACTERS:,} characters; that is no such table"
                    )
                yield line.replace("\0", "")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: is not UTF-8 after line {number}; replace it by the original file") from error
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{file}: cannot be read ({reason}); replace it by the original file") from error


def _unique(header: Sequence[str]) -> list[str]:
    """Column names in lower case, repeated ones numbered, without the empty ones that trailing commas make."""
    names = [name.strip().casefold() for name in header]
    while names and not names[-1]:
        names.pop()
    counts = [names[:place].count(name) for place, name in enumerate(names)]
    return [f"{name}.{count}" if count else name for name, count in zip(names, counts, strict=True)]


def _places(file: Path, line: int, header: list[str], columns: Columns, needed: set[str]) -> dict[str, int | None]:
    """Where our columns are in the header; None for those that it lacks."""
    found: dict[str, int | None] = {}
    for name, spellings in columns.items():
        there = [header.index(word.casefold()) for word in spellings if word.casefold() in header]
        if not there and name in needed:
            has = ", ".join(header[:20]) or "nothing"
            raise UserError(f"{file}: line {line} lacks the column {' or '.join(spellings)}; it has: {has}")
        found[name] = there[0] if there else None
    return found


# ---- cells ---------------------------------------------------------------------------------------


def number(row: Row, name: str, faults: Faults, low: float = -math.inf, high: float = math.inf) -> float:
    """A finite number in ``low`` to ``high``; NaN for an empty cell, and for a fault, which is remembered."""
    text = row.cells[name]
    if not text:
        return math.nan
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if math.isfinite(value) and low <= value <= high:
        return value
    limits = "" if math.isinf(low) and math.isinf(high) else f" from {low:g} to {high:g}"
    faults.add(row.line, f"{name}: {text[:40]!r} is no number{limits}")
    return math.nan


def choice(row: Row, name: str, choices: Sequence[str], faults: Faults) -> int:
    """Place of a cell among its choices, in any case; 0 for a fault, which is remembered."""
    found = [place for place, word in enumerate(choices) if word.casefold() == row.cells[name].casefold()]
    if not found:
        faults.add(row.line, f"{name}: {row.cells[name][:40]!r} is not one of {', '.join(choices)}")
    return found[0] if found else 0


def box(row: Row, names: Sequence[str], faults: Faults) -> Box | None:
    """The box of x, y, width and height columns; None where all are empty, and for a fault, which is remembered."""
    cells = [row.cells[name] for name in names]
    if not any(cells):
        return None
    found = tuple(number(row, name, faults) for name in names)
    if not all(cells):
        faults.add(row.line, f"has some of {', '.join(names)}, but not all")
        return None
    if any(map(math.isnan, found)):
        return None
    if min(found[2:]) <= 0:
        faults.add(row.line, f"its box is {found[2]:g} wide and {found[3]:g} high")
        return None
    return found


def years(text: str) -> float:
    """An age in years, from plain years or DICOM's form (043Y, 006M, 010W, 003D); NaN for anything else."""
    found = _AGE.fullmatch(text.strip().upper())
    return int(found[1]) * _YEARS[found[2]] if found else math.nan


def plausible_ages(ages: Sequence[float], where: str) -> tuple[float, ...]:
    """Ages, with NaN for those that nobody reaches, which are counted in a warning."""
    if slips := sum(age > _OLDEST for age in ages):
        warnings.warn(f"{where}: {slips} ages above {_OLDEST} years are taken for unknown", stacklevel=3)
    return tuple(math.nan if age > _OLDEST else age for age in ages)


# ---- images ------------------------------------------------------------------------------------


def existing(files: Mapping[str, Path], root: Path) -> dict[str, Path]:
    """Those files that are there.

    Args:
      files: name -> where its file would be, of names that were checked to be no paths.
      root: folder that no link may lead out of.

    Raises:
      UserError: naming a file outside.
    """
    fence, found = Fence(root), {}
    for name, file in files.items():
        if file.is_file():
            if fence.resolve(file, file.is_symlink()) is None:
                raise UserError(f"{file}: is a link out of {root}; copy the file to its place")
            found[name] = file
    return found


def present(
    records: Sequence[_Record],
    name_of: Callable[[_Record], str],
    files: Mapping[str, Path],
    file: Path,
    skip_missing: bool,
) -> list[_Record]:
    """Records whose images are there.

    Args:
      records: what a file tells of.
      name_of: the image of a record.
      files: name -> image.
      file: what messages call the file.
      skip_missing: leave the others out and warn of it.

    Raises:
      UserError: with the number of absent images and the first, unless they are to be skipped; when
        none is there.
    """
    kept = [record for record in records if name_of(record) in files]
    absent = sorted({name_of(record) for record in records} - set(files))
    if absent:
        told = f"{file}: {len(absent)} of the images that it names are absent (first: {absent[0]})"
        if not skip_missing or not kept:
            raise UserError(f"{told}; unpack them, or go without them with --set skip_missing=true")
        warnings.warn(f"{told} and left out", stacklevel=3)
    return kept


def deal(pool: Listing, val_share: float, test_share: float, seed: int) -> dict[str, Listing]:
    """Records dealt into splits by their groups, or one by one where groups are unknown.

    Raises:
      UserError: for shares that are none, or a split that would get nothing.
    """
    if min(val_share, test_share) < 0 or val_share + test_share >= 1:
        raise UserError(
            f"--set val_share={val_share:g} test_share={test_share:g}: must not be negative, and together below 1"
        )
    try:
        dealt = by_group(pool.groups or pool.ids, (1 - val_share - test_share, val_share, test_share), seed)
    except UserError as error:
        helps = re.search(r"split_seed=\d+", str(error))
        remedy = f"--set {helps[0]} gives every split some" if helps else "ask for fewer splits"
        left_out = "val_share=0 or test_share=0 leaves a split out"
        raise UserError(f"{str(error).split('; ')[0]}; {remedy}, {left_out}") from error
    return {split: pool.take(indices) for split, indices in dealt.items()}
