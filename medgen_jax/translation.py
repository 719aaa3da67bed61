"""Joins readers, a loaded sampler and writers: images in, images of the same bit depth and format out."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from medgen_jax.core.errors import UserError
from medgen_jax.data import images, layouts
from medgen_jax.ops.scale import from_unit
from medgen_jax.sampling import LoadedSampler, load_sampler


def translate(
    workdir: str | Path,
    source: str | Path,
    target: str | Path,
    *,
    sampler: str | None = None,
    which: str | int = "last",
    batch: int = 4,
    overwrite: bool = False,
) -> int:
    """Translate every image of a folder, or one file.

    Sizes and channels of all files are checked against the network from their headers before the
    first one is decoded. Outputs keep name, bit depth and format of their inputs; JPEG, which would
    add its own artefacts, becomes PNG.

    Returns:
      How many images were written.

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
    _check(model, files, headers)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be made ({error.strerror})") from error

    def kind(i: int) -> tuple[int, ...]:
        return tuple(headers[i])

    convert = _converter(model)
    bar = tqdm(total=len(files), unit="image", disable=None)
    for _, group in itertools.groupby(sorted(range(len(files)), key=kind), key=kind):
        for part in _batched(group, batch):
            stack = np.stack([images.read_image(files[i]) for i in part])
            for i, image in zip(part, convert(stack, batch), strict=False):
                images.write_image(outputs[i], image)
                bar.update()
    bar.close()
    return len(files)


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


def _check(model: LoadedSampler, files: list[Path], headers: list[images.ImageHeader]) -> None:
    """Trace the network on every distinct size; nothing is computed."""
    for header in sorted(set(headers)):
        spec = jax.ShapeDtypeStruct((1, header.height, header.width, header.channels), f"uint{header.bits}")
        try:
            jax.eval_shape(model.function, model.variables, {"image": spec}, jax.random.key(0))
        except UserError as error:
            raise UserError(f"{files[headers.index(header)]}: {error}") from error


def _converter(model: LoadedSampler) -> Callable[[np.ndarray, int], np.ndarray]:
    """``(raw images, batch size) -> raw images``; short batches are padded, so nothing recompiles."""

    def convert(stack: np.ndarray, batch: int) -> np.ndarray:
        padded = np.concatenate([stack, np.zeros((batch - len(stack), *stack.shape[1:]), stack.dtype)])
        return np.asarray(from_unit(model({"image": padded}), stack.dtype))[: len(stack)]

    return convert
