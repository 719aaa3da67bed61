"""The real images of a run's own data, class by class, as the run was shown them."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import LABEL
from medgen_jax.data import sources
from medgen_jax.data.checks import table_for
from medgen_jax.data.subsets import class_names
from medgen_jax.data.tables import Table
from medgen_jax.data.transforms import evaluation_view
from medgen_jax.evaluation import cache
from medgen_jax.evaluation.devices import parts
from medgen_jax.evaluation.features import Extractor, FeatureRows
from medgen_jax.evaluation.folders import eight_bit
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.splits import located
from medgen_jax.synthesis.runs import Run

#: The column of the data that outlines the lungs.
LUNGS = "lung_mask"
_CUT = 128  # level from which a mask, resized or not, says lung
_THREADS = 8


@dataclass(frozen=True, eq=False)
class RealSet:
    """Images of one class of a split, of the size that the run draws.

    Attributes:
      table: of the split.
      places: which of its records.
      config: how they are cut.
      groups: patient of each image; empty where the data do not say. Written nowhere.
    """

    table: Table
    places: tuple[int, ...]
    config: DataConfig
    groups: tuple[str, ...] = field(default=(), repr=False)

    def __len__(self) -> int:
        return len(self.places)

    def image(self, index: int) -> np.ndarray:
        """One image (h, w, c), ``uint8`` or ``uint16``."""
        return self._read("image", index)

    @property
    def outlined(self) -> bool:
        """Whether the data say where the lungs are."""
        return LUNGS in self.table.names

    def lungs(self, index: int) -> np.ndarray:
        """(h, w) bool, True in the lungs."""
        mask = self._read(LUNGS, index)
        return mask[..., 0] >= _CUT * (np.iinfo(mask.dtype).max // 255)

    def _read(self, column: str, index: int) -> np.ndarray:
        stored = self.table.select(column).images(self.places[index])
        return np.ascontiguousarray(evaluation_view(stored, self.config)[column])

    def images(self, chosen: Sequence[int] | None = None) -> Iterator[np.ndarray]:
        """Some images, or all, in order; read ahead in threads."""
        chosen = range(len(self)) if chosen is None else chosen
        with ThreadPoolExecutor(_THREADS) as pool:
            for part in parts(chosen, 8 * _THREADS):
                yield from pool.map(self.image, part)

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of all images in order, as decoded."""
        found = (hashlib.sha256(repr(i.shape).encode() + i.tobytes()).hexdigest() for i in self.images())
        return hashlib.sha256("\n".join(found).encode()).hexdigest()


def splits(run: Run, data: str | Path | None) -> tuple[str, str]:
    """Names of the split whose images are translated, and of the one that nothing is made of.

    Where the data have but one beside the training images, both are that one.

    Raises:
      UserError: data that are not there, or have training images alone.
    """
    config = located(run.config.data, data)
    try:
        present = sources.splits(config)
    except UserError as error:
        raise UserError(f"--workdirs {run.workdir}: {error}; if the data were moved, give --data=DIR") from error
    own = [name for name in ("val", "test") if name in present]
    if not own or "train" not in present:
        raise UserError(
            f"--workdirs {run.workdir}: its data have the splits {', '.join(present)}; train is needed, and val or "
            "test for images that the run has not seen"
        )
    return own[0], own[-1]


def open_split(run: Run, split: str, data: str | Path | None) -> dict[str, RealSet]:
    """The images of a split by class; headers are read.

    Args:
      run: whose data, and of which size.
      split: its name.
      data: where the data are now, if they were moved.

    Raises:
      UserError: images without classes, or with other channels than the run draws.
    """
    config = located(run.config.data, data)
    tables = sources.open_tables(dataclasses.replace(config, classes=(), views=()), split)
    table, where = table_for(tables, "records"), f"--workdirs {run.workdir}"
    if LABEL not in table.labels:
        raise UserError(
            f"{where}: the images of its {split} split have no classes, which the table is about; lay them out as "
            "{train,val,test}/CLASS/name.png, or give a CSV file with the column label, and name it with --data"
        )
    size, _, channels = run.image.shape
    for place in range(len(table)):
        if (found := table.header(place, "image").channels) != channels:
            raise UserError(f"{table.origin(place, 'image')}: has {found} channel(s), {run.name} draws {channels}")
    geometry = dataclasses.replace(config, load_size=config.load_size or size, crop_size=size)
    labels, groups = np.asarray(table.labels[LABEL]), getattr(table, "groups", ())
    known = {}
    for number, name in enumerate(class_names(table)):
        places = tuple(np.flatnonzero(labels == number).tolist())
        if places and (not config.classes or name in config.classes):
            patients = tuple(groups[i] for i in places) if groups and all(groups) else ()
            known[name] = RealSet(table, places, geometry, patients)
    return known


def features(real: RealSet, extractor: Extractor, settings: Settings, say: Callable[[str], None]) -> np.ndarray:
    """Features (n, d) of all images, through the cache of evaluations.

    Args:
      real: the images.
      extractor: what makes the features.
      settings: whether they are kept.
      say: told what happens to the cache.
    """
    folder = cache.directory() if settings.cache else None
    key = cache.key(real.digest, extractor.conditions)
    found = cache.load(folder, key, say) if folder else None
    if found is not None and len(found) == len(real):
        return found
    rows = FeatureRows(extractor)
    for places in parts(range(len(real)), extractor.batch):
        rows.add(places, np.stack([eight_bit(image) for image in real.images(places)]))
    if folder:
        cache.store(folder, key, rows.array(), say)
    return rows.array()


def spread(count: int, wanted: int) -> list[int]:
    """``wanted`` of ``count`` places, evenly spread; all where there are no more."""
    return [i * count // min(wanted, count) for i in range(min(wanted, count))]
