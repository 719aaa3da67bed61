"""The images of a folder: listed, their headers read, their contents hashed; decoded one by one.

Feature networks see 8-bit RGB. Two rules make every image that: grey is repeated in three channels, and a 16-bit
value v becomes v / 257 rounded, so that 0 and 65535 become 0 and 255.
"""

from __future__ import annotations

import functools
import hashlib
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medgen_jax.core import manifest
from medgen_jax.core.errors import UserError
from medgen_jax.data import images, layouts
from medgen_jax.data.tables import read_headers

#: How `eight_bit` treats samples, as fingerprints say it.
QUANTISATION = "uint8; uint16 as round(v/257)"
_THREADS = 16
#: About so many 16-bit images of a folder are looked at for their highest level.
_SAMPLE = 16


def eight_bit(image: np.ndarray) -> np.ndarray:
    """An image (h, w, 1 or 3) or batch of images, uint8 or uint16, as uint8 with 3 channels."""
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return np.broadcast_to(image, (*image.shape[:-1], 3)) if image.shape[-1] == 1 else image


@dataclass(frozen=True)
class ImageSet:
    """Images of one folder in the order of their names.

    Attributes:
      flag: how messages call it, such as ``--real``.
      folder: where they lie.
      names: file names without suffix.
      files: the files.
      headers: size, channels and bits of each.
    """

    flag: str
    folder: Path
    names: tuple[str, ...]
    files: tuple[Path, ...]
    headers: tuple[images.ImageHeader, ...]

    @classmethod
    def open(cls, flag: str, folder: str | Path) -> ImageSet:
        """List a folder and read all headers.

        Raises:
          UserError: no such folder, none or unreadable images, two of one name.
        """
        folder = Path(folder).expanduser()
        if not folder.is_dir():
            raise UserError(f"{flag} {folder}: no such folder")
        try:
            found = layouts.list_images(folder)
        except OSError as error:
            raise UserError(f"{flag} {folder}: cannot be listed ({error.strerror}); check its permissions") from error
        names = tuple(sorted(found))
        files = tuple(found[name] for name in names)
        return cls(flag, folder, names, files, tuple(read_headers(files)))

    def __len__(self) -> int:
        return len(self.files)

    @functools.cached_property
    def digests(self) -> tuple[str, ...]:
        """sha256 of each file's bytes."""
        with ThreadPoolExecutor(_THREADS) as pool:
            return tuple(pool.map(manifest.file_digest, self.files))

    @functools.cached_property
    def digest(self) -> str:
        """sha256 of the contents in order, whatever the files are called."""
        return hashlib.sha256("\n".join(self.digests).encode()).hexdigest()

    def image(self, index: int) -> np.ndarray:
        """One image as stored, HWC."""
        return images.read_image(self.files[index])

    def groups(self) -> dict[tuple[int, int], list[int]]:
        """Indices of the images of each size (height, width)."""
        found: dict[tuple[int, int], list[int]] = {}
        for index, header in enumerate(self.headers):
            found.setdefault((header.height, header.width), []).append(index)
        return found

    def warnings(self) -> list[str]:
        """What about the files shifts a number without saying anything about the images."""
        lossy = sum(f.suffix.lower() in (".jpg", ".jpeg") for f in self.files)
        sizes, bits = len(self.groups()), Counter(h.bits for h in self.headers)
        said = []
        if lossy:
            said.append(
                f"{self.flag}: {lossy} of {len(self)} files are JPEG: compression artefacts count as image content"
            )
        if sizes > 1:
            said.append(f"{self.flag}: the images have {sizes} different sizes, each resized by its own factor")
        if len(bits) > 1:
            said.append(f"{self.flag}: {bits[8]} images have 8 bits and {bits[16]} have 16; 16 bits are rounded to 8")
        if 0 < (brightest := self._brightest()) < 0x7FFF:
            said.append(
                f"{self.flag}: the brightest 16-bit sample found is {brightest:,} of 65,535; all numbers take the full "
                "range for the range of the images, so errors look small: stretch all folders alike first"
            )
        return said

    def _brightest(self) -> int:
        """The highest level in some of the 16-bit images, evenly over the set; 0 without any."""
        deep = [index for index, header in enumerate(self.headers) if header.bits == 16]
        chosen = deep[:: max(1, len(deep) // _SAMPLE)]
        return max((int(self.image(index).max()) for index in chosen), default=0)


def require_matched(real: ImageSet, fake: ImageSet) -> None:
    """Refuse two sets whose images are not pairs: one name, one size, channels and bits on both sides.

    Raises:
      UserError: with the number of images without a partner, or naming the first pair that differs.
    """
    lonely = sorted(set(real.names) ^ set(fake.names))
    if lonely:
        first = ", ".join(f"{(real if name in real.names else fake).flag} {name}" for name in lonely[:3])
        raise UserError(
            f"{real.flag} has {len(real)} and {fake.flag} {len(fake)} images, {len(lonely)} without a partner of the "
            f"same name (first: {first}); paired metrics compare image by image: rename, or leave those metrics out"
        )
    for i, (a, b) in enumerate(zip(real.headers, fake.headers, strict=True)):
        if a != b:
            raise UserError(f"{fake.files[i]}: has {b}, its partner in {real.flag} {a}; paired metrics need them alike")


def share_of_copies(real: Sequence[str], fake: Sequence[str]) -> int:
    """How many files of ``fake`` have the same bytes as one of ``real``, from their digests."""
    known = set(real)
    return sum(digest in known for digest in fake)
