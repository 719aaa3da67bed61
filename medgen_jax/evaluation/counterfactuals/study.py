"""Folders of counterfactuals, each a method and a row, judged side by side: ``evaluate --counterfactuals``.

What the chest X-ray paper shows (differences by class, spectra), and what it takes to believe it: the unguided round
trip beside everything, the same within each view, an independent classifier, what changed outside of the lesions, and
where the residuals lie beside maps that need no network. What cannot be computed is left out, and the page says why.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation import comparison, numbers, results
from medgen_jax.evaluation.counterfactuals import judge as judging
from medgen_jax.evaluation.counterfactuals import localisation, page, pictures, statistics
from medgen_jax.evaluation.counterfactuals.judge import Asked, Judge
from medgen_jax.evaluation.counterfactuals.localisation import Scored
from medgen_jax.evaluation.counterfactuals.measures import MAPS, SIDES, Measured, Method, measure, open_methods
from medgen_jax.evaluation.counterfactuals.statistics import Line, share
from medgen_jax.evaluation.scores import Score
from medgen_jax.evaluation.settings import Settings

Say = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Request:
    """What is judged and by what, named as the flags of the command.

    Attributes:
      counterfactuals: folders, each a row.
      judge: directory of a classifier's run, or None.
      checkpoint: of the judge: ``last``, ``best`` or a step.
      train_boxes: folder of counterfactuals of training images, or CSV file, or None.
      against: ``metrics.json`` of an earlier evaluation, or None.
    """

    counterfactuals: Sequence[str | Path]
    judge: str | Path | None = None
    checkpoint: str | int = "last"
    train_boxes: str | Path | None = None
    against: str | Path | None = None


def evaluate(request: Request, output: str | Path, settings: Settings, *, say: Say = print) -> results.Evaluation:
    """Judge folders of counterfactuals and write the results.

    Raises:
      UserError: whatever is to be refused: folders, judge and training boxes before anything is measured.
    """
    settings.check()
    if settings.metrics:
        raise UserError("--metrics: counterfactuals are always given all their numbers; leave it out")
    earlier = comparison.read(request.against) if request.against else None
    methods = open_methods(request.counterfactuals)
    judge = judging.open_judge(request.judge, request.checkpoint, methods) if request.judge else None
    asked = [Asked(judge, method, settings.batch) if judge else None for method in methods]
    training = localisation.open_training(request.train_boxes, methods) if request.train_boxes else None
    folder = results.claim(output, settings.overwrite)

    found = results.Evaluation("Counterfactuals", _facts(methods, judge, settings), drawn=_drawn(methods))
    left: dict[str, None] = {}

    def leave_out(sentence: str) -> None:
        left[sentence] = None

    measured = [measure(m, settings.batch, a.look if a else None) for m, a in zip(methods, asked, strict=True)]
    lines: dict[str, list[Line]] = {}
    for own, answers in zip(measured, asked, strict=True):
        say(f"{own.method.name}: intervals of {len(own.method.entries)} images ...")
        scored = statistics.means(own, settings)
        scored |= statistics.comparisons(own, settings, leave_out)
        flips = _flips(own.method, answers, settings, leave_out)
        scored |= statistics.parts(own, settings, leave_out)
        scored |= statistics.spectra(own, settings, leave_out)
        lines[own.method.name] = list(statistics.curves(own, settings, leave_out))
        found.numbers |= _entries(flips, settings, _conditions(own, judge=judge.digest[:8] if judge else None))
        found.numbers |= _entries(scored, settings, _conditions(own))
    rows = localisation.tables(measured, training, settings, leave_out)
    found.per_image = _per_image(measured, asked, judge, settings)
    found.warnings = _warnings(measured) + [f"left out: {line}" for line in left]
    _add_localisation(found, rows, settings)
    found.sections = page.sections(measured, found.numbers, lines, rows)
    found.headline = _headline(found.numbers, measured)
    found.cases = pictures.cases(measured, settings.pictures)
    found.changes = comparison.changes(earlier, found.numbers) if earlier else []
    say(f"page: {results.write(folder, found)}")
    return found


# -- numbers ----------------------------------------------------------------------------------------


def _flips(
    method: Method, asked: Asked | None, settings: Settings, leave_out: Callable[[str], None]
) -> dict[str, Score]:
    """Flip rates of all images that count, and of each class where several do."""
    if asked is None:
        leave_out("flip rate: --judge is missing, the run of a classifier that did not guide")
        return {}
    counted, labels = asked.counted(), np.array(method.column("label"), object)
    if not counted.any():
        leave_out(f"{method.name}: flip rate: the judge calls no image of another class than the target by its label")
        return {}
    classes = sorted(set(labels[counted]))
    chosen = {"": counted} | (
        {f", {label}": counted & (labels == label) for label in classes} if len(classes) > 1 else {}
    )
    patients, found = method.column("patient"), {}
    for row, images in chosen.items():
        own = [patient for patient, use in zip(patients, images, strict=True) if use]
        for kind, side in zip(judging.BETTER, SIDES, strict=True):
            found[f"{kind} {method.name}{row}"] = share(asked.flips(side)[images], own, settings)
    return found


def _add_localisation(found: results.Evaluation, rows: Mapping[str, Scored], settings: Settings) -> None:
    """Numbers of all rows; beside those of a residual the baselines', and a warning where one of them is as good."""
    for row, scored in rows.items():
        blind = {n: other.numbers for n, other in rows.items() if not other.residual and other.images == scored.images}
        conditions = _conditions(scored.owner, boxes=scored.training) | ({"run": row} if row in blind else {})
        entries = _entries({f"{kind} {row}": score for kind, score in scored.numbers.items()}, settings, conditions)
        for kind, score in scored.numbers.items() if scored.residual else ():
            beside = {name: numbers[kind].value for name, numbers in blind.items() if kind in numbers}
            entries[f"{kind} {row}"]["baselines"] = beside
            best = max(beside, key=beside.get, default=None)
            if kind in _COMPARED and best is not None and beside[best] >= score.value:
                said = f"{row}: {page.TITLES[kind]} {score.value:.3f} is no better than that of"
                found.warnings.append(f"{said} “{best}”, {beside[best]:.3f}")
        found.numbers |= entries


#: Numbers that the terminal shows.
_FIRST = ("mean_residual", "mean_control", "effect_residual", "auroc_residual", "auroc_control", "auroc_view")
_FIRST += ("flip_rate", "control_flip_rate", "counterfactual_difference_outside", "counterfactual_difference_inside")
_FIRST += ("pixel_auroc", "pixel_auprc")
#: Numbers of localisation that a baseline is warned about.
_COMPARED = ("pixel_auroc", "pixel_auprc", "dice")
_BETTER = statistics.BETTER | judging.BETTER | localisation.BETTER


def _entries(scored: Mapping[str, Score], settings: Settings, conditions: Mapping[str, Any]) -> numbers.Entries:
    better = {name: _BETTER[name.partition(" ")[0]] for name in scored}
    return numbers.of_classes(scored, better, settings, conditions)


def _conditions(measured: Measured, **told: str | None) -> dict[str, Any]:
    """What fingerprints say of a folder; ``told`` is what else its numbers hang on."""
    method, count = measured.method, len(measured.method.entries)
    order = sorted(range(count), key=lambda i: method.entries[i].name)
    images, made = (
        hashlib.sha256("\n".join(measured.digests[i][k] for i in order).encode()).hexdigest() for k in (0, 1)
    )
    said = {"target": method.target, **told}
    return {
        "n_real": count,
        "n_fake": count,
        "reference": images,
        "fake": made,
        "run": method.name,
        "settings": ",".join(f"{name}={value}" for name, value in said.items() if value) or None,
    }


# -- what the results say ---------------------------------------------------------------------------


def _facts(methods: Sequence[Method], judge: Judge | None, settings: Settings) -> dict[str, str]:
    targets = dict.fromkeys(method.target or "several" for method in methods)
    return {
        "Methods": ", ".join(f"{method.name} ({len(method.entries)} images)" for method in methods),
        "Target": ", ".join(targets),
        **({"Judge": Path(judge.run).name} if judge else {}),
        "Intervals": f"{settings.level:.0%}",
        "Seed": str(settings.seed),
    }


def _headline(numbers: Mapping[str, Any], measured: Sequence[Measured]) -> tuple[str, ...]:
    """The numbers for the terminal: those that a reader asks for first, over all views."""
    views = {view for own in measured for view in own.method.column("view") if view is not None}
    return tuple(name for name in numbers if name.partition(" ")[0] in _FIRST and name.rpartition(", ")[2] not in views)


def _drawn(methods: Sequence[Method]) -> str:
    said = "An interval covers the chance of having drawn these {} and not others of the same number"
    if all(entry.patient is not None for method in methods for entry in method.entries):
        return f"{said.format('patients, with all their images,')}, taken as independent of each other."
    return (
        f"{said.format('images')}, taken as independent of each other. Not all images say whose they are; where "
        "several are of one patient, the true intervals are wider."
    )


def _warnings(measured: Sequence[Measured]) -> list[str]:
    said = []
    sets = {own.method.name: {digests[0] for digests in own.digests} for own in measured}
    first = next(iter(sets))
    said += [
        f"{name} holds other images than {first}: rows are not about the same images"
        for name in sets
        if sets[name] != sets[first]
    ]
    for own in measured:
        views, labels = own.method.column("view"), own.method.column("label")
        if any(label is not None for label in labels) and all(view is None for view in views):
            said.append(f"{own.method.name}: views are not known, so a difference between classes may be one of views")
        if np.array_equal(own.means["residual"], own.means["control"]) and own.means["residual"].any():
            said.append(f"{own.method.name}: the residual is the control's: guidance changed nothing")
    return said


def _per_image(
    measured: Sequence[Measured], asked: Sequence[Asked | None], judge: Judge | None, settings: Settings
) -> dict[str, Sequence[Any]]:
    columns: dict[str, list[Any]] = {}

    def add(name: str, values: Sequence[Any]) -> None:
        columns.setdefault(name, []).extend(values)

    for own, answers in zip(measured, asked, strict=True):
        count = len(own.method.entries)
        add("method", [own.method.name] * count)
        add("record", range(count))
        if settings.names:
            add("name", [entry.name for entry in own.method.entries])
        for name in ("label", "view"):
            add(name, own.method.column(name))
        for name in MAPS:
            add(f"mean_{name}", own.means[name])
        for name, values in own.parts.items():
            add(name, [None if np.isnan(value) else value for value in values])
        for name in answers.probabilities if answers else ():
            for k, label in enumerate(judge.classes):
                add(f"p_{label}_{name}", answers.probabilities[name][:, k])
    return columns
