"""DCGAN weights under the names of a published baseline of chest X-ray synthesis. NumPy only.

Its files hold the state dicts ``generator`` (``tconv1`` to ``tconv5``, ``bn1`` to ``bn4``) and ``discriminator``
(``conv1`` to ``conv5``, ``bn2`` to ``bn4``) beside optimisers and settings, which are left out. Networks of more or
fewer layers, for larger or smaller images, count on. No convolution has a bias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.interop import torch_layout as layout
from medgen_jax.interop.torch_layout import Row, State, Tree

#: Our names of the networks -> the files'.
NAMES = {"g": "generator", "d": "discriminator"}
_IGNORED = ("optimizerG", "optimizerD", "params")
_CORE, _KERNEL, _WIDEST = 4, 4, 8


@dataclass(frozen=True)
class Info:
    """What a file says about its networks; field names are those of `medgen_jax.systems.dcgan`.

    ``ndf`` is None of a file without a discriminator.
    """

    size: int
    channels: int
    latent: int
    ngf: int
    ndf: int | None


def split(state: State) -> dict[str, dict[str, np.ndarray]]:
    """The state dict of every network in a file, by our names of them.

    Args:
      state: names joined by dots; or those of one generator.

    Raises:
      UserError: there is no generator, or a name belongs to no network that is known.
    """
    if "tconv1.weight" in state:
        return {"g": dict(state)}
    found = layout.by_network("DCGAN", state, NAMES, _IGNORED)
    if "g" not in found:
        raise UserError("DCGAN weights: the file holds no generator")
    return found


def networks_info(state: State) -> Info:
    """Read the networks' sizes off a file, as for `split`.

    Raises:
      UserError: tensors that tell the sizes are absent.
    """
    nets = split(state)
    generator = nets["g"]
    layers = 1 + layout.numbered(generator, "tconv{}.weight", 2)
    if layers < 2:
        raise UserError("DCGAN generator weights: 1 layer; images of 8 pixels have 2")
    what = "DCGAN generator"
    ngf, channels = layout.shape_of(what, generator, f"tconv{layers}.weight")[:2]
    ndf = layout.shape_of("DCGAN discriminator", nets["d"], "conv1.weight")[0] if "d" in nets else None
    return Info(
        size=_CORE * 2 ** (layers - 1),
        channels=channels,
        latent=layout.shape_of(what, generator, "tconv1.weight")[0],
        ngf=ngf,
        ndf=ndf,
    )


def from_torch(state: State, info: Info) -> dict[str, tuple[Tree, Tree]]:
    """``(params, batch_stats)`` of every network in a file, for `medgen_jax.nn.dcgan`, float32.

    Args:
      state: as for `split`, of any float type.
      info: of `networks_info`.

    Raises:
      UserError: naming the network and tensors that are absent, unknown or of another shape.
    """
    found = {}
    for network, own in split(state).items():
        what, rows = f"DCGAN {NAMES[network]}", network_rows(network, info)
        found[network] = layout.to_flax(what, rows, own, layout.unused_statistics(own, "batch"))
    return found


def to_torch(
    networks: Mapping[str, tuple[Tree, Tree]], info: Info, *, batches_tracked: int = 0
) -> dict[str, dict[str, np.ndarray]]:
    """State dicts by the files' names of the networks, float32; undoes `from_torch`.

    Args:
      networks: as `from_torch` returns them.
      info: the networks.
      batches_tracked: written as the counter of every batch norm.

    Raises:
      UserError: parameters that do not fit the layout.
    """
    found = {}
    for network, (params, batch_stats) in networks.items():
        rows = network_rows(network, info)
        state = layout.to_torch(f"DCGAN {NAMES[network]}", rows, params, batch_stats)
        found[NAMES[network]] = layout.with_counters(state, batches_tracked)
    return found


def network_rows(network: str, info: Info) -> list[Row]:
    """The tensors of a network, ``g`` or ``d``, by the names within it."""
    doublings = (info.size // _CORE).bit_length() - 1
    shape = (_KERNEL, _KERNEL)
    rows = []
    if network == "g":
        inner = info.latent
        for number in range(1, doublings + 1):
            outer = info.ngf * min(2 ** (doublings - number), _WIDEST)
            names, modules = (f"tconv{number}", f"bn{number}"), (f"conv_{number}", f"norm_{number}")
            rows += layout.normed(names, modules, "convt", (inner, outer, *shape), "batch")
            inner = outer
        last = doublings + 1
        return rows + layout.convolution(f"tconv{last}", f"conv_{last}", "convt", (inner, info.channels, *shape), False)
    inner = info.channels
    for number in range(1, doublings + 1):
        outer = (info.ndf or 0) * min(2 ** (number - 1), _WIDEST)
        rows += layout.convolution(f"conv{number}", f"conv_{number}", "conv", (outer, inner, *shape), False)
        rows += layout.batch_norm(f"bn{number}", f"norm_{number}", outer) if number > 1 else []
        inner = outer
    last = doublings + 1
    return rows + layout.convolution(f"conv{last}", f"conv_{last}", "conv", (1, inner, *shape), False)
