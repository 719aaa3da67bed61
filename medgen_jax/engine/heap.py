"""Freed memory stays with the process, so that steps on a CPU do not ask the system for theirs again and again.

XLA allocates the temporary memory of a program, often more than a gigabyte, whenever it runs, and frees it at its
end. By default glibc hands such blocks back to the system at once, and the next step pays for each of their pages anew:
on two cores a fifth of the time of a training step of pix2pix. Where programs run on an accelerator nothing is changed.
"""

from __future__ import annotations

import ctypes
import importlib.metadata
import importlib.util
import sys
from collections.abc import Mapping

#: Parameters of mallopt in glibc's malloc.h, and their values: one heap for all threads, since only that of the
#: main thread can grow beyond 64 MiB; no blocks outside of it; nothing handed back.
_OPTIONS = {"M_ARENA_MAX": (-8, 1), "M_MMAP_MAX": (-4, 0), "M_TRIM_THRESHOLD": (-1, -1)}
#: Variables by which users tune the allocator themselves.
_TUNED = ("GLIBC_TUNABLES", "MALLOC_")


def keep_freed(environ: Mapping[str, str]) -> bool:
    """Tell glibc to keep what is freed, where programs run on the CPU.

    To be called before NumPy and jax are imported: the heap of a thread that they have started stays one of 64 MiB.

    Args:
      environ: variables of the process. ``JAX_PLATFORMS`` says whether programs run on the CPU, else installed plugins
        do. Where ``GLIBC_TUNABLES`` or a variable ``MALLOC_...`` is set, the user's choice stands.

    Returns:
      Whether it was done; never where the C library is another one.
    """
    if not sys.platform.startswith("linux") or any(name.startswith(_TUNED) for name in environ):
        return False
    if not _on_cpu(environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and all(mallopt(*option) == 1 for option in _OPTIONS.values())


def _on_cpu(environ: Mapping[str, str]) -> bool:
    if chosen := environ.get("JAX_PLATFORMS"):
        return chosen == "cpu"
    plugins = [*importlib.metadata.entry_points(group="jax_plugins")]
    return not plugins and not any(importlib.util.find_spec(name) for name in ("jax_plugins", "libtpu"))
