"""Weights, gradients and statistics of the twins of DCGAN and of the fully connected GAN under our names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

Tree = dict[str, Any]

_NAMES = {"tconv": "conv", "conv": "conv", "bn": "norm", "linear": "dense"}
_KERNELS = {"tconv": (2, 3, 0, 1), "conv": (2, 3, 1, 0), "linear": (1, 0)}


def ours(tensors: Mapping[str, Any]) -> tuple[Tree, Tree]:
    """Parameters and running statistics.

    Args:
      tensors: of a twin by key: its state dict, or gradients.
    """
    params: Tree = {}
    stats: Tree = {}
    for key, tensor in tensors.items():
        kind, number, leaf = re.fullmatch(r"([a-z]+)(\d+)\.(\w+)", key).groups()
        name, values = f"{_NAMES[kind]}_{number}", np.array(tensor.detach().numpy())
        if leaf.startswith("running"):
            stats.setdefault(name, {})[leaf.removeprefix("running_")] = values
        elif kind == "bn" and leaf != "num_batches_tracked":
            params.setdefault(name, {})["scale" if leaf == "weight" else "bias"] = values
        elif leaf == "weight":
            params.setdefault(name, {})["kernel"] = values.transpose(_KERNELS[kind])
        elif leaf == "bias":
            params.setdefault(name, {})["bias"] = values
    return params, stats
