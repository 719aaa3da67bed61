"""The three sets of images that a search for memorised training images compares, and what it asks of each image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Features
from medgen_jax.metrics.features import as_features
from medgen_jax.metrics.memorisation import data_copying
from medgen_jax.metrics.memorisation.neighbours import nearest

MISSED = 1e-6  # chance that the neighbours kept of an image all belong to one set
DEEPEST = 512  # neighbours kept at most


@dataclass(frozen=True, eq=False)
class Sets:
    """Features of three sets of images, in one feature space.

    Attributes:
      train: (n, d), of the images the generator was trained on.
      held_out: (m, d), of images of other patients, treated alike.
      generated: (g, d); None to ask for the power of the measures before anything is generated.
      train_patients: (n,) patient of each training image, anything hashable.
      held_out_patients: (m,), likewise; None for both makes every image its own patient.
      variants: of `thumbnails.pixel_variants` if the features are thumbnails: alterations under which a
        copy shall count as near.
      altered: features (a, d) of altered copies of training images, by the name of the alteration, row
        i made from training image i; planted in `medgen_jax.metrics.memorisation.planting`.
    """

    train: Features
    held_out: Features
    generated: Features | None = None
    train_patients: Sequence[Any] | None = None
    held_out_patients: Sequence[Any] | None = None
    variants: np.ndarray | None = None
    altered: Mapping[str, Features] = field(default_factory=dict)


class Reference(NamedTuple):
    """Real images, prepared for `examine`.

    Attributes:
      train: (n, d).
      held_out: (m, d).
      patient: (n + m,) number of the patient of each real image, training images first.
      variants: see `Sets`.
      spacing: (n,) distance of each training image to the nearest other.
      cells: regions of C_T.
      depth: how many nearest real images are kept of each image.
    """

    train: np.ndarray
    held_out: np.ndarray
    patient: np.ndarray
    variants: np.ndarray | None
    spacing: np.ndarray
    cells: data_copying.Cells
    depth: int

    @property
    def is_train(self) -> np.ndarray:
        return np.arange(len(self.patient)) < len(self.train)


class Facts(NamedTuple):
    """What the measures know of n images.

    Attributes:
      distance: (n,) to the nearest training image.
      source: (n,) index of that training image.
      authentic: (n,) whether ``source`` has another training image nearer than ``distance``.
      cell: (n,) region of C_T.
      cell_distance: (n,) to the nearest training image in the region, in C_T's own space.
      neighbour: (n, depth) nearest real images, counted through training and held-out images.
      neighbour_distance: (n, depth), ascending.
    """

    distance: np.ndarray
    source: np.ndarray
    authentic: np.ndarray
    cell: np.ndarray
    cell_distance: np.ndarray
    neighbour: np.ndarray
    neighbour_distance: np.ndarray

    def take(self, rows: np.ndarray) -> Facts:
        """Those of some of the images, by index or mask."""
        return Facts(*(array[rows] for array in self))

    def joined(self, other: Facts) -> Facts:
        """Those of more images."""
        return Facts(*map(np.concatenate, zip(self, other, strict=True)))


def check(sets: Sets, *, name: str = "memorisation") -> Sets:
    """The same with float64 arrays.

    Raises:
      UserError: naming ``name`` and the set, when there are fewer than 2 training or held-out images or no
        generated ones, a feature is not finite, the sets have different d, lengths do not fit, a patient
        is in both sets, or there are more altered copies of a kind than training images.
    """
    train = as_features(f"{name}: training features", sets.train)
    arrays = {"held-out": as_features(f"{name}: held-out features", sets.held_out)}
    if sets.generated is not None:
        arrays["generated"] = as_features(f"{name}: generated features", sets.generated, 1)
    altered = {kind: as_features(f"{name}: {kind} copies", rows, 1) for kind, rows in sets.altered.items()}
    for kind, rows in {**arrays, **altered}.items():
        if rows.shape[1] != train.shape[1]:
            raise UserError(
                f"{name}: {kind} features have {rows.shape[1]} numbers each, training features {train.shape[1]}; "
                "take all from one network and layer"
            )
    for kind, rows in altered.items():
        if kind in ("none", "exact") or len(rows) > len(train):
            raise UserError(
                f"{name}: {len(rows)} copies called {kind!r} of {len(train)} training images; row i must be made "
                "from training image i, and none and exact are names of the table's own"
            )
    _patients(sets, name, len(train), len(arrays["held-out"]))
    return replace(sets, train=train, held_out=arrays["held-out"], generated=arrays.get("generated"), altered=altered)


def prepare(sets: Sets, *, name: str = "memorisation", cells: int = data_copying.CELLS, seed: int = 0) -> Reference:
    """What depends on the real images alone.

    Raises:
      UserError: as `check` does.
    """
    sets = check(sets, name=name)
    train, held_out = sets.train, sets.held_out
    patient = _patients(sets, name, len(train), len(held_out))
    rarer = min(len(train), max(1, len(held_out) // 2)) / len(patient)
    depth = min(len(patient), DEEPEST, math.ceil(math.log(MISSED) / math.log1p(-rarer)))
    spacing = nearest(train, train, variants=sets.variants, skip_self=True).distance[:, 0]
    regions = data_copying.fit_cells(train, cells=cells, seed=seed)
    return Reference(train, held_out, patient, sets.variants, spacing, regions, depth)


def examine(features: Features, reference: Reference, *, name: str = "features") -> Facts:
    """`Facts` of images with features (n, d), n > 0.

    Raises:
      UserError: naming ``name``, when a feature is not finite or d is not that of the real images.
    """
    features = as_features(name, features, 1)
    if features.shape[1] != reference.train.shape[1]:
        raise UserError(
            f"{name} have {features.shape[1]} numbers each, training features {reference.train.shape[1]}; "
            "take both from one network and layer"
        )
    sides = (reference.train, reference.held_out)
    found = [nearest(features, side, k=min(len(side), reference.depth), variants=reference.variants) for side in sides]
    distance, source = found[0].distance[:, 0], found[0].index[:, 0]
    neighbour = np.concatenate([found[0].index, found[1].index + len(reference.train)], axis=1)
    near = np.concatenate([side.distance for side in found], axis=1)
    order = np.argsort(near, axis=1, kind="stable")[:, : reference.depth]
    cell, cell_distance = data_copying.place(features, reference.cells)
    return Facts(
        distance,
        source,
        reference.spacing[source] < distance,
        cell,
        cell_distance,
        np.take_along_axis(neighbour, order, axis=1),
        np.take_along_axis(near, order, axis=1),
    )


def _patients(sets: Sets, name: str, train: int, held_out: int) -> np.ndarray:
    """A number for every patient, (train + held_out,)."""
    given = {"training": (sets.train_patients, train), "held-out": (sets.held_out_patients, held_out)}
    if sets.train_patients is None and sets.held_out_patients is None:
        return np.arange(train + held_out)
    sides = []
    for side, (patients, count) in given.items():
        if patients is None:
            raise UserError(f"{name}: patients of the {side} images are missing; give both sets' or neither's")
        patients = list(patients)
        if len(patients) != count:
            raise UserError(f"{name}: {len(patients)} patients for {count} {side} images; one for each is needed")
        empty = sum(p is None or p == "" or p != p for p in patients)
        if empty:
            raise UserError(f"{name}: {empty} {side} images have no patient; leave them out or name their patients")
        sides.append(patients)
    shared = sorted(set(sides[0]) & set(sides[1]), key=str)
    if shared:
        raise UserError(
            f"{name}: {len(shared)} patients are in both the training and the held-out set, for instance "
            f"{shared[0]!r}; split by patient, or every measure takes what they share for the rule"
        )
    number = {patient: i for i, patient in enumerate(dict.fromkeys([*sides[0], *sides[1]]))}
    return np.array([number[patient] for patient in [*sides[0], *sides[1]]])
