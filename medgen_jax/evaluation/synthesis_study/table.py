"""The numbers of the paper's table: FID and KID of every set against real images, diversity, and means by target."""

from __future__ import annotations

import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from medgen_jax.evaluation import distances, fingerprint
from medgen_jax.evaluation.distances import Reference
from medgen_jax.evaluation.numbers import Entries
from medgen_jax.evaluation.scores import Score, entry
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.synthesis_study.diversity import GROUP
from medgen_jax.evaluation.synthesis_study.draws import Made
from medgen_jax.evaluation.synthesis_study.subjects import Subject
from medgen_jax.metrics import intervals, resampling

#: Kinds of numbers, and which direction is better. Noise is diverse, too: beside the distances more is better.
BETTER = {"fid": -1, "kid": -1, "diversity": 1}
WHOLE = "all classes"
_FEWEST_SOURCES = 4
#: What the pairs that lead to one target have in common.
_SHARED = ("floor", "floor_n", "images_per_group")


class Compared(NamedTuple):
    """Which images a number is about, as fingerprints say it.

    Attributes:
      n_real, n_fake: how many of each.
      reference: digest of the real ones.
      settings: what is compared with what, in a few words.
    """

    n_real: int
    n_fake: int
    reference: str
    settings: str


def row(subject: Subject, source: str | None, target: str | None) -> str:
    """What a set is called: ``RUN, all classes``; ``RUN, TARGET``; or of a pair ``RUN, SOURCE to TARGET``."""
    return f"{subject.name}, {f'{source} to {target}' if source else target or WHOLE}"


def distances_of(real: Reference, made: Made, settings: Settings) -> dict[str, Score]:
    """``fid`` and ``kid`` of a set; intervals draw sources with all their outputs, where images have sources."""
    if made.per_source == 1:
        return distances.fid(real, made.features, settings) | distances.kid(real, made.features, settings)
    of_value = {"fid": distances.frechet_value, "kid": distances.kernel_value}
    sources = len(made.features) // made.per_source
    count = distances.half_samples((real.count, len(made.features)), settings)
    plain = dataclasses.replace(settings, resamples=0)
    found = distances.fid(real, made.features, plain) | distances.kid(real, made.features, plain)
    if not count or sources < _FEWEST_SOURCES:
        reason = distances.NONE if not count else f"none: {sources} sources are too few to know their spread"
        return {name: _with_error(score, None, reason, settings) for name, score in found.items()}

    def statistic(mine: np.ndarray, chosen: np.ndarray) -> dict[str, float]:
        outputs = (chosen[:, None] * made.per_source + np.arange(made.per_source)).ravel()
        return {name: value(real.features[mine], made.features[outputs]) for name, value in of_value.items()}

    errors = resampling.standard_errors(statistic, (real.count, sources), count, settings.seed)
    method = f"normal, standard error from {count} half-samples of real images and of {sources} sources"
    return {name: _with_error(score, errors[name], method, settings) for name, score in found.items()}


def diversity_of(values: np.ndarray, what: str, settings: Settings) -> dict[str, Score]:
    """``diversity`` from that of each source or group; none where there are no values."""
    if not len(values):
        return {}
    error = float(values.std(ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None
    method = f"normal, standard error over {len(values)} {what}" if error is not None else f"none: one of the {what}"
    score = Score(float(values.mean()), None, method, {"groups": len(values), "images_per_group": GROUP})
    return {"diversity": _with_error(score, error, method, settings)}


def mean_of(pairs: Sequence[Mapping[str, Score]], settings: Settings) -> dict[str, Score]:
    """The numbers of a target: means over the pairs that lead to it.

    The pairs share their real images, so the mean of their standard errors, an upper bound of that of the mean, is
    what intervals of FID and KID are made of. Diversities of different sources are independent.
    """
    found = {}
    for name in pairs[0]:
        scores = [pair[name] for pair in pairs if name in pair]
        errors = [score.extras["standard_error"] for score in scores if "standard_error" in score.extras]
        error = None
        if len(errors) == len(scores):
            independent = name == "diversity"
            error = math.sqrt(sum(e * e for e in errors)) / len(errors) if independent else float(np.mean(errors))
        method = "normal, from the standard errors of the pairs" if error is not None else "none: a pair has none"
        warnings = tuple(dict.fromkeys(line for score in scores for line in score.warnings))
        extras = {"pairs": len(scores)} | {k: v for k, v in scores[0].extras.items() if k in _SHARED}
        score = Score(float(np.mean([score.value for score in scores])), None, method, extras, warnings)
        found[name] = _with_error(score, error, method, settings)
    return found


def entries(
    name: str,
    scored: Mapping[str, Score],
    compared: Compared,
    made_by: Mapping[str, Mapping[str, str]],
    settings: Settings,
    subject: Subject | None = None,
) -> Entries:
    """Scores as entries of ``metrics.json``, called ``KIND NAME``.

    Args:
      name: of the row.
      scored: by kind.
      compared: which images.
      made_by: of each kind the network and its conditions.
      settings: of the evaluation.
      subject: whose images they are; None for real ones.
    """
    images = {**compared._asdict(), "split": "train", **({} if subject is None else subject.origin)}
    found: Entries = {}
    for kind, score in scored.items():
        full = fingerprint.conditions(f"{kind} {name}", seed=settings.seed, **made_by[kind], **images)
        found[f"{kind} {name}"] = entry(score, full, level=settings.level, better=BETTER[kind], paired=False)
    return found


def digest_of(parts: Sequence[str]) -> str:
    """One digest of several sets."""
    return parts[0] if len(parts) == 1 else hashlib.sha256("\n".join(parts).encode()).hexdigest()


def _with_error(score: Score, error: float | None, method: str, settings: Settings) -> Score:
    if error is None:
        return Score(score.value, None, method, score.extras, score.warnings)
    interval = intervals.mean_interval(score.value, error, level=settings.level)
    extras = {**score.extras, "standard_error": error}
    return Score(score.value, (interval.low, interval.high), method, extras, score.warnings)
