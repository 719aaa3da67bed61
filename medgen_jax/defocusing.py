"""Joins readers and optics: from a folder of in-focus images to a paired data set of blurred and sharp ones.

Every image b is blurred by distances drawn for it (`medgen_jax.ops.defocus`), so that sets which were only
taken in focus can train systems that restore focus:

    OUTPUT/{train,val,test}/A/NAME_z0.png    out of focus
    OUTPUT/{train,val,test}/B/NAME_z0.png    in focus, as it was read
    OUTPUT/defocus.csv                       split, name, z in metres
    OUTPUT/optics.json                       optics, range, noise, seed

What is drawn for an image depends on the seed, its split and its place there, on nothing else. Images are
read and written one at a time; an output without ``defocus.csv`` is one that was interrupted.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from medgen_jax import __version__
from medgen_jax.core.config import DataConfig, Layout
from medgen_jax.core.errors import UserError
from medgen_jax.core.rng import named
from medgen_jax.data import layouts, sources
from medgen_jax.data.images import is_image, write_image
from medgen_jax.data.listing import Listing
from medgen_jax.data.tables import FileTable, Table
from medgen_jax.engine.runtime import why_not_writable
from medgen_jax.engine.writers import write_json
from medgen_jax.ops import defocus
from medgen_jax.ops.defocus import Optics
from medgen_jax.ops.pupil import sampling_faults
from medgen_jax.ops.scale import from_unit, to_unit

DISTANCES, OPTICS = "defocus.csv", "optics.json"


@dataclass(frozen=True)
class Settings:
    """What is done to the images.

    Attributes:
      optics: the microscope that took them.
      z_range: smallest and largest |z|, m.
      per_image: blurred versions of each.
      seed: of distances and noise.
      full_well: electrons of a white pixel, for noise in the blurred images; None adds none.
      read_noise: electrons.

    Raises:
      UserError: for numbers that make no sense, and distances beyond what is computed.
    """

    optics: Optics
    z_range: tuple[float, float]
    per_image: int = 1
    seed: int = 0
    full_well: float | None = None
    read_noise: float = 0.0

    def __post_init__(self) -> None:
        if not 1 <= self.per_image <= 1000:
            raise UserError(f"per_image = {self.per_image}: between 1 and 1000 versions of each image")
        if not 0 <= self.seed < 2**31:
            raise UserError(f"seed = {self.seed}: must be at least 0 and below 2^31")
        if self.read_noise and self.full_well is None:
            raise UserError(f"read_noise = {self.read_noise}: needs full_well, the electrons of a white pixel")
        one = jax.ShapeDtypeStruct((1, 1, 1, len(self.optics.wavelength)), np.uint8)
        jax.eval_shape(functools.partial(_versions, settings=self), jax.random.key(0), one)


class Written(NamedTuple):
    """What has been written.

    Attributes:
      pairs: split -> how many.
      z: all distances, m.
    """

    pairs: dict[str, int]
    z: tuple[float, ...]


def warnings(optics: Optics) -> list[str]:
    """What the pixels do not sample, one sentence per wavelength and fault.

    Only the intensity matters here. Blur of undersampled images is right at all frequencies that they hold,
    but what aliasing has put there cannot be taken out.
    """
    faults = (sampling_faults(optics.pixel, wavelength, optics.na) for wavelength in optics.wavelength)
    return [fault for found in faults for fault in found if "incoherent" in fault]


def write_pairs(
    config: DataConfig,
    target: str | Path,
    settings: Settings,
    *,
    split: str = "train",
    done: Callable[[int, int], None] | None = None,
) -> Written:
    """Blur every in-focus image of a data set.

    Pairs and unpaired domains give their images b, other layouts all they have. Blurred images keep size,
    channels and bits, and are written as PNG beside an exact copy of the levels they were made from.

    Args:
      config: ``source`` is a folder, CSV file, prepared set or packaged name, or a folder of images without
        splits; ``layout`` and the declared range are as in training.
      target: folder that does not exist or is empty.
      settings: optics, distances, noise.
      split: where images without splits go.
      done: called with the number of images done and their total.

    Raises:
      UserError: for unreadable or unfitting images, a blur wider than they are, or a target that holds
        anything; before anything is written, except for damage that only decoding shows.
    """
    folder = Path(target).expanduser()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"--output {folder}: exists and is not empty; choose another folder or empty it")
    tables = _tables(config, split)
    names = {name: _names(table, name) for name, table in tables.items()}
    for table in tables.values():
        _check(table, settings)
    if reason := why_not_writable(folder, 0o755):
        raise UserError(f"--output {folder}: cannot be written ({reason}); choose another folder")
    write_json(folder / OPTICS, _about(settings))
    total, counted, rows = sum(map(len, tables.values())), 0, []
    for name, table in tables.items():
        for side in layouts.SIDES.values():
            (folder / name / side).mkdir(parents=True)
        for index, stem in enumerate(names[name]):
            for copy, (z, blurred, sharp) in enumerate(_blurred(table, index, name, settings)):
                file = f"{stem}_z{copy}.png"
                write_image(folder / name / "A" / file, blurred)
                write_image(folder / name / "B" / file, sharp)
                rows.append((name, file, z))
            counted += 1
            if done:
                done(counted, total)
    _write_distances(folder / DISTANCES, rows)
    return Written({name: len(table) * settings.per_image for name, table in tables.items()}, tuple(r[2] for r in rows))


# ---- blurring ------------------------------------------------------------------------------------


def _blurred(
    table: Table, index: int, split: str, settings: Settings
) -> Iterator[tuple[float, np.ndarray, np.ndarray]]:
    """z, blurred and sharp version of one image, as often as is wanted."""
    sharp = np.asarray(table.images(index)[table.names[0]])
    key = jax.random.fold_in(named(jax.random.key(settings.seed), split)[split], index)
    blurred, z = _versions(key, sharp[None], settings=settings)
    for image, distance in zip(np.asarray(blurred), np.asarray(z), strict=True):
        yield float(distance), image, sharp


@functools.partial(jax.jit, static_argnames="settings")
def _versions(key: jax.Array, sharp: jax.Array, settings: Settings) -> tuple[jax.Array, jax.Array]:
    """All versions of one image (1, h, w, c) in its own integers, and their z; compiled once per size."""
    keys = named(key, "z", "noise")
    focused = jnp.broadcast_to(to_unit(sharp), (settings.per_image, *sharp.shape[1:]))
    blurred, z = defocus.random_defocus(keys["z"], focused, settings.optics, settings.z_range)
    if settings.full_well is not None:
        blurred = defocus.camera_noise(keys["noise"], blurred, settings.full_well, settings.read_noise)
    return from_unit(blurred, sharp.dtype), z


# ---- reading -------------------------------------------------------------------------------------


def _tables(config: DataConfig, split: str) -> dict[str, Table]:
    """Split -> table of one column, the images in focus."""
    root = Path(config.source).expanduser()
    if config.layout is Layout.AUTO and config.source not in sources.PACKAGED and _is_plain(root):
        files = layouts.list_images(root, root)
        listing = Listing({"image": tuple(files[name] for name in sorted(files))}, ids=tuple(sorted(files)))
        return {split: FileTable(listing, view=sources.view(config))}
    return {name: _focused(config, name) for name in sources.splits(config)}


def _is_plain(root: Path) -> bool:
    """Whether a folder holds images itself, and no folder of a split."""
    if not root.is_dir() or not any(is_image(path) for path in root.iterdir() if not path.name.startswith(".")):
        return False
    return not any(layouts.present_splits(root, kind) for kind in (Layout.UNPAIRED, Layout.IMAGES))


def _focused(config: DataConfig, split: str) -> Table:
    if sources.locate(config)[1] is Layout.PREPARED:
        return _column(sources.open_tables(config, split))
    # Opened here and not by `open_tables`, which remembers images for the next epoch: there is none.
    listed = sources.list_tables(config, split)
    return _column({name: FileTable(listing, view=sources.view(config)) for name, listing in listed.items()})


def _column(tables: dict[str, Table]) -> Table:
    """The images in focus: b where there is one, else the only ones."""
    for name, column in (("pairs", "b"), ("b", "b"), ("records", "image")):
        if name in tables and column in tables[name].names:
            return tables[name].select(column)
    have = ", ".join(f"{name}: {', '.join(table.names)}" for name, table in tables.items())
    raise UserError(f"--input: has no images b and no single images (it has {have})")


def _names(table: Table, split: str) -> list[str]:
    """What the outputs of a split are called: ids whose slashes are folders become one word."""
    names = [table.record_id(i).replace("/", "_") for i in range(len(table))]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"--input: two images of split {split} would be written as {twice}; rename one of them")
    return names


def _check(table: Table, settings: Settings) -> None:
    """Every image fits the optics, known from headers."""
    (column,) = table.names
    radius = defocus.blur_radius(settings.optics, settings.z_range[1])
    for index in range(len(table)):
        header = table.header(index, column)
        try:
            settings.optics.check_channels(header.channels)
        except UserError as error:
            raise UserError(f"{table.origin(index, column)}: {error}") from error
        if 2 * radius > min(header.height, header.width):
            raise UserError(
                f"{table.origin(index, column)}: is {header.height}x{header.width} pixels, but a point at z = "
                f"{settings.z_range[1]:g} m is a disc of {2 * radius:.0f}; lower --z, or check --pixel and --na"
            )


# ---- writing -------------------------------------------------------------------------------------


def _about(settings: Settings) -> dict:
    facts = dataclasses.asdict(settings)
    low, high = facts.pop("z_range")
    faults = warnings(settings.optics)
    return {**facts.pop("optics"), "z_min": low, "z_max": high, **facts, "sampling": faults, "version": __version__}


def _write_distances(file: Path, rows: list[tuple[str, str, float]]) -> None:
    try:
        with file.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(("split", "name", "z"))
            writer.writerows((split, name, f"{z:.6e}") for split, name, z in rows)
    except OSError as error:
        raise UserError(f"{file}: cannot be written ({error.strerror or error}); choose another --output") from error
