"""Train on from networks that lie in a run's directory without a step behind them, as a conversion leaves them.

A fresh run begins with those networks: its optimisers, keys and counts are new, its configuration may be another one as
long as the networks fit.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from medgen_jax import systems
from medgen_jax.core import config as configs
from medgen_jax.core.errors import UserError
from medgen_jax.engine import restore, rundir
from medgen_jax.engine.checkpoint import sealed_steps
from medgen_jax.engine.step import abstract_state
from medgen_jax.systems.base import System, TrainState

PyTree = Any
#: Puts networks into a fresh state.
Start = Callable[[TrainState], TrainState]


def is_untrained(workdir: Path) -> bool:
    """Whether a run has a checkpoint, and no step behind it."""
    return sealed_steps(workdir / "checkpoints") == [0]


def of_run(workdir: Path, system: System, config: Any) -> tuple[Start, list[str]]:
    """The networks of an untrained run as the beginning of a run of another configuration.

    Args:
      workdir: a run of the same system, `is_untrained`.
      system, config: of the run that begins; resolved.

    Returns:
      What puts the networks into a fresh state, and the settings that differ from those they came with.

    Raises:
      UserError: networks of other sizes, other names of classes, or a damaged checkpoint.
    """
    source, old = _origin(workdir)
    changed = [line for line in configs.differences(configs.to_dict(old), configs.to_dict(config)) if not _free(line)]
    _check_classes(workdir, old.data.classes, config.data.classes)
    _check_shapes(workdir, abstract_state(source).params, abstract_state(system).params, changed)
    folder = restore.intact_step(workdir)
    return functools.partial(_begun, lambda: restore.read_part(source, folder, _networks)), changed


def _origin(workdir: Path) -> tuple[System, Any]:
    """The system and configuration that the networks came with."""
    stored = rundir.read_config(workdir)
    module = systems.load(stored["system"])
    config = configs.from_dict(module.Config, stored.get("start") or stored["config"])
    return module.build(config), config


def _free(line: str) -> bool:
    """Whether a difference says nothing about the networks: how long, on what and how often."""
    name = line.split(":")[0]
    engine = {f"config.{field}" for field in configs.ENGINE_FIELDS}
    return name in engine or name in rundir.FREE_TO_CHANGE or name.startswith("config.train.")


def _check_classes(workdir: Path, old: tuple[str, ...], new: tuple[str, ...]) -> None:
    unnamed = old == tuple(map(str, range(len(old))))
    if old != new and not unnamed:
        raise UserError(
            f"--workdir {workdir}: its networks know the classes {', '.join(old)}, in this order, the data have "
            f"{', '.join(new) or 'none'}; set config.data.classes to those that mean the same"
        )


def _check_shapes(workdir: Path, old: PyTree, new: PyTree, changed: list[str]) -> None:
    """Refuse parameters of another shape, naming the first."""
    have, want = _shapes(old), _shapes(new)
    if differ := sorted(name for name in have.keys() | want.keys() if have.get(name) != want.get(name)):
        name = differ[0]
        why = f"; changed: {'; '.join(changed)}" if changed else ""
        raise UserError(
            f"--workdir {workdir}: its networks do not fit this configuration, {name} is {have.get(name, 'missing')} "
            f"there and {want.get(name, 'missing')} here{why}; give the settings they came with (config.json)"
        )


def _shapes(params: PyTree) -> dict[str, tuple[int, ...]]:
    leaves, _ = jax.tree.flatten_with_path(params)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf.shape for path, leaf in leaves}


def _networks(state: TrainState) -> dict[str, PyTree]:
    return {"params": state.params, "mutable": state.mutable, "ema": state.ema}


def _begun(read: Callable[[], Mapping[str, PyTree]], fresh: TrainState) -> TrainState:
    """A fresh state with the networks in place; averages that were not kept begin with what they average."""
    found = jax.device_get(read())
    mutable = {
        name: {kind: found["mutable"].get(name, {}).get(kind, own) for kind, own in collections.items()}
        for name, collections in fresh.mutable.items()
    }
    ema = {name: found["ema"].get(name, found["params"][name]) for name in fresh.ema}
    placed = fresh.replace(params=found["params"], mutable=mutable, ema=ema)
    shardings = jax.tree.map(lambda leaf: leaf.sharding, fresh)
    # Averages get buffers of their own: the step takes those of the whole state.
    return jax.tree.map(jnp.copy, jax.device_put(placed, shardings))
