"""The run that is made of weights, and the run whose weights are written, whatever the layout."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medgen_jax import systems
from medgen_jax.core import config as configs
from medgen_jax.core import trees
from medgen_jax.core.errors import UserError
from medgen_jax.engine import restore, rundir, runtime
from medgen_jax.engine.checkpoint import CheckpointStore, sealed_steps
from medgen_jax.engine.loop import Progress
from medgen_jax.interop import torch_file
from medgen_jax.systems.base import System, TrainState

PyTree = Any
#: Network -> its parameters and batch statistics.
Networks = Mapping[str, tuple[PyTree, PyTree]]


def require_system(config: Any, layout: str, known: Collection[str], where: str) -> str:
    """Name of a configuration's system.

    Raises:
      UserError: it is none of those whose networks the layout holds.
    """
    name = systems.name_of(config)
    if name not in known:
        raise UserError(f"{where} is of the system {name!r}; {layout} holds networks of {' and '.join(known)}")
    return name


# ---- from files to a run -------------------------------------------------------------------------


def check_config(config: Any | None, layout: str, system: str) -> None:
    """See that a ``--config``, if there is one, is of the layout's system and in range, before files are read.

    Raises:
      UserError: another system, or naming the first field that is out of range.
    """
    if config is not None:
        require_system(config, layout, [system], "--config")
        systems.load(system).build(config)


def empty_rundir(output: str | Path) -> Path:
    """A directory for a new run.

    Raises:
      UserError: when it cannot be written or holds a run.
    """
    folder = rundir.open_rundir(output)
    if sealed_steps(folder / "checkpoints"):
        raise UserError(f"--output {folder}: holds a run already; give another directory")
    return folder


@contextmanager
def naming(place: str | Path) -> Iterator[None]:
    """Put a file or run in front of every UserError that is raised within."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


def fresh(names: Iterable[str], found: Collection[str]) -> list[str]:
    """Lines about networks that were not found."""
    return [f"network {name!r}: not given, starts fresh" for name in names if name not in found]


def filled(system: System, found: Networks, lines: list[str]) -> TrainState:
    """A fresh state with the found networks put in place, averages included.

    Args:
      system: whose networks they are.
      found: by network.
      lines: are told how many parameters matched.

    Raises:
      UserError: tensors of other shapes than the network's.
    """
    state = jax.jit(system.init)(jax.random.key(0))
    params, mutable = dict(state.params), dict(state.mutable)
    for name, (new_params, new_stats) in found.items():
        params[name] = _checked(name, params[name], new_params)
        if name in mutable:
            mutable[name] = {**mutable[name], "batch_stats": _checked(name, mutable[name]["batch_stats"], new_stats)}
        lines.append(
            f"network {name!r}: {trees.count(new_params):,} of {trees.count(params[name]):,} parameters matched"
        )
    return state.replace(params=params, mutable=mutable, ema={name: params[name] for name in state.ema})


def _checked(name: str, own: PyTree, found: PyTree) -> PyTree:
    shapes = jax.tree.map(lambda x: tuple(x.shape), own)
    if shapes != jax.tree.map(lambda x: tuple(x.shape), found):
        raise UserError(f"network {name!r}: the file's tensors do not have the shapes of the network they describe")
    return jax.tree.map(np.asarray, found)


def make(
    folder: Path,
    config: Any,
    found: Any,
    lines: list[str],
    fill: Callable[[System, Any, list[str]], TrainState] = filled,
) -> None:
    """Leave a configuration, made ready for a run, and the found networks as step 0 of a run.

    Args:
      folder: of `empty_rundir`.
      config: engine fields unset.
      found: networks as ``fill`` takes them.
      lines: are told what was matched, and where the run is.
      fill: what puts the networks into a fresh state.

    Raises:
      UserError: a configuration that is out of range, or networks that do not fit it.
    """
    config = configs.resolve(config, num_train=1)
    name = systems.name_of(config)
    state = fill(systems.load(name).build(config), found, lines)
    store = CheckpointStore(folder / "checkpoints")
    rundir.write_config(folder, name, configs.to_dict(config), runtime.environment())
    store.save(0, jax.device_put(state), {"progress": Progress().to_json()})
    store.close()
    lines.append(f"run written to {folder}")


# ---- from a run to files -------------------------------------------------------------------------


def opened(workdir: str | Path, layout: str, known: Collection[str]) -> tuple[System, Any]:
    """System and configuration of a run whose networks the layout holds.

    Raises:
      UserError: no run, or one of another system.
    """
    system, config = restore.open_run(workdir)
    require_system(config, layout, known, f"{workdir}:")
    return system, config


def vacant(output: str | Path, *names: str) -> list[Path]:
    """Places in a folder where no file is yet.

    Raises:
      UserError: naming the first that is there.
    """
    files = [Path(output).expanduser() / name for name in names]
    for file in files:
        if file.exists():
            raise UserError(f"{file}: exists already; give another --output")
    return files


def arrays(system: System, step: Path, select: Callable[[TrainState], PyTree]) -> PyTree:
    """``select(state)`` of a checkpoint as NumPy arrays; others are not read."""
    return jax.tree.map(np.asarray, jax.device_get(restore.read_part(system, step, select)))


def write_file(file: Path, state: Mapping[str, Any]) -> None:
    """A state dict, or several by network, as a file in a folder that is made if need be."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch_file.write_state_dict(file, state)
