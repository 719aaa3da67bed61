"""The look that images are to take on: measured in an image, a folder or a slide, or read from a file of its own."""

from __future__ import annotations

import os
import uuid
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from medgen_jax import stain
from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError, listed
from medgen_jax.data import images, sources
from medgen_jax.ops.tiles import Grid
from medgen_jax.translation import inputs, outputs, slides, tissue
from medgen_jax.translation.normalizers import TILE, WHOLE_AREAS
from medgen_jax.translation.tiles import POOL_TILES, spread

PyTree = Any

#: Marks a file of `save`; another number where the looks of a method come to mean something else.
_FORMAT, _VERSION = "medgen_jax stain target", 1
_MOST_BYTES = 1 << 20
_SUFFIX = ".npz"
_NAMED = 5


def label(path: str | Path) -> str:
    """What pages call a target: its name, unless that may be a patient's."""
    path = Path(path).expanduser()
    is_dicom = path.is_file() and path.suffix != _SUFFIX and not slides.is_slide(path) and outputs.is_dicom(path)
    return "a DICOM image" if is_dicom else path.absolute().name


def of(
    method: str,
    path: str | Path,
    *,
    level: int = 0,
    data: DataConfig | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> PyTree:
    """The look of a target, as `medgen_jax.stain` methods take it.

    Images of a folder count alike, whatever their size. A slide, and an image too large to be measured whole, is
    measured in tiles of its tissue. Memory holds one image, or `POOL_TILES` tiles.

    Args:
      method: one of `medgen_jax.stain.METHODS`.
      path: an image, a slide, a folder of them, or a file of `save`.
      level: of slides, or their last one where they have fewer.
      data: how values become levels where samples are not 8 or 16 bits.
      say: told which images of a folder show too little tissue to count.

    Raises:
      UserError: naming what is missing, grey or not tissue; also as `load`.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() == _SUFFIX:
        return load(method, path)
    files = inputs.listed(path, "--target")
    view = sources.view(data or DataConfig())
    for file in files:
        if not slides.is_slide(file) and (channels := images.read_header(file, view).channels) != 3:
            raise UserError(f"--target {file}: has {channels} channel; stains have colours: give an RGB image")
    module = stain.load(method)
    measure, pool = jax.jit(module.measure), jax.jit(module.pool)

    def look(file: Path) -> PyTree:
        each = [measure(_unit(tile)[None]) for tile in _tiles(file, level, view)]
        return pool(jax.tree.map(lambda *x: np.concatenate(x), *each)) if each else None

    looks = [(file, look(file)) for file in files]
    fine = [one for _, one in looks if one is not None and one.ok]
    if not fine:
        raise UserError(f"--target {path}: shows too little stained tissue for {method}; choose one with more of it")
    if blank := [file.name for file, one in looks if one is None or not one.ok]:
        named = listed(blank, _NAMED)
        say(f"of the target, {len(blank):,} of {len(files):,} images show too little tissue and do not count: {named}")
    return pool(jax.tree.map(lambda *x: np.stack(x), *fine))


def check_name(path: str | Path, overwrite: bool = False) -> Path:
    """The place for `save`.

    Raises:
      UserError: another suffix than .npz, a file that exists, a folder that does not.
    """
    path = Path(path).expanduser()
    if path.suffix.lower() != _SUFFIX:
        raise UserError(f"--save_target {path}: targets are stored as {_SUFFIX}; name it {path.stem}{_SUFFIX}")
    if not path.parent.is_dir():
        raise UserError(f"--save_target {path}: no such folder; make it first")
    if path.exists() and not overwrite:
        raise UserError(f"--save_target {path}: exists already; choose another name or add --overwrite")
    return path


def save(method: str, look: PyTree, path: Path) -> None:
    """Write a target to a file that `load` reads, whole or not at all; it holds a few numbers and no pixels."""
    scratch = path.with_name(f".{uuid.uuid4().hex}.part")
    fields = {name: np.asarray(value) for name, value in look._asdict().items()}
    try:
        with scratch.open("xb") as stream:
            np.savez(stream, format=_FORMAT, version=_VERSION, method=method, **fields)
        os.replace(scratch, path)
    except OSError as error:
        raise UserError(f"--save_target {path}: cannot be written ({error.strerror})") from error
    finally:
        scratch.unlink(missing_ok=True)


def load(method: str, path: Path) -> PyTree:
    """The look that `save` wrote.

    Raises:
      UserError: a file of something else, of another method or version, or with numbers that cannot be.
    """
    stored = _stored(path)
    found = {name: str(stored.pop(name, "")) for name in ("format", "version", "method")}
    if found["format"] != _FORMAT:
        raise UserError(f"--target {path}: was not written by --save_target; images are given as PNG or TIFF")
    if found["version"] != str(_VERSION):
        raise UserError(f"--target {path}: has version {found['version']}, this program reads {_VERSION}; fit it again")
    if found["method"] != method:
        raise UserError(f"--target {path}: is a target of {found['method']}, not of {method}; change --method")
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), np.float32)
    wanted = jax.eval_shape(stain.load(method).fit, image)
    shapes = {name: (value.shape, value.dtype) for name, value in wanted._asdict().items()}
    if {name: (value.shape, value.dtype) for name, value in stored.items()} != shapes:
        raise UserError(f"--target {path}: does not hold what {method} needs; fit it again with --save_target")
    if not all(np.isfinite(value).all() for value in stored.values()) or not stored["ok"]:
        raise UserError(f"--target {path}: holds numbers that no tissue has; fit it again with --save_target")
    return type(wanted)(**stored)


def _stored(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"--target {path}: no such file or folder")
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > _MOST_BYTES:
            raise UserError(
                f"--target {path}: holds {size:,} bytes, more than a target has; give a file of --save_target"
            )
        with np.load(path, allow_pickle=False) as file:
            return dict(file)
    # The reader raises nearly every type on damaged files.
    except (OSError, ValueError, zipfile.BadZipFile, EOFError, KeyError) as error:
        raise UserError(f"--target {path}: cannot be read; fit it again with --save_target") from error


def _tiles(file: Path, level: int, view: images.View) -> list[np.ndarray]:
    """What is measured of a target: all of it, or tiles of its tissue; (h, w, 3) uint8 or uint16."""
    if slides.is_slide(file):
        return slides.tissue_tiles(file, POOL_TILES, level=level, tile=TILE)
    image = images.read_image(file, view=view)
    height, width, _ = image.shape
    if height * width <= WHOLE_AREAS * TILE**2:
        return [image]
    grid = Grid(height, width, TILE, 0)
    corners = tissue.with_tissue(grid, tissue.reduced(image, grid))
    return [grid.cut(image, *corner) for corner in spread(corners, POOL_TILES)]


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.iinfo(image.dtype).max
