"""A toy system that uses every part of the contract: two streams, extra, variants by flags, frozen weights.

A scalar ``w`` is pulled towards the mean of the left stream (variant ``left``) or of the right one
(variant ``right``). ``extra`` counts the steps of either variant and keeps a running checksum of the
data, so that a test sees which batches were consumed in which order. A left pixel of 255 makes the
update infinite.
"""

# No postponed annotations: config_flags reads the types of the configuration's fields.
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import jax
import jax.numpy as jnp
import numpy as np
import optax

from medgen_jax.core.config import DataConfig, Monitor, TrainConfig, require, validate_shared, validate_types
from medgen_jax.core.streams import Field, Stream
from medgen_jax.systems.base import Evaluator, System, TrainState, new_state


@dataclass(slots=True)
class Config:
    """Rate, and how long each variant stays."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    lr: float = 0.1
    turn: int = 6
    patience: int = 0
    num_train: Optional[int] = None
    steps_per_epoch: Optional[int] = None


def build(config: Config) -> "Toy":
    """A toy from its configuration."""
    validate_types(config)
    validate_shared(config.data, config.train)
    require(config.lr > 0, "lr", config.lr, "must be positive")
    return Toy(config.train.batch_size, config.lr, config.turn, config.patience, optax.sgd(config.lr))


@dataclass(frozen=True)
class Toy(System):
    """See the module's docstring."""

    batch_size: int
    lr: float
    turn: int
    patience: int
    sgd: optax.GradientTransformation

    frozen_names = ("scale",)

    @property
    def flag_every(self) -> int:
        return 2

    @property
    def streams(self) -> dict[str, Stream]:
        pixel = Field((2, 2, 1))
        return {
            "left": Stream((("x", pixel),), self.batch_size),
            "right": Stream((("x", pixel), ("label", Field((), "int32"))), self.batch_size),
        }

    def init(self, key: jax.Array) -> TrainState:
        params = {"net": {"w": jax.random.normal(key, (3,))}}
        extra = {
            "flags": jnp.zeros((1,), jnp.int32),
            "turns": jnp.zeros((2,), jnp.int32),
            "checksum": jnp.zeros((), jnp.uint32),
        }
        return new_state(key, params=params, opt={"net": self.sgd.init(params["net"])}, ema=params, extra=extra)

    def _step(self, side: int, state: TrainState, batch: Any, frozen: Mapping[str, Any]) -> Any:
        images = batch["left"]["x"] if side == 0 else batch["right"]["x"]
        target = jnp.mean(images.astype(jnp.float32)) / 255 * frozen["scale"]
        bad = jnp.any(batch["left"]["x"] == 255)
        noise = jax.random.normal(jax.random.fold_in(state.key, state.step), (3,)) * 0.01

        def loss(params: Any) -> jax.Array:
            return jnp.mean(jnp.square(params["w"] - target - noise)) / jnp.where(bad, 0.0, 1.0)

        value, grads = jax.value_and_grad(loss)(state.params["net"])
        updates, opt = self.sgd.update(grads, state.opt["net"])
        net = optax.apply_updates(state.params["net"], updates)
        seen = sum(jnp.sum(x.astype(jnp.uint32)) for s in ("left", "right") for x in batch[s].values())
        turns = state.extra["turns"].at[side].add(1)
        wish = (jnp.sum(turns) // self.turn) % 2
        extra = {
            "flags": wish[None].astype(jnp.int32),
            "turns": turns,
            "checksum": state.extra["checksum"] * jnp.uint32(31) + seen.astype(jnp.uint32),
        }
        ema = {"net": jax.tree.map(lambda a, b: 0.9 * a + 0.1 * b, state.ema["net"], net)}
        new = state.replace(params={"net": net}, opt={"net": opt}, ema=ema, extra=extra)
        return new, {"loss": value, "side": jnp.float32(side)}

    def train_step(self, state: TrainState, batch: Any, frozen: Mapping[str, Any]) -> Any:
        return self._step(0, state, batch, frozen)

    @property
    def step_variants(self) -> dict[str, Any]:
        return {"left": self.train_step, "right": lambda *args: self._step(1, *args)}

    def variant(self, step: int, flags: tuple[int, ...]) -> str:
        return ("left", "right")[flags[0]]

    def inference_variables(self, state: TrainState) -> Any:
        return state.ema["net"]

    @property
    def samplers(self) -> dict[str, Any]:
        return {"predict": lambda variables, inputs, key: inputs["image"] + jnp.mean(variables["w"])}

    @property
    def sampler_inputs(self) -> dict[str, dict[str, Field]]:
        return {"predict": {"image": Field((2, 2, 1), "float32")}}

    @property
    def evaluators(self) -> dict[str, Evaluator]:
        def accumulate(acc: Any, variables: Any, batch: Any, key: jax.Array) -> Any:
            error = jnp.mean(variables["w"]) - jnp.mean(batch["x"].astype(jnp.float32), axis=(1, 2, 3)) / 255
            return acc + jnp.stack([jnp.sum(jnp.square(error) * batch["mask"]), jnp.sum(batch["mask"])])

        def compute(acc: Any) -> dict[str, float]:
            return {"error": float(acc[0] / acc[1])}

        return {"error": Evaluator("left", lambda: jnp.zeros(2), accumulate, jnp.add, compute)}

    @property
    def monitor(self) -> Monitor | None:
        return Monitor("error", "min", self.patience or None)


class ArrayStream:
    """A training stream over random pixels below 200; ``bad`` steps hold a 255."""

    def __init__(self, name: str, stream: Stream, position: int | None, bad: tuple[int, ...] = ()):
        self._stream, self._bad = stream, bad
        self._position = position or 0
        self._seed = sum(name.encode())

    def __next__(self) -> dict[str, np.ndarray]:
        rng = np.random.default_rng((self._seed, self._position))
        batch = {
            n: rng.integers(0, 200, (self._stream.per_step, *f.shape)).astype(f.dtype) for n, f in self._stream.fields
        }
        if self._position in self._bad and "label" not in batch:
            batch["x"][0] = 255
        self._position += 1
        return batch

    def get_state(self) -> int:
        return self._position

    def close(self) -> None:
        pass
