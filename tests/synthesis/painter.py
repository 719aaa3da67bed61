"""A toy system whose images can be worked out by hand: of one grey each.

As ``noise`` it draws ``sample`` of ``number``, ``label`` and ``truncation``: 0.01 number x truncation - 0.5 label; and
``latent`` of a code: its first number, less 0.5 label. As ``images`` its ``latent`` halves an image, and adds 0.01
number - 0.1 label. Image ``broken`` is not finite.
"""

# No postponed annotations: config_flags reads the types of the configuration's fields.
from dataclasses import dataclass, field
from typing import Any, Optional

import jax
import jax.numpy as jnp

from medgen_jax.core.config import DataConfig, TrainConfig, validate_shared, validate_types
from medgen_jax.core.streams import Field, Stream
from medgen_jax.ops.scale import to_unit
from medgen_jax.systems.base import System, new_state

NAME = "painter"
NUMBER, LABEL, SCALAR = Field((), "int32"), Field((), "int32", unknown=True), Field((), "float32")


@dataclass(slots=True)
class Config:
    """What it takes, and which image is broken."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    kind: str = "noise"
    broken: int = -1
    num_train: Optional[int] = None
    steps_per_epoch: Optional[int] = None


def configured(**fields: Any) -> Config:
    """Images of 8 x 8 pixels of the classes dim and lit."""
    config = Config(**fields)
    config.data.classes, config.data.crop_size, config.train.steps = ("dim", "lit"), 8, 4
    return config


def build(config: Config) -> "Painter":
    """A system from its configuration."""
    validate_types(config)
    validate_shared(config.data, config.train)
    return Painter(config.data.crop_size, config.kind, config.broken)


@dataclass(frozen=True)
class Painter(System):
    """See the module's docstring."""

    size: int
    kind: str
    broken: int

    @property
    def image(self) -> Field:
        return Field((self.size, self.size, 1))

    @property
    def streams(self) -> dict[str, Stream]:
        return {"records": Stream((("image", self.image), ("label", Field((), "int32"))), 4)}

    def init(self, key: jax.Array) -> Any:
        return new_state(key, params={"net": {"step": jnp.full((), 0.01)}}, opt={})

    def train_step(self, state: Any, batch: Any, frozen: Any) -> Any:
        return state, {}

    def inference_variables(self, state: Any) -> Any:
        return state.params["net"]

    def _paint(self, grey: jax.Array) -> jax.Array:
        return jnp.broadcast_to(grey[:, None, None, None], (*grey.shape, self.size, self.size, 1))

    def _sample(self, variables: Any, inputs: Any, key: jax.Array) -> jax.Array:
        number = inputs["number"].astype(jnp.float32)
        grey = variables["step"] * number * inputs["truncation"] - 0.5 * inputs["label"].astype(jnp.float32)
        return self._paint(jnp.where(inputs["number"] == self.broken, jnp.nan, grey))

    def _of_code(self, variables: Any, inputs: Any, key: jax.Array) -> jax.Array:
        return self._paint(jnp.clip(inputs["z"][:, 0] - 0.5 * inputs["label"].astype(jnp.float32), -1, 1))

    def _of_image(self, variables: Any, inputs: Any, key: jax.Array) -> jax.Array:
        more = variables["step"] * inputs["number"].astype(jnp.float32) - 0.1 * inputs["label"].astype(jnp.float32)
        return to_unit(inputs["image"]) / 2 + self._paint(more)

    @property
    def samplers(self) -> dict[str, Any]:
        if self.kind == "images":
            return {"latent": self._of_image}
        return {"sample": self._sample, "latent": self._of_code}

    @property
    def sampler_inputs(self) -> dict[str, dict[str, Field]]:
        if self.kind == "images":
            return {"latent": {"image": self.image, "number": NUMBER, "label": LABEL}}
        told = {"label": LABEL, "truncation": SCALAR}
        return {"sample": {"number": NUMBER, **told}, "latent": {"z": Field((4,), "float32"), "label": LABEL}}
