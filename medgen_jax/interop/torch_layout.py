"""Tables that tie the names of a PyTorch state dict to the parameters of a Flax network. NumPy only.

A layout module lists its network once as `Row` s; reading, writing and checking follow from that list.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError, listed

State = Mapping[str, np.ndarray]
Tree = dict[str, Any]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
#: Axes of a PyTorch weight in the order in which Flax stores them. Tensors of other kinds keep theirs.
_AXES = {
    "conv": (2, 3, 1, 0), "convt": (2, 3, 0, 1), "linear": (1, 0), "flat": (2, 3, 1, 0), "image": (1, 2, 0),
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One tensor in both worlds.

    Attributes:
      name: key in the state dict.
      path: collection, module names and parameter name, ``("params", "down_0", "kernel")``.
      kind: ``conv`` (OIHW), ``convt`` (IOHW, not flipped), ``linear`` (OI), ``image`` (CHW), ``flat`` (a linear layer
        over an image: O, and CHW as one axis) or ``same`` (as it is).
      shape: as PyTorch stores it.
      view: the shape with the kind's axes alone, O, C, H and W for ``flat``. None: ``shape``, but for axes of length 1
        that a linear layer has behind its own, those of a 1 x 1 convolution.
    """

    name: str
    path: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]
    view: tuple[int, ...] | None = None

    @property
    def viewed(self) -> tuple[int, ...]:
        """The shape with the kind's axes alone."""
        return self.shape[: len(_AXES.get(self.kind, self.shape))] if self.view is None else self.view

    @property
    def axes(self) -> tuple[int, ...]:
        """Those of `viewed` in our order."""
        return _AXES.get(self.kind, tuple(range(len(self.viewed))))

    @property
    def moved(self) -> tuple[int, ...]:
        """The shape with the kind's axes in our order."""
        return tuple(self.viewed[axis] for axis in self.axes)

    @property
    def ours(self) -> tuple[int, ...]:
        """Our shape."""
        return (math.prod(self.moved[:-1]), self.moved[-1]) if self.kind == "flat" else self.moved


# ---- rows of common layers -----------------------------------------------------------------------


def convolution(name: str, module: str, kind: str, shape: tuple[int, ...], bias: bool) -> list[Row]:
    """Rows of a convolution or linear layer, ``name.weight`` (and ``name.bias``).

    The shape is the weight's; modules nest by ``/``.
    """
    rows = [Row(f"{name}.weight", ("params", *module.split("/"), "kernel"), kind, shape)]
    if bias:
        rows.append(Row(f"{name}.bias", ("params", *module.split("/"), "bias"), "same", (_outputs(kind, shape),)))
    return rows


def _outputs(kind: str, shape: tuple[int, ...]) -> int:
    return shape[1] if kind == "convt" else shape[0]


def affine(name: str, module: str, width: int) -> list[Row]:
    """Rows of what a norm has learned: a scale and a bias per channel."""
    place = ("params", *module.split("/"))
    leaves = (("weight", "scale"), ("bias", "bias"))
    return [Row(f"{name}.{key}", (*place, leaf), "same", (width,)) for key, leaf in leaves]


def batch_norm(name: str, module: str, width: int) -> list[Row]:
    """Rows of a batch norm; its ``num_batches_tracked`` is not a parameter (see `batches_tracked`)."""
    place = ("batch_stats", *module.split("/"))
    leaves = (("running_mean", "mean"), ("running_var", "var"))
    statistics = [Row(f"{name}.{key}", (*place, leaf), "same", (width,)) for key, leaf in leaves]
    return affine(name, module, width) + statistics


def normed(names: tuple[str, str], modules: tuple[str, str], kind: str, shape: tuple[int, ...], norm: str) -> list[Row]:
    """Rows of a convolution and of the norm behind it.

    A batch norm takes the convolution's bias away; an instance norm has no rows.

    Args:
      names, modules: of the convolution, of the norm.
      kind, shape: of the convolution's weight.
      norm: ``batch`` or ``instance``.
    """
    batch = norm == "batch"
    rows = convolution(names[0], modules[0], kind, shape, not batch)
    return rows + (batch_norm(names[1], modules[1], _outputs(kind, shape)) if batch else [])


# ---- both ways along a table ---------------------------------------------------------------------


def check_names(what: str, wanted: Iterable[str], state: State, ignored: Iterable[str] = ()) -> None:
    """Raise a UserError that lists the first names the state dict lacks or has beyond those that are wanted."""
    wanted, ignored = set(wanted), set(ignored)
    missing, unknown = sorted(wanted - set(state)), sorted(set(state) - wanted - ignored)
    faults = [f"{label} {listed(names)}" for label, names in (("lacks", missing), ("has unknown", unknown)) if names]
    if faults:
        raise UserError(f"{what} weights: the file {'; it '.join(faults)}")


def read(what: str, rows: Sequence[Row], state: State, ignored: Iterable[str] = ()) -> dict[str, Tree]:
    """Collections of one network, float32, from its state dict.

    Args:
      what: the network, in messages.
      rows: all its tensors.
      state: of any float type.
      ignored: names that may be there besides.

    Raises:
      UserError: naming tensors that are absent, unknown or of another shape than the table expects.
    """
    check_names(what, (row.name for row in rows), state, ignored)
    trees: dict[str, Tree] = {}
    for row in rows:
        array = np.asarray(state[row.name])
        if array.shape != row.shape:
            raise UserError(f"{what} weights: {row.name} has shape {array.shape}, expected {row.shape}")
        node: Tree = trees
        for part in row.path[:-1]:
            node = node.setdefault(part, {})
        moved = array.reshape(row.viewed).transpose(row.axes).reshape(row.ours)
        node[row.path[-1]] = np.array(moved, np.float32, order="C")
    return trees


def write(what: str, rows: Sequence[Row], collections: Mapping[str, Tree]) -> dict[str, np.ndarray]:
    """The state dict of one network, float32, in the order of the table; undoes `read`.

    Raises:
      UserError: naming a parameter that is absent, has another shape than the table expects, or is
        not in the table.
    """
    leaves = dict(_leaves(collections))
    if surplus := sorted(leaves.keys() - {row.path for row in rows}):
        raise UserError(f"{what} weights: {'/'.join(surplus[0])} has no counterpart in the layout")
    state = {}
    for row in rows:
        where = "/".join(row.path)
        if row.path not in leaves:
            raise UserError(f"{what} weights: no {where}, which the layout needs for {row.name}")
        array = np.asarray(leaves[row.path], np.float32)
        if array.shape != row.ours:
            raise UserError(
                f"{what} weights: {where} has shape {array.shape}, the layout needs {row.ours} for {row.name}"
            )
        back = array.reshape(row.moved).transpose(np.argsort(row.axes))
        state[row.name] = np.array(back, order="C").reshape(row.shape)
    return state


def _leaves(tree: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for name, node in tree.items():
        yield from _leaves(node, (*path, name))


def to_flax(what: str, rows: Sequence[Row], state: State, ignored: Iterable[str] = ()) -> tuple[Tree, Tree]:
    """``(params, batch_stats)`` of a network that has no other collections; see `read`."""
    trees = read(what, rows, state, ignored)
    return trees.get("params", {}), trees.get("batch_stats", {})


def to_torch(what: str, rows: Sequence[Row], params: Tree, batch_stats: Tree) -> dict[str, np.ndarray]:
    """The state dict of a network that has no other collections; see `write`."""
    return write(what, rows, {"params": params, "batch_stats": batch_stats})


# ---- what names and shapes tell ------------------------------------------------------------------


def by_network(
    what: str, state: State, names: Mapping[str, str], ignored: Iterable[str] = ()
) -> dict[str, dict[str, np.ndarray]]:
    """The state dict of every network in a file, by our names of them.

    Args:
      what: the layout, in messages.
      state: names joined by dots, as `medgen_jax.interop.torch_file.read_state_dict` gives them.
      names: our names of the networks -> the file's.
      ignored: what else may be in the file.

    Raises:
      UserError: a name belongs to no network that is known.
    """
    ours = {theirs: name for name, theirs in names.items()}
    ignored, found = set(ignored), {}
    for name, array in state.items():
        network, _, rest = name.partition(".")
        if network in ignored:
            continue
        if network not in ours:
            raise UserError(
                f"{what} weights: {name} is of none of the networks {', '.join(ours)}; is this the file of another "
                "project?"
            )
        found.setdefault(ours[network], {})[rest] = array
    return found


def numbered(state: State, pattern: str, first: int = 0) -> int:
    """How many consecutive numbers from ``first`` a name occurs with."""
    found = 0
    while pattern.format(first + found) in state:
        found += 1
    return found


def batches_tracked(state: State) -> int:
    """Training passes that the batch norms of a state dict have counted; 0 when they keep no count."""
    return max((int(value) for name, value in state.items() if name.endswith(".num_batches_tracked")), default=0)


def norm_kind(what: str, state: State, norm: str, conv: str) -> str:
    """``batch`` or ``instance``, from the names of the first norm and of the convolution before it.

    Raises:
      UserError: when neither fits.
    """
    if f"{norm}.weight" in state:
        return "batch"
    if f"{conv}.bias" in state:
        return "instance"
    raise UserError(f"{what} weights: neither {norm}.weight (batch norm) nor {conv}.bias (instance norm) is there")


def check_norm(what: str, norm: str) -> None:
    """Raise a UserError for a norm that PyTorch projects of this family do not have."""
    if norm not in ("batch", "instance"):
        raise UserError(f"{what} weights: norm {norm!r} has no counterpart in the layout, only batch and instance have")


def shape_of(what: str, state: State, name: str, axes: int = 4) -> tuple[int, ...]:
    """Shape of a named tensor; a UserError when it is absent or has another number of axes."""
    if name not in state or np.ndim(state[name]) != axes:
        raise UserError(f"{what} weights: no tensor {name} with {axes} axes; is this the file of another network?")
    return np.shape(state[name])


def unused_statistics(state: State, norm: str) -> list[str]:
    """Names that are right to be ignored: counters always, every statistic of an instance norm."""
    suffixes = _STATISTICS if norm == "instance" else ("num_batches_tracked",)
    return [name for name in state if name.rpartition(".")[2] in suffixes]


def count(params: Tree) -> int:
    """Number of values in nested dicts of arrays."""
    return sum(count(node) if isinstance(node, dict) else node.size for node in params.values())


def with_counters(state: dict[str, np.ndarray], batches_tracked: int) -> dict[str, np.ndarray]:
    """The state dict with every batch norm's counter added."""
    norms = [name.rpartition(".")[0] for name in state if name.endswith(".running_var")]
    return state | {f"{norm}.num_batches_tracked": np.array(batches_tracked, np.int64) for norm in norms}
