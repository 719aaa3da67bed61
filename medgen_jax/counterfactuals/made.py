"""What is made of an image, and what makes it: the same for every system."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from medgen_jax.counterfactuals.inputs import Case, Wanted, levels_of
from medgen_jax.data.counterfactual_folders import Arrays, Entry


@dataclass(frozen=True, eq=False)
class Taken:
    """An image as it was read.

    Attributes:
      case: what is known about it.
      image: float32 (size, size, c) in [-1, 1].
      sha256: of its levels and their type.
    """

    case: Case
    image: np.ndarray
    sha256: str


@dataclass(frozen=True, eq=False)
class Made:
    """A counterfactual.

    Attributes:
      arrays: of the image.
      source, target, depth, scale: as in `medgen_jax.data.counterfactual_folders.Entry`.
      numbers: those that only the maker knows.
      deviation: of the signed residual over several depths, (size, size, c); None of one depth.
    """

    arrays: Arrays
    source: Mapping[str, Any]
    target: Mapping[str, Any]
    depth: int | None = None
    scale: float | None = None
    numbers: Mapping[str, float] = field(default_factory=dict)
    deviation: np.ndarray | None = None


class Maker(Protocol):
    """Makes counterfactuals of images.

    Attributes:
      wanted: what it takes.
      settings: JSON types that say what it does; others make other counterfactuals.
    """

    wanted: Wanted
    settings: Mapping[str, Any]

    def ready(self, taken: Taken) -> bool:
        """Whether an image's encoding is kept already."""

    def notes(self) -> list[str]:
        """Sentences about what was kept and could not be used."""

    def make(self, batch: Sequence[Taken], size: int) -> list[Made]:
        """Counterfactuals of images that are all `ready`, or none; short batches are filled up to ``size``."""


def take(case: Case) -> Taken:
    """Decode an image."""
    image = case.read()
    digest = hashlib.sha256(f"{image.dtype} {image.shape}".encode() + np.ascontiguousarray(image).tobytes())
    return Taken(case, levels_of(image), digest.hexdigest())


def stack(batch: Sequence[Taken], size: int) -> np.ndarray:
    """(size, h, w, c): the images, the last one repeated, so that nothing recompiles."""
    return np.stack([batch[min(i, len(batch) - 1)].image for i in range(size)])


def fill(rows: Sequence[Any], size: int) -> list[Any]:
    """The rows, the last one repeated."""
    return [rows[min(i, len(rows) - 1)] for i in range(size)]


def entry(taken: Taken, made: Made) -> Entry:
    """What the scores say of an image."""
    case, arrays = taken.case, made.arrays
    absolute, lost = np.abs(arrays.residual), np.abs(arrays.control_residual)
    numbers = {
        "mean_absolute_residual": float(absolute.mean(dtype=np.float64) / 2),
        "mean_absolute_control": float(lost.mean(dtype=np.float64) / 2),
        "mean_absolute_subtracted": float(arrays.subtracted.mean(dtype=np.float64) / 2),
        "round_trip_rms": float(np.sqrt(np.square(lost).mean(dtype=np.float64))),
        "round_trip_max": float(lost.max()),
    }
    return Entry(
        case.name, case.label, case.view, case.patient, case.boxes, made.source, made.target, made.depth, made.scale,
        {**numbers, **made.numbers}, taken.sha256,
    )  # fmt: skip
