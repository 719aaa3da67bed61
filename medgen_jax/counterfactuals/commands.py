"""From what was typed to a maker and its images: everything is checked before weights are read or programs compile."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.counterfactuals import cycle, diffusion, inputs, request, runs
from medgen_jax.counterfactuals.inputs import Case, Wanted
from medgen_jax.counterfactuals.made import Maker
from medgen_jax.counterfactuals.request import AUTO, UNKNOWN, Request
from medgen_jax.counterfactuals.runs import Run
from medgen_jax.data.counterfactual_folders import CounterfactualFolder

#: How many images tell which forward gaps are wide.
REFERENCES = 32


class Given(NamedTuple):
    """Places and choices that are no part of a `Request`.

    Attributes:
      workdir, which: a run and its checkpoint.
      output: folder of the results.
      source, split: files, or a split of the run's data; one of them is None.
      count: only so many images.
      classifier, classifier_which: a run that guides, or None, and its checkpoint.
      direction: of a CycleGAN.
      latents: another folder with latents.
      only_diffusion: flags that were given and mean nothing to a CycleGAN.
    """

    workdir: str
    output: str
    source: str | None = None
    split: str | None = None
    count: int | None = None
    which: str | int = "last"
    classifier: str | None = None
    classifier_which: str | int = "last"
    direction: str | None = None
    latents: str | None = None
    only_diffusion: Sequence[str] = ()


def request_of(
    *,
    depth: str | None,
    scale: str | float | None,
    interval: Sequence[str],
    ensemble: Sequence[str],
    scale_range: Sequence[str] = (),
    **others: Any,
) -> Request:
    """A request from words.

    Raises:
      UserError: a word that is no number.
    """
    ends = tuple(_whole("--interval", word) for word in interval)
    if len(ends) not in (0, 2):
        raise UserError(f"--interval {','.join(interval)}: expected START,STOP, two steps of the process")
    chosen = depth if depth in (None, AUTO) else _whole("--depth", depth, f", or {AUTO}")
    depths = tuple(_whole("--ensemble", word) for word in ensemble)
    strength = scale if scale in (None, AUTO) else _number("--scale", scale, f", or {AUTO}")
    strengths = tuple(_number("--scale_range", word) for word in scale_range)
    if len(strengths) not in (0, 2):
        raise UserError(f"--scale_range {','.join(scale_range)}: expected LOW,HIGH, two scales of guidance")
    return Request(
        depth=chosen, scale=strength, interval=ends or None, ensemble=depths, scale_range=strengths or None, **others
    )


def step_or_name(word: str) -> str | int:
    """A checkpoint as users write it."""
    return int(word) if word.isdigit() else word


def opened(given: Given, asked: Request) -> tuple[Maker, list[Case]]:
    """A maker whose weights are not read yet, and its images, whose headers were looked at.

    Raises:
      UserError: the first thing that does not fit.
    """
    run = runs.open_run(given.workdir, (runs.DIFFUSION, cycle.CYCLEGAN))
    output = Path(given.output).expanduser()
    if run.kind == cycle.CYCLEGAN:
        if given.only_diffusion:
            raise UserError(f"--{given.only_diffusion[0]}: is for runs of diffusion; {run.name} is one of {run.kind}")
        wanted, sides = cycle.wanted(run), cycle.domains(run)
        cases = _cases(given, asked, wanted, tuple(sides.values()) if run.config.data.class_a else ())
        return cycle.load(run, given.direction or "b2a", given.which), cases
    if given.direction:
        raise UserError(f"--direction: is for runs of {cycle.CYCLEGAN}; {run.name} is one of {run.kind}, give --target")
    guide = None if given.classifier is None else runs.open_classifier(given.classifier, run)
    settled = request.settled(asked, run, guide)
    cases = _cases(given, settled, diffusion.wanted(run), run.classes)
    maker = diffusion.load(
        run, guide, settled, output, which=given.which, guide_which=given.classifier_which,
        more_latents=None if given.latents is None else _latents(given.latents),
        references=_references(given, settled, run) if settled.scale == AUTO else (),
    )  # fmt: skip
    return maker, cases


def summary(done: CounterfactualFolder) -> str:
    """What was found, in a sentence: of how many images the residual exceeds the control's."""
    pairs = [
        tuple(entry.numbers[f"mean_absolute_{name}"] for name in ("residual", "control")) for entry in done.entries
    ]
    more, (residual, control) = sum(r > c for r, c in pairs), np.mean(pairs, axis=0)
    one = len(pairs) == 1
    return (
        f"{len(pairs):,} image{'' if one else 's'} in {done.path}: mean absolute residual {residual:.4f} of the full "
        f"range, control {control:.4f}; larger than the control in {more:,} of {len(pairs):,}"
    )


def _cases(given: Given, asked: Request, wanted: Wanted, classes: tuple[str, ...]) -> list[Case]:
    if given.split is None:
        found = inputs.of_files(given.source or "", wanted, None if asked.view == UNKNOWN else asked.view)
    elif asked.view != UNKNOWN:
        raise UserError("--view: the data of --split say which view an image has; leave it out")
    else:
        found = inputs.of_split(given.split, wanted, classes)
    return inputs.spread(found, given.count)


def _references(given: Given, asked: Request, run: Run) -> list[Case]:
    """Images of other classes than the target, none of them asked about."""
    if asked.reference == given.split:
        raise UserError(
            f"--reference {asked.reference}: is the split that is asked about; give another, so that no image sets its "
            "own scale"
        )
    others = [name for name in run.classes if name != asked.target]
    return inputs.spread(inputs.of_split(asked.reference, diffusion.wanted(run), others, "--reference"), REFERENCES)


def _latents(folder: str) -> Path:
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise UserError(f"--latents {folder}: no such folder")
    return path


def _number(flag: str, word: str | float, more: str = "") -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{flag} {word}: expected a number{more}")
    return value


def _whole(flag: str, word: str, more: str = "") -> int:
    if not word.strip().isdecimal():
        raise UserError(f"{flag} {word}: expected a whole number{more}")
    return int(word)
