"""The numbers of severity scores: how well each set of features tells those of the held-out images."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation.pairs import FEW as FEW_PATIENTS
from medgen_jax.evaluation.pairs import RESAMPLES
from medgen_jax.evaluation.scores import Score
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.severity.residuals import ScoredResiduals
from medgen_jax.metrics import severity

FEW_IMAGES = 50  # below which nothing can be claimed
#: Predictors that nothing was learned for: the mean of the scores that others learn from, and the second reader.
MEAN, READERS = "mean score", "readers"
_BETTER = {"mae": -1, "pearson": 1, "spearman": 1, "mae_difference": -1}


def caution(records: ScoredResiduals) -> list[str]:
    """What to say where there are few images: one sentence, or none."""
    if len(records) >= FEW_IMAGES:
        return []
    patients = len(set(records.patients))
    return [f"{len(records)} images of {patients} patients are too few for a claim: shown for correctness only"]


def scores(
    answers: Mapping[str, np.ndarray], against: str | None, records: ScoredResiduals, settings: Settings
) -> tuple[dict[str, Score], list[str]]:
    """Numbers named ``KIND PREDICTOR``, each with its interval over held-out patients, and what is to be said of them.

    Kinds are those of `medgen_jax.metrics.severity.agreement`, and ``mae_difference``: error of the predictor minus
    that of ``against`` on the same images, so negative where the predictor is better. The predictor `READERS` is the
    second reader, tested on the first.

    Args:
      answers: of each predictor, for the held-out images.
      against: the predictor that others are compared with; None for no differences.
      records: what was tested.
      settings: level, resamples and seed.
    """
    readers, said = _readers(records)
    truth = records.scores[records.testing]
    statistic = _statistic(answers, against, truth, readers)
    values = statistic(np.arange(len(truth)))
    owners = records.patients_of(records.testing)
    count = RESAMPLES if settings.resamples is None else settings.resamples
    options = dict(level=settings.level, resamples=count, seed=settings.seed)
    intervals = severity.patient_intervals(statistic, owners, **options) if count else {}
    units = len(set(owners))
    warnings = tuple(caution(records))
    if units < FEW_PATIENTS:
        warnings += (
            f"{units} held-out patients, fewer than {FEW_PATIENTS}: intervals are narrower than they should be",
        )
    learned = [name for name in answers if name != MEAN]
    said += [f"{name} gives all held-out images one score" for name in learned if f"pearson {name}" not in values]
    if not_better := [name for name in learned if values[f"mae {name}"] >= values.get(f"mae {MEAN}", np.inf)]:
        said.append(f"no better than the mean score of who is learned from: {', '.join(not_better)}")

    def score(name: str, value: float) -> Score:
        found = intervals.get(name)
        method = f"percentile bootstrap over {units} held-out patients, {count} resamples" if found else "none"
        n = len(truth) if not name.endswith(f" {READERS}") else int(np.isfinite(readers).all(0).sum())
        about = {"n": n, "counted": f"images of {units} patients"}
        return Score(value, (found.low, found.high) if found else None, method, about, warnings)

    return {name: score(name, value) for name, value in values.items()}, said


def direction(name: str) -> int:
    """+1 or -1: which direction of a number is better."""
    return _BETTER[name.partition(" ")[0]]


def _statistic(
    answers: Mapping[str, np.ndarray], against: str | None, truth: np.ndarray, readers: np.ndarray | None
) -> Callable[[np.ndarray], dict[str, float]]:
    """Indices of held-out images -> all numbers that are defined for them."""

    def of(drawn: np.ndarray) -> dict[str, float]:
        found = {}
        for name, answer in answers.items():
            kinds = severity.agreement(answer[drawn], truth[drawn])
            found |= {f"{kind} {name}": value for kind, value in kinds.items()}
        for name in answers if against else ():
            if name != against:
                found[f"mae_difference {name}"] = found[f"mae {name}"] - found[f"mae {against}"]
        if readers is not None:
            first, second = readers[:, drawn][:, np.isfinite(readers[:, drawn]).all(0)]
            kinds = severity.agreement(second, first) if len(first) else {}
            found |= {f"{kind} {READERS}": value for kind, value in kinds.items()}
        return found

    return of


def _readers(records: ScoredResiduals) -> tuple[np.ndarray | None, list[str]]:
    """Both readers of the held-out images, (2, h), unless they say nothing of agreement, and then why."""
    if records.readers is None:
        return None, []
    try:
        severity.reader_agreement(*records.readers)
    except UserError as error:
        return None, [f"readers are not compared: {str(error).removeprefix('severity: ')}"]
    return records.readers[:, records.testing], []
