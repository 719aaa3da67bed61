"""What the page says: the paper's table, the maps, what classifiers learn, the audit; and how protocols differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medgen_jax.evaluation.synthesis_study import lungs, transfer
from medgen_jax.evaluation.synthesis_study.figure import REAL, Pictures
from medgen_jax.evaluation.synthesis_study.subjects import Subject
from medgen_jax.evaluation.synthesis_study.table import row
from medgen_jax.viz.score_tables import Section
from medgen_jax.viz.scores import Case

#: Said wherever the table is: its rows are made by three protocols, and those of the paper by others again.
REMINDER = (
    "The rows differ in protocol, as the paper's do: GAN and DCGAN draw all classes together and are compared with all "
    "real images; Med-StyleGAN2 as described (StyleGAN2) draws each class out of noise; Med-StyleGAN2 as published "
    "(StarGAN v2) translates images of the other classes, 10 of each, and its rows are means over the pairs. Rows of "
    "one protocol may be compared, others not."
)
PAPER = (
    "The paper has FID 2446.5 for GAN and 153.0 for DCGAN, of whole sets; for Med-StyleGAN2 55.8 (Normal), 62.6 "
    "(COVID-19) and 81.2 (Non-COVID), LPIPS 0.199, 0.222 and 0.239, which are its published code's translations after "
    "5,000 steps. They are by another library's Inception: not to be compared with the numbers here."
)
_DIVERSITY = (
    "Diversity: mean LPIPS of the 45 pairs among 10 images, higher is more diverse, and so is noise. Of translations "
    "these are the 10 outputs of one source, which share its anatomy; else 10 images of a class. Floor: FID between "
    "halves of the real images."
)
TITLES = {
    "energy_own": "Energy in the own lungs",
    "area_own": "Their share of the area",
    "energy_mean": "Energy in the mean lungs",
    "area_mean": "Their share of the area",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "auroc": "AUROC",
}
AUDIT = ("memorisation_pixels", "memorisation_network")


def sections(
    subjects: Sequence[Subject], rows_of_maps: Sequence[str], trained: Sequence[str], steps: int | None
) -> list[Section]:
    """All tables; those without numbers are left out by the page.

    Args:
      subjects: the runs.
      rows_of_maps, trained: names of the rows about the judge's maps, and about what classifiers were trained on.
      steps: of each training.
    """
    return [_seed(subjects), _pairs(subjects), _maps(rows_of_maps), _training(trained, steps), _audit(subjects)]


def _seed(subjects: Sequence[Subject]) -> Section:
    lines = []
    for subject in subjects:
        targets = subject.classes if subject.conditional else (None,)
        lines += [_line(f"{subject.title}: {row(subject, None, t)}", row(subject, None, t)) for t in targets]
    classes = dict.fromkeys(name for subject in subjects for name in subject.classes)
    lines += [_line(f"{REAL}, {name}", f"{REAL}, {name}") for name in classes]
    return Section("The table", _COLUMNS, lines, (REMINDER, PAPER, _DIVERSITY))


_COLUMNS = ("Images", "n real", "n drawn", "FID", "SE", "Floor", "KID", "SE", "Diversity", "SE")


def _line(title: str, name: str) -> tuple[str, list[Any]]:
    fid, kid, diversity = (f"{kind} {name}" for kind in ("fid", "kid", "diversity"))
    error = "standard_error"
    counts = [(fid, "n_real"), (fid, "n_fake")]
    return title, [*counts, fid, (fid, error), (fid, "floor"), kid, (kid, error), diversity, (diversity, error)]


def _pairs(subjects: Sequence[Subject]) -> Section:
    named = [row(subject, *pair) for subject in subjects if subject.translating for pair in subject.sets()]
    notes = ("The ten outputs of one source count as ten images, and are drawn together for the intervals.",)
    return Section("Translations, pair by pair", _COLUMNS, [_line(name, name) for name in named], notes)


def _maps(names: Sequence[str]) -> Section:
    said = (
        "Share of the positive part of a class activation map that lies in the lungs. A map that knows nothing has the "
        "lungs' share of the area. Drawn images have no masks: they are asked in the mean lungs of the real images of "
        "their class, where real images are asked as well."
    )
    rows = [(name, [(f"energy_mean {name}", "n"), *(f"{kind} {name}" for kind in lungs.BETTER)]) for name in names]
    return Section("Where a classifier looks", ("Images", "n", *map(TITLES.get, lungs.BETTER)), rows, (said,))


def _training(names: Sequence[str], steps: int | None) -> Section:
    said = f"The judge's network, {steps} steps from the same start; the judge itself had its own images and steps."
    cells = {name: [f"{kind} {name}" for kind in transfer.KINDS] for name in names}
    rows = [(name, [(f"accuracy {name}", "trained_on"), *own]) for name, own in cells.items()]
    titles = ("Trained on", "n", *map(TITLES.get, transfer.KINDS))
    return Section("Trained on synthetic, tested on real", titles, rows, (said,))


def _audit(subjects: Sequence[Subject]) -> Section:
    said = (
        "Distance of drawn images to training images over that to held-out images: well below 1 is a sign of copies. "
        "The verdict stands in the warnings, what planted copies would have shown in the files beside this page."
    )
    rows = [(subject.name, [f"{kind} {subject.name}" for kind in AUDIT]) for subject in subjects]
    return Section("Are training images copied?", ("Run", "By pixels", "By the network"), rows, (said,))


def cases(heading: str, bands: Mapping[str, Sequence[Pictures]]) -> list[Case]:
    """Rows of titled pictures as examples of the page."""
    return [Case(heading, name, row) for name, rows in bands.items() for row in rows]
