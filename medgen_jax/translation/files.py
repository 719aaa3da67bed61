"""Joins readers, a loaded sampler and writers: images in, images of the same kind out, and a page about them."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from medgen_jax.core.errors import UserError, listed
from medgen_jax.data import images, sources
from medgen_jax.data.formats.dicom_write import Derivation
from medgen_jax.data.images import View
from medgen_jax.ops.tiles import Grid, seam_score
from medgen_jax.sampling import LoadedSampler
from medgen_jax.translation import batching, inputs, outputs, slides, tissue, translator
from medgen_jax.translation.clock import Clock
from medgen_jax.translation.inputs import Work
from medgen_jax.translation.tiles import POOL_TILES, agreed, attempt, plan, sample_image
from medgen_jax.translation.translator import Translator
from medgen_jax.viz.translations import Gallery, Row

#: An image is at another scale than the training images when its side is so many times theirs, or they its.
OTHER_SCALE = 1.5
#: Jobs with their inputs, as read, outputs in [-1, 1], and whether those could be made.
Made = Iterator[tuple["Job", np.ndarray, np.ndarray, bool]]
#: Files that a note names before it only counts.
_NAMED = 5


class Translated(NamedTuple):
    """One image done.

    Attributes:
      source, output: files.
      tiles: how many it was cut into; 1 when it was translated whole.
      seam_score: mean step at tile edges over the mean step elsewhere; 1 means no seams.
      label: what logs and pages call it: names of DICOM files are often those of patients.
      ok: False when the output is the input, because the sampler found nothing in it to go by.
    """

    source: Path
    output: Path
    tiles: int
    seam_score: float
    label: str
    ok: bool = True


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


def translate_run(
    workdir: str | Path,
    source: str | Path,
    target: str | Path,
    *,
    sampler: str | None = None,
    which: str | int = "last",
    constants: Mapping[str, str] = MappingProxyType({}),
    overwrite: bool = False,
    **options: Any,
) -> list[Translated]:
    """`translate` with a sampler of a run, which is loaded once it is known that there is something to do.

    Args:
      workdir, sampler, which, constants: as in `translator.of_run`.
      source, target, overwrite: as in `inputs.find`.
      options: of `translate`.

    Raises:
      UserError: as all of these.
    """
    work = inputs.find(source, target, overwrite)
    return translate(translator.of_run(workdir, sampler, which, constants), work, **options)


def translate(
    chosen: Translator,
    work: Work,
    *,
    tile: int | None = None,
    overlap: int | None = None,
    batch: int | None = None,
    report: bool = True,
    slide_options: SlideOptions = _FULL_LEVEL,
    say: Callable[[str], None] = lambda _: None,
    clock: Clock | None = None,
) -> list[Translated]:
    """Translate images and slides of any size.

    Files are read as in training: with the run's declared range and window. All headers are checked
    against the network before the first image is decoded. Images of the training size, or of another
    one that the network takes and that is not much larger, are translated whole, several at a time; all
    others in overlapping tiles that are blended (`tiles`); whole slides are streamed into OME-TIFF (`slides`).
    Outputs are stored as their inputs are (`outputs`); DICOM becomes a derived DICOM that says it is synthetic,
    with new identifiers and without the patient's.

    Args:
      chosen: what is applied.
      work: to what; see `inputs.find`.
      tile, overlap: pixels; a given tile cuts every image. By default tiles are as large as the training images and
        overlap by a quarter.
      batch: images or tiles per call; None: what fits into memory (`batching`).
      report: write ``report/index.html`` into the folder of the outputs.
      slide_options: level, compression, and whether tiles without tissue are translated.
      say: told, in a sentence each, what may make the outputs worse than the training, and which images were
        copied; the page says it too.
      clock: counts the time that goes into reading and writing.

    Raises:
      UserError: unreadable or unfitting images, a place that cannot be written.
    """
    if batch is not None and batch < 1:
        raise UserError(f"--batch = {batch}: must be at least 1")
    model, folder, clock = chosen.model, work.folder, clock or Clock()
    view = sources.view(model.config.data)
    jobs = _plan(chosen, work, view, tile, chosen.overlap if overlap is None else overlap, slide_options.level)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be made ({error.strerror})") from error

    doubts = _other_scale(model, jobs)
    for doubt in doubts:
        say(doubt)
    gallery, done, brightest = Gallery(), {}, 0
    series = Derivation(description=f"{model.system} {model.name}")

    def finish(job: Job, score: float, before: np.ndarray, after: np.ndarray, ok: bool) -> None:
        done[job.number] = Translated(job.source, job.output, job.tiles, score, job.label, ok)
        height, width, channels, bits = job.header
        gallery.add(Row(job.label, (height, width, channels), bits, job.tiles, score), before, after)

    with tqdm(total=sum(job.tiles for job in jobs), unit="tile", disable=None) as bar:
        plain, scans = ([job for job in jobs if job.is_slide is kind] for kind in (False, True))
        for job, image, made, ok in itertools.chain(
            _whole(model, plain, view, batch, bar, clock), _tiled(chosen, plain, view, batch, bar, clock)
        ):
            about = dataclasses.replace(series, number=job.number, source=job.source if job.is_dicom else None)
            with clock.files():
                outputs.write(job.output, made, job.source, view, about)
            brightest = max(brightest, int(image.max()) if job.header.bits == 16 else 0)
            finish(job, 1.0 if job.grid is None else seam_score(made, job.grid), image, made, ok)
        for job in scans:
            size = batch or _tiles_per_call(model, [job])
            made = slides.translate_slide(
                model, job.source, job.output, tile=job.grid.tile, overlap=job.grid.overlap, batch=size,
                needs_tissue=chosen.needs_tissue, origin=chosen.origin, done=bar.update, clock=clock,
                **dataclasses.asdict(slide_options),
            )  # fmt: skip
            finish(job, made.seam_score, made.before, made.after, made.ok)
    late = (*_narrow(brightest, chosen, view), *_copied([done[job.number] for job in jobs]))
    for doubt in late:
        say(doubt)
    if report:
        notes = (*doubts, *late, *_how_to_read(jobs, slide_options))
        _report(gallery, folder, chosen, view, notes)
    return [done[job.number] for job in jobs]


def _whole(model: LoadedSampler, jobs: Sequence[Job], view: View, batch: int | None, bar: tqdm, clock: Clock) -> Made:
    """Images translated whole, batches of one kind; short batches are padded, so nothing recompiles."""
    for kind, group in _by_kind(job for job in jobs if job.grid is None):
        size = batch or min(len(group), batching.images_per_call(model, kind[:3], f"uint{kind[3]}"))
        for part in _batched(group, size):
            with clock.files():
                stack = np.stack([images.read_image(job.source, view=view) for job in part])
            padded = np.concatenate([stack, np.zeros((size - len(stack), *stack.shape[1:]), stack.dtype)])
            made, ok = map(np.asarray, attempt(model, model.variables, padded))
            yield from zip(part, stack, made, map(bool, ok), strict=False)
            bar.update(len(part))


def _tiled(chosen: Translator, jobs: Sequence[Job], view: View, batch: int | None, bar: tqdm, clock: Clock) -> Made:
    """Images translated in tiles, one after the other."""
    copies = 0

    def count(tiles: int) -> None:
        nonlocal copies
        copies += tiles

    for _, group in _by_kind(job for job in jobs if job.grid is not None):
        size = batch or _tiles_per_call(chosen.model, group)
        for job in group:
            with clock.files():
                image = images.read_image(job.source, view=view)
            copies, grid = 0, job.grid
            seen = tissue.with_tissue(grid, tissue.reduced(image, grid)) if chosen.needs_tissue else ()
            made = sample_image(chosen.model, image, grid, batch=size, seen=seen, done=bar.update, copied=count)
            yield job, image, made, copies < job.tiles


def _tiles_per_call(model: LoadedSampler, jobs: Sequence[Job]) -> int:
    """Tiles that fit into memory, for jobs of one kind.

    Raises:
      UserError: when one does not fit, or not all of those that are to agree.
    """
    *shape, bits = jobs[0].kind
    most, dtype = max(job.tiles for job in jobs), f"uint{bits}"
    pooled = min(most, POOL_TILES)
    batching.require_pool(model, pooled, tuple(shape), dtype)
    return min(most, batching.images_per_call(agreed(model, pooled, tuple(shape), dtype), tuple(shape), dtype))


def _by_kind(jobs: Iterable[Job]) -> Iterator[tuple[tuple[int, ...], list[Job]]]:
    """Jobs that share a compiled call, in their order."""
    for kind, group in itertools.groupby(sorted(jobs, key=lambda job: job.kind), key=lambda job: job.kind):
        yield kind, list(group)


def _batched(items: Iterable[Job], size: int) -> Iterator[tuple[Job, ...]]:
    """``itertools.batched``, which Python 3.11 lacks."""
    iterator = iter(items)
    while part := tuple(itertools.islice(iterator, size)):
        yield part


def _plan(chosen: Translator, work: Work, view: View, tile: int | None, overlap: int | None, level: int) -> list[Job]:
    """What is to be done; the network is traced once per distinct header."""
    plans: dict[images.ImageHeader, Grid | None] = {}
    jobs = []
    for number, (file, output) in enumerate(zip(work.sources, work.outputs, strict=True), 1):
        if slides.is_slide(file):
            grid = slides.plan_slide(chosen.model, file, level=level, tile=tile, overlap=overlap)
            header = images.ImageHeader(grid.height, grid.width, 3, 8)
            jobs.append(Job(number, file, output, header, grid, is_slide=True))
            continue
        header = images.read_header(file, view)
        if header not in plans:
            shape, dtype = (header.height, header.width, header.channels), f"uint{header.bits}"
            cut = {"tile": tile, "overlap": overlap, "whole_areas": chosen.whole_areas}
            try:
                plans[header] = plan(chosen.model, shape, dtype, **cut)
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


def _narrow(brightest: int, chosen: Translator, view: View) -> tuple[str, ...]:
    """That 16-bit images use the lower part of their levels only, for a network that learned from 8 bits."""
    if view.range is not None or chosen.model.config.data.bits == 16 or not 0 < brightest < 0x7FFF:
        return ()
    return (f"the brightest of all 16-bit samples is {brightest:,} of 65,535, so {chosen.dark}",)


def _copied(done: Sequence[Translated]) -> tuple[str, ...]:
    """Which images show nothing to go by."""
    copies = [one.label for one in done if not one.ok]
    if not copies:
        return ()
    named = listed(copies, _NAMED)
    few = len(copies) == 1
    return (
        f"{len(copies):,} of {len(done):,} image{'s' if len(done) > 1 else ''} {'shows' if few else 'show'} too little "
        f"tissue and {'was' if few else 'were'} copied: {named}",
    )


def _how_to_read(jobs: Sequence[Job], slide_options: SlideOptions) -> Iterator[str]:
    if any(job.is_dicom for job in jobs):
        yield (
            "DICOM images are called by their number, the InstanceNumber of the output, because names of DICOM files "
            "often identify patients."
        )
    if any(job.is_slide for job in jobs) and not slide_options.every_tile:
        yield "Areas of slides without stained tissue are left blank; --every_tile translates them too."


def _report(gallery: Gallery, folder: Path, chosen: Translator, view: View, notes: tuple[str, ...]) -> Path:
    facts = {**chosen.facts, "Images": f"{len(gallery.rows):,}"}
    if view.range is not None:
        facts["Declared range"] = f"{view.range.low:g} to {view.range.high:g}".replace("-", "\u2212")
    return gallery.write(folder / "report" / "index.html", chosen.title, facts, notes, chosen.kind)
