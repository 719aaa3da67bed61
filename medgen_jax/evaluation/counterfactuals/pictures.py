"""Pictures on the page of counterfactuals: what changed most and least, and images below and above a frequency."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import numpy as np

from medgen_jax.evaluation.counterfactuals.measures import Measured
from medgen_jax.evaluation.counterfactuals.statistics import ALL, groups_of
from medgen_jax.metrics.spectra import BANDS
from medgen_jax.ops import filters
from medgen_jax.viz.scores import Case

#: Where the two pictures of an image part, cycles per pixel: an edge of the bands of the table.
CUTOFF = BANDS[2]
#: Share of the values above that frequency whose sizes are told apart: few edges are much stronger than all else.
COVERED = 0.98
#: Nothing is shown more times as strong: rounding must not look like a finding.
STRONGEST = 128.0


def cases(measured: Sequence[Measured], count: int) -> list[Case]:
    """All pictures of the page; none where ``count`` is 0."""
    return [*filtered(measured), *examples(measured, count)] if count else []


def examples(measured: Sequence[Measured], count: int) -> list[Case]:
    """Of each folder the images that changed most and least, with residuals at one gain for the whole page."""
    chosen = [(own, heading, int(i)) for own in measured for heading, places in _extremes(own, count) for i in places]
    arrays = [own.method.folder.arrays(own.method.entries[i]) for own, _, i in chosen]
    gain = _gain([own.residual / 2 for own in arrays])
    found = []
    for (own, heading, i), a in zip(chosen, arrays, strict=True):
        entry = own.method.entries[i]
        known = ", ".join(text for text in (entry.label, entry.view) if text)
        means = f"residual {own.means['residual'][i]:.4f}, control {own.means['control'][i]:.4f}"
        shown = [("image", a.image), ("counterfactual", a.counterfactual)]
        shown += [("residual", a.residual * gain / 2), ("control's", a.control_residual * gain / 2)]
        caption = (
            f"record {i}{f' ({known})' if known else ''}: {means}; residuals {gain:g} times as strong, grey is none"
        )
        found.append(Case(heading, caption, [(title, _shown(picture)) for title, picture in shown]))
    return found


def filtered(measured: Sequence[Measured]) -> list[Case]:
    """The chest X-ray paper's figure of spectra, for one image of each class: what lies below and above `CUTOFF`.

    The paper names neither its filters nor its cutoff; these are Butterworth's of order 2, which add up to the image.
    The image is the one whose residual is the median of its class in the first folder; with it stand the counterfactual
    and the round trip of every folder that holds it. Finer detail is shown at one gain for the whole page.
    """
    rows = [row for place in _typical(measured[0]) for row in _versions(measured, place)]
    halves = [_parted(picture) for _, _, picture in rows]
    gain = _gain([high for _, high in halves], COVERED)
    edge = f"1/{round(1 / CUTOFF)} cycles per pixel"
    return [
        Case(heading, f"{name}; below and above {edge}, the latter {gain:g} times as strong",
             [(title, _shown(part)) for title, part in (("whole", picture), ("low", low), ("high", high * gain))])
        for (heading, name, picture), (low, high) in zip(rows, halves, strict=True)
    ]  # fmt: skip


def _typical(own: Measured) -> list[int]:
    """Of each class, over all views, the image whose residual is the median: the larger of two in the middle."""
    found = []
    for group in groups_of(own):
        if group.view is None:
            places = np.flatnonzero(group.chosen)
            order = np.argsort(own.means["residual"][places], kind="stable")
            found.append(int(places[order[len(order) // 2]]))
    return found


def _versions(measured: Sequence[Measured], place: int) -> list[tuple[str, str, np.ndarray]]:
    """Heading, name and picture of an image, and of what every folder made of it."""
    first = measured[0]
    entry, digest = first.method.entries[place], first.digests[place][0]
    heading = f"Spectra as pictures: {entry.label or ALL}"
    found = [(heading, f"record {place}", first.method.folder.arrays(entry).image)]
    for own in measured:
        same = next((i for i, (image, _) in enumerate(own.digests) if image == digest), None)
        if same is not None:
            arrays, name = own.method.folder.arrays(own.method.entries[same]), own.method.name
            found += [(heading, f"{name} round trip", arrays.control), (heading, name, arrays.counterfactual)]
    return found


def _parted(picture: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    low = np.asarray(_low(picture[None]))[0]
    return low, picture - low


@jax.jit
def _low(images: jax.Array) -> jax.Array:
    return filters.filter_image(images, functools.partial(filters.butterworth_low, cutoff=CUTOFF))


def _gain(pictures: Sequence[np.ndarray], share: float = 1.0) -> float:
    """The largest power of two, up to a limit, that keeps a share of every picture's values within [-1, 1]."""
    largest = max([float(np.quantile(np.abs(picture), share)) for picture in pictures], default=0.0)
    return min(STRONGEST, 2.0 ** np.floor(np.log2(1 / largest))) if largest > 0 else 1.0


def _extremes(own: Measured, count: int) -> list[tuple[str, np.ndarray]]:
    order = np.argsort(-own.means["residual"], kind="stable")
    most, rest = order[:count], order[count:]
    least = rest[::-1][:count]
    return [(f"{own.method.name}: changed most", most), (f"{own.method.name}: changed least", least)]


def _shown(picture: np.ndarray) -> np.ndarray:
    return picture if picture.shape[-1] in (1, 3) else picture.mean(-1, keepdims=True)
