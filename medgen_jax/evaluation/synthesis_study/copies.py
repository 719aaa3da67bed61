"""Do drawn images copy training images? The audit of `medgen_jax.evaluation.memorisation` for each run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from medgen_jax.evaluation import memorisation
from medgen_jax.evaluation.features import Extractor
from medgen_jax.evaluation.memorisation import Folders, Report
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.synthesis_study.draws import Made
from medgen_jax.evaluation.synthesis_study.real import RealSet
from medgen_jax.evaluation.synthesis_study.subjects import Subject


class Several:
    """Images of several sets one after the other, as the audit takes a folder.

    Args:
      sets: each has a length and ``image(index)``.
    """

    def __init__(self, sets: Sequence[RealSet | Kept]):
        self._sets = tuple(sets)

    def __len__(self) -> int:
        return sum(map(len, self._sets))

    def image(self, index: int) -> np.ndarray:
        """One image (h, w, c)."""
        for own in self._sets:
            if index < len(own):
                return own.image(index)
            index -= len(own)
        raise IndexError(index)


class Kept:
    """The images that were kept of a drawn set."""

    def __init__(self, made: Made):
        self._images = made.kept

    def __len__(self) -> int:
        return len(self._images)

    def image(self, index: int) -> np.ndarray:
        """One image (h, w, c) uint8."""
        return self._images[index]


def audit(
    subject: Subject,
    made: Sequence[Made],
    features: Callable[[RealSet], np.ndarray],
    extractor: Extractor,
    settings: Settings,
    say: Callable[[str], None],
) -> tuple[Report, Folders]:
    """Compare the kept images of a run with those it was trained on and with images of other patients.

    Args:
      subject: the run; its unseen images must be `Subject.independent`.
      made: all of its sets.
      features: of a set of real images.
      extractor: that made them.
      settings: of the evaluation.
      say: where messages go.

    Returns:
      the audit's report, and the images that it is about.

    Raises:
      UserError: as `medgen_jax.evaluation.memorisation.examine`, such as for a patient on both sides.
    """
    training, unseen = (list(side.values()) for side in (subject.training, subject.unseen))
    sides = Several(training), Several(unseen), Several([Kept(each) for each in made])
    rows = [
        np.concatenate([features(real) for real in training]),
        np.concatenate([features(real) for real in unseen]),
        np.concatenate([each.features[each.places] for each in made]),
    ]
    known = dict(zip(map(id, sides), rows, strict=True))
    folders = Folders(*sides, _patients(training, unseen))
    return memorisation.examine(folders, extractor, lambda side: known[id(side)], settings, say), folders


def _patients(training: Sequence[RealSet], unseen: Sequence[RealSet]) -> tuple[list[int], list[int]] | None:
    """Patients as numbers, so that no identifier goes any further; None where some are not known."""
    numbers: dict[str, int] = {}
    sides: list[list[int]] = []
    for sets in (training, unseen):
        if any(len(real.groups) != len(real) for real in sets):
            return None
        sides.append([numbers.setdefault(group, len(numbers)) for real in sets for group in real.groups])
    return sides[0], sides[1]
