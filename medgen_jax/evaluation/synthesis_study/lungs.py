"""Where a classifier looks: the share of its class activation maps' energy that lies in the lungs.

Real images have masks of their own. Drawn ones have none: they are asked in the mean lungs of their class, the pixels
that are lung in at least half of its real images; so are the real ones, for comparison. A map that knows nothing has
the share that the lungs have of the area, which stands beside.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from medgen_jax.data.transforms import resize
from medgen_jax.evaluation.answers import RESAMPLES
from medgen_jax.evaluation.scores import Score
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.synthesis_study.judge import Asked
from medgen_jax.evaluation.synthesis_study.real import RealSet, spread
from medgen_jax.metrics import anomaly_maps, intervals

#: Images of a set that are looked at, evenly spread over it.
LOOKED = 500
#: Kinds of numbers: energy in the image's own lungs, in the mean lungs of its class, and their shares of the area.
BETTER = {"energy_own": 1, "area_own": 0, "energy_mean": 1, "area_mean": 0}
_BLOCK = 64  # maps that are scored at a time
_SAME = 1e-6  # shares closer than this differ by rounding
_ROWS = 2  # of pictures that are kept of every set


class Looked(NamedTuple):
    """A set of images and where the judge looked.

    Attributes:
      scored: numbers by kind.
      pictures: images (h, w, 3) uint8 and their maps (h, w), the first few.
    """

    scored: dict[str, Score]
    pictures: list[tuple[np.ndarray, np.ndarray]]


def masks(real: RealSet, size: int) -> np.ndarray:
    """The lungs of those images of a set that are `chosen`, (n, size, size) bool."""
    return np.stack([_fitted(real.lungs(i), size) for i in chosen(real)])


def chosen(real: RealSet) -> list[int]:
    """Which images of a set are looked at."""
    return spread(len(real), LOOKED)


def mean_lungs(own: np.ndarray) -> np.ndarray:
    """Pixels that are lung in at least half of the masks (n, h, w); (h, w) bool."""
    return own.mean(0) >= 0.5


def look(
    asked: Asked,
    images: Iterable[np.ndarray],
    label: int | None,
    mean: np.ndarray | None,
    settings: Settings,
    own: np.ndarray | None = None,
    groups: tuple[str, ...] = (),
) -> Looked:
    """Ask about a set of images.

    Args:
      asked: the judge.
      images: any size, grey or RGB.
      label: the class whose maps are looked at; None for the judge's own answer to each image.
      mean: the mean lungs, (size, size) bool, of the judge's size; None for pictures alone.
      settings: level, resamples and seed.
      own: (n, size, size) bool, the lungs of each image; None where they are not known.
      groups: patient of each image; empty where unknown.
    """
    maps, pictures = [], []
    for image, probabilities, found in asked.maps(images):
        maps.append(found[..., int(probabilities.argmax()) if label is None else label])
        if len(pictures) < _ROWS:
            pictures.append((image, maps[-1]))
    if mean is None:
        return Looked({}, pictures)
    stack = np.stack(maps)
    columns = {"energy_mean": _energy(stack, np.broadcast_to(mean, stack.shape))}
    columns["area_mean"] = np.full(len(stack), mean.mean())
    if own is not None:
        columns |= {"energy_own": _energy(stack, own), "area_own": own.mean((1, 2))}
    return Looked({kind: _score(columns[kind], groups, settings) for kind in BETTER if kind in columns}, pictures)


def _energy(maps: np.ndarray, targets: np.ndarray) -> np.ndarray:
    found = [
        anomaly_maps.energy_in_mask(jnp.asarray(maps[i : i + _BLOCK]), jnp.asarray(targets[i : i + _BLOCK]))
        for i in range(0, len(maps), _BLOCK)
    ]
    return np.concatenate([np.asarray(part, np.float64) for part in found])


def _fitted(mask: np.ndarray, size: int) -> np.ndarray:
    return resize(255 * mask[..., None].astype(np.uint8), size, size)[..., 0] >= 128


def _score(values: np.ndarray, groups: tuple[str, ...], settings: Settings) -> Score:
    count = RESAMPLES if settings.resamples is None else settings.resamples
    about = {"n": len(values)}
    units = len(set(groups)) if groups else len(values)
    if not count or units < 2 or np.ptp(values) < _SAME:
        return Score(float(values.mean()), None, "none", about)
    error = float(values.std(ddof=1)) / np.sqrt(len(values))
    if not groups:
        low, high, _, method = intervals.mean_interval(float(values.mean()), error, len(values), level=settings.level)
        return Score(float(values.mean()), (low, high), f"{method}, over images", about)
    options = dict(groups=np.array(groups), level=settings.level, seed=settings.seed)
    low, high, _, method = intervals.bootstrap_mean(values, resamples=max(count, RESAMPLES), **options)
    return Score(float(values.mean()), (low, high), f"{method}, {units} patients", about)
