"""MIMIC-CXR-JPG: chest X-rays of an emergency department, labelled from their reports.

    SOURCE/files/p1X/p<subject_id>/s<study_id>/<dicom_id>.jpg       p10 ... p19: first digits of the subject
    SOURCE/mimic-cxr-2.0.0-metadata.csv.gz                          one line per image; ViewPosition
    SOURCE/mimic-cxr-2.0.0-split.csv.gz                             train, validate, test, by subject
    SOURCE/mimic-cxr-2.0.0-{chexpert,negbio}.csv.gz                 one line per study: 1, 0, -1 or nothing

The tables may also be unpacked (.csv). Credentialed data of PhysioNet: prepared sets fall under the same
agreement as the originals.
"""

from __future__ import annotations

import enum
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from medgen_jax.core.errors import UserError
from medgen_jax.data.builders.metadata import existing, find_file, find_folder, present, read_metadata
from medgen_jax.data.csv_rows import Faults, Row
from medgen_jax.data.listing import Listing
from medgen_jax.data.splits import SPLITS, split_named

FINDINGS = (
    "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Enlarged Cardiomediastinum", "Fracture", "Lung Lesion",
    "Lung Opacity", "No Finding", "Pleural Effusion", "Pleural Other", "Pneumonia", "Pneumothorax", "Support Devices",
)  # fmt: skip
VIEWS = ("PA", "AP")

_NUMBER = re.compile(r"\d{2,12}")
_NAME = re.compile(r"[0-9A-Za-z-]{1,80}")
_IDS = {"image": ("dicom_id",), "study": ("study_id",), "subject": ("subject_id",)}


class Labeller(enum.Enum):
    """Which program read the reports."""

    CHEXPERT = "chexpert"
    NEGBIO = "negbio"


class View(enum.Enum):
    """Which projections are taken: the frontal ones, or one of them."""

    FRONTAL = "frontal"
    PA = "PA"
    AP = "AP"


class Uncertain(enum.Enum):
    """What becomes of findings that a report leaves uncertain (-1) or does not mention (empty).

    KEEP gives them classes of their own. ZEROS and ONES take uncertain ones for absent or present
    (U-Zeros and U-Ones of the CheXpert paper, section 3), and unmentioned ones for absent.
    """

    KEEP = "keep"
    ZEROS = "zeros"
    ONES = "ones"


#: Policy -> names of the labels 0, 1, ..., and the label of each cell.
_LABELS: dict[Uncertain, tuple[tuple[str, ...], Mapping[str, int]]] = {
    Uncertain.KEEP: (("absent", "present", "uncertain", "unmentioned"), {"0": 0, "1": 1, "-1": 2, "": 3}),
    Uncertain.ZEROS: (("absent", "present"), {"0": 0, "1": 1, "-1": 0, "": 0}),
    Uncertain.ONES: (("absent", "present"), {"0": 0, "1": 1, "-1": 1, "": 0}),
}


class _Image(NamedTuple):
    """A line of the metadata table."""

    name: str
    study: str
    subject: str
    view: int


def open_source(
    source: Path,
    *,
    view: View = View.FRONTAL,
    labeller: Labeller = Labeller.CHEXPERT,
    uncertain: Uncertain = Uncertain.KEEP,
    skip_missing: bool = False,
) -> dict[str, Listing]:
    """The official split, by subject; ``image``, a label for each of 14 findings, and ``view``.

    Labels are called after the `FINDINGS`, in lower case with ``_`` for blanks. Lateral views, and
    images whose study has no labels, are left out; the latter are counted.

    Args:
      source: as the module shows it.
      view: PA, AP or both (frontal).
      labeller: which program read the reports.
      uncertain: keep gives findings that are uncertain, or not mentioned, classes of their own;
        zeros and ones take uncertain ones for absent or present, unmentioned ones for absent.
      skip_missing: leave out, and count, images that the table names but that are absent.

    Raises:
      UserError: for a missing table, wrong lines by number, absent images, or a file that lies
        outside the source once links are followed.
    """
    table = _table(source, "metadata")
    images = [image for image in _images(table) if view is View.FRONTAL or VIEWS[image.view] == view.value]
    names, levels = _LABELS[uncertain]
    findings = _findings(_table(source, labeller.value), levels)
    unlabelled = sum(image.study not in findings for image in images)
    if unlabelled:
        warnings.warn(f"{table}: {unlabelled} images of studies without labels are left out", stacklevel=2)
    images = [image for image in images if image.study in findings]
    folder = find_folder(source, "files")
    files = existing({image.name: _file(folder, image) for image in images}, source)
    images = present(images, lambda image: image.name, files, table, skip_missing)
    splits = _splits(_table(source, "split"), images)
    columns = [name.lower().replace(" ", "_") for name in FINDINGS]

    def listing(own: Sequence[_Image]) -> Listing:
        return Listing(
            {"image": tuple(files[image.name] for image in own)},
            {
                **{name: tuple(findings[image.study][i] for image in own) for i, name in enumerate(columns)},
                "view": tuple(image.view for image in own),
            },
            {**dict.fromkeys(columns, names), "view": VIEWS},
            tuple(image.name for image in own),
            tuple(image.subject for image in own),
            grey=("image",),
        )

    pools = {split: [image for image in images if splits[image.name] == split] for split in SPLITS}
    return {split: listing(own) for split, own in pools.items() if own}


# ---- tables --------------------------------------------------------------------------------------


def _table(source: Path, name: str) -> Path:
    return find_file(source, f"mimic-cxr-2.0.0-{name}.csv.gz", f"mimic-cxr-2.0.0-{name}.csv")


def _images(table: Path) -> list[_Image]:
    """The frontal images, each once, in the order of the table."""
    faults, found = Faults(table), {}
    for row in read_metadata(table, {**_IDS, "view": ("ViewPosition",)}, faults):
        if row.cells["view"].upper() not in VIEWS:
            continue
        name, study, subject = (row.cells[column] for column in _IDS)
        # These become parts of a path.
        if not (_NAME.fullmatch(name) and _NUMBER.fullmatch(study) and _NUMBER.fullmatch(subject)):
            faults.add(row.line, "dicom_id, study_id or subject_id is of another form than the set's")
        if name in found:
            faults.add(row.line, "names an image of an earlier line")
        found[name] = _Image(name, study, subject, VIEWS.index(row.cells["view"].upper()))
    faults.refuse()
    return list(found.values())


def _findings(table: Path, levels: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    """Study -> label of each of `FINDINGS`."""
    columns = {"study": ("study_id",), **{name: (name,) for name in FINDINGS}}
    faults, found = Faults(table), {}
    for row in read_metadata(table, columns, faults):
        cells = [_level(row, name, levels, faults) for name in FINDINGS]
        if found.setdefault(row.cells["study"], tuple(cells)) != tuple(cells):
            faults.add(row.line, "contradicts an earlier line of the same study")
    faults.refuse()
    return found


def _level(row: Row, name: str, levels: Mapping[str, int], faults: Faults) -> int:
    text = re.sub(r"\.0*$", "", row.cells[name])
    if text not in levels:
        faults.add(row.line, f"{name}: {row.cells[name][:40]!r} is not 1, 0, -1 or empty")
    return levels.get(text, 0)


def _splits(table: Path, images: Sequence[_Image]) -> dict[str, str]:
    """Image -> its official split."""
    faults, found = Faults(table), {}
    for row in read_metadata(table, {"image": ("dicom_id",), "split": ("split",)}, faults):
        split = split_named(row.cells["split"])
        if split is None:
            faults.add(row.line, f"split: {row.cells['split'][:40]!r} is not train, validate or test")
        found[row.cells["image"]] = split or ""
    faults.refuse()
    if unknown := [image.name for image in images if image.name not in found]:
        raise UserError(f"{table}: lacks {len(unknown)} of {len(images)} images (first: {unknown[0]})")
    return found


def _file(folder: Path, image: _Image) -> Path:
    return folder / f"p{image.subject[:2]}" / f"p{image.subject}" / f"s{image.study}" / f"{image.name}.jpg"
