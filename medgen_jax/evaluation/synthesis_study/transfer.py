"""Train on synthetic, test on real: what a classifier learns from drawn images, and from as many real ones.

The classifier is the judge's, by its configuration: the same network, rate, batches and number of steps for every set
of training images, from the same initial parameters. The last step counts; nothing is chosen by the test images.
(The measure is Esteban, Hyland and Raetsch's TSTR, arXiv 1706.02633, section 3.2.)
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from medgen_jax import systems
from medgen_jax.core import config as configs
from medgen_jax.core.errors import UserError
from medgen_jax.data import pipeline
from medgen_jax.data.tables import ArrayTable
from medgen_jax.engine import mesh as meshes
from medgen_jax.engine.step import fused, guarded, init_state, observed_state
from medgen_jax.evaluation import answers
from medgen_jax.evaluation.answers import Answers
from medgen_jax.evaluation.scores import Score
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.synthesis_study.judge import SYSTEM, Asked, Judge, shown
from medgen_jax.evaluation.synthesis_study.real import RealSet

_STREAM = "records"
KINDS = ("accuracy", "balanced_accuracy", "auroc")


class Trainer:
    """Trains the judge's network anew, on one set of images after the other; compiled once.

    Args:
      judge: whose configuration is taken.
      count: images of each set.

    Attributes:
      count: as given.
      steps: of each training.
    """

    def __init__(self, judge: Judge, count: int):
        self._judge, self.count = judge, count
        self._config = _configured(judge, count)
        self._system = systems.load(SYSTEM).build(self._config)
        self._mesh = meshes.make_mesh(jax.local_devices())
        self._stream = self._system.streams[_STREAM]
        self.steps = configs.expected_steps(self._config)
        step = fused(guarded(self._system.train_step, self._stream.per_step))
        self._step = jax.jit(step, donate_argnums=0, out_shardings=meshes.replicated(self._mesh))

    def train(self, images: Mapping[str, Sequence[np.ndarray]], seed: int, name: str) -> Any:
        """What the sampler ``predict`` of the judge's system takes, after so many steps.

        Args:
          images: by class, `count` in all, any size, grey or RGB.
          seed: of parameters and batches.
          name: for the progress bar.

        Raises:
          UserError: a training that does not stay finite.
        """
        table, data = self._table(images), self._config.data
        state = init_state(self._system, self._mesh, seed)
        if (wanted := self._system.observation) is not None:
            seen = np.stack([table.images(i)["image"] for i in wanted.choose(len(table))])
            state = observed_state(self._system, self._mesh, state, {"image": seen})
        batches = pipeline.iterator(_STREAM, self._stream, table, data, seed=seed)
        cut = meshes.over_data(self._mesh)
        steps = tqdm(itertools.islice(batches, self.steps), total=self.steps, unit="step", desc=name, disable=None)
        try:
            for batch in steps:
                state, _ = self._step(state, (jax.device_put({_STREAM: batch}, cut),), {})
        finally:
            batches.close()
        if (skipped := int(state.skipped[0])) > self._config.train.max_skipped:
            raise UserError(
                f"{name}: {skipped} of {self.steps} steps were not finite; lower config.optim.lr of the --judge run"
            )
        return self._system.inference_variables(state)

    def _table(self, images: Mapping[str, Sequence[np.ndarray]]) -> ArrayTable:
        classes, size = self._judge.classes, self._config.data.load_size
        labels = [label for label, name in enumerate(classes) for _ in images[name]]
        stack = [shown(image, size, self._system.channels) for name in classes for image in images[name]]
        return ArrayTable({"image": stack}, {"label": labels}, "the study's images", {"label": classes})


def test(asked: Asked, classes: Sequence[str], unseen: Mapping[str, RealSet], settings: Settings) -> dict[str, Score]:
    """Numbers of `KINDS` on real images.

    Args:
      asked: a classifier of the judge's kind.
      classes: in the order of its answers.
      unseen: real images by class.
      settings: level, resamples and seed.
    """
    probabilities = np.concatenate([asked.answers(unseen[name].images()) for name in classes])
    labels = np.repeat(np.arange(len(classes)), [len(unseen[name]) for name in classes])
    groups = [group for name in classes for group in unseen[name].groups]
    found = Answers(probabilities.astype(np.float64), labels, tuple(classes))
    scored = answers.scores(found, groups if len(groups) == len(labels) else (), settings)
    return {kind: scored[kind] for kind in KINDS if kind in scored}


def batch_fits(judge: Judge) -> None:
    """Refuse batches that do not divide among the devices.

    Raises:
      UserError: with the number of devices.
    """
    size, devices = judge.config.train.batch_size, len(jax.local_devices())
    if size % devices:
        raise UserError(f"--tstr: batches of {size}, those of the --judge run, do not divide among {devices} devices")


def _configured(judge: Judge, count: int) -> Any:
    """The judge's configuration for so many images, read by threads from memory."""
    config = dataclasses.replace(judge.config, num_train=None, steps_per_epoch=None)
    data = dataclasses.replace(config.data, load_size=config.data.load_size or config.data.crop_size, workers=0)
    return configs.resolve(dataclasses.replace(config, data=data), count)
