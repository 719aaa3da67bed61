"""A conditional diffusion model: images out of noise, by class and view, either of which may be unknown.

Ho, Jain and Abbeel 2020; Nichol and Dhariwal 2021 (learned variance); Ho and Salimans 2022 (conditions dropped at
random, so that one network knows both the conditional and the unconditional image). What it is made for here:
`medgen_jax.sampling.make_counterfactual`.
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
from medgen_jax.core.streams import LABEL, VIEW, Field, Order, Stream, balanced, class_balanced, shuffled
from medgen_jax.diffusion import process, schedules
from medgen_jax.diffusion.guidance import classifier_free_denoise
from medgen_jax.diffusion.samplers import Model, ddim_sample
from medgen_jax.metrics import mean_values
from medgen_jax.nn.diffusion_unet import DiffusionUNet
from medgen_jax.ops.scale import to_unit
from medgen_jax.systems import diffusion_options, numbered, step_sampler, updates
from medgen_jax.systems.base import Batch, Evaluator, Metrics, Preview, Sampler, System, TrainState, new_state
from medgen_jax.systems.diffusion_options import (
    AdamConfig,
    Balance,
    NetworkConfig,
    Prediction,
    ProcessConfig,
    Steps,
    Weighting,
)

PyTree = Any
#: Steps at whose noise the validation loss is measured, as shares of the process.
PROBED = (0.05, 0.25, 0.5, 0.75, 0.95)


@dataclass(slots=True)
class ConditionConfig:
    """How often the network is not told what it is told: the class, and the view where ``data.views`` names some."""

    drop: float = 0.1  # chance with which each condition is replaced by "unknown" in training


@dataclass(slots=True)
class LossConfig:
    """What is learned, and how its errors are weighed."""

    prediction: Prediction = Prediction.EPSILON
    learned_variance: bool = False
    weighting: Weighting = Weighting.NONE
    gamma: float = 5.0  # largest signal-to-noise ratio that min_snr lets count
    steps: Steps = Steps.UNIFORM


@dataclass(slots=True)
class InferenceConfig:
    """How images are drawn."""

    steps: int = 50  # of DDIM
    clip: bool = True  # limit every predicted clean image to [-1, 1]


@dataclass(slots=True)
class Config:
    """Everything about a run."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    network: NetworkConfig = field(default_factory=NetworkConfig)
    process: ProcessConfig = field(default_factory=ProcessConfig)
    condition: ConditionConfig = field(default_factory=ConditionConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: AdamConfig = field(default_factory=AdamConfig)
    inference: InferenceConfig = field(default_factory=InferenceConfig)
    balance: Balance = Balance.NONE
    ema: float = 0.9999  # decay of the averaged network used at inference; 0: none
    num_train: Optional[int] = None  # written by the engine
    steps_per_epoch: Optional[int] = None  # written by the engine


def _validate(config: Config) -> None:
    validate_types(config)
    validate_shared(config.data, config.train)
    diffusion_options.validate_network(config.network, config.data.crop_size)
    diffusion_options.validate_process(config.process)
    diffusion_options.validate_adam(config.optim, config.train.batch_size)
    drop, inference = config.condition.drop, config.inference
    require(0 <= drop < 1, "condition.drop", drop, "must lie in [0, 1)")
    rule = "needs data.views"
    require(bool(config.data.views) or config.balance is not Balance.LABEL_VIEW, "balance", config.balance.value, rule)
    require(config.loss.gamma > 0, "loss.gamma", config.loss.gamma, "must be positive")
    rule = f"must lie in 1 .. process.steps = {config.process.steps}"
    require(1 <= inference.steps <= config.process.steps, "inference.steps", inference.steps, rule)
    require(0 <= config.ema < 1, "ema", config.ema, "must lie in [0, 1)")


def build(config: Config) -> "Diffusion":
    """A diffusion model from a resolved configuration.

    Raises:
      UserError: naming the first field that is out of range.
    """
    _validate(config)
    # Two classes, before the data have told theirs.
    conditions = ((LABEL, len(config.data.classes) or 2),)
    if config.data.views:
        conditions += ((VIEW, len(config.data.views)),)
    dtype = compute_dtype(config.train.precision)
    shared = diffusion_options.shared_fields(config.network, config.data.crop_size, dtype)
    return Diffusion(
        network=DiffusionUNet(**shared, conditions=conditions, learned_variance=config.loss.learned_variance),
        adam=diffusion_options.adamw(config.optim),
        lr=diffusion_options.rate(config.optim, expected_steps(config)),
        accumulate=config.optim.accumulate,
        noise=(config.process.noise.value, config.process.steps),
        conditions=conditions,
        drop=config.condition.drop,
        kind=config.loss.prediction.value,
        weighting=config.loss.weighting.value,
        gamma=config.loss.gamma,
        importance=config.loss.steps is Steps.IMPORTANCE,
        balance=config.balance.value,
        walk=(config.inference.steps, config.inference.clip),
        ema_decay=config.ema,
        size=config.data.crop_size,
        channels=config.network.channels,
        wire=f"uint{config.data.bits}",
        batch_size=config.train.batch_size,
    )


@dataclass(frozen=True)
class Diffusion(System):
    """One network, ``net``: ``(x, t, condition)`` -> what it says about ``x``."""

    network: nn.Module
    adam: optax.GradientTransformation
    lr: Rate
    accumulate: int
    noise: tuple[str, int]
    conditions: tuple[tuple[str, int], ...]
    drop: float
    kind: str
    weighting: str
    gamma: float
    importance: bool
    balance: str
    walk: tuple[int, bool]
    ema_decay: float
    size: int
    channels: int
    wire: str
    batch_size: int

    # -- what it eats ----------------------------------------------------------------------------

    @property
    def streams(self) -> dict[str, Stream]:
        """``records``: an image and the number of each of its conditions."""
        image = Field((self.size, self.size, self.channels), self.wire, "config.network.channels")
        fields = (("image", image), *((name, Field((), "int32")) for name, _ in self.conditions))
        order: Order = shuffled
        if self.balance == "label":
            order = class_balanced(LABEL)
        elif self.balance == "label_view":
            order = balanced(LABEL, VIEW, view=tuple(range(dict(self.conditions)[VIEW])))
        return {"records": Stream(fields, self.batch_size, order, unbalanced="config.balance=none")}

    @property
    def schedule(self) -> schedules.Schedule:
        """The process that the network is trained on."""
        return diffusion_options.schedule(*self.noise)

    # -- state -----------------------------------------------------------------------------------

    def init(self, key: jax.Array) -> TrainState:
        """A fresh network, whose first answer is zero."""
        keys = rng.named(key, "net", "state")
        image = jnp.zeros((1, self.size, self.size, self.channels))
        params = self.network.init(keys["net"], image, jnp.zeros((1,), jnp.int32))["params"]
        return new_state(
            keys["state"],
            params={"net": params},
            opt={"net": self.adam.init(params)},
            ema={"net": params} if self.ema_decay else {},
            extra={"history": step_sampler.empty(len(self.schedule))} if self.importance else {},
        )

    # -- the step --------------------------------------------------------------------------------

    def _dropped(self, records: Mapping[str, jax.Array], key: jax.Array) -> dict[str, jax.Array]:
        """Conditions of a batch, each unknown with the chance ``drop``; numbers without a name are unknown too."""
        keys = rng.named(key, *(name for name, _ in self.conditions))

        def of(name: str, count: int) -> jax.Array:
            values = records[name]
            return jnp.where(jax.random.uniform(keys[name], values.shape) < self.drop, count, values)

        return {name: of(name, count) for name, count in self.conditions}

    def _terms(
        self, params: PyTree, x0: jax.Array, t: jax.Array, condition: PyTree, key: jax.Array, train: bool
    ) -> dict[str, jax.Array]:
        """Losses (b,) of images at steps ``t``: ``mse``, and ``bound`` (bits) where the variance is learned."""
        keys = rng.named(key, "noise", "dropout")
        epsilon = over_batch(jax.random.normal(keys["noise"], x0.shape))
        level = process.take(self.schedule.levels, t + 1, x0.ndim)
        x, rngs = process.q_sample(x0, epsilon, level), {"dropout": keys["dropout"]}
        output = self.network.apply({"params": params}, x, t, condition, train=train, rngs=rngs)
        if not self.network.learned_variance:
            return {"mse": process.mse_loss(output, x0, epsilon, level, self.kind)}
        terms = process.hybrid_terms(self.schedule, output, x0, epsilon, t, self.kind)
        return {"mse": terms.mse, "bound": terms.bound}

    def _weights(self, t: jax.Array) -> jax.Array:
        if self.weighting == "none":
            return jnp.ones(t.shape)
        level = process.take(self.schedule.levels, t + 1, 1)
        return process.min_snr_weight(level, self.gamma, self.kind)

    def train_step(self, state: TrainState, batch: Batch, frozen: Mapping[str, PyTree]) -> tuple[TrainState, Metrics]:
        """One step of AdamW on the squared error (and the bound) at random steps of the process."""
        records, key = batch["records"], jax.random.fold_in(state.key, state.step)
        keys = rng.named(key, "steps", "drop", "loss")
        count = records["image"].shape[0]
        if self.importance:
            t, fair = step_sampler.draw(state.extra["history"], keys["steps"], count)
        else:
            t, fair = jax.random.randint(keys["steps"], (count,), 0, len(self.schedule)), jnp.ones((count,))
        inputs = over_batch({
            "x0": to_unit(records["image"]), "t": t, "condition": self._dropped(records, keys["drop"]),
            "weight": fair, "place": jnp.arange(count),
        })  # fmt: skip

        def loss(params: PyTree, part: Mapping[str, PyTree], key: jax.Array) -> tuple[jax.Array, PyTree]:
            terms = self._terms(params, part["x0"], part["t"], part["condition"], key, train=True)
            total = self._weights(part["t"]) * terms["mse"]
            # The bound in bits counts a thousandth per step of the process, as in the reference.
            total = total + terms.get("bound", 0.0) * len(self.schedule) / 1000
            spread = jnp.zeros((count,)).at[part["place"]].set(total) * self.accumulate
            return jnp.mean(part["weight"] * total), ({k: jnp.mean(v) for k, v in terms.items()}, spread)

        (value, (metrics, losses)), grads = grad.accumulate(
            loss, state.params["net"], inputs, keys["loss"], self.accumulate
        )
        step_rate = self.lr(state.step)
        new = updates.average(updates.descend(state, {"net": grads}, self.adam, step_rate), self.ema_decay)
        if self.importance:
            history = step_sampler.remember(state.extra["history"], t, jax.lax.stop_gradient(losses))
            new = new.replace(extra={**new.extra, "history": history})
        return new, {"loss": value, **metrics, "lr": step_rate}

    # -- use -------------------------------------------------------------------------------------

    def inference_variables(self, state: TrainState) -> PyTree:
        """Averaged (else raw) parameters."""
        return {"params": (state.ema if self.ema_decay else state.params)["net"]}

    def denoise(self, variables: PyTree, x: jax.Array, t: jax.Array, condition: PyTree) -> jax.Array:
        """The network as `medgen_jax.diffusion` wants it, once ``variables`` are bound."""
        return self.network.apply(variables, x, t, condition)

    def _sample(self, variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """``number`` (b,): which of the key's images -> (b, size, size, channels) in [-1, 1].

        The noise of each comes from ``fold_in(key, number)``: image 7 of a key is the same in every batch. Conditions
        are (b,); one that is no class, or view, stands for an unknown one. ``scale`` (b,) is that of classifier-free
        guidance, 0 plainly conditional; the class alone is part of it, a view stays what it is said to be. A network
        that has met no unknown class is not guided.
        """
        steps, clip = self.walk
        condition = {name: inputs[name] for name, _ in self.conditions}
        x = numbered.codes(key, inputs["number"], (self.size, self.size, self.channels))
        denoise = functools.partial(self.denoise, variables)
        if self.drop:
            null = {**condition, LABEL: jnp.full_like(condition[LABEL], self.network.null[LABEL])}
            denoise = classifier_free_denoise(denoise, null, inputs["scale"])
        grid = schedules.respace(self.schedule, schedules.uniform_timesteps(len(self.schedule), steps))
        walk = ddim_sample(Model(denoise, grid, self.kind, clip), x, condition)
        return jnp.clip(walk.x, -1, 1)

    @property
    def samplers(self) -> dict[str, Sampler]:
        """``sample``: images by their number and conditions and, where the class may be unknown, ``scale``."""
        return {"sample": self._sample}

    @property
    def sampler_inputs(self) -> dict[str, dict[str, Field]]:
        """``number`` of the image, and one per condition: -1 where unknown ones were met, which ``scale`` is about."""
        taken = {"number": Field((), "int32")}
        taken |= {name: Field((), "int32", unknown=self.drop > 0) for name, _ in self.conditions}
        return {"sample": taken | ({"scale": Field((), "float32")} if self.drop else {})}

    @property
    def preview(self) -> Preview:
        """The first images of a fixed key, of the classes of the first records, beside these records."""

        def inputs(record: Mapping[str, jax.Array], key: jax.Array) -> Mapping[str, jax.Array]:
            count = record[LABEL].shape[0]
            asked = {"number": jnp.arange(count, dtype=jnp.int32)} | {n: record[n] for n, _ in self.conditions}
            return asked | ({"scale": jnp.zeros((count,))} if self.drop else {})

        return Preview("sample", "records", inputs, (("image", "real"),))

    @property
    def evaluators(self) -> dict[str, Evaluator]:
        """``loss``: squared error at five levels of noise, and their mean; the noise is the same at every pass."""
        probed = [int(share * len(self.schedule)) for share in PROBED]
        names = tuple(f"mse_t{t}" for t in probed)

        def accumulate(acc: PyTree, variables: PyTree, batch: Mapping[str, jax.Array], key: jax.Array) -> PyTree:
            x0, count = to_unit(batch["image"]), batch["image"].shape[0]
            condition = {name: batch[name] for name, _ in self.conditions}

            def at(t: jax.Array) -> jax.Array:
                own = jax.random.fold_in(key, t)
                steps = jnp.full((count,), t)
                return self._terms(variables["params"], x0, steps, condition, own, train=False)["mse"]

            return mean_values.accumulate(acc, jax.lax.map(at, jnp.array(probed)), batch["mask"])

        def compute(acc: PyTree) -> dict[str, float]:
            values = mean_values.compute(acc, names)
            return {"mse": sum(values.values()) / len(values), **values}

        init = functools.partial(mean_values.init, len(names))
        return {"loss": Evaluator("records", init, accumulate, mean_values.merge, compute)}

    @property
    def monitor(self) -> Monitor:
        """The best checkpoint has the smallest error; there is no early stop."""
        return Monitor("mse", "min")
