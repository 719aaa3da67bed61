"""The model card: what the runs are, what they were trained on, what was measured, and what that does not say.

After Mitchell et al., Model Cards for Model Reporting, FAT* 2019: details, data, quantities, limits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import medgen_jax
from medgen_jax.core import config as configs
from medgen_jax.evaluation.synthesis_study.page import REMINDER
from medgen_jax.evaluation.synthesis_study.real import RealSet
from medgen_jax.evaluation.synthesis_study.subjects import Subject

CARD = "model_card.md"
_ORIGINS = {
    "gan": "fully connected generator and discriminator (Goodfellow et al. 2014); widths are ours",
    "dcgan": "DCGAN (Radford et al. 2016) as the paper's code has it",
    "stylegan2": "what the Med-StyleGAN2 paper's text describes: class-conditional StyleGAN2 (Karras et al. 2020) with "
    "adaptive augmentation and a diversity term",
    "stargan_v2": "what the Med-StyleGAN2 paper's code is: StarGAN v2 (Choi et al. 2020) between the classes",
}
_LICENCE = """\
* The licence of the training images decides what may be done with weights and drawn images; it is not known here. Write
  down the data set, its version and its licence before either leaves the group.
* COVID-QU-Ex gathers images of several sources under their own terms; the Kermany set is CC BY 4.0.
* The public code of StarGAN v2 and StyleGAN2-ADA is for non-commercial use. None of it is in medgen_jax, which is under
  Apache-2.0; weights that were converted from theirs keep their terms.
* Feature networks: Inception-v3 (Apache-2.0), AlexNet or VGG16 (BSD-3) with LPIPS heads (BSD-2)."""
_LIMITS = """\
* Not for diagnosis, and not as a stand-in for patients' images in a claim about patients.
* Drawn images can be copies of training images. The audit names the copies that it would have noticed; others it would
  not have.
* FID, KID and LPIPS are by networks trained on photographs; they do not know anatomy or disease. No radiologist has
  looked at these images.
* Classes can differ by more than disease: age, view, hospital, scanner. Where the real classes do, drawn ones will, and
  a classifier trained on either may use it.
* One training of each run was measured: intervals know nothing of another seed, scanner or hospital."""


def text(
    subjects: Sequence[Subject],
    numbers: Mapping[str, Mapping[str, Any]],
    warnings: Sequence[str],
    judge: str | None,
) -> str:
    """The card as Markdown.

    Args:
      subjects: the runs.
      numbers: the content of ``metrics.json``.
      warnings: of the evaluation.
      judge: what is said of the classifier; None where there is none.
    """
    parts = [
        "# Model card: synthesis of chest X-rays",
        f"Written by medgen_jax {medgen_jax.__version__}. Images drawn by these models are synthetic: mark them so.",
        *(_run(subject) for subject in subjects),
        *([f"## Judge\n\n{judge}"] if judge else []),
        f"## Numbers\n\n{REMINDER}\n\n{_numbers(numbers)}",
        f"## Licences\n\n{_LICENCE}",
        "## Limits\n\n" + "\n".join([_LIMITS, *(f"* {_line(warning)}" for warning in warnings if warning != REMINDER)]),
    ]
    return "\n\n".join(parts) + "\n"


def _run(subject: Subject) -> str:
    run, point = subject.run, subject.point
    train = configs.to_dict(run.config.train)
    counts = {
        "training": subject.training,
        f"{subject.splits[0]}, shown to it" if subject.translating else subject.splits[0]: subject.sources,
        f"{subject.splits[1]}, unseen": subject.unseen,
    }
    lines = [
        f"## {subject.title}: {run.name}",
        f"* System: `{run.kind}`, {_ORIGINS[run.kind]}.",
        f"* Checkpoint: step {point.step}, sha256 `{point.sha256}`; sampler `{run.sampler}`.",
        f"* Data: `{_data_name(Path(run.config.data.source))}`, {' x '.join(map(str, run.image.shape))}, "
        f"{run.config.data.bits} bits; flips {'on' if run.config.data.flip else 'off'}.",
        *(f"* Images, {what}: {_counted(sets)}." for what, sets in counts.items()),
        f"* Training: batches of {train['batch_size']}, seed {train['seed']}, {_length(train)}, {train['precision']}.",
    ]  # fmt: skip
    for section, value in configs.to_dict(run.config).items():
        if isinstance(value, Mapping) and section not in ("data", "train"):
            lines.append(f"* {section}: " + ", ".join(f"{name}={_line(str(v))}" for name, v in value.items()))
    return "\n".join([lines[0], "", *lines[1:]])


def _data_name(source: Path) -> str:
    """The last part of a path, which may name people before; of a prepared set its name, form and version."""
    parts = source.parts[-3:] if re.fullmatch(r"\d+\.\d+\.\d+", source.name) else source.parts[-1:]
    return "/".join(parts) or "not named"


def _counted(sets: Mapping[str, RealSet]) -> str:
    return ", ".join(f"{name} {len(images)}" for name, images in sets.items())


def _length(train: Mapping[str, Any]) -> str:
    return f"{train['steps']:,} steps" if train["steps"] else f"{train['epochs']:g} epochs"


def _numbers(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    head = ["| number | value | interval | n real | n drawn |", "|---|---|---|---|---|"]
    rows = []
    for name, entry in numbers.items():
        low, high = entry["interval"] or (None, None)
        ends = f"{low:.4g} to {high:.4g}" if low is not None else ""
        counts = [str(entry["conditions"][side]) for side in ("n_real", "n_fake")]
        rows.append(f"| {_cell(name)} | {entry['value']:.4g} | {ends} | {' | '.join(counts)} |")
    return "\n".join(head + rows)


def _cell(text: str) -> str:
    return _line(text).replace("|", "\\|")


def _line(text: str) -> str:
    return " ".join(text.split())
