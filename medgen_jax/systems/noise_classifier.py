"""A classifier of noisy images, whose gradient guides a diffusion model (Dhariwal and Nichol 2021, section 4).

It is trained at every step of the same process, so that it knows what it sees at each of them; at step 0 it is an
ordinary classifier, and is judged and used as one.
"""

# No postponed annotations: config_flags reads the types of the configuration's fields.
import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Optional

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from medgen_jax.core import grad, rng
from medgen_jax.core.config import (
    DataConfig,
    Monitor,
    TrainConfig,
    expected_steps,
    require,
    validate_shared,
    validate_types,
)
from medgen_jax.core.parallel import over_batch
from medgen_jax.core.precision import compute_dtype
from medgen_jax.core.schedules import Schedule as Rate
from medgen_jax.core.streams import Field, Stream, class_balanced, shuffled
from medgen_jax.diffusion import process, schedules
from medgen_jax.metrics import classification, mean_values
from medgen_jax.nn.diffusion_classifier import POOLS, NoiseClassifier
from medgen_jax.ops.scale import to_unit
from medgen_jax.systems import diffusion_options, updates
from medgen_jax.systems.base import Batch, Evaluator, Metrics, Sampler, System, TrainState, new_state
from medgen_jax.systems.diffusion_options import AdamConfig, Balance, NetworkConfig, ProcessConfig

PyTree = Any
#: Steps at whose noise the validation accuracy is measured, as shares of the process.
PROBED = (0.25, 0.5)


@dataclass(slots=True)
class HeadConfig:
    """From the last activations to logits."""

    pool: str = "attention"  # attention, adaptive, spatial or spatial_v2


@dataclass(slots=True)
class Config:
    """Everything about a run."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    head: HeadConfig = field(default_factory=HeadConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    optim: AdamConfig = field(default_factory=AdamConfig)
    balance: Balance = Balance.LABEL
    num_train: Optional[int] = None  # written by the engine
    steps_per_epoch: Optional[int] = None  # written by the engine


def _validate(config: Config) -> None:
    validate_types(config)
    validate_shared(config.data, config.train)
    diffusion_options.validate_network(config.network, config.data.crop_size)
    diffusion_options.validate_process(config.process)
    diffusion_options.validate_adam(config.optim, config.train.batch_size)
    require(config.head.pool in POOLS, "head.pool", config.head.pool, f"must be one of {', '.join(POOLS)}")
    if config.data.classes:
        require(len(config.data.classes) >= 2, "data.classes", config.data.classes, "a classifier needs two or more")
    rule = "must be none or label: a classifier knows no views"
    require(config.balance is not Balance.LABEL_VIEW, "balance", config.balance.value, rule)


def build(config: Config) -> "NoisyClasses":
    """A classifier of noisy images from a resolved configuration.

    Raises:
      UserError: naming the first field that is out of range.
    """
    _validate(config)
    # Two classes, before the data have told theirs.
    classes = len(config.data.classes) or 2
    dtype = compute_dtype(config.train.precision)
    shared = diffusion_options.shared_fields(config.network, config.data.crop_size, dtype)
    return NoisyClasses(
        network=NoiseClassifier(**shared, classes=classes, pool=config.head.pool),
        adam=diffusion_options.adamw(config.optim),
        lr=diffusion_options.rate(config.optim, expected_steps(config)),
        accumulate=config.optim.accumulate,
        noise=(config.process.noise.value, config.process.steps),
        classes=classes,
        balance=config.balance.value,
        size=config.data.crop_size,
        channels=config.network.channels,
        wire=f"uint{config.data.bits}",
        batch_size=config.train.batch_size,
    )


@dataclass(frozen=True)
class NoisyClasses(System):
    """One network, ``net``: ``(x, t)`` -> logits."""

    network: nn.Module
    adam: optax.GradientTransformation
    lr: Rate
    accumulate: int
    noise: tuple[str, int]
    classes: int
    balance: str
    size: int
    channels: int
    wire: str
    batch_size: int

    @property
    def streams(self) -> dict[str, Stream]:
        """``records``: an image and its class."""
        image = Field((self.size, self.size, self.channels), self.wire, "config.network.channels")
        order = class_balanced("label") if self.balance == "label" else shuffled
        fields = (("image", image), ("label", Field((), "int32")))
        return {"records": Stream(fields, self.batch_size, order, unbalanced="config.balance=none")}

    @property
    def schedule(self) -> schedules.Schedule:
        """The process at whose steps the network is trained."""
        return diffusion_options.schedule(*self.noise)

    def init(self, key: jax.Array) -> TrainState:
        """A fresh network."""
        keys = rng.named(key, "net", "state")
        image = jnp.zeros((1, self.size, self.size, self.channels))
        params = self.network.init(keys["net"], image, jnp.zeros((1,), jnp.int32))["params"]
        return new_state(keys["state"], params={"net": params}, opt={"net": self.adam.init(params)})

    # -- the step --------------------------------------------------------------------------------

    def _noised(self, x0: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        """Images (b, h, w, c) with the noise of steps ``t`` (b,)."""
        level = process.take(self.schedule.levels, t + 1, x0.ndim)
        return process.q_sample(x0, over_batch(jax.random.normal(key, x0.shape)), level)

    def train_step(self, state: TrainState, batch: Batch, frozen: Mapping[str, PyTree]) -> tuple[TrainState, Metrics]:
        """One step of AdamW on the cross-entropy at uniformly drawn steps of the process."""
        records, key = batch["records"], jax.random.fold_in(state.key, state.step)
        keys = rng.named(key, "steps", "loss")
        t = over_batch(jax.random.randint(keys["steps"], records["label"].shape, 0, len(self.schedule)))
        inputs = {"x0": to_unit(records["image"]), "label": records["label"], "t": t}

        def loss(params: PyTree, part: Mapping[str, jax.Array], key: jax.Array) -> tuple[jax.Array, Metrics]:
            own = rng.named(key, "noise", "dropout")
            x, rngs = self._noised(part["x0"], part["t"], own["noise"]), {"dropout": own["dropout"]}
            logits = self.network.apply({"params": params}, x, part["t"], train=True, rngs=rngs)
            right = jnp.mean((jnp.argmax(logits, -1) == part["label"]).astype(jnp.float32))
            value = optax.softmax_cross_entropy_with_integer_labels(logits, part["label"]).mean()
            return value, {"cross_entropy": value, "accuracy": right}

        (_, metrics), grads = grad.accumulate(loss, state.params["net"], inputs, keys["loss"], self.accumulate)
        step_rate = self.lr(state.step)
        return updates.descend(state, {"net": grads}, self.adam, step_rate), {**metrics, "lr": step_rate}

    # -- use -------------------------------------------------------------------------------------

    def inference_variables(self, state: TrainState) -> PyTree:
        """The parameters."""
        return {"params": state.params["net"]}

    def classify(self, variables: PyTree, x: jax.Array, t: jax.Array) -> jax.Array:
        """Logits (b, classes) of noisy images: what guides, once ``variables`` are bound."""
        return self.network.apply(variables, x, t)

    def _clean(self, variables: PyTree, image: jax.Array) -> jax.Array:
        return self.classify(variables, to_unit(image), jnp.zeros(image.shape[:1], jnp.int32))

    def _predict(self, variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """``{"image": (b, h, w, c)}`` -> (b, classes) probabilities of images without noise."""
        return jax.nn.softmax(self._clean(variables, inputs["image"]))

    @property
    def samplers(self) -> dict[str, Sampler]:
        """``predict``: probabilities of the classes."""
        return {"predict": self._predict}

    @property
    def sampler_inputs(self) -> dict[str, dict[str, Field]]:
        """An image."""
        return {"predict": {"image": dict(self.streams["records"].fields)["image"]}}

    @property
    def evaluators(self) -> dict[str, Evaluator]:
        """``classes``: how it does on images without noise; ``noisy``: accuracy at two levels of noise."""
        probed = [int(share * len(self.schedule)) for share in PROBED]
        names = tuple(f"accuracy_t{t}" for t in probed)

        def clean(acc: PyTree, variables: PyTree, batch: Mapping[str, jax.Array], key: jax.Array) -> PyTree:
            logits = self._clean(variables, batch["image"])
            return classification.accumulate(acc, logits, batch["label"], batch["mask"])

        def noisy(acc: PyTree, variables: PyTree, batch: Mapping[str, jax.Array], key: jax.Array) -> PyTree:
            x0 = to_unit(batch["image"])

            def at(t: jax.Array) -> jax.Array:
                steps = jnp.full(batch["label"].shape, t)
                logits = self.classify(variables, self._noised(x0, steps, jax.random.fold_in(key, t)), steps)
                return (jnp.argmax(logits, -1) == batch["label"]).astype(jnp.float32)

            return mean_values.accumulate(acc, jax.lax.map(at, jnp.array(probed)), batch["mask"])

        measure = classification
        return {
            "classes": Evaluator("records", lambda: measure.init(self.classes), clean, measure.merge, measure.compute),
            "noisy": Evaluator(
                "records",
                functools.partial(mean_values.init, len(names)),
                noisy,
                mean_values.merge,
                functools.partial(mean_values.compute, names=names),
            ),
        }

    @property
    def monitor(self) -> Monitor:
        """The best checkpoint ranks images without noise best."""
        return Monitor("auroc", "max")
