"""Tables that tie the names of a PyTorch state dict to the parameters of a Flax network. NumPy only.

A layout module lists its network once as `Row` s; reading, writing and checking follow from that list.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError

State = Mapping[str, np.ndarray]
Tree = dict[str, Any]

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
#: Axes of a PyTorch weight in the order in which Flax stores them. A linear layer may have axes of length 1 behind
#: its own, those of a 1 x 1 convolution; they fall away.
_AXES = {"conv": (2, 3, 1, 0), "convt": (2, 3, 0, 1), "linear": (1, 0), "table": (0, 1), "vector": (0,)}
_BACK = {kind: tuple(np.argsort(axes)) for kind, axes in _AXES.items()}


@dataclass(frozen=True)
class Row:
    """One tensor in both worlds.

    Attributes:
      name: key in the state dict.
      path: collection, module names and parameter name, ``("params", "down_0", "kernel")``.
      kind: ``conv`` (OIHW), ``convt`` (IOHW, not flipped), ``linear`` (OI, OI1 or OI11), ``table`` (as it is) or
        ``vector``.
      shape: as PyTorch stores it.
    """

    name: str
    path: tuple[str, ...]
    kind: str
    shape: tuple[int, ...]


def convolution(name: str, module: str, kind: str, shape: tuple[int, ...], bias: bool) -> list[Row]:
    """Rows of a convolution or linear layer, ``name.weight`` (and ``name.bias``).

    The shape is the weight's; modules nest by ``/``.
    """
    rows = [Row(f"{name}.weight", ("params", *module.split("/"), "kernel"), kind, shape)]
    if bias:
        width = shape[1] if kind == "convt" else shape[0]
        rows.append(Row(f"{name}.bias", ("params", *module.split("/"), "bias"), "vector", (width,)))
    return rows


def affine(name: str, module: str, width: int) -> list[Row]:
    """Rows of what a norm has learned: a scale and a bias per channel."""
    place = ("params", *module.split("/"))
    leaves = (("weight", "scale"), ("bias", "bias"))
    return [Row(f"{name}.{key}", (*place, leaf), "vector", (width,)) for key, leaf in leaves]


def batch_norm(name: str, module: str, width: int) -> list[Row]:
    """Rows of a batch norm; its ``num_batches_tracked`` is not a parameter (see `batches_tracked`)."""
    place = ("batch_stats", *module.split("/"))
    leaves = (("running_mean", "mean"), ("running_var", "var"))
    statistics = [Row(f"{name}.{key}", (*place, leaf), "vector", (width,)) for key, leaf in leaves]
    return affine(name, module, width) + statistics


def by_network(
    what: str, state: State, names: Mapping[str, str], ignored: Iterable[str] = ()
) -> dict[str, dict[str, np.ndarray]]:
    """The state dict of every network in a file, by our names of them.

    Args:
      what: whose weights they are, for errors.
      state: names joined by dots, the first part being the network's.
      names: our names of the networks -> the files'.
      ignored: first parts of what is left out.

    Raises:
      UserError: a name belongs to no network that is known.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    ours, left_out = {theirs: own for own, theirs in names.items()}, set(ignored)
    for name, array in state.items():
        network, _, rest = name.partition(".")
        if network in left_out:
            continue
        if network not in ours:
            raise UserError(f"{what}: {name} is of none of the networks {', '.join(ours)}")
        found.setdefault(ours[network], {})[rest] = array
    return found


def check_names(what: str, rows: Sequence[Row], state: State, ignored: Iterable[str] = ()) -> None:
    """Raise a UserError that lists the first names the state dict lacks or has beyond the table."""
    wanted, ignored = {row.name for row in rows}, set(ignored)
    missing, unknown = sorted(wanted - set(state)), sorted(set(state) - wanted - ignored)

    def first(names: Sequence[str]) -> str:
        return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")

    faults = [f"{label} {first(names)}" for label, names in (("lacks", missing), ("has unknown", unknown)) if names]
    if faults:
        raise UserError(f"{what} weights: the file {'; it '.join(faults)}")


def to_flax(what: str, rows: Sequence[Row], state: State) -> tuple[Tree, Tree]:
    """Build ``(params, batch_stats)``, float32, from a state dict whose names have been checked.

    Raises:
      UserError: naming a tensor of another shape than the table expects.
    """
    trees: Tree = {"params": {}, "batch_stats": {}}
    for row in rows:
        array = np.asarray(state[row.name])
        if array.shape != row.shape:
            raise UserError(f"{what} weights: {row.name} has shape {array.shape}, expected {row.shape}")
        node = trees
        for part in row.path[:-1]:
            node = node.setdefault(part, {})
        axes = _AXES[row.kind]
        array = array.reshape(array.shape[: len(axes)]).transpose(axes)
        node[row.path[-1]] = np.ascontiguousarray(array, np.float32)
    return trees["params"], trees["batch_stats"]


def to_torch(what: str, rows: Sequence[Row], params: Tree, batch_stats: Tree) -> dict[str, np.ndarray]:
    """Build a float32 state dict, in the order of the table.

    Raises:
      UserError: naming a parameter that is absent, has another shape than the table expects, or is
        not in the table.
    """
    trees, state = {"params": params, "batch_stats": batch_stats}, {}
    surplus = sorted(_paths(trees) - {row.path for row in rows})
    if surplus:
        raise UserError(f"{what} weights: {'/'.join(surplus[0])} has no counterpart in the layout")
    for row in rows:
        node: Any = trees
        for part in row.path:
            node = node.get(part) if isinstance(node, Mapping) else None
        where = "/".join(row.path)
        if node is None:
            raise UserError(f"{what} weights: no {where}, which the layout needs for {row.name}")
        array, axes = np.asarray(node, np.float32), _BACK[row.kind]
        array = array.transpose(axes) if array.ndim == len(axes) else array
        if array.shape != row.shape[: len(axes)]:
            raise UserError(
                f"{what} weights: {where} becomes {array.shape}, the layout needs {row.shape} for {row.name}"
            )
        state[row.name] = np.ascontiguousarray(array).reshape(row.shape)
    return state


def _paths(tree: Any, path: tuple[str, ...] = ()) -> set[tuple[str, ...]]:
    if not isinstance(tree, Mapping):
        return {path}
    return set().union(*(_paths(node, (*path, name)) for name, node in tree.items()))


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
