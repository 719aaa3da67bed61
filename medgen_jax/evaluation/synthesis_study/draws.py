"""Images drawn on the devices and measured as they come; no file is written, and a spread of them is kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from medgen_jax.core.streams import LABEL
from medgen_jax.counterfactuals.inputs import levels_of
from medgen_jax.engine import restore
from medgen_jax.evaluation.features import Extractor, FeatureRows
from medgen_jax.evaluation.folders import eight_bit
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.synthesis_study.diversity import GROUP, GROUPS, Diversity, DiversityRows
from medgen_jax.evaluation.synthesis_study.real import spread
from medgen_jax.evaluation.synthesis_study.subjects import Subject
from medgen_jax.sampler_inputs import IMAGE
from medgen_jax.synthesis import drawing, values
from medgen_jax.synthesis.runs import NUMBER

#: Images of a set that are kept for pictures, classifiers and the audit.
KEPT = 1000


class Made(NamedTuple):
    """One set of drawn images.

    Attributes:
      source, target: classes; None where there is none.
      features: (m, d), those of one source following each other.
      kept: (k, h, w, c) uint8, those of ``places``.
      places: (k,) of the kept images in the set, evenly spread over it.
      diversity: (g,) of each source, or of some groups; empty where it is not measured.
    """

    source: str | None
    target: str | None
    features: np.ndarray
    kept: np.ndarray
    places: np.ndarray
    diversity: np.ndarray

    @property
    def per_source(self) -> int:
        """Images that are made of one source; 1 where they are made of noise."""
        return GROUP if self.source else 1


class Artist:
    """A run's sampler with its weights, compiled at its first set.

    Args:
      subject: the run.
      count: images of each set that is drawn out of noise.
      settings: seed and batch.
    """

    def __init__(self, subject: Subject, count: int, settings: Settings):
        self._subject, self._count, self._settings = subject, count, settings
        self._program: drawing.Program | None = None

    def size(self, source: str | None) -> int:
        """Images of a set made of the images of a class, or of noise."""
        return GROUP * len(self._subject.sources[source]) if source else self._count

    def images(self, source: str | None, target: str | None) -> Iterator[np.ndarray]:
        """The images of a set in order, (h, w, c) uint8.

        Raises:
          UserError: an image that is not finite, or a batch that does not fit into memory.
        """
        if self._program is None:
            self._program = self._compiled(next(self._rows(source, target)))
        for _, levels in self._program.images((None, row) for row in self._rows(source, target)):
            yield levels

    def _rows(self, source: str | None, target: str | None) -> Iterator[dict[str, np.ndarray]]:
        """What differs from image to image; every image of the run has a number of its own."""
        sets = self._subject.sets()
        first = sum(self.size(before) for before, _ in sets[: sets.index((source, target))])
        told = {} if target is None else {LABEL: np.int32(self._subject.label(target))}
        if source is None:
            for number in range(first, first + self._count):
                yield {NUMBER: np.int32(number), **told}
            return
        for i, image in enumerate(self._subject.sources[source].images()):
            levels = levels_of(image)
            for number in range(first + GROUP * i, first + GROUP * (i + 1)):
                yield {NUMBER: np.int32(number), IMAGE: levels, **told}

    def _compiled(self, row: Mapping[str, np.ndarray]) -> drawing.Program:
        run = self._subject.run
        constants = values.constants_of({}, run.inputs, run.config.data, run.sampler)
        draw = drawing.make_draw(run.system.samplers[run.sampler], run.inputs, constants, np.uint8)
        variables = restore.inference_variables(run.system, self._subject.point.folder)
        smallest = min(self.size(source) for source, _ in self._subject.sets())
        seed, batch = self._settings.seed, self._settings.batch
        return drawing.compile_batch(draw, variables, row, seed, count=smallest, batch=batch)


def draw(
    artist: Artist, source: str | None, target: str | None, extractor: Extractor, diversity: Diversity | None, name: str
) -> Made:
    """Draw a set, and measure it.

    Args:
      artist: of the run.
      source, target: classes, one of `Subject.sets`.
      extractor: makes the features.
      diversity: measures the groups; None for none.
      name: for the progress bar.
    """
    count = artist.size(source)
    rows, kept, wanted = FeatureRows(extractor), [], spread(count, KEPT)
    groups = DiversityRows(diversity, None if source else GROUPS) if diversity else None
    waiting: list[np.ndarray] = []
    images = tqdm(artist.images(source, target), total=count, unit="image", desc=name, disable=None)
    for place, image in enumerate(images):
        waiting.append(eight_bit(image))
        if len(waiting) == extractor.batch or place == count - 1:
            rows.add(range(place + 1 - len(waiting), place + 1), np.stack(waiting))
            waiting = []
        if groups:
            groups.add(image)
        if len(kept) < len(wanted) and place == wanted[len(kept)]:
            kept.append(image)
    found = groups.array() if groups else np.zeros(0)
    return Made(source, target, rows.array(), np.stack(kept), np.array(wanted), found)
