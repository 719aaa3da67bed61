"""Tables of the guided-diffusion layout: which tensor of a network is which parameter of ours. NumPy only.

A network is described by an `EncoderInfo`; its rows follow from that, and reading and writing from the rows
(`medgen_jax.interop.torch_layout`). What does not fit is named in the network's order.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.interop import torch_layout as layout
from medgen_jax.interop.torch_layout import Row, State, Tree

UNET, CLASSIFIER = "diffusion U-Net", "noise classifier"
HIDDEN = 2048  # width between the two layers of the spatial pools
GROUPS = 32  # of every norm
PARTS = ("time_embed", "label_emb", "input_blocks", "middle_block", "output_blocks", "out")


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderInfo:
    """What a file and its owner say about an encoder; names of `medgen_jax.nn.diffusion_blocks.Encoder`'s fields."""

    size: int
    channels: int
    width: int
    multipliers: tuple[float, ...]
    blocks: int
    attention: tuple[int, ...]
    film: bool
    resample: str

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(int(multiplier * self.width) for multiplier in self.multipliers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class UNetInfo(EncoderInfo):
    """The same of a `medgen_jax.nn.diffusion_unet.DiffusionUNet`: ``DiffusionUNet(**dataclasses.asdict(info))``."""

    conditions: tuple[tuple[str, int], ...]
    null_rows: bool
    learned_variance: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierInfo(EncoderInfo):
    """The same of a `medgen_jax.nn.diffusion_classifier.NoiseClassifier`."""

    classes: int
    pool: str


# ---- the tables ----------------------------------------------------------------------------------


def _layer(name: str, path: str, kind: str, shape: tuple[int, ...]) -> list[Row]:
    """Rows of a layer with a bias; the shape is the weight's."""
    return layout.convolution(name, path, kind, shape, True)


class _Tables:
    """Rows of a network's parts, in the order in which the layout lists them."""

    def __init__(self, info: EncoderInfo) -> None:
        self.info, self.rows = info, []
        self.made: list[int] = []

    def residual(self, name: str, path: str, inner: int, outer: int) -> None:
        told = (2 if self.info.film else 1) * outer
        self.rows += layout.affine(f"{name}.in_layers.0", f"{path}/norm_0", inner)
        self.rows += _layer(f"{name}.in_layers.2", f"{path}/conv_0", "conv", (outer, inner, 3, 3))
        self.rows += _layer(f"{name}.emb_layers.1", f"{path}/embedding", "linear", (told, 4 * self.info.width))
        self.rows += layout.affine(f"{name}.out_layers.0", f"{path}/norm_1", outer)
        self.rows += _layer(f"{name}.out_layers.3", f"{path}/conv_1", "conv", (outer, outer, 3, 3))
        if inner != outer:
            self.rows += _layer(f"{name}.skip_connection", f"{path}/shortcut", "linear", (outer, inner, 1, 1))

    def attention(self, name: str, path: str, width: int) -> None:
        self.rows += layout.affine(f"{name}.norm", f"{path}/norm", width)
        self.rows += _layer(f"{name}.qkv", f"{path}/qkv", "linear", (3 * width, width, 1))
        self.rows += _layer(f"{name}.proj_out", f"{path}/out", "linear", (width, width, 1))

    def stage(self, name: str, path: str, inner: int, level: int) -> int:
        """A residual block and its attention; the number of the layout's next place in the stage."""
        width = self.info.widths[level]
        self.residual(f"{name}.0", path, inner, width)
        if self.info.size // 2**level not in self.info.attention:
            return 1
        self.attention(f"{name}.1", f"{path}_attention", width)
        return 2

    def resample(self, name: str, conv: str, path: str, width: int) -> None:
        if self.info.resample == "block":
            self.residual(name, path, width, width)
        elif self.info.resample == "conv":
            self.rows += _layer(f"{name}.{conv}", path, "conv", (width, width, 3, 3))

    def time(self) -> None:
        width = self.info.width
        self.rows += _layer("time_embed.0", "time_0", "linear", (4 * width, width))
        self.rows += _layer("time_embed.2", "time_1", "linear", (4 * width, 4 * width))

    def encoder(self) -> None:
        """Every stage on the way down, whose channels go to ``made``, and the middle."""
        info, widths = self.info, self.info.widths
        self.rows += _layer("input_blocks.0.0", "stem", "conv", (widths[0], info.channels, 3, 3))
        self.made = [widths[0]]
        for level, width in enumerate(widths):
            for number in range(info.blocks):
                self.stage(f"input_blocks.{len(self.made)}", f"down_{level}_{number}", self.made[-1], level)
                self.made.append(width)
            if level < len(widths) - 1:
                self.resample(f"input_blocks.{len(self.made)}.0", "op", f"down_{level}_halve", width)
                self.made.append(width)
        self.residual("middle_block.0", "middle_0", widths[-1], widths[-1])
        self.attention("middle_block.1", "middle_attention", widths[-1])
        self.residual("middle_block.2", "middle_1", widths[-1], widths[-1])

    def decoder(self) -> None:
        info, widths = self.info, self.info.widths
        made, inner, place = list(self.made), widths[-1], 0
        for level in reversed(range(len(widths))):
            for number in range(info.blocks + 1):
                name = f"output_blocks.{place}"
                after = self.stage(name, f"up_{level}_{number}", inner + made.pop(), level)
                inner, place = widths[level], place + 1
                if level and number == info.blocks:
                    self.resample(f"{name}.{after}", "conv", f"up_{level}_double", inner)


def unet_rows(info: UNetInfo) -> list[Row]:
    """All rows; the table of the classes has the null row, if the network has one."""
    tables, first = _Tables(info), info.widths[0]
    tables.time()
    for name, count in info.conditions:
        shape = (count + info.null_rows, 4 * info.width)
        tables.rows.append(Row("label_emb.weight", ("params", f"condition_{name}"), "same", shape))
    tables.encoder()
    tables.decoder()
    out = (1 + info.learned_variance) * info.channels
    head = layout.affine("out.0", "head_norm", first) + _layer("out.2", "head", "conv", (out, first, 3, 3))
    return tables.rows + head


def classifier_rows(info: ClassifierInfo) -> list[Row]:
    """All rows of a classifier."""
    tables, last = _Tables(info), info.widths[-1]
    tables.time()
    tables.encoder()
    if info.pool.startswith("spatial"):
        normed = info.pool == "spatial_v2"
        rows = _layer("out.0", "hidden", "linear", (HIDDEN, sum(tables.made) + last))
        rows += layout.affine("out.1", "hidden_norm", HIDDEN) if normed else []
        return tables.rows + rows + _layer(f"out.{3 if normed else 2}", "head", "linear", (info.classes, HIDDEN))
    rows = layout.affine("out.0", "head_norm", last)
    if info.pool == "adaptive":
        return tables.rows + rows + _layer("out.3", "head", "linear", (info.classes, last, 1, 1))
    tokens = 1 + (info.size // 2 ** (len(info.widths) - 1)) ** 2
    rows.append(Row("out.2.positional_embedding", ("params", "head", "position"), "linear", (last, tokens)))
    rows += _layer("out.2.qkv_proj", "head/qkv", "linear", (3 * last, last, 1))
    return tables.rows + rows + _layer("out.2.c_proj", "head/out", "linear", (info.classes, last, 1))


# ---- both ways along a table ---------------------------------------------------------------------


def _place(name: str) -> tuple[Any, ...]:
    """Where a tensor stands in its network, to be compared: ``input_blocks.10`` comes behind ``input_blocks.9``."""
    part, *places = name.split(".")
    known = PARTS.index(part) if part in PARTS else len(PARTS)
    return known, part, [(int(place), "") if place.isdigit() else (-(place == "weight"), place) for place in places]


def check(what: str, rows: Sequence[Row], state: State) -> None:
    """Raise a UserError that names the first tensor, in the network's order, that does not fit the table."""
    found, wanted = ({name: np.shape(a) for name, a in state.items()}, {row.name: row.shape for row in rows})
    odd = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    if not odd:
        return
    first = min(odd, key=_place)
    if first in found and first in wanted:
        fault = f"{first} has shape {found[first]}, this configuration needs {wanted[first]}"
    elif first in wanted:
        fault = f"the file has no {first} {wanted[first]}, which this configuration needs"
    else:
        fault = f"the file has {first} {found[first]}, for which this configuration has no place"
    count = "1 tensor differs" if len(odd) == 1 else f"{len(odd)} tensors differ"
    raise UserError(f"{what} weights: {fault}; {count}")


def to_flax(what: str, rows: Sequence[Row], state: State) -> Tree:
    """Parameters, float32; raises as `check`."""
    check(what, rows, state)
    return layout.to_flax(what, rows, state)[0]


def check_counterpart(what: str, info: EncoderInfo) -> None:
    """Raise a UserError for a network that the layout has no counterpart of."""
    odd = [width for width in info.widths if width % GROUPS]
    if odd:
        raise UserError(f"{what} weights: a level has {odd[0]} channels; the layout knows multiples of {GROUPS} only")
    if isinstance(info, UNetInfo) and len(info.conditions) > 1:
        names = ", ".join(name for name, _ in info.conditions)
        raise UserError(f"{what} weights: the layout has one table of classes; this network has conditions {names}")
