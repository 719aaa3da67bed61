"""A stand-in for a network that any package can be given, and what it is asked about: the rule of the golden files.

The answer is ``(a + b u) x + c + d u`` with ``u = (t + 1) / 1000`` and four constants for each kind of prediction, so
that images stay around [-1, 1] on the whole linear schedule of 1,000 steps and clipping touches some pixels of many
steps. Where a network also learns the variance its values are a fifth kind.
"""

from __future__ import annotations

from typing import Any

import numpy as np

#: Of the answers: factor of x and its growth, constant and its growth.
ANSWERS = {
    "epsilon": (0.2, 0.8, 0.1, -0.1),
    "x0": (1.0, 0.4, 0.0, 0.1),
    "v": (-0.6, -0.4, 0.0, 0.3),
    "values": (0.2, 0.1, 0.5, -0.8),
}
SHAPE = (2, 2, 2, 1)


def answer(kind: str, x: Any, t: Any) -> Any:
    """Shaped like ``x``; ``t`` broadcasts against it."""
    a, b, c, d = ANSWERS[kind]
    u = (t + 1) / 1000
    return (a + b * u) * x + (c + d * u)


def draws(count: int, shape: tuple[int, ...] = SHAPE) -> np.ndarray:
    """(count, *shape) float32, standard normal: the first numbers of NumPy's default generator of seed 0."""
    return np.random.default_rng(0).standard_normal((count, *shape)).astype(np.float32)
