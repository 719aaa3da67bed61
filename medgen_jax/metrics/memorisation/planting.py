"""How much of copying the measures of memorisation can see: copies are planted, and the alarms counted.

Comparisons of such measures (Stein et al., NeurIPS 2023) found none that detects
memorisation reliably, so each is tried on the data at hand before its silence is believed. The held-out
patients are halved at random; one half is the held-out set, the images of the other play a
generator that copies nothing. Some of them are replaced by copies of training images, exact or
altered, and every measure is asked again. Over many halvings,

* the share of alarms without copies is the false alarm rate, to be near ``alpha``;
* the share of alarms with copies is the power at that rate of that kind of copies.

Both hold for as many images as a half has, fewer than an audit sees, so that the power is
understated; and for a generator of flawless images. Trials share the same images: their
interval is that of more halvings, not of another hospital.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Image
from medgen_jax.metrics.intervals import wilson_interval
from medgen_jax.metrics.memorisation import data_copying, measures
from medgen_jax.metrics.memorisation.sets import Facts, Reference, Sets, examine, prepare
from medgen_jax.metrics.memorisation.thumbnails import linear_resampling

MEASURES = ("distance_ratio", "authenticity", "data_copying", "close_share", "suspects")
RATES = (0.01, 0.05, 0.2)
TRIALS, PERMUTATIONS = 20, 199
COPIES = 256  # of each kind, made once and drawn from in every trial
CROP, NOISE = 0.9, 0.2


class Copies(NamedTuple):
    """Copies of training images: `Facts` of n of them, and (n,) the training images they were made from."""

    facts: Facts
    source: np.ndarray


def alterations(images: Image, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Altered copies of images (n, h, w, c) in [-1, 1], as a generator might emit them.

    Returns:
      arrays of the same shape: ``flipped`` left to right; ``cropped`` to a window of 90 % of height and
      width at a random place, brought back to size linearly; ``noised`` by Gaussian noise of standard
      deviation 0.2, clipped to [-1, 1].

    Raises:
      UserError: when the array is no stack of images.
    """
    images = np.asarray(images, np.float32)
    if images.ndim != 4 or 0 in images.shape:
        raise UserError(f"alterations: shape {images.shape}; (images, height, width, channels) is needed")
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=images.shape).astype(np.float32)
    return {
        "flipped": images[:, :, ::-1],
        "cropped": np.stack([_cropped(image, rng) for image in images]),
        "noised": np.clip(images + NOISE * noise, -1, 1),
    }


def detection_power(
    sets: Sets,
    *,
    rates: Sequence[float] = RATES,
    trials: int = TRIALS,
    alpha: float = measures.ALPHA,
    quantile: float = measures.QUANTILE,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
    name: str = "memorisation",
) -> dict[str, Any] | None:
    """Power and false alarm rate of every measure on these real images; ``sets.generated`` only for its size.

    Copies planted are exact ones and those of ``sets.altered``, whose row i must be made from training
    image i.

    Args:
      sets: of real images; see `Sets`.
      rates: shares of planted copies; at least one image is planted.
      trials: halvings of the held-out patients.
      alpha: level at which a measure raises an alarm.
      quantile: of `measures.close_share`.
      permutations: of `measures.distance_ratio`.
      seed: of halvings, copies and permutations.
      name: of the feature space, for messages.

    Returns:
      what `power_table` returns; None with fewer than 4 held-out patients, which cannot be halved.

    Raises:
      UserError: as `sets.prepare` does, and on rates or trials out of range.
    """
    reference = prepare(sets, name=name, seed=seed)
    size = None if sets.generated is None else len(sets.generated)
    planted = plant(sets, reference, seed=seed, name=name)
    return power_table(
        reference,
        examine(reference.held_out, reference),
        planted,
        generated=size,
        rates=rates,
        trials=trials,
        alpha=alpha,
        quantile=quantile,
        permutations=permutations,
        seed=seed,
    )


def plant(sets: Sets, reference: Reference, *, seed: int = 0, name: str = "memorisation") -> dict[str, Copies]:
    """Copies to be planted, by kind: ``exact`` and every one of ``sets.altered``, at most `COPIES` each.

    Raises:
      UserError: as `examine` does.
    """
    rng = np.random.default_rng([seed, 1])
    planted = {}
    for kind, features in {"exact": reference.train, **sets.altered}.items():
        source = np.sort(rng.permutation(len(features))[:COPIES])
        facts = examine(np.asarray(features)[source], reference, name=f"{name}: {kind} copies")
        planted[kind] = Copies(facts, source)
    return planted


def power_table(
    reference: Reference,
    held_out: Facts,
    planted: Mapping[str, Copies],
    *,
    generated: int | None = None,
    rates: Sequence[float] = RATES,
    trials: int = TRIALS,
    alpha: float = measures.ALPHA,
    quantile: float = measures.QUANTILE,
    permutations: int = PERMUTATIONS,
    seed: int = 0,
) -> dict[str, Any] | None:
    """As `detection_power`, of facts already found.

    Returns:
      ``train``, ``held_out`` and ``generated``, images in a trial (the latter two of the first trial, as patients
      differ in images), ``alpha``, ``trials``, ``seed`` and ``rows``. A row has ``copies`` (``none`` for false
      alarms), ``rate``, ``planted`` (copies), ``traced`` (share of this kind of copies whose nearest training
      image is the one they were made from), and of each measure and of ``any`` of them (after Holm's
      correction) ``alarms``, ``trials`` in which it was defined, ``share`` and ``interval`` (95 %, Wilson).
    """
    if trials < 1 or not all(0 < rate <= 1 for rate in rates):
        raise UserError(f"detection power: {trials} trials at rates {tuple(rates)}; rates in (0, 1] are needed")
    patient = reference.patient[len(reference.train) :]
    if len(np.unique(patient)) < 4:
        return None
    kinds = [("none", 0.0), *((kind, rate) for kind in planted for rate in rates)]
    results = []
    for trial in range(trials):
        rng = np.random.default_rng([seed, 2, trial])
        stays, honest = _halves(patient, generated, rng)
        ratios = _permuted_log_ratios(reference, held_out, planted, stays, permutations, rng)
        results.append({"stays": stays, "honest": honest})
        for kind, rate in kinds:
            copies = _draw(planted, kind, rate, len(honest), rng)
            kept = honest[: len(honest) - len(copies)]
            mixed, ratio = held_out.take(kept), ratios["none"][:, kept]
            if len(copies):
                mixed = mixed.joined(planted[kind].facts.take(copies))
                ratio = np.concatenate([ratio, ratios[kind][:, copies]], axis=1)
            p_values = _p_values(mixed, held_out.take(stays), ratio, ratios["none"][0, stays], quantile)
            results[-1][kind, rate] = len(copies), p_values
    rows = [
        {
            "copies": kind,
            "rate": rate,
            "planted": results[0][kind, rate][0],
            "traced": None if kind == "none" else _traced(planted[kind]),
            **_alarms([result[kind, rate][1] for result in results], alpha),
        }
        for kind, rate in kinds
    ]
    return {
        "train": len(reference.train),
        "held_out": int(results[0]["stays"].sum()),
        "generated": len(results[0]["honest"]),
        "alpha": alpha,
        "trials": trials,
        "seed": seed,
        "rows": rows,
    }


def holm(p_values: Mapping[str, float | None]) -> dict[str, float]:
    """P-values corrected for their number, those that are None left out (Holm, Scand. J. Stat. 6(2), 1979)."""
    given = sorted(((p, name) for name, p in p_values.items() if p is not None))
    corrected, largest = {}, 0.0
    for i, (p, name) in enumerate(given):
        largest = max(largest, min(1.0, p * (len(given) - i)))
        corrected[name] = largest
    return corrected


def _halves(patient: np.ndarray, generated: int | None, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """(m,) which held-out images stay held out, and the others in random order, at most ``generated``."""
    everyone = rng.permutation(np.unique(patient))
    comparison = np.isin(patient, everyone[: len(everyone) // 2])
    return comparison, rng.permutation(np.flatnonzero(~comparison))[:generated]


def _permuted_log_ratios(
    reference: Reference,
    held_out: Facts,
    planted: Mapping[str, Copies],
    stays: np.ndarray,
    permutations: int,
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """`measures.log_ratios` (1 + permutations, n) of held-out images (``none``) and of copies, for the true
    split first; a held-out image's own patient never counts."""
    train = len(reference.train)
    used = np.concatenate([np.ones(train, bool), stays])
    splits = [
        reference.is_train,
        *measures.patient_splits(reference.patient, reference.is_train, used, permutations, rng),
    ]
    own = reference.patient[train:]
    ratios = {"none": [measures.log_ratios(held_out, s, used & ~s, reference.patient, own) for s in splits]}
    for kind, copies in planted.items():
        ratios[kind] = [measures.log_ratios(copies.facts, s, used & ~s) for s in splits]
    return {kind: np.stack(rows) for kind, rows in ratios.items()}


def _draw(planted: Mapping[str, Copies], kind: str, rate: float, size: int, rng: np.random.Generator) -> np.ndarray:
    if kind == "none":
        return np.zeros(0, int)
    available = len(planted[kind].source)
    return rng.permutation(available)[: min(size, max(1, round(rate * size)))]


def _p_values(
    generated: Facts, held_out: Facts, ratios: np.ndarray, held_out_ratios: np.ndarray, quantile: float
) -> dict[str, float | None]:
    """Of every measure; ``ratios`` (1 + permutations, n) belong to the generated images."""
    gaps = measures.relative_gap(ratios).mean(axis=1)
    results = (
        measures.permutation_p_value(gaps[0], gaps[1:]),
        measures.authenticity(generated.authentic, held_out.authentic)["p_value"],
        data_copying.c_t(generated.cell_distance, generated.cell, held_out.cell_distance, held_out.cell)["p_value"],
        measures.close_share(generated.distance, held_out.distance, quantile=quantile)["p_value"],
        measures.suspects(ratios[0], held_out_ratios)["p_value"],
    )
    return dict(zip(MEASURES, results, strict=True))


def _alarms(p_values: list[dict[str, float | None]], alpha: float) -> dict[str, dict[str, Any]]:
    least = [min(holm(p).values(), default=None) for p in p_values]
    columns = {name: [p[name] for p in p_values] for name in MEASURES} | {"any": least}
    return {name: _alarm_rate([p for p in column if p is not None], alpha) for name, column in columns.items()}


def _alarm_rate(p_values: list[float], alpha: float) -> dict[str, Any]:
    alarms, trials = sum(p <= alpha for p in p_values), len(p_values)
    share, interval = (alarms / trials, wilson_interval(alarms, trials)._asdict()) if trials else (None, None)
    return {"alarms": alarms, "trials": trials, "share": share, "interval": interval}


def _traced(copies: Copies) -> float:
    return float(np.mean(copies.facts.source == copies.source))


def _cropped(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    height, width = image.shape[:2]
    rows, columns = (
        linear_resampling(length, length, rng.uniform(0, (1 - CROP) * length), CROP * length).astype(np.float32)
        for length in (height, width)
    )
    return np.einsum("ij,jkc,lk->ilc", rows, image, columns, optimize=True)
