"""Whether residuals lie where the boxes are, always beside maps that need no network.

Rows are those of `medgen_jax.metrics.localisation`: the residual of each folder, the same less its control, the control
(the unguided round trip) as a map of its own, the mean mask of training images (all, and those of the same view), ones
everywhere, the middle, the image itself. Thresholds must come from other patients: these are dealt into two halves,
each half is measured with the thresholds of the other, and the two are averaged.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data import images as image_files
from medgen_jax.data.counterfactual_folders import CounterfactualFolder, read
from medgen_jax.data.csv_rows import Faults, Row, read_rows
from medgen_jax.evaluation.counterfactuals import maps as map_statistics
from medgen_jax.evaluation.counterfactuals import statistics as image_statistics
from medgen_jax.evaluation.counterfactuals.measures import Measured, Method, box_mask
from medgen_jax.evaluation.scores import Score
from medgen_jax.evaluation.settings import Settings
from medgen_jax.metrics import localisation
from medgen_jax.metrics.boxes import box_masks, padded_boxes
from medgen_jax.metrics.localisation import PRIOR, MapSet

VIEW_PRIOR = "mean training mask of the view"
SUBTRACTED, ROUND_TRIP = "control subtracted", "round trip"
#: Numbers of the table -> which direction is better.
BETTER = {"pixel_auroc": 1, "pixel_auprc": 1, "dice": 1, "iou": 1, "pointing": 1, "healthy_area": -1, "image_auroc": 1}
_BOX = ("x", "y", "width", "height")


class Lesions(NamedTuple):
    """A training image: boxes (k, 4) in pixels of an image of ``size`` (height, width), and how it was taken."""

    boxes: np.ndarray
    size: tuple[int, int]
    view: str | None


@dataclass(frozen=True)
class Prior:
    """Where lesions usually are.

    Attributes:
      whole: (h, w) mean mask of all training images with a lesion.
      views: the same of each view.
      images: how many training images have a lesion.
    """

    whole: np.ndarray
    views: Mapping[str, np.ndarray]
    images: int


class Scored(NamedTuple):
    """A row of the table.

    Attributes:
      numbers: kind -> number.
      owner: the folder that it is about, or whose images it was measured on.
      residual: whether it is a residual of that folder; all others are baselines, round trips among them.
      images: which set of images it was measured on, counted from 0; rows of one set may be compared.
      training: digest of the training boxes that it is made of, or None.
    """

    numbers: dict[str, Score]
    owner: Measured
    residual: bool
    images: int
    training: str | None


# -- training boxes ---------------------------------------------------------------------------------


def open_training(source: str | Path, methods: Sequence[Method]) -> list[Lesions]:
    """Boxes of training images, from a folder of counterfactuals or a CSV file.

    Args:
      source: a folder, or a file with the columns path, x, y, width, height, a line for each box, in pixels of the file
        that ``path`` names (relative to the CSV file); an image without a lesion has one line with empty numbers. A
        column ``view`` is read, others are passed over.
      methods: what is judged, whose images must not be among the training ones.

    Raises:
      UserError: no such file, lines at fault, a box outside its image, no lesion, or images that are judged.
    """
    path = Path(source).expanduser()
    found = _of_folder(path, methods) if path.is_dir() else _of_file(path)
    if not any(len(one.boxes) for one in found):
        raise UserError(f"--train_boxes {path}: no training image has a box")
    return found


def _of_folder(path: Path, methods: Sequence[Method]) -> list[Lesions]:
    folder = read(path)
    for method in methods:
        if count := _same_images(folder, method):
            raise UserError(
                f"--train_boxes {path}: holds {count} of the images of {method.folder.path}; a prior map of what is "
                "judged knows the answer: give boxes of training patients"
            )
    known = [entry for entry in folder.entries if entry.boxes is not None]
    found = []
    for entry in known:
        size = folder.arrays(entry).image.shape[:2]
        box_mask(entry, size, str(path))
        found.append(Lesions(np.reshape(np.asarray(entry.boxes, np.float64), (-1, 4)), size, entry.view))
    return found


def _same_images(folder: CounterfactualFolder, method: Method) -> int:
    """Images of one name that are one picture: others may be called alike, and pseudonyms hold in one folder only."""
    names = {entry.name for entry in folder.entries} & {entry.name for entry in method.entries}
    return sum(np.array_equal(folder.arrays(name).image, method.folder.arrays(name).image) for name in names)


def _of_file(path: Path) -> list[Lesions]:
    faults = Faults(path)
    names, rows = read_rows(path, ("path", *_BOX, "view"), faults)
    if missing := [name for name in ("path", *_BOX) if name not in names]:
        raise UserError(f"--train_boxes {path}: has no column {missing[0]!r}; it needs path, x, y, width and height")
    files: dict[str, list[list[float]]] = {}
    views: dict[str, str | None] = {}
    for row in rows:
        own = files.setdefault(row.cells["path"], [])
        views.setdefault(row.cells["path"], row.cells.get("view") or None)
        if any(row.cells[name] for name in _BOX):
            own.append(_box(row, faults))
    faults.refuse()
    found = []
    for name, own in files.items():
        header = image_files.read_header(path.parent / name)
        boxes = np.reshape(np.asarray(own, np.float64), (-1, 4))
        padded_boxes([boxes], [(header.height, header.width)], [f"{path}, {name}"])
        found.append(Lesions(boxes, (header.height, header.width), views[name]))
    return found


def _box(row: Row, faults: Faults) -> list[float]:
    try:
        return [float(row.cells[name]) for name in _BOX]
    except ValueError:
        faults.add(row.line, "x, y, width and height are not four numbers")
        return [0.0, 0.0, 1.0, 1.0]


def prior_of(training: Sequence[Lesions], size: tuple[int, int]) -> Prior:
    """Mean masks over whole images of another size, height and width scaled on their own."""
    drawn = [
        (own, np.asarray(box_masks(own.boxes[None], np.asarray([own.size]), size))[0])
        for own in training
        if len(own.boxes)
    ]
    views = sorted({own.view for own, _ in drawn if own.view is not None})
    by_view = {view: localisation.prior_map(mask for own, mask in drawn if own.view == view) for view in views}
    return Prior(localisation.prior_map(mask for _, mask in drawn), by_view, len(drawn))


# -- the table --------------------------------------------------------------------------------------


def tables(
    found: Sequence[Measured], training: Sequence[Lesions] | None, settings: Settings, leave_out: Callable[[str], None]
) -> dict[str, Scored]:
    """Rows of numbers; folders of the same images stand in one table with one set of baselines.

    Args:
      found: of each folder.
      training: from `open_training`, or None.
      settings: of the intervals; the seed deals patients into halves.
      leave_out: gets a sentence about every row that cannot be computed.
    """
    sets: dict[tuple, list[Measured]] = {}
    for measured in found:
        if reason := _why_not(measured):
            leave_out(f"{measured.method.name}: localisation needs {reason}")
            continue
        names = [(measured.method.entries[i].name, measured.digests[i][0]) for i in measured.maps]
        sets.setdefault(tuple(sorted(names)), []).append(measured)
    if sets and training is None:
        leave_out(
            f"the row “{PRIOR}”: --train_boxes is missing, a folder of counterfactuals of training images or a CSV "
            "file with the columns path, x, y, width, height"
        )
    rows: dict[str, Scored] = {}
    for images, own in enumerate(sets.values()):
        made = _table(own, training, settings, leave_out)
        beside = f" ({own[0].method.name})" if len(sets) > 1 else ""
        owners = {row: measured for measured in own for row in _rows_of(measured)}
        for row, numbers in made.items():
            name = row if row in owners else row + beside
            residual = row in owners and row != _rows_of(owners[row])[-1]
            boxes = _digest(training) if row in (PRIOR, VIEW_PRIOR) else None
            rows[name] = Scored(numbers, owners.get(row, own[0]), residual, images, boxes)
    return dict(sorted(rows.items(), key=lambda row: not row[1].residual))


def _digest(training: Sequence[Lesions]) -> str:
    said = "\n".join(sorted(f"{own.boxes.tolist()} {own.size} {own.view}" for own in training))
    return hashlib.sha256(said.encode()).hexdigest()[:8]


def _rows_of(measured: Measured) -> tuple[str, str, str]:
    """Names of the rows that are a folder's own: residual, the same less its control, round trip."""
    name = measured.method.name
    return name, f"{name}, {SUBTRACTED}", f"{name} {ROUND_TRIP}"


def _why_not(measured: Measured) -> str | None:
    with_lesion = [i for i, mask in measured.masks.items() if mask.any()]
    if not with_lesion:
        return "boxes, and no image has one"
    if len({measured.shapes[i] for i in measured.maps}) > 1:
        return "images of one size"
    if len({_units(measured)[i] for i in with_lesion}) < 2:
        return "lesions of two patients or more, for the thresholds of one come from the other"
    return None


def _table(
    own: Sequence[Measured], training: Sequence[Lesions] | None, settings: Settings, leave_out: Callable[[str], None]
) -> dict[str, dict[str, Score]]:
    first = own[0]
    by_name = sorted(first.maps, key=lambda i: first.method.entries[i].name)
    size = first.masks[by_name[0]].shape
    prior = prior_of(training, size) if training else None
    maps: dict[str, np.ndarray] = {}
    for measured in own:
        order = sorted(measured.maps, key=lambda i: measured.method.entries[i].name)
        for row, kind in zip(_rows_of(measured), ("residual", "subtracted", "control"), strict=True):
            maps[row] = np.stack([measured.maps[i][kind] for i in order])
    views = [first.method.entries[i].view for i in by_name]
    if prior and all(view in prior.views for view in views):
        maps[VIEW_PRIOR] = np.stack([prior.views[view] for view in views])
    elif prior:
        leave_out(f"the row “{VIEW_PRIOR}”: views of judged images are unknown, or absent among the training images")
    split = MapSet(
        np.stack([first.maps[i]["image"] for i in by_name])[..., None], np.stack([first.masks[i] for i in by_name])
    )
    half = _halves(first, by_name, settings.seed)
    halves = (half, ~half)
    made = [_half(maps, split, own, prior.whole if prior else np.zeros(size, np.float32)) for own in halves]
    patients = [first.method.entries[i].patient for i in by_name]
    everything = maps | localisation.baseline_maps(split.images, prior.whole if prior else np.zeros(size))
    return {
        row: _scores(row, made, everything[row], split.targets, halves, patients, settings)
        for row in made[0]
        if prior or row != PRIOR
    }


def _half(
    maps: Mapping[str, np.ndarray], split: MapSet, test: np.ndarray, prior: np.ndarray
) -> dict[str, dict[str, float]]:
    def of(chosen: np.ndarray) -> tuple[dict[str, np.ndarray], MapSet]:
        return {row: own[chosen] for row, own in maps.items()}, MapSet(split.images[chosen], split.targets[chosen])

    return localisation.localisation_table(*of(test), *of(~test), prior)


def _scores(
    row: str,
    made: Sequence[Mapping[str, Mapping[str, float]]],
    maps: np.ndarray,
    targets: np.ndarray,
    halves: Sequence[np.ndarray],
    patients: Sequence[str | None],
    settings: Settings,
) -> dict[str, Score]:
    """Both halves of a row averaged, with intervals."""
    statistics = map_statistics.statistics_of(maps, targets, halves, [table[row]["threshold"] for table in made])
    drawn = image_statistics.scores(statistics, patients, settings)
    lesions, found = targets.any((1, 2)), {}
    for name in BETTER:
        over, counted = np.ones(len(lesions), bool), "images"
        if name in map_statistics.OF_LESIONS:
            over, counted = lesions, "with boxes"
        elif name in map_statistics.OF_HEALTHY:
            over, counted = ~lesions, "without boxes"
        counts = [int((half & over).sum()) for half in halves]
        known = [(table[row][name], count) for table, count in zip(made, counts, strict=True) if name in table[row]]
        total = sum(count for _, count in known)
        if total and name in drawn:
            mean = sum(value * count for value, count in known) / total
            extras = {**drawn[name].extras, "n": total, "counted": counted}
            found[name] = dataclasses.replace(drawn[name], value=mean, extras=extras)
    return found


def _units(measured: Measured) -> dict[int, str | int]:
    """Patient of each image with known boxes; the image itself unless all patients are known."""
    patients = measured.method.column("patient")
    known = all(patients[i] is not None for i in measured.maps)
    return {i: patients[i] if known else measured.method.entries[i].name for i in measured.maps}


def _halves(measured: Measured, order: Sequence[int], seed: int) -> np.ndarray:
    """Which images, in ``order``, are in the first half: patients with lesions are dealt in turns, then the others."""
    units, rng = _units(measured), np.random.default_rng((seed, 5))
    ill = {units[i] for i in order if measured.masks[i].any()}
    first = set()
    for kind in (sorted(ill, key=str), sorted(set(units.values()) - ill, key=str)):
        dealt = [kind[i] for i in rng.permutation(len(kind))]
        first |= set(dealt[::2])
    return np.array([units[i] in first for i in order])
