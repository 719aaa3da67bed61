"""The contract of a system: what the engine asks for, and nothing else.

A `System` is a frozen dataclass of static things (modules, optimisers, schedules, weights of loss
terms). It holds no arrays; every method is a pure function. Subclasses live one per file in this
package and are found through the registry in ``systems/__init__.py``. Their module defines

* ``Config``: a nested ``@dataclass(slots=True)`` with ``data``, ``train``, ``num_train`` and
  ``steps_per_epoch`` members;
* ``build(config) -> System``: the only place where the configuration is read; checks ranges. It is called twice:
  before the data are opened, and after the engine has written ``num_train``, ``steps_per_epoch`` and
  ``config.data.classes``. The latter are the classes of the data, sorted, for systems with a stream that has the field
  ``label``, which counts them from 0; in the first call they are ``()`` unless the user names some. What is built
  then is only asked for its streams, and traced, so any number of classes will do.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.config import Monitor
from medgen_jax.core.streams import Field, Stream

PyTree = Any
Metrics = dict[str, jax.Array]
Record = Mapping[str, np.ndarray]
Batch = Mapping[str, Mapping[str, jax.Array]]  # stream name -> field name -> (b, ...)
Step = Callable[["TrainState", Batch, Mapping[str, PyTree]], tuple["TrainState", Metrics]]


@flax.struct.dataclass
class TrainState:
    """Everything a run must remember; all of it is checkpointed.

    Attributes:
      step: optimiser steps done, int32 (advanced by the engine).
      images: records of the first stream consumed, int32 (advanced by the engine).
      skipped: int32 (2,): non-finite steps in total, and in a row (advanced by the engine).
      params: network name -> parameters, float32.
      mutable: network name -> non-trained collections such as ``{"batch_stats": ...}``.
      opt: optimiser name -> optax state.
      ema: network name -> averaged parameters.
      extra: whatever else a system must remember (image pool, ADA p, phase flags, ...).
        ``extra["flags"]``, if present, is a small int32 vector read by the host (`System.variant`).
      key: root PRNG key; a step uses ``fold_in(key, step)``.
    """

    step: Any
    images: Any
    skipped: Any
    params: dict[str, PyTree]
    mutable: dict[str, PyTree]
    opt: dict[str, PyTree]
    ema: dict[str, PyTree]
    extra: dict[str, PyTree]
    key: Any


def new_state(
    key: jax.Array,
    *,
    params: dict[str, PyTree],
    opt: dict[str, PyTree],
    mutable: dict[str, PyTree] | None = None,
    ema: dict[str, PyTree] | None = None,
    extra: dict[str, PyTree] | None = None,
) -> TrainState:
    """A `TrainState` at step 0. Call it under jit, so that ``ema`` gets buffers of its own."""
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        images=jnp.zeros((), jnp.int32),
        skipped=jnp.zeros((2,), jnp.int32),
        params=params,
        mutable=mutable or {},
        opt=opt,
        ema=ema or {},
        extra=extra or {},
        key=key,
    )


class Evaluator(NamedTuple):
    """One validation measure as pure functions.

    Attributes:
      stream: the stream whose records it eats.
      init: ``() -> acc``.
      accumulate: ``(acc, variables, batch, key) -> acc``; the batch is a dict of the stream's
        fields plus ``mask`` (b,), which is 0 for padding records.
      merge: ``(acc, acc) -> acc``.
      compute: ``acc -> {name: scalar or 1-d array}`` on host NumPy values.
      baselines: ``(training records, evaluation records) -> {row: {name: scalar}}``: what answers
        without a network would score; both may be iterated repeatedly, over dicts of single records, HWC, raw.
    """

    stream: str
    init: Callable[[], PyTree]
    accumulate: Callable[[PyTree, PyTree, Mapping[str, jax.Array], jax.Array], PyTree]
    merge: Callable[[PyTree, PyTree], PyTree]
    compute: Callable[[PyTree], dict[str, Any]]
    baselines: Callable[[Iterable[Record], Iterable[Record]], dict[str, dict[str, float]]] | None = None


class Preview(NamedTuple):
    """What is drawn on fixed inputs during training.

    Attributes:
      sampler: name of the sampler that draws.
      stream: the stream whose first evaluation (else training) records are the fixed inputs.
      inputs: ``(fields, key) -> sampler inputs``; the key is the same at every drawing.
      shown: ``(field or sampler input, column title)`` of what stands left of the output; where both have one of a
        name, ``field:NAME`` or ``input:NAME`` says which.
    """

    sampler: str
    stream: str
    inputs: Callable[[Mapping[str, jax.Array], jax.Array], Mapping[str, jax.Array]]
    shown: tuple[tuple[str, str], ...] = ()

    @staticmethod
    def columns(fields: Mapping[str, Any], inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that ``shown`` may name."""
        named = {f"field:{name}": x for name, x in fields.items()} | {f"input:{name}": x for name, x in inputs.items()}
        both = set(fields) & set(inputs)
        return {name: x for name, x in {**fields, **inputs}.items() if name not in both} | named


def spread(count: int, wanted: int) -> list[int]:
    """Places of ``wanted`` records evenly over all ``count``, which are stored class by class; all where fewer."""
    wanted = min(wanted, count)
    return [i * count // wanted for i in range(wanted)]


class Observation(NamedTuple):
    """Training records that a system looks at before its first step, as evaluation sees them.

    Attributes:
      stream: whose images.
      choose: number of training records -> which of them; `spread` takes some from everywhere.
    """

    stream: str
    choose: Callable[[int], Sequence[int]]


#: ``sampler(variables, inputs, key) -> images``: float32 NHWC in [-1, 1]; pure and un-jitted.
Sampler = Callable[[PyTree, Mapping[str, jax.Array], jax.Array], jax.Array]


class System(abc.ABC):
    """Base of every system: the members below, with defaults for what many do not need."""

    #: Steps between two looks of the host at ``state.extra["flags"]``; 0 when there are none.
    flag_every: int = 0
    #: Names of fixed weights that ``train_step`` receives in its ``frozen`` argument.
    frozen_names: tuple[str, ...] = ()

    @property
    @abc.abstractmethod
    def streams(self) -> dict[str, Stream]:
        """Inputs by name; the first one counts the images."""

    @abc.abstractmethod
    def init(self, key: jax.Array) -> TrainState:
        """A fresh state. Pure; the engine runs it under ``jit(out_shardings=...)``."""

    @property
    def observation(self) -> Observation | None:
        """What `observe` wants to see; None for systems that start from nothing."""
        return None

    def observe(self, state: TrainState, records: Mapping[str, jax.Array]) -> TrainState:
        """A fresh state that knows the data: its statistics, say.

        Pure; the engine runs it once per run, after `init`. Structure, shapes and dtypes of the state stay.

        Args:
          state: of `init`.
          records: image fields of the stream, (n, h, w, c), raw; the records chosen.
        """
        return state

    @abc.abstractmethod
    def train_step(self, state: TrainState, batch: Batch, frozen: Mapping[str, PyTree]) -> tuple[TrainState, Metrics]:
        """Update all players once. Leaves ``step``, ``images`` and ``skipped`` to the engine.

        What it draws for every record (codes, noise, times) passes `medgen_jax.core.parallel.over_batch`, or all
        devices do all of the work that hangs on it.
        """

    @property
    def step_variants(self) -> dict[str, Step]:
        """Separately compiled forms of the step (lazy regularisation, phases), by name."""
        return {"train": self.train_step}

    def variant(self, step: int, flags: tuple[int, ...]) -> str:
        """Which variant runs at ``step``, given the flags as last latched by the host."""
        return "train"

    @abc.abstractmethod
    def inference_variables(self, state: TrainState) -> PyTree:
        """What the samplers need: averaged or raw parameters and statistics."""

    @property
    def samplers(self) -> dict[str, Sampler]:
        """Inference functions by name: a2b, b2a, latent, reference, sample, encode, predict.

        The name tells the commands what a sampler does. ``x2y`` takes ``image`` from the column x of the data and
        makes what column y holds: ``translate`` applies it and ``evaluate`` judges it against column y. ``predict``
        takes ``image`` and answers with probabilities (b, classes), in the order of ``config.data.classes``. Any other,
        and an ``x2y`` whose data have no such columns or that takes more than ``image``, is not judged by itself:
        ``evaluate`` runs the system's own `evaluators` then. ``sample`` draws images out of noise, by their ``number``
        or their code ``z``: an image never depends on those that are drawn with it. The first sampler is the one that
        commands take.
        """
        return {}

    @property
    def tile_variables(self) -> dict[str, Callable[[PyTree, Mapping[str, jax.Array], jax.Array], PyTree]]:
        """For samplers whose networks normalise by what they see: ``(variables, inputs, key) -> variables``.

        The result normalises every image by statistics pooled over ``inputs``, a batch of tiles of one image,
        so that its tiles agree in colour. Samplers that need no such pass are absent.
        """
        return {}

    @property
    def sampler_inputs(self) -> dict[str, dict[str, Field]]:
        """What every sampler takes: sampler -> input -> one record's shape and dtype (a batch axis stands in front).

        All of them are needed at every call. An input ``label`` is a place in ``config.data.classes``, or -1 where its
        `Field` may be ``unknown``; ``number`` says which of a key's images is wanted, ``z`` is a code. Whatever is one
        number of a record, ``translate --set label=CLASS`` gives for all images.
        Derived from the preview, so only systems with more samplers, or without a preview, write it.
        """
        preview = self.preview
        if preview is None:
            return {}
        fields = self.streams[preview.stream].zeros(1)
        inputs = jax.eval_shape(preview.inputs, fields, jax.random.key(0))
        return {preview.sampler: {name: Field(x.shape[1:], x.dtype.name) for name, x in inputs.items()}}

    @property
    def preview(self) -> Preview | None:
        """What is drawn on fixed inputs during training."""
        return None

    @property
    def evaluators(self) -> dict[str, Evaluator]:
        """Validation measures by name."""
        return {}

    @property
    def monitor(self) -> Monitor | None:
        """Which number of which evaluator decides about the best checkpoint."""
        return None
