"""The numbers of a classifier from its probabilities of all images, with intervals. NumPy in float64 on the host.

* ``accuracy``, ``balanced_accuracy`` and ``f1`` as in `medgen_jax.metrics.classification`; of each class its recall.
* ``auroc`` of each class against the rest, exact (as `medgen_jax.metrics.ranking.tally`), images ranked by the log-odds
  of the class; without a class's name the mean over classes.
* ``nll`` is the mean of -ln p(class), nats. A probability below the least float32 counts as that, 1.2e-38.

Averages over classes are over those that occur. Where the images are independent of each other, accuracy and recall
have Wilson's interval, which knows that 20 right answers of 20 prove no perfection. All else, and everything where
patients or slides are known, has the percentile bootstrap: images, or whole patients, are drawn again with replacement.
An interval of no width is not given.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from medgen_jax.evaluation.pairs import FEW, RESAMPLES
from medgen_jax.evaluation.scores import Score
from medgen_jax.evaluation.settings import Settings
from medgen_jax.metrics.intervals import wilson_interval

LEAST = float(np.finfo(np.float32).tiny)
#: Number of all classes -> which direction is better.
OVERALL = {"accuracy": 1, "balanced_accuracy": 1, "f1": 1, "auroc": 1, "nll": -1}
#: Numbers that each class has.
PER_CLASS = ("recall", "auroc")
_BLOCK = 1 << 22  # weights held at a time: 32 MB
_NO_WIDTH = ("numbers that no resample changes have no interval: there are too few errors for one",)


@dataclass(frozen=True)
class ClassMeasure:
    """A group of numbers of a classifier, for `medgen_jax.evaluation.measures.choose`.

    Attributes:
      scores: the numbers, and which direction of each is better.
      network: None: it needs no pretrained network.
    """

    scores: Mapping[str, int]
    network: str | None = None


def measures(classes: Sequence[str]) -> dict[str, ClassMeasure]:
    """The table of metrics of a classifier of these classes."""
    single = {f"{number}_{name}": 1 for number in PER_CLASS for name in classes}
    return {"overall": ClassMeasure(OVERALL), "per_class": ClassMeasure(single)}


@dataclass(frozen=True)
class Answers:
    """What a classifier says of images, and what they are.

    Attributes:
      probabilities: (n, k), rows with the sum 1.
      labels: (n,), 0 to k - 1.
      classes: k names.
    """

    probabilities: Float[np.ndarray, "n k"]
    labels: Int[np.ndarray, "n"]
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def answers(self) -> Int[np.ndarray, "n"]:
        """The class of the highest probability; the first one of several."""
        return self.probabilities.argmax(1)

    @property
    def confusion(self) -> Int[np.ndarray, "k k"]:
        """Images by true class (rows) and answer (columns)."""
        return self.weighted_confusion(np.ones((1, len(self))))[0].astype(np.int64)

    def weighted_confusion(self, weights: Float[np.ndarray, "r n"]) -> Float[np.ndarray, "r k k"]:
        """`confusion` under r rows of weights of the images."""
        count = len(self.classes)
        cells = self.labels * count + self.answers
        return np.stack([np.bincount(cells, row, count**2) for row in weights]).reshape(-1, count, count)


def numbers(found: Answers, weights: Float[np.ndarray, "r n"]) -> dict[str, Float[np.ndarray, "r"]]:
    """All numbers under r rows of weights of the images; NaN where one is not defined."""
    cells = found.weighted_confusion(weights)
    true, answered, right = cells.sum(2), cells.sum(1), np.diagonal(cells, axis1=1, axis2=2)
    recall = _ratio(right, true)
    f1 = np.where(true > 0, _ratio(2 * right, true + answered), np.nan)
    probabilities = np.maximum(found.probabilities.astype(np.float64), LEAST)
    nll = -np.log(probabilities[np.arange(len(found)), found.labels])
    areas = np.stack(
        [weighted_areas(_log_odds(probabilities, k), found.labels == k, weights) for k in range(len(found.classes))], 1
    )
    total = weights.sum(1)
    overall = {
        "accuracy": right.sum(1) / total,
        "balanced_accuracy": _mean_of_known(recall),
        "f1": _mean_of_known(f1),
        "auroc": _mean_of_known(areas),
        "nll": weights @ nll / total,
    }
    single = {
        f"{number}_{name}": values[:, k]
        for number, values in zip(PER_CLASS, (recall, areas), strict=True)
        for k, name in enumerate(found.classes)
    }
    return overall | single


def scores(found: Answers, groups: Sequence[str], settings: Settings) -> dict[str, Score]:
    """Every number that is defined, with its interval.

    Args:
      found: the answers.
      groups: patient or slide of each image; empty where unknown.
      settings: of the evaluation.
    """
    values = {name: float(row[0]) for name, row in numbers(found, np.ones((1, len(found)))).items()}
    shares = {} if groups else _shares(found)
    drawn = np.unique(groups, return_inverse=True)[1] if groups else np.arange(len(found))
    units, unit = int(drawn.max()) + 1, "patients or slides" if groups else "images"
    count = RESAMPLES if settings.resamples is None else settings.resamples
    ends = _bootstrap(found, drawn, count, settings)
    few = (f"{units} {unit}, fewer than {FEW}: intervals are narrower than they should be",) if units < FEW else ()

    def score(name: str, value: float) -> Score:
        if name in shares:
            low, high, _, _ = wilson_interval(*shares[name], level=settings.level)
            return Score(value, (low, high), "Wilson's interval of a proportion", _about(found, name))
        low, high = ends.get(name, (np.nan, np.nan))
        same = np.isclose(low, high, rtol=1e-9, atol=1e-12)  # sums in another order differ by roundings
        if low < high and not same:
            method = f"percentile bootstrap over {units} {unit}, {count} resamples"
            return Score(value, (low, high), method, _about(found, name), few)
        return Score(value, None, "none", _about(found, name), _NO_WIDTH if same else ())

    return {name: score(name, value) for name, value in values.items() if np.isfinite(value)}


def constant(train_labels: Int[np.ndarray, "m"], labels: Int[np.ndarray, "n"], classes: tuple[str, ...]) -> Answers:
    """What a classifier answers that has seen the classes of the training images and nothing else.

    Its probabilities are the shares of the classes in training, so the most frequent class is its only answer.
    """
    shares = np.bincount(train_labels, minlength=len(classes)) / len(train_labels)
    return Answers(np.broadcast_to(shares, (len(labels), len(classes))), labels, classes)


# -- parts of the numbers ---------------------------------------------------------------------------


def _ratio(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return np.divide(a, b, out=np.full(np.broadcast_shapes(a.shape, b.shape), np.nan), where=b > 0)


def _mean_of_known(values: Float[np.ndarray, "r k"]) -> Float[np.ndarray, "r"]:
    known = np.isfinite(values)
    return _ratio(np.where(known, values, 0.0).sum(1), known.sum(1).astype(float))


def _log_odds(probabilities: Float[np.ndarray, "n k"], k: int) -> Float[np.ndarray, "n"]:
    # The rest by its own sum: 1 - p has no digits left where p is nearly 1.
    rest = np.delete(probabilities, k, 1).sum(1)
    return np.log(probabilities[:, k]) - np.log(np.maximum(rest, LEAST))


def weighted_areas(
    score: np.ndarray, positive: np.ndarray, weights: Float[np.ndarray, "r n"]
) -> Float[np.ndarray, "r"]:
    """Area under the ROC curve under each row of weights, ties counting half."""
    falling = np.argsort(-score, kind="stable")
    score, positive, weights = score[falling], positive[falling], weights[:, falling]
    last = np.append(np.flatnonzero(np.diff(score)), len(score) - 1)  # of each run of equal scores
    true, false = (np.cumsum(weights * side, 1)[:, last] for side in (positive, ~positive))
    before = np.pad(true[:, :-1], [(0, 0), (1, 0)])
    area = ((true + before) / 2 * np.diff(false, prepend=0.0)).sum(1)
    return _ratio(area, true[:, -1] * false[:, -1])


# -- intervals --------------------------------------------------------------------------------------


def _bootstrap(found: Answers, drawn: np.ndarray, count: int, settings: Settings) -> dict[str, tuple[float, float]]:
    """Ends of every number; of resamples in which it is not defined nothing is counted."""
    if not count or drawn.max() < 1:
        return {}
    blocks = [numbers(found, weights) for weights in drawn_weights(drawn, count, settings.seed)]
    tail = (1 - settings.level) / 2
    ends = {}
    for name in blocks[0]:
        values = np.concatenate([block[name] for block in blocks])
        if (known := values[np.isfinite(values)]).size:
            low, high = np.quantile(known, [tail, 1 - tail])
            ends[name] = float(low), float(high)
    return ends


def drawn_weights(drawn: np.ndarray, count: int, seed: int) -> Iterator[Float[np.ndarray, "r n"]]:
    """How often each image is in a resample; images of one number in ``drawn`` come and go together."""
    rng, units = np.random.default_rng((seed, 3)), int(drawn.max()) + 1
    rows = max(1, _BLOCK // len(drawn))
    for start in range(0, count, rows):
        picks = rng.integers(units, size=(min(rows, count - start), units))
        yield np.stack([np.bincount(pick, minlength=units) for pick in picks])[:, drawn].astype(float)


def _shares(found: Answers) -> dict[str, tuple[int, int]]:
    """Numbers that are proportions: right answers, and images, of each."""
    right, true = np.diag(found.confusion).tolist(), found.confusion.sum(1).tolist()
    single = {f"recall_{name}": share for name, share in zip(found.classes, zip(right, true, strict=True), strict=True)}
    return {"accuracy": (sum(right), sum(true)), **single}


def _about(found: Answers, name: str) -> dict[str, Any]:
    """What stands beside a number in ``metrics.json``: the images it counts; the whole table beside the accuracy."""
    if name.startswith("recall_"):
        label = name.removeprefix("recall_")
        return {"n": int((found.labels == found.classes.index(label)).sum()), "counted": f"of {label}"}
    table = {"classes": list(found.classes), "confusion": found.confusion.tolist()} if name == "accuracy" else {}
    return {"n": len(found), "counted": "images", **table}
