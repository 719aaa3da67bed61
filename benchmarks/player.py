"""A system's training as the engine's loop runs it, without logs, evaluations and checkpoints."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from medgen_jax import systems
from medgen_jax.core import config as configs
from medgen_jax.engine import mesh as meshes
from medgen_jax.engine.step import CompiledSteps, init_state
from medgen_jax.nn import lpips
from medgen_jax.systems.cyclegan import CONTENT_TAP

PyTree = Any
#: Records that a run is told it has; only schedules depend on it.
RECORDS = 10_000


def build(config: Any, dtype: str) -> Any:
    """The system of a configuration, whose fields for the engine are filled in."""
    config.train.precision = dtype
    resolved = configs.resolve(config, RECORDS)
    return systems.load(systems.name_of(resolved)).build(resolved)


def fixed_weights(system: Any) -> dict[str, PyTree]:
    """Random weights in place of the pretrained ones that a system's step asks for."""
    image = jnp.zeros((1, 32, 32, 3))
    made = {"vgg16": lambda key: lpips.Vgg16Features().init(key, image, (CONTENT_TAP,))}
    return {name: made[name](jax.random.key(0)) for name in system.frozen_names}


class Player:
    """Takes one batch after the other; variants and flags change as in a run.

    Args:
      system: a build.
      mesh: of the devices.
      seed: of the state.

    Attributes:
      state: as it stands.
      seconds: variant -> ``trace`` and ``compile`` of what has been compiled so far.
    """

    def __init__(self, system: Any, mesh: Any, seed: int = 0):
        self.state = init_state(system, mesh, seed)
        self._system, self._step, self._flags = system, 0, ()
        self._steps = CompiledSteps(system, mesh, lambda _: contextlib.nullcontext())
        self._frozen = jax.device_put(jax.jit(fixed_weights, static_argnums=0)(system), meshes.replicated(mesh))
        self._latch()

    @property
    def seconds(self) -> dict[str, dict[str, float]]:
        return self._steps.seconds

    def prepare(self, batch: Mapping[str, Any]) -> None:
        """Compile all variants, so that none is compiled while something is timed."""
        for variant in self._system.step_variants:
            self._prepare(variant, batch)

    def play(self, batch: Mapping[str, Any]) -> None:
        """One step; returns before the device has done it."""
        variant = self._system.variant(self._step, self._flags)
        self._prepare(variant, batch)
        with jax.transfer_guard("disallow"):
            self.state, _ = self._steps(variant, self.state, (batch,), self._frozen)
        self._step += 1
        self._latch()

    def wait(self) -> None:
        """Until all steps are done."""
        jax.block_until_ready(self.state)

    def _prepare(self, variant: str, batch: Mapping[str, Any]) -> None:
        self._steps.prepare(variant, self.state, (batch,), self._frozen)

    def _latch(self) -> None:
        every = self._system.flag_every
        if every and self._step % every == 0:
            self._flags = tuple(int(v) for v in jax.device_get(self.state.extra["flags"]))
