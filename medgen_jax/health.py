"""What can be wrong with an installation, and the one line that mends it.

`look` gathers a `Host`; every check is a pure function of one, so that tests can make up each fault.
Standard library only, and jax is asked in a child process: the doctor also works where jax does not.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medgen_jax.engine.runtime import cache_directory, version, why_not_writable

GIB = 2**30
#: Optional extras of the package and what they are for.
EXTRAS = {
    "dicom": "compressed DICOM pixels",
    "wsi": "whole-slide images",
    "export": "sampler artifacts",
    "track": "experiment trackers",
    "torch": "PyTorch checkpoints",
}
#: NVIDIA driver and compute capability that each CUDA extra needs, newest first.
CUDA = {"cuda13": ((580,), (7, 5)), "cuda12": ((525,), (5, 2))}
_PROBE = """
import json, jax
devices = jax.devices()
print(json.dumps([devices[0].platform, len(devices), devices[0].device_kind]))
"""


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA card: driver version, compute capability ("" where unknown) and name."""

    driver: str
    capability: str = ""
    name: str = "NVIDIA GPU"


@dataclass(frozen=True)
class Host:
    """What the checks look at.

    Attributes:
      python: version triple.
      environ: environment variables.
      versions: distribution -> installed version; absent distributions are left out.
      requires: requirement strings of medgen_jax, extras included.
      jax_requires: requirement strings of the installed jax.
      gpu: the NVIDIA card, if any.
      devices: (platform, count, kind) as jax sees them, or None when it failed.
      jax_said: the last line of its complaints.
      gpu_libraries: cuDNN and cuBLAS files in the folders of LD_LIBRARY_PATH.
      cache: folder of compiled programs, ``cache_bytes`` large; ``cache_error``: why it cannot be written.
      free_bytes: free space in the working directory.
      shm_bytes: size of /dev/shm; None where there is none.
    """

    python: tuple[int, int, int]
    environ: Mapping[str, str]
    versions: Mapping[str, str]
    requires: Sequence[str]
    jax_requires: Sequence[str] = ()
    gpu: Gpu | None = None
    devices: tuple[str, int, str] | None = None
    jax_said: str = ""
    gpu_libraries: Sequence[str] = ()
    cache: Path = field(default_factory=Path)
    cache_error: str | None = None
    cache_bytes: int = 0
    free_bytes: int = 0
    shm_bytes: int | None = None


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``level`` is ok, note or fault; a fault has a remedy."""

    check: str
    level: str
    message: str
    remedy: str = ""


def numbers(text: str) -> tuple[int, ...]:
    """Leading numbers of a version, without trailing zeros: ``"3.0.2rc1" -> (3, 0, 2)``."""
    found = [int(n) for n in re.match(r"[\d.]*", text).group().split(".") if n]
    while found and found[-1] == 0:
        found.pop()
    return tuple(found)


def satisfies(installed: str, specifier: str) -> bool:
    """Whether a version meets bounds like ``"<=0.10.2,>=0.10.1"``; other operators count as met."""
    have = numbers(installed)
    met = {"<=": have.__le__, ">=": have.__ge__, "<": have.__lt__, ">": have.__gt__, "==": have.__eq__}
    bounds = re.findall(r"(<=|>=|==|<|>)\s*([\d.]+)", specifier)
    return all(met[operator](numbers(bound)) for operator, bound in bounds)


def split_requirement(requirement: str) -> tuple[str, str, str]:
    """``'torch>=2.6; extra == "torch"' -> ("torch", ">=2.6", "torch")``; the extra is "" for the base."""
    text, _, marker = requirement.partition(";")
    name, specifier = re.match(r"\s*([\w.-]+)\s*(?:\[[^]]*\])?\s*\(?([^)]*)", text).groups()
    extra = re.search(r"extra\s*==\s*['\"]([\w-]+)", marker)
    return name, specifier.strip(), extra.group(1) if extra else ""


def check_python(host: Host) -> Finding:
    """Python is new enough."""
    text = ".".join(map(str, host.python))
    if host.python < (3, 11):
        return Finding("python", "fault", f"{text} is too old", "install Python 3.11 or newer")
    return Finding("python", "ok", text)


def check_packages(host: Host) -> Finding:
    """Every base package is there, and nothing installed is older than its floor."""
    bad = []
    for name, specifier, extra in map(split_requirement, host.requires):
        have = host.versions.get(name)
        if (have is None and not extra) or (have is not None and not satisfies(have, specifier)):
            bad.append((name, specifier, have))
    if bad:
        what = ", ".join(f"{name} {f'{have} is too old' if have else 'is missing'}" for name, _, have in bad)
        wanted = " ".join(f"'{name}{specifier}'" for name, specifier, _ in bad)
        return Finding("packages", "fault", what, f"pip install {wanted}")
    return Finding("packages", "ok", f"jax {host.versions['jax']}, flax {host.versions['flax']}")


def check_jaxlib(host: Host) -> Finding:
    """jax and jaxlib belong together."""
    jax, jaxlib = host.versions.get("jax"), host.versions.get("jaxlib")
    specifiers = [s for name, s, extra in map(split_requirement, host.jax_requires) if (name, extra) == ("jaxlib", "")]
    if jax and not (jaxlib and all(satisfies(jaxlib, s) for s in specifiers)):
        return Finding("jaxlib", "fault", f"jax {jax} with jaxlib {jaxlib}", f"pip install 'jaxlib=={jax}'")
    return Finding("jaxlib", "ok", str(jaxlib))


def _plugins(host: Host) -> list[str]:
    return [name for name in CUDA if f"jax-{name}-plugin" in host.versions]


def _runnable(gpu: Gpu) -> list[str]:
    """The CUDA extras that a card and its driver can run, newest first."""
    return [
        name
        for name, (driver, capability) in CUDA.items()
        if numbers(gpu.driver) >= driver and (not gpu.capability or numbers(gpu.capability) >= capability)
    ]


def _cure(gpu: Gpu) -> str:
    names = _runnable(gpu)
    return f"pip install 'medgen_jax[{names[0]}]'" if names else "update the NVIDIA driver to 580 or newer"


def check_plugins(host: Host) -> Finding:
    """One CUDA plugin at most, complete, of jaxlib's version, and not too new for the driver."""
    plugins, jaxlib = _plugins(host), host.versions.get("jaxlib")
    if len(plugins) > 1:
        wrong = "cuda13" if host.gpu and "cuda13" not in _runnable(host.gpu) else "cuda12"
        message = f"{' and '.join(plugins)} are both installed; which one jax takes is left to chance"
        return Finding("plugins", "fault", message, f"pip uninstall -y jax-{wrong}-plugin jax-{wrong}-pjrt")
    for name in plugins:
        parts = {part: host.versions.get(part, "missing") for part in (f"jax-{name}-plugin", f"jax-{name}-pjrt")}
        if set(parts.values()) != {jaxlib}:
            message = ", ".join(f"{part} {have}" for part, have in parts.items()) + f", but jaxlib {jaxlib}"
            return Finding("plugins", "fault", message, f"pip install 'jax[{name}]=={host.versions.get('jax')}'")
        if host.gpu and name not in _runnable(host.gpu):
            message = f"{name} does not run on {host.gpu.name} with driver {host.gpu.driver}"
            return Finding("plugins", "fault", message, _cure(host.gpu))
    return Finding("plugins", "ok", plugins[0] if plugins else "none")


def check_devices(host: Host) -> Finding:
    """jax computes on the best device there is."""
    asked = host.environ.get("JAX_PLATFORMS")
    if host.devices is None:
        remedy = f"unset JAX_PLATFORMS, which asks for {asked}" if asked else "pip install --force-reinstall jax jaxlib"
        return Finding("devices", "fault", f"jax finds no device: {host.jax_said}", remedy)
    platform, count, kind = host.devices
    if host.gpu and platform == "cpu":
        message = f"{host.gpu.name} (driver {host.gpu.driver}) is there, but jax computes on the CPU"
        if asked == "cpu":
            return Finding("devices", "note", f"{message}, as JAX_PLATFORMS asks", "unset JAX_PLATFORMS to use the GPU")
        said = f": {host.jax_said}" if host.jax_said else ""
        return Finding("devices", "fault", message + said, _cure(host.gpu))
    return Finding("devices", "ok", f"{count} x {kind} ({platform})")


def check_library_path(host: Host) -> Finding:
    """No foreign CUDA libraries in front of those that jax brings."""
    if host.gpu_libraries:
        message = f"LD_LIBRARY_PATH holds {', '.join(host.gpu_libraries)}, which jax would load instead of its own"
        level = "fault" if _plugins(host) else "note"
        return Finding("libraries", level, message, "unset LD_LIBRARY_PATH")
    return Finding("libraries", "ok", "no foreign cuDNN or cuBLAS in LD_LIBRARY_PATH")


def check_memory(host: Host) -> Finding:
    """The variables that set the share of GPU memory are ones that XLA understands."""
    new, old = "XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION"
    given = {name: host.environ[name] for name in (new, old) if host.environ.get(name)}
    if len(given) == 2:
        return Finding("memory", "fault", f"{new} and {old} are both set, which XLA refuses", f"unset {old}")
    for name, text in given.items():
        if not re.fullmatch(r"\d+\.?\d*|\.\d+", text) or float(text) == 0:
            return Finding("memory", "fault", f"{name}={text} is no share of memory", f"export {name}=0.75")
        return Finding("memory", "ok", f"{name}={text}")
    if host.environ.get("XLA_PYTHON_CLIENT_PREALLOCATE", "").lower() in ("false", "0"):
        return Finding("memory", "ok", "GPU memory is taken as it is needed")
    return Finding("memory", "ok", "of a GPU's memory jax takes 75 % at its start")


def check_cache(host: Host) -> Finding:
    """Compiled programs can be kept."""
    if host.cache_error:
        message = f"compile cache {host.cache}: {host.cache_error}; every start compiles anew"
        return Finding("cache", "fault", message, "export MEDGEN_CACHE=DIR with a folder that you can write")
    text = f"compile cache {host.cache}: {host.cache_bytes / 2**20:.1f} MiB"
    if host.cache_bytes > 20 * GIB:
        return Finding("cache", "note", text, "delete that folder; it fills again with what is used")
    return Finding("cache", "ok", text)


def check_disk(host: Host) -> Finding:
    """There is room for checkpoints."""
    text = f"{host.free_bytes / GIB:.1f} GiB free in the working directory"
    if host.free_bytes < GIB:
        return Finding("disk", "fault", text, "free some space, or train with --workdir on another disk")
    return Finding("disk", "ok", text)


def check_shared_memory(host: Host) -> Finding:
    """Reader processes have room to pass batches."""
    if host.shm_bytes is None:
        return Finding("shared memory", "ok", "no /dev/shm; keep data.workers = 0")
    text = f"/dev/shm has {host.shm_bytes / GIB:.2f} GiB"
    if host.shm_bytes < GIB / 4:
        message = f"{text}: too little for reader processes (data.workers > 0; threads do without)"
        return Finding(
            "shared memory", "note", message, "start the container with --shm-size=2g, or keep data.workers = 0"
        )
    return Finding("shared memory", "ok", text)


def check_extras(host: Host) -> Finding:
    """Which optional parts are there."""
    members: dict[str, list[str]] = {name: [] for name in EXTRAS}
    for name, _, extra in map(split_requirement, host.requires):
        if extra in members:
            members[extra].append(name)
    absent = {extra for extra, names in members.items() if not all(name in host.versions for name in names)}
    text = ", ".join(f"{extra} {'absent' if extra in absent else 'present'} ({EXTRAS[extra]})" for extra in EXTRAS)
    if absent:
        names = ",".join(extra for extra in EXTRAS if extra in absent)
        return Finding("extras", "note", text, f"only if you need them: pip install 'medgen_jax[{names}]'")
    return Finding("extras", "ok", text)


_VERSION_CHECKS = (check_python, check_packages, check_jaxlib, check_plugins)
_DEVICE_CHECKS = (check_devices, check_library_path, check_memory)
_FILE_CHECKS = (check_cache, check_disk, check_shared_memory, check_extras)
CHECKS = (*_VERSION_CHECKS, *_DEVICE_CHECKS, *_FILE_CHECKS)


def _run(command: Sequence[str], timeout: float, environ: Mapping[str, str] | None = None) -> tuple[str, str]:
    """(stdout, last line of stderr) of a child process; stdout is empty when it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=environ)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    complaint = (done.stderr.strip().splitlines() or [""])[-1]
    return ("", complaint or f"exit code {done.returncode}") if done.returncode else (done.stdout, complaint)


def parse_smi(text: str) -> Gpu | None:
    """The first card of ``nvidia-smi --query-gpu=driver_version,compute_cap,name --format=csv,noheader``."""
    fields = [f.strip() for f in text.strip().split("\n")[0].split(",", 2)]
    return Gpu(*fields) if len(fields) == 3 and numbers(fields[0]) else None


def parse_proc(text: str) -> Gpu | None:
    """The driver named in /proc/driver/nvidia/version."""
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)
    return Gpu(found.group()) if found else None


def _find_gpu() -> Gpu | None:
    query = ["nvidia-smi", "--query-gpu=driver_version,compute_cap,name", "--format=csv,noheader"]
    if gpu := parse_smi(_run(query, timeout=30)[0]):
        return gpu
    # A container sees the driver of its host, but the card only where there is a device file.
    kernel = Path("/proc/driver/nvidia/version")
    return parse_proc(kernel.read_text()) if kernel.is_file() and glob.glob("/dev/nvidia[0-9]*") else None


def _ask_jax(environ: Mapping[str, str]) -> tuple[tuple[str, int, str] | None, str]:
    # Without preallocation the question does not disturb a card that is at work.
    out, complaint = _run([sys.executable, "-c", _PROBE], 180, {**environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"})
    return (tuple(json.loads(out.splitlines()[-1])) if out else None), complaint


def find_gpu_libraries(library_path: str) -> tuple[str, ...]:
    """cuDNN and cuBLAS files in the folders of a LD_LIBRARY_PATH."""
    folders = [folder for folder in library_path.split(":") if folder]
    return tuple(
        sorted(f for d in folders for stem in ("libcudnn", "libcublas") for f in glob.glob(f"{d}/{stem}*.so*"))
    )


def requirements() -> list[str]:
    """The package's own requirement strings: of the checkout it lies in, else as installed."""
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if not project.is_file():
        return importlib.metadata.requires("medgen_jax") or []
    table = tomllib.loads(project.read_text())["project"]
    extras = table["optional-dependencies"].items()
    return table["dependencies"] + [f'{r}; extra == "{extra}"' for extra, listed in extras for r in listed]


def _folder_bytes(folder: Path) -> int:
    total = 0
    for file in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process may delete it meanwhile
            total += file.stat().st_size
    return total


def look(environ: Mapping[str, str] = os.environ) -> Host:
    """Gather the facts of this machine."""
    requires = requirements()
    parts = [f"jax-{name}-{part}" for name in CUDA for part in ("plugin", "pjrt")]
    names = {split_requirement(r)[0] for r in requires} | {"jaxlib", *parts}
    versions = {name: have for name in sorted(names) if (have := version(name))}
    cache, shm = cache_directory(environ), Path("/dev/shm")
    devices, jax_said = _ask_jax(environ)
    return Host(
        python=sys.version_info[:3],
        environ=environ,
        versions=versions,
        requires=requires,
        jax_requires=(importlib.metadata.requires("jax") or []) if "jax" in versions else [],
        gpu=_find_gpu(),
        devices=devices,
        jax_said=jax_said,
        gpu_libraries=find_gpu_libraries(environ.get("LD_LIBRARY_PATH", "")),
        cache=cache,
        cache_error=why_not_writable(cache),
        cache_bytes=_folder_bytes(cache),
        free_bytes=shutil.disk_usage(".").free,
        shm_bytes=shutil.disk_usage(shm).total if shm.is_dir() else None,
    )


def examine(host: Host) -> list[Finding]:
    """All findings, in the order of `CHECKS`."""
    return [check(host) for check in CHECKS]


def report(findings: Sequence[Finding]) -> str:
    """The findings as text, a remedy under each that has one."""
    lines = []
    for f in findings:
        lines.append(f"{f.level:<6}{f.check:<15}{f.message}")
        lines += [f"      -> {f.remedy}"] if f.remedy else []
    return "\n".join([*lines, f"faults: {sum(f.level == 'fault' for f in findings)}"])
