"""Image columns to be looked at: of folders, CSV files and prepared sets alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data.images import READERS, ImageHeader, View, read_header, read_image
from medgen_jax.data.listing import Listing, Panel
from medgen_jax.data.tables import FileTable, Table, panel_of

_DICOM = (".dcm", ".dicom", ".ima")


@dataclass(frozen=True)
class Column:
    """The images of one column of one table of one split.

    Attributes:
      split, table, name: which one.
      names: what each record may be called in the open.
      header: record -> size and type, without decoding where that can be avoided; may raise UserError.
      read: record -> HWC levels; may raise UserError.
      labels: label column -> word of each record.
      files: where the images are stored; empty for prepared sets.
    """

    split: str
    table: str
    name: str
    names: Sequence[str]
    header: Callable[[int], ImageHeader]
    read: Callable[[int], np.ndarray]
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    files: Sequence[Path] = ()

    def __len__(self) -> int:
        return len(self.names)

    @property
    def role(self) -> str:
        """What it is called in all splits: ``pairs/a``, ``a``, ``records``."""
        return self.table if self.name in (self.table, "image") else f"{self.table}/{self.name}"

    def __str__(self) -> str:
        return f"{self.split}/{self.role}"


def from_listing(
    split: str, table: str, listing: Listing, view: View, names: Sequence[str] = (), root: Path | None = None
) -> list[Column]:
    """The columns of a listing; without ``names`` of its records, files are called by their place below ``root``."""
    labels = {column: words(values, listing.classes.get(column, ())) for column, values in listing.labels.items()}
    return [
        _of_files(
            (split, table, column),
            files,
            names or spoken(files, f"{split}/{table}", root),
            listing.panels.get(column),
            labels,
            view,
        )
        for column, files in listing.columns.items()
    ]


def from_tables(split: str, tables: Mapping[str, Table], labelled: bool = True) -> list[Column]:
    """The columns of open tables, each once: ``a`` and ``b`` may be parts of ``pairs``.

    Args:
      split: their split.
      tables: as `sources.open_tables` returns them.
      labelled: take the labels too, which prepared sets read in a pass over all records.
    """
    found, seen = [], set()
    for name in sorted(tables, key=lambda name: name != "pairs"):
        for column in tables[name].names:
            first = (column, tables[name].origin(0, column)) if len(tables[name]) else (name, column)
            if first not in seen:
                seen.add(first)
                found.append(_of_table(split, name, column, tables[name], labelled))
    return found


def words(values: Sequence[int], classes: Sequence[str]) -> tuple[str, ...]:
    """Labels by name, plain numbers as text."""
    return tuple(classes[v] if v < len(classes) else str(v) for v in map(int, values))


def spoken(files: Sequence[Path], where: str, root: Path | None = None) -> tuple[str, ...]:
    """What files may be called: their names, or a number for DICOM, whose names often are those of patients."""

    def call(number: int, file: Path) -> str:
        if is_dicom_name(file):
            return f"{where}, DICOM file {number}"
        if root is not None and file.is_relative_to(root):
            return str(file.relative_to(root))
        return "/".join(file.parts[-2:])

    return tuple(call(number, file) for number, file in enumerate(files, 1))


def is_dicom_name(file: Path) -> bool:
    """Whether a file would be read as DICOM, judged by its name (a suffix of its own, or none that is known)."""
    suffix = Path(file.name.partition("#")[0]).suffix.lower()
    return suffix in _DICOM or suffix not in READERS


def reason(error: UserError, file: Path | None = None) -> str:
    """What is wrong, without the name of the file."""
    text = str(error).removesuffix("; replace or remove it")
    for name in (str(file), file.name) if file else ():
        text = text.removeprefix(f"{name}: ").replace(name, "the file")
    return text


def _of_files(
    place: tuple[str, str, str], files: Sequence[Path], names: Sequence[str], panel: Panel | None,
    labels: Mapping[str, Sequence[str]], view: View,
) -> Column:  # fmt: skip
    def header(record: int) -> ImageHeader:
        found = read_header(files[record], view)
        if panel is None:
            return found
        if found.width % panel.count:
            raise UserError(
                f"{files[record]}: is {found.width} pixels wide, which {panel.count} panels do not share evenly; "
                "set config.data.panels to their number"
            )
        return found._replace(width=found.width // panel.count)

    def read(record: int) -> np.ndarray:
        image = read_image(files[record], view=view)
        return image if panel is None else panel_of(image, panel)

    return Column(*place, names, header, read, labels, files)


def _of_table(split: str, name: str, column: str, table: Table, labelled: bool) -> Column:
    part = table.select(column)
    names = tuple(f"{split}/{name}, record {record}" for record in range(1, len(part) + 1))
    labels = {n: words(values, table.classes.get(n, ())) for n, values in table.labels.items()} if labelled else {}
    files = tuple(part.files) if isinstance(part, FileTable) else ()
    return Column(
        split, name, column, names, lambda r: part.header(r, column), lambda r: part.images(r)[column], labels, files
    )
