"""PyTorch files against each other."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any


def same(one: str | Path, other: str | Path) -> bool:
    """Whether two files have the same names, dtypes and bits, nested or not."""
    import torch

    def equal(a: Any, b: Any) -> bool:
        if isinstance(a, Mapping):
            return set(a) == set(b) and all(equal(a[name], b[name]) for name in a)
        return a.dtype == b.dtype and torch.equal(a, b)

    return equal(*(torch.load(path, weights_only=True) for path in (one, other)))
