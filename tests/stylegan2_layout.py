"""Weights and gradients of the twins of StyleGAN2 under our names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

Tree = dict[str, Any]

#: Names of our modules by those of the twin's; of a level's side.
_PLACES = {"conv0": "conv_{}_0", "conv1": "conv_{}_1", "torgb": "image_{}"}
_HEAD = {"conv": "conv", "fc": "hidden", "out": "out"}


def arrays(named: Iterable[tuple[str, Any]]) -> dict[str, np.ndarray]:
    """Copies of named tensors, which updates of the twin leave alone."""
    return {name: tensor.detach().numpy().copy() for name, tensor in named}


def gradients(twin: Any) -> dict[str, np.ndarray]:
    """Gradients by parameter, 0 where none has come."""
    return {n: np.zeros(p.shape) if p.grad is None else p.grad.numpy() for n, p in twin.named_parameters()}


def generator_tree(named: Mapping[str, np.ndarray]) -> tuple[Tree, Tree]:
    """Parameters and constants of our generator from the twin's weights, or from their gradients."""
    params: Tree = {}
    constants: Tree = {}
    for key, value in named.items():
        room, *rest = key.split(".")
        if room == "mapping":
            if rest != ["w_avg"]:
                name, value = _leaf(rest[-1], value)
                _put(params, [*_mapping_path(rest), name], value)
            continue
        side = rest[0][1:]
        if rest[1] == "const":
            _put(params, ["synthesis", "const"], value.transpose(1, 2, 0))
            continue
        place = ["synthesis", _PLACES[rest[1]].format(side)]
        if rest[2] == "noise_const":
            _put(constants, [*place, "noise"], value)
        else:
            name, value = _leaf(rest[-1], value)
            _put(params, [*place, *(["style"] if rest[2] == "affine" else []), name], value)
    return params, constants


def discriminator_tree(named: Mapping[str, np.ndarray]) -> Tree:
    """Parameters of our discriminator from the twin's weights, or from their gradients."""
    params: Tree = {}
    for key, value in named.items():
        *rest, last = key.split(".")
        name, made = _leaf(last, value)
        if rest[0] == "mapping":
            path = _mapping_path(rest[1:])
        elif rest[0] == "b4":
            path = [_HEAD[rest[1]]]
            if rest[1] == "fc" and last == "weight":
                # Flattened channels first there, channels last here.
                made = value.reshape(len(value), -1, 4, 4).transpose(2, 3, 1, 0).reshape(-1, len(value))
        elif rest[1] == "fromrgb":
            path = ["from_image"]
        else:
            path = [f"block_{rest[0][1:]}", rest[1].replace("conv", "conv_")]
        _put(params, [*path, name], made)
    return params


def _leaf(name: str, value: np.ndarray) -> tuple[str, np.ndarray]:
    if name != "weight":
        return name, value
    return "kernel", value.transpose(2, 3, 1, 0) if value.ndim == 4 else value.T


def _mapping_path(rest: list[str]) -> list[str]:
    return ["mapping", rest[0].replace("fc", "layer_")]


def _put(tree: Tree, path: list[str], value: np.ndarray) -> None:
    for name in path[:-1]:
        tree = tree.setdefault(name, {})
    tree[path[-1]] = value.astype(np.float32)
