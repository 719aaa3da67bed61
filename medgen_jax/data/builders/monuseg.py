"""MoNuSeg: H&E regions of 1000x1000 pixels at 40x from several organs and hospitals, every nucleus outlined.

    SOURCE/MoNuSeg 2018 Training Data/Tissue Images/TCGA-*.tif    30 regions of 30 patients, and
    SOURCE/MoNuSeg 2018 Training Data/Annotations/TCGA-*.xml      their outlines
    SOURCE/MoNuSegTestData/TCGA-*.tif, TCGA-*.xml                 14 regions of other patients

Copies write ``Tissue_Images`` or ``MoNuSegTrainingData``, or repeat a folder inside itself; each part
may come in either form, and one part alone may be the source. Kumar et al., IEEE Transactions
on Medical Imaging 2017 and 2020; CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from medgen_jax.core.errors import UserError
from medgen_jax.data.builders.metadata import deal
from medgen_jax.data.fence import Fence
from medgen_jax.data.images import read_header
from medgen_jax.data.layouts import list_images
from medgen_jax.data.listing import Box, Listing

#: Largest file of outlines that is read; those of the set have up to 5 MB.
MAX_XML_BYTES = 1 << 26

_BARCODE = re.compile(r"(TCGA-[0-9A-Z]{2}-[0-9A-Z]{4})-.*")
_TREE = "'MoNuSeg 2018 Training Data'/{Tissue Images/*.tif,Annotations/*.xml} and MoNuSegTestData/{*.tif,*.xml}"
_DEPTH = 3  # folders between the source and a part


def open_source(source: Path, *, val_share: float = 0.2, split_seed: int = 0) -> dict[str, Listing]:
    """``train`` and ``val`` from the training part, by patient; ``test`` is the test part, where it is there.

    Records have the column ``image``, the boxes ``nuclei`` (bounding boxes of the outlines, cut at the
    edges of the image, which some outlines cross by a few pixels) and the value ``nuclei_count``.
    They are numbered: names of files are TCGA barcodes, whose first three parts are the patient.

    Args:
      source: as the module shows it.
      val_share: share of the training patients in ``val``; 0 leaves it out.
      split_seed: another one deals the patients anew.

    Raises:
      UserError: for a source without images, an image without outlines or the other way round, one
        that is there twice, a name that is no TCGA barcode, broken outlines, or a
        split without a patient.
    """
    source = Path(source)
    images: dict[str, dict[str, Path]] = {"train": {}, "test": {}}
    outlines: dict[str, Path] = {}
    for part in _parts(source):
        found, its_outlines = _files(part, source)
        split = _split_of(part.images, source)
        for name in found:
            if twice := images["train"].get(name) or images["test"].get(name):
                raise UserError(f"{found[name]}: is there twice, also as {twice}; keep one of the two")
        images[split] |= found
        outlines |= its_outlines
    listings = {split: _listing(found, outlines) for split, found in images.items() if found}
    if not listings:
        raise UserError(f"{source}: holds no images; expected {_TREE}")
    pool = listings.pop("train", None)
    return (deal(pool, val_share, 0.0, split_seed) if pool else {}) | listings


# ---- files ---------------------------------------------------------------------------------------


class _Part(NamedTuple):
    """A folder of images and that of their outlines."""

    images: Path
    annotations: Path


def _parts(folder: Path, depth: int = _DEPTH) -> Iterator[_Part]:
    """The parts at or below a folder, in the order of their names."""
    inside = sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []
    named = {path.name.casefold().replace("_", " "): path for path in inside}
    if "tissue images" in named:
        yield _Part(named["tissue images"], named.get("annotations", folder / "Annotations"))
    elif any(folder.glob("TCGA-*.tif")):
        yield _Part(folder, folder)
    elif depth:
        for path in inside:
            yield from _parts(path, depth - 1)


def _split_of(folder: Path, source: Path) -> str:
    """Test for folders that say so below the source, or when the source itself is one; otherwise train."""
    words = folder.relative_to(source).parts or (source.resolve().name,)
    return "test" if any("test" in word.casefold() for word in words) else "train"


def _files(part: _Part, source: Path) -> tuple[dict[str, Path], dict[str, Path]]:
    """Images and outlines of a part, by name.

    Raises:
      UserError: unless every image has outlines, and the other way round.
    """
    images = {name: file for name, file in list_images(part.images, source).items() if file.suffix.lower() == ".tif"}
    fence = Fence(source)
    outlines = {file.stem: file for file in sorted(part.annotations.glob("*.xml"))}
    if outside := [file for file in outlines.values() if fence.resolve(file, link=True) is None]:
        raise UserError(f"{outside[0]}: is a link out of {source}; copy the file to its place")
    if lonely := sorted(set(images) - set(outlines)):
        raise UserError(
            f"{part.annotations}: lacks the outlines of {len(lonely)} of {len(images)} images (first: {lonely[0]}.xml)"
        )
    if lonely := sorted(set(outlines) - set(images)):
        raise UserError(
            f"{part.images}: lacks the images of {len(lonely)} of {len(outlines)} outlines (first: {lonely[0]}.tif)"
        )
    return images, outlines


def _listing(images: dict[str, Path], outlines: dict[str, Path]) -> Listing:
    names = sorted(images)
    sizes = [read_header(images[name]) for name in names]
    boxes = [outline_boxes(outlines[name], size.width, size.height) for name, size in zip(names, sizes, strict=True)]
    return Listing(
        {"image": tuple(images[name] for name in names)},
        values={"nuclei_count": tuple(float(len(own)) for own in boxes)},
        boxes={"nuclei": tuple(boxes)},
        ids=tuple(f"region_{i:02d}" for i in range(1, len(names) + 1)),
        groups=tuple(_patient(images[name]) for name in names),
    )


def _patient(file: Path) -> str:
    match = _BARCODE.fullmatch(file.stem)
    if match is None:
        raise UserError(f"{file}: is not named by a TCGA barcode, such as TCGA-A7-A13E-01Z-00-DX1.tif")
    return match[1]


# ---- outlines ------------------------------------------------------------------------------------


def outline_boxes(file: Path, width: int, height: int) -> tuple[Box, ...]:
    """Bounding boxes of the outlines in an ImageScope annotation, in their order.

    Vertices are in pixels of the image, whose upper left corner is the origin. Outlines of holes
    (``NegativeROA``) and what lies outside the image altogether give no box.

    Args:
      file: XML: ``Annotations / Annotation / Regions / Region / Vertices / Vertex[X, Y]``.
      width: of the image; boxes are cut at its edges.
      height: of the image.

    Raises:
      UserError: for a file that is too large, is not such XML, declares a document type or
        entities, or has a vertex without numbers.
    """
    boxes = []
    for left, top, right, bottom in _extents(file):
        left, top, right, bottom = max(left, 0.0), max(top, 0.0), min(right, width), min(bottom, height)
        if left < right and top < bottom:
            boxes.append((left, top, right - left, bottom - top))
    return tuple(boxes)


class _Regions:
    """Receives the elements of an annotation one by one and keeps the extent of each outline."""

    def __init__(self) -> None:
        self.extents: list[list[float]] = []  # left, top, right, bottom
        self._depth, self._own = 0, False

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self._depth == 0 and name != "Annotations":
            raise ValueError(f"its first element is {name}, not Annotations")
        self._depth += 1
        if name == "Region":
            self._own = attributes.get("NegativeROA", "0") == "0"
            if self._own:
                self.extents.append([])
        elif name == "Vertex" and self._own:
            self._vertex(attributes)

    def end(self, name: str) -> None:
        self._depth -= 1
        self._own = self._own and name != "Region"

    def _vertex(self, attributes: dict[str, str]) -> None:
        try:
            x, y = float(attributes["X"]), float(attributes["Y"])
        except (KeyError, ValueError):
            x = y = float("nan")
        if not (abs(x) < 1e6 and abs(y) < 1e6):
            raise ValueError("a Vertex needs the numbers X and Y")
        own = self.extents[-1] or [x, y, x, y]
        self.extents[-1] = [min(own[0], x), min(own[1], y), max(own[2], x), max(own[3], y)]

    @staticmethod
    def refuse(*_: object) -> None:
        raise ValueError("it declares a document type, which annotations do not")


def _extents(file: Path) -> list[list[float]]:
    """Left, top, right and bottom of each outline that has vertices."""
    regions, parser = _Regions(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = regions.start, regions.end
    # Entities can be declared nowhere else; without them no few lines unfold into gigabytes.
    parser.StartDoctypeDeclHandler = regions.refuse
    try:
        if (size := file.stat().st_size) > MAX_XML_BYTES:
            raise UserError(f"{file}: has {size:,} bytes, more than the {MAX_XML_BYTES:,} that outlines may have")
        with file.open("rb") as stream:
            parser.ParseFile(stream)
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror or error})") from error
    except (ValueError, expat.ExpatError) as error:
        reason = expat.ErrorString(error.code) if isinstance(error, expat.ExpatError) else error
        line = parser.CurrentLineNumber
        raise UserError(f"{file}: line {line}: broken outlines ({reason}); download the file again") from error
    return [extent for extent in regions.extents if extent]
