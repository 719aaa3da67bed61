"""A run's directory: made, locked against a second run, and remembered in ``config.json``."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medgen_jax.core.config import differences
from medgen_jax.core.errors import UserError
from medgen_jax.core.manifest import write_durably
from medgen_jax.engine.runtime import why_not_writable

#: What a resumed run may change: where data lie, how fast they are read, how often things happen.
FREE_TO_CHANGE = (
    "config.data.source", "config.data.threads", "config.data.workers", "config.data.prefetch",
    "config.train.log_every", "config.train.save_every", "config.train.keep", "config.train.sample_every",
    "config.train.eval_every", "config.train.max_skipped",
)  # fmt: skip
#: What may change but alters the trajectory: said aloud.
WARNED = ("config.train.steps_per_call", "config.train.steps", "config.train.epochs")


def open_rundir(workdir: str | Path) -> Path:
    """Make a run directory and prove that it can be written.

    Raises:
      UserError: when it cannot be made or written.
    """
    path = Path(workdir).expanduser().absolute()
    if reason := why_not_writable(path, mode=0o777):
        raise UserError(f"--workdir {path}: cannot be written ({reason}); choose another directory")
    return path


@contextmanager
def locked(workdir: Path, active: bool = True) -> Iterator[None]:
    """Hold the run's lock; the kernel frees it when the process dies, however it dies.

    Raises:
      UserError: when another live run holds it.
    """
    if not active:
        yield
        return
    with (workdir / ".lock").open("a+") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            f.seek(0)
            holder = f.read().strip() or "unknown"
            raise UserError(
                f"{workdir}: another run (process {holder}) is at work here; give --workdir another directory"
            ) from error
        f.truncate(0)
        f.write(str(os.getpid()))
        f.flush()
        yield


def write_config(
    workdir: Path,
    system: str,
    config: dict[str, Any],
    environment: dict[str, Any],
    start: dict[str, Any] | None = None,
) -> None:
    """Write ``config.json``: what `read_config` returns; ``start`` as in `medgen_jax.engine.start`."""
    content = {"system": system, "config": config, "environment": environment}
    content |= {"start": start} if start else {}
    write_durably(workdir / "config.json", json.dumps(content, indent=1))


def read_config(workdir: Path) -> dict[str, Any]:
    """``{"system", "config", "environment"}`` of a run.

    ``start`` beside these is the configuration that the networks came with which the run began with.

    Raises:
      UserError: when the directory holds no run.
    """
    path = Path(workdir) / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise UserError(f"{workdir}: is no run directory (config.json is missing)") from error
    except ValueError as error:
        raise UserError(f"{path}: is damaged; restore it or start again in a new directory") from error


def compare_config(workdir: Path, old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """What a resumed run changes that alters its trajectory, as lines to warn about.

    Raises:
      UserError: when something changed that a resumed run may not change, listing all of it.
    """
    changed = [line for line in differences(old, new) if line.split(":")[0] not in FREE_TO_CHANGE]
    warned = [line for line in changed if line.split(":")[0] in WARNED]
    refused = [line for line in changed if line not in warned]
    if refused:
        raise UserError(
            f"{workdir}: the run there was started with another configuration ({'; '.join(refused)}); "
            "use a new --workdir or the old values"
        )
    return warned
