"""How different images are that could be alike: LPIPS among the outputs of one source, or the images of one class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax.evaluation.devices import OnDevices
from medgen_jax.evaluation.folders import eight_bit
from medgen_jax.evaluation.synthesis_study.real import RealSet
from medgen_jax.metrics import lpips
from medgen_jax.ops.scale import to_unit

if TYPE_CHECKING:
    from medgen_jax.pretrained import Pretrained

#: Outputs of one source, and images of one class that are compared with each other.
GROUP = 10
#: Groups of images that are measured where they are not made of sources.
GROUPS = 200


class Diversity:
    """Mean LPIPS of the 45 pairs among `GROUP` images, on all local devices.

    Args:
      network: ``apply(variables, images)`` gives points whose squared distance is LPIPS (`medgen_jax.nn.lpips.embed`).
      batch: groups per call.
    """

    def __init__(self, network: Pretrained, batch: int):
        self.network = network
        self._run = OnDevices([self._of_groups], batch)
        self._variables = self._run.put(network.variables)

    @property
    def batch(self) -> int:
        """Groups per call."""
        return self._run.batch

    def _of_groups(self, variables: Any, images: jax.Array) -> jax.Array:
        outputs = to_unit(jnp.swapaxes(images, 0, 1))
        return lpips.diversity(lambda x: self.network.apply(variables, x), outputs)

    def __call__(self, groups: Sequence[np.ndarray]) -> np.ndarray:
        """(g,) of at most `batch` groups, each (`GROUP`, h, w, c) uint8."""
        return np.asarray(self._run(self._variables, np.stack(groups)), np.float64)

    def check(self, shape: tuple[int, int, int]) -> None:
        """Trace the network on images (h, w, c); nothing is computed.

        Raises:
          UserError: images that it does not take.
        """
        jax.eval_shape(self._of_groups, self.network.variables, jax.ShapeDtypeStruct((1, GROUP, *shape), np.uint8))


class DiversityRows:
    """The diversity of groups gathered image by image.

    Args:
      diversity: what measures them.
      most: groups that are measured; None for all.
    """

    def __init__(self, diversity: Diversity, most: int | None = None):
        self._diversity, self._most = diversity, most
        self._group: list[np.ndarray] = []
        self._waiting: list[np.ndarray] = []
        self._begun = 0
        self._values = np.zeros(0)

    def add(self, image: np.ndarray) -> None:
        """The next image, (h, w, c) uint8; those of one group follow each other."""
        if not self._group:
            if self._begun == self._most:
                return
            self._begun += 1
        self._group.append(image)
        if len(self._group) == GROUP:
            self._waiting.append(np.stack(self._group))
            self._group = []
        if len(self._waiting) == self._diversity.batch:
            self._measure()

    def array(self) -> np.ndarray:
        """Of every whole group, (g,)."""
        self._measure()
        return self._values

    def _measure(self) -> None:
        if self._waiting:
            self._values = np.append(self._values, self._diversity(self._waiting))
            self._waiting = []


def among(real: RealSet, diversity: Diversity, seed: int) -> np.ndarray:
    """The diversity of real images, (g,). Groups are drawn at random, because neighbours may be of one patient."""
    rows = DiversityRows(diversity, GROUPS)
    for image in real.images(np.random.default_rng(seed).permutation(len(real))[: GROUP * GROUPS].tolist()):
        rows.add(eight_bit(image)[..., : image.shape[-1]])
    return rows.array()
