"""The folder of the output: whose images it holds, and which of them are there already.

``samples.json`` says what the images are of. It is written before the first of them, so that no folder mixes images of
two settings. Images are named by number and written whole: a call that was stopped is gone on with by the same call.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from medgen_jax.core.errors import UserError
from medgen_jax.core.manifest import write_durably
from medgen_jax.synthesis import png

NAME = "samples.json"
#: Where pictures of the whole lie, apart from the images, which others may count.
PICTURES = "pictures"
#: Of the settings, what changes no image.
_SHOWN = ("run", "version")
_FORMAT = 1


def prepare(folder: Path, settings: Mapping[str, Any], files: Sequence[str], overwrite: bool) -> set[str]:
    """Make the folder, and find out which of the files are there already.

    Args:
      folder: of the output.
      settings: JSON types; ``folders`` names those of classes.
      files: that are to be, from the folder.
      overwrite: remove the images of the call before, whatever its settings; files of anyone else stay.

    Returns:
      Those of ``files`` that are there, made with these settings.

    Raises:
      UserError: images of other settings, files that nobody has described, or a folder that cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in settings["folders"]:
            (folder / name).mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be made ({error.strerror})") from error
    there = _present(folder, settings["folders"]) & set(files)
    if not (folder / NAME).is_file():
        if there and not overwrite:
            raise UserError(
                f"--output {folder}: holds {min(there)}, but no {NAME} that says what it shows; choose another folder"
            )
        return set()
    before = _read(folder, overwrite)
    if overwrite:
        _clear(folder, before)
        return set()
    mine, theirs = ({k: v for k, v in each.items() if k not in _SHOWN} for each in (settings, before))
    if differ := [name for name in {**theirs, **mine} if theirs.get(name) != mine.get(name)]:
        name = differ[0]
        raise UserError(
            f"--output {folder}: holds images made with {name} = {_plain(theirs.get(name))}, not "
            f"{_plain(mine.get(name))}; choose another folder, or add --overwrite"
        )
    return there


def describe(folder: Path, settings: Mapping[str, Any]) -> None:
    """Write ``samples.json``: the settings, and how many images there are by now.

    Raises:
      UserError: a place that cannot be written.
    """
    images = len(_present(folder, settings["folders"]))
    about = {"format": _FORMAT, "notice": png.NOTICE, "images": images, "settings": dict(settings)}
    try:
        write_durably(folder / NAME, json.dumps(about, indent=1) + "\n")
    except OSError as error:
        raise UserError(f"--output {folder}: cannot be written ({error.strerror})") from error


def write(path: Path, data: bytes) -> None:
    """Put a file in its place at once or not at all.

    Raises:
      UserError: a place that cannot be written.
    """
    scratch = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch.write_bytes(data)
        os.replace(scratch, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise UserError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from error


def _present(folder: Path, within: Iterable[str]) -> set[str]:
    """Files that hold something and are not hidden, from the folder; only those of its classes where there are some."""
    places = {f"{name}/": folder / name for name in within} or {"": folder}
    return {
        f"{prefix}{entry.name}"
        for prefix, place in places.items()
        for entry in os.scandir(place)
        if entry.name.endswith(".png") and entry.name[0] != "." and entry.is_file() and entry.stat().st_size
    }


def _read(folder: Path, overwrite: bool) -> dict[str, Any]:
    """The settings of the call before; none where they are damaged and do not matter."""
    try:
        about = json.loads((folder / NAME).read_text())
        settings = about["settings"]
        if about["format"] != _FORMAT or not isinstance(settings, dict):
            raise ValueError("another format")
        return settings
    except (OSError, ValueError, KeyError, TypeError) as error:
        if overwrite:
            return {}
        raise UserError(f"{folder / NAME}: is damaged; choose another folder, or add --overwrite") from error


def _clear(folder: Path, before: Mapping[str, Any]) -> None:
    """Remove the images and pictures of the call before: files that say themselves that they are of this program."""
    named = [str(name) for name in before.get("folders", ())]
    for place in (folder, *(folder / name for name in (*named, PICTURES) if Path(name).name == name)):
        for path in place.glob("*.png"):
            if png.is_ours(path):
                path.unlink(missing_ok=True)


def _plain(value: Any) -> str:
    """A setting as people read it."""
    if isinstance(value, str) and len(value) == 64:  # a sha256
        return f"{value[:12]}..."
    return "nothing" if value in (None, [], {}) else value if isinstance(value, str) else json.dumps(value)
