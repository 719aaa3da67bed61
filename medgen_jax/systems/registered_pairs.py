"""What systems that see registered pairs (a, b) share: fields of the two domains, and the measures against b."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from medgen_jax.core.streams import Field
from medgen_jax.metrics import paired
from medgen_jax.metrics.baselines import constant_baselines
from medgen_jax.metrics.restoration import restoration_baselines
from medgen_jax.ops.scale import to_unit
from medgen_jax.systems.base import Evaluator, Preview, Record, Sampler

PyTree = Any
#: ``(fields, key) -> fields``: adds a, where a stream carries b alone.
Complete = Callable[[Mapping[str, jax.Array], jax.Array], Mapping[str, jax.Array]]


def as_they_are(record: Mapping[str, jax.Array], key: jax.Array) -> Mapping[str, jax.Array]:
    """For streams that carry all there is."""
    return record


def fields(size: int, channels: tuple[int, int], wire: str, settings: tuple[str, str]) -> dict[str, Field]:
    """Fields ``a`` and ``b``: square crops.

    Args:
      size: side, pixels.
      channels: of a and of b.
      wire: dtype of the raw samples.
      settings: configuration fields that hold the channels, for messages.
    """
    return {name: Field((size, size, c), wire, s) for name, c, s in zip("ab", channels, settings, strict=True)}


def preview(stream: str = "pairs", complete: Complete = as_they_are, target: bool = True) -> Preview:
    """What ``a2b`` makes of a; beside it the input and, where there is one, the target b."""

    def inputs(record: Mapping[str, jax.Array], key: jax.Array) -> Mapping[str, jax.Array]:
        return {"image": complete(record, key)["a"]}

    return Preview("a2b", stream, inputs, (("image", "input"), ("b", "target")) if target else (("image", "input"),))


def evaluator(
    a2b: Sampler, stream: str = "pairs", complete: Complete = as_they_are, restores: bool = False
) -> Evaluator:
    """PSNR, SSIM, Pearson r and mean absolute error of ``a2b`` against b.

    Beside answers that need no network, where a is stored with b: constants, and filters of a where it is a
    worse image of b (``restores``).
    """

    def accumulate(acc: PyTree, variables: PyTree, batch: Mapping[str, jax.Array], key: jax.Array) -> PyTree:
        whole = complete(batch, key)
        image = a2b(variables, {"image": whole["a"]}, key)
        return paired.accumulate(acc, image, to_unit(whole["b"]), whole["mask"])

    def baselines(train: Iterable[Record], test: Iterable[Record]) -> dict[str, dict[str, float]]:
        rows = constant_baselines((r["b"] for r in train), ((r["a"], r["b"]) for r in test))
        if restores:
            rows |= restoration_baselines(*(((r["a"], r["b"]) for r in records) for records in (train, test)))
        return rows

    known = baselines if complete is as_they_are else None
    return Evaluator(stream, paired.init, accumulate, paired.merge, paired.compute, known)
