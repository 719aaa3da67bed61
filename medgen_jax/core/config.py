"""Configuration shared by every system, and the checks all configurations pass through.

A system's ``Config`` is a nested ``@dataclass(slots=True)`` with the members ``data: DataConfig``,
``train: TrainConfig``, ``num_train`` and ``steps_per_epoch`` beside its own. Standard library only.

No postponed annotations in this file or in a system's: config_flags reads the types of the fields.
"""

import dataclasses
import enum
import math
import types
import typing
from dataclasses import dataclass, field
from typing import Any, Optional

from medgen_jax.core.errors import UserError


class Layout(enum.Enum):
    """How a data directory is laid out."""

    AUTO = "auto"  # decided by the folders that are there
    PAIRED = "paired"  # {train,val,test}/{A,B}/name.png
    UNPAIRED = "unpaired"  # trainA trainB testA testB
    CLASSES = "classes"  # {train,val,test}/CLASS/name.png
    PANELS = "panels"  # {train,val,test}/name.png, a and b side by side in one picture
    IMAGES = "images"  # {train,val,test}/name.png
    CSV = "csv"  # the source is a CSV file that lists images
    PREPARED = "prepared"  # written by `python -m medgen_jax.prepare` or any TFDS ArrayRecord set


class Nan(enum.Enum):
    """What becomes of samples that are NaN or infinite, in floating-point files."""

    REFUSE = "refuse"  # the file is refused
    LOW = "low"  # they become range_low


class StainKind(enum.Enum):
    """How training images of stained tissue are recoloured; see `medgen_jax.stain.augment`."""

    NONE = "none"
    RANDSTAIN = "randstain"  # a virtual template drawn from the statistics of the training images
    JITTER = "jitter"  # amounts of haematoxylin and eosin, perturbed


@dataclass(slots=True)
class StainAugmentConfig:
    """Recolouring of training images inside the training step; evaluation and inference never see it."""

    kind: StainKind = StainKind.NONE
    fields: tuple[str, ...] = ()  # of the streams; empty: every image field with 3 channels
    strength: Optional[float] = None  # None: 0.7 for randstain (units of the data's spread), 0.2 for jitter (shares)
    probability: float = 1.0  # that an image is recoloured at all
    records: int = 256  # training records that randstain's statistics are measured on


@dataclass(slots=True)
class DataConfig:
    """Where images come from and how they are cut."""

    source: str = ""  # directory, CSV file, or the name of a data set that ships with the package ("isl")
    layout: Layout = Layout.AUTO
    pairs_source: Optional[str] = None  # a second, paired source for the table of pairs, beside unpaired a and b
    class_a: Optional[str] = None  # classes of single images that become the unpaired domains a and b
    class_b: Optional[str] = None
    classes: tuple[str, ...] = ()  # of single images with a class: which ones, in this order; (): all there are
    views: tuple[str, ...] = ()  # of single images with a view: the known ones, in this order; others stay, as unknown
    csv_root: Optional[str] = None  # folder that the paths in a CSV file start from; None: the one it lies in
    shares: tuple[float, ...] = (0.8, 0.1, 0.1)  # of train, val and test in patients, for a CSV file without splits
    split_seed: int = 0  # deals those patients anew
    panels: int = 2  # pictures of equal width in one file, for layout=panels
    panel_a: int = 0  # which of them are a and b, counted from the left
    panel_b: int = 1
    bits: int = 8  # bits per sample of the files, 8 or 16; other files are refused
    range_low: Optional[float] = None  # physical values (HU, radians) that become the lowest and the highest level, for
    range_high: Optional[float] = None  # grey files of all kinds and for colours that are not 8 or 16 unsigned bits
    nan: Nan = Nan.REFUSE
    window: str = "file"  # greyscale of DICOM files: file, full, or CENTRE,WIDTH in physical units
    load_size: Optional[int] = None  # square size to resize to (bicubic) before cropping; None: keep
    crop_size: int = 256  # square training crop, pixels
    flip: bool = True  # left-right flips, training only
    rotate: bool = False  # quarter turns, training only
    stain_augment: StainAugmentConfig = field(default_factory=StainAugmentConfig)
    threads: int = 16  # reader threads per stream
    workers: int = 0  # reader processes per stream; 0: threads only
    prefetch: int = 2  # batches kept ready on the device


@dataclass(slots=True)
class TrainConfig:
    """How long to train and how often to log, save and evaluate. Counts are optimiser steps."""

    seed: int = 0
    batch_size: int = 1  # over all devices and processes
    steps: int = 0  # length of the run: give steps or epochs, leave the other at 0
    epochs: float = 0.0
    steps_per_call: int = 1  # steps fused into one device call by lax.scan
    precision: str = "auto"  # compute dtype: float32 | bfloat16 | auto (bfloat16 on GPU and TPU)
    log_every: int = 50
    save_every: int = 1000
    keep: int = 2  # newest checkpoints kept; the best one is kept beside them
    sample_every: int = 1000  # grids of fixed inputs; 0: only at the end
    eval_every: int = 0  # validation; 0: only at the end
    max_skipped: int = 10  # stop after so many non-finite steps in a row


@dataclass(frozen=True)
class Monitor:
    """Which validation number decides which checkpoint is best, and when to stop early.

    ``mode`` is ``min`` or ``max``; ``patience`` counts evaluations without improvement, None never
    stops early.
    """

    name: str
    mode: str = "min"
    patience: Optional[int] = None

    def __post_init__(self) -> None:
        if self.mode not in ("min", "max"):
            raise UserError(f"monitor {self.name!r}: mode is {self.mode!r}, must be min or max")


#: Fields that the engine writes; a user who sets them is told so.
ENGINE_FIELDS = ("num_train", "steps_per_epoch")


def _matches(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, option) for option in typing.get_args(hint))
    if origin is tuple:
        item = typing.get_args(hint)[0]
        return isinstance(value, tuple) and all(_matches(v, item) for v in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def validate_types(config: Any, prefix: str = "config") -> None:
    """Check every field of a nested configuration against its annotation.

    Raises:
      UserError: naming the first field whose value has another type, and the type it wants.
    """
    hints = typing.get_type_hints(type(config))
    for f in dataclasses.fields(config):
        value, name = getattr(config, f.name), f"{prefix}.{f.name}"
        if dataclasses.is_dataclass(value):
            validate_types(value, name)
        elif not _matches(value, hints[f.name]):
            wanted = getattr(hints[f.name], "__name__", None) or str(hints[f.name])
            if typing.get_origin(hints[f.name]) is not None:
                wanted = str(hints[f.name]).replace("typing.", "")
            raise UserError(f"{name} = {value!r}: expected {wanted}")


def require(condition: bool, field_name: str, value: Any, rule: str) -> None:
    """Raise a UserError that names a field, its value and the rule it breaks."""
    if not condition:
        raise UserError(f"config.{field_name} = {value!r}: {rule}")


def validate_shared(data: DataConfig, train: TrainConfig) -> None:
    """Check the ranges of the members every system shares."""
    rule = f"give two different classes, or neither (data.class_a = {data.class_a!r})"
    good = (data.class_a is None) == (data.class_b is None) and (data.class_a is None or data.class_a != data.class_b)
    require(good, "data.class_b", data.class_b, rule)
    require(len(set(data.classes)) == len(data.classes), "data.classes", data.classes, "names a class twice")
    require(len(set(data.views)) == len(data.views), "data.views", data.views, "names a view twice")
    require(data.bits in (8, 16), "data.bits", data.bits, "must be 8 or 16")
    _validate_greyscale(data)
    _validate_stain_augment(data.stain_augment)
    require(data.crop_size >= 1, "data.crop_size", data.crop_size, "must be at least 1")
    if data.load_size is not None:
        rule = f"must be at least data.crop_size = {data.crop_size}"
        require(data.load_size >= data.crop_size, "data.load_size", data.load_size, rule)
    require(data.panels >= 2, "data.panels", data.panels, "must be at least 2")
    for name in ("panel_a", "panel_b"):
        rule = f"must be one of the data.panels = {data.panels} panels, counted from 0, and not the other one"
        good = 0 <= getattr(data, name) < data.panels and data.panel_a != data.panel_b
        require(good, f"data.{name}", getattr(data, name), rule)
    for name in ("threads", "workers", "prefetch", "split_seed"):
        require(getattr(data, name) >= 0, f"data.{name}", getattr(data, name), "must not be negative")
    for name in ("steps", "epochs"):
        require(getattr(train, name) >= 0, f"train.{name}", getattr(train, name), "must not be negative")
    rule = f"give train.steps or train.epochs and leave the other at 0 (train.epochs = {train.epochs!r})"
    require((train.steps > 0) != (train.epochs > 0), "train.steps", train.steps, rule)
    for name in ("batch_size", "steps_per_call", "log_every", "save_every", "keep", "max_skipped"):
        require(getattr(train, name) >= 1, f"train.{name}", getattr(train, name), "must be at least 1")
    for name in ("seed", "sample_every", "eval_every"):
        require(getattr(train, name) >= 0, f"train.{name}", getattr(train, name), "must not be negative")
    options = ("auto", "float32", "bfloat16")
    require(train.precision in options, "train.precision", train.precision, f"must be one of {', '.join(options)}")


def _validate_greyscale(data: DataConfig) -> None:
    """Check the fields that say which physical values are black and white."""
    low, high = data.range_low, data.range_high
    rule = f"give both ends of the range, or neither (data.range_low = {low!r})"
    require((low is None) == (high is None), "data.range_high", high, rule)
    if low is not None and high is not None:
        for name, value in (("data.range_low", low), ("data.range_high", high)):
            require(math.isfinite(value), name, value, "must be finite")
        require(low != high, "data.range_high", high, "must not be data.range_low")
        rule = "does not go with data.range_low and data.range_high, which say more; leave it at file"
        require(data.window == "file", "data.window", data.window, rule)
    rule = "is for a declared range: set data.range_low and data.range_high"
    require(data.nan is not Nan.LOW or low is not None, "data.nan", data.nan.value, rule)
    parse_window(data.window)


def _validate_stain_augment(settings: StainAugmentConfig) -> None:
    """Check the ranges of stain augmentation; its fields are checked against the streams."""
    strength, jitter = settings.strength, settings.kind is StainKind.JITTER
    rule = "must be at least 0 and below 1, as a share of the amounts" if jitter else "must be finite, at least 0"
    good = strength is None or 0 <= strength < (1 if jitter else math.inf)
    require(good, "data.stain_augment.strength", strength, rule)
    good, rule = 0 <= settings.probability <= 1, "must lie in [0, 1]"
    require(good, "data.stain_augment.probability", settings.probability, rule)
    require(settings.records >= 1, "data.stain_augment.records", settings.records, "must be at least 1")


def parse_window(text: str) -> str | tuple[float, float]:
    """``data.window`` as ``file``, ``full``, or (centre, width).

    Raises:
      UserError: for anything else.
    """
    if text in ("file", "full"):
        return text
    try:
        centre, width = (float(part) for part in text.split(","))
    except ValueError:
        centre = width = math.nan
    rule = "must be file, full, or CENTRE,WIDTH with a width of at least 1, such as -600,1500"
    require(math.isfinite(centre) and math.isfinite(width) and width >= 1, "data.window", text, rule)
    return centre, width


def resolve(config: Any, num_train: int, steps_per_epoch: int | None = None) -> Any:
    """Return a copy of ``config`` in which the engine's own fields are filled in.

    Args:
      config: a system's Config whose engine fields are None.
      num_train: records in the first stream.
      steps_per_epoch: optimiser steps per epoch; ``ceil(num_train / batch_size)`` when None.

    Raises:
      UserError: when the user has set a field that only the engine may write.
    """
    for name in ENGINE_FIELDS:
        require(getattr(config, name) is None, name, getattr(config, name), "is written by the engine; remove it")
    steps = steps_per_epoch or math.ceil(num_train / config.train.batch_size)
    return dataclasses.replace(config, num_train=num_train, steps_per_epoch=steps)


def total_steps(config: Any) -> int:
    """Optimiser steps of the whole run of a resolved configuration."""
    if config.train.steps:
        return config.train.steps
    return max(1, math.ceil(config.train.epochs * config.steps_per_epoch))


def expected_steps(config: Any) -> int:
    """`total_steps`; ``train.steps``, or 1, before the engine has counted the records."""
    return total_steps(config) if config.steps_per_epoch else max(config.train.steps, 1)


def to_dict(config: Any) -> dict[str, Any]:
    """A nested configuration as JSON types: enums by value, tuples as lists."""

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
        if isinstance(value, enum.Enum):
            return value.value
        return [plain(v) for v in value] if isinstance(value, tuple) else value

    return plain(config)


def from_dict(cls: type, values: dict[str, Any], prefix: str = "config") -> Any:
    """Rebuild a configuration written by `to_dict`.

    Raises:
      UserError: naming a key that ``cls`` does not have.
    """
    hints = typing.get_type_hints(cls)
    unknown = sorted(set(values) - set(hints))
    if unknown:
        raise UserError(f"{prefix}.{unknown[0]}: no such field in {cls.__name__}; it was written by another version")

    def typed(value: Any, hint: Any, name: str) -> Any:
        if dataclasses.is_dataclass(hint):
            return from_dict(hint, value, name)
        if typing.get_origin(hint) in (typing.Union, types.UnionType):
            inner = [h for h in typing.get_args(hint) if h is not type(None)]
            return None if value is None else typed(value, inner[0], name)
        if typing.get_origin(hint) is tuple:
            return tuple(typed(v, typing.get_args(hint)[0], name) for v in value)
        if isinstance(hint, type) and issubclass(hint, enum.Enum):
            return hint(value)
        return value

    return cls(**{key: typed(value, hints[key], f"{prefix}.{key}") for key, value in values.items()})


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "config") -> list[str]:
    """Dotted names and both values of every leaf that differs between two `to_dict` results."""
    found: list[str] = []
    for key in sorted(set(old) | set(new)):
        name, a, b = f"{prefix}.{key}", old.get(key), new.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            found += differences(a, b, name)
        elif a != b:
            found.append(f"{name}: {a!r} -> {b!r}")
    return found
