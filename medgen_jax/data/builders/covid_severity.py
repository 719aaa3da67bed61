"""Severity scores of chest X-rays of the COVID-19 Image Data Collection, means of three raters.

    SOURCE/images/*                                     SOURCE is the repository covid-chestxray-dataset
    SOURCE/annotations/covid-severity-scores.csv        comment, then filename,geographic_mean,opacity_mean
    SOURCE/metadata.csv                                 patientid, ..., filename, ...: one line per image

94 images. Extent is scored 0 to 8, opacity 0 to 6; the latter times 8/6 compares with RALO's.
"""

from __future__ import annotations

import math
from pathlib import Path, PurePath

from medgen_jax.core.errors import UserError
from medgen_jax.data.builders.metadata import (
    deal,
    existing,
    find_file,
    find_folder,
    number,
    present,
    read_metadata,
)
from medgen_jax.data.csv_rows import Faults
from medgen_jax.data.listing import Listing

_SCORES = ("annotations/covid-severity-scores.csv", "covid-severity-scores.csv")
_MAXIMA = {"geographic": 8.0, "opacity": 6.0}


def open_source(
    source: Path,
    *,
    skip_missing: bool = False,
    val_share: float = 0.1,
    test_share: float = 0.2,
    split_seed: int = 0,
) -> dict[str, Listing]:
    """Column ``image``; values ``geographic`` and ``opacity``, both 0 to 8, and ``opacity_of_6`` as published.

    Records are numbered in the order of the scores.

    Args:
      source: as the module shows it.
      skip_missing: leave out, and count, images that the scores name but that are absent.
      val_share: share of the patients in val; 0 leaves it out.
      test_share: share of the patients in test; 0 leaves it out.
      split_seed: another one deals anew.

    Raises:
      UserError: for a missing file, a score out of range or a name that is a path (by line), absent
        images, or one whose patient metadata.csv does not tell.
    """
    table = find_file(source, *_SCORES)
    scores = _scores(table)
    patients = _patients(find_file(source, "metadata.csv"))
    folder = find_folder(source, "images")
    files = existing({name: folder / name for name in scores}, source)
    names = present(list(scores), str, files, table, skip_missing)
    if strangers := [name for name in names if name not in patients]:
        raise UserError(f"{source / 'metadata.csv'}: lacks {len(strangers)} scored images (first: {strangers[0]})")
    places = {name: place for place, name in enumerate(scores)}
    opacity = [scores[name]["opacity"] for name in names]
    records = Listing(
        {"image": tuple(files[name] for name in names)},
        ids=tuple(f"image_{places[name]:03d}" for name in names),
        groups=tuple(patients[name] for name in names),
        values={
            "geographic": tuple(scores[name]["geographic"] for name in names),
            "opacity": tuple(score * 8 / 6 for score in opacity),
            "opacity_of_6": tuple(opacity),
        },
        grey=("image",),
    )
    return deal(records, val_share, test_share, split_seed)


def _scores(table: Path) -> dict[str, dict[str, float]]:
    """Image -> its scores, in the order of the table."""
    faults, found = Faults(table), {}
    columns = {"image": ("filename",), **{name: (f"{name}_mean",) for name in _MAXIMA}}
    for row in read_metadata(table, columns, faults):
        name = row.cells["image"]
        if PurePath(name).name != name or name in ("", ".."):
            faults.add(row.line, "filename: is no name of a file in images/")
        if name in found:
            faults.add(row.line, "names an image of an earlier line")
        found[name] = {score: number(row, score, faults, 0, highest) for score, highest in _MAXIMA.items()}
        for score in _MAXIMA:
            if math.isnan(found[name][score]) and not row.cells[score]:
                faults.add(row.line, f"{score}: empty")
    faults.refuse()
    return found


def _patients(table: Path) -> dict[str, str]:
    faults = Faults(table)
    rows = read_metadata(table, {"patient": ("patientid",), "image": ("filename",)}, faults)
    faults.refuse()
    return {row.cells["image"]: row.cells["patient"] for row in rows if row.cells["patient"]}
