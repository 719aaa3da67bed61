"""NIH ChestX-ray14: 112,120 frontal chest X-rays of 30,805 patients, 14 findings, boxes around some.

    SOURCE/images_001/images/*.png ... images_012/images/*.png      also all of them in SOURCE/images
    SOURCE/Data_Entry_2017_v2020.csv                                or Data_Entry_2017.csv
    SOURCE/train_val_list.txt, test_list.txt                        the official split, by patient
    SOURCE/BBox_List_2017.csv                                       984 boxes; may be absent

1024x1024, 8 bits; a few hundred files are RGBA. Findings were mined from reports and are wrong now and
then; boxes were drawn for under a thousand images: most with a finding have none.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medgen_jax.core.errors import UserError
from medgen_jax.data.builders.metadata import (
    box,
    choice,
    deal,
    find_file,
    plausible_ages,
    present,
    read_metadata,
    read_names,
    years,
)
from medgen_jax.data.csv_rows import Faults, Row
from medgen_jax.data.layouts import list_images
from medgen_jax.data.listing import Box, Listing

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Hernia",
    "Infiltration", "Mass", "Nodule", "Pleural_Thickening", "Pneumonia", "Pneumothorax",
)  # fmt: skip
#: Findings that boxes were drawn for, and how BBox_List_2017.csv spells them.
BOXED = {
    "Atelectasis": "Atelectasis", "Cardiomegaly": "Cardiomegaly", "Effusion": "Effusion", "Infiltrate": "Infiltration",
    "Mass": "Mass", "Nodule": "Nodule", "Pneumonia": "Pneumonia", "Pneumothorax": "Pneumothorax",
}  # fmt: skip
PRESENCE = ("absent", "present")
VIEWS = ("PA", "AP")
SEXES = ("F", "M")

_TABLES = ("Data_Entry_2017_v2020.csv", "Data_Entry_2017.csv")
_COLUMNS = {
    "image": ("Image Index",),
    "findings": ("Finding Labels",),
    "patient": ("Patient ID",),
    "age": ("Patient Age",),
    "sex": ("Patient Sex", "Patient Gender"),
    "view": ("View Position",),
}
#: The header reads ``Bbox [x,y,w,h]``, which a CSV reader takes for four columns.
_BOX_COLUMNS = {
    "image": ("Image Index",),
    "finding": ("Finding Label",),
    "x": ("Bbox [x", "x"),
    "y": ("y",),
    "w": ("w",),
    "h": ("h]", "h"),
}


class _Entry(NamedTuple):
    """A line of the table."""

    image: str
    findings: tuple[int, ...]
    patient: str
    age: float
    sex: int
    view: int


def open_source(
    source: Path, *, skip_missing: bool = False, val_share: float = 0.1, split_seed: int = 0
) -> dict[str, Listing]:
    """The official split; ``image``, a label for each of 14 findings, ``view``, ``sex``, value ``age`` and boxes.

    Labels (`PRESENCE`) are called after the `FINDINGS` in lower case, their boxes ``box_<finding>``. An image with
    no finding has none of the 14. Records are numbered in the order of the table, because file names
    tell the patient.

    Args:
      source: as the module shows it.
      skip_missing: leave out, and count, images that the table names but that are absent.
      val_share: share of the patients of train_val_list.txt that go to val; 0 leaves val out.
      split_seed: deals them anew.

    Raises:
      UserError: for a missing file, wrong lines by number, absent images, or images in both lists or
        in neither.
    """
    table = find_file(source, *_TABLES)
    files = _files(source)
    entries = _entries(table)
    number = {entry.image: place for place, entry in enumerate(entries)}
    entries = present(entries, lambda entry: entry.image, files, table, skip_missing)
    boxes = _boxes(source / "BBox_List_2017.csv", number)
    pools = _official(source, entries)
    listings = {
        split: Listing(
            {"image": tuple(files[entry.image] for entry in own)},
            {
                **{name.lower(): tuple(entry.findings[i] for entry in own) for i, name in enumerate(FINDINGS)},
                "view": tuple(entry.view for entry in own),
                "sex": tuple(entry.sex for entry in own),
            },
            {**{name.lower(): PRESENCE for name in FINDINGS}, "view": VIEWS, "sex": SEXES},
            tuple(f"image_{number[entry.image]:06d}" for entry in own),
            tuple(entry.patient for entry in own),
            values={"age": plausible_ages([entry.age for entry in own], f"{table}, {split}")},
            boxes={
                f"box_{name.lower()}": tuple(boxes.get((entry.image, name), ()) for entry in own)
                for name in BOXED.values()
            },
            grey=("image",),
        )
        for split, own in pools.items()
    }
    return deal(listings.pop("train"), val_share, 0.0, split_seed) | listings


def _files(source: Path) -> dict[str, Path]:
    """Image files by name with suffix."""
    folders = [folder for folder in sorted(source.glob("images_[0-9]*/images")) if folder.is_dir()]
    folders = folders or [source / "images"]
    found: dict[str, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{source}: holds no images_001/images, ..., nor images; unpack the archives there")
        for file in list_images(folder, source).values():
            if file.name in found:
                raise UserError(f"{file}: {found[file.name]} has the same name; keep one of the two")
            found[file.name] = file
    return found


def _entries(file: Path) -> list[_Entry]:
    """The lines of the table, in their order."""
    faults, found = Faults(file), {}
    for row in read_metadata(file, _COLUMNS, faults):
        entry = _entry(row, faults)
        if entry.image in found:
            faults.add(row.line, "names an image of an earlier line")
        found[entry.image] = entry
    faults.refuse()
    return list(found.values())


def _entry(row: Row, faults: Faults) -> _Entry:
    cells = row.cells
    words = {word.strip().casefold() for word in cells["findings"].split("|")} - {"no finding"}
    if unknown := sorted(words - {name.casefold() for name in FINDINGS}):
        faults.add(row.line, f"findings: {unknown[0][:40]!r} is not one of {', '.join(FINDINGS)}, No Finding")
    if cells["age"] and math.isnan(years(cells["age"])):
        faults.add(row.line, f"age: {cells['age'][:40]!r} is no age")
    if not cells["patient"]:
        faults.add(row.line, "Patient ID: empty")
    return _Entry(
        cells["image"],
        tuple(int(name.casefold() in words) for name in FINDINGS),
        cells["patient"],
        years(cells["age"]),
        choice(row, "sex", SEXES, faults),
        choice(row, "view", VIEWS, faults),
    )


def _boxes(file: Path, known: Mapping[str, int]) -> dict[tuple[str, str], tuple[Box, ...]]:
    """(image, finding) -> its boxes, each once; nothing where the file is absent."""
    if not file.is_file():
        warnings.warn(f"{file}: absent, so that no image has boxes", stacklevel=3)
        return {}
    spelling = {name.casefold(): finding for name, finding in BOXED.items()}
    spelling |= {finding.casefold(): finding for finding in BOXED.values()}
    faults = Faults(file)
    found: dict[tuple[str, str], dict[Box, None]] = {}
    for row in read_metadata(file, _BOX_COLUMNS, faults):
        finding = spelling.get(row.cells["finding"].casefold())
        if finding is None:
            faults.add(row.line, f"Finding Label: {row.cells['finding'][:40]!r} is not one of {', '.join(BOXED)}")
        if row.cells["image"] not in known:
            faults.add(row.line, "names an image that the table of all images lacks")
        own = box(row, ("x", "y", "w", "h"), faults)
        if own is None:
            faults.add(row.line, "has no box")
        elif finding:
            found.setdefault((row.cells["image"], finding), {})[own] = None
    faults.refuse()
    return {key: tuple(own) for key, own in found.items()}


def _official(source: Path, entries: Sequence[_Entry]) -> dict[str, list[_Entry]]:
    """Entries of train and test, as the two lists say."""
    train = read_names(find_file(source, "train_val_list.txt"))
    test = read_names(find_file(source, "test_list.txt"))
    if both := sorted(train & test):
        raise UserError(f"{source}: {len(both)} images are in both train_val_list.txt and test_list.txt ({both[0]})")
    if neither := [entry.image for entry in entries if entry.image not in train and entry.image not in test]:
        raise UserError(
            f"{source}: {len(neither)} images are in neither train_val_list.txt nor test_list.txt ({neither[0]})"
        )
    pools = {
        "train": [entry for entry in entries if entry.image in train],
        "test": [entry for entry in entries if entry.image in test],
    }
    if not pools["train"]:
        raise UserError(f"{source}: no image of train_val_list.txt is there; unpack more of the archives")
    return {split: own for split, own in pools.items() if own}
