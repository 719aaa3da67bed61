"""A StyleGAN2 of one class is one without classes, and the other way round. NumPy only.

The embedding of the only class is the same for every image: what it adds to the mapping's first layer is a bias, and
what the discriminator's head is projected onto is a constant vector. Both functions compute in float64 what
`medgen_jax.nn.stylegan2` would compute of the class, so that images and logits stay what they were up to the rounding
of the mapping's first and the discriminator's last layer.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from medgen_jax.interop.stylegan2_tables import SMALLEST, Info
from medgen_jax.interop.torch_layout import Tree

Networks = Mapping[str, Mapping[str, Tree]]
#: Learning rate of a mapping relative to that of the rest, as in `medgen_jax.nn.stylegan2`.
_RATE = 0.01
_GAIN, _SLOPE, _EPSILON = math.sqrt(2), 0.2, 1e-8


def with_one_class(networks: Networks, info: Info) -> tuple[dict[str, dict[str, Tree]], Info]:
    """Networks of one class that are networks without classes; undone by `without_classes`.

    Generators learn nothing of the class, and discriminators get a mapping of ``info.map_layers`` layers that makes
    a vector of ones.

    Args:
      networks: {``g``, ``g_ema`` or ``d``: {collection: tree}}.
      info: of them, ``classes`` 0.
    """
    found = {}
    for name, collections in networks.items():
        change = _projected if name == "d" else _told
        found[name] = {**collections, "params": change(collections["params"], info)}
    return found, dataclasses.replace(info, classes=1, judge_layers=info.map_layers)


def without_classes(networks: Networks, info: Info) -> tuple[dict[str, dict[str, Tree]], Info]:
    """Networks without classes that are networks of one class.

    Args:
      networks: {``g``, ``g_ema`` or ``d``: {collection: tree}}.
      info: of them, ``classes`` 1.
    """
    found = {}
    for name, collections in networks.items():
        change = _unprojected if name == "d" else _untold
        found[name] = {**collections, "params": change(collections["params"], info)}
    return found, dataclasses.replace(info, classes=0, judge_layers=0)


def _single(array: Any) -> np.ndarray:
    return np.asarray(array, np.float32)


def _embedding(width: int) -> Tree:
    """Of one class: a vector of ones."""
    return {"kernel": np.ones((1, width), np.float32), "bias": np.zeros(width, np.float32)}


def _embedded(embed: Tree) -> np.ndarray:
    """What a mapping makes of the only class before its layers, of mean square 1."""
    raw = np.asarray(embed["kernel"], np.float64)[0] + np.asarray(embed["bias"], np.float64)
    return raw / np.sqrt(np.mean(raw**2) + _EPSILON)


# ---- generators ----------------------------------------------------------------------------------


def _told(params: Tree, info: Info) -> Tree:
    mapping = params["mapping"]
    first = mapping["layer_0"]
    # The wider layer divides by the root of its own width.
    share = math.sqrt((info.z_dim + info.w_dim) / info.z_dim)
    of_code = _single(np.asarray(first["kernel"], np.float64) * share)
    of_class = np.zeros((info.w_dim, of_code.shape[1]), np.float32)
    layer = {**first, "kernel": np.concatenate((of_code, of_class))}
    return {**params, "mapping": {**mapping, "embed": _embedding(info.w_dim), "layer_0": layer}}


def _untold(params: Tree, info: Info) -> Tree:
    mapping = {name: layer for name, layer in params["mapping"].items() if name != "embed"}
    first = mapping["layer_0"]
    kernel = np.asarray(first["kernel"], np.float64)
    width, z_dim = info.z_dim + info.w_dim, info.z_dim
    added = _embedded(params["mapping"]["embed"]) @ kernel[z_dim:] / math.sqrt(width)
    layer = {
        "kernel": _single(kernel[:z_dim] * math.sqrt(z_dim / width)),
        # The layer's rate scales its kernel and its bias alike.
        "bias": _single(np.asarray(first["bias"], np.float64) + added),
    }
    return {**params, "mapping": {**mapping, "layer_0": layer}}


# ---- discriminators ------------------------------------------------------------------------------


def _projected(params: Tree, info: Info) -> Tree:
    width = info.widths[SMALLEST]
    layer = {
        "kernel": np.zeros((width, width), np.float32),
        "bias": np.full(width, 1 / (_RATE * _GAIN), np.float32),  # the layer's rate and activation make 1 of it
    }
    mapping = {"embed": _embedding(width)} | {f"layer_{number}": layer for number in range(info.map_layers)}
    share = np.full(width, 1 / math.sqrt(width)) / _of_class(mapping)
    out = {
        "kernel": _single(np.asarray(params["out"]["kernel"], np.float64) * share),
        "bias": _single(np.asarray(params["out"]["bias"], np.float64) * share),
    }
    return {**params, "mapping": mapping, "out": out}


def _unprojected(params: Tree, info: Info) -> Tree:
    width = info.widths[SMALLEST]
    onto = _of_class(params["mapping"])[:, None] / math.sqrt(width)
    out = {
        "kernel": _single(np.asarray(params["out"]["kernel"], np.float64) @ onto),
        "bias": _single(np.asarray(params["out"]["bias"], np.float64) @ onto),
    }
    return {**{name: tree for name, tree in params.items() if name != "mapping"}, "out": out}


def _of_class(mapping: Tree) -> np.ndarray:
    """What a discriminator's head is projected onto, (width,)."""
    x = _embedded(mapping["embed"])
    for number in range(len(mapping) - 1):
        layer = mapping[f"layer_{number}"]
        kernel = np.asarray(layer["kernel"], np.float64)
        x = (x @ kernel / math.sqrt(len(x)) + np.asarray(layer["bias"], np.float64)) * _RATE
        x = np.where(x > 0, x, _SLOPE * x) * _GAIN
    return x
