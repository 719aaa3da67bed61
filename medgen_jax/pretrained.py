"""Joins fixed, pretrained networks with their weights: features and distances ready to be called.

The weights lie in the folder that `medgen_jax.interop.weight_store` describes; nothing here touches a
network. ``python -m medgen_jax.weights --get all`` brings them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from medgen_jax.core.errors import UserError
from medgen_jax.interop import inception_layout, lpips_layout, weight_store
from medgen_jax.interop.packs import digest
from medgen_jax.nn import inception_fid
from medgen_jax.nn import lpips as lpips_network

_BACKBONES = {"alex": "lpips_alexnet", "vgg": "lpips_vgg16"}


class Pretrained(NamedTuple):
    """A fixed network and its weights.

    Attributes:
      apply: pure function of ``variables`` and images, to be jitted with ``variables`` as an argument: closed over,
        they would become constants of the program.
      variables: float32 tree of NumPy arrays.
      digest: sha256 of the weights' content, for the record of a result or a run.
      name: of the network, such as ``lpips-alex``.
    """

    apply: Callable[..., Any]
    variables: dict[str, Any]
    digest: str
    name: str


def inception(weights: str | Path | None = None) -> Pretrained:
    """Inception-v3 of 2015-12-05, the network of FID and KID; ``apply`` is `medgen_jax.nn.inception_fid.features`.

    Args:
      weights: folder of the weights; None: see `medgen_jax.interop.weight_store.weights_folder`.

    Raises:
      UserError: weights are missing or damaged; the message holds the command that gets them.
    """
    arrays = weight_store.load("inception", weights)
    variables = inception_layout.variables_from_pack(arrays)
    return Pretrained(inception_fid.features, variables, weight_store.entry("inception").digest, "inception-fid")


def lpips(net: str = "alex", weights: str | Path | None = None) -> Pretrained:
    """LPIPS v0.1; ``apply(variables, x, y)`` is `medgen_jax.nn.lpips.distance` of this network.

    Args:
      net: ``alex``, the default of published numbers, or ``vgg``.
      weights: folder of the backbone's weights; None: see `medgen_jax.interop.weight_store.weights_folder`.

    Raises:
      UserError: another ``net``; weights are missing or damaged.
    """
    if net not in _BACKBONES:
        raise UserError(f"LPIPS network {net!r}: expected one of {', '.join(_BACKBONES)}")
    backbone = weight_store.load(_BACKBONES[net], weights)
    heads = {name: array for name, array in weight_store.heads().items() if name.startswith(f"{net}_")}
    variables = lpips_layout.variables_from_pack(backbone, heads, net)
    apply = functools.partial(lpips_network.distance, net=net)
    return Pretrained(apply, variables, digest(backbone | heads), f"lpips-{net}")


def vgg16(weights: str | Path | None = None) -> Pretrained:
    """VGG16 of ImageNet; ``apply(variables, x, taps=(...))`` is `medgen_jax.nn.lpips.features` of it.

    Args:
      weights: folder of the weights; None: see `medgen_jax.interop.weight_store.weights_folder`.

    Raises:
      UserError: weights are missing or damaged.
    """
    arrays = weight_store.load("lpips_vgg16", weights)
    variables = lpips_layout.variables_from_pack(arrays, None, "vgg")
    apply = functools.partial(lpips_network.features, net="vgg")
    return Pretrained(apply, variables, weight_store.entry("lpips_vgg16").digest, "vgg16")


#: Name in ``System.frozen_names`` -> what loads it.
_FIXED: dict[str, Callable[..., Pretrained]] = {"vgg16": vgg16}


def fixed(names: Iterable[str], weights: str | Path | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """The fixed weights that a training step asks for: variables by name, and their digests.

    Args:
      names: a system's ``frozen_names``.
      weights: as in `inception`.

    Raises:
      UserError: a name nobody can load; weights are missing or damaged.
    """
    found: dict[str, Pretrained] = {}
    for name in names:
        if name not in _FIXED:
            raise UserError(f"the system needs the fixed weights {name!r}; there are: {', '.join(_FIXED)}")
        found[name] = _FIXED[name](weights)
    return {name: one.variables for name, one in found.items()}, {name: one.digest for name, one in found.items()}
