"""A classifier of real images that is asked about drawn ones: a run of ``stain_classifier``, whose layers are known."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.data.transforms import resize
from medgen_jax.engine import restore, rundir
from medgen_jax.evaluation.devices import OnDevices
from medgen_jax.evaluation.folders import eight_bit
from medgen_jax.metrics import attribution
from medgen_jax.ops.scale import to_unit

SYSTEM = "stain_classifier"


@dataclass(frozen=True, eq=False)
class Judge:
    """A classifier; see `open_judge`.

    Attributes:
      name: of its run.
      system, config: of its run.
      variables: those of its sampler ``predict``.
      digest: of its checkpoint.
    """

    name: str
    system: Any
    config: Any
    variables: Any
    digest: str

    @property
    def classes(self) -> tuple[str, ...]:
        """What it answers with, in the order of its logits."""
        return tuple(self.config.data.classes)

    @property
    def size(self) -> int:
        """Side of the images that it is shown, pixels."""
        return self.system.size


def open_judge(run: str | Path, which: str | int, classes: Sequence[str]) -> Judge:
    """Load a classifier of these classes.

    Args:
      run: directory of a run of ``stain_classifier``.
      which: checkpoint: ``last``, ``best`` or a step.
      classes: of the study.

    Raises:
      UserError: a run of another system, of other classes, or of 16-bit images.
    """
    kind = rundir.read_config(Path(run).expanduser())["system"]
    if kind != SYSTEM:
        raise UserError(f"--judge {run}: is a run of {kind}; class activation maps need one of {SYSTEM}")
    system, config = restore.open_run(run)
    if differing := sorted(set(config.data.classes) ^ set(classes)):
        raise UserError(
            f"--judge {run}: was trained on the classes {', '.join(config.data.classes) or 'without names'}, the study "
            f"is about {', '.join(classes)}; {differing[0]!r} is in one of them only"
        )
    if config.data.bits != 8:
        raise UserError(f"--judge {run}: was trained on {config.data.bits}-bit images; the study shows it 8-bit ones")
    point = restore.checkpoint(run, which)
    variables = restore.inference_variables(system, point.folder)
    return Judge(Path(run).expanduser().absolute().name, system, config, variables, point.sha256)


def shown(image: np.ndarray, size: int, channels: int) -> np.ndarray:
    """An image of any size and depth, grey or RGB, as a judge sees it: (size, size, channels) uint8.

    Of RGB images, a judge of grey ones sees the mean of the channels.
    """
    levels = resize(np.ascontiguousarray(eight_bit(image)), size, size)
    return levels if channels == 3 else np.rint(levels.mean(axis=-1, keepdims=True)).astype(np.uint8)


class Asked:
    """The judge's answers and class activation maps, on all local devices.

    Args:
      judge: who is asked.
      batch: images per call.
      variables: in place of the judge's own: of another training of its network.
    """

    def __init__(self, judge: Judge, batch: int, variables: Any = None):
        self._system = judge.system
        self._answer, self._look = OnDevices([self._answered], batch), OnDevices([self._looked], batch)
        self._variables = self._answer.put(judge.variables if variables is None else variables)

    def _activations(self, variables: Any, images: jax.Array) -> jax.Array:
        system, unit = self._system, (to_unit(images) + 1) / 2
        seen = system.layer.apply(variables["norm"], unit) if system.layer else unit
        return system.backbone.apply(variables["net"], seen, False, method="features")

    def _answered(self, variables: Any, images: jax.Array) -> jax.Array:
        activations = self._activations(variables, images)
        return jax.nn.softmax(self._system.backbone.apply(variables["net"], activations, method="head"))

    def _looked(self, variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Probabilities (b, k), and CAM (b, h, w, k) of all classes (Zhou et al. 2016, equation 2)."""
        activations = self._activations(variables, images)
        weights = variables["net"]["params"]["linear"]["kernel"]

        def of_class(k: jax.Array) -> jax.Array:
            chosen = jnp.full((activations.shape[0],), k)
            return attribution.upsample(attribution.class_activation(activations, weights, chosen), images.shape[1:3])

        maps = jax.lax.map(of_class, jnp.arange(weights.shape[1]))
        logits = self._system.backbone.apply(variables["net"], activations, method="head")
        return jax.nn.softmax(logits), jnp.moveaxis(maps, 0, -1)

    def answers(self, images: Iterable[np.ndarray]) -> np.ndarray:
        """Probabilities (n, k).

        Args:
          images: any size, grey or RGB.

        Raises:
          UserError: an answer that is not finite.
        """
        found = [np.asarray(self._answer(self._variables, stack)) for stack in self._stacks(images)]
        return _finite(np.concatenate(found))

    def maps(self, images: Iterable[np.ndarray]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of each image what was shown, (size, size, 3) uint8, probabilities (k,) and maps (size, size, k).

        Arguments and errors as in `answers`.
        """
        for stack in self._stacks(images):
            probabilities, maps = map(np.asarray, self._look(self._variables, stack))
            yield from zip(eight_bit(stack), _finite(probabilities), maps, strict=True)

    def _stacks(self, images: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Batches of what is shown, (b, size, size, channels) uint8."""
        fitted = (shown(image, self._system.size, self._system.channels) for image in images)
        while part := list(itertools.islice(fitted, self._answer.batch)):
            yield np.stack(part)


def _finite(probabilities: np.ndarray) -> np.ndarray:
    if not np.isfinite(probabilities).all():
        raise UserError("--judge: an answer is not finite; choose another --checkpoint, or train again")
    return probabilities
