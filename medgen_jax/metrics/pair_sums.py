"""What measures of image pairs share: the shapes they take, and sums by name at the end."""

from __future__ import annotations

from collections.abc import Sequence

import jax

from medgen_jax.core.errors import UserError
from medgen_jax.ops import compensated


def check_shapes(measure: str, predicted: tuple[int, ...], target: tuple[int, ...]) -> None:
    """Refuse shapes that are not one (b, h, w, c).

    Raises:
      UserError: naming the measure and both shapes.
    """
    if predicted != target or len(target) != 4:
        raise UserError(
            f"{measure} metrics: predicted images are {predicted} and targets {target}; both must be one (b, h, w, c)"
        )


def by_name(measure: str, acc: jax.Array, names: Sequence[str]) -> dict[str, float]:
    """The sums of an accumulator (n, 2) of `medgen_jax.ops.compensated`, by their names; one of these is ``images``.

    Raises:
      UserError: when no image was added.
    """
    sums = dict(zip(names, compensated.value(acc).tolist(), strict=True))
    if sums["images"] == 0:
        raise UserError(f"{measure} metrics: no image pair was added; the split that is evaluated is empty")
    return sums
