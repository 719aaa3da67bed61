"""The start of a process: several hosts, the compile cache, compiles counted, what runs where.

What XLA reads from the environment when a device is first used belongs into the shell, before
Python starts: ``XLA_PYTHON_CLIENT_PREALLOCATE=false`` (take GPU memory as it is needed),
``XLA_CLIENT_MEM_FRACTION=.5`` (take this share at once; .75 unless set), ``JAX_PLATFORMS=cpu``.

jax is imported inside the functions, because the doctor asks `cache_directory` where jax is broken.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import socket
import subprocess
import tempfile
import threading
import time
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import medgen_jax
from medgen_jax.core.errors import UserError

#: Distributions whose versions belong to the record of a run, beside medgen_jax itself.
RECORDED_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")


def start(
    multihost: bool = False,
    cache_dir: str | None = None,
    *,
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    initialization_timeout: int = 300,
    heartbeat_timeout: int = 100,
) -> Path | None:
    """Prepare jax: the first call of a main, before anything asks for a device.

    Args:
      multihost: join the other processes of this run. Without it, nothing is contacted.
      cache_dir: folder for compiled programs; None lets `cache_directory` choose.
      coordinator: ``host:port`` of process 0. Under Slurm and Open MPI and on Cloud TPU the three
        arguments may be None: jax finds them.
      num_processes: how many processes take part.
      process_id: which of them this one is, from 0.
      initialization_timeout: seconds to wait for the others at the start.
      heartbeat_timeout: seconds of silence after which a process counts as dead; jax then ends all
        the others by SIGABRT, and the run is to be started again.

    Returns:
      The compile cache in use, or None where it cannot be written (said in a warning).

    Raises:
      UserError: when the processes cannot be joined; it names the flag to give.
    """
    if multihost:
        _join(coordinator, num_processes, process_id, initialization_timeout, heartbeat_timeout)
    elif (coordinator, num_processes, process_id) != (None, None, None):
        raise UserError("--coordinator, --num_processes and --process_id mean nothing without --multihost; add it")
    return _use_cache(Path(cache_dir).expanduser() if cache_dir else cache_directory(os.environ))


def _join(address: str | None, count: int | None, index: int | None, timeout: int, heartbeat: int) -> None:
    import jax

    explicit = None not in (address, count, index)
    if explicit:
        if not 0 <= index < count:
            raise UserError(f"--process_id={index}: must lie in 0 .. {count - 1}, below --num_processes={count}")
        if index > 0:
            _await_coordinator(address, timeout)
    try:
        jax.distributed.initialize(
            coordinator_address=address,
            num_processes=count,
            process_id=index,
            # Completing by guess what was given by hand would hide all but one local device.
            cluster_detection_method="deactivate" if explicit else None,
            initialization_timeout=timeout,
            heartbeat_timeout_seconds=heartbeat,
        )
    except ValueError as error:
        raise UserError(
            f"--multihost: neither a Slurm, Open MPI or Cloud TPU job nor all flags ({error}); give every process "
            "--coordinator=HOST:PORT --num_processes=N --process_id=I, or leave --multihost out"
        ) from error


def _await_coordinator(address: str, timeout: float) -> None:
    """Wait until process 0 listens. jax would abort the process instead of raising."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise UserError(f"--coordinator={address}: expected HOST:PORT of process 0")
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() >= deadline:
                raise UserError(
                    f"--coordinator={address}: no answer within {timeout:g} s ({error.strerror or error}); "
                    "start process 0 there, or mend the address or the firewall"
                ) from error
        time.sleep(0.5)


def cache_directory(environ: Mapping[str, str]) -> Path:
    """Where compiled programs are kept.

    ``JAX_COMPILATION_CACHE_DIR``, else ``MEDGEN_CACHE``/xla, else ~/.cache/medgen_jax/xla. Whoever
    can write there can run code as the user who reads it.
    """
    if chosen := environ.get("JAX_COMPILATION_CACHE_DIR"):
        return Path(chosen).expanduser()
    return Path(environ.get("MEDGEN_CACHE") or "~/.cache/medgen_jax").expanduser() / "xla"


def why_not_writable(folder: Path, mode: int = 0o700) -> str | None:
    """Create ``folder`` and a nameless file in it; the system's reason when that fails, None when it works.

    The file has no name because every process of a distributed run may ask at the same moment.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"0" * 4096)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _use_cache(folder: Path) -> Path | None:
    import jax

    reason = why_not_writable(folder)
    if reason:
        warnings.warn(
            f"compile cache {folder}: {reason}; every start compiles anew. Set MEDGEN_CACHE to a folder you can write",
            stacklevel=3,
        )
    jax.config.update("jax_compilation_cache_dir", None if reason else str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    return None if reason else folder


def version(distribution: str) -> str | None:
    """Installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit(folder: Path) -> str | None:
    """Commit of the checkout whose root is ``folder``, with ``-dirty`` after local changes; None elsewhere."""
    if not (folder / ".git").exists():
        return None
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def environment() -> dict[str, Any]:
    """What a run should remember of where it ran, as JSON types; no host and no user names.

    Asks jax for its devices, so it comes after `start`.
    """
    import jax

    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {"medgen_jax": medgen_jax.__version__} | {name: version(name) for name in RECORDED_PACKAGES},
        "backend": jax.default_backend(),
        "device_kind": devices[0].device_kind,
        "device_count": len(devices),
        "process_count": jax.process_count(),
        "git_commit": git_commit(Path(medgen_jax.__file__).resolve().parents[1]),
    }


class CompileCounter:
    """Counts what XLA compiles while it is open, by function name. A context manager.

    It listens to jax's own events: the cache size of a jitted function also grows without a compile
    when there are several devices. A program that comes out of the compile cache counts too, in
    `count` as in `cached`.

    Attributes:
      count: compiles so far.
      cached: how many of them the compile cache answered.
      seconds: time spent on them.
    """

    _COMPILE = "/jax/core/compile/backend_compile_duration"
    _CACHE_HIT = "/jax/compilation_cache/cache_hits"

    def __init__(self) -> None:
        self.count = 0
        self.cached = 0
        self.seconds = 0.0
        self._fresh: Counter[str] = Counter()
        self._lock = threading.Lock()  # worker threads compile, too

    def __enter__(self) -> CompileCounter:
        import jax.monitoring

        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        import jax.monitoring

        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)

    def _on_duration(self, event: str, seconds: float, **labels: str | int) -> None:
        if event == self._COMPILE:
            with self._lock:
                self.count += 1
                self.seconds += seconds
                self._fresh[str(labels.get("fun_name", "unnamed"))] += 1

    def _on_event(self, event: str, **_: str | int) -> None:
        if event == self._CACHE_HIT:
            with self._lock:
                self.cached += 1

    def take(self) -> dict[str, int]:
        """Compiles since the last call, by function name. Not empty in mid-run: some shape changes."""
        with self._lock:
            fresh, self._fresh = self._fresh, Counter()
        return dict(fresh)
