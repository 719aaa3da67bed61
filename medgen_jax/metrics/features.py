"""What every measure asks of the feature vectors it compares."""

from __future__ import annotations

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.types import Features


def as_features(name: str, features: Features, minimum: int = 2) -> np.ndarray:
    """Features as finite float64 (n, d) on the host.

    Raises:
      UserError: naming ``name`` when the array is not (n, d) with d > 0, has fewer than ``minimum``
        rows, or a row is not finite.
    """
    array = np.asarray(features).astype(np.float64, copy=False)
    if array.ndim != 2 or array.shape[1] == 0:
        raise UserError(f"{name} have shape {array.shape}; (images, numbers per image) is needed")
    if len(array) < minimum:
        raise UserError(f"{name}: {len(array)} of them; at least {minimum} are needed, so add images")
    bad = np.flatnonzero(~np.isfinite(array).all(axis=1))
    if len(bad):
        raise UserError(
            f"{name}: number {bad[0]} holds NaN or infinity ({len(bad)} of {len(array)} do); "
            "remove the images they come from, counted from 0"
        )
    return array


def pair_of_features(
    real_features: Features, fake_features: Features, minimum: int = 2
) -> tuple[np.ndarray, np.ndarray]:
    """Two sets through `as_features`, as real and fake features.

    Raises:
      UserError: as `as_features` does, and when the two have different d.
    """
    real = as_features("real features", real_features, minimum)
    fake = as_features("fake features", fake_features, minimum)
    if real.shape[1] != fake.shape[1]:
        raise UserError(
            f"real features have {real.shape[1]} numbers each and fake features {fake.shape[1]}; "
            "take both from one network and layer"
        )
    return real, fake
