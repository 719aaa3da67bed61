"""What is measured of each image of a folder of counterfactuals, in one pass: residuals, spectra, inside, outside.

Three differences are measured alike: the ``residual``, |image - counterfactual|; the ``control``, |image - what came
back without guidance|; and ``subtracted``, the residual less the control, limited to what is not negative. Their
numbers are per pixel and in shares of the full range: |difference| / 2, averaged, for images span [-1, 1].
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

from medgen_jax.core.errors import UserError
from medgen_jax.data.counterfactual_folders import Arrays, CounterfactualFolder, Entry, read
from medgen_jax.evaluation.devices import OnDevices
from medgen_jax.metrics import boxes, masked, spectra
from medgen_jax.metrics.ssim import WINDOW

#: The three differences, and which arrays the sides of a comparison are.
MAPS = ("residual", "control", "subtracted")
SIDES = ("counterfactual", "control")
Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Method:
    """A folder of counterfactuals under the name of its row.

    Attributes:
      name: of the row.
      folder: as it was read.
    """

    name: str
    folder: CounterfactualFolder

    @property
    def entries(self) -> tuple[Entry, ...]:
        """Its images."""
        return self.folder.entries

    @property
    def targets(self) -> tuple[str | None, ...]:
        """The class under which each image was decoded."""
        return tuple(entry.target.get("label") for entry in self.entries)

    @property
    def target(self) -> str | None:
        """The one class under which all were decoded; None where it is not known or differs."""
        found = set(self.targets)
        return found.pop() if len(found) == 1 else None

    def column(self, name: str) -> tuple[str | None, ...]:
        """``label``, ``view`` or ``patient`` of each image."""
        return tuple(getattr(entry, name) for entry in self.entries)


def open_methods(paths: Sequence[str | Path]) -> list[Method]:
    """Folders under names that tell them apart: their own, with parents where two are called alike.

    Raises:
      UserError: no folder, one that is no folder of counterfactuals, is empty, or is given twice.
    """
    paths = [Path(path).expanduser() for path in paths if str(path).strip()]
    if not paths:
        raise UserError("--counterfactuals: names no folder; give OUT of python -m medgen_jax.counterfactual")
    full = [path.resolve() for path in paths]
    for path, own in zip(paths, full, strict=True):
        if full.count(own) > 1:
            raise UserError(f"--counterfactuals {path}: is given twice; every folder is one row")
    depth = next(
        n for n in range(1, 1 + max(len(p.parts) for p in full)) if len({p.parts[-n:] for p in full}) == len(full)
    )
    methods = [Method("/".join(own.parts[-depth:]), read(path)) for path, own in zip(paths, full, strict=True)]
    for method in methods:
        if not method.entries:
            raise UserError(
                f"{method.folder.path}: holds no image; make it again with python -m medgen_jax.counterfactual"
            )
    return methods


@dataclass(frozen=True)
class Measured:
    """What a pass found of n images, in the order of the entries.

    Attributes:
      method: whose they are.
      shapes: of each image.
      means: of `MAPS` -> (n,).
      bands: ``image`` and `SIDES` -> (n, 5) variance per band; NaN for images too small for a spectrum.
      rings: the same -> (n, rings) mean power per ring; None where images differ in size or are too small.
      parts: ``{side}_{difference|ssim}_{inside|outside}`` of `SIDES` -> (n,), NaN where an image has no such part.
      maps: place of an image whose boxes are known -> `MAPS` and ``image`` -> (h, w) float32, means over channels.
      masks: place -> (h, w) bool, the union of its boxes.
      digests: sha256 of each image, and of each counterfactual with its control, as hex.
    """

    method: Method
    shapes: tuple[Shape, ...]
    means: Mapping[str, np.ndarray]
    bands: Mapping[str, np.ndarray]
    rings: Mapping[str, np.ndarray] | None
    parts: Mapping[str, np.ndarray]
    maps: Mapping[int, Mapping[str, np.ndarray]]
    masks: Mapping[int, np.ndarray]
    digests: tuple[tuple[str, str], ...]

    @property
    def one_shape(self) -> Shape | None:
        """The size of all images, if it is one."""
        return self.shapes[0] if len(set(self.shapes)) == 1 else None


def box_mask(entry: Entry, size: tuple[int, int], where: str) -> np.ndarray:
    """(h, w) bool, the union of an entry's boxes.

    Raises:
      UserError: naming the image of a box that has no size or reaches outside.
    """
    own = boxes.padded_boxes([np.asarray(entry.boxes, np.float64)], [size], [f"{where}, image {entry.name}"])
    return np.asarray(boxes.box_masks(own, np.asarray([size]), size))[0]


Looked = Callable[[Sequence[int], Sequence[Arrays]], None]


def measure(method: Method, batch: int, look: Looked | None = None) -> Measured:
    """Measure every image of a folder; arrays of one size together.

    Args:
      method: the folder.
      batch: images per call, over all local devices.
      look: gets places and arrays of every batch as well, such as a classifier that is asked.

    Raises:
      UserError: arrays that are missing or damaged, a box outside its image.
    """
    run = OnDevices([lambda constants, *arrays: _rows(*arrays)], batch)
    count = len(method.entries)
    found: list[dict[str, np.ndarray]] = [{}] * count
    shapes: list[Shape] = [(0, 0, 0)] * count
    digests, maps, masks = [("", "")] * count, {}, {}
    for places, arrays in _batches(method, run.batch):
        regions = []
        for place, own in zip(places, arrays, strict=True):
            entry, shape = method.entries[place], own.image.shape
            shapes[place], digests[place] = shape, (_digest(own.image), _digest(own.counterfactual, own.control))
            regions.append(np.zeros(shape[:2], bool))
            if entry.boxes is not None:
                regions[-1] = masks[place] = box_mask(entry, shape[:2], str(method.folder.path))
                maps[place] = _maps(own)
        rows = jax.tree.map(np.asarray, run((), *map(np.stack, zip(*arrays, strict=True)), np.stack(regions)))
        for i, place in enumerate(places):
            found[place] = {name: values[i] for name, values in rows.items()}
        if look:
            look(places, arrays)
    return Measured(
        method,
        tuple(shapes),
        {name: _column(found, f"mean_{name}") for name in MAPS},
        {name: _column(found, f"bands_{name}", len(spectra.BANDS) + 1) for name in ("image", *SIDES)},
        _rings(found, shapes),
        {
            name: _column(found, name)
            for name in (f"{s}_{k}_{p}" for s in SIDES for k in ("difference", "ssim") for p in ("inside", "outside"))
        },
        maps,
        masks,
        tuple(digests),
    )


def _batches(method: Method, size: int) -> Iterator[tuple[list[int], list[Arrays]]]:
    """Places and arrays of images of one shape; each file is read once."""
    waiting: dict[Shape, list[tuple[int, Arrays]]] = {}
    for place, entry in enumerate(tqdm(method.entries, unit="image", desc=method.name, disable=None)):
        arrays = method.folder.arrays(entry)
        group = waiting.setdefault(arrays.image.shape, [])
        group.append((place, arrays))
        if len(group) == size:
            yield tuple(map(list, zip(*group, strict=True)))
            group.clear()
    yield from (tuple(map(list, zip(*group, strict=True))) for group in waiting.values() if group)


def _rows(image: jax.Array, counterfactual: jax.Array, control: jax.Array, region: jax.Array) -> dict[str, jax.Array]:
    """Numbers of each image, (b, ...)."""
    sides = {"counterfactual": counterfactual, "control": control}
    changed = {name: jnp.abs(image - side) / 2 for name, side in sides.items()}
    maps = {"residual": changed["counterfactual"], "control": changed["control"]}
    maps["subtracted"] = jnp.maximum(maps["residual"] - maps["control"], 0)
    rows = {f"mean_{name}": jnp.mean(values, axis=(1, 2, 3)) for name, values in maps.items()}
    if min(image.shape[1:3]) >= spectra.SMALLEST:
        for name, array in {"image": image, **sides}.items():
            rows[f"bands_{name}"] = spectra.band_power(array)
            rows[f"rings_{name}"] = spectra.radial_power_spectrum(array)
    for name, side in sides.items():
        for part, inside in (("inside", region), ("outside", ~region)):
            # An image without boxes has no outside either: there is nothing to compare it with.
            some = jnp.any(region, axis=(1, 2)) & jnp.any(inside, axis=(1, 2))
            weights = inside[..., None].astype(jnp.float32)
            total = jnp.maximum(jnp.sum(weights, axis=(1, 2, 3)) * image.shape[-1], 1)
            mean = jnp.sum(changed[name] * weights, axis=(1, 2, 3)) / total
            rows[f"{name}_difference_{part}"] = jnp.where(some, mean, jnp.nan)
            if min(image.shape[1:3]) >= WINDOW:
                (defined, ssim), _ = masked.masked_similarities(side, image, weights, 1)
                rows[f"{name}_ssim_{part}"] = jnp.where(some & defined, ssim, jnp.nan)
    return rows


def _maps(arrays: Arrays) -> dict[str, np.ndarray]:
    changed = (np.abs(arrays.residual), np.abs(arrays.control_residual), arrays.subtracted)
    return {name: values.mean(-1) / 2 for name, values in zip(MAPS, changed, strict=True)} | {
        "image": arrays.image.mean(-1)
    }


def _column(found: Sequence[Mapping[str, np.ndarray]], name: str, width: int | None = None) -> np.ndarray:
    missing = np.nan if width is None else np.full(width, np.nan)
    return np.asarray([row.get(name, missing) for row in found], np.float64)


def _rings(found: Sequence[Mapping[str, np.ndarray]], shapes: Sequence[Shape]) -> dict[str, np.ndarray] | None:
    if len({shape[:2] for shape in shapes}) > 1 or "rings_image" not in found[0]:
        return None
    return {name: _column(found, f"rings_{name}") for name in ("image", *SIDES)}


def _digest(*arrays: np.ndarray) -> str:
    digest = hashlib.sha256()
    for array in arrays:
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
