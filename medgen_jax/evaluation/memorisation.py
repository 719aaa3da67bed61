"""Do generated images copy training images? `medgen_jax.metrics.memorisation.audit` on three folders.

The audit looks at pixels always, and at the features of the pretrained network where another metric loads it anyway.
What each measure is able to see is found by planting copies, also altered ones, so the numbers come with their power.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation.devices import parts
from medgen_jax.evaluation.features import Extractor, FeatureRows
from medgen_jax.evaluation.folders import ImageSet, eight_bit
from medgen_jax.evaluation.scores import Score
from medgen_jax.evaluation.settings import Settings
from medgen_jax.metrics.memorisation.audit import audit
from medgen_jax.metrics.memorisation.planting import COPIES, alterations
from medgen_jax.metrics.memorisation.sets import Sets
from medgen_jax.metrics.memorisation.thumbnails import pixel_features, pixel_variants
from medgen_jax.viz.scores import Case

Report = dict[str, Any]
PIXELS, NETWORK = "pixels", "network"


@dataclass(frozen=True)
class Folders:
    """The three sets of an audit.

    Attributes:
      train: images that the generator was trained on.
      held_out: images of other patients.
      generated: what is judged.
      patients: number of the patient of each training and each held-out image; None where that is unknown.
    """

    train: ImageSet
    held_out: ImageSet
    generated: ImageSet
    patients: tuple[list[int], list[int]] | None

    @classmethod
    def open(
        cls, train: str | Path, held_out: str | Path, generated: ImageSet, patients: str | Path | None = None
    ) -> Folders:
        """List the folders and read who is who.

        Args:
          train, held_out: folders.
          generated: listed already.
          patients: CSV with the columns ``file`` and ``patient`` about the images of both folders.

        Raises:
          UserError: for folders and tables that cannot be used; too few images.
        """
        sides = ImageSet.open("--train", train), ImageSet.open("--held_out", held_out)
        for side in sides:
            if len(side) < 2:
                raise UserError(f"{side.flag} {side.folder}: {len(side)} image; memorisation needs at least 2")
        return cls(*sides, generated, _read_patients(Path(patients).expanduser(), sides) if patients else None)


def _read_patients(path: Path, sides: Sequence[ImageSet]) -> tuple[list[int], list[int]]:
    """Patients as numbers in order of appearance, so that no identifier goes any further."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--patients {path}: cannot be read ({error})") from error
    if not rows or not {"file", "patient"} <= set(rows[0]):
        raise UserError(f"--patients {path}: must be a CSV with the columns file and patient")
    known = {Path(row["file"]).stem: row["patient"] for row in rows if row["file"]}
    missing = [name for side in sides for name in side.names if not known.get(name)]
    if missing:
        raise UserError(f"--patients {path}: says nothing of {len(missing)} images of --train and --held_out")
    numbers: dict[str, int] = {}
    return tuple([numbers.setdefault(known[name], len(numbers)) for name in side.names] for side in sides)


def examine(
    folders: Folders,
    extractor: Extractor | None,
    features: Callable[[ImageSet], np.ndarray],
    settings: Settings,
    say: Callable[[str], None],
) -> Report:
    """The audit's report, without anything that names a patient.

    Args:
      folders: the three sets.
      extractor: a network whose features are looked at as well.
      features: of a folder, through the cache.
      settings: of the evaluation.
      say: where messages go.

    Raises:
      UserError: as `medgen_jax.metrics.memorisation.audit.audit`, such as for a patient on both sides.
    """
    say("memorisation: planting copies to learn what can be seen ...")
    altered = [_altered(folders.train.image(i), i, settings.seed) for i in range(min(COPIES, len(folders.train)))]
    kinds = altered[0]
    pixels = [_thumbnails(map(side.image, range(len(side)))) for side in _sides(folders)]
    copies = {kind: _thumbnails(made[kind] for made in altered) for kind in kinds}
    train_patients, held_out_patients = folders.patients or (None, None)
    spaces = {PIXELS: Sets(*pixels, train_patients, held_out_patients, pixel_variants(), copies)}
    if extractor:
        rows = {kind: _network_features(extractor, [made[kind] for made in altered]) for kind in kinds}
        sets = [features(side) for side in _sides(folders)]
        spaces[NETWORK] = Sets(*sets, train_patients, held_out_patients, altered=rows)
    report = audit(spaces, seed=settings.seed, pairs=max(settings.pictures, 1))
    for space in report["spaces"].values():
        for pair in space["closest_pairs"]:
            pair.pop("train_patient", None)
    return report


def scores(report: Report) -> dict[str, Score]:
    """One number for each space: how much nearer generated images lie to training images than to held-out ones."""
    found = {}
    for space, content in report["spaces"].items():
        measure = content["measures"]["distance_ratio"]
        ends = measure["ratio_interval"]
        extras = {name: measure[name] for name in ("expected_ratio", "p_value")} | {"verdict": content["verdict"]}
        method = f"{ends['method']} over generated images" if ends else "none"
        interval, level = ((ends["low"], ends["high"]), ends["level"]) if ends else (None, None)
        doubts = (f"memorisation by {space}: {note}" for note in content["notes"])
        warnings = (f"memorisation: {report['verdict']}", *doubts)
        found[f"memorisation_{space}"] = Score(measure["ratio"], interval, method, extras, warnings, level)
    return found


def cases(report: Report, folders: Folders, settings: Settings) -> list[Case]:
    """The generated images that look most like one training image, beside it."""
    found = []
    for space, content in report["spaces"].items():
        for pair in content["closest_pairs"][: settings.pictures]:
            suspect = ", suspect" if pair["suspect"] else ""
            caption = f"generated {pair['generated']}, training {pair['train']}: ratio {pair['ratio']:.3g}{suspect}"
            sides = (("generated", folders.generated, pair["generated"]), ("training", folders.train, pair["train"]))
            pictures = [(title, eight_bit(side.image(index))) for title, side, index in sides]
            found.append(Case(f"Closest to a training image, by {space}", caption, pictures))
    return found


def _thumbnails(images: Iterable[np.ndarray]) -> np.ndarray:
    return np.concatenate([pixel_features(image[None]) for image in images])


def _sides(folders: Folders) -> tuple[ImageSet, ImageSet, ImageSet]:
    return folders.train, folders.held_out, folders.generated


def _altered(image: np.ndarray, index: int, seed: int) -> Mapping[str, np.ndarray]:
    """Altered copies of one image as 8-bit RGB, by the kind of alteration."""
    unit = eight_bit(image).astype(np.float32)[None] / 127.5 - 1
    made = alterations(unit, seed=seed + index)
    return {kind: np.rint((copy[0] + 1) * 127.5).astype(np.uint8) for kind, copy in made.items()}


def _network_features(extractor: Extractor, images: Sequence[np.ndarray]) -> np.ndarray:
    rows = FeatureRows(extractor)
    shapes: dict[tuple[int, ...], list[int]] = {}
    for index, image in enumerate(images):
        shapes.setdefault(image.shape, []).append(index)
    for group in shapes.values():
        for places in parts(group, rows.batch):
            rows.add(places, np.stack([images[i] for i in places]))
    return rows.array()
