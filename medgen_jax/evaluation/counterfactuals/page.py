"""How the page of counterfactuals is laid out: which number stands in which table, and the curves."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from medgen_jax.evaluation.counterfactuals import judge, localisation
from medgen_jax.evaluation.counterfactuals.measures import MAPS, SIDES, Measured
from medgen_jax.evaluation.counterfactuals.statistics import ALL, Line, groups_of
from medgen_jax.metrics.spectra import BANDS
from medgen_jax.viz.line_charts import Chart, Series
from medgen_jax.viz.score_tables import Section

#: Kinds of numbers in words, for columns and sentences.
TITLES = {
    "residual": "residual",
    "control": "control",
    "subtracted": "control subtracted",
    "pixel_auroc": "pixel AUROC",
    "pixel_auprc": "pixel AUPRC",
    "dice": "Dice",
    "iou": "IoU",
    "pointing": "pointing game",
    "healthy_area": "area marked, no box",
    "image_auroc": "image AUROC",
    "flip_rate": "flip rate",
    "control_flip_rate": "flip rate of the control",
}
_CONTROL = (
    "The control is the unguided round trip: what encoding and decoding alone change. A residual no larger than the "
    "control's is not a finding."
)


def sections(
    measured: Sequence[Measured], numbers: Mapping[str, Any], lines: Mapping[str, Sequence[Line]], rows: Iterable[str]
) -> list[Section]:
    """All tables of the page; rows without numbers are left out by it.

    Args:
      measured: of each folder.
      numbers: the content of ``metrics.json``.
      lines: of each folder its curves.
      rows: of the localisation table.
    """
    return [
        _differences(measured),
        _comparisons(measured, numbers),
        _flips(measured, numbers),
        _identity(measured),
        _localisation(rows),
        _bands(measured),
        Section("Spectra as curves", charts=charts(lines)),
    ]


def _differences(measured: Sequence[Measured]) -> Section:
    rows = []
    for own in measured:
        for group in groups_of(own):
            name = f"{own.method.name}, {group.name}"
            cells = [cell for kind in MAPS for cell in (f"mean_{kind} {name}", (f"mean_{kind} {name}", "sd"))]
            rows.append((name, [(f"mean_residual {name}", "n"), *cells]))
    titles = [text for kind in MAPS for text in (f"Mean {TITLES[kind]}", "SD")]
    said = "Mean absolute difference per pixel, in shares of the full range of the images; SD over images."
    return Section("Differences by class", ("Images", "n", *titles), rows, (said, _CONTROL))


def _comparisons(measured: Sequence[Measured], numbers: Mapping[str, Any]) -> Section:
    rows = []
    for own in measured:
        for group in groups_of(own):
            name = f"{own.method.name}, {group.name}"
            counts = [(f"auroc_residual {name}", side) for side in ("positives", "negatives")]
            cells = [f"{number}_{kind} {name}" for number in ("effect", "auroc") for kind in MAPS]
            rows.append((name, [*counts, *cells, f"auroc_view {name}"]))
    titles = [f"{number}, {TITLES[kind]}" for number in ("Cohen's d", "AUROC") for kind in MAPS]
    target = ", ".join(dict.fromkeys(own.method.target or "?" for own in measured))
    said = [
        f"Images of the class against images of the target class, {target}: Cohen's d of the mean absolute difference, "
        "and AUROC, how often an image of the class changed more than one of the target class (0.5 is chance)."
    ]
    if any(name.startswith("auroc_view") for name in numbers):
        said.append("View alone: the same AUROC for who only knows how the image was taken; compare within views.")
    return Section(
        "Does the residual know the class?", ("Class", "n", "n of target", *titles, "View alone"), rows, said
    )


def _flips(measured: Sequence[Measured], numbers: Mapping[str, Any]) -> Section:
    rows = []
    for own in measured:
        for suffix in ("", *(f", {group.name}" for group in groups_of(own) if group.view is None)):
            name = own.method.name + suffix
            cells = [f"{kind} {name}" for kind in judge.BETTER]
            rows.append((name, [(cells[0], "n"), *cells]))
    said = (
        "Of images of other classes than the target that the judge called by their label: the share whose "
        "counterfactual it calls by the target, and the share whose unguided round trip it does."
    )
    return Section(
        "Does an independent classifier change its mind?", ("Method", "n", "Flip rate", "Control"), rows, (said,)
    )


def _identity(measured: Sequence[Measured]) -> Section:
    rows = []
    for own in measured:
        for side in SIDES:
            name = own.method.name + (" round trip" if side == "control" else "")
            kinds = [f"{kind}_{part}" for kind in ("difference", "ssim") for part in ("outside", "inside")]
            cells = [f"{side}_{kind} {own.method.name}" for kind in kinds]
            rows.append((name, [(cells[0], "n"), *cells]))
    titles = [f"{kind} {part}" for kind in ("Mean difference", "SSIM") for part in ("outside", "inside")]
    said = "Images with boxes only. What lies outside of the boxes should stay as it was."
    return Section("Is the rest of the image left alone?", ("Method", "n", *titles), rows, (said,))


def _localisation(rows: Iterable[str]) -> Section:
    kinds = list(localisation.BETTER)
    said = (
        "Residuals first, then maps that need no guidance or no network; a residual shows something only where it "
        "exceeds them. Dice, IoU and marked area are at a threshold from the other half of the patients. Boxes are "
        "coarse: a perfect map of the lesion has a Dice well below 1 too. Of ones everywhere, Dice is what marking the "
        "whole image earns, and AUPRC the share of boxed pixels."
    )
    titles = [title[0].upper() + title[1:] for title in (TITLES[kind] for kind in kinds)]
    lines = [(row, [f"{kind} {row}" for kind in kinds]) for row in rows]
    return Section("Does the residual lie in the boxes?", ("Map", *titles), lines, (said,))


def _bands(measured: Sequence[Measured]) -> Section:
    edges = ("0", *(f"1/{round(1 / edge)}" for edge in BANDS))
    titles = [f"{low} to {high}" for low, high in zip(edges, (*edges[1:], "highest"), strict=True)]
    rows = []
    for own in measured:
        for group in groups_of(own):
            for side in SIDES:
                name = own.method.name + (" round trip" if side == "control" else "") + f", {group.name}"
                cells = [f"band_ratio_{i} {name}" for i in range(len(BANDS) + 1)]
                rows.append((name, [(cells[0], "n"), *cells]))
    said = (
        "10 log10 of mean power after over before, dB, by band of frequency in cycles per pixel: negative is smoother "
        "than the image. What the round trip loses as well is not guidance's doing."
    )
    return Section("Spectra", ("Images", "n", *titles), rows, (said,))


def charts(lines: Mapping[str, Sequence[Line]]) -> list[Chart]:
    """One chart for each class, all methods together; round trips are dashed."""
    labels = dict.fromkeys(line.label for own in lines.values() for line in own)
    drawn = []
    for label in labels:
        series = [
            Series(
                f"{name}{' round trip' if line.side == 'control' else ''}",
                line.frequencies, line.values, line.low, line.high, hue, line.side == "control",
            )
            for hue, (name, own) in enumerate(lines.items())
            for line in own
            if line.label == label
        ]  # fmt: skip
        drawn.append(Chart(label or ALL, series, "cycles per pixel", "power after over before, dB"))
    return drawn
