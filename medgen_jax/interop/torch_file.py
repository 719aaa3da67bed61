"""PyTorch weight files as NumPy arrays: read without running anything that is stored in them, and written."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError

#: The first version in which ``torch.load(weights_only=True)`` has no known way round it.
MIN_TORCH = (2, 6)


def _import_torch(path: Path) -> ModuleType:
    remedy = "pip install 'medgen_jax[torch]'"
    try:
        import torch
    except ImportError:
        raise UserError(f"{path}: a PyTorch file needs PyTorch; {remedy}") from None
    version = tuple(int(part) for part in torch.__version__.split("+")[0].split(".")[:2])
    if version < MIN_TORCH:
        wanted = ".".join(map(str, MIN_TORCH))
        raise UserError(
            f"{path}: PyTorch {torch.__version__} cannot read files safely, {wanted} or later is needed; {remedy}"
        )
    return torch


def read_state_dict(path: str | Path) -> dict[str, np.ndarray]:
    """The tensors of a ``torch.save`` file by name.

    Nested dictionaries, such as one per network, are flattened with dots (``generator.to_rgb.2.weight``);
    a ``module.`` prefix that every name of a dictionary carries (DataParallel) is removed; entries that
    are not tensors, such as the options of a training script, are left out. float16 and bfloat16 become
    float32, other dtypes are kept.

    Args:
      path: a ``.pth``, ``.pt`` or ``.ckpt`` file, zip or legacy format.

    Raises:
      UserError: PyTorch is missing or older than 2.6; the file does not exist, is damaged, holds no
        tensors, or holds other Python objects, which are never loaded.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    torch = _import_torch(path)
    try:
        # Training scripts leave their options beside the weights: a record of attributes without behaviour.
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UserError(
            f"{path}: refused, because it holds Python objects beside tensors or is no PyTorch file; "
            "save its state_dict() alone and read that"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, OSError) as error:
        raise UserError(f"{path}: damaged or not a PyTorch file ({type(error).__name__})") from None
    state = _flatten(content, torch) if isinstance(content, Mapping) else {}
    if not state:
        raise UserError(f"{path}: holds no named tensors; expected the state_dict() of a network")
    return state


def write_state_dict(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write arrays as a ``torch.save`` file that ``module.load_state_dict(torch.load(path))`` takes.

    Args:
      path: file to write.
      state: name -> array, or name -> a mapping of such names, as of several networks in one file.

    Raises:
      UserError: PyTorch is missing or older than 2.6, or the place cannot be written.
    """
    path = Path(path)
    torch = _import_torch(path)

    def tensors(item: Any) -> Any:
        if isinstance(item, Mapping):
            return {name: tensors(inner) for name, inner in item.items()}
        return torch.from_numpy(np.array(item))

    try:
        torch.save(tensors(state), path)
    except (OSError, RuntimeError) as error:
        raise UserError(f"{path}: cannot be written ({' '.join(str(error).split())[:120]})") from error


def _flatten(mapping: Mapping[Any, Any], torch: ModuleType) -> dict[str, np.ndarray]:
    wrapped = all(str(key).startswith("module.") for key in mapping)
    flat: dict[str, np.ndarray] = {}
    for key, value in mapping.items():
        name = str(key).removeprefix("module.") if wrapped else str(key)
        if isinstance(value, torch.Tensor):
            short = value.dtype in (torch.float16, torch.bfloat16)
            flat[name] = (value.float() if short else value).detach().numpy().copy()
        elif isinstance(value, Mapping):
            flat.update({f"{name}.{inner}": array for inner, array in _flatten(value, torch).items()})
    return flat
