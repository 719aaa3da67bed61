"""Which images of a survey are worth a look, as small pictures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data.inspection.findings import Finding, Ref
from medgen_jax.data.inspection.measures import quantile
from medgen_jax.data.inspection.survey import Surveyed, evenly

#: Longer side of a picture, and how many there are at most, in all and under one heading.
SIDE, MOST, MOST_EACH = 160, 60, 12
#: Rule -> heading of the images it found.
_HEADINGS = {
    "copies across splits": "The same image in two splits",
    "similar across splits": "Similar images in two splits",
    "copies across columns": "The same image in two columns",
    "copies": "The same image twice in a split",
    "blank": "Nearly constant",
}


class Picture(NamedTuple):
    """Images side by side under a heading.

    Attributes:
      heading: what is shown.
      captions: of each image.
      images: uint8 (h, w, 1 or 3).
    """

    heading: str
    captions: tuple[str, ...]
    images: tuple[np.ndarray, ...]


def choose(found: Sequence[Surveyed], findings: Sequence[Finding]) -> list[Picture]:
    """What the rules found, then the extremes, then examples of every column and class; at most `MOST` images."""
    pictures: list[Picture] = []
    left = MOST
    spans = [_span(one) for one in found]
    for heading, refs in _wanted(found, findings):
        if len(refs) > left:
            continue
        if shown := _picture(heading, refs, found, spans):
            pictures.append(shown)
            left -= len(refs)
    return pictures


def thumbnail(image: np.ndarray, low: int, high: int) -> np.ndarray:
    """An HWC image brought near `SIDE` by a whole factor, levels from ``low`` to ``high`` spread over ``uint8``."""
    if (times := SIDE // max(image.shape[:2])) > 1:
        image = image.repeat(times, 0).repeat(times, 1)
    factor = -(-max(image.shape[:2]) // SIDE)
    height, width = (max(1, length // factor) for length in image.shape[:2])
    rows, columns = (min(factor, length) for length in image.shape[:2])
    blocks = image[: height * rows, : width * columns].reshape(height, rows, width, columns, -1)
    levels = (blocks.mean((1, 3)) - low) * (255 / max(1, high - low))
    return np.rint(np.clip(levels, 0, 255)).astype(np.uint8)


def _wanted(found: Sequence[Surveyed], findings: Sequence[Finding]) -> Iterator[tuple[str, tuple[Ref, ...]]]:
    for code, heading in _HEADINGS.items():
        groups = [refs for finding in findings if finding.code == code for refs in finding.images]
        size = max(map(len, groups), default=1)
        yield from ((heading, groups[place]) for place in evenly(len(groups), MOST_EACH // size))
    blank = {ref for finding in findings if finding.code == "blank" for refs in finding.images for ref in refs}
    usable = [[r for r in sorted(one.measures) if Ref(place, r) not in blank] for place, one in enumerate(found)]
    examples = [ref for place, one in enumerate(found) for ref in _examples(place, one, usable[place])]
    extremes = [ref for place, one in enumerate(found) for ref in _extremes(place, one, usable[place])]
    yield from (("Examples", (ref,)) for ref in (examples[i] for i in evenly(len(examples), 2 * MOST_EACH)))
    yield from (("Darkest and brightest", (ref,)) for ref in extremes[:MOST_EACH])


def _examples(place: int, one: Surveyed, records: Sequence[int]) -> list[Ref]:
    """One record of each class, or two where there are no classes."""
    label = next(iter(one.column.labels.values()), None)
    if label is None:
        return [Ref(place, records[i]) for i in evenly(len(records), 2)]
    firsts: dict[str, int] = {}
    for record in records:
        firsts.setdefault(label[record], record)
    return [Ref(place, record) for _, record in sorted(firsts.items())]


def _extremes(place: int, one: Surveyed, records: Sequence[int]) -> list[Ref]:
    """The darkest and the brightest image of a column, where it has several."""
    ordered = sorted(records, key=lambda record: (one.measures[record].mean, record))
    return [Ref(place, ordered[0]), Ref(place, ordered[-1])] if len(ordered) > 2 else []


def _span(one: Surveyed) -> Mapping[int, tuple[int, int]]:
    return {bits: (quantile(counts, 0.001), quantile(counts, 0.999)) for bits, counts in one.levels.items()}


def _picture(
    heading: str, refs: tuple[Ref, ...], found: Sequence[Surveyed], spans: Sequence[Mapping[int, tuple[int, int]]]
) -> Picture | None:
    images, captions = [], []
    for place, record in refs:
        one = found[place]
        try:
            image = one.column.read(record)
        except UserError:  # read a minute ago, and gone now
            return None
        images.append(thumbnail(image, *spans[place][one.headers[record].bits]))
        captions.append(_caption(one, record))
    return Picture(heading, tuple(captions), tuple(images))


def _caption(one: Surveyed, record: int) -> str:
    name, label = one.column.names[record], next(iter(one.column.labels.values()), None)
    called = name if name.startswith(one.column.split) else f"{one.column}: {name}"
    return called if label is None or f"/{label[record]}/" in name else f"{called} ({label[record]})"
