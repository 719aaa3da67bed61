"""Read a run from outside: its configuration, its system, and only the arrays that inference needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import SingleDeviceSharding

from medgen_jax import systems
from medgen_jax.core import config as configs
from medgen_jax.core import manifest
from medgen_jax.core.errors import UserError
from medgen_jax.engine import rundir
from medgen_jax.engine.checkpoint import load_step, read_host, sealed_steps, step_folder
from medgen_jax.engine.step import abstract_state
from medgen_jax.systems.base import System, TrainState

PyTree = Any


@dataclass(frozen=True)
class Checkpoint:
    """One whose every byte is as written.

    Attributes:
      folder: its files.
      step: after how many steps it was saved.
      sha256: of its manifest, which holds those of all its files.
    """

    folder: Path
    step: int
    sha256: str


@dataclass(frozen=True, eq=False)
class OpenRun:
    """A run as its configuration describes it; no weights.

    Attributes:
      workdir: its directory.
      kind: registered name of its system.
      system, config: as `open_run` gives them.
    """

    workdir: Path
    kind: str
    system: System
    config: Any

    @property
    def name(self) -> str:
        """What files, pages and messages call it."""
        return self.workdir.absolute().name

    def checkpoint(self, which: str | int = "last") -> Checkpoint:
        """One of its checkpoints, as `checkpoint` finds it."""
        return checkpoint(self.workdir, which)


def open_run(workdir: str | Path) -> tuple[System, Any]:
    """The system and the resolved configuration of a run.

    Raises:
      UserError: when the directory holds no run of a known system.
    """
    stored = rundir.read_config(Path(workdir).expanduser())
    module = systems.load(stored["system"])
    config = configs.from_dict(module.Config, stored["config"])
    return module.build(config), config


def intact_step(workdir: str | Path, which: str | int = "last") -> Path:
    """The directory of a checkpoint whose every byte is as written. Nothing is moved or changed.

    Args:
      workdir: a run directory, which may be training at this moment.
      which: ``last``, ``best`` (by the system's monitor), or a step.

    Raises:
      UserError: when there is none.
    """
    root = Path(workdir).expanduser() / "checkpoints"
    steps = sealed_steps(root)
    if not steps:
        raise UserError(f"{workdir}: holds no checkpoint yet; train first")
    if which == "best":
        best = read_host(step_folder(root, steps[-1]))["progress"]["best_step"]
        which = best if best in steps else "last"
    if which != "last" and which not in steps:
        raise UserError(f"{workdir}: has no checkpoint {which}; there are: {', '.join(map(str, steps))}, last, best")
    reasons = []
    for step in reversed(steps) if which == "last" else [int(which)]:
        try:
            manifest.verify(step_folder(root, step))
            return step_folder(root, step)
        except manifest.Damaged as error:
            reasons.append(str(error))
    raise UserError(f"{workdir}: no intact checkpoint ({reasons[0]})")


def checkpoint(workdir: str | Path, which: str | int = "last") -> Checkpoint:
    """A checkpoint and what tells it from every other; arguments and errors as in `intact_step`."""
    folder = intact_step(workdir, which)
    return Checkpoint(folder, int(folder.name), manifest.file_digest(folder / manifest.NAME))


def read_part(system: System, folder: Path, select: Callable[[TrainState], PyTree]) -> PyTree:
    """``select(state)`` of one checkpoint; arrays that it does not depend on are not read."""
    from orbax.checkpoint import v1 as ocp

    leaves, tree = jax.tree.flatten(abstract_state(system))
    used = _used(lambda *arrays: select(tree.unflatten(arrays)), leaves)
    device = SingleDeviceSharding(jax.devices()[0])
    wanted = [
        jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device) if needed else ocp.PLACEHOLDER
        for leaf, needed in zip(leaves, used, strict=True)
    ]
    return select(load_step(folder, tree.unflatten(wanted)))


def inference_variables(system: System, folder: Path) -> PyTree:
    """What the system's samplers need, from one checkpoint; other arrays are not read."""
    return read_part(system, folder, system.inference_variables)


def _used(function: Any, leaves: list[Any]) -> list[bool]:
    """Which arguments a function's results depend on."""
    jaxpr = jax.make_jaxpr(function)(*leaves).jaxpr
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars} | {id(v) for v in jaxpr.outvars}
    return [id(v) in read for v in jaxpr.invars]
