"""From a system's pure step to the function the loop calls: guarded, fused, compiled once."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from medgen_jax.core import rng, trees
from medgen_jax.engine.mesh import replicated
from medgen_jax.systems.base import Batch, Metrics, Step, System, TrainState

PyTree = Any
#: ``(key, batch, frozen) -> batch``: a pure change of what the training step eats.
Augment = Callable[[jax.Array, Batch, Mapping[str, PyTree]], Batch]


def augmented(step: Step, augment: Augment | None) -> Step:
    """The step on batches changed by ``augment``; the step itself when there is none.

    The key depends on ``state.key`` and ``state.step`` alone, so a resumed run draws as an uninterrupted one, and
    is independent of all that the step draws. Images may come as floats in [-1, 1], which `ops.scale.to_unit` keeps.
    """
    if augment is None:
        return step

    def run(state: TrainState, batch: Batch, frozen: Mapping[str, PyTree]) -> tuple[TrainState, Metrics]:
        key = rng.named(jax.random.fold_in(state.key, state.step), "augmentation")["augmentation"]
        return step(state, augment(key, batch, frozen), frozen)

    return run


def guarded(step: Step, images_per_step: int) -> Step:
    """Count steps and images, and undo an update that is not finite.

    Every float leaf of the new params, mutable, opt, ema and extra is checked; one select per leaf
    keeps the old value where any is not finite. Steps, images and data advance all the same.
    """

    def run(state: TrainState, batch: Batch, frozen: Mapping[str, PyTree]) -> tuple[TrainState, Metrics]:
        new, metrics = step(state, batch, frozen)

        def learned(s: TrainState) -> tuple[PyTree, ...]:
            return s.params, s.mutable, s.opt, s.ema, s.extra

        fine = trees.all_finite(*learned(new))
        params, mutable, opt, ema, extra = trees.select(fine, learned(new), learned(state))
        in_a_row = jnp.where(fine, 0, state.skipped[1] + 1)
        state = state.replace(
            step=state.step + 1,
            images=state.images + images_per_step,
            skipped=jnp.stack([state.skipped[0] + jnp.where(fine, 0, 1), in_a_row]).astype(jnp.int32),
            params=params,
            mutable=mutable,
            opt=opt,
            ema=ema,
            extra=extra,
        )
        return state, metrics

    return run


def fused(step: Step) -> Callable[[TrainState, tuple[Batch, ...], Mapping[str, PyTree]], tuple[TrainState, Metrics]]:
    """Run one step per batch in one device call; metrics come stacked along a leading axis.

    Several batches go through ``lax.scan``, whose arithmetic is not bit-equal to single calls; the
    number of batches is therefore part of a run's trajectory.
    """

    def run(state: TrainState, batches: tuple[Batch, ...], frozen: Mapping[str, PyTree]) -> tuple[TrainState, Metrics]:
        if len(batches) == 1:
            state, metrics = step(state, batches[0], frozen)
            return state, jax.tree.map(lambda x: x[None], metrics)
        stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *batches)
        return jax.lax.scan(lambda s, batch: step(s, batch, frozen), state, stacked)

    return run


def lowered(run: Callable[..., Any], mesh: Mesh, *args: Any) -> jax.stages.Lowered:
    """What `fused` returned, traced and lowered for the devices of a mesh; nothing is compiled or computed yet.

    The state, its first argument, is donated; results lie whole on every device. The mesh is in context, so that
    what the step draws is cut over it as the batch is (`medgen_jax.core.parallel`).
    """
    with jax.set_mesh(mesh):
        return jax.jit(run, donate_argnums=0, out_shardings=replicated(mesh)).lower(*args)


class CompiledSteps:
    """Each variant and scan length compiled once, ahead of its first use, with the time said aloud."""

    def __init__(self, system: System, mesh: Mesh, said: Callable[[str], Any], augment: Augment | None = None):
        streams = system.streams
        per_step = next(iter(streams.values())).per_step
        self._steps = {
            name: fused(guarded(augmented(fn, augment), per_step)) for name, fn in system.step_variants.items()
        }
        self._mesh = mesh
        self._said = said
        self._compiled: dict[tuple[str, int], Callable[..., Any]] = {}
        self.seconds: dict[str, dict[str, float]] = {}

    def prepare(
        self, variant: str, state: TrainState, batches: tuple[Batch, ...], frozen: Mapping[str, PyTree]
    ) -> float:
        """Compile ``len(batches)`` steps of a variant unless that is done; seconds spent."""
        key = (variant, len(batches))
        if key in self._compiled:
            return 0.0
        start = time.perf_counter()
        self._compiled[key] = self._compile(key, state, batches, frozen)
        return time.perf_counter() - start

    def __call__(
        self, variant: str, state: TrainState, batches: tuple[Batch, ...], frozen: Mapping[str, PyTree]
    ) -> tuple[TrainState, Metrics]:
        """Run steps that `prepare` has compiled. The state is donated."""
        return self._compiled[variant, len(batches)](state, batches, frozen)

    def _compile(self, key: tuple[str, int], *args: Any) -> Callable[..., Any]:
        variant, length = key
        label = variant if length == 1 else f"{variant} x {length}"
        with self._said(f"compiling step {label!r} (once)"):
            start = time.perf_counter()
            step = lowered(self._steps[variant], self._mesh, *args)
            traced = time.perf_counter()
            compiled = step.compile()
            self.seconds[label] = {"trace": traced - start, "compile": time.perf_counter() - traced}
        return compiled


def init_state(system: System, mesh: Mesh, seed: int) -> TrainState:
    """A fresh state, replicated over the mesh; under jit, so that every leaf has its own buffer."""
    return jax.jit(system.init, out_shardings=replicated(mesh))(jax.random.key(seed))


def observed_state(system: System, mesh: Mesh, state: TrainState, records: Mapping[str, Any]) -> TrainState:
    """A fresh state once the system has seen some training records (`System.observe`)."""
    observe = jax.jit(system.observe, donate_argnums=0, out_shardings=replicated(mesh))
    return observe(state, jax.device_put(dict(records), replicated(mesh)))


def abstract_state(system: System) -> TrainState:
    """Shapes and dtypes of the system's state; nothing is computed."""
    return jax.eval_shape(system.init, jax.random.key(0))
