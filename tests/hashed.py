"""Numbers from a formula, the same everywhere: inputs of stored reference values can be built again."""

from __future__ import annotations

import numpy as np


def hashed(seed: int, *shape: int) -> np.ndarray:
    """Float64 in [0, 1) in steps of 2^-24: splitmix64's mixing (Steele, Lea and Flood, OOPSLA 2014) of a counter.

    Element i, in C order, mixes (seed 2^32 + i) times 0x9E3779B97F4A7C15 modulo 2^64.
    """
    with np.errstate(over="ignore"):
        counter = np.arange(np.prod(shape, dtype=int), dtype=np.uint64) + np.uint64(seed << 32)
        z = counter * np.uint64(0x9E3779B97F4A7C15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(40)).astype(np.float64).reshape(shape) / 2**24
