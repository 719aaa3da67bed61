"""Residual generator weights in the layout of the PyTorch pix2pix / CycleGAN code base. NumPy only.

Files ``{epoch}_net_{G_A,G_B}.pth`` (``net_G`` of runs in one direction); discriminators are those of
`medgen_jax.interop.pix2pix_layout`. Widths, number of blocks and the kind of norm are read off the
names and shapes. The second convolution of a block stands at place 6 when the network was made with
dropout, else at 5. Statistics that old releases stored for instance norm were never used and are dropped.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.interop import torch_layout as layout
from medgen_jax.interop.torch_layout import Row, State, Tree

_WHAT = "ResNet generator"


@dataclass(frozen=True)
class ResNetInfo:
    """What a file says about its network; field names are those of `medgen_jax.nn.resnet_generator.ResNetGenerator`.

    ``dropout`` tells whether the network was made with dropout layers, ``parameters`` counts trained
    values, ``batches_tracked`` the training passes seen by batch norms.
    """

    in_channels: int
    out_channels: int
    ngf: int
    blocks: int
    norm: str
    dropout: bool
    parameters: int
    batches_tracked: int


def _rows(in_channels: int, out_channels: int, ngf: int, blocks: int, norm: str, dropout: bool) -> list[Row]:
    def places(number: int, prefix: str = "model") -> tuple[str, str]:
        """Names of a convolution and of the norm behind it."""
        return f"{prefix}.{number}", f"{prefix}.{number + 1}"

    rows = layout.normed(places(1), ("stem", "stem_norm"), "conv", (ngf, in_channels, 7, 7), norm)
    for level in (1, 2):
        width = ngf * 2**level
        modules = (f"down_{level}", f"down_{level}_norm")
        rows += layout.normed(places(3 * level + 1), modules, "conv", (width, width // 2, 3, 3), norm)
    for number in range(blocks):
        for half, place in enumerate((1, 6 if dropout else 5)):
            names = places(place, f"model.{10 + number}.conv_block")
            modules = (f"block_{number}/conv_{half}", f"block_{number}/norm_{half}")
            rows += layout.normed(names, modules, "conv", (4 * ngf, 4 * ngf, 3, 3), norm)
    for level in (1, 0):
        width, modules = ngf * 2**level, (f"up_{level}", f"up_{level}_norm")
        rows += layout.normed(places(10 + blocks + 3 * (1 - level)), modules, "convt", (2 * width, width, 3, 3), norm)
    return rows + layout.convolution(f"model.{17 + blocks}", "head", "conv", (out_channels, ngf, 7, 7), True)


def is_resnet(state: State) -> bool:
    """Whether a state dict is that of a residual generator, by the names of its blocks."""
    return any(".conv_block." in name for name in state)


def resnet_from_torch(state: State) -> tuple[Tree, Tree, ResNetInfo]:
    """``(params, batch_stats, info)`` of a residual generator.

    Args:
      state: the state dict as arrays (`medgen_jax.interop.torch_file.read_state_dict`).

    Returns:
      float32 trees for `medgen_jax.nn.resnet_generator.ResNetGenerator`; ``batch_stats`` is empty for
      instance norm.

    Raises:
      UserError: names are missing or unknown, or a shape does not fit.
    """
    ngf, in_channels = layout.shape_of(_WHAT, state, "model.1.weight")[:2]
    found = {int(m[1]) for name in state if (m := re.match(r"model\.(\d+)\.conv_block\.", name))}
    blocks = len(found)
    if found != set(range(10, 10 + blocks)):
        raise UserError(f"{_WHAT} weights: the blocks {sorted(found)} do not follow each other from 10 on")
    out_channels = layout.shape_of(_WHAT, state, f"model.{17 + blocks}.weight")[0]
    norm = layout.norm_kind(_WHAT, state, "model.2", "model.1")
    # Norms of kind batch shift by one place, so only a four-axis tensor tells the second convolution.
    dropout = np.ndim(state.get("model.10.conv_block.6.weight", 0.0)) == 4
    rows = _rows(in_channels, out_channels, ngf, blocks, norm, dropout)
    params, batch_stats = layout.to_flax(_WHAT, rows, state, layout.unused_statistics(state, norm))
    tracked = layout.batches_tracked(state) if norm == "batch" else 0
    info = ResNetInfo(in_channels, out_channels, ngf, blocks, norm, dropout, layout.count(params), tracked)
    return params, batch_stats, info


def resnet_to_torch(
    params: Tree,
    batch_stats: Tree,
    *,
    norm: str,
    upsample: str = "convt",
    dropout: bool = False,
    batches_tracked: int = 0,
) -> dict[str, np.ndarray]:
    """The state dict of a residual generator; the inverse of `resnet_from_torch`.

    Args:
      params, batch_stats: of `ResNetGenerator`; ``batch_stats`` empty for instance norm.
      norm, upsample: of the network; only ``batch`` or ``instance``, and ``convt``, have a counterpart.
      dropout: write the places of a network made with dropout.
      batches_tracked: written as the counter of every batch norm.

    Raises:
      UserError: the network has no counterpart in the layout.
    """
    layout.check_norm(_WHAT, norm)
    if upsample != "convt":
        raise UserError(f"{_WHAT} weights: upsample {upsample!r} has no counterpart in the layout, only convt has")
    blocks = sum(name.startswith("block_") for name in params)
    in_channels, ngf = np.shape(params["stem"]["kernel"])[2:]
    out_channels = np.shape(params["head"]["kernel"])[3]
    rows = _rows(in_channels, out_channels, ngf, blocks, norm, dropout)
    return layout.with_counters(layout.to_torch(_WHAT, rows, params, batch_stats), batches_tracked)
