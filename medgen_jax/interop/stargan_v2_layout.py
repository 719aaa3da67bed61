"""StarGAN v2 weights in the layout of its reference's checkpoint files. NumPy only.

Files ``{step}_nets_ema.ckpt`` hold a dictionary of three state dicts, ``generator``, ``mapping_network`` and
``style_encoder``; ``{step}_nets.ckpt`` have ``discriminator`` too. `medgen_jax.interop.torch_file` joins the names by
dots (``generator.from_rgb.weight``). A name may start with ``module.`` (DataParallel).

Sizes and widths are read off the names and shapes. The landmark network that some files hold (``fan``) belongs to
faces and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.interop import torch_layout as layout
from medgen_jax.interop.torch_layout import Row, State, Tree

NETWORKS = ("generator", "mapping_network", "style_encoder", "discriminator")
_DISCRIMINATOR = NETWORKS[3]
_IGNORED = "fan"
_WRAPPED = "module."
_FILTER = "hpf.filter"
_BOTTLENECKS = 2
_SHARED, _OWN = 4, 4  # linear layers of the mapping network, of all domains and of each


@dataclass(frozen=True)
class Info:
    """What a file says about its networks; field names are those of `medgen_jax.nn.stargan_v2`.

    ``latent_width`` is the length of the noise that the mapping network takes. ``max_width`` is the width of the last
    block, which is where the widths stop growing in this file.
    """

    size: int
    channels: int
    width: int
    max_width: int
    domains: int
    style_width: int
    latent_width: int
    hidden: int
    w_hpf: float


def split(state: State) -> dict[str, dict[str, np.ndarray]]:
    """The state dict of every network in a file, without ``module.`` prefixes.

    Args:
      state: names joined by dots, as `medgen_jax.interop.torch_file.read_state_dict` gives them.

    Raises:
      UserError: a network of the three of ``nets_ema.ckpt`` is absent, or a name belongs to none that is known.
    """
    found = layout.by_network("StarGAN v2", state, dict(zip(NETWORKS, NETWORKS, strict=True)), (_IGNORED,))
    missing = [name for name in NETWORKS if name not in found and name != _DISCRIMINATOR]
    if missing:
        raise UserError(f"StarGAN v2 weights: the file lacks the network {missing[0]}")
    return {
        network: {name.removeprefix(_WRAPPED): array for name, array in found[network].items()}
        for network in NETWORKS
        if network in found
    }


def networks_info(state: State, *, w_hpf: float | None = None) -> Info:
    """Read the networks' sizes off a file.

    Args:
      state: as for `split`.
      w_hpf: strength of the high-pass skips, if the file has networks with skips but not the filter.

    Raises:
      UserError: tensors that tell the sizes are absent, or contradict each other or ``w_hpf``.
    """
    nets = split(state)
    generator, mapping, encoder = (nets[name] for name in NETWORKS[:3])

    def shape(network: str, name: str, axes: int) -> tuple[int, ...]:
        return layout.shape_of(f"StarGAN v2 {network}", nets[network], name, axes)

    halvings = layout.numbered(encoder, "shared.{}.conv1.weight", 1)
    if halvings < 2:
        raise UserError(f"StarGAN v2 style_encoder weights: {halvings} blocks; images of 16 pixels have 2")
    size = 4 * 2**halvings
    width, channels = shape("generator", "from_rgb.weight", 4)[:2]
    hidden, latent = shape("mapping_network", "shared.0.weight", 2)
    return Info(
        size=size,
        channels=channels,
        width=width,
        max_width=shape("style_encoder", f"shared.{halvings}.conv2.weight", 4)[0],
        domains=layout.numbered(mapping, "unshared.{}.0.weight"),
        style_width=shape("style_encoder", "unshared.0.weight", 2)[0],
        latent_width=latent,
        hidden=hidden,
        w_hpf=_strength(generator, size, w_hpf),
    )


def from_torch(state: State, info: Info) -> dict[str, Tree]:
    """Parameters of every network in a file, {network: tree for `medgen_jax.nn.stargan_v2`}, float32.

    Args:
      state: as for `split`, of any float type.
      info: of `networks_info`, or known otherwise.

    Raises:
      UserError: naming the network and tensors that are absent, unknown or of another shape.
    """
    trees = {}
    for network, own in split(state).items():
        what, rows = f"StarGAN v2 {network}", network_rows(network, info)
        trees[network], _ = layout.to_flax(what, rows, own, ignored=(_FILTER,))
    return trees


def to_torch(params: Mapping[str, Tree], info: Info, *, data_parallel: bool = False) -> dict[str, np.ndarray]:
    """A file's tensors with names joined by dots, float32: what `from_torch` reads.

    Args:
      params: {network: tree}; the discriminator may be left out, as in ``nets_ema.ckpt``.
      info: the networks.
      data_parallel: put ``module.`` in front of every name within a network.

    Raises:
      UserError: an unknown or missing network, or parameters that do not fit the layout.
    """
    unknown = [name for name in params if name not in NETWORKS]
    missing = [name for name in NETWORKS[:3] if name not in params]
    if unknown or missing:
        fault = f"unknown network {unknown[0]}" if unknown else f"no network {missing[0]}"
        raise UserError(f"StarGAN v2 weights: {fault}; the layout has {', '.join(NETWORKS)}")
    state: dict[str, np.ndarray] = {}
    for network in (name for name in NETWORKS if name in params):
        own = layout.to_torch(f"StarGAN v2 {network}", network_rows(network, info), params[network], {})
        if network == "generator" and info.w_hpf:
            own[_FILTER] = high_pass_filter(info.w_hpf)
        prefix = f"{network}.{_WRAPPED}" if data_parallel else f"{network}."
        state |= {prefix + name: array for name, array in own.items()}
    return state


def _strength(generator: State, size: int, wanted: float | None) -> float:
    """The ``w_hpf`` of a generator: 0 where it halves the image down to 16 pixels, above 0 where down to 8."""
    halvings = layout.numbered(generator, "encode.{}.conv1.weight") - _BOTTLENECKS
    smallest = size / 2**halvings
    if smallest not in (8, 16):
        raise UserError(
            f"StarGAN v2 generator weights: {halvings} halvings of {size} pixels, which the style encoder takes, "
            "end at neither 16 nor 8; are both of one training?"
        )
    if smallest == 16:
        if wanted:
            raise UserError(f"w_hpf {wanted}: the generator in this file has no high-pass skips; leave w_hpf out")
        return 0.0
    if wanted is not None and not wanted > 0:
        raise UserError(f"w_hpf {wanted}: the generator in this file has high-pass skips; w_hpf must be above 0")
    if _FILTER not in generator:
        if wanted is None:
            raise UserError(
                "StarGAN v2 generator weights: it has high-pass skips, but their filter is not in the file; "
                "say with which w_hpf it was trained (1 in the reference)"
            )
        return float(wanted)
    centre = float(np.asarray(generator[_FILTER])[1, 1])
    stored = float(f"{8 / centre:.6g}")
    if wanted is not None and abs(wanted - stored) > 1e-5 * stored:
        raise UserError(f"w_hpf {wanted}: the filter in this file says {stored:g}; leave w_hpf out")
    return stored


def high_pass_filter(w_hpf: float) -> np.ndarray:
    """The taps (3, 3) float32 that a generator with high-pass skips stores: 8 amid -1, over ``w_hpf``."""
    taps = -np.ones((3, 3), np.float32)
    taps[1, 1] = 8
    return taps / np.float32(w_hpf)


def _widths(info: Info, levels: int) -> list[int]:
    found = [info.width]
    for _ in range(levels):
        found.append(min(2 * found[-1], info.max_width))
    return found


def _halvings(size: int, smallest: int) -> int:
    return size.bit_length() - smallest.bit_length()


def network_rows(network: str, info: Info) -> list[Row]:
    """The tensors of one of `NETWORKS`, by the names within it."""
    if network == "generator":
        return _generator_rows(info)
    if network == "mapping_network":
        return _mapping_rows(info)
    if network == "style_encoder":
        rows, last = _trunk_rows("shared", info)
        for number in range(info.domains):
            shape = (info.style_width, last)
            rows += layout.convolution(f"unshared.{number}", f"domain_{number}", "linear", shape, True)
        return rows
    rows, last = _trunk_rows("main", info)
    place = _halvings(info.size, 4) + 4
    return rows + layout.convolution(f"main.{place}", "judge", "conv", (info.domains, last, 1, 1), True)


def _block_rows(name: str, module: str, widths: tuple[int, int, int]) -> list[Row]:
    """Both convolutions of a block, and the one of its input: channels in, between and out."""
    inner, between, outer = widths
    rows = layout.convolution(f"{name}.conv1", f"{module}/conv_1", "conv", (between, inner, 3, 3), True)
    rows += layout.convolution(f"{name}.conv2", f"{module}/conv_2", "conv", (outer, between, 3, 3), True)
    if inner != outer:
        rows += layout.convolution(f"{name}.conv1x1", f"{module}/shortcut", "conv", (outer, inner, 1, 1), False)
    return rows


def _generator_rows(info: Info) -> list[Row]:
    levels = _halvings(info.size, 8 if info.w_hpf else 16)
    widths = _widths(info, levels)
    ways = list(pairwise(widths)) + [(widths[-1], widths[-1])] * _BOTTLENECKS
    rows = layout.convolution("from_rgb", "from_image", "conv", (info.width, info.channels, 3, 3), True)
    for number, (inner, outer) in enumerate(ways):
        name, module = f"encode.{number}", f"encode_{number}"
        rows += _block_rows(name, module, (inner, inner, outer))
        for norm in "12":
            rows += layout.affine(f"{name}.norm{norm}", f"{module}/norm_{norm}", inner)
    for number, (outer, inner) in enumerate(reversed(ways)):
        name, module = f"decode.{number}", f"decode_{number}"
        rows += _block_rows(name, module, (inner, outer, outer))
        for norm, width in (("1", inner), ("2", outer)):
            shape = (2 * width, info.style_width)
            rows += layout.convolution(f"{name}.norm{norm}.fc", f"{module}/norm_{norm}/told", "linear", shape, True)
    rows += layout.affine("to_rgb.0", "to_image_norm", info.width)
    return rows + layout.convolution("to_rgb.2", "to_image", "conv", (info.channels, info.width, 1, 1), True)


def _mapping_rows(info: Info) -> list[Row]:
    rows = []
    for layer in range(_SHARED):
        shape = (info.hidden, info.hidden if layer else info.latent_width)
        rows += layout.convolution(f"shared.{2 * layer}", f"shared_{layer}", "linear", shape, True)
    for number in range(info.domains):
        for layer in range(_OWN):
            shape = (info.hidden if layer < _OWN - 1 else info.style_width, info.hidden)
            rows += layout.convolution(
                f"unshared.{number}.{2 * layer}", f"domain_{number}_{layer}", "linear", shape, True
            )
    return rows


def _trunk_rows(name: str, info: Info) -> tuple[list[Row], int]:
    """Rows of what style encoder and discriminator have in common, and its last width."""
    widths = _widths(info, _halvings(info.size, 4))
    rows = layout.convolution(f"{name}.0", "stem", "conv", (info.width, info.channels, 3, 3), True)
    for number, (inner, outer) in enumerate(pairwise(widths)):
        rows += _block_rows(f"{name}.{number + 1}", f"block_{number}", (inner, inner, outer))
    last = widths[-1]
    rows += layout.convolution(f"{name}.{len(widths) + 1}", "join", "conv", (last, last, 4, 4), True)
    return rows, last
