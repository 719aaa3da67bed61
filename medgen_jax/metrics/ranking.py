"""How well scores put positives above negatives: ROC and precision-recall curves and their areas.

Every measure is computed from a `Tally`, the numbers of positives and negatives at or above each
threshold. There are two ways to one:

* `tally` sorts the scores themselves: exact, equal scores fall together;
* ``init / accumulate / merge`` count any number of scores (pixels of a whole test set) on and
  between fixed thresholds, the *edges*, and `binned_tally` reads the counts. Every point of the
  curves is still exact; unknown is only the order of scores between two edges, and `compute`
  returns what that can change.

Definitions, P and N being the numbers of positives and negatives:

* AUROC is the chance that a positive outscores a negative, a tie counting half (Hanley and McNeil,
  Radiology 143(1), 1982): the trapezoids under the ROC curve. A constant score has 0.5.
* Average precision, ``auprc``, is the sum over thresholds of (R_k - R_{k-1}) P_k, R being recall
  and P precision: steps, since straight lines between the points promise precisions that no
  threshold has (Davis and Goadrich, ICML 2006). A constant score has P / (P + N), the prevalence.

Tallies and areas are NumPy in float64 on the host; `histograms` and `accumulate` run under jit.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Mask
from medgen_jax.ops import compensated

_BETWEEN = slice(None, None, 2)  # the rows of a binned tally that stand for scores between edges


class Tally(NamedTuple):
    """How many positives and negatives score at least each threshold; the last row holds them all.

    Attributes:
      thresholds: (k,) float64, falling.
      true_positives: (k,) float64 whole numbers, the last one P.
      false_positives: (k,) float64 whole numbers, the last one N.
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray


class RocCurve(NamedTuple):
    """(k + 1,) each, float64, from (0, 0) at threshold infinity to (1, 1)."""

    false_positive_rate: np.ndarray
    true_positive_rate: np.ndarray
    thresholds: np.ndarray


class PrecisionRecallCurve(NamedTuple):
    """(k,) each, float64, by rising recall; a threshold that nothing reaches has no precision and no point."""

    precision: np.ndarray
    recall: np.ndarray
    thresholds: np.ndarray


def tally(scores: Float[Array, "..."], positive: Bool[Array, "..."], mask: Mask | None = None) -> Tally:
    """Exact counts at every distinct score.

    Args:
      scores: any shape; higher speaks for positive.
      positive: the same shape, bool or 0 and 1.
      mask: over the first axis, 1 for real records and 0 for padding, which may hold anything.

    Raises:
      UserError: on other shapes or labels, on no score at all, and naming the first record (place
        on the first axis) with a score that is NaN or infinite.
    """
    scores, positive = np.asarray(scores), np.asarray(positive)
    if scores.shape != positive.shape or scores.ndim == 0:
        raise UserError(f"ranking: scores have shape {scores.shape} and labels {positive.shape}; both must be the same")
    records = np.arange(len(scores))
    if mask is not None:
        if np.shape(mask) != (len(scores),):
            raise UserError(f"ranking: the mask has shape {np.shape(mask)}; {len(scores)} records need one each")
        records = np.flatnonzero(np.asarray(mask) > 0)
        scores, positive = scores[records], positive[records]
    if scores.size == 0:
        raise UserError("ranking: there is no score; the split that is evaluated is empty")
    _refuse_labels(positive)
    finite = np.isfinite(scores).reshape(len(scores), -1).all(axis=1)
    if not finite.all():
        raise UserError(
            f"ranking: record {records[np.argmin(finite)]} has a score that is NaN or infinite "
            f"({np.count_nonzero(~finite)} of {len(finite)} have); records are counted from 0"
        )
    scores, positive = scores.ravel(), positive.ravel() > 0
    falling = np.argsort(scores)[::-1]
    scores, positive = scores[falling], positive[falling]
    last = np.append(np.flatnonzero(scores[1:] != scores[:-1]), len(scores) - 1)  # of each run of equal scores
    true_positives = np.cumsum(positive)[last]
    return Tally(*(np.float64(column) for column in (scores[last], true_positives, last + 1 - true_positives)))


def roc_curve(counts: Tally) -> RocCurve:
    """True against false positive rate at every threshold.

    Raises:
      UserError: unless there are positives and negatives.
    """
    _need(counts, "ROC curve", "positives", "negatives")
    rates = (np.append(0.0, column) / column[-1] for column in (counts.false_positives, counts.true_positives))
    return RocCurve(*rates, np.append(np.inf, counts.thresholds))


def precision_recall_curve(counts: Tally) -> PrecisionRecallCurve:
    """Precision and recall at every threshold.

    Raises:
      UserError: when there are no positives.
    """
    _need(counts, "precision-recall curve", "positives")
    called = counts.true_positives + counts.false_positives
    kept = called > 0
    true_positives = counts.true_positives[kept]
    recall = true_positives / counts.true_positives[-1]
    return PrecisionRecallCurve(true_positives / called[kept], recall, counts.thresholds[kept])


def auroc(counts: Tally) -> float:
    """Area under the ROC curve, in [0, 1].

    Raises:
      UserError: unless there are positives and negatives.
    """
    curve = roc_curve(counts)
    return float(np.trapezoid(curve.true_positive_rate, curve.false_positive_rate))


def average_precision(counts: Tally) -> float:
    """Average precision, in (0, 1]; 1 when there are no negatives.

    Raises:
      UserError: when there are no positives.
    """
    curve = precision_recall_curve(counts)
    return float(np.sum(np.diff(curve.recall, prepend=0.0) * curve.precision))


def ranking_scores(
    scores: Float[Array, "..."], positive: Bool[Array, "..."], mask: Mask | None = None
) -> dict[str, float]:
    """``auroc``, ``auprc`` and ``prevalence`` (what chance scores for ``auprc``), exact, arguments as `tally`.

    Raises:
      UserError: as `tally`, and unless there are positives and negatives.
    """
    counts = tally(scores, positive, mask)
    return {"auroc": auroc(counts), "auprc": average_precision(counts), "prevalence": _prevalence(counts)}


def linear_edges(low: float, high: float, count: int) -> Float[np.ndarray, "k"]:
    """``count`` equally spaced edges from ``low`` to ``high``, float32.

    Raises:
      UserError: unless low < high, both finite, and count is at least 2.
    """
    if not (np.isfinite([low, high]).all() and low < high and count >= 2):
        raise UserError(f"bin edges: {count} from {low} to {high}; give at least 2 over a finite, rising range")
    return np.linspace(low, high, count, dtype=np.float32)


def quantile_edges(scores: Float[Array, "..."], count: int) -> Float[np.ndarray, "k"]:
    """``count`` edges that are scores of a sample (a calibration set), equally many distinct ones between them.

    With no more distinct scores than edges, each is an edge and the sample's own tally is exact.
    Edges that are left over are infinite, so the shape does not depend on the sample.

    Raises:
      UserError: on an empty sample, NaN or infinity, or when count is below 1.
    """
    values = np.unique(np.asarray(scores, np.float32))
    if count < 1 or not len(values) or not np.isfinite(values).all():
        raise UserError(f"bin edges: {count} quantiles of {np.size(scores)} scores; give finite scores, and a count")
    if len(values) > count:
        values = values[np.round(np.linspace(0, len(values) - 1, count)).astype(int)]
    return np.pad(values, (0, count - len(values)), constant_values=np.inf)


def check_edges(edges: Float[Array, "k"]) -> None:
    """Refuse edges that do not rise; infinite ones may end the row. Under jit nothing is checked.

    Raises:
      UserError: when the edges are not one row of rising numbers.
    """
    if isinstance(edges, jax.core.Tracer):
        return
    edges = np.asarray(edges)
    rising = edges.ndim == 1 and len(edges) and not np.isnan(edges).any()
    if not (rising and ((edges[1:] > edges[:-1]) | np.isposinf(edges[1:])).all()):
        raise UserError("bin edges must be one row of rising numbers; take linear_edges or quantile_edges")


def init(edges: Float[np.ndarray, "k"]) -> Float[Array, "2 n 2"]:
    """An empty accumulator: negatives and positives in n = 2 k + 2 bins, as pairs.

    Args:
      edges: (k,) rising, the same to every call. Bin 2 j + 1 holds the scores that equal edge j,
        bin 2 j those between edges j - 1 and j (the outermost reach to infinity), and the last bin
        NaN and infinity.

    Raises:
      UserError: when the edges are empty, not rising, or NaN.
    """
    check_edges(edges)
    return jnp.zeros((2, 2 * len(edges) + 2, 2), jnp.float32)


def accumulate(
    acc: Float[Array, "2 n 2"],
    scores: Float[Array, "b ..."],
    positive: Bool[Array, "b ..."],
    mask: Mask,
    edges: Float[Array, "k"],
    region: Bool[Array, "b ..."] | None = None,
) -> Float[Array, "2 n 2"]:
    """Add a batch.

    Args:
      acc: what `init`, `accumulate` or `merge` returned; exact up to 2^47 scores a bin.
      scores: (b, ...), compared as float32.
      positive: the same shape, bool or 0 and 1.
      mask: (b,), 1 or True for real records and 0 for padding.
      edges: those of `init`.
      region: the same shape; scores outside do not count. All count if left out.

    Raises:
      UserError: when shapes differ.
    """
    return merge(acc, total_counts(histograms(scores, positive, edges, region), mask))


def total_counts(counts: Int[Array, "b 2 n"], mask: Mask) -> Float[Array, "2 n 2"]:
    """Counts of a batch, from `histograms`, as an accumulator."""
    total = jnp.sum(jnp.where((mask > 0)[:, None, None], counts, 0), axis=0)
    high = total >> 12 << 12  # both halves fit the 24 bits of a float32
    return jnp.stack([high, total - high], -1).astype(jnp.float32)


def merge(a: Float[Array, "2 n 2"], b: Float[Array, "2 n 2"]) -> Float[Array, "2 n 2"]:
    """Sum of two accumulators."""
    return compensated.add(a, b)


def histograms(
    scores: Float[Array, "b ..."],
    positive: Bool[Array, "b ..."],
    edges: Float[Array, "k"],
    region: Bool[Array, "b ..."] | None = None,
) -> Int[Array, "b 2 n"]:
    """Counts of each record's negatives and positives in the n bins of `init`."""
    region = jnp.ones(scores.shape, bool) if region is None else region
    if not scores.shape == positive.shape == region.shape:
        raise UserError(
            f"ranking: scores have shape {scores.shape}, labels {positive.shape} and the region {region.shape}; "
            "all must be the same"
        )
    records, columns = scores.shape[0], 2 * len(edges) + 2
    scores, edges = scores.reshape(records, -1).astype(jnp.float32), jnp.asarray(edges, jnp.float32)
    below, up_to = (jnp.searchsorted(edges, scores, side=side).astype(jnp.int32) for side in ("left", "right"))
    place = jnp.where(jnp.isfinite(scores), below + up_to, columns - 1)
    row = 2 * jnp.arange(records)[:, None] + (positive.reshape(records, -1) > 0)
    counted = (region.reshape(records, -1) > 0).astype(jnp.int32)
    flat = jnp.zeros(2 * records * columns, jnp.int32).at[row * columns + place].add(counted)
    return flat.reshape(records, 2, columns)


def binned_tally(acc: Float[Array, "2 n 2"], edges: Float[np.ndarray, "k"]) -> Tally:
    """Counts just above and at every edge, from the highest down, and at minus infinity; 2 k + 1 rows.

    Raises:
      UserError: when nothing was added, or NaN or infinity was.
    """
    counts = compensated.value(acc)
    bad, counts = counts[:, -1].sum(), counts[:, :-1]
    if bad:
        raise UserError(f"ranking: {bad:.0f} scores are NaN or infinite; find and mend the records they come from")
    if not counts.sum():
        raise UserError("ranking: no score was added; the split that is evaluated is empty")
    negatives, positives = np.cumsum(counts[:, ::-1], axis=1)
    edges = np.float32(edges)
    thresholds = np.stack([edges, np.nextafter(edges, np.float32(np.inf))], 1).ravel()[::-1]
    return Tally(np.append(np.float64(thresholds), -np.inf), positives, negatives)


def compute(acc: Float[Array, "2 n 2"], edges: Float[np.ndarray, "k"]) -> dict[str, float]:
    """Areas of everything added, with what the unknown order between the edges can change.

    Returns:
      ``auroc`` and ``auprc``, scores of one bin counting as equal; ``auroc_error``: the exact AUROC
      is no further away; ``auprc_low`` and ``auprc_high``: the exact average precision lies
      between; ``prevalence``. Where every score is an edge, both are exact.

    Raises:
      UserError: as `binned_tally`, and unless there are positives and negatives.
    """
    counts = binned_tally(acc, edges)
    area, (low, high) = auroc(counts), _precision_bounds(counts)
    positives, negatives = (
        np.diff(column, prepend=0.0) / column[-1] for column in (counts.true_positives, counts.false_positives)
    )
    return {
        "auroc": area,
        "auroc_error": float(np.sum((positives * negatives)[_BETWEEN]) / 2),
        "auprc": average_precision(counts),
        "auprc_low": low,
        "auprc_high": high,
        "prevalence": _prevalence(counts),
    }


def _precision_bounds(counts: Tally) -> tuple[float, float]:
    """Least and greatest average precision of any order between the edges, ties included.

    A bin with p positives and n negatives below t positives and f negatives: the j-th positive from
    above stands at a precision of at least (t + j) / (t + j + c), c = f + n, whose sum over j is
    at least its integral; and of at most (t + p) / (t + p + f).
    """
    t, f = (np.append(0.0, column[:-1]) for column in (counts.true_positives, counts.false_positives))
    reached, c = counts.true_positives, counts.false_positives
    p = reached - t

    def share(x: np.ndarray, of: np.ndarray) -> np.ndarray:
        return np.divide(x, of, out=np.zeros_like(x), where=p > 0)

    tied = p * share(reached, reached + c)
    low, high = tied.copy(), tied.copy()
    grown = np.log(np.divide(reached + c, t + c, out=np.ones_like(c), where=c > 0))
    low[_BETWEEN] = (p - c * grown)[_BETWEEN]
    high[_BETWEEN] = (p * share(reached, reached + f))[_BETWEEN]
    return float(np.sum(low) / reached[-1]), float(np.sum(high) / reached[-1])


def _prevalence(counts: Tally) -> float:
    return float(counts.true_positives[-1] / (counts.true_positives[-1] + counts.false_positives[-1]))


def _need(counts: Tally, measure: str, *kinds: str) -> None:
    sizes = {"positives": counts.true_positives[-1], "negatives": counts.false_positives[-1]}
    for kind in kinds:
        if not sizes[kind]:
            raise UserError(
                f"{measure}: none of the {sum(sizes.values()):.0f} labels is among the {kind}; "
                "it is undefined for one class, so evaluate a split that has both"
            )


def _refuse_labels(positive: np.ndarray) -> None:
    if positive.dtype != bool and not np.isin(positive, (0, 1)).all():
        raise UserError("ranking: labels hold values other than 0 and 1; compare them with the positive class first")
