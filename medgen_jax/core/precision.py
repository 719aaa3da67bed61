"""Which dtype networks compute in. Parameters, statistics, losses and FFTs stay float32."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import jax
import jax.numpy as jnp

from medgen_jax.core.config import require


def compute_dtype(name: str) -> jnp.dtype:
    """The compute dtype for ``float32 | bfloat16 | auto``.

    ``auto`` is bfloat16 on GPU and TPU, and float32 on CPU, where bfloat16 is emulated.
    """
    options = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
    if name == "auto":
        return jnp.dtype(jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16)
    require(name in options, "train.precision", name, "must be one of auto, float32, bfloat16")
    return jnp.dtype(options[name])


def whole_products(dtype: Any) -> AbstractContextManager[Any]:
    """Inside, float32 products keep float32's bits, which accelerators else round to about 10; others stay as they are.

    Args:
      dtype: compute dtype of what is traced inside.
    """
    return jax.default_matmul_precision("highest") if jnp.dtype(dtype) == jnp.float32 else nullcontext()
