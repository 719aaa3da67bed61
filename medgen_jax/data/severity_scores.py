"""Graded severity of images from a table: RALO as it is published, or a CSV file of one's own.

    RALO/CXR_images_scored/0.jpg, ...           with ralo-dataset-metadata.csv, see `medgen_jax.data.builders.ralo`
    scores.csv                                  file,patient_id,opacity,geographic,...

Columns of the CSV file, in any order; others are passed over, names count in any case:

    file            the image; its folder and suffix are passed over. Or: name, path, image
    patient_id      whose it is; on every line or none. Or: patient, subject_id
    NAME            a column of numbers; an empty cell is an image without this score
    NAME_1, NAME_2  the same by two readers, where known
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data.builders import ralo
from medgen_jax.data.builders.metadata import number
from medgen_jax.data.csv_rows import Faults, Row, read_rows
from medgen_jax.data.images import READERS

_FILE = ("file", "name", "path", "image")
_PATIENT = ("patient_id", "patient", "subject_id")
_RALO_TABLE, _RALO_PATIENT, _RALO_LIMITS = "ralo-dataset-metadata.csv", "Subject_ID", (0.0, 8.0)


@dataclass(frozen=True)
class SeverityScores:
    """The images that one column scores.

    Attributes:
      column: its name.
      names: what each image is called: file names without folder and suffix.
      scores: (n,) finite.
      patients: whose each is; empty where the table does not say. Never written anywhere in clear.
      readers: (2, n) scores by two readers, NaN where one gave none; None where they are not known.
      limits: lowest and highest score of the scale; None where that is not known.
      aliases: other names of images -> their place.
    """

    column: str
    names: tuple[str, ...] = field(repr=False)
    scores: np.ndarray = field(repr=False)
    patients: tuple[str, ...] = field(repr=False, default=())
    readers: np.ndarray | None = field(repr=False, default=None)
    limits: tuple[float, float] | None = None
    aliases: dict[str, int] = field(repr=False, default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def places(self) -> dict[str, int]:
        """Every name of an image -> its place."""
        return self.aliases | {name: place for place, name in enumerate(self.names)}


def read_scores(source: str | Path, column: str) -> SeverityScores:
    """One column of a table; images that it leaves empty are not in the answer.

    Args:
      source: a CSV file, or RALO's folder (or its table).
      column: of the file, in any case; ``opacity`` or ``geographic`` of RALO, the mean of both readers.

    Raises:
      UserError: no such file or column, and by line what is no number, a name given twice, a line without a
        name, or patients on some lines only.
    """
    source = Path(source).expanduser()
    if source.is_dir() or source.name == _RALO_TABLE:
        return _ralo(source if source.is_dir() else source.parent, column.casefold())
    if not source.is_file():
        raise UserError(f"--scores {source}: no such file; give a CSV file, or the folder of RALO")
    return _table(source, column.strip().casefold())


def _ralo(folder: Path, column: str) -> SeverityScores:
    options = dict(patient=_RALO_PATIENT, skip_missing=True, val_share=0.0, test_share=0.0)
    records = ralo.open_source(folder, **options)["train"]
    if column not in records.values:
        raise UserError(f"--column {column}: {folder} has {', '.join(records.values)}")
    return _scored(
        column,
        tuple(file.stem for file in records.columns["image"]),
        records.groups,
        {name: np.array(values, np.float64) for name, values in records.values.items()},
        limits=_RALO_LIMITS,
        others=records.ids,
    )


def _table(file: Path, column: str) -> SeverityScores:
    faults = Faults(file)
    columns, rows = read_rows(file, (*_FILE, *_PATIENT, column), faults)
    named, owned = (next((name for name in names if name in columns), None) for names in (_FILE, _PATIENT))
    if named is None:
        raise UserError(f"{file}: lacks a column file (or name, path, image); it has: {', '.join(columns)}")
    if column not in columns:
        others = ", ".join(name for name in columns if name not in (named, owned))
        raise UserError(f"--column {column}: {file} has no such column; beside names and patients it has: {others}")
    names = tuple(_name(row.cells[named]) for row in rows)
    _check_names(rows, names, named, owned, faults)
    wanted = [name for name in (column, f"{column}_1", f"{column}_2") if name in columns]
    values = {name: np.array([number(row, name, faults) for row in rows]) for name in wanted}
    faults.refuse()
    patients = tuple(row.cells[owned] for row in rows) if owned and rows[0].cells[owned] else ()
    return _scored(column, names, patients, values)


def _name(cell: str) -> str:
    """A path's last part as folders of images call it; only endings of image files are suffixes."""
    path = PurePath(unicodedata.normalize("NFC", cell.replace("\\", "/")))
    return path.stem if path.suffix.lower() in READERS else path.name


def _check_names(rows: Sequence[Row], names: Sequence[str], named: str, owned: str | None, faults: Faults) -> None:
    seen: set[str] = set()
    some = owned is not None and any(row.cells[owned] for row in rows)
    for row, name in zip(rows, names, strict=True):
        if not name:
            faults.add(row.line, f"{named}: empty")
        elif name in seen:
            faults.add(row.line, "names an image of an earlier line", "Folders and suffixes do not tell images apart")
        if some and not row.cells[owned]:
            faults.add(row.line, f"{owned}: empty")
        seen.add(name)


def _scored(
    column: str,
    names: tuple[str, ...],
    patients: tuple[str, ...],
    values: dict[str, np.ndarray],
    limits: tuple[float, float] | None = None,
    others: Sequence[str] = (),
) -> SeverityScores:
    """The images with a score."""
    kept = [place for place, score in enumerate(values[column]) if not math.isnan(score)]
    if not kept:
        raise UserError(f"--column {column}: no image has a number there")
    readers = [values.get(f"{column}_{reader}") for reader in (1, 2)]
    return SeverityScores(
        column,
        tuple(names[place] for place in kept),
        values[column][kept],
        tuple(patients[place] for place in kept) if patients else (),
        None if any(reader is None for reader in readers) else np.stack(readers)[:, kept],
        limits,
        {others[place]: row for row, place in enumerate(kept)} if others else {},
    )
