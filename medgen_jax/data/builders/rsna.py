"""RSNA Pneumonia Detection Challenge, stage 2: frontal chest X-rays, adults, with boxes around opacities.

    SOURCE/stage_2_train_images/<patientId>.dcm        1024x1024, 8 bits
    SOURCE/stage_2_train_labels.csv                    patientId,x,y,width,height,Target     one line per box
    SOURCE/stage_2_detailed_class_info.csv             patientId,class

Images are a part of NIH ChestX-ray14. A ``patientId`` names one image: the patients behind them repeat,
and only the map to NIH's file names tells who. The test images of the challenge have no labels and
are not used.
"""

from __future__ import annotations

import enum
import json
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from pydicom import config as pydicom_config
from pydicom.datadict import tag_for_keyword
from pydicom.tag import Tag

from medgen_jax.core.errors import UserError
from medgen_jax.data.builders.metadata import (
    box,
    choice,
    deal,
    find_file,
    find_folder,
    plausible_ages,
    present,
    read_metadata,
    years,
)
from medgen_jax.data.csv_rows import Faults
from medgen_jax.data.formats.dicom import open_dataset
from medgen_jax.data.formats.samples import Source
from medgen_jax.data.layouts import list_images
from medgen_jax.data.listing import Box, Listing
from medgen_jax.data.splits import RSNA_SEED_COUNTS, rsna_seed_split

CLASSES = ("Normal", "Lung Opacity", "No Lung Opacity / Not Normal")
VIEWS = ("PA", "AP", "unknown")
SEXES = ("F", "M", "unknown")

_BOX = ("x", "y", "width", "height")
_HEADER = [Tag(tag_for_keyword(name)) for name in ("PatientAge", "PatientSex", "ViewPosition")]
_THREADS = 16


class Split(enum.Enum):
    """How images are dealt."""

    PATIENT = "patient"
    SEED = "seed"


class View(enum.Enum):
    """Which projections are taken."""

    BOTH = "both"
    PA = "PA"
    AP = "AP"


#: The paper's own split is by image, so that patients are on both sides.
LEAKING = {"split": Split.SEED}


class _Finding(NamedTuple):
    """What the tables say of an image."""

    name: str
    label: int
    boxes: tuple[Box, ...]


class _Header(NamedTuple):
    """What a DICOM header says of a patient; the numbers of `VIEWS` and `SEXES`, years."""

    view: int
    sex: int
    age: float


def open_source(
    source: Path,
    *,
    split: Split = Split.PATIENT,
    nih_map: Path | None = None,
    view: View = View.BOTH,
    classes: tuple[str, ...] = CLASSES,
    skip_missing: bool = False,
    val_share: float = 0.1,
    test_share: float = 0.1,
    split_seed: int = 0,
) -> dict[str, Listing]:
    """Column ``image``; labels ``label`` (3 classes), ``view``, ``sex``; value ``age`` in years; boxes ``opacity``.

    Args:
      source: as the module shows it.
      split: patient deals whole patients into train, val and test; seed draws train and val image by
        image, class by class, as the counterfactual diffusion paper (`splits.rsna_seed_split`), of
        Normal and Lung Opacity alone.
      nih_map: which patient an image is of: a CSV file with the columns patientId and nih_patient or
        nih_image, or RSNA's own JSON list of subset_img_id and img_id.
      view: PA, AP or both, as the DICOM headers say.
      classes: names of the classes that are taken, in the order of their labels.
      skip_missing: leave out, and count, images that the tables name but that are absent.
      val_share: share of the patients in val; 0 leaves it out. Not for split=seed.
      test_share: share of the patients in test; 0 leaves it out. Not for split=seed.
      split_seed: another one deals anew.

    Raises:
      UserError: for a missing file, lines that contradict each other, by number, absent images, a
        header that cannot be read, images that the map does not know, or a split without a patient.
    """
    classes = tuple(RSNA_SEED_COUNTS) if split is Split.SEED else classes
    if unknown := set(classes) - set(CLASSES):
        raise UserError(f"--set classes={','.join(classes)}: {min(unknown)!r} is not one of {', '.join(CLASSES)}")
    found = _findings(source)
    files = list_images(find_folder(source, "stage_2_train_images"), source)
    if strays := len(set(files) - {finding.name for finding in found}):
        warnings.warn(f"{source}: {strays} images that the tables do not name are left out", stacklevel=2)
    found = present(found, lambda f: f.name, files, source / "stage_2_train_labels.csv", skip_missing)
    found = [finding for finding in found if CLASSES[finding.label] in classes]
    headers = _headers([files[finding.name] for finding in found])
    taken = [i for i, header in enumerate(headers) if view is View.BOTH or VIEWS[header.view] == view.value]
    if not taken:
        raise UserError(f"{source}: no image of view={view.value} and classes={','.join(classes)}")
    records = _listing([found[i] for i in taken], [headers[i] for i in taken], files, classes, nih_map)
    if split is Split.PATIENT:
        return deal(records, val_share, test_share, split_seed)
    names = [classes[label] for label in records.labels["label"]]
    dealt, _ = rsna_seed_split(names, records.ids, records.groups, split_seed)
    return {part: records.take(indices) for part, indices in dealt.items()}


def _listing(
    found: Sequence[_Finding],
    headers: Sequence[_Header],
    files: Mapping[str, Path],
    classes: Sequence[str],
    nih_map: Path | None,
) -> Listing:
    names = [finding.name for finding in found]
    return Listing(
        {"image": tuple(files[name] for name in names)},
        {
            "label": tuple(classes.index(CLASSES[finding.label]) for finding in found),
            "view": tuple(header.view for header in headers),
            "sex": tuple(header.sex for header in headers),
        },
        {"label": tuple(classes), "view": VIEWS, "sex": SEXES},
        tuple(names),
        _patients(names, nih_map),
        values={"age": plausible_ages([header.age for header in headers], "stage_2_train_images")},
        boxes={"opacity": tuple(finding.boxes for finding in found)},
        grey=("image",),
    )


# ---- tables --------------------------------------------------------------------------------------


def _findings(source: Path) -> list[_Finding]:
    """What the two tables say, image by image in the order of their names.

    Both repeat an image once per box, and joined copies repeat lines: each box counts once.
    """
    labels = _classes(find_file(source, "stage_2_detailed_class_info.csv"))
    file = find_file(source, "stage_2_train_labels.csv")
    faults = Faults(file)
    columns = {"patientId": ("patientId",), **{name: (name,) for name in _BOX}, "Target": ("Target",)}
    boxes: dict[str, dict[Box, None]] = {}
    for row in read_metadata(file, columns, faults):
        name, own = row.cells["patientId"], box(row, _BOX, faults)
        boxes.setdefault(name, {})
        if own is not None:
            boxes[name][own] = None
        sick = choice(row, "Target", ("0", "1"), faults)
        if name not in labels:
            faults.add(row.line, f"patientId: {name[:40]!r} has no line in stage_2_detailed_class_info.csv")
        elif bool(sick) != (CLASSES[labels[name]] == "Lung Opacity"):
            faults.add(row.line, f"Target: {sick}, but the image's class is {CLASSES[labels[name]]}")
        elif bool(sick) != any(row.cells[side] for side in _BOX):
            faults.add(row.line, f"Target: {sick} {'without' if sick else 'with'} a box")
    faults.refuse()
    if unboxed := sorted(set(labels) - set(boxes)):
        raise UserError(f"{file}: lacks {len(unboxed)} images that stage_2_detailed_class_info.csv has ({unboxed[0]})")
    return [_Finding(name, labels[name], tuple(boxes[name])) for name in sorted(boxes)]


def _classes(file: Path) -> dict[str, int]:
    """Image -> number of its class in `CLASSES`."""
    faults, found = Faults(file), {}
    for row in read_metadata(file, {"patientId": ("patientId",), "class": ("class",)}, faults):
        label = choice(row, "class", CLASSES, faults)
        if found.setdefault(row.cells["patientId"], label) != label:
            faults.add(row.line, "class: another one than on an earlier line of the same image")
    faults.refuse()
    return found


# ---- patients ------------------------------------------------------------------------------------


def _patients(names: Sequence[str], nih_map: Path | None) -> tuple[str, ...]:
    """NIH's patient of each image; empty where no map tells."""
    if nih_map is None:
        warnings.warn(
            "the patients of RSNA's images are not known without --set nih_map=FILE: images are dealt one by one, and "
            "one patient may be in several splits",
            stacklevel=3,
        )
        return ()
    known = _read_json_map(nih_map) if nih_map.suffix.lower() == ".json" else _read_csv_map(nih_map)
    if missing := [name for name in names if name not in known]:
        raise UserError(f"{nih_map}: does not know {len(missing)} of {len(names)} images (first: {missing[0]})")
    return tuple(known[name] for name in names)


def _read_csv_map(file: Path) -> dict[str, str]:
    columns = {"patientId": ("patientId",), "patient": ("nih_patient", "nih_image", "Image Index", "Patient ID")}
    faults, found = Faults(file), {}
    for row in read_metadata(file, columns, faults):
        if not row.cells["patient"]:
            faults.add(row.line, "the NIH patient is empty")
        found[row.cells["patientId"]] = _nih_patient(row.cells["patient"])
    faults.refuse()
    return found


def _read_json_map(file: Path) -> dict[str, str]:
    try:
        entries = json.loads(file.read_text("utf-8-sig"))
        return {entry["subset_img_id"]: _nih_patient(entry["img_id"]) for entry in entries}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UserError(
            f"{file}: cannot be read as RSNA's list of subset_img_id and img_id ({type(error).__name__}: {error})"
        ) from error


def _nih_patient(name: str) -> str:
    """The patient in a file name such as 00000032_012.png, or in a number without leading zeros."""
    patient = name.split("_")[0]
    return patient.lstrip("0") or patient


# ---- headers -------------------------------------------------------------------------------------


def _headers(files: Sequence[Path]) -> list[_Header]:
    """Headers of many files, read side by side."""
    # Plain ages are no DICOM, which pydicom would say of every file.
    with pydicom_config.disable_value_validation(), ThreadPoolExecutor(_THREADS) as pool:
        return list(pool.map(_header, files))


def _header(file: Path) -> _Header:
    try:
        with open_dataset(Source(file), _HEADER) as opened:
            age, sex, view = (str(opened.data.get(tag, "") and opened.data[tag].value).strip() for tag in _HEADER)
    except UserError:
        raise
    # pydicom raises nearly every exception type on damaged files.
    except Exception as error:
        raise UserError(f"{file}: its DICOM header cannot be read ({error}); replace the file") from error
    return _Header(_place(view, VIEWS), _place(sex, SEXES), years(age))


def _place(word: str, names: Sequence[str]) -> int:
    return names.index(word.upper()) if word.upper() in names else names.index("unknown")
