"""What the page of severity scores shows: facts, a table of predictors, curves by labels, the largest errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medgen_jax.data.severity_scores import SeverityScores
from medgen_jax.evaluation.results import Evaluation
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.severity.numbers import READERS
from medgen_jax.evaluation.severity.residuals import ScoredResiduals
from medgen_jax.metrics.severity import LabelEfficiency
from medgen_jax.viz.line_charts import Chart, Series
from medgen_jax.viz.score_tables import Section
from medgen_jax.viz.scores import Case

if TYPE_CHECKING:
    from medgen_jax.evaluation.severity import Request

DRAWN = (
    "An interval covers the chance of having held out these patients, with all their images, and not others of the "
    "same number; the regressions stay as they were learned."
)
_KINDS = {"mae": "Mean abs. error", "pearson": "Pearson r", "spearman": "Spearman r"}


def describe(
    found: Evaluation,
    table: SeverityScores,
    records: ScoredResiduals,
    curves: Mapping[str, LabelEfficiency],
    answers: Mapping[str, np.ndarray],
    request: Request,
    settings: Settings,
) -> None:
    """Add to an evaluation what its page and ``per_image.csv`` hold besides the numbers.

    Args:
      found: has its numbers already.
      table, records: what was scored.
      curves, answers: of every predictor; answers are for the held-out images.
      request, settings: of the evaluation.
    """
    found.facts = _facts(table, records, request, settings)
    readers = found.numbers.get(f"mae {READERS}", {}).get("value")
    found.sections = [_scores(answers, readers, request), _efficiency(curves, readers, records, request)]
    found.per_image = _per_image(records, answers, settings)
    found.cases = _cases(records, answers, settings.pictures)


def _facts(table: SeverityScores, records: ScoredResiduals, request: Request, settings: Settings) -> dict[str, str]:
    low, high = records.limits
    known = request.limits or table.limits
    testing = int(records.testing.sum())
    patients = len(set(records.patients))
    return {
        "Residuals": ", ".join(records.folders),
        "Scores": f"{table.column} of {Path(request.scores).name}",
        "Range": f"{low:g} to {high:g}" + ("" if known else ", of the scores that are learned from"),
        "Learned from": f"{len(records) - testing} images of {patients - len(records.held_out)} patients",
        "Held out": f"{testing} images of {len(records.held_out)} patients",
        "Encoder": request.encoder or "none",
        "Intervals": f"{settings.level:.0%}",
        "Seed": str(settings.seed),
    }


def _scores(answers: Mapping[str, np.ndarray], readers: float | None, request: Request) -> Section:
    names = [*answers, READERS]
    columns = ["Scores from", *_KINDS.values()]
    rows = [(name, [f"{kind} {name}" for kind in _KINDS]) for name in names]
    if request.encoder:
        columns.append(f"Error minus that of {request.encoder}")
        rows = [(name, [*cells, f"mae_difference {name}"]) for name, cells in rows]
    notes = [
        "All are the same ridge regression on the same patients, its penalty chosen among them by leaving patients "
        "out. residual: image minus counterfactual. residual beyond control: what of it exceeds the unguided round "
        "trip. control alone: that round trip, which no guidance has touched; a residual that does no better says "
        "nothing of the guidance."
    ]
    if readers is not None:
        notes.append("readers: the second one's scores against the first one's, on the same images.")
    return Section("Scores of held-out patients", columns, rows, notes)


def _efficiency(
    curves: Mapping[str, LabelEfficiency], readers: float | None, records: ScoredResiduals, request: Request
) -> Section:
    heading = "Error by the number of scored patients"
    counts = next(iter(curves.values())).patients
    if len(counts) < 2:
        return Section(heading, notes=[f"All {counts[0]} patients are too few for a curve."])
    own = {folder: list(kinds.values()) for folder, kinds in records.predictors.items()}
    common = [name for name in curves if not any(name in names for names in own.values())]
    charts = [
        _chart(folder, {name: curves[name] for name in [*names, *common]}, readers) for folder, names in own.items()
    ]
    note = (
        f"Lines are means over {request.repeats} draws of who is scored, bands one standard deviation to both sides. "
        "The held-out patients are the same at every point, and bands say nothing of the choice of these; with all "
        "others scored there is but one draw, and no band."
    )
    return Section(heading, notes=[note], charts=charts)


def _chart(title: str, curves: Mapping[str, LabelEfficiency], readers: float | None) -> Chart:
    lines = [
        Series(name, curve.patients, curve.mean, curve.mean - curve.spread, curve.mean + curve.spread, hue)
        for hue, (name, curve) in enumerate(curves.items())
    ]
    if readers is not None:
        ends, nothing = lines[0].x[[0, -1]], np.full(2, np.nan)
        lines.append(Series(READERS, ends, np.full(2, readers), nothing, nothing, len(lines), dashed=True))
    return Chart(title, lines, "scored patients", "mean abs. error on held-out patients", log=True)


def _per_image(records: ScoredResiduals, answers: Mapping[str, np.ndarray], settings: Settings) -> dict[str, Sequence]:
    """Held-out images by their place among all, with score and answers; names on demand, patients never."""
    places = np.flatnonzero(records.testing)
    _, entries = records.first
    names = {"name": [entries[place].name for place in places]} if settings.names else {}
    return {"record": places, **names, "score": records.scores[places], **answers}


def _cases(records: ScoredResiduals, answers: Mapping[str, np.ndarray], count: int) -> list[Case]:
    """The held-out images on which the first predictor errs most."""
    name, answer = next(iter(answers.items()))
    places = np.flatnonzero(records.testing)
    errors = np.abs(answer - records.scores[places])
    folder, entries = records.first

    def case(row: int) -> Case:
        place = places[row]
        arrays = folder.arrays(entries[place])
        pictures = [("image", arrays.image), ("counterfactual", arrays.counterfactual), ("residual", arrays.residual)]
        text = f"record {place}: score {records.scores[place]:.3g}, by {name} {answer[row]:.3g}"
        return Case("Largest errors", text, [(title, np.clip(picture, -1, 1)) for title, picture in pictures])

    return [case(int(row)) for row in np.argsort(-errors, kind="stable")[:count]]
