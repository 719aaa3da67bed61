"""Which images there are to be, and what their files are called: known before anything is drawn."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from medgen_jax.core import manifest
from medgen_jax.core.errors import UserError
from medgen_jax.counterfactuals import inputs
from medgen_jax.counterfactuals.inputs import Case, Wanted
from medgen_jax.data import layouts
from medgen_jax.synthesis.runs import Run
from medgen_jax.synthesis.values import Classes
from medgen_jax.translation import outputs

_SUFFIX = ".png"


class Item(NamedTuple):
    """One image.

    Attributes:
      number: which of the seed's images; every image of a call has its own.
      file: where it goes, from the folder of the output.
      kind: place of its class among those that are drawn; None where the sampler is told none.
      source: place of the image it is made of among the sources; None of one that is made of noise.
    """

    number: int
    file: str
    kind: int | None = None
    source: int | None = None


class Sources(NamedTuple):
    """Images that others are made of.

    Attributes:
      names: of the outputs, without number.
      cases: how they are read, as the model takes them.
      sha256: of names and contents.
    """

    names: tuple[str, ...]
    cases: tuple[Case, ...]
    sha256: str


def numbered(count: int, classes: Classes) -> list[Item]:
    """Images 0, 1, ... of noise; of several classes each in turn, so that a longer list begins with a shorter one."""
    kinds = len(classes.labels)
    return [_item(number, f"{number:08d}", classes, number % kinds if kinds else None) for number in range(count)]


def of_sources(sources: Sources, per_input: int, classes: Classes) -> list[Item]:
    """``per_input`` images of every source, of every class: those of one source follow each other."""
    kinds: Sequence[int | None] = range(len(classes.labels)) or (None,)
    each = [
        (source, kind, place) for source in range(len(sources.names)) for kind in kinds for place in range(per_input)
    ]
    return [
        _item(number, f"{sources.names[source]}_{place:03d}", classes, kind, source)
        for number, (source, kind, place) in enumerate(each)
    ]


def find_sources(source: str | Path, run: Run) -> Sources:
    """An image, or the images of a folder, whose headers are read.

    Outputs are called by their sources, but those of DICOM files, whose names often identify patients, by a number.

    Raises:
      UserError: no images, some that the model does not take, or two that would be written to one name.
    """
    source = Path(source).expanduser()
    size, _, channels = run.image.shape
    cases = inputs.of_files(source, Wanted(run.name, size, channels, run.config.data))
    files = list(layouts.list_images(source).values()) if source.is_dir() else [source]
    names = [f"dicom_{i:05d}" if outputs.is_dicom(file) else file.stem for i, file in enumerate(files, 1)]
    if double := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"--input {source}: two images would be called {double[0]}; rename one of them")
    told = "\n".join(f"{file.name} {manifest.file_digest(file)}" for file in files)
    return Sources(tuple(names), tuple(cases), hashlib.sha256(told.encode()).hexdigest())


def _item(number: int, name: str, classes: Classes, kind: int | None, source: int | None = None) -> Item:
    within = f"{classes.folders[kind]}/" if kind is not None and classes.folders else ""
    return Item(number, f"{within}{name}{_SUFFIX}", kind, source)
