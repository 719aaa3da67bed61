"""What the weight layouts of StyleGAN2 have in common: sizes, tables of tensors, the resampling filter. NumPy only.

Every project stores weights as ours are: standard normal, scaled when they are used. Layouts differ in names, in
axes of length 1 and in the buffers beside the weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.interop import torch_layout as layout
from medgen_jax.interop.torch_layout import Row, State, Tree

#: Networks by our names: the generator as it is trained, its average, the discriminator.
NETWORKS = ("g", "d", "g_ema")
SMALLEST = 4
_FILTER_TOLERANCE = 1e-5
#: Axes of a file's tensor in our order; ``flat`` are the rows of a linear layer over 4 x 4 pixels, channels first.
_AXES = {"conv": (2, 3, 1, 0), "flat": (2, 3, 1, 0), "linear": (1, 0), "image": (1, 2, 0)}


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


@dataclass(frozen=True)
class Tensor(Row):
    """One tensor in both worlds.

    Attributes:
      kind: ``conv`` (OIHW), ``linear`` (OI), ``image`` (CHW), ``flat`` (O and CHW as one axis) or ``same``.
      view: the shape with the kind's axes alone, O, C, H and W for ``flat``; for ``same`` it is ours.
    """

    view: tuple[int, ...]

    @property
    def axes(self) -> tuple[int, ...]:
        """Of the view, in our order."""
        return _AXES.get(self.kind, tuple(range(len(self.view))))

    @property
    def ours(self) -> tuple[int, ...]:
        """Our shape."""
        moved = tuple(self.view[axis] for axis in self.axes)
        return (math.prod(moved[:-1]), moved[-1]) if self.kind == "flat" else moved


def same(name: str, path: tuple[str, ...], view: tuple[int, ...], shape: tuple[int, ...] | None = None) -> Tensor:
    """A tensor whose axes stay; ``shape`` is the file's where it has axes of length 1 beside."""
    return Tensor(name, path, "same", view if shape is None else shape, view)


def dense(name: str, module: tuple[str, ...], outer: int, inner: int) -> list[Tensor]:
    """Weight and bias of a linear layer."""
    weight = Tensor(f"{name}.weight", ("params", *module, "kernel"), "linear", (outer, inner), (outer, inner))
    return [weight, same(f"{name}.bias", ("params", *module, "bias"), (outer,))]


def kernel(name: str, module: tuple[str, ...], view: tuple[int, ...], leading: int = 0) -> Tensor:
    """The kernel of a convolution, OIHW, with axes of length 1 in front of it in the file."""
    return Tensor(name, ("params", *module, "kernel"), "conv", (1,) * leading + view, view)


def bias(name: str, module: tuple[str, ...], width: int, shape: tuple[int, ...] | None = None) -> Tensor:
    """The bias of a convolution."""
    return same(name, ("params", *module, "bias"), (width,), shape)


def hidden(name: str, width: int) -> list[Tensor]:
    """The linear layer over all pixels of the discriminator's last level."""
    shape, view = (width, width * SMALLEST**2), (width, width, SMALLEST, SMALLEST)
    return [
        Tensor(f"{name}.weight", ("params", "hidden", "kernel"), "flat", shape, view),
        same(f"{name}.bias", ("params", "hidden", "bias"), (width,)),
    ]


def read(what: str, tensors: Sequence[Tensor], state: State) -> dict[str, Tree]:
    """Collections of one network, float32, from a state dict whose names have been checked.

    Raises:
      UserError: naming a tensor of another shape than the table expects.
    """
    trees: dict[str, Tree] = {}
    for tensor in tensors:
        array = np.asarray(state[tensor.name])
        if array.shape != tensor.shape:
            raise UserError(f"{what} weights: {tensor.name} has shape {array.shape}, expected {tensor.shape}")
        node: Tree = trees
        for part in tensor.path[:-1]:
            node = node.setdefault(part, {})
        moved = array.reshape(tensor.view).transpose(tensor.axes).reshape(tensor.ours)
        node[tensor.path[-1]] = np.array(moved, np.float32, order="C")
    return trees


def write(what: str, tensors: Sequence[Tensor], collections: Mapping[str, Tree]) -> dict[str, np.ndarray]:
    """The state dict of one network, float32, in the order of the table; undoes `read`.

    Raises:
      UserError: naming a parameter that is absent, of another shape or not in the table.
    """
    leaves = dict(_leaves(collections))
    if surplus := sorted(leaves.keys() - {tensor.path for tensor in tensors}):
        raise UserError(f"{what} weights: {'/'.join(surplus[0])} has no counterpart in the layout")
    state = {}
    for tensor in tensors:
        where = "/".join(tensor.path)
        if tensor.path not in leaves:
            raise UserError(f"{what} weights: no {where}, which the layout needs for {tensor.name}")
        array = np.asarray(leaves[tensor.path], np.float32)
        if array.shape != tensor.ours:
            raise UserError(
                f"{what} weights: {where} has shape {array.shape}, the layout needs {tensor.ours} for {tensor.name}"
            )
        moved = array.reshape([tensor.view[axis] for axis in tensor.axes]).transpose(np.argsort(tensor.axes))
        state[tensor.name] = np.array(moved, order="C").reshape(tensor.shape)
    return state


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for name, node in tree.items():
        yield from _leaves(node, (*path, name))


def read_network(
    what: str, tensors: Sequence[Tensor], filters: Mapping[str, np.ndarray], state: State
) -> dict[str, Tree]:
    """`read` of a state dict that has every tensor of the table and the resampling filters, and no other.

    Raises:
      UserError: naming tensors that are absent, unknown, of another shape, or filters other than 1 3 3 1.
    """
    layout.check_names(what, tensors, state, ignored=filters)
    for name, wanted in filters.items():
        if name not in state:
            raise UserError(f"{what} weights: the file lacks {name}")
        found = np.asarray(state[name])
        if found.shape != wanted.shape or not np.allclose(found, wanted, rtol=0, atol=_FILTER_TOLERANCE):
            raise UserError(
                f"{what} weights: {name} is not the filter 1 3 3 1 of gain {wanted.sum():g}, the only one that is known"
            )
    return read(what, tensors, state)


def binomial(gain: float = 1.0) -> np.ndarray:
    """The resampling filter 1 3 3 1 along both axes, of sum ``gain``, (4, 4) float32."""
    taps = np.array([1, 3, 3, 1], np.float32) / 8
    return np.outer(taps, taps) * np.float32(gain)


def count(state: State, pattern: str, first: int = 0) -> int:
    """How many consecutive numbers from ``first`` a name occurs with."""
    found = 0
    while pattern.format(first + found) in state:
        found += 1
    return found


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
