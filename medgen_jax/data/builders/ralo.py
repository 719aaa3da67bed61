"""RALO: portable chest X-rays of COVID-19 patients, their opacity and its extent scored by two radiologists.

    SOURCE/CXR_images_scored/<i>.jpg            i = 0, 1, ...: the record of the table in this place
    SOURCE/ralo-dataset-metadata.csv            two header lines; "Total GEOGRAPHIC" and "Total OPACITY" once per rater

Each score is the sum over both lungs, 0 to 8. Stony Brook, 2373 AP images.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path

from medgen_jax.data.builders.metadata import deal, find_file, find_folder, number, present, read_metadata
from medgen_jax.data.csv_rows import Faults, Row
from medgen_jax.data.layouts import list_images
from medgen_jax.data.listing import Listing

#: Value -> columns of the first and the second rater.
_RATERS = {
    "geographic": ("Total GEOGRAPHIC", "Total GEOGRAPHIC.1"),
    "opacity": ("Total OPACITY", "Total OPACITY.1"),
}
_HIGHEST = 8.0


def open_source(
    source: Path,
    *,
    patient: str = "",
    skip_missing: bool = False,
    val_share: float = 0.1,
    test_share: float = 0.2,
    split_seed: int = 0,
) -> dict[str, Listing]:
    """Column ``image``; values ``geographic`` and ``opacity``, means of the raters, and both of each rater.

    The values of rater n end in ``_n``. Where one rater gave no score the mean is the other's.

    Args:
      source: as the module shows it, or the folder above RALO-Dataset.
      patient: column that tells the patient; without it images are dealt one by one.
      skip_missing: leave out, and count, images that the table names but that are absent.
      val_share: share of the patients or images in val; 0 leaves it out.
      test_share: share of the patients or images in test; 0 leaves it out.
      split_seed: another one deals anew.

    Raises:
      UserError: for a missing file, a score outside 0 to 8 (by line), a record without any score,
        absent images, or a column that is not there.
    """
    root = find_folder(source, "RALO-Dataset", "")
    rows = _rows(find_file(root, "ralo-dataset-metadata.csv"), patient)
    files = list_images(find_folder(root, "CXR_images_scored"), source)
    table = root / "ralo-dataset-metadata.csv"
    rows = present(rows, lambda row: row.cells["image"], files, table, skip_missing)
    if not patient:
        warnings.warn(
            f"{table}: patients are not known without --set patient=COLUMN: images are dealt one by one, and one "
            "patient may be in several splits",
            stacklevel=2,
        )
    records = Listing(
        {"image": tuple(files[row.cells["image"]] for row in rows)},
        ids=tuple(f"row_{int(row.cells['image']):04d}" for row in rows),
        groups=tuple(row.cells["patient"] for row in rows) if patient else (),
        values=_values(rows, Faults(table)),
        grey=("image",),
    )
    return deal(records, val_share, test_share, split_seed)


def _rows(file: Path, patient: str) -> list[Row]:
    """Rows with the cells of both raters, ``image`` and ``patient``; all checked."""
    needed = {f"{name}_{i}": (column,) for name, raters in _RATERS.items() for i, column in enumerate(raters, 1)}
    faults = Faults(file)
    rows = read_metadata(file, needed | ({"patient": (patient,)} if patient else {}), faults, skip=1)
    # A line that was left out would shift the images of all later ones.
    faults.refuse()
    rows = [Row(row.line, {**row.cells, "image": str(place)}) for place, row in enumerate(rows)]
    values = _values(rows, faults)
    for row, *scores in zip(rows, *(values[name] for name in _RATERS), strict=True):
        if any(map(math.isnan, scores)):
            faults.add(row.line, "has no score of either rater")
        if patient and not row.cells["patient"]:
            faults.add(row.line, f"{patient}: empty")
    faults.refuse()
    return rows


def _values(rows: Sequence[Row], faults: Faults) -> dict[str, tuple[float, ...]]:
    """Scores of each rater, and their means; NaN where none is given."""
    found: dict[str, tuple[float, ...]] = {}
    for name in _RATERS:
        raters = [[number(row, f"{name}_{i}", faults, 0, _HIGHEST) for row in rows] for i in (1, 2)]
        found[name] = tuple(_mean(pair) for pair in zip(*raters, strict=True))
        found |= {f"{name}_{i}": tuple(scores) for i, scores in enumerate(raters, 1)}
    return found


def _mean(scores: Sequence[float]) -> float:
    """Mean of those that are given."""
    given = [score for score in scores if not math.isnan(score)]
    return math.fsum(given) / len(given) if given else math.nan
