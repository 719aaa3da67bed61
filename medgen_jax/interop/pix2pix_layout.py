"""U-Net and PatchGAN weights in the layout of the PyTorch pix2pix / CycleGAN code base. NumPy only.

Files ``{epoch}_net_G.pth`` and ``{epoch}_net_D.pth``. The U-Net is nested: ``model.model`` is the
outermost level and child 1 (at the outermost level) or 3 of each level is the next one.

Widths, number of levels and the kind of norm are read off the names and shapes: batch norm has weights;
instance norm has none, and biases in the convolutions before it. Running statistics that old releases
stored for instance norm were never used and are dropped.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medgen_jax.interop import torch_layout as layout
from medgen_jax.interop.torch_layout import Row, State, Tree


@dataclass(frozen=True)
class UNetInfo:
    """What a U-Net file says about its network; field names are those of `medgen_jax.nn.unet.UNet`.

    ``parameters`` counts trained values, ``batches_tracked`` the training passes seen by batch norms.
    """

    in_channels: int
    out_channels: int
    ngf: int
    downs: int
    norm: str
    parameters: int
    batches_tracked: int


@dataclass(frozen=True)
class PatchGANInfo:
    """What a PatchGAN file says about its network; field names are those of `medgen_jax.nn.patchgan.PatchGAN`."""

    in_channels: int
    ndf: int
    layers: int
    norm: str
    parameters: int
    batches_tracked: int


def _unet_rows(in_channels: int, out_channels: int, ngf: int, downs: int, norm: str) -> list[Row]:
    bias = norm == "instance"
    widths = [ngf * min(2**level, 8) for level in range(downs)]
    rows = layout.convolution("model.model.0", "down_0", "conv", (ngf, in_channels, 4, 4), bias)
    prefix = "model.model.1"
    for level in range(1, downs):
        width, outer, innermost = widths[level], widths[level - 1], level == downs - 1
        down, shape = (f"{prefix}.model.1", f"down_{level}"), (width, outer, 4, 4)
        up, up_norm = ("3", "4") if innermost else ("5", "6")
        if innermost:
            rows += layout.convolution(*down, "conv", shape, bias)
        else:
            names, modules = (down[0], f"{prefix}.model.2"), (down[1], f"down_norm_{level}")
            rows += layout.normed(names, modules, "conv", shape, norm)
        names, modules = (f"{prefix}.model.{up}", f"{prefix}.model.{up_norm}"), (f"up_{level}", f"up_norm_{level}")
        rows += layout.normed(names, modules, "convt", (width if innermost else 2 * width, outer, 4, 4), norm)
        prefix += ".model.3"
    return rows + layout.convolution("model.model.3", "up_0", "convt", (2 * ngf, out_channels, 4, 4), True)


def _patchgan_rows(in_channels: int, ndf: int, layers: int, norm: str) -> list[Row]:
    rows = layout.convolution("model.0", "conv_0", "conv", (ndf, in_channels, 4, 4), True)
    inner = ndf
    for layer in range(1, layers + 1):
        width, place = ndf * min(2**layer, 8), 3 * layer - 1
        names, modules = (f"model.{place}", f"model.{place + 1}"), (f"conv_{layer}", f"norm_{layer}")
        rows += layout.normed(names, modules, "conv", (width, inner, 4, 4), norm)
        inner = width
    return rows + layout.convolution(f"model.{3 * layers + 2}", f"conv_{layers + 1}", "conv", (1, inner, 4, 4), True)


def unet_from_torch(state: State) -> tuple[Tree, Tree, UNetInfo]:
    """``(params, batch_stats, info)`` of a U-Net generator.

    Args:
      state: the state dict as arrays (`medgen_jax.interop.torch_file.read_state_dict`).

    Returns:
      float32 trees for `medgen_jax.nn.unet.UNet`; ``batch_stats`` is empty for instance norm.

    Raises:
      UserError: names are missing or unknown, or a shape does not fit.
    """
    what = "U-Net"
    downs, prefix = 1, "model.model.1"
    while f"{prefix}.model.1.weight" in state:
        downs, prefix = downs + 1, prefix + ".model.3"
    ngf, in_channels = layout.shape_of(what, state, "model.model.0.weight")[:2]
    out_channels = layout.shape_of(what, state, "model.model.3.weight")[1]
    norm = layout.norm_kind(what, state, "model.model.1.model.2", "model.model.1.model.1")
    rows = _unet_rows(in_channels, out_channels, ngf, downs, norm)
    params, batch_stats = layout.to_flax(what, rows, state, layout.unused_statistics(state, norm))
    tracked = layout.batches_tracked(state) if norm == "batch" else 0
    return params, batch_stats, UNetInfo(in_channels, out_channels, ngf, downs, norm, layout.count(params), tracked)


def unet_to_torch(params: Tree, batch_stats: Tree, *, norm: str, batches_tracked: int = 0) -> dict[str, np.ndarray]:
    """The state dict of a U-Net with transposed convolutions; the inverse of `unet_from_torch`.

    Args:
      params, batch_stats: of `medgen_jax.nn.unet.UNet`; ``batch_stats`` empty for instance norm.
      norm: the network's kind of norm, ``batch`` or ``instance``.
      batches_tracked: written as the counter of every batch norm.

    Raises:
      UserError: the network has no counterpart in the layout (``nearest_conv``, norm ``none``).
    """
    layout.check_norm("U-Net", norm)
    downs = sum(name.startswith("down_") and "norm" not in name for name in params)
    in_channels, ngf = np.shape(params["down_0"]["kernel"])[2:]
    out_channels = np.shape(params["up_0"]["kernel"])[3]
    rows = _unet_rows(in_channels, out_channels, ngf, downs, norm)
    return layout.with_counters(layout.to_torch("U-Net", rows, params, batch_stats), batches_tracked)


def patchgan_from_torch(state: State) -> tuple[Tree, Tree, PatchGANInfo]:
    """``(params, batch_stats, info)`` of a PatchGAN discriminator; as `unet_from_torch`."""
    what = "PatchGAN"
    ndf, in_channels = layout.shape_of(what, state, "model.0.weight")[:2]
    layers = 0
    while f"model.{3 * (layers + 1) + 2}.weight" in state:
        layers += 1
    norm = layout.norm_kind(what, state, "model.3", "model.2")
    rows = _patchgan_rows(in_channels, ndf, layers, norm)
    params, batch_stats = layout.to_flax(what, rows, state, layout.unused_statistics(state, norm))
    tracked = layout.batches_tracked(state) if norm == "batch" else 0
    return params, batch_stats, PatchGANInfo(in_channels, ndf, layers, norm, layout.count(params), tracked)


def patchgan_to_torch(params: Tree, batch_stats: Tree, *, norm: str, batches_tracked: int = 0) -> dict[str, np.ndarray]:
    """The state dict of a PatchGAN, the inverse of `patchgan_from_torch`; arguments as in `unet_to_torch`."""
    layout.check_norm("PatchGAN", norm)
    layers = sum(name.startswith("conv_") for name in params) - 2
    in_channels, ndf = np.shape(params["conv_0"]["kernel"])[2:]
    rows = _patchgan_rows(in_channels, ndf, layers, norm)
    return layout.with_counters(layout.to_torch("PatchGAN", rows, params, batch_stats), batches_tracked)
