"""FID Inception-v3 weights in the key layout of pytorch-fid. NumPy only.

Names are ``Mixed_5b.branch1x1.conv.weight`` (OIHW) and ``.bn.bias``, ``.bn.running_mean``,
``.bn.running_var``. The batch norms have no trained gain; files that store ones as ``.bn.weight``, count
passes or carry the classifier ``fc`` are read as well.

Batch norm at inference is a gain and a shift per output channel, so both are folded into the
convolution, in float64: kernel * g and beta - mean * g with g = gamma / sqrt(var + 1e-3).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.interop import torch_layout as layout

EPSILON = 1e-3
_STATISTICS = ("bias", "running_mean", "running_var")

Shape = tuple[int, int, int, int]


def _mixed_a(inner: int, pooled: int) -> dict[str, Shape]:
    return {
        "branch1x1": (64, inner, 1, 1),
        "branch5x5_1": (48, inner, 1, 1),
        "branch5x5_2": (64, 48, 5, 5),
        "branch3x3dbl_1": (64, inner, 1, 1),
        "branch3x3dbl_2": (96, 64, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
        "branch_pool": (pooled, inner, 1, 1),
    }


def _mixed_b(inner: int) -> dict[str, Shape]:
    return {
        "branch3x3": (384, inner, 3, 3),
        "branch3x3dbl_1": (64, inner, 1, 1),
        "branch3x3dbl_2": (96, 64, 3, 3),
        "branch3x3dbl_3": (96, 96, 3, 3),
    }


def _mixed_c(inner: int, middle: int) -> dict[str, Shape]:
    return {
        "branch1x1": (192, inner, 1, 1),
        "branch7x7_1": (middle, inner, 1, 1),
        "branch7x7_2": (middle, middle, 1, 7),
        "branch7x7_3": (192, middle, 7, 1),
        "branch7x7dbl_1": (middle, inner, 1, 1),
        "branch7x7dbl_2": (middle, middle, 7, 1),
        "branch7x7dbl_3": (middle, middle, 1, 7),
        "branch7x7dbl_4": (middle, middle, 7, 1),
        "branch7x7dbl_5": (192, middle, 1, 7),
        "branch_pool": (192, inner, 1, 1),
    }


def _mixed_d(inner: int) -> dict[str, Shape]:
    return {
        "branch3x3_1": (192, inner, 1, 1),
        "branch3x3_2": (320, 192, 3, 3),
        "branch7x7x3_1": (192, inner, 1, 1),
        "branch7x7x3_2": (192, 192, 1, 7),
        "branch7x7x3_3": (192, 192, 7, 1),
        "branch7x7x3_4": (192, 192, 3, 3),
    }


def _mixed_e(inner: int) -> dict[str, Shape]:
    return {
        "branch1x1": (320, inner, 1, 1),
        "branch3x3_1": (384, inner, 1, 1),
        "branch3x3_2a": (384, 384, 1, 3),
        "branch3x3_2b": (384, 384, 3, 1),
        "branch3x3dbl_1": (448, inner, 1, 1),
        "branch3x3dbl_2": (384, 448, 3, 3),
        "branch3x3dbl_3a": (384, 384, 1, 3),
        "branch3x3dbl_3b": (384, 384, 3, 1),
        "branch_pool": (192, inner, 1, 1),
    }


_BLOCKS: dict[str, dict[str, Shape]] = {
    "Mixed_5b": _mixed_a(192, 32),
    "Mixed_5c": _mixed_a(256, 64),
    "Mixed_5d": _mixed_a(288, 64),
    "Mixed_6a": _mixed_b(288),
    "Mixed_6b": _mixed_c(768, 128),
    "Mixed_6c": _mixed_c(768, 160),
    "Mixed_6d": _mixed_c(768, 160),
    "Mixed_6e": _mixed_c(768, 192),
    "Mixed_7a": _mixed_d(768),
    "Mixed_7b": _mixed_e(1280),
    "Mixed_7c": _mixed_e(2048),
}

#: Name of every convolution and the shape of its weight, OIHW.
KERNELS: dict[str, Shape] = {
    "Conv2d_1a_3x3": (32, 3, 3, 3),
    "Conv2d_2a_3x3": (32, 32, 3, 3),
    "Conv2d_2b_3x3": (64, 32, 3, 3),
    "Conv2d_3b_1x1": (80, 64, 1, 1),
    "Conv2d_4a_3x3": (192, 80, 3, 3),
} | {f"{block}.{branch}": shape for block, branches in _BLOCKS.items() for branch, shape in branches.items()}


def _shapes(unit: str, arrays: Mapping[str, np.ndarray]) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a unit's tensors; the gain only where the file has it."""
    kernel = KERNELS[unit]
    vectors = [*_STATISTICS, *(["weight"] if f"{unit}.bn.weight" in arrays else [])]
    return {f"{unit}.conv.weight": kernel} | {f"{unit}.bn.{name}": kernel[:1] for name in vectors}


def _check(arrays: Mapping[str, np.ndarray]) -> None:
    wanted = {name: shape for unit in KERNELS for name, shape in _shapes(unit, arrays).items()}
    unused = {name for name in arrays if name.endswith(".num_batches_tracked") or name.startswith("fc.")}
    layout.check_names("FID Inception", wanted, arrays, unused)
    for name, shape in wanted.items():
        have = np.shape(arrays[name])
        if have != shape:
            raise UserError(f"FID Inception weights: {name} has shape {have}, expected {shape}")
        if not np.isfinite(arrays[name]).all():
            raise UserError(f"FID Inception weights: {name} holds NaN or infinity; fetch the file again")


def _folded(unit: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """``kernel`` (h, w, in, out) and ``bias`` (out,), float32, of a convolution and its batch norm."""
    kernel = np.asarray(arrays[f"{unit}.conv.weight"], np.float64).transpose(2, 3, 1, 0)
    beta, mean, var = (np.asarray(arrays[f"{unit}.bn.{name}"], np.float64) for name in _STATISTICS)
    gain = np.asarray(arrays.get(f"{unit}.bn.weight", 1.0), np.float64) / np.sqrt(var + EPSILON)
    return {
        "kernel": np.ascontiguousarray(kernel * gain, np.float32),
        "bias": (beta - mean * gain).astype(np.float32),
    }


def variables_from_pack(arrays: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Variables of `medgen_jax.nn.inception_fid.InceptionFid`.

    Args:
      arrays: ``{name: array}`` in the layout above, as `medgen_jax.interop.packs.read_pack` returns.

    Returns:
      ``{"params": {block: {branch: {"kernel", "bias"}}}}``, float32 NumPy arrays.

    Raises:
      UserError: listing missing and unknown names, or naming a tensor of another shape or with
        numbers that are not finite.
    """
    _check(arrays)
    params: dict[str, Any] = {}
    for unit in KERNELS:
        *block, branch = unit.split(".")
        node = params.setdefault(block[0], {}) if block else params
        node[branch] = _folded(unit, arrays)
    return {"params": params}
