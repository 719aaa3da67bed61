"""The folder of results: counterfactuals written as they are made, continued where they stopped, and their page."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

import medgen_jax
from medgen_jax.core.errors import UserError
from medgen_jax.counterfactuals.inputs import Case
from medgen_jax.counterfactuals.made import Maker, Taken, entry, take
from medgen_jax.data import counterfactual_folders as folders
from medgen_jax.data.counterfactual_folders import CounterfactualFolder, Entry
from medgen_jax.viz.counterfactuals import Page, limit_of

#: Images per call, where nothing is said.
BATCH = 8
#: Scores of other settings that were overwritten.
ASIDE = "scores_before.json"
#: What of the settings may differ between calls that go on with one folder: it changes no array.
_SHOWN = ("subtract_control", "version")


def prepare(folder: Path, settings: Mapping[str, Any], overwrite: bool) -> dict[str, Entry]:
    """What an earlier call has left in the folder, by name; nothing of it is to be used when all is overwritten.

    Overwritten scores that are damaged or of other settings are set aside as `ASIDE`: no file mixes two settings.

    Raises:
      UserError: results of other settings that are not to be overwritten, or a folder that cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be made ({error.strerror})") from error
    if not (folder / folders.SCORES).is_file():
        return {}
    try:
        before = folders.read(folder)
    except UserError:
        if not overwrite:
            raise
        os.replace(folder / folders.SCORES, folder / ASIDE)
        return {}
    mine, theirs = ({k: v for k, v in each.items() if k not in _SHOWN} for each in (settings, before.settings))
    differ = [name for name in {**theirs, **mine} if theirs.get(name) != mine.get(name)]
    if differ and not overwrite:
        name = differ[0]
        raise UserError(
            f"--output {folder}: holds counterfactuals made with {name} = {theirs.get(name)}, not {mine.get(name)}; "
            "choose another folder, or add --overwrite"
        )
    if differ:
        os.replace(folder / folders.SCORES, folder / ASIDE)
    return {} if overwrite else {one.name: one for one in before.entries}


def write(
    maker: Maker,
    cases: Sequence[Case],
    folder: str | Path,
    *,
    batch: int | None = None,
    overwrite: bool = False,
    subtract_control: bool = False,
    say: Callable[[str], None] = lambda _: None,
) -> CounterfactualFolder:
    """Counterfactuals of all cases that the folder does not hold yet, then pictures and page of all it holds.

    After every call of the network the folder is whole: a call that was stopped is gone on with by the next.

    Args:
      maker: what makes them.
      cases: images, whose headers have been looked at.
      folder: see `medgen_jax.data.counterfactual_folders`; made when missing.
      batch: images per call; all calls have this size, so that nothing recompiles.
      overwrite: make anew what is there; latents that fit are used all the same.
      subtract_control: pictures of what guidance changed more than was lost without it.
      say: told, in a sentence each, what is not as one may expect.

    Raises:
      UserError: unreadable images, results of other settings, a place that cannot be written.
    """
    folder, size = Path(folder).expanduser(), min(batch or BATCH, len(cases))
    if size < 1:
        raise UserError(f"--batch = {batch}: must be at least 1")
    settings = {
        **maker.settings, "size": maker.wanted.size, "channels": maker.wanted.channels, "units": folders.UNITS,
        "subtract_control": subtract_control, "version": medgen_jax.__version__,
    }  # fmt: skip
    before = prepare(folder, settings, overwrite)
    for note in _resized(cases, maker):
        say(note)
    reused = encoded = 0
    with tqdm(total=len(cases), unit="image", disable=None) as bar:
        for kept, part in _batches(maker, cases, before, size, bar):
            made = maker.make(part, size)
            for taken, one in zip(part, made, strict=True):
                folders.write_arrays(folder, taken.case.name, one.arrays, one.deviation)
            entries = [entry(taken, one) for taken, one in zip(part, made, strict=True)]
            folders.write_scores(folder, settings, entries)
            reused, encoded = (reused + len(part), encoded) if kept else (reused, encoded + len(part))
            bar.update(len(part))
    done = len(cases) - reused - encoded
    if done:
        say(f"{done:,} of {len(cases):,} images were there already")
    if reused:
        say(f"{reused:,} latents kept before were used; only decoding was needed")
    for note in maker.notes():
        say(note)
    folders.write_scores(folder, settings, [])
    found = folders.read(folder)
    _pictures(found, {case.name: case.title for case in cases}, _resized(cases, maker))
    return found


def _batches(
    maker: Maker, cases: Sequence[Case], before: Mapping[str, Entry], size: int, bar: tqdm
) -> Iterator[tuple[bool, list[Taken]]]:
    """Images that are not done yet, those whose encoding is kept apart from the others; memory holds two batches."""
    waiting: dict[bool, list[Taken]] = {True: [], False: []}
    for case in cases:
        taken = take(case)
        if case.name in before and before[case.name].sha256 == taken.sha256:
            bar.update(1)
            continue
        kept = maker.ready(taken)
        waiting[kept].append(taken)
        if len(waiting[kept]) == size:
            yield kept, waiting[kept]
            waiting[kept] = []
    yield from ((kept, part) for kept, part in waiting.items() if part)


def _resized(cases: Sequence[Case], maker: Maker) -> list[str]:
    size = maker.wanted.size
    other = sorted({case.stored for case in cases if case.stored != (size, size)})
    if not other:
        return []
    count = sum(case.stored != (size, size) for case in cases)
    sizes = ", ".join(f"{height} x {width}" for height, width in other[:3]) + (" and others" if len(other) > 3 else "")
    return [
        f"{count:,} of {len(cases):,} images {'is' if count == 1 else 'are'} of {sizes} pixels and "
        f"{'was' if count == 1 else 'were'} resized to the model's {size} x {size}"
    ]


def _pictures(found: CounterfactualFolder, titles: Mapping[str, str], notes: Sequence[str]) -> None:
    """Pictures of every image under one scale, and the page."""
    limit = limit_of(found.arrays(one) for one in found.entries)
    page = Page(found.settings, limit, notes)
    names = itertools.count(1)
    for one in sorted(found.entries, key=lambda e: -e.numbers.get("round_trip_rms", 0.0)):
        number = next(names)
        title = titles.get(one.name, f"image {number}")
        deviation = folders.read_deviation(found.path, one.name)
        page.add(title, one, found.arrays(one), deviation, found.path / "pictures" / one.name)
    page.write(found.path / "index.html")
