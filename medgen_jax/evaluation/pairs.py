"""Measures of image pairs: a row of numbers per pair on the devices, a summary of the rows on the host.

The interval of every summary is a bootstrap over the images: whole rows are drawn again, with replacement, and
summarised anew. It takes the images as independent; tiles of one patient or slide are not, and the true interval is
then wider.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.types import Image
from medgen_jax.evaluation.devices import OnDevices
from medgen_jax.evaluation.scores import Score
from medgen_jax.evaluation.settings import Settings
from medgen_jax.ops.scale import to_unit

if TYPE_CHECKING:
    from medgen_jax.evaluation.measures import PairMeasure
    from medgen_jax.pretrained import Pretrained

PyTree = Any
Rows = Callable[[Any, PyTree, Image, Image], jax.Array]
Summary = Callable[[np.ndarray], dict[str, float]]

RESAMPLES = 2000
FEW = 10  # pairs, below which a bootstrap is known to be too sure
#: Numbers that are the same thing as another one where there is but one pair.
_ONLY_OF_SETS = ("psnr_mean",)


class PairPass:
    """The rows of several measures, gathered batch by batch.

    Args:
      measures: by name.
      networks: the pretrained networks they need, by name.
      batch: pairs per call, over all devices.
      devices: local devices when None.
    """

    def __init__(
        self,
        measures: Mapping[str, PairMeasure],
        networks: Mapping[str, Pretrained],
        batch: int,
        devices: Sequence[jax.Device] | None = None,
    ):
        self._measures = measures

        def rows(variables: PyTree, x: jax.Array, y: jax.Array) -> dict[str, jax.Array]:
            x, y = to_unit(x), to_unit(y)
            return {n: m.rows(networks.get(m.network), variables.get(m.network), x, y) for n, m in measures.items()}

        self._rows = rows
        self._run = OnDevices([rows], batch, devices)
        self._variables = self._run.put({name: network.variables for name, network in networks.items()})
        self._found: dict[int, dict[str, np.ndarray]] = {}

    @property
    def batch(self) -> int:
        """Pairs per call."""
        return self._run.batch

    @property
    def numbers(self) -> tuple[str, ...]:
        """The numbers that single pairs have."""
        return tuple(n for m in self._measures.values() for n in m.scores if n not in _ONLY_OF_SETS)

    def check(self, shape: tuple[int, int, int]) -> None:
        """Trace every measure on a pair of images of ``shape`` (h, w, c); nothing is computed.

        Raises:
          UserError: when a measure cannot take images of this size.
        """
        spec = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        jax.eval_shape(self._rows, self._variables, spec, spec)

    def add(self, indices: Sequence[int], x: np.ndarray, y: np.ndarray) -> dict[str, np.ndarray]:
        """Measure a batch.

        Args:
          indices: which pairs these are.
          x: images that are judged, (b, h, w, c): uint8, uint16, or float in [-1, 1].
          y: their targets, of the same shape.

        Returns:
          Each number of every pair, (b,).
        """
        rows = jax.tree.map(np.asarray, self._run(self._variables, x, y))
        for place, index in enumerate(indices):
            self._found[index] = {name: values[place] for name, values in rows.items()}
        return self._single(indices)

    def rows(self, name: str) -> np.ndarray:
        """All rows of one measure in the order of the pairs, (n, ...)."""
        return np.stack([self._found[index][name] for index in sorted(self._found)])

    def per_image(self) -> dict[str, np.ndarray]:
        """Each number of every pair, (n,), in the order of the pairs."""
        return self._single(sorted(self._found))

    def _single(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        columns: dict[str, np.ndarray] = {}
        for name, measure in self._measures.items():
            found = [measure.summary(self._found[index][name][None]) for index in indices]
            for number in measure.scores:
                if number not in _ONLY_OF_SETS:
                    columns[number] = np.array([values.get(number, np.nan) for values in found])
        return columns


def scores(measure: PairMeasure, rows: np.ndarray, settings: Settings) -> dict[str, Score]:
    """A measure's numbers of all pairs, each with its bootstrap interval; fewer than 2 pairs have none.

    Args:
      measure: the entry of the table.
      rows: (n, ...), as its `rows` made them.
      settings: of the evaluation.
    """
    values = measure.summary(rows)
    # Whatever else a summary counts, such as the pairs a number is defined for, stands beside each number.
    counts = {name: value for name, value in values.items() if name not in measure.scores}
    count = RESAMPLES if settings.resamples is None else settings.resamples
    found = {}
    for name, ends in _ends(measure, rows, count, settings).items():
        value = values.get(name, np.nan)
        interval = ends if np.isfinite([value, *ends]).all() else None
        method = f"percentile bootstrap over images, {count} resamples" if interval else "none"
        warnings = (f"{len(rows)} pairs, fewer than {FEW}: intervals are narrower than they should be",)
        found[name] = Score(value, interval, method, counts, warnings if len(rows) < FEW else ())
    return found


def _ends(measure: PairMeasure, rows: np.ndarray, count: int, settings: Settings) -> dict[str, tuple[float, float]]:
    if not count or len(rows) < 2:
        return dict.fromkeys(measure.scores, (np.nan, np.nan))
    rng = np.random.default_rng((settings.seed, 2))
    drawn = [measure.summary(rows[rng.integers(len(rows), size=len(rows))]) for _ in range(count)]
    tail = (1 - settings.level) / 2
    ends = {}
    for name in measure.scores:
        found = [draw[name] for draw in drawn if name in draw]
        low, high = np.quantile(found, [tail, 1 - tail]) if found else (np.nan, np.nan)
        ends[name] = float(low), float(high)
    return ends


def sums_of(metric: Any) -> Rows:
    """The rows of a module of `medgen_jax.metrics` whose accumulators are sums: one accumulator for each pair."""

    def rows(network: None, variables: None, x: Image, y: Image) -> jax.Array:
        def one(predicted: jax.Array, target: jax.Array) -> jax.Array:
            return metric.accumulate(metric.init(), predicted[None], target[None], jnp.ones(1))

        return jax.vmap(one)(x, y)

    return rows


def totals_of(metric: Any) -> Summary:
    """The summary that belongs to `sums_of`: the numbers of the sum of all rows, as in training."""
    return lambda rows: metric.compute(rows.astype(np.float64).sum(axis=0))


def lpips_distance(network: Pretrained, variables: PyTree, x: Image, y: Image) -> jax.Array:
    """LPIPS of each pair, (b,)."""
    return network.apply(variables, x, y)


def mean_of(number: str) -> Summary:
    """A summary that is the mean of rows (n,)."""
    return lambda rows: {number: float(rows.astype(np.float64).mean())}
