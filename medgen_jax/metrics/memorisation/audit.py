"""The audit of a generator: every measure of memorisation, in every feature space, with its power and a verdict.

Copies hide in the features that their alteration moves, so more than one space belongs in an audit:
those of a network trained on such images, and pixels. For pixels, of one shape or not::

    variants = thumbnails.pixel_variants()
    pixels = Sets(
        *(thumbnails.pixel_features(images) for images in (train, held_out, generated)),
        train_patients, held_out_patients, variants,
        {kind: thumbnails.pixel_features(copies) for kind, copies in alterations(train).items()},
    )
    report = audit({"pixels": pixels, "network": Sets(...)})

An audit never shows that nothing was copied. Its verdict says which planted copies would have been noticed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.metrics.memorisation import measures
from medgen_jax.metrics.memorisation.planting import RATES, TRIALS, holm, plant, power_table
from medgen_jax.metrics.memorisation.sets import Facts, Reference, Sets, check, examine, prepare

CONCLUSIVE = ("distance_ratio", "suspects")  # smooth or uniform images do not set these off
PAIRS = 16


def audit(
    features: Mapping[str, Sets],
    *,
    alpha: float = measures.ALPHA,
    quantile: float = measures.QUANTILE,
    permutations: int = measures.PERMUTATIONS,
    rates: Sequence[float] = RATES,
    trials: int = TRIALS,
    pairs: int = PAIRS,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure memorisation in every feature space.

    Args:
      features: `Sets` by the name of the feature space, such as ``pixels``.
      alpha: chance of a false alarm, in each space after Holm's correction for the measures, and in the
        overall verdict after that for all measures of all spaces.
      quantile: of `measures.close_share`.
      permutations: of `measures.distance_ratio`.
      rates: shares of copies planted to measure the power.
      trials: of each, see `planting.detection_power`.
      pairs: generated images listed with their nearest training image.
      seed: of all that is drawn.

    Returns:
      a report that can be written as JSON: ``alpha``, ``seed``, ``verdict`` and ``spaces``. A space has ``n``
      (images and patients of each set), ``dimensions``, ``variants``, ``measures`` (by the names of
      `planting.MEASURES`, each with ``p_value`` and ``corrected_p_value``, None where the sets
      are too small for it), ``closest_pairs``, ``power`` (None with fewer than 4 held-out patients), ``notes``
      and ``verdict``.

    Raises:
      UserError: before anything is computed, as `sets.check` does, without generated images,
        and on options out of range.
    """
    if not features:
        raise UserError("memorisation: no feature space is given; one is needed, such as pixels")
    if not 0 < alpha < 1:
        raise UserError(f"memorisation: alpha is {alpha}; a number between 0 and 1 is needed")
    checked = {name: check(sets, name=name) for name, sets in features.items()}
    for name, sets in checked.items():
        if sets.generated is None:
            raise UserError(f"{name}: no generated images are given; an audit is about them")
    options = dict(alpha=alpha, quantile=quantile, permutations=permutations, seed=seed)
    spaces = {
        name: _space(name, sets, rates=rates, trials=trials, pairs=pairs, **options) for name, sets in checked.items()
    }
    return {"alpha": alpha, "seed": seed, "verdict": _overall(spaces, alpha), "spaces": spaces}


def _space(
    name: str,
    sets: Sets,
    *,
    alpha: float,
    quantile: float,
    permutations: int,
    rates: Sequence[float],
    trials: int,
    pairs: int,
    seed: int,
) -> dict[str, Any]:
    reference = prepare(sets, name=name, seed=seed)
    held_out, generated = examine(sets.held_out, reference), examine(sets.generated, reference)
    planted = plant(sets, reference, seed=seed, name=name)
    power = power_table(
        reference,
        held_out,
        planted,
        generated=len(sets.generated),
        rates=rates,
        trials=trials,
        alpha=alpha,
        quantile=quantile,
        seed=seed,
    )
    measures = _measures(generated, held_out, reference, alpha, quantile, permutations, seed)
    corrected = holm({key: result["p_value"] for key, result in measures.items()})
    for key, result in measures.items():
        result["corrected_p_value"] = corrected.get(key)
    return {
        "n": _counts(sets, reference),
        "dimensions": reference.train.shape[1],
        "variants": 0 if sets.variants is None else len(sets.variants),
        "measures": measures,
        "closest_pairs": _pairs(generated, reference, sets, measures["suspects"]["images"], pairs),
        "power": power,
        "notes": _notes(sets, reference, held_out, generated, power),
        "verdict": _finding(corrected, alpha) + " " + _power_words(power),
    }


def _measures(
    generated: Facts,
    held_out: Facts,
    reference: Reference,
    alpha: float,
    quantile: float,
    permutations: int,
    seed: int,
) -> dict[str, dict[str, Any]]:
    is_train, own = reference.is_train, reference.patient[len(reference.train) :]
    ratios = measures.log_ratios(generated, is_train, ~is_train)
    held_out_ratios = measures.log_ratios(held_out, is_train, ~is_train, reference.patient, own)
    return {
        "distance_ratio": measures.distance_ratio(generated, reference, permutations=permutations, seed=seed),
        "authenticity": measures.authenticity(generated.authentic, held_out.authentic),
        "data_copying": measures.data_copying_score(generated, held_out, seed=seed),
        "close_share": measures.close_share(generated.distance, held_out.distance, quantile=quantile),
        "suspects": measures.suspects(ratios, held_out_ratios, alpha=alpha),
    }


def _counts(sets: Sets, reference: Reference) -> dict[str, int | None]:
    known = sets.train_patients is not None
    sides = {"train": reference.patient[: len(sets.train)], "held_out": reference.patient[len(sets.train) :]}
    return {
        **{side: len(patient) for side, patient in sides.items()},
        "generated": len(sets.generated),
        **{f"{side}_patients": len(np.unique(patient)) if known else None for side, patient in sides.items()},
    }


def _pairs(
    generated: Facts, reference: Reference, sets: Sets, suspects: list[int] | None, count: int
) -> list[dict[str, Any]]:
    pairs = measures.closest_pairs(generated, reference, count=count)
    for pair in pairs:
        pair["suspect"] = pair["generated"] in (suspects or ())
        if sets.train_patients is not None:
            pair["train_patient"] = str(sets.train_patients[pair["train"]])
    return pairs


def _notes(
    sets: Sets, reference: Reference, held_out: Facts, generated: Facts, power: dict[str, Any] | None
) -> list[str]:
    counts = {
        "generated images are identical to a training image in these features": generated.distance,
        "training images are identical to another; inexact copies of them count as authentic": reference.spacing,
        "held-out images are identical to a training image in these features: the split leaks, or the images "
        "are blank; close_share and suspects are blunt for it": held_out.distance,
    }
    notes = [f"{np.count_nonzero(d == 0)} {what}." for what, d in counts.items() if np.any(d == 0)]
    if sets.train_patients is None:
        notes.append("Patients are not given: each image was taken for a patient of its own.")
    if power is not None:
        silent = power["rows"][0]["any"]
        if silent["interval"]["low"] > power["alpha"]:
            notes.append(
                f"False alarms in {silent['alarms']} of {silent['trials']} trials are more than alpha "
                f"{power['alpha']} allows: held-out and training images differ, so distrust an alarm."
            )
    return notes


def _finding(corrected: Mapping[str, float], alpha: float) -> str:
    alarms = [f"{name} p {p:.2g}" for name, p in corrected.items() if p <= alpha]
    words = f" ({', '.join(alarms)}; corrected for {len(corrected)} measures, level {alpha})"
    if any(corrected.get(name, 1) <= alpha for name in CONCLUSIVE):
        return f"Evidence of copying{words}. Look at the closest pairs: the numbers do not say who is in them."
    if alarms:
        return (
            f"Undecided{words}: generated images lie nearer to training images than held-out ones, but about as near "
            "to held-out images; smooth or uniform images do so without copying. Look at the closest pairs."
        )
    return (
        f"No copying was detected ({len(corrected)} measures, level {alpha}), which does not show that there is none."
    )


def _power_words(power: dict[str, Any] | None) -> str:
    if power is None:
        return "The power of the measures is unknown: fewer than 4 held-out patients cannot be halved to plant copies."
    found: dict[str, list[str]] = {}
    for row in power["rows"]:
        share = f"{row['any']['alarms']}/{row['any']['trials']}"
        found.setdefault(row["copies"], []).append(f"{100 * row['rate']:g} % in {share}")
    without = power["rows"][0]["any"]
    kinds = "; ".join(f"{kind} {', '.join(shares)}" for kind, shares in found.items() if kind != "none")
    return (
        f"Of copies planted among {power['generated']} real images, {power['held_out']} others held out, the measures "
        f"together noticed: {kinds} trials; without copies they raised {without['alarms']}/{without['trials']} alarms. "
        "Fewer copies, and copies altered in other ways, may go unnoticed."
    )


def _overall(spaces: Mapping[str, dict[str, Any]], alpha: float) -> str:
    p_values = {
        (space, key): result["p_value"]
        for space, report in spaces.items()
        for key, result in report["measures"].items()
    }
    corrected = holm(p_values)
    where = {space for (space, key), p in corrected.items() if p <= alpha and key in CONCLUSIVE}
    hints = {space for (space, key), p in corrected.items() if p <= alpha} - where
    level = f"level {alpha}, corrected for {len(corrected)} measures"
    if where:
        return f"Evidence of copying in {', '.join(sorted(where))} ({level})."
    if hints:
        return f"Undecided: see {', '.join(sorted(hints))} ({level})."
    return (
        f"No copying was detected in {', '.join(spaces)} ({level}). "
        "The verdict of each space says what would have been noticed."
    )
