"""Counterfactuals of a CycleGAN: one way is the counterfactual, both ways are the control."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.counterfactuals.inputs import Wanted
from medgen_jax.counterfactuals.made import Made, Taken, stack
from medgen_jax.counterfactuals.runs import Run
from medgen_jax.data.counterfactual_folders import Arrays
from medgen_jax.sampling import LoadedSampler, load_sampler

#: The system, and which way undoes which.
CYCLEGAN = "cyclegan"
BACK = {"a2b": "b2a", "b2a": "a2b"}


@dataclass(frozen=True, eq=False)
class Cycle:
    """Makes counterfactuals with a CycleGAN; see `medgen_jax.counterfactuals.made.Maker`.

    Attributes:
      wanted, settings: as in ``Maker``.
      run, step: of the model, and its checkpoint.
      direction: which way a counterfactual goes.
      source, target: the domains' classes.
    """

    wanted: Wanted
    settings: Mapping[str, Any]
    run: Run
    step: int
    direction: str
    source: str
    target: str

    @functools.cached_property
    def ways(self) -> tuple[LoadedSampler, LoadedSampler]:
        """There and back; weights are read when they are first asked for."""
        there, back = (load_sampler(self.run.workdir, way, self.step) for way in (self.direction, BACK[self.direction]))
        return there, back

    def ready(self, taken: Taken) -> bool:
        """There is nothing to keep."""
        return False

    def notes(self) -> list[str]:
        """Nothing to say."""
        return []

    def make(self, batch: Sequence[Taken], size: int) -> list[Made]:
        """See ``Maker``."""
        images = stack(batch, size)
        there, back = self.ways
        made = there({"image": images})
        control = np.asarray(back({"image": made}))
        made = np.asarray(made)
        for i, taken in enumerate(batch):
            if not (np.isfinite(made[i]).all() and np.isfinite(control[i]).all()):
                raise UserError(
                    f"{taken.case.title}: {self.wanted.name} gives values that are not finite; try another --checkpoint"
                )
        source, target = ({"label": name, "view": None} for name in (self.source, self.target))
        return [Made(Arrays(taken.image, made[i], control[i]), source, target) for i, taken in enumerate(batch)]


def load(run: Run, direction: str, which: str | int = "last") -> Cycle:
    """A maker of a run; its checkpoint is checked, its weights read when they are first needed.

    Args:
      run: of a CycleGAN, open.
      direction: ``b2a``: a is what the counterfactual shows; or ``a2b``.
      which: checkpoint.
    """
    point, classes = run.checkpoint(which), domains(run)
    source, target = (classes[side] for side in direction.split("2"))
    settings = {
        "system": run.kind, "run": run.name, "checkpoint": point.step, "run_digest": point.sha256,
        "method": direction, "source": source, "target": target,
    }  # fmt: skip
    return Cycle(wanted(run), settings, run, point.step, direction, source, target)


def domains(run: Run) -> dict[str, str]:
    """The classes of the domains, by side; the sides themselves where the run names none."""
    return {"a": run.config.data.class_a or "a", "b": run.config.data.class_b or "b"}


def wanted(run: Run) -> Wanted:
    """What a CycleGAN takes.

    Raises:
      UserError: domains of different channels, whose residual would mean nothing.
    """
    inputs = run.system.sampler_inputs
    (size, _, one), (_, _, other) = (inputs[name]["image"].shape for name in ("a2b", "b2a"))
    if one != other:
        raise UserError(
            f"--workdir {run.workdir}: its domains have {one} and {other} channels, between which there is no residual"
        )
    return Wanted(run.name, size, one, run.config.data)
