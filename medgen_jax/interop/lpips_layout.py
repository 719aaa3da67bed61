"""LPIPS weight packs as variables of `medgen_jax.nn.lpips`. NumPy only.

A backbone pack holds ``Conv_<i>/kernel`` (HWIO) and ``Conv_<i>/bias`` in the order of the network; the
pack of heads holds ``<net>_lin<l>`` (c,) for every compared layer of every network. Half precision becomes float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError, listed

Arrays = Mapping[str, np.ndarray]
Tree = dict[str, Any]

#: Network -> shape of every kernel in order: (side, in, out).
_KERNELS = {
    "alex": ((11, 3, 64), (5, 64, 192), (3, 192, 384), (3, 384, 256), (3, 256, 256)),
    "vgg": tuple(
        (3, *widths)
        for widths in (
            *((3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 256)),
            *((256, 512), (512, 512), (512, 512), (512, 512), (512, 512), (512, 512)),
        )
    ),
}
#: Network -> name of every layer in order, and the places of those that have a head.
_NAMES = {
    "alex": ("1", "2", "3", "4", "5"),
    "vgg": ("1_1", "1_2", "2_1", "2_2", *(f"{block}_{i}" for block in (3, 4, 5) for i in (1, 2, 3))),
}
_HEADS = {"alex": (0, 1, 2, 3, 4), "vgg": (1, 3, 6, 9, 12)}


def variables_from_pack(backbone_arrays: Arrays, head_arrays: Arrays | None, net: str) -> Tree:
    """Variables of `medgen_jax.nn.lpips.distance`, or, without heads, of `medgen_jax.nn.lpips.features` alone.

    Args:
      backbone_arrays: a backbone pack by name (`medgen_jax.interop.packs.read_pack`).
      head_arrays: the pack of heads; those of other networks are ignored. None: leave the heads out.
      net: ``alex`` or ``vgg``.

    Returns:
      ``{"params": {"conv1_1": {"kernel", "bias"}, ...}, "heads": {"relu1_2": (c,), ...}}``, float32.

    Raises:
      UserError: naming arrays that are missing, have another shape, or are not finite, and a negative head.
    """
    if net not in _KERNELS:
        raise UserError(f"LPIPS network {net!r}: expected one of {', '.join(_KERNELS)}")
    shapes = {f"Conv_{i}/kernel": (side, side, inner, outer) for i, (side, inner, outer) in enumerate(_KERNELS[net])}
    shapes |= {f"Conv_{i}/bias": (outer,) for i, (_, _, outer) in enumerate(_KERNELS[net])}
    backbone = _checked(f"{net} backbone", backbone_arrays, shapes)
    params = {
        f"conv{name}": {kind: backbone[f"Conv_{i}/{kind}"] for kind in ("kernel", "bias")}
        for i, name in enumerate(_NAMES[net])
    }
    return {"params": params} if head_arrays is None else {"params": params, "heads": _heads(head_arrays, net)}


def _heads(arrays: Arrays, net: str) -> Tree:
    shapes = {f"{net}_lin{layer}": (_KERNELS[net][place][2],) for layer, place in enumerate(_HEADS[net])}
    heads = _checked(f"{net} heads", arrays, shapes)
    for name, head in heads.items():
        if head.min() < 0:
            raise UserError(f"LPIPS {net} heads: {name} holds {head.min():.3g}; a distance has no negative weights")
    return {f"relu{_NAMES[net][place]}": heads[f"{net}_lin{layer}"] for layer, place in enumerate(_HEADS[net])}


def _checked(what: str, arrays: Arrays, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """The arrays of these names, float32."""
    missing = [name for name in shapes if name not in arrays]
    if missing:
        raise UserError(f"LPIPS {what}: the pack lacks {listed(missing)}; is it the pack of another network?")
    checked = {}
    for name, shape in shapes.items():
        array = np.asarray(arrays[name])
        if array.shape != shape:
            raise UserError(f"LPIPS {what}: {name} has shape {array.shape}, expected {shape}")
        if not np.isfinite(array).all():
            raise UserError(f"LPIPS {what}: {name} holds NaN or infinity; the pack is damaged, fetch it again")
        checked[name] = array.astype(np.float32)
    return checked
