"""What the weight layouts of StyleGAN2 have in common: sizes, tables of tensors, the resampling filter. NumPy only.

Every project stores weights as ours are: standard normal, scaled when they are used. Layouts differ in names, in
axes of length 1 and in the buffers beside the weights.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.interop import torch_layout as layout
from medgen_jax.interop.torch_layout import Row, State, Tree

#: Networks by our names: the generator as it is trained, its average, the discriminator.
NETWORKS = ("g", "d", "g_ema")
SMALLEST = 4
_FILTER_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Info:
    """What a file says about its networks; field names are those of `medgen_jax.nn.stylegan2`.

    ``classes`` is 0 without any. ``judge_layers`` counts the layers of the discriminator's own mapping, 0 where it has
    none; ``deviation`` tells whether it sees how much the images of a group differ.
    """

    size: int
    channels: int
    classes: int
    z_dim: int
    w_dim: int
    map_layers: int
    channel_base: int
    channel_max: int
    judge_layers: int = 0
    deviation: bool = True

    @property
    def widths(self) -> dict[int, int]:
        """Side of each level, 4 to ``size`` -> channels."""
        sides = (2**power for power in range(2, self.size.bit_length()))
        return {side: min(self.channel_base // side, self.channel_max) for side in sides}


def same(name: str, path: tuple[str, ...], view: tuple[int, ...], shape: tuple[int, ...] | None = None) -> Row:
    """A tensor whose axes stay; ``shape`` is the file's where it has axes of length 1 beside."""
    return Row(name, path, "same", view if shape is None else shape, view)


def dense(name: str, module: tuple[str, ...], outer: int, inner: int) -> list[Row]:
    """Weight and bias of a linear layer."""
    return layout.convolution(name, "/".join(module), "linear", (outer, inner), True)


def kernel(name: str, module: tuple[str, ...], view: tuple[int, ...], leading: int = 0) -> Row:
    """The kernel of a convolution, OIHW, with axes of length 1 in front of it in the file."""
    return Row(name, ("params", *module, "kernel"), "conv", (1,) * leading + view, view)


def bias(name: str, module: tuple[str, ...], width: int, shape: tuple[int, ...] | None = None) -> Row:
    """The bias of a convolution."""
    return same(name, ("params", *module, "bias"), (width,), shape)


def hidden(name: str, width: int) -> list[Row]:
    """The linear layer over all pixels of the discriminator's last level."""
    shape, view = (width, width * SMALLEST**2), (width, width, SMALLEST, SMALLEST)
    return [
        Row(f"{name}.weight", ("params", "hidden", "kernel"), "flat", shape, view),
        same(f"{name}.bias", ("params", "hidden", "bias"), (width,)),
    ]


def split(
    what: str, state: State, names: Mapping[str, str], ignored: Iterable[str]
) -> dict[str, dict[str, np.ndarray]]:
    """`torch_layout.by_network` of a file that holds a generator, averaged or not.

    Raises:
      UserError: there is none, or a name belongs to no network that is known.
    """
    found = layout.by_network(what, state, names, ignored)
    if not found.keys() & {"g", "g_ema"}:
        raise UserError(f"{what} weights: the file holds no generator, neither {names['g_ema']} nor {names['g']}")
    return found


def read_network(what: str, rows: Sequence[Row], filters: Mapping[str, np.ndarray], state: State) -> dict[str, Tree]:
    """`torch_layout.read` of a state dict that has every tensor of the table and the resampling filters, and no other.

    Raises:
      UserError: naming tensors that are absent, unknown, of another shape, or filters other than 1 3 3 1.
    """
    layout.check_names(what, [*(row.name for row in rows), *filters], state)
    for name, wanted in filters.items():
        found = np.asarray(state[name])
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=0, atol=_FILTER_TOLERANCE):
            raise UserError(
                f"{what} weights: {name} is not the filter 1 3 3 1 of gain {wanted.sum():g}, the only one that is known"
            )
    return layout.read(what, rows, state, ignored=filters)


def binomial(gain: float = 1.0) -> np.ndarray:
    """The resampling filter 1 3 3 1 along both axes, of sum ``gain``, (4, 4) float32."""
    taps = np.array([1, 3, 3, 1], np.float32) / 8
    return np.outer(taps, taps) * np.float32(gain)


def width_rule(what: str, widths: Mapping[int, int]) -> tuple[int, int]:
    """``channel_base`` and ``channel_max`` of levels {side: channels}.

    Raises:
      UserError: no two numbers make these widths.
    """
    base, most = max(side * width for side, width in widths.items()), max(widths.values())
    if any(min(base // side, most) != width for side, width in widths.items()):
        told = ", ".join(f"{side} px: {width}" for side, width in widths.items())
        raise UserError(f"{what} weights: no channel_base and channel_max make levels of these widths ({told})")
    return base, most
