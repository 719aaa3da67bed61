"""What a run writes about itself: ``metrics.jsonl``, TensorBoard events, JSON files.

``metrics.jsonl`` holds one row a line, ``{"step", "images", "time", "split", name: number, ...}``:
steps done, records seen, seconds since the start, ``train`` or ``val``. Numbers that are not finite
are ``null``, so that every line is valid JSON.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from medgen_jax.core.errors import UserError
from medgen_jax.core.manifest import write_durably

METRICS = "metrics.jsonl"
_ROW_KEYS = ("step", "images", "time", "split")


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into a message that names the file."""
    try:
        yield
    except OSError as error:
        remedy = (
            "free some space or choose another --workdir"
            if error.errno == errno.ENOSPC
            else "check the path and its permissions"
        )
        raise UserError(f"{path}: cannot be written ({error.strerror}); {remedy}") from error


def json_safe(value: Any) -> Any:
    """A value in JSON's types: NumPy and JAX scalars and arrays as numbers and lists, paths as
    text, numbers that are not finite as None."""
    if isinstance(value, Mapping):
        return {str(key): json_safe(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [json_safe(item) for item in value]
    if hasattr(value, "tolist"):
        return json_safe(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def write_json(path: str | Path, obj: Any) -> None:
    """Write a JSON file atomically: readers see the old file or the whole new one, also after a crash.

    Raises:
      UserError: naming the file, when it cannot be written (disk full, read-only, no such folder).
      TypeError: when ``obj`` holds something that `json_safe` does not turn into JSON.
    """
    path = Path(path)
    text = json.dumps(json_safe(obj), indent=1, allow_nan=False) + "\n"
    with _naming(path):
        write_durably(path, text)


class MetricWriter:
    """Rows of numbers into ``metrics.jsonl``, and the same into TensorBoard events.

    A row is handed to the operating system in one call when it is written, so a crash loses at most
    the row in flight. Events go to ``workdir/tensorboard`` if tensorboardX is installed.

    Args:
      workdir: an existing directory.
      resume_step: the step of the checkpoint that the run continues from. Rows of later steps, and
        a row cut off by a crash, are dropped in one atomic replacement. None or 0: a new run; rows
        that an earlier one left are kept beside it as ``metrics.<n>.jsonl``.
      active: False on every process but the first: nothing is touched or written.
      tensorboard: whether to write events.

    Raises:
      UserError: naming the file, here and in `write`, when it cannot be read or written.
    """

    def __init__(
        self, workdir: str | Path, resume_step: int | None = None, active: bool = True, tensorboard: bool = True
    ):
        self._workdir, self._path = Path(workdir), Path(workdir) / METRICS
        self._resume_step, self._tensorboard = resume_step, tensorboard and active
        self._file = self._events = None
        if not active:
            return
        with _naming(self._path):
            if resume_step:
                _drop_rows_after(self._path, resume_step)
            else:
                _set_aside(self._path)
            # Unbuffered: after a full disk, nothing is left behind that close() would try again.
            self._file = self._path.open("ab", buffering=0)

    def write(self, step: int, images: int, seconds: float, split: str, values: Mapping[str, float]) -> None:
        """Append one row.

        Args:
          step: optimiser steps done.
          images: records of the first stream seen.
          seconds: since the start of the run.
          split: ``train``, ``val`` or another name of what was measured.
          values: numbers by name; ``step``, ``images``, ``time`` and ``split`` are taken.
        """
        if self._file is None:
            return
        if taken := sorted(set(values) & set(_ROW_KEYS)):
            raise ValueError(f"metric name {taken[0]!r} is a row's own key")
        numbers = {name: _shortest(float(value)) for name, value in values.items()}
        row = {"step": int(step), "images": int(images), "time": round(float(seconds), 3), "split": split, **numbers}
        line = (json.dumps(json_safe(row), allow_nan=False) + "\n").encode()
        with _naming(self._path):
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        if events := self._event_writer():
            for name, value in numbers.items():
                events.add_scalar(f"{split}/{name}", value, step)

    def images(self, step: int, name: str, array: np.ndarray) -> None:
        """Add a picture (uint8 HWC) to the TensorBoard events."""
        if self._file is not None and (events := self._event_writer()):
            events.add_image(name, array, step, dataformats="HWC")

    def close(self) -> None:
        """Flush and close everything; safe to call twice."""
        if self._events is not None:
            self._events.close()
        if self._file is not None:
            self._file.close()
        self._file = self._events = None
        self._tensorboard = False

    def _event_writer(self):
        if self._events is None and self._tensorboard:
            try:
                from tensorboardX import SummaryWriter
            except ImportError:
                self._tensorboard = False
                return None
            purge = self._resume_step + 1 if self._resume_step else None
            with _naming(self._workdir / "tensorboard"):
                self._events = SummaryWriter(str(self._workdir / "tensorboard"), purge_step=purge)
        return self._events


def _shortest(value: float) -> float:
    """A number that came from float32, as the shortest decimal that reads back to the same float32."""
    with np.errstate(over="ignore"):
        narrow = np.float32(value)
    return float(str(narrow)) if float(narrow) == value else value


def _set_aside(path: Path) -> None:
    if not path.exists() or path.stat().st_size == 0:
        return
    number = 1
    while (old := path.with_name(f"{path.stem}.{number}{path.suffix}")).exists():
        number += 1
    path.rename(old)


def _drop_rows_after(path: Path, step: int) -> None:
    if not path.exists():
        return
    lines = path.read_text(errors="replace").splitlines(keepends=True)
    kept = [line for line in lines if _is_row_until(line, step)]
    if kept != lines:
        write_durably(path, "".join(kept))


def _is_row_until(line: str, step: int) -> bool:
    try:
        return line.endswith("\n") and json.loads(line)["step"] <= step
    except (ValueError, KeyError, TypeError):
        return False
