"""Images -> feature vectors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from tqdm import tqdm

from medgen_jax.evaluation import cache
from medgen_jax.evaluation.devices import OnDevices, parts
from medgen_jax.evaluation.fingerprint import SCALING
from medgen_jax.evaluation.folders import QUANTISATION, ImageSet, eight_bit
from medgen_jax.nn.inception_fid import PROTOCOLS, SIZE
from medgen_jax.ops.resize import resize

if TYPE_CHECKING:
    from medgen_jax.pretrained import Pretrained

_THREADS = 8


class Extractor:
    """A feature network under one protocol, on all local devices.

    Args:
      network: its ``apply(variables, images, resize)`` takes floats (b, 299, 299, 3) in 0..255 and gives (b, d).
      protocol: a key of `medgen_jax.nn.inception_fid.PROTOCOLS`.
      batch: images per call.
      devices: local devices when None.
    """

    def __init__(self, network: Pretrained, protocol: str, batch: int, devices: Sequence[jax.Device] | None = None):
        method = PROTOCOLS[protocol].resize
        # Apart from the network: every size of images compiles a resize, all together one network.
        functions = (
            lambda variables, x: resize(x, (SIZE, SIZE), method),
            lambda variables, x: network.apply(variables, x, resize=protocol),
        )
        self.network, self._protocol = network, protocol
        self._run = OnDevices(functions, batch, devices)
        self._variables = self._run.put(network.variables)

    @property
    def batch(self) -> int:
        """Images per call."""
        return self._run.batch

    @property
    def conditions(self) -> dict[str, str]:
        """How the features were made, for fingerprints."""
        return {
            "network": self.network.name,
            "weights": self.network.digest,
            "resize": f"{self._protocol} ({PROTOCOLS[self._protocol].resize} to {SIZE})",
            "scaling": SCALING[self._protocol],
            "quantisation": QUANTISATION,
        }

    def __call__(self, images: np.ndarray) -> jax.Array:
        """Features (b, d) of at most `batch` images (b, h, w, 3) uint8 of one size."""
        return self._run(self._variables, images)


class FeatureRows:
    """Features gathered batch by batch; a batch is fetched from the devices when the next one comes.

    Args:
      extractor: what makes them.
    """

    def __init__(self, extractor: Extractor):
        self._extractor = extractor
        self._rows: dict[int, np.ndarray] = {}
        self._pending: tuple[Sequence[int], jax.Array] | None = None

    @property
    def batch(self) -> int:
        """Images per call."""
        return self._extractor.batch

    def add(self, places: Sequence[int], images: np.ndarray) -> None:
        """Images (b, h, w, 3) uint8 of one size, and which ones of the set they are."""
        dispatched = places, self._extractor(images)
        self._fetch()
        self._pending = dispatched

    def array(self) -> np.ndarray:
        """All features in the order of the set, (n, d) float32."""
        self._fetch()
        return np.stack([self._rows[place] for place in sorted(self._rows)])

    def _fetch(self) -> None:
        if self._pending is not None:
            places, features = self._pending
            self._rows |= zip(places, np.asarray(features, np.float32), strict=True)
            self._pending = None


def extract(images: ImageSet, extractor: Extractor) -> np.ndarray:
    """Features (n, d) float32 of all images, in order. Sizes may be mixed.

    Raises:
      UserError: for an image that cannot be decoded.
    """
    rows = FeatureRows(extractor)
    with (
        tqdm(total=len(images), unit="image", desc=f"{images.flag} features", disable=None) as bar,
        ThreadPoolExecutor(_THREADS) as pool,
    ):
        for indices in images.groups().values():
            for part in parts(indices, extractor.batch):
                # While this batch is decoded, the devices compute the one before.
                rows.add(part, np.stack(list(pool.map(lambda i: eight_bit(images.image(i)), part))))
                bar.update(len(part))
    return rows.array()


def cached(images: ImageSet, extractor: Extractor, folder: Path | None, say: Callable[[str], None]) -> np.ndarray:
    """As `extract`, through the cache in ``folder``; None for no cache."""
    if folder is None:
        return extract(images, extractor)
    name = cache.key(images.digest, extractor.conditions)
    found = cache.load(folder, name, say)
    if found is not None and len(found) == len(images):
        say(f"{images.flag}: features of {len(images)} images come from the cache")
        return found
    found = extract(images, extractor)
    cache.store(folder, name, found, say)
    return found
