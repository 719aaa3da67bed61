"""Joins readers, a loaded sampler and writers: images in, images of the same kind out, and a page about them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from medgen_jax.core.errors import UserError
from medgen_jax.data import images, layouts, sources
from medgen_jax.data.formats.dicom_write import Derivation
from medgen_jax.data.images import View
from medgen_jax.ops.tiles import Grid, seam_score
from medgen_jax.sampling import LoadedSampler, load_sampler
from medgen_jax.translation import batching, outputs, slides
from medgen_jax.translation.tiles import POOL_TILES, plan, sample_image
from medgen_jax.viz.translations import Gallery, Row

#: An image is at another scale than the training images when its side is so many times theirs, or they its.
OTHER_SCALE = 1.5
#: Jobs with their inputs, as read, and outputs in [-1, 1].
Made = Iterator[tuple["Job", np.ndarray, np.ndarray]]


class Translated(NamedTuple):
    """One image done.

    Attributes:
      source, output: files.
      tiles: how many it was cut into; 1 when it was translated whole.
      seam_score: mean step at tile edges over the mean step elsewhere; 1 means no seams.
      label: what logs and pages call it: names of DICOM files are often those of patients.
    """

    source: Path
    output: Path
    tiles: int
    seam_score: float
    label: str


class Job(NamedTuple):
    """One image to do.

    Attributes:
      number: counted from 1; that of a DICOM output within its series.
      source, output: files.
      header: of the input as it is read.
      grid: tiles; None when it is translated whole.
      is_slide: a whole slide, which is never in memory.
    """

    number: int
    source: Path
    output: Path
    header: images.ImageHeader
    grid: Grid | None
    is_slide: bool = False

    @property
    def tiles(self) -> int:
        """How many it is cut into."""
        return 1 if self.grid is None else len(self.grid.corners)

    @property
    def kind(self) -> tuple[int, ...]:
        """Shape and bits of what one call takes: images of one kind share a compiled call."""
        height, width, channels, bits = self.header
        if self.grid is not None:
            height = width = self.grid.tile
        return height, width, channels, bits

    @property
    def label(self) -> str:
        """See `Translated`."""
        return f"DICOM image {self.number}" if self.is_dicom else self.source.name

    @property
    def is_dicom(self) -> bool:
        """Whether it is read and written as DICOM."""
        return not self.is_slide and outputs.is_dicom(self.source)


@dataclass(frozen=True)
class SlideOptions:
    """How whole slides are translated; see `slides.translate_slide`."""

    level: int = 0
    compression: str = "deflate"
    every_tile: bool = False


_FULL_LEVEL = SlideOptions()


def translate(
    workdir: str | Path,
    source: str | Path,
    target: str | Path,
    *,
    sampler: str | None = None,
    which: str | int = "last",
    tile: int | None = None,
    overlap: int | None = None,
    batch: int | None = None,
    overwrite: bool = False,
    report: bool = True,
    slide_options: SlideOptions = _FULL_LEVEL,
    say: Callable[[str], None] = lambda _: None,
) -> list[Translated]:
    """Translate every image of a folder, or one file, of any size.

    Files are read as in training: with the run's declared range and window. All headers are checked
    against the network before the first image is decoded. Images of the training size, or of another
    one that the network takes and that is not much larger, are translated whole, several at a time; all
    others in overlapping tiles that are blended (`tiles`); whole slides are streamed into OME-TIFF (`slides`).
    Outputs are stored as their inputs are (`outputs`); DICOM becomes a derived DICOM that says it is synthetic,
    with new identifiers and without the patient's.

    Args:
      workdir, sampler, which: as in `load_sampler`.
      source: an image, a slide, or a folder of them.
      target: folder for the outputs.
      tile, overlap: pixels; a given tile cuts every image. By default tiles are as large as the training images and
        overlap by a quarter.
      batch: images or tiles per call; None: what fits into memory (`batching`).
      overwrite: replace outputs that exist.
      report: write ``report/index.html`` into ``target``.
      slide_options: level, compression, and whether tiles without tissue are translated.
      say: told, in a sentence each, what may make the outputs worse than the training; the page says it too.

    Raises:
      UserError: unreadable or unfitting images, outputs that exist already.
    """
    if batch is not None and batch < 1:
        raise UserError(f"--batch = {batch}: must be at least 1")
    files = _list(Path(source).expanduser())
    folder = Path(target).expanduser()
    made_of = _outputs(files, folder, overwrite)
    model = load_sampler(workdir, sampler, which)
    view = sources.view(model.config.data)
    jobs = _plan(model, files, made_of, view, tile, overlap, slide_options.level)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be made ({error.strerror})") from error

    doubts = _other_scale(model, jobs)
    for doubt in doubts:
        say(doubt)
    gallery, done, brightest = Gallery(), {}, 0
    series = Derivation(description=f"{model.system} {model.name}")

    def finish(job: Job, score: float, before: np.ndarray, after: np.ndarray) -> None:
        done[job.number] = Translated(job.source, job.output, job.tiles, score, job.label)
        height, width, channels, bits = job.header
        gallery.add(Row(job.label, (height, width, channels), bits, job.tiles, score), before, after)

    with tqdm(total=sum(job.tiles for job in jobs), unit="tile", disable=None) as bar:
        plain, scans = ([job for job in jobs if job.is_slide is kind] for kind in (False, True))
        for job, image, made in itertools.chain(
            _whole(model, plain, view, batch, bar), _tiled(model, plain, view, batch, bar)
        ):
            about = dataclasses.replace(series, number=job.number, source=job.source if job.is_dicom else None)
            outputs.write(job.output, made, job.source, view, about)
            brightest = max(brightest, int(image.max()) if job.header.bits == 16 else 0)
            finish(job, 1.0 if job.grid is None else seam_score(made, job.grid), image, made)
        for job in scans:
            size = batch or _tiles_per_call(model, [job])
            made = slides.translate_slide(
                model, job.source, job.output, tile=tile, overlap=overlap, batch=size, done=bar.update,
                **dataclasses.asdict(slide_options),
            )  # fmt: skip
            finish(job, made.seam_score, made.before, made.after)
    for doubt in (dark := _narrow(brightest, model, view)):
        say(doubt)
    if report:
        notes = (*doubts, *dark, *_how_to_read(jobs, slide_options))
        _report(gallery, folder, model, workdir, which, view, notes)
    return [done[job.number] for job in jobs]


def _whole(model: LoadedSampler, jobs: Sequence[Job], view: View, batch: int | None, bar: tqdm) -> Made:
    """Images translated whole, batches of one kind; short batches are padded, so nothing recompiles."""
    for kind, group in _by_kind(job for job in jobs if job.grid is None):
        size = batch or min(len(group), batching.images_per_call(model, kind[:3], f"uint{kind[3]}"))
        for part in _batched(group, size):
            stack = np.stack([images.read_image(job.source, view=view) for job in part])
            padded = np.concatenate([stack, np.zeros((size - len(stack), *stack.shape[1:]), stack.dtype)])
            yield from zip(part, stack, np.asarray(model({"image": padded})), strict=False)
            bar.update(len(part))


def _tiled(model: LoadedSampler, jobs: Sequence[Job], view: View, batch: int | None, bar: tqdm) -> Made:
    """Images translated in tiles, one after the other."""
    for _, group in _by_kind(job for job in jobs if job.grid is not None):
        size = batch or _tiles_per_call(model, group)
        for job in group:
            image = images.read_image(job.source, view=view)
            yield job, image, sample_image(model, image, job.grid, batch=size, done=bar.update)


def _tiles_per_call(model: LoadedSampler, jobs: Sequence[Job]) -> int:
    """Tiles that fit into memory, for jobs of one kind.

    Raises:
      UserError: when one does not fit, or not all of those that are to agree.
    """
    *shape, bits = jobs[0].kind
    most = max(job.tiles for job in jobs)
    batching.require_pool(model, min(most, POOL_TILES), tuple(shape), f"uint{bits}")
    return min(most, batching.images_per_call(model, tuple(shape), f"uint{bits}"))


def _by_kind(jobs: Iterable[Job]) -> Iterator[tuple[tuple[int, ...], list[Job]]]:
    """Jobs that share a compiled call, in their order."""
    for kind, group in itertools.groupby(sorted(jobs, key=lambda job: job.kind), key=lambda job: job.kind):
        yield kind, list(group)


def _batched(items: Iterable[Job], size: int) -> Iterator[tuple[Job, ...]]:
    """``itertools.batched``, which Python 3.11 lacks."""
    iterator = iter(items)
    while part := tuple(itertools.islice(iterator, size)):
        yield part


def _list(source: Path) -> list[Path]:
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise UserError(f"--input {source}: no such file or folder")
    visible = [path for path in sorted(source.iterdir()) if not path.name.startswith(".")]
    scans = [path for path in visible if slides.is_slide(path)]
    rest = set(visible) - set(scans)
    if scans and not any(images.is_image(path) for path in rest):
        return scans
    return [path for path in layouts.list_images(source).values() if path in rest] + scans


def _outputs(files: list[Path], folder: Path, overwrite: bool) -> list[Path]:
    made = [folder / (slides.output_name if slides.is_slide(f) else outputs.name_for)(f) for f in files]
    if len({o.name for o in made}) < len(made):
        raise UserError(f"--input: two images would be written to the same name in {folder}; rename one of them")
    for file, output in zip(files, made, strict=True):
        if output.exists() and output.samefile(file):
            raise UserError(f"--output {folder}: would replace the inputs; choose another folder")
        if output.exists() and not overwrite:
            raise UserError(f"{output}: exists already; choose another --output or add --overwrite")
    return made


def _plan(
    model: LoadedSampler, files: list[Path], made: list[Path], view: View, tile: int | None, overlap: int | None,
    level: int,
) -> list[Job]:  # fmt: skip
    """What is to be done; the network is traced once per distinct header."""
    plans: dict[images.ImageHeader, Grid | None] = {}
    jobs = []
    for number, (file, output) in enumerate(zip(files, made, strict=True), 1):
        if slides.is_slide(file):
            grid = slides.plan_slide(model, file, level=level, tile=tile, overlap=overlap)
            header = images.ImageHeader(grid.height, grid.width, 3, 8)
            jobs.append(Job(number, file, output, header, grid, is_slide=True))
            continue
        header = images.read_header(file, view)
        if header not in plans:
            shape, dtype = (header.height, header.width, header.channels), f"uint{header.bits}"
            try:
                plans[header] = plan(model, shape, dtype, tile=tile, overlap=overlap)
            except UserError as error:
                raise UserError(f"{file}: {error}") from error
        jobs.append(Job(number, file, output, header, plans[header]))
    return jobs


def _other_scale(model: LoadedSampler, jobs: Sequence[Job]) -> tuple[str, ...]:
    """That objects are larger or smaller than those the network learned, where training resized its images."""
    load = model.config.data.load_size
    sides = [side for job in jobs for side in job.header[:2]] if load else []
    if not sides or max(max(sides) / load, load / min(sides)) <= OTHER_SCALE:
        return ()
    seen = " to ".join(f"{side:,}" for side in sorted({min(sides), max(sides)}))
    return (
        f"training resized every image to {load} x {load} pixels (config.data.load_size); these have sides of {seen} "
        "and are translated at their own scale: where whole images were learned, resize them alike first",
    )


def _narrow(brightest: int, model: LoadedSampler, view: View) -> tuple[str, ...]:
    """That 16-bit images use the lower part of their levels only, for a network that learned from 8 bits."""
    if view.range is not None or model.config.data.bits == 16 or not 0 < brightest < 0x7FFF:
        return ()
    return (
        f"the brightest of all 16-bit samples is {brightest:,} of 65,535, so the network, which learned from 8-bit "
        "images, saw them dark: stretch them to the full range first, or train with config.data.range_high",
    )


def _how_to_read(jobs: Sequence[Job], slide_options: SlideOptions) -> Iterator[str]:
    if any(job.is_dicom for job in jobs):
        yield (
            "DICOM images are called by their number, the InstanceNumber of the output, because names of DICOM files "
            "often identify patients."
        )
    if any(job.is_slide for job in jobs) and not slide_options.every_tile:
        yield "Areas of slides without stained tissue are left blank; --every_tile translates them too."


def _report(
    gallery: Gallery, folder: Path, model: LoadedSampler, workdir: str | Path, which: str | int, view: View,
    notes: tuple[str, ...],
) -> Path:  # fmt: skip
    images_done = f"{len(gallery.rows):,}"
    facts = {"System": model.system, "Sampler": model.name, "Checkpoint": str(which), "Images": images_done}
    if view.range is not None:
        facts["Declared range"] = f"{view.range.low:g} to {view.range.high:g}".replace("-", "\u2212")
    title = Path(workdir).expanduser().absolute().name
    return gallery.write(folder / "report" / "index.html", title, facts, notes)
