"""The paper's figure 2 as one picture, and the judge's maps: a band for every class."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from medgen_jax.evaluation.folders import eight_bit
from medgen_jax.evaluation.synthesis_study.draws import Made
from medgen_jax.evaluation.synthesis_study.real import RealSet, spread
from medgen_jax.evaluation.synthesis_study.subjects import Subject
from medgen_jax.viz.counterfactuals import overlay
from medgen_jax.viz.grids import BACKGROUND, grid

REAL = "real"
#: Images of a column, in each band.
_ROWS = 2
_LEAST = 128  # pixels of the longest side, to which smaller pictures are enlarged
Pictures = list[tuple[str, np.ndarray]]


def samples(subjects: Sequence[Subject], made: Mapping[str, Sequence[Made]]) -> dict[str, list[Pictures]]:
    """Class -> rows of titled images: one of each run, left to right as in the paper's table, and a real one.

    Args:
      subjects: the runs.
      made: their sets by name. Images of runs that are told no class are shown with every class, each once.
    """
    first = subjects[-1]
    bands: dict[str, list[Pictures]] = {}
    for place, name in enumerate(first.classes):
        columns = [(_title(subject, subjects), _of(subject, made[subject.name], name, place)) for subject in subjects]
        columns.append((REAL, _real(first.training[name])))
        bands[name] = [
            [(title, images[i]) for title, images in columns] for i in range(min(len(x) for _, x in columns))
        ]
    return bands


def maps(looked: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]]) -> list[Pictures]:
    """Rows of titled images, each beside its map: warm where it speaks for the class, cold where against it.

    Args:
      looked: by title, images (h, w, 3) uint8 and raw maps (h, w); each map is scaled by its own largest value, so
        that strengths of two maps cannot be compared.
    """
    rows = []
    for i in range(min(map(len, looked.values()))):
        row = []
        for title, pictures in looked.items():
            image, found = pictures[i]
            limit = float(np.abs(found).max()) or 1.0
            row += [(title, image), ("map", overlay(image / 127.5 - 1, found, limit))]
        rows.append(row)
    return rows


def picture(bands: Mapping[str, Sequence[Pictures]]) -> np.ndarray:
    """All bands as one picture, each under the name of its class; uint8 (h, w, 3)."""
    side = max(_LEAST, *(image.shape[0] for rows in bands.values() for row in rows for _, image in row))
    parts = []
    for name, rows in bands.items():
        titles = [_ascii(title) for title, _ in rows[0]]
        strip = grid([[enlarged(image, side) for _, image in row] for row in rows], titles)
        parts += [[grid([[np.full((1, strip.shape[1], 3), BACKGROUND, np.uint8)]], [_ascii(name)])], [strip]]
    return grid(parts)


def enlarged(image: np.ndarray, side: int) -> np.ndarray:
    """The image by the largest whole factor that keeps it within ``side`` pixels."""
    factor = max(1, side // image.shape[0])
    return image.repeat(factor, 0).repeat(factor, 1)


def _title(subject: Subject, subjects: Sequence[Subject]) -> str:
    alone = sum(other.title == subject.title for other in subjects) == 1
    return subject.title if alone else f"{subject.title}, {subject.name}"


def _of(subject: Subject, made: Sequence[Made], name: str, place: int) -> list[np.ndarray]:
    """Images of a class, as many from each set as from the next; of a run without classes the next ones."""
    if not subject.conditional:
        return [made[0].kept[i % len(made[0].kept)] for i in range(_ROWS * place, _ROWS * (place + 1))]
    own = [each for each in made if each.target == name]
    return [own[i % len(own)].kept[i // len(own)] for i in range(_ROWS)]


def _real(images: RealSet) -> list[np.ndarray]:
    return [eight_bit(image) for image in images.images(spread(len(images), _ROWS))]


def _ascii(text: str) -> str:
    """What the built-in font draws."""
    return text.encode("ascii", "replace").decode()
