"""Folders of counterfactuals joined with severity scores: the images that have both, in one order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import Bool

from medgen_jax.core.errors import UserError
from medgen_jax.data import counterfactual_folders
from medgen_jax.data.counterfactual_folders import CounterfactualFolder, Entry
from medgen_jax.data.severity_scores import SeverityScores
from medgen_jax.metrics import severity

#: What of a folder scores are told from: the residual, what of it exceeds the control's, and the latter alone.
KINDS = ("residual", "residual beyond control", "control alone")
_NOBODY = (
    "neither the table of scores nor the folders say whose the images are: each is taken for a patient of its own, and "
    "where patients have several the numbers flatter; add a column patient_id"
)


@dataclass(frozen=True)
class ScoredResiduals:
    """Scored images that every folder has.

    Attributes:
      folders: by the name under which they are reported.
      entries: of each folder, in the order of the images.
      scores: (n,).
      patients: of each image.
      readers: (2, n) scores by two readers, or None.
      held_out: the patients on whom everything is tested.
      limits: lowest and highest score.
      warnings: sentences.
    """

    folders: dict[str, CounterfactualFolder]
    entries: dict[str, list[Entry]]
    scores: np.ndarray
    patients: tuple[str, ...] = field(repr=False)
    readers: np.ndarray | None
    held_out: frozenset[str] = field(repr=False)
    limits: tuple[float, float]
    warnings: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.scores)

    @property
    def predictors(self) -> dict[str, dict[str, str]]:
        """Folder -> kind -> what it is called in the results; one folder alone needs no name."""
        several = len(self.folders) > 1
        return {name: {kind: f"{name} {kind}" if several else kind for kind in KINDS} for name in self.folders}

    @property
    def first(self) -> tuple[CounterfactualFolder, list[Entry]]:
        """The first folder, whose images are shown and encoded, and its entries."""
        name = next(iter(self.folders))
        return self.folders[name], self.entries[name]

    @cached_property
    def testing(self) -> Bool[np.ndarray, "n"]:
        """Which images are of held-out patients."""
        return severity.is_held_out(self.patients, self.held_out)

    def patients_of(self, chosen: Bool[np.ndarray, "n"]) -> list[str]:
        """Patient of each chosen image."""
        return [patient for patient, one in zip(self.patients, chosen, strict=True) if one]

    @property
    def digest(self) -> str:
        """sha256 of scores, patients and who is held out."""
        rows = zip(self.scores.tolist(), self.patients, self.testing.tolist(), strict=True)
        return hashlib.sha256("\n".join(map(repr, rows)).encode()).hexdigest()


def join(
    paths: Sequence[str | Path],
    table: SeverityScores,
    *,
    limits: tuple[float, float] | None = None,
    held_out: float = 0.3,
    seed: int = 0,
) -> ScoredResiduals:
    """Read the folders' tables and find the images that are scored and in all of them; no array is read.

    Args:
      paths: folders of counterfactuals.
      table: the scores.
      limits: of the scores. None: those of the table, or else the extremes of the scores that are learned from.
      held_out: share of the patients.
      seed: of the drawing of these.

    Raises:
      UserError: a folder that is none or given twice, without a scored image, or with two entries of one; no image in
        all of them; too few patients; a score outside the limits.
    """
    folders = _named([counterfactual_folders.read(path) for path in paths])
    found = {name: _by_place(folder, table) for name, folder in folders.items()}
    places = [place for place in range(len(table)) if all(place in own for own in found.values())]
    if not places:
        raise UserError(f"--residuals: no scored image is in all of {', '.join(folders)}; give folders of one set")
    entries = {name: [own[place] for place in places] for name, own in found.items()}
    patients, said = _patients(table, places, next(iter(entries.values())))
    most = max(len(folder.entries) for folder in folders.values())
    if len(places) < max(len(table), most):
        said.append(f"{len(table)} images are scored and {most} in a folder: the {len(places)} that are both count")
    chosen = severity.held_out_patients(patients, held_out, seed)
    scores = table.scores[places]
    learned = scores[~severity.is_held_out(patients, chosen)]
    readers = None if table.readers is None else table.readers[:, places]
    limits = _checked(limits or table.limits, scores) or (float(learned.min()), float(learned.max()))
    return ScoredResiduals(folders, entries, scores, patients, readers, chosen, limits, tuple(said))


def _named(folders: Sequence[CounterfactualFolder]) -> dict[str, CounterfactualFolder]:
    """Folders by their name, or with that of the folder above where names repeat."""
    parts = [folder.path.absolute().parts for folder in folders]
    if len(set(parts)) < len(parts):
        raise UserError("--residuals: the same folder is given twice")
    depth = next(k for k in range(1, max(map(len, parts)) + 1) if len({part[-k:] for part in parts}) == len(parts))
    return {"/".join(part[-depth:]): folder for part, folder in zip(parts, folders, strict=True)}


def _by_place(folder: CounterfactualFolder, table: SeverityScores) -> dict[int, Entry]:
    """Place among the scores -> entry."""
    places, found = table.places, {}
    for entry in folder.entries:
        place = places.get(entry.name)
        if place in found:
            raise UserError(f"{folder.path}: {entry.name} and {found[place].name} are one image in the table of scores")
        if place is not None:
            found[place] = entry
    if not found:
        own = repr(folder.entries[0].name) if folder.entries else "none"
        raise UserError(
            f"--residuals {folder.path}: none of its images ({own} is the first) has a score; images are found by "
            f"their file names, and the table of scores has {table.names[0]!r}"
        )
    return found


def _patients(table: SeverityScores, places: list[int], entries: list[Entry]) -> tuple[tuple[str, ...], list[str]]:
    if table.patients:
        return tuple(table.patients[place] for place in places), []
    if all(entry.patient for entry in entries):
        return tuple(entry.patient for entry in entries), []
    return tuple(entry.name for entry in entries), [_NOBODY]


def _checked(limits: tuple[float, float] | None, scores: np.ndarray) -> tuple[float, float] | None:
    if limits is None:
        return None
    low, high = limits
    if not low < high:
        raise UserError(f"--range {low:g},{high:g}: the first number must be the smaller one")
    outside = scores[(scores < low) | (scores > high)]
    if len(outside):
        raise UserError(f"--range {low:g},{high:g}: {len(outside)} scores lie outside, such as {outside[0]:g}")
    return limits
