"""The one training loop, for every system.

Order at a step boundary: latch flags, log, evaluate, draw, save. A checkpoint therefore holds the
flags as latched, and a resumed run never looks at them again before the next grid point.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from medgen_jax.core.config import total_steps
from medgen_jax.core.errors import UserError
from medgen_jax.engine import mesh as meshes
from medgen_jax.engine.checkpoint import CheckpointStore, load_step, read_host
from medgen_jax.engine.console import Console
from medgen_jax.engine.evaluate import Evaluation, Evaluators
from medgen_jax.engine.interrupt import EXIT_CODES, Interrupted, Interrupts
from medgen_jax.engine.prefetch import Prefetcher, StreamIterator
from medgen_jax.engine.start import Start
from medgen_jax.engine.step import Augment, CompiledSteps, abstract_state, init_state, observed_state
from medgen_jax.engine.writers import MetricWriter, write_json
from medgen_jax.systems.base import System, TrainState

PyTree = Any
RESULTS = "results.json"
#: Starts every stream, from the stored positions or (None) from the beginning.
OpenStreams = Callable[[dict[str, Any] | None], Mapping[str, StreamIterator]]


@dataclass
class Progress:
    """The host's part of a checkpoint."""

    step: int = 0
    flags: tuple[int, ...] = ()
    positions: dict[str, Any] | None = None
    best_step: int | None = None
    best_value: float | None = None
    bad_evaluations: int = 0
    stopped_early: bool = False
    seconds: float = 0.0
    frozen: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The fields as JSON types."""
        return {**self.__dict__, "flags": list(self.flags)}

    def finished(self, total: int) -> bool:
        """Whether a run of ``total`` steps has nothing left to do."""
        return self.stopped_early or self.step >= total

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Progress:
        """What `to_json` wrote."""
        return cls(**{**values, "flags": tuple(values["flags"])})


@dataclass
class Result:
    """What a finished run hands back."""

    state: TrainState
    step: int
    numbers: dict[str, Any]
    seconds: float
    compile_seconds: dict[str, dict[str, float]]


class Run:
    """One training run: a system, its data and a directory.

    Args:
      system: what is trained.
      config: its resolved configuration.
      workdir: an open, locked run directory.
      open_streams: starts the training streams.
      evaluation: evaluation batches by stream name; evaluators without data do not run.
      draw: ``(step, variables) -> image array (h, w, c) uint8 or None``: the grid of fixed inputs.
      observed: reads the records that ``system.observe`` wants to see before the first step.
      start: puts the networks that lie in the directory into the fresh state; see `medgen_jax.engine.start`.
      context: gives what ``results.json`` says beside the run's own numbers (baselines, notes).
      frozen: fixed weights by name, as ``system.frozen_names`` asks for.
      frozen_digests: their hashes, compared on resume.
      augment: changes every training batch on the device.
      devices: which devices to use; all when None.
    """

    def __init__(
        self,
        system: System,
        config: Any,
        workdir: Path,
        open_streams: OpenStreams,
        *,
        evaluation: Evaluation | None = None,
        draw: Callable[[int, PyTree], np.ndarray | None] | None = None,
        observed: Callable[[], Mapping[str, np.ndarray]] | None = None,
        start: Start | None = None,
        context: Callable[[], dict[str, Any]] | None = None,
        frozen: Mapping[str, PyTree] | None = None,
        frozen_digests: Mapping[str, str] | None = None,
        augment: Augment | None = None,
        devices: list[jax.Device] | None = None,
        console: Console | None = None,
    ):
        self.system, self.config, self.workdir = system, config, workdir
        self.train = config.train
        self.total = total_steps(config)
        self.mesh: Mesh = meshes.make_mesh(devices)
        self.console = console or Console()
        self.store = CheckpointStore(workdir / "checkpoints", self.train.keep, self.console.say)
        self._open_streams = open_streams
        self._evaluators = Evaluators(system, evaluation or {}, self.mesh)
        self._draw, self._observed, self._start, self._context = draw, observed, start, context
        self._frozen = jax.device_put(dict(frozen or {}), meshes.replicated(self.mesh))
        self._frozen_digests = dict(frozen_digests or {})
        self._compiled = CompiledSteps(system, self.mesh, self.console.waiting, augment)
        self._check()

    def _check(self) -> None:
        for name, stream in self.system.streams.items():
            meshes.check_batch(name, stream.per_step, self.mesh)
        missing = [n for n in self.system.frozen_names if n not in self._frozen]
        if missing:
            raise UserError(f"the system needs the fixed weights {missing[0]!r}, which were not given")
        length = self.train.steps_per_call
        grids = {n: getattr(self.train, n) for n in ("log_every", "save_every", "sample_every", "eval_every")}
        for name, every in {**grids, "flag_every": self.system.flag_every}.items():
            if every % length:
                raise UserError(f"config.train.{name} = {every}: must be a multiple of train.steps_per_call = {length}")

    # -- the run ---------------------------------------------------------------------------------

    def __call__(self) -> Result | None:
        """Train to the end. Returns None when the run in this directory had already finished.

        Raises:
          Interrupted: after a signal, once the state is saved.
          UserError: on bad input, a failed save, or too many non-finite steps.
        """
        progress, state = self._restore()
        if state is None and progress.finished(self.total):
            self.store.close()
            self.console.say(f"this run is finished (step {progress.step}); nothing to do")
            return None
        state = self._begin() if state is None else state
        writer = MetricWriter(self.workdir, resume_step=progress.step, active=jax.process_index() == 0)
        batches = Prefetcher(self._open_streams(progress.positions), self.mesh, self.config.data.prefetch)
        try:
            with Interrupts() as interrupts, jax.set_mesh(self.mesh):
                return self._loop(state, progress, batches, writer, interrupts)
        finally:
            self.console.stop()
            batches.close()
            writer.close()
            self.store.close()

    def _begin(self) -> TrainState:
        state = init_state(self.system, self.mesh, self.train.seed)
        if self._observed:
            state = observed_state(self.system, self.mesh, state, self._observed())
        return self._start(state) if self._start else state

    def _restore(self) -> tuple[Progress, TrainState | None]:
        step = None if self._start else self.store.newest_intact()
        if step is None:
            return Progress(frozen=self._frozen_digests), None
        progress = Progress.from_json(read_host(self.store.folder(step))["progress"])
        if progress.frozen != self._frozen_digests:
            raise UserError(
                f"{self.workdir}: the fixed weights {sorted(progress.frozen)} are not those it was started with"
            )
        if progress.finished(self.total) and (self.workdir / RESULTS).exists():
            return progress, None
        self.console.say(f"resuming at step {step} of {self.total}")
        target = meshes.abstract(abstract_state(self.system), self.mesh)
        return progress, load_step(self.store.folder(step), target)

    def _loop(
        self, state: TrainState, progress: Progress, batches: Prefetcher, writer: MetricWriter, interrupts: Interrupts
    ) -> Result:
        clock = _Clock(progress.seconds)
        pending: list[tuple[int, Any]] = []
        numbers: dict[str, Any] = {}
        if progress.step == 0:
            progress.flags = self._latch(state)
        self.console.start(self.total, progress.step)
        while not progress.finished(self.total):
            length = self._scan_length(progress.step, progress.flags)
            items = [next(batches) for _ in range(length)]
            variant = self.system.variant(progress.step, progress.flags)
            batch = tuple(i.batch for i in items)
            clock.leave_out(self._compiled.prepare(variant, state, batch, self._frozen))
            with jax.transfer_guard("disallow"):
                state, metrics = self._compiled(variant, state, batch, self._frozen)
            pending.append((length, metrics))
            progress.step += length
            progress.positions = items[-1].positions
            self.console.advance(length)
            step, last = progress.step, progress.step >= self.total
            if _on(step, self.system.flag_every):
                progress.flags = self._latch(state)
            if _on(step, self.train.log_every) or last:
                self._log(state, pending, clock, progress, writer)
                pending = []
            if last:
                break
            improved = False
            if _on(step, self.train.eval_every):
                numbers, improved = self._evaluate(state, progress, writer, clock)
            if _on(step, self.train.sample_every):
                self._sample(state, step, writer)
            signal = interrupts.requested(may_communicate=_on(step, self.train.log_every))
            if _on(step, self.train.save_every) or improved or progress.stopped_early or signal:
                self._save(state, progress, clock)
            if signal:
                raise self._interrupted(signal, step)
        return self._conclude(state, progress, numbers, writer, clock)

    def _conclude(
        self, state: TrainState, progress: Progress, numbers: dict[str, Any], writer: MetricWriter, clock: _Clock
    ) -> Result:
        """Last numbers, grid, checkpoint and ``results.json``, whose presence says the run is finished."""
        try:
            if not (progress.stopped_early and numbers):  # else it has just been evaluated
                numbers, _ = self._evaluate(state, progress, writer, clock)
            self._sample(state, progress.step, writer)
        finally:
            self._save(state, progress, clock)  # whatever fails in an evaluation, the training is kept
            self.store.wait()
        if jax.process_index() == 0:
            own = {
                "step": progress.step,
                "images": int(jax.device_get(state.images)),
                "seconds": round(clock.seconds(), 1),
                "metrics": _scalars(numbers),
            }
            write_json(self.workdir / RESULTS, own | (self._context() if self._context else {}))
        return Result(state, progress.step, numbers, clock.seconds(), self._compiled.seconds)

    # -- parts of it -----------------------------------------------------------------------------

    def _interrupted(self, signal: int, step: int) -> Interrupted:
        self.store.wait()
        saved = self.store.steps()
        where = f"saved at step {saved[-1]}" if saved else "nothing could be saved yet"
        message = f"stopped by signal {signal} at step {step}; {where}. The same command goes on from there"
        return Interrupted(message, EXIT_CODES[signal])

    def _scan_length(self, step: int, flags: tuple[int, ...]) -> int:
        """1 or ``steps_per_call``: a pure function of the step and the latched flags."""
        length = self.train.steps_per_call
        if length == 1 or step % length or step + length > self.total:
            return 1
        variants = {self.system.variant(s, flags) for s in range(step, step + length)}
        return length if len(variants) == 1 else 1

    def _latch(self, state: TrainState) -> tuple[int, ...]:
        if not self.system.flag_every:
            return ()
        return tuple(int(v) for v in jax.device_get(state.extra["flags"]))

    def _log(
        self, state: TrainState, pending: list[tuple[int, Any]], clock: _Clock, progress: Progress, writer: MetricWriter
    ) -> None:
        self.store.check()
        fetched, (images, skipped) = jax.device_get(([m for _, m in pending], (state.images, state.skipped)))
        steps = sum(length for length, _ in pending)
        names = sorted(set().union(*fetched))
        means = {n: float(np.mean(np.concatenate([m[n] for m in fetched if n in m]))) for n in names}
        per_step = next(iter(self.system.streams.values())).per_step
        elapsed = max(clock.lap(), 1e-9)
        rate, left = steps * per_step / elapsed, (self.total - progress.step) * elapsed / steps
        extra = {"images_per_second": rate} | ({"skipped_steps": int(skipped[0])} if skipped[0] else {})
        writer.write(progress.step, int(images), clock.seconds(), "train", means | extra)
        self.console.status(progress.step, self.total, means, rate, left)
        if skipped[1] >= self.train.max_skipped:
            self.store.wait()
            intact = self.store.steps()
            kept = f"the last finite checkpoint is step {intact[-1]}" if intact else "no checkpoint was saved"
            raise UserError(
                f"{skipped[1]} steps in a row were not finite at step {progress.step} (train.max_skipped = "
                f"{self.train.max_skipped}); {kept}. Lower the learning rate or look at the last images"
            )

    def _evaluate(
        self, state: TrainState, progress: Progress, writer: MetricWriter, clock: _Clock
    ) -> tuple[dict[str, Any], bool]:
        if not self._evaluators:
            return {}, False
        numbers = self._evaluators(self.system.inference_variables(state), jax.random.key(self.train.seed))
        scalars = _scalars(numbers)
        writer.write(progress.step, int(jax.device_get(state.images)), clock.seconds(), "val", scalars)
        said = "  ".join(f"{name} {value:.4g}" for name, value in scalars.items())
        self.console.say(f"validation at step {progress.step}: {said}")
        clock.lap()
        return numbers, self._judge(scalars, progress)

    def _judge(self, numbers: dict[str, float], progress: Progress) -> bool:
        monitor = self.system.monitor
        if monitor is None:
            return False
        if monitor.name not in numbers:
            raise UserError(
                f"the monitored number {monitor.name!r} is not among those of validation: {', '.join(sorted(numbers))}"
            )
        value, best = numbers[monitor.name], progress.best_value
        better = best is None or (value < best if monitor.mode == "min" else value > best)
        if better:
            progress.best_value, progress.best_step, progress.bad_evaluations = value, progress.step, 0
            return True
        progress.bad_evaluations += 1
        if monitor.patience is not None and progress.bad_evaluations >= monitor.patience:
            self.console.say(f"stopping early: {monitor.name} has not improved since step {progress.best_step}")
            progress.stopped_early = True
        return False

    def _sample(self, state: TrainState, step: int, writer: MetricWriter) -> None:
        if self._draw is None:
            return
        image = self._draw(step, self.system.inference_variables(state))
        if image is not None:
            writer.images(step, "samples", image)

    def _save(self, state: TrainState, progress: Progress, clock: _Clock) -> None:
        if int(jax.device_get(state.skipped)[1]) > 0:
            return  # its update was undone; an earlier step serves as well
        progress.seconds = clock.seconds()
        host = {"progress": progress.to_json()}
        self.store.save(progress.step, state, host, best=progress.best_step)


class _Clock:
    """Seconds of the whole run, over resumptions, and of steps alone since the last look."""

    def __init__(self, before: float):
        self._before, self._start = before, time.perf_counter()
        self._lap = self._start

    def seconds(self) -> float:
        return self._before + time.perf_counter() - self._start

    def leave_out(self, seconds: float) -> None:
        """Compilation and the like do not count as steps."""
        self._lap += seconds

    def lap(self) -> float:
        now = time.perf_counter()
        elapsed, self._lap = now - self._lap, now
        return elapsed


def _scalars(numbers: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in numbers.items() if np.ndim(value) == 0}


def _on(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
