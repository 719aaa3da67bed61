"""Whether a classifier that had no part in it changes its mind: the flip rate of counterfactuals.

Counted are images of other classes than the target that the judge calls by their own label; the flip rate is the share
of them whose counterfactual it calls by the target. The same share of their unguided round trips is what encoding and
decoding alone do to the judge. A classifier that guided the counterfactuals was moved on purpose: it is no judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medgen_jax.core import manifest
from medgen_jax.core.errors import UserError
from medgen_jax.data.counterfactual_folders import Arrays
from medgen_jax.engine import restore
from medgen_jax.engine.checkpoint import sealed_steps, step_folder
from medgen_jax.evaluation.counterfactuals.measures import SIDES, Method
from medgen_jax.evaluation.devices import OnDevices
from medgen_jax.evaluation.labelled import PREDICT
from medgen_jax.sampler_inputs import require_images_alone
from medgen_jax.sampling import LoadedSampler, load_sampler

BETTER = {"flip_rate": 1, "control_flip_rate": -1}


@dataclass(frozen=True)
class Judge:
    """A classifier that is asked.

    Attributes:
      run: its directory, as the user gave it.
      digest: of its checkpoint.
      model: its sampler ``predict``.
    """

    run: str
    digest: str
    model: LoadedSampler

    @property
    def classes(self) -> tuple[str, ...]:
        """What it answers with."""
        return tuple(self.model.config.data.classes)


def open_judge(run: str | Path, which: str | int, methods: Sequence[Method]) -> Judge:
    """Load a run's ``predict`` and make sure that it can judge these folders.

    Raises:
      UserError: a run without ``predict`` or without names of classes, one that guided a folder, or one that does not
        know the target or the labels of a folder.
    """
    system, _ = restore.open_run(run)
    if PREDICT not in system.samplers:
        raise UserError(f"--judge {run}: answers with no classes; give a run of a classifier, such as stain_classifier")
    for method in methods:
        if _guided(run, method.folder.settings):
            raise UserError(
                f"--judge {run}: guided {method.folder.path}, so it was moved on purpose; give a classifier that was "
                "trained on its own"
            )
    point = restore.checkpoint(run, which)
    model = load_sampler(run, PREDICT, point.step)
    require_images_alone(model)
    judge = Judge(str(run), point.sha256, model)
    if not judge.classes:
        raise UserError(
            f"--judge {run}: its configuration names no classes (config.data.classes), so its answers are numbers"
        )
    for method in methods:
        named = {name for name in (*method.targets, *method.column("label")) if name is not None}
        if unknown := sorted(named - set(judge.classes)):
            raise UserError(
                f"--judge {run}: does not know the class {unknown[0]!r} of {method.folder.path}; it knows "
                f"{', '.join(judge.classes)}"
            )
    return judge


class Asked:
    """The judge's answers to the images of one folder.

    Args:
      judge: who is asked.
      method: the folder.
      batch: images per call, over all devices.

    Attributes:
      probabilities: ``image`` and `SIDES` -> (n, classes).
    """

    def __init__(self, judge: Judge, method: Method, batch: int):
        self._judge, self._method = judge, method
        self._run = OnDevices([self._predict], batch)
        self._constants = self._run.put((judge.model.variables, jax.random.key(0)))
        self.probabilities = {
            name: np.full((len(method.entries), len(judge.classes)), np.nan) for name in ("image", *SIDES)
        }
        self._check(0, method.folder.arrays(method.entries[0]).image.shape)

    def _predict(self, constants: Any, image: jax.Array) -> jax.Array:
        variables, key = constants
        return self._judge.model.function(variables, {"image": image}, key)

    def look(self, places: Sequence[int], arrays: Sequence[Arrays]) -> None:
        """Ask about a batch of images of one size.

        Raises:
          UserError: images of a size or with channels that the judge does not take, or answers that are not finite.
        """
        self._check(places[0], arrays[0].image.shape)
        for name, found in self.probabilities.items():
            stack = np.stack([getattr(own, name) for own in arrays])
            for start in range(0, len(stack), self._run.batch):
                part = slice(start, start + self._run.batch)
                found[list(places)[part]] = np.asarray(self._run(self._constants, stack[part]))
            if not np.isfinite(found[list(places)]).all():
                raise UserError(f"--judge {self._judge.run}: an answer is not finite; choose another --checkpoint")

    def _check(self, place: int, shape: tuple[int, int, int]) -> None:
        trained = self._judge.model.inputs["image"].shape
        where = f"{self._method.folder.path}, image {self._method.entries[place].name}"
        if shape[-1] != trained[-1]:
            raise UserError(
                f"--judge {self._judge.run}: was trained on images of {trained[-1]} channel(s), {where} has {shape[-1]}"
            )
        spec = jax.ShapeDtypeStruct((1, *shape), np.float32)
        try:
            jax.eval_shape(self._predict, self._constants, spec)
        except Exception as error:  # networks refuse a size in ways of their own
            sizes = " x ".join(map(str, shape[:2])), " x ".join(map(str, trained[:2]))
            raise UserError(
                f"--judge {self._judge.run}: does not take {where} of {sizes[0]} pixels; it was trained on {sizes[1]}"
            ) from error

    def answers(self, name: str) -> np.ndarray:
        """Names of the classes that ``image`` or one of `SIDES` was called, (n,)."""
        return np.array(self._judge.classes, object)[self.probabilities[name].argmax(1)]

    def counted(self) -> np.ndarray:
        """(n,) bool: images of another class than their target that were called by their label."""
        labels, targets = (np.array(column, object) for column in (self._method.column("label"), self._method.targets))
        known = np.array([a is not None and b is not None for a, b in zip(labels, targets, strict=True)])
        return known & (labels != targets) & (self.answers("image") == labels)

    def flips(self, side: str) -> np.ndarray:
        """(n,) bool: images of which one of `SIDES` was called by the target."""
        return self.answers(side) == np.array(self._method.targets, object)


def _guided(run: str | Path, settings: Mapping[str, Any]) -> bool:
    """Whether a run is what settings name as the classifier: by its path or its folder's name, and by its checkpoint.

    Runs are often called alike: a checkpoint of the same step with other contents is another run's.
    """
    path, told = Path(run).expanduser().resolve(), settings.get("classifier")
    if not told:
        return False
    named = str(told) == path.name or Path(str(told)).expanduser().resolve() == path
    digest, root = settings.get("classifier_digest"), path / "checkpoints"
    if not digest:
        return named
    own = {step: manifest.file_digest(step_folder(root, step) / manifest.NAME) for step in sealed_steps(root)}
    return digest in own.values() or (named and settings.get("classifier_checkpoint") not in own)
