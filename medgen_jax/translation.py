"""Joins readers, a loaded sampler and writers: images in, images of the same bit depth and format out."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from medgen_jax.core.errors import UserError
from medgen_jax.data import images, layouts
from medgen_jax.ops.scale import from_unit
from medgen_jax.ops.tiles import Grid, seam_score
from medgen_jax.sampling import LoadedSampler, load_sampler
from medgen_jax.tiled_sampling import BATCH, plan, sample_image


class Translated(NamedTuple):
    """One image done.

    Attributes:
      source, output: files.
      tiles: how many it was cut into; 1 when it was translated whole.
      seam_score: mean step at tile edges over the mean step elsewhere; 1 means no seams.
    """

    source: Path
    output: Path
    tiles: int
    seam_score: float


def translate(
    workdir: str | Path,
    source: str | Path,
    target: str | Path,
    *,
    sampler: str | None = None,
    which: str | int = "last",
    tile: int | None = None,
    overlap: int | None = None,
    batch: int = BATCH,
    overwrite: bool = False,
) -> list[Translated]:
    """Translate every image of a folder, or one file, of any size.

    Channels of all files are checked against the network from their headers before the first one is
    decoded. Images of the training size, or of another one that the network takes and that is not much
    larger, are translated whole, several at a time; all others in overlapping tiles that are blended
    (`medgen_jax.tiled_sampling`). Outputs keep name, bit depth and format of their inputs; JPEG, which
    would add its own artefacts, becomes PNG.

    Args:
      workdir, sampler, which: as in `load_sampler`.
      source: an image or a folder of images.
      target: folder for the outputs.
      tile, overlap: pixels; a given tile cuts every image. By default tiles are as large as the training images and
        overlap by a quarter.
      batch: images or tiles per call.
      overwrite: replace outputs that exist.

    Raises:
      UserError: unreadable or unfitting images, outputs that exist already.
    """
    if batch < 1:
        raise UserError(f"--batch = {batch}: must be at least 1")
    files = _list(Path(source).expanduser())
    folder = Path(target).expanduser()
    outputs = _outputs(files, folder, overwrite)
    model = load_sampler(workdir, sampler, which)
    headers = [images.read_header(f) for f in files]
    grids = _plan(model, files, headers, tile, overlap)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be made ({error.strerror})") from error

    done: dict[int, Translated] = {}
    with tqdm(total=sum(_tiles(g) for g in grids), unit="tile", disable=None) as bar:
        whole = [i for i, grid in enumerate(grids) if grid is None]
        for i, image in _whole(model, files, headers, whole, batch):
            images.write_image(outputs[i], image)
            done[i] = Translated(files[i], outputs[i], 1, 1.0)
            bar.update()
        for i, grid in enumerate(grids):
            if grid is not None:
                image = images.read_image(files[i])
                made = sample_image(model, image, grid, batch=batch, done=bar.update)
                images.write_image(outputs[i], np.asarray(from_unit(made, image.dtype)))
                done[i] = Translated(files[i], outputs[i], _tiles(grid), seam_score(made, grid))
    return [done[i] for i in range(len(files))]


def _tiles(grid: Grid | None) -> int:
    return 1 if grid is None else len(grid.corners)


def _whole(
    model: LoadedSampler, files: list[Path], headers: list[images.ImageHeader], chosen: list[int], batch: int
) -> Iterator[tuple[int, np.ndarray]]:
    """Images translated whole, batches of one size and type; short batches are padded, so nothing recompiles."""

    def kind(i: int) -> tuple[int, ...]:
        return tuple(headers[i])

    for _, group in itertools.groupby(sorted(chosen, key=kind), key=kind):
        for part in _batched(group, batch):
            stack = np.stack([images.read_image(files[i]) for i in part])
            padded = np.concatenate([stack, np.zeros((batch - len(stack), *stack.shape[1:]), stack.dtype)])
            yield from zip(part, np.asarray(from_unit(model({"image": padded}), stack.dtype)), strict=False)


def _batched(items: Iterable[int], size: int) -> Iterator[tuple[int, ...]]:
    """``itertools.batched``, which Python 3.11 lacks."""
    iterator = iter(items)
    while part := tuple(itertools.islice(iterator, size)):
        yield part


def _list(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"--input {source}: no such file or folder")
    found = layouts.list_images(source)
    if not found:
        raise UserError(f"--input {source}: holds no images ({', '.join(sorted(images.READERS))})")
    return [Path(f) for f in found.values()]


def _outputs(files: list[Path], folder: Path, overwrite: bool) -> list[Path]:
    outputs = [folder / (f.stem + (".png" if f.suffix.lower() in (".jpg", ".jpeg") else f.suffix)) for f in files]
    if len({o.name for o in outputs}) < len(outputs):
        raise UserError(f"--input: two images would be written to the same name in {folder}; rename one of them")
    for file, output in zip(files, outputs, strict=True):
        if output.exists() and output.samefile(file):
            raise UserError(f"--output {folder}: would replace the inputs; choose another folder")
        if output.exists() and not overwrite:
            raise UserError(f"{output}: exists already; choose another --output or add --overwrite")
    return outputs


def _plan(
    model: LoadedSampler, files: list[Path], headers: list[images.ImageHeader], tile: int | None, overlap: int | None
) -> list[Grid | None]:
    """A grid for every image, None for those translated whole; the network is traced once per distinct header."""
    plans: dict[images.ImageHeader, Grid | None] = {}
    for file, header in zip(files, headers, strict=True):
        if header not in plans:
            shape, dtype = (header.height, header.width, header.channels), f"uint{header.bits}"
            try:
                plans[header] = plan(model, shape, dtype, tile=tile, overlap=overlap)
            except UserError as error:
                raise UserError(f"{file}: {error}") from error
    return [plans[header] for header in headers]
