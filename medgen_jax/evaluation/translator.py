"""A loaded sampler over the inputs of a split, on all local devices."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation.devices import OnDevices, parts
from medgen_jax.evaluation.splits import Shape, Split
from medgen_jax.sampling import LoadedSampler
from medgen_jax.translation.tiles import plan, sample_image


class Batch(NamedTuple):
    """Some records of a split.

    Attributes:
      places: which.
      inputs: (b, h, w, c) as stored.
      outputs: (b, h', w', c') float32 in [-1, 1].
    """

    places: tuple[int, ...]
    inputs: np.ndarray
    outputs: np.ndarray


class Translator:
    """Images whole where the network takes their size, as training evaluates them; in blended tiles where not.

    Args:
      model: a sampler whose input is called ``image``.
      batch: images per call.
      seed: for samplers that draw random numbers.
    """

    def __init__(self, model: LoadedSampler, batch: int, seed: int = 0):
        self._model, self._key = model, jax.random.key(seed)
        self._run = OnDevices([lambda constants, x: model.function(constants[0], {"image": x}, constants[1])], batch)
        self._variables = self._run.put(model.variables)

    def output_shape(self, shape: Shape) -> tuple[int, int, int]:
        """Height, width and channels of what becomes of an image of ``shape``; nothing is computed.

        Raises:
          UserError: when the network takes it neither whole nor in tiles.
        """
        tile = shape[:3] if self._whole(shape) else (*self._model.inputs["image"].shape[:2], shape[2])
        found = self._trace((*tile, shape[3]))
        if not self._whole(shape):
            plan(self._model, shape[:3], f"uint{shape[3]}", tile=tile[0])
            return (*shape[:2], found[2])
        return found

    def __call__(self, split: Split) -> Iterator[Batch]:
        """All records, those of one shape together."""
        number = 0
        for group in split.groups():
            whole = self._whole(split.inputs.shape(group[0]))
            for places in parts(group, self._run.batch if whole else 1):
                inputs = np.stack([split.inputs.image(i) for i in places])
                outputs = self._translated(inputs, number) if whole else self._tiled(inputs[0])[None]
                number += 1
                yield Batch(places, inputs, outputs)

    def _translated(self, inputs: np.ndarray, number: int) -> np.ndarray:
        key = jax.random.fold_in(self._key, number)
        return np.asarray(self._run((self._variables, key), inputs))

    def _tiled(self, image: np.ndarray) -> np.ndarray:
        grid = plan(self._model, image.shape, image.dtype, tile=self._model.inputs["image"].shape[0])
        return sample_image(self._model, image, grid)

    def _trace(self, shape: Shape) -> tuple[int, int, int]:
        spec = jax.ShapeDtypeStruct((1, *shape[:3]), f"uint{shape[3]}")
        return jax.eval_shape(self._model.function, self._model.variables, {"image": spec}, self._key).shape[1:]

    def _whole(self, shape: Shape) -> bool:
        try:
            self._trace(shape)
        except UserError:
            return False
        return True
