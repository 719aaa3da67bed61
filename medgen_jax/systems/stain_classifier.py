"""Classes of H&E tiles by a ResNet behind LStainNorm, a layer that learns to normalise stains with the task.

Ke et al., Medical Image Analysis 101, 2025: image -> colour normalised in several spaces and fused by self-attention
-> ResNet -> class; one cross-entropy trains all of it. The layer starts from the colours of the training tiles, or of
one tile, its template. Without the layer (``norm.kind=none``) the same file is the baseline.
"""

# No postponed annotations: config_flags reads the types of the configuration's fields.
import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from medgen_jax.core import rng
from medgen_jax.core.config import (
    DataConfig,
    Monitor,
    TrainConfig,
    expected_steps,
    require,
    validate_shared,
    validate_types,
)
from medgen_jax.core.errors import UserError
from medgen_jax.core.precision import compute_dtype
from medgen_jax.core.schedules import Schedule, cosine
from medgen_jax.core.streams import Field, Stream
from medgen_jax.metrics import classification
from medgen_jax.nn.resnet import STAGES, ResNet
from medgen_jax.nn.stain_norm import VARIANTS, LStainNorm
from medgen_jax.ops import colour_statistics
from medgen_jax.ops.colour_statistics import SPACES
from medgen_jax.ops.scale import to_unit
from medgen_jax.systems import options, updates
from medgen_jax.systems.base import (
    Batch,
    Evaluator,
    Metrics,
    Observation,
    Preview,
    Sampler,
    System,
    TrainState,
    new_state,
    spread,
)

PyTree = Any


class Normaliser(enum.Enum):
    """What stands in front of the classifier."""

    NONE = "none"
    LSTAINNORM = "lstainnorm"


class Start(enum.Enum):
    """Whose colours the layer starts from."""

    DATA = "data"  # the mean over tiles spread over the training split
    TEMPLATE = "template"  # one training tile
    RELEASED = "released"  # the numbers of the paper's released configuration


@dataclass(slots=True)
class NormConfig:
    """LStainNorm."""

    kind: Normaliser = Normaliser.LSTAINNORM
    spaces: tuple[str, ...] = ("lab", "hsv", "rgb")
    variant: str = "paper"  # paper, or published: as the authors' code computes it
    start: Start = Start.DATA
    template: int = 0  # for start=template: which training tile, in stored order
    tiles: int = 256  # for start=data: how many
    trained: bool = True  # whether the layer learns; else it stays as it starts


@dataclass(slots=True)
class ModelConfig:
    """The classifier behind it."""

    depth: int = 18
    width: int = 64  # channels of the first layer
    channels: int = 3  # of the images; 1: grey, without a layer before it


@dataclass(slots=True)
class OptimConfig:
    """AdamW under a cosine."""

    lr: float = 5e-4
    lowest_lr: float = 5e-6
    weight_decay: float = 1e-5
    cosine_epochs: float = 0.0  # from lr to lowest_lr, and back in as many; 0: one fall over the whole run


@dataclass(slots=True)
class StopConfig:
    """When to stop early."""

    metric: str = "accuracy"  # accuracy, balanced_accuracy, f1, auroc or nll, on the val split
    patience: Optional[int] = 8  # evaluations (train.eval_every) without a better one; None: never


@dataclass(slots=True)
class Config:
    """Everything about a run."""

    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    norm: NormConfig = field(default_factory=NormConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    num_train: Optional[int] = None  # written by the engine
    steps_per_epoch: Optional[int] = None  # written by the engine


def _validate(config: Config) -> None:
    validate_types(config)
    validate_shared(config.data, config.train)
    norm, optim = config.norm, config.optim
    if config.data.classes:
        require(len(config.data.classes) >= 2, "data.classes", config.data.classes, "a classifier needs two or more")
    if unknown := [space for space in norm.spaces if space not in SPACES]:
        raise UserError(f"config.norm.spaces: no colour space {unknown[0]!r}; there are {', '.join(SPACES)}")
    twice = len(set(norm.spaces)) < len(norm.spaces)
    require(bool(norm.spaces) and not twice, "norm.spaces", norm.spaces, "must name one or more spaces, each once")
    require(norm.variant in VARIANTS, "norm.variant", norm.variant, f"must be one of {', '.join(VARIANTS)}")
    require(norm.template >= 0, "norm.template", norm.template, "must not be negative")
    require(norm.tiles >= 1, "norm.tiles", norm.tiles, "must be at least 1")
    require(config.model.depth in STAGES, "model.depth", config.model.depth, f"must be one of {tuple(STAGES)}")
    options.require_positive(config.model, "width")
    _validate_channels(config)
    require(optim.lr > 0, "optim.lr", optim.lr, "must be positive")
    require(0 <= optim.lowest_lr <= optim.lr, "optim.lowest_lr", optim.lowest_lr, "must lie in [0, optim.lr]")
    require(optim.weight_decay >= 0, "optim.weight_decay", optim.weight_decay, "must not be negative")
    require(optim.cosine_epochs >= 0, "optim.cosine_epochs", optim.cosine_epochs, "must not be negative")
    names = ("accuracy", "balanced_accuracy", "f1", "auroc", "nll")
    require(config.stop.metric in names, "stop.metric", config.stop.metric, f"must be one of {', '.join(names)}")


def _validate_channels(config: Config) -> None:
    channels = config.model.channels
    require(channels in (1, 3), "model.channels", channels, "must be 3 (RGB) or 1 (grey)")
    layered = channels == 1 and config.norm.kind is Normaliser.LSTAINNORM
    require(not layered, "model.channels", channels, "grey images have no stains: set config.norm.kind=none")


def _learning_rate(config: Config) -> Schedule:
    """Before the engine has counted the records, of the right form and unknown length."""
    optim, per_epoch = config.optim, config.steps_per_epoch or 1
    period = optim.cosine_epochs * per_epoch or expected_steps(config)
    return cosine(optim.lr, optim.lowest_lr, period)


def build(config: Config) -> "StainClassifier":
    """A classifier of stained tiles from a resolved configuration.

    Raises:
      UserError: naming the first field that is out of range.
    """
    _validate(config)
    norm, optim = config.norm, config.optim
    dtype = compute_dtype(config.train.precision)
    # Two, before the data have told their classes.
    classes = len(config.data.classes) or 2
    layer = LStainNorm(spaces=norm.spaces, variant=norm.variant) if norm.kind is Normaliser.LSTAINNORM else None
    return StainClassifier(
        layer=layer,
        backbone=ResNet(depth=config.model.depth, classes=classes, width=config.model.width, dtype=dtype),
        adam=optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(optim.weight_decay)),
        lr=_learning_rate(config),
        classes=classes,
        size=config.data.crop_size,
        channels=config.model.channels,
        wire=f"uint{config.data.bits}",
        batch_size=config.train.batch_size,
        start=norm.start.value,
        template=norm.template,
        tiles=norm.tiles,
        trained=norm.trained,
        stop=Monitor(config.stop.metric, "min" if config.stop.metric == "nll" else "max", config.stop.patience),
    )


@dataclass(frozen=True)
class StainClassifier(System):
    """Networks ``norm`` (the layer, where there is one) and ``net`` (the backbone)."""

    layer: LStainNorm | None
    backbone: nn.Module
    adam: optax.GradientTransformation
    lr: Schedule
    classes: int
    size: int
    channels: int
    wire: str
    batch_size: int
    start: str
    template: int
    tiles: int
    trained: bool
    stop: Monitor

    # -- what it eats ----------------------------------------------------------------------------

    @property
    def streams(self) -> dict[str, Stream]:
        """``records``: an image and its class."""
        image = Field((self.size, self.size, self.channels), self.wire, "config.model.channels")
        return {"records": Stream((("image", image), ("label", Field((), "int32"))), self.batch_size)}

    # -- state -----------------------------------------------------------------------------------

    def init(self, key: jax.Array) -> TrainState:
        """A fresh backbone; the layer at the released configuration's colours."""
        keys = rng.named(key, "net", "norm", "state")
        image = jnp.zeros((1, self.size, self.size, self.channels))
        found = {"net": self.backbone.init(keys["net"], image, train=False)}
        if self.layer:
            found["norm"] = self.layer.init(keys["norm"], image)
        params = {name: variables["params"] for name, variables in found.items()}
        mutable = {name: {k: v for k, v in variables.items() if k != "params"} for name, variables in found.items()}
        return new_state(
            keys["state"],
            params=params,
            mutable=mutable,
            opt={name: self.adam.init(p) for name, p in params.items() if self._learns(name)},
        )

    def _learns(self, name: str) -> bool:
        return name != "norm" or self.trained

    @property
    def observation(self) -> Observation | None:
        """Tiles spread evenly over the training split (which is stored class by class), or the template."""
        if self.layer is None or self.start == "released":
            return None

        def choose(count: int) -> Sequence[int]:
            if self.start == "data":
                return spread(count, self.tiles)
            if self.template >= count:
                raise UserError(f"config.norm.template = {self.template}: there are {count} training tiles, from 0 on")
            return [self.template]

        return Observation("records", choose)

    def observe(self, state: TrainState, records: Mapping[str, jax.Array]) -> TrainState:
        """The layer starts from the colours of these tiles."""

        def of_tile(image: jax.Array) -> PyTree:
            return colour_statistics.statistics(_from_zero(image[None]), self.layer.spaces)

        # One by one, so that memory does not grow with their number.
        each = jax.tree.map(lambda x: x[:, 0], jax.lax.map(of_tile, records["image"]))
        reference = colour_statistics.pooled(each)
        norm = {**state.mutable["norm"], "reference": reference}
        return state.replace(mutable={**state.mutable, "norm": norm})

    # -- the step --------------------------------------------------------------------------------

    def _normalised(self, variables: PyTree, image: jax.Array) -> jax.Array:
        """(b, h, w, channels), raw or in [-1, 1] -> in [0, 1]."""
        image = _from_zero(image)
        return self.layer.apply(variables["norm"], image) if self.layer else image

    def train_step(self, state: TrainState, batch: Batch, frozen: Mapping[str, PyTree]) -> tuple[TrainState, Metrics]:
        """One step of AdamW on the cross-entropy, of layer and backbone together."""
        image, label = batch["records"]["image"], batch["records"]["label"]
        learning = {name: p for name, p in state.params.items() if self._learns(name)}

        def loss(params: PyTree) -> tuple[jax.Array, tuple[PyTree, jax.Array]]:
            params = {**state.params, **params}
            variables = {name: {"params": p, **state.mutable[name]} for name, p in params.items()}
            shown = self._normalised(variables, image)
            logits, new = self.backbone.apply(variables["net"], shown, train=True, mutable=["batch_stats"])
            right = jnp.mean((jnp.argmax(logits, -1) == label).astype(jnp.float32))
            return optax.softmax_cross_entropy_with_integer_labels(logits, label).mean(), (new, right)

        (value, (new, right)), grads = jax.value_and_grad(loss, has_aux=True)(learning)
        rate = self.lr(state.step)
        state = updates.descend(state, grads, self.adam, rate, {"net": new})
        return state, {"cross_entropy": value, "accuracy": right, "lr": rate}

    # -- use -------------------------------------------------------------------------------------

    def inference_variables(self, state: TrainState) -> PyTree:
        """Parameters of both, running statistics, and the colours the layer started from."""
        return {name: {"params": p, **state.mutable[name]} for name, p in state.params.items()}

    def _logits(self, variables: PyTree, image: jax.Array) -> jax.Array:
        return self.backbone.apply(variables["net"], self._normalised(variables, image), train=False)

    def _predict(self, variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """``{"image": (b, h, w, channels)}`` -> (b, classes) probabilities."""
        return jax.nn.softmax(self._logits(variables, inputs["image"]))

    def _normalise(self, variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> jax.Array:
        """``{"image": (b, h, w, 3)}`` -> the same tiles as the backbone sees them, in [-1, 1]."""
        # The published form of the layer may exceed white.
        return jnp.clip(2 * self._normalised(variables, inputs["image"]) - 1, -1, 1)

    @property
    def samplers(self) -> dict[str, Sampler]:
        """``predict``: probabilities of the classes; ``normalize``: what the layer makes of a tile."""
        return {"predict": self._predict} | ({"normalize": self._normalise} if self.layer else {})

    @property
    def tile_variables(self) -> dict[str, Any]:
        """``normalize``: the layer looks at each image, so tiles of one need a first pass."""

        def pool(variables: PyTree, inputs: Mapping[str, jax.Array], key: jax.Array) -> PyTree:
            source = self.layer.apply(variables["norm"], _from_zero(inputs["image"]), method="source")
            return {**variables, "norm": {**variables["norm"], "source": source}}

        return {"normalize": pool} if self.layer else {}

    @property
    def sampler_inputs(self) -> dict[str, dict[str, Field]]:
        """A tile."""
        image = dict(self.streams["records"].fields)["image"]
        return {name: {"image": image} for name in self.samplers}

    @property
    def preview(self) -> Preview | None:
        """Tiles before and behind the layer."""
        if self.layer is None:
            return None
        return Preview("normalize", "records", lambda r, key: {"image": r["image"]}, (("field:image", "input"),))

    @property
    def evaluators(self) -> dict[str, Evaluator]:
        """``classes``: accuracy, balanced accuracy, F1, AUROC and likelihood."""

        def accumulate(acc: PyTree, variables: PyTree, batch: Mapping[str, jax.Array], key: jax.Array) -> PyTree:
            logits = self._logits(variables, batch["image"])
            return classification.accumulate(acc, logits, batch["label"], batch["mask"])

        measure = classification
        return {
            "classes": Evaluator(
                "records", lambda: measure.init(self.classes), accumulate, measure.merge, measure.compute
            )
        }

    @property
    def monitor(self) -> Monitor:
        """Decides which checkpoint is best, and stops a run that learns no more."""
        return self.stop


def _from_zero(image: jax.Array) -> jax.Array:
    """Raw samples, or floats in [-1, 1], in [0, 1]."""
    return (to_unit(image) + 1) / 2
