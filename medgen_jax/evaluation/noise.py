"""How far noise in the source images carries into the translated ones: the staining paper's robustness table.

Gaussian noise is added to every source image, the image is band-pass filtered and stored again in its bit
depth, then translated; FID and KID of the outputs against the real targets are compared with those of clean
sources. The paper names three rows, ``AICD`` (its method on clean sources), ``Gaussian1`` and ``Gaussian2``, but states
neither the noise nor the band: `NAMED` is ours. Its own table does not rise with the noise, so no such law is expected.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation import comparison, distances, fingerprint, results
from medgen_jax.evaluation.distances import Reference
from medgen_jax.evaluation.features import Extractor, FeatureRows
from medgen_jax.evaluation.folders import eight_bit
from medgen_jax.evaluation.measures import MEASURES, check_counts
from medgen_jax.evaluation.networks import Networks, from_weights
from medgen_jax.evaluation.scores import Score, entry
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.splits import Column, Split
from medgen_jax.evaluation.subject import Targets, open_subject
from medgen_jax.evaluation.translator import Translator
from medgen_jax.metrics import resampling
from medgen_jax.ops import filters
from medgen_jax.ops.scale import from_unit, to_unit
from medgen_jax.viz.scores import Case

Band = tuple[float, float]
Say = Callable[[str], None]

#: Standard deviations of the noise in 8-bit levels, and bands in cycles per pixel, unless the user gives others.
LEVELS = (0.0, 5.0, 10.0, 25.0, 50.0)
BANDS: tuple[Band | None, ...] = (None, (0.02, 0.25))


@dataclass(frozen=True)
class Source:
    """What happens to the source images.

    Attributes:
      level: standard deviation of the noise, 8-bit levels.
      band: pass band of a Butterworth filter of order 2, cycles per pixel, which keeps the mean; None filters nothing.
    """

    level: float = 0.0
    band: Band | None = None

    def __str__(self) -> str:
        band = f", band {self.band[0]:g} to {self.band[1]:g} cycles/px" if self.band else ""
        return (f"noise {self.level:g}/255" if self.level else "no noise") + band


CLEAN = Source()
#: The paper's rows.
NAMED = {CLEAN: "AICD", Source(10.0, BANDS[1]): "Gaussian1", Source(25.0, BANDS[1]): "Gaussian2"}


def row(source: Source) -> str:
    """What a row of the table is called."""
    return NAMED.get(source, str(source))


def sources(levels: Sequence[float] = LEVELS, bands: Sequence[Band | None] = BANDS) -> list[Source]:
    """Every level in every band, the clean sources first.

    Raises:
      UserError: a level or a band out of range.
    """
    for level in levels:
        if not 0 <= level <= 255:
            raise UserError(f"--noise: {level:g} is no standard deviation in 8-bit levels; give values from 0 to 255")
    for band in bands:
        if band and not 0 < band[0] < band[1] <= 0.75:
            raise UserError(
                f"--bands: {band[0]:g}-{band[1]:g} is no band; give low-high in cycles per pixel, 0 < low < high"
            )
    return list(dict.fromkeys([CLEAN, *(Source(level, band) for band in bands for level in levels)]))


def parse_levels(words: Sequence[str]) -> list[float]:
    """Numbers from words.

    Raises:
      UserError: for a word that is none.
    """
    try:
        return [float(word) for word in words]
    except ValueError as error:
        raise UserError(f"--noise: {error}; give standard deviations in 8-bit levels, such as 0,10,25") from error


def parse_bands(words: Sequence[str]) -> list[Band | None]:
    """``none`` and ``low-high`` as bands.

    Raises:
      UserError: for any other word.
    """
    bands: list[Band | None] = []
    for word in words:
        found = re.fullmatch(r"\s*(\d*\.?\d+)\s*-\s*(\d*\.?\d+)\s*", word)
        if not found and word.strip() != "none":
            raise UserError(f"--bands: {word!r} is neither none nor low-high, such as 0.02-0.25")
        bands.append((float(found[1]), float(found[2])) if found else None)
    return bands


@functools.partial(jax.jit, static_argnums=(2,))
def _disturbed(image: jax.Array, key: jax.Array, source: Source) -> jax.Array:
    """One image (h, w, c) of stored dtype, disturbed and stored again."""
    x = to_unit(image)[None] + source.level / 127.5 * jax.random.normal(key, (1, *image.shape))
    if source.band:
        response = functools.partial(filters.butterworth_band, low=source.band[0], high=source.band[1], keep_mean=True)
        x = filters.filter_image(x, response)
    return from_unit(jnp.clip(x[0], -1, 1), image.dtype)


@dataclass(frozen=True)
class DisturbedColumn(Column):
    """A column whose images are disturbed on the way; image i always by the same draw."""

    source: Source = CLEAN
    seed: int = 0

    def image(self, index: int) -> np.ndarray:
        """One image, HWC, stored dtype."""
        image = super().image(index)
        if self.source == CLEAN:
            return image
        return np.asarray(_disturbed(image, jax.random.fold_in(jax.random.key(self.seed), index), self.source))


def disturb(split: Split, source: Source, seed: int) -> Split:
    """The split with disturbed inputs."""
    inputs = DisturbedColumn(*(getattr(split.inputs, f.name) for f in dataclasses.fields(Column)), source, seed)
    return dataclasses.replace(split, inputs=inputs)


def study(
    workdir: str | Path,
    output: str | Path | None,
    settings: Settings,
    disturbances: Sequence[Source],
    *,
    split: str | None = None,
    which: str | int = "last",
    sampler: str | None = None,
    data: str | Path | None = None,
    against: str | Path | None = None,
    networks: Networks | None = None,
    say: Say = print,
) -> results.Evaluation:
    """Translate every record under every disturbance and write the table.

    Args:
      workdir, split, which, sampler, data, against, networks, say: as in `medgen_jax.evaluation.runs.evaluate`.
      output: folder for the results; ``WORKDIR/evaluation/noise`` when None.
      settings: of the evaluation.
      disturbances: what `sources` returned; the first one, the clean sources, is what the ratios refer to.

    Raises:
      UserError: whatever is to be refused, before the first image is decoded.
    """
    settings.check()
    earlier = comparison.read(against) if against else None
    subject = open_subject(workdir, which, sampler, split, data)
    records = subject.records
    measures = {name: MEASURES[name] for name in ("fid", "kid")}
    check_counts(measures, {"inputs": len(records.inputs), "targets": len(records.targets)}, settings)
    translator = Translator(subject.model, settings.batch, settings.seed)
    for group in records.groups():
        translator.output_shape(records.inputs.shape(group[0]))
    extractor = Extractor((networks or from_weights(settings))("inception"), settings.protocol, settings.batch)
    folder = results.claim(output or Path(workdir).expanduser() / "evaluation" / "noise", settings.overwrite)

    targets = Targets(records.targets, extractor)
    targets.take_all()
    images = {**subject.conditions(targets.digest), "seed": settings.seed}
    real, clean = Reference.of(targets.features.array()), None
    found = results.Evaluation("Noise on the source images", _facts(images, settings))
    for source in disturbances:
        disturbed = disturb(records, source, settings.seed)
        made, pictures = _output_features(disturbed, translator, extractor, row(source))
        clean = made if clean is None else clean
        caption = f"{row(source)}: {source}" if source in NAMED else str(source)
        found.cases.append(Case("Sources and outputs", caption, pictures))
        conditions = {**extractor.conditions, **images, "source": str(source)}
        for name, score in _scores(real, clean, made, settings).items():
            full = fingerprint.conditions(name, **conditions)
            number = entry(score, full, level=settings.level, better=-1, paired=False)
            found.numbers[f"{name} {row(source)}"] = number
    found.cases = found.cases if settings.pictures else []
    found.changes = comparison.changes(earlier, found.numbers) if earlier else []
    say(f"page: {results.write(folder, found)}")
    return found


def _facts(images: Mapping[str, Any], settings: Settings) -> dict[str, str]:
    return {
        "Run": images["run"],
        "Split": f"{images['split']}, {images['n_fake']} records",
        "Rows": ", ".join(f"{name}: {source}" for source, name in NAMED.items()) + " (names of the paper, values ours)",
        "Ratios": "to clean sources, AICD; 1: no change",
        "Intervals": f"{settings.level:.0%}",
        "Seed": str(settings.seed),
    }


def _output_features(
    records: Split, translator: Translator, extractor: Extractor, label: str
) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """Features of all outputs, and the first input with its output."""
    rows, first = FeatureRows(extractor), []
    for batch in tqdm(translator(records), unit="batch", desc=label, disable=None):
        outputs = eight_bit(np.asarray(from_unit(jnp.asarray(batch.outputs))))
        rows.add(batch.places, outputs)
        if 0 in batch.places:
            place = batch.places.index(0)
            first = [("source", eight_bit(batch.inputs[place])), ("output", outputs[place])]
    return rows.array(), first


def _scores(real: Reference, clean: np.ndarray, made: np.ndarray, settings: Settings) -> dict[str, Score]:
    """FID and KID with their intervals, and their ratios to those of clean sources."""
    found = {**distances.fid(real, made, settings), **distances.kid(real, made, settings)}
    return {**found, **_ratios(real, clean, made, found, settings)}


def _ratios(
    real: Reference, clean: np.ndarray, made: np.ndarray, found: Mapping[str, Score], settings: Settings
) -> dict[str, Score]:
    """Ratios with intervals from half-samples that draw the same records on both sides."""

    def values(mine: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
        pairs = {}
        for name, function in (("fid", distances.frechet_value), ("kid", distances.kernel_value)):
            top, bottom = (function(real.features[mine], side[chosen]) for side in (made, clean))
            pairs[f"{name}_ratio"] = top / bottom if bottom else float("nan")
        return pairs

    whole = values(np.arange(real.count), np.arange(len(made)))
    count = distances.half_samples((real.count, len(made)), settings)
    if not count or np.array_equal(clean, made):
        method = "none: the sources are the clean ones" if count else distances.NONE
        return {name: Score(value, None, method) for name, value in whole.items()}
    errors = resampling.standard_errors(values, (real.count, len(made)), count, settings.seed)
    method = f"normal, standard error from {count} half-samples of the same records under both sources"
    warning = ("KID of the clean sources is near zero, so its ratio means little",)
    scores = {}
    for name, value in whole.items():
        ends = distances.around(value, errors[name], settings.level)
        near_zero = name == "kid_ratio" and abs(value) > 1e3
        scores[name] = Score(value, ends, method, {"standard_error": errors[name]}, warning if near_zero else ())
    return scores
