"""What systems that see registered pairs (a, b) share: fields of the two domains, and the measures against b."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import jax

from medgen_jax.core.streams import Field
from medgen_jax.metrics import paired
from medgen_jax.metrics.baselines import constant_baselines
from medgen_jax.ops.scale import to_unit
from medgen_jax.systems.base import Evaluator, Preview, Record, Sampler

PyTree = Any
_INPUT, _TARGET = ("a", "input"), ("b", "target")


def fields(size: int, channels: tuple[int, int], wire: str, settings: tuple[str, str]) -> dict[str, Field]:
    """Fields ``a`` and ``b``: square crops.

    Args:
      size: side, pixels.
      channels: of a and of b.
      wire: dtype of the raw samples.
      settings: configuration fields that hold the channels, for messages.
    """
    return {name: Field((size, size, c), wire, s) for name, c, s in zip("ab", channels, settings, strict=True)}


def preview(registered: bool = True) -> Preview:
    """What ``a2b`` makes of a, from the stream ``pairs`` with b beside it, or from the stream ``a``."""

    def inputs(record: Mapping[str, jax.Array], key: jax.Array) -> Mapping[str, jax.Array]:
        return {"image": record["a"]}

    return Preview("a2b", "pairs", inputs, (_INPUT, _TARGET)) if registered else Preview("a2b", "a", inputs, (_INPUT,))


def evaluator(a2b: Sampler) -> Evaluator:
    """PSNR, SSIM, Pearson r and mean absolute error of ``a2b`` against b, over the stream ``pairs``."""

    def accumulate(acc: PyTree, variables: PyTree, batch: Mapping[str, jax.Array], key: jax.Array) -> PyTree:
        image = a2b(variables, {"image": batch["a"]}, key)
        return paired.accumulate(acc, image, to_unit(batch["b"]), batch["mask"])

    def baselines(train: Iterable[Record], test: Iterable[Record]) -> dict[str, dict[str, float]]:
        return constant_baselines((r["b"] for r in train), ((r["a"], r["b"]) for r in test))

    return Evaluator("pairs", paired.init, accumulate, paired.merge, paired.compute, baselines)
