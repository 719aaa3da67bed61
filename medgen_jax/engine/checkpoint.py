"""Checkpoints: Orbax writes the state, a manifest seals the step, a damaged step is never loaded.

Layout of ``workdir/checkpoints/<step>/``: Orbax's ``state``, our ``host.json`` (flags as latched,
stream positions, best value, configuration, versions) and ``manifest.json``, written last. A
directory without a manifest is no checkpoint.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import multihost_utils

from medgen_jax.core import manifest
from medgen_jax.core.errors import UserError

PyTree = Any
#: Damaged directories kept for inspection; older ones are deleted.
KEEP_QUARANTINED = 3


def _orbax() -> Any:
    from orbax.checkpoint import v1 as ocp  # 0.4 s to import, and not needed by a finished run

    return ocp


def sealed_steps(root: Path) -> list[int]:
    """Steps under ``root`` that carry a manifest, oldest first; none where there is no directory."""
    if not root.is_dir():
        return []
    return sorted(int(p.name) for p in root.iterdir() if p.name.isdigit() and manifest.is_sealed(p))


def step_folder(root: Path, step: int) -> Path:
    """Where a step lives."""
    return root / f"{step:08d}"


def load_step(folder: Path, abstract_state: PyTree) -> PyTree:
    """Load a verified step into the shapes, dtypes and shardings of ``abstract_state``.

    Leaves given as Orbax's ``PLACEHOLDER`` are not read and come back as they are.

    Raises:
      UserError: when the stored tree does not fit.
    """
    try:
        # Orbax takes a relative path for a directory without checkpoints.
        return _orbax().load_checkpointables(folder.absolute(), {"state": abstract_state})["state"]
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
        raise UserError(f"{folder}: does not fit this configuration: {lines[0][:300]}") from error


def read_host(folder: Path) -> dict[str, Any]:
    """The host's part of a step."""
    return json.loads((folder / "host.json").read_text())


class CheckpointStore:
    """The checkpoints of one run.

    Args:
      root: directory of the steps; made when missing.
      keep: how many of the newest steps stay; the step given as ``best`` stays beside them.
      say: where messages for the user go.
    """

    def __init__(self, root: Path, keep: int = 2, say: Callable[[str], None] = print):
        self.root = root.absolute()
        self.keep = keep
        self._say = say
        self._writer = jax.process_index() == 0
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="seal")
        self._pending: Future | None = None
        if self._writer:
            self.root.mkdir(parents=True, exist_ok=True)
            self._clean()

    # -- what is there ---------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """Sealed steps, oldest first."""
        return sealed_steps(self.root)

    def folder(self, step: int) -> Path:
        """Where a step lives."""
        return step_folder(self.root, step)

    def _clean(self) -> None:
        """Remove what a killed process left behind: temporary directories, unsealed steps."""
        for path in sorted(self.root.iterdir()):
            if path.name.isdigit() and path.is_dir():
                if not manifest.is_sealed(path):
                    self._quarantine(path, "was never sealed (its process was killed while saving)")
            elif path.is_dir():
                shutil.rmtree(path)

    def _quarantine(self, path: Path, why: str) -> None:
        aside = self.root.parent / "checkpoints_damaged"
        aside.mkdir(exist_ok=True)
        number = sum(1 for p in aside.iterdir() if p.name.startswith(path.name))
        target = aside / f"{path.name}-{number}"
        path.rename(target)
        self._say(f"checkpoint {path.name} {why}; moved to {target}")
        for old in sorted(aside.iterdir(), key=lambda p: p.stat().st_mtime)[:-KEEP_QUARANTINED]:
            shutil.rmtree(old)

    # -- saving ----------------------------------------------------------------------------------

    def save(self, step: int, state: PyTree, host: dict[str, Any], best: int | None = None) -> None:
        """Start saving a step; returns once the state is copied off the devices.

        Raises:
          UserError: when the previous save failed (disk full, directory gone).
        """
        self.wait()
        if step in self.steps():
            return
        path = self.folder(step)
        try:
            # On a CPU the host arrays alias the state's buffers; jax does not reuse a buffer in a donating
            # step while such a view lives.
            response = _orbax().save_checkpointables_async(path, {"state": state})
        except Exception as error:
            raise self._failed(step, error) from error
        self._pending = self._pool.submit(self._finish, path, response, host, best)

    def _finish(self, path: Path, response: Any, host: dict[str, Any], best: int | None) -> None:
        response.result()
        if not self._writer:
            return
        (path / "host.json").write_text(json.dumps(host))
        manifest.seal(path)
        steps = self.steps()
        for step in steps[: -self.keep]:
            if step != best:
                shutil.rmtree(self.folder(step))

    def check(self) -> None:
        """Raise the error of a background save that has already failed; never waits."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Wait until the last save is sealed.

        Raises:
          UserError: when it failed.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except Exception as error:
            raise self._failed(None, error) from error

    def _failed(self, step: int | None, error: Exception) -> UserError:
        what = "a checkpoint" if step is None else f"checkpoint {step}"
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = (lines[0] if lines else type(error).__name__)[:300]
        sealed = self.steps()
        intact = f"step {sealed[-1]} is intact" if sealed else "no earlier step exists"
        return UserError(
            f"{what} could not be written to {self.root}: {reason}; {intact}. "
            "Free space or fix the directory, then run again"
        )

    def close(self) -> None:
        """Wait for the last save and stop the background thread."""
        try:
            self.wait()
        finally:
            self._pool.shutdown()

    # -- loading ---------------------------------------------------------------------------------

    def newest_intact(self) -> int | None:
        """The newest step whose every byte is as written; damaged ones are moved aside.

        Raises:
          UserError: when steps exist and none of them is intact.
        """
        step = -1
        if self._writer:
            step, damaged = self._find_intact()
            if step < 0 and damaged:
                step = -2
        if jax.process_count() > 1:
            step = int(multihost_utils.broadcast_one_to_all(jnp.int32(step)))
        if step == -2:
            raise UserError(f"{self.root}: no checkpoint is intact; start again in a new directory")
        return None if step < 0 else step

    def _find_intact(self) -> tuple[int, int]:
        damaged = 0
        for step in reversed(self.steps()):
            try:
                manifest.verify(self.folder(step))
                return step, damaged
            except manifest.Damaged as error:
                damaged += 1
                self._quarantine(self.folder(step), f"is damaged: {error}")
        return -1, damaged
