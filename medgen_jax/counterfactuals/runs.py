"""Trained diffusion models as denoisers, alone or with a classifier that guides them.

Whatever does not fit is refused from configurations, before weights are read or anything compiles.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from medgen_jax import systems
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import LABEL, VIEW
from medgen_jax.counterfactual_sampler import CounterfactualSampler, make_counterfactual
from medgen_jax.diffusion.schedules import Schedule
from medgen_jax.engine import restore
from medgen_jax.engine.restore import OpenRun

PyTree = Any
#: Systems that are joined here, and what they are called.
DIFFUSION, CLASSIFIER = "diffusion", "noise_classifier"


@dataclass(frozen=True, eq=False)
class Run(OpenRun):
    """A run that makes counterfactuals, or guides one that does."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Of a diffusion model or a classifier: names of its classes, in its order."""
        count = dict(self.system.conditions)[LABEL] if self.kind == DIFFUSION else self.system.classes
        return tuple(self.config.data.classes) or tuple(map(str, range(count)))

    @property
    def views(self) -> tuple[str, ...]:
        """Names of the views that the model is told; empty where it is told none."""
        return tuple(self.config.data.views) if self.kind == DIFFUSION else ()

    @property
    def knows_unknown(self) -> bool:
        """Whether a diffusion model has been trained on images of unknown class, as classifier-free guidance needs."""
        return self.system.drop > 0


@dataclass(frozen=True, eq=False)
class Denoiser:
    """A trained diffusion model for other programs: what `medgen_jax.diffusion` and ``make_counterfactual`` take.

    Attributes:
      denoise: ``denoise(x, t, condition)``, a ``jax.tree_util.Partial`` whose leaves are the parameters; ``condition``
        holds ``label`` and, where ``views`` has names, ``view``: (b,) integers, places in ``classes`` and ``views``.
      schedule: the process that it is trained on.
      null: the numbers that say "unknown", by condition; None where the run never met an unknown class.
      kind: what it predicts: epsilon, x0 or v.
      clip: whether the run limits predicted clean images to [-1, 1] when it samples.
      classes, views: names.
      size, channels: of images.
      step: number of optimiser steps behind it.
    """

    denoise: jax.tree_util.Partial
    schedule: Schedule
    null: dict[str, int] | None
    kind: str
    clip: bool
    classes: tuple[str, ...]
    views: tuple[str, ...]
    size: int
    channels: int
    step: int


def open_run(workdir: str | Path, kinds: tuple[str, ...] = (DIFFUSION,), flag: str = "--workdir") -> Run:
    """A run of one of the systems ``kinds``, without its weights.

    Raises:
      UserError: no run, or one of another system.
    """
    path = Path(workdir).expanduser()
    system, config = restore.open_run(path)
    kind = systems.name_of(config)
    if kind not in kinds:
        raise UserError(f"{flag} {workdir}: is a run of {kind}; counterfactuals need one of {' or '.join(kinds)}")
    return Run(path, kind, system, config)


def open_classifier(workdir: str | Path, model: Run) -> Run:
    """The classifier that guides a diffusion model, without its weights.

    Raises:
      UserError: no run, one of another system, or one that saw other noise, other images or other classes than the
        model: naming the first difference.
    """
    classifier = open_run(workdir, (CLASSIFIER,), "--classifier")
    own, other, where = model.system, classifier.system, f"--classifier {classifier.workdir}"
    if own.schedule != other.schedule:
        raise UserError(
            f"{where}: was trained on the process {_noise(other)}, {model.name} on {_noise(own)}; train it with the "
            "same config.process"
        )
    if (own.size, own.channels) != (other.size, other.channels):
        raise UserError(
            f"{where}: takes {_images(other)}, {model.name} {_images(own)}; train it with the same "
            "config.data.crop_size and config.network.channels"
        )
    if model.classes != classifier.classes:
        raise UserError(
            f"{where}: knows the classes {', '.join(classifier.classes)}, {model.name} {', '.join(model.classes)}, in "
            "this order; train it with the same config.data.classes"
        )
    return classifier


def place(flag: str, name: str, names: tuple[str, ...], what: str) -> int:
    """The number of a class or view.

    Raises:
      UserError: listing the names that there are.
    """
    if name not in names:
        raise UserError(f"{flag} {name}: is no {what} of the run; there are: {', '.join(names) or 'none'}")
    return names.index(name)


def denoiser(run: Run, which: str | int = "last") -> Denoiser:
    """The model of an open run; see `medgen_jax.sampling.load_denoiser`."""
    system, point = run.system, run.checkpoint(which)
    variables = restore.inference_variables(system, point.folder)
    return Denoiser(
        jax.tree_util.Partial(system.denoise, variables), system.schedule,
        dict(system.network.null) if run.knows_unknown else None, system.kind, system.walk[1],
        run.classes, run.views, system.size, system.channels, point.step,
    )  # fmt: skip


def sampler(
    run: Run,
    guide: Run | None,
    which: str | int = "last",
    guide_which: str | int = "last",
    *,
    method: str,
    steps: int | None,
    clip: bool | None = None,
    **options: Any,
) -> CounterfactualSampler:
    """Counterfactuals of an open run, guided by a classifier or not; see `medgen_jax.sampling.load_counterfactual`.

    Args:
      run: of `open_run`.
      guide: of `open_classifier` for this run, or None.
      which, guide_which: ``last``, ``best``, or a step that is kept.
      method, steps, clip, **options: as there.
    """
    model = denoiser(run, which)
    classify = None
    if guide:
        variables = restore.inference_variables(guide.system, guide.checkpoint(guide_which).folder)
        classify = jax.tree_util.Partial(guide.system.classify, variables)
    null = None if model.null is None else functools.partial(_class_unknown, model.null[LABEL])
    return make_counterfactual(
        model.denoise, classify, schedule=model.schedule, method=method, steps=steps, null=null, kind=model.kind,
        clip=clips(run, method) if clip is None else clip, **options,
    )  # fmt: skip


def clips(run: Run, method: str) -> bool:
    """Whether predicted clean images are limited to [-1, 1] when nothing is said: as the run samples, if it can be."""
    return method != "edict" and run.system.walk[1]


def unknown(run: Run) -> dict[str, int]:
    """The number of each condition that says "unknown"."""
    return dict(run.system.network.null)


def _class_unknown(null: int, condition: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """What guidance leads away from: the same image of unknown class. A view stays what it is said to be."""
    return {**condition, LABEL: jnp.full_like(condition[LABEL], null)}


def _noise(system: Any) -> str:
    kind, steps = system.noise
    return f"{kind} of {steps} steps"


def _images(system: Any) -> str:
    return f"{system.size} x {system.size} pixels of {system.channels} channel{'s' if system.channels > 1 else ''}"


def has_view(run: Run) -> bool:
    """Whether a diffusion model is told the view."""
    return VIEW in dict(run.system.conditions)
