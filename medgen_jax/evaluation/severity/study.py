"""Severity scores from residuals, against an encoder of the images themselves, by the number of scored patients.

All learn by the same regression and are tested on the same patients (`medgen_jax.metrics.severity`). Of each folder of
counterfactuals three sets of features are tried: of the residual; of what is left of it beyond the unguided round trip;
and of that round trip alone, which knows nothing of the guidance, so that what it reaches is no merit of it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from medgen_jax.core.errors import UserError
from medgen_jax.data.counterfactual_folders import CounterfactualFolder, Entry
from medgen_jax.data.severity_scores import SeverityScores, read_scores
from medgen_jax.engine.writers import write_json
from medgen_jax.evaluation import numbers, results
from medgen_jax.evaluation.features import Extractor, FeatureRows
from medgen_jax.evaluation.folders import eight_bit
from medgen_jax.evaluation.networks import Networks, from_weights
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.severity import numbers as severity_numbers
from medgen_jax.evaluation.severity import page
from medgen_jax.evaluation.severity.residuals import KINDS, ScoredResiduals, join
from medgen_jax.metrics import ridge, severity
from medgen_jax.metrics.severity import LabelEfficiency

CURVES = "label_efficiency.json"
ENCODERS = ("inception",)


@dataclass(frozen=True)
class Request:
    """What the user asks for.

    Attributes:
      residuals: folders of counterfactuals.
      scores, column: as `medgen_jax.data.severity_scores.read_scores` takes them.
      encoder: one of `ENCODERS`, or None.
      limits: lowest and highest score of the scale; None for RALO's own, or else the extremes of what is learned from.
      held_out: share of the patients.
      repeats: how often the scored patients are drawn.
    """

    residuals: tuple[str | Path, ...]
    scores: str | Path
    column: str
    encoder: str | None = None
    limits: tuple[float, float] | None = None
    held_out: float = 0.3
    repeats: int = 20


def evaluate(
    request: Request,
    output: str | Path,
    settings: Settings,
    *,
    networks: Networks | None = None,
    say: Callable[[str], None] = print,
) -> results.Evaluation:
    """Learn, test, draw the curves, and write the results with `CURVES` beside them.

    Args:
      request: what from what.
      output: folder for the results.
      settings: level, resamples, seed, batch, weights, resize, pictures, names and overwrite are used.
      networks: pretrained networks by name; those in the weights folder when None.
      say: where messages go.

    Raises:
      UserError: whatever is to be refused, before the first array is read; an array that cannot be.
    """
    settings.check()
    _check(request)
    table = read_scores(request.scores, request.column)
    options = dict(limits=request.limits, held_out=request.held_out, seed=settings.seed)
    records = join(request.residuals, table, **options)
    extractor = None
    if request.encoder:
        network = (networks or from_weights(settings))(request.encoder)
        extractor = Extractor(network, settings.protocol, settings.batch)
    folder = results.claim(output, settings.overwrite)

    features = _of_residuals(records)
    if extractor:
        features[request.encoder] = _of_images(records, extractor)
    features[severity_numbers.MEAN] = np.zeros((len(records), 1))
    curves = {name: _curve(rows, records, request, settings) for name, rows in features.items()}
    answers = {name: _answers(rows, records) for name, rows in features.items()}

    scored, said = severity_numbers.scores(answers, request.encoder, records, settings)
    made = {name: _digest(own) for name, own in features.items()}
    if extractor:
        made[request.encoder] |= extractor.conditions
    found = results.Evaluation(f"Severity from residuals: {table.column}", {}, drawn=page.DRAWN)
    for name, score in scored.items():
        images = _conditions(table, records, request) | made.get(name.partition(" ")[2], {})
        better = {name: severity_numbers.direction(name)}
        found.numbers |= numbers.of_classes({name: score}, better, settings, images)
    found.warnings = [*severity_numbers.caution(records), *records.warnings, *said]
    page.describe(found, table, records, curves, answers, request, settings)
    write_json(folder / CURVES, _content(found, curves, table, records))
    say(f"page: {results.write(folder, found)}")
    return found


def _check(request: Request) -> None:
    if not request.residuals:
        raise UserError("--residuals is missing: a folder made by python -m medgen_jax.counterfactual")
    if request.encoder not in (None, *ENCODERS):
        raise UserError(f"--encoder {request.encoder}: must be {' or '.join(ENCODERS)}")
    if request.repeats < 2:
        raise UserError(f"--repeats {request.repeats}: at least 2 are needed to know their spread")


# -- features ---------------------------------------------------------------------------------------


def _of_residuals(records: ScoredResiduals) -> dict[str, np.ndarray]:
    """Sets of features of each folder, (n, f), by the name of the predictor that they make."""
    found = {}
    for name, folder in records.folders.items():
        bar = tqdm(records.entries[name], unit="image", desc=name, disable=None)
        rows = np.stack([_of_residual(folder, entry) for entry in bar], axis=1)
        found |= {called: rows[KINDS.index(kind)] for kind, called in records.predictors[name].items()}
    return found


def _of_residual(folder: CounterfactualFolder, entry: Entry) -> np.ndarray:
    """Features of the residual, of the residual beyond the control's, and of the latter, (3, f), as `KINDS`."""
    arrays = folder.arrays(entry)
    residual, control = arrays.residual, arrays.control_residual
    nothing = np.zeros_like(control)
    try:
        taken = np.stack([nothing, control, nothing])
        return severity.residual_features(np.stack([residual, residual, control]), taken)
    except UserError as error:
        raise UserError(f"{folder.path}, {entry.name}: {error}") from error


def _of_images(records: ScoredResiduals, extractor: Extractor) -> np.ndarray:
    """Features of the images of the first folder, (n, d); those of one size are batched."""
    folder, entries = records.first
    rows, waiting = FeatureRows(extractor), {}

    def send(shape: tuple[int, ...]) -> None:
        places, images = zip(*waiting.pop(shape), strict=True)
        rows.add(places, np.stack(images))

    for place, entry in enumerate(tqdm(entries, unit="image", desc=extractor.network.name, disable=None)):
        image = np.round((folder.arrays(entry).image + 1) * 127.5).astype(np.uint8)
        waiting.setdefault(image.shape, []).append((place, eight_bit(image)))
        if len(waiting[image.shape]) == extractor.batch:
            send(image.shape)
    for shape in list(waiting):
        send(shape)
    return rows.array()


# -- regressions ------------------------------------------------------------------------------------


def _curve(features: np.ndarray, records: ScoredResiduals, request: Request, settings: Settings) -> LabelEfficiency:
    options = dict(limits=records.limits, repeats=request.repeats, seed=settings.seed)
    return severity.label_efficiency(features, records.scores, records.patients, records.held_out, **options)


def _answers(features: np.ndarray, records: ScoredResiduals) -> np.ndarray:
    """Scores of the held-out images by the regression on all others."""
    training = ~records.testing
    patients = records.patients_of(training)
    model = ridge.fit(features[training], records.scores[training], patients, limits=records.limits)
    return ridge.predict(model, features[records.testing])


# -- what is written --------------------------------------------------------------------------------


def _digest(features: np.ndarray) -> dict[str, str]:
    return {"fake": hashlib.sha256(np.ascontiguousarray(features).tobytes()).hexdigest()}


def _conditions(table: SeverityScores, records: ScoredResiduals, request: Request) -> dict[str, Any]:
    """What of a number's conditions is the same for all predictors."""
    low, high = records.limits
    testing = int(records.testing.sum())
    return {
        "settings": f"ridge, {table.column} limited to {low:g}..{high:g}",
        "split": f"{request.held_out:g} of patients held out",
        "n_real": len(records) - testing,
        "n_fake": testing,
        "reference": records.digest,
        "run": ", ".join(records.folders),
    }


def _content(
    found: results.Evaluation,
    curves: Mapping[str, LabelEfficiency],
    table: SeverityScores,
    records: ScoredResiduals,
) -> dict[str, Any]:
    """``label_efficiency.json``."""
    return {
        "format": 1,
        "warnings": found.warnings,
        "column": table.column,
        "limits": records.limits,
        "images": len(records),
        "patients": len(set(records.patients)),
        "held_out": {"images": int(records.testing.sum()), "patients": len(records.held_out)},
        "curves": {
            name: {
                "patients": curve.patients,
                "images": curve.images,
                "mae_mean": curve.mean,
                "mae_spread": curve.spread,
                "mae": curve.errors,
            }
            for name, curve in curves.items()
        },
    }
