"""A walk through the codes of a generator: from the code of image 0 to those of the next, and back to the first."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.synthesis import folder, png

#: Images whose codes are passed.
STOPS = 6
#: Milliseconds that a frame is shown.
_FRAME = 80
#: Directions this near to each other, or opposite, have no arc between them.
_NO_ARC = 1e-6


def spherical(start: np.ndarray, end: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Codes on the arc between two (Shoemake 1985, section 3.3): as long as their ends, as codes of N(0, 1) are.

    Args:
      start, end: (n,).
      shares: (k,) of the way from one to the other.

    Returns:
      (k, n) float64; a straight line where there is no arc.
    """
    start, end = np.asarray(start, np.float64), np.asarray(end, np.float64)
    lengths = np.linalg.norm(start) * np.linalg.norm(end)
    angle = np.arccos(np.clip(start @ end / lengths, -1, 1)) if lengths else 0.0
    share = np.asarray(shares, np.float64)[:, None]
    if np.sin(angle) < _NO_ARC:
        return (1 - share) * start[None] + share * end[None]
    return (np.sin((1 - share) * angle) * start[None] + np.sin(share * angle) * end[None]) / np.sin(angle)


def path_through(stops: np.ndarray, frames: int) -> np.ndarray:
    """Codes of evenly spaced frames on the closed way through all stops.

    Args:
      stops: (s, n) codes.
      frames: how many; where they are a multiple of the stops, every stop is one.

    Returns:
      (frames, n) float32; the frame after the last would be the first again.
    """
    places = np.arange(frames) * len(stops) / frames
    legs = places.astype(int)
    codes = [
        spherical(stops[leg], stops[(leg + 1) % len(stops)], np.array([place - leg]))
        for leg, place in zip(legs, places, strict=True)
    ]
    return np.concatenate(codes).astype(np.float32)


def check_name(name: str | Path, overwrite: bool) -> Path:
    """The place for a walk.

    Raises:
      UserError: another suffix than .gif, a file of something else that is not to be overwritten, a folder that does
        not exist.
    """
    path = Path(name).expanduser()
    if path.suffix.lower() != ".gif":
        raise UserError(f"--walk {path}: walks are written as GIF; name it {path.stem}.gif")
    if not path.parent.is_dir():
        raise UserError(f"--walk {path}: no such folder; make it first")
    if path.exists() and not overwrite and not _is_ours(path):
        raise UserError(f"--walk {path}: exists already; choose another name, or add --overwrite")
    return path


def _is_ours(path: Path) -> bool:
    """Whether a file begins as `write` begins it."""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return png.NOTICE.encode() in stream.read(4096)


def write(path: Path, frames: Sequence[np.ndarray]) -> None:
    """Write an endless GIF that says that it is synthetic.

    Args:
      path: of `check_name`.
      frames: each (h, w, 1 or 3) ``uint8``.

    Raises:
      UserError: a place that cannot be written.
    """
    first, *rest = [Image.fromarray(frame[..., 0] if frame.shape[-1] == 1 else frame) for frame in frames]
    stream = io.BytesIO()
    first.save(
        stream, "GIF", save_all=True, append_images=rest, duration=_FRAME, loop=0, comment=png.NOTICE.encode(),
        optimize=False,
    )  # fmt: skip
    folder.write(path, stream.getvalue())
