"""The doctor: each fault is found in a made-up host, and gets exactly one remedy."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import tomllib

import pytest

from medgen_jax import doctor, health
from medgen_jax.health import GIB, Finding, Gpu, Host

H100 = Gpu("580.65.06", "9.0", "NVIDIA H100")
OLD_DRIVER = Gpu("535.129.03", "8.0", "NVIDIA A100")
CUDA13 = {"jax-cuda13-plugin": "0.10.2", "jax-cuda13-pjrt": "0.10.2"}
CUDA12 = {"jax-cuda12-plugin": "0.10.2", "jax-cuda12-pjrt": "0.10.2"}
BASE = {"jax": "0.10.2", "jaxlib": "0.10.2", "flax": "0.12.8"}
OPTIONAL = {"gdcm": "3.0", "torch": "2.13.0+cpu", "openslide": "1.4", "flatbuffers": "25.1", "wandb": "0.19"}

HEALTHY = Host(
    python=(3, 11, 7),
    environ={},
    versions=BASE | OPTIONAL,
    requires=(
        "jax>=0.10.2",
        "flax>=0.12",
        'gdcm; extra == "dicom"',
        'openslide; extra == "wsi"',
        'flatbuffers; extra == "export"',
        'wandb; extra == "track"',
        'torch>=2.6; extra == "torch"',
        'jax[cuda13]; extra == "cuda13"',
    ),
    jax_requires=("jaxlib<=0.10.2,>=0.10.1", 'jaxlib<=0.10.2,>=0.10.2; extra == "cuda13"'),
    devices=("cpu", 1, "cpu"),
    cache=pathlib.Path("cache"),
    free_bytes=50 * GIB,
    shm_bytes=8 * GIB,
)


def sick(**changes: object) -> Host:
    return dataclasses.replace(HEALTHY, **changes)


def with_versions(**changes: str | None) -> dict[str, str]:
    """The healthy versions with some changed, or taken out by None; ``_`` stands for ``-``."""
    changed = {name.replace("_", "-"): value for name, value in changes.items()}
    return {name: value for name, value in {**HEALTHY.versions, **changed}.items() if value}


def test_a_healthy_cpu_host_has_no_findings_to_mend():
    assert {f.level for f in health.examine(HEALTHY)} == {"ok"}
    assert [f.check for f in health.examine(HEALTHY)] == [f.check for f in health.examine(sick(gpu=H100))]


def test_a_healthy_gpu_host_has_none_either():
    host = sick(versions=HEALTHY.versions | CUDA13, gpu=H100, devices=("gpu", 8, "NVIDIA H100"))
    assert {f.level for f in health.examine(host)} == {"ok"}
    assert "8 x NVIDIA H100 (gpu)" in [f.message for f in health.examine(host)]


FAULTS = {
    "old python": (sick(python=(3, 10, 2)), "python", "install Python 3.11 or newer"),
    "missing package": (sick(versions=with_versions(flax=None)), "packages", "pip install 'flax>=0.12'"),
    "old package": (sick(versions=with_versions(flax="0.10.7")), "packages", "pip install 'flax>=0.12'"),
    "old torch": (sick(versions=with_versions(torch="2.5.1")), "packages", "pip install 'torch>=2.6'"),
    "jaxlib newer": (sick(versions=with_versions(jaxlib="0.11.0")), "jaxlib", "pip install 'jaxlib==0.10.2'"),
    "jaxlib older": (sick(versions=with_versions(jaxlib="0.10.0")), "jaxlib", "pip install 'jaxlib==0.10.2'"),
    "no jaxlib": (sick(versions=with_versions(jaxlib=None)), "jaxlib", "pip install 'jaxlib==0.10.2'"),
    "plugin of another version": (
        sick(versions=with_versions(jax_cuda13_plugin="0.9.0", jax_cuda13_pjrt="0.9.0")),
        "plugins",
        "pip install 'jax[cuda13]==0.10.2'",
    ),
    "half a plugin": (
        sick(versions=with_versions(jax_cuda12_plugin="0.10.2")),
        "plugins",
        "pip install 'jax[cuda12]==0.10.2'",
    ),
    "two plugins": (
        sick(versions=HEALTHY.versions | CUDA12 | CUDA13, gpu=H100, devices=("gpu", 1, "H100")),
        "plugins",
        "pip uninstall -y jax-cuda12-plugin jax-cuda12-pjrt",
    ),
    "two plugins, old driver": (
        sick(versions=HEALTHY.versions | CUDA12 | CUDA13, gpu=OLD_DRIVER, devices=("gpu", 1, "A100")),
        "plugins",
        "pip uninstall -y jax-cuda13-plugin jax-cuda13-pjrt",
    ),
    "plugin too new for the driver": (
        sick(versions=HEALTHY.versions | CUDA13, gpu=OLD_DRIVER, devices=("gpu", 1, "A100")),
        "plugins",
        "pip install 'medgen_jax[cuda12]'",
    ),
    "GPU without plugin": (sick(gpu=H100), "devices", "pip install 'medgen_jax[cuda13]'"),
    "GPU with old driver": (sick(gpu=OLD_DRIVER), "devices", "pip install 'medgen_jax[cuda12]'"),
    "old card, new driver": (sick(gpu=Gpu("580.1", "7.0")), "devices", "pip install 'medgen_jax[cuda12]'"),
    "very old driver": (sick(gpu=Gpu("470.82")), "devices", "update the NVIDIA driver to 580 or newer"),
    "jax fails": (
        sick(devices=None, jax_said="ImportError: libpython"),
        "devices",
        "pip install --force-reinstall jax jaxlib",
    ),
    "platform asked for is absent": (
        sick(devices=None, jax_said="no cuda", environ={"JAX_PLATFORMS": "cuda"}),
        "devices",
        "unset JAX_PLATFORMS, which asks for cuda",
    ),
    "foreign cuDNN": (
        sick(
            versions=HEALTHY.versions | CUDA13,
            gpu=H100,
            devices=("gpu", 1, "H100"),
            gpu_libraries=("/opt/libcudnn.so.8",),
        ),
        "libraries",
        "unset LD_LIBRARY_PATH",
    ),
    "fraction is no number": (
        sick(environ={"XLA_CLIENT_MEM_FRACTION": "90%"}),
        "memory",
        "export XLA_CLIENT_MEM_FRACTION=0.75",
    ),
    "fraction is nothing": (
        sick(environ={"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.0"}),
        "memory",
        "export XLA_PYTHON_CLIENT_MEM_FRACTION=0.75",
    ),
    "both fractions": (
        sick(environ={"XLA_CLIENT_MEM_FRACTION": ".5", "XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}),
        "memory",
        "unset XLA_PYTHON_CLIENT_MEM_FRACTION",
    ),
    "cache not writable": (
        sick(cache_error="Permission denied"),
        "cache",
        "export MEDGEN_CACHE=DIR with a folder that you can write",
    ),
    "disk full": (sick(free_bytes=GIB // 2), "disk", "free some space, or train with --workdir on another disk"),
}


@pytest.mark.parametrize(("host", "check", "remedy"), FAULTS.values(), ids=FAULTS.keys())
def test_each_fault_is_found_alone_with_one_remedy(host, check, remedy):
    faults = [f for f in health.examine(host) if f.level == "fault"]
    assert [(f.check, f.remedy) for f in faults] == [(check, remedy)]


NOTES = {
    "CPU asked for": (sick(gpu=H100, environ={"JAX_PLATFORMS": "cpu"}), "devices", "unset JAX_PLATFORMS"),
    "foreign cuDNN, CPU jax": (sick(gpu_libraries=("/opt/libcudnn.so.8",)), "libraries", "unset LD_LIBRARY_PATH"),
    "large cache": (sick(cache_bytes=30 * GIB), "cache", "delete that folder"),
    "docker's shared memory": (sick(shm_bytes=GIB // 16), "shared memory", "--shm-size=2g"),
    "extras absent": (sick(versions=BASE), "extras", "medgen_jax[dicom,wsi,export,track,torch]"),
    "one extra absent": (sick(versions=with_versions(openslide=None)), "extras", "medgen_jax[wsi]"),
}


@pytest.mark.parametrize(("host", "check", "remedy"), NOTES.values(), ids=NOTES.keys())
def test_what_may_be_meant_so_is_a_note(host, check, remedy):
    (found,) = [f for f in health.examine(host) if f.level != "ok"]
    assert (found.level, found.check) == ("note", check)
    assert remedy in found.remedy


@pytest.mark.parametrize(("fraction", "level"), [(".5", "ok"), ("0.9", "ok"), ("2", "ok"), ("", "ok"), ("x", "fault")])
def test_memory_fractions(fraction, level):
    assert health.check_memory(sick(environ={"XLA_CLIENT_MEM_FRACTION": fraction})).level == level


def test_versions_compare_by_number():
    assert health.numbers("3.0.2rc1") == (3, 0, 2)
    assert health.numbers("2.13.0+cpu") == (2, 13)
    assert health.satisfies("0.10.2", "<=0.10.2,>=0.9")
    assert not health.satisfies("0.9.9", ">=0.10")
    assert health.satisfies("2.0", ">=2")
    assert not health.satisfies("2.0.1", "==2")
    assert health.satisfies("1.0", "")


def test_requirements_are_taken_apart():
    assert health.split_requirement("jax>=0.10.2") == ("jax", ">=0.10.2", "")
    assert health.split_requirement('jax[cuda13]; extra == "cuda13"') == ("jax", "", "cuda13")
    assert health.split_requirement("ml-collections (>=1.0) ; extra == 'x'") == ("ml-collections", ">=1.0", "x")


def test_nvidia_answers_are_read():
    smi = "535.129.03, 8.0, NVIDIA A100-SXM4-80GB\n535.129.03, 8.0, NVIDIA A100-SXM4-80GB\n"
    assert health.parse_smi(smi) == Gpu("535.129.03", "8.0", "NVIDIA A100-SXM4-80GB")
    assert health.parse_smi("No devices were found") is None
    assert health.parse_smi("") is None
    closed = (
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  470.82.01  Wed Oct 27 21:21:55 UTC 2021\nGCC version: 9.3.0"
    )
    opened = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.15  Release Build"
    assert health.parse_proc(closed) == Gpu("470.82.01")
    assert health.parse_proc(opened) == Gpu("570.86.15")
    assert health.parse_proc("") is None


def test_foreign_libraries_are_found_in_the_library_path(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("libcudnn.so.8", "libcublas.so.12.1", "libz.so.1"):
        (tmp_path / "a" / name).touch()
    found = health.find_gpu_libraries(f"{tmp_path / 'a'}::{tmp_path / 'absent'}")
    assert [pathlib.Path(f).name for f in found] == ["libcublas.so.12.1", "libcudnn.so.8"]
    assert health.find_gpu_libraries("") == ()


def test_extras_are_those_of_the_project(root):
    optional = set(tomllib.loads((root / "pyproject.toml").read_text())["project"]["optional-dependencies"])
    assert set(health.EXTRAS) | set(health.CUDA) | {"tpu", "test", "dev"} == optional
    listed = {health.split_requirement(r)[2] for r in health.requirements()} - {""}
    assert listed == optional


def test_every_finding_of_a_made_up_fault_reads_as_text():
    text = health.report([Finding("disk", "fault", "full", "free some"), Finding("python", "ok", "3.11.7")])
    assert text.splitlines() == [
        "fault disk           full",
        "      -> free some",
        "ok    python         3.11.7",
        "faults: 1",
    ]


def test_json_and_exit_codes(monkeypatch, capsys):
    monkeypatch.setattr(health, "look", lambda: HEALTHY)
    assert doctor.main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["healthy"] is True
    monkeypatch.setattr(health, "look", lambda: sick(free_bytes=0))
    assert doctor.main(["--json"]) == 1
    said = json.loads(capsys.readouterr().out)
    assert [f["check"] for f in said["findings"] if f["level"] == "fault"] == ["disk"]
    assert doctor.main([]) == 1
    assert "faults: 1" in capsys.readouterr().out


def test_looking_at_this_machine(tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    (cache / "program").write_bytes(b"0" * 100)
    host = health.look({"PATH": "", "JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)})
    assert host.devices == ("cpu", 1, "cpu")
    assert {"jax", "jaxlib", "flax", "numpy"} <= set(host.versions)
    assert (host.cache, host.cache_error, host.cache_bytes) == (cache, None, 100)
    for check in (health.check_python, health.check_packages, health.check_jaxlib):
        assert check(host).level == "ok"


def test_a_jax_that_cannot_be_asked_is_a_finding(monkeypatch):
    monkeypatch.setattr(health, "_PROBE", "import sys; print('half an answer'); sys.exit('ImportError: broken')")
    host = health.look({"PATH": ""})
    assert host.devices is None
    assert "ImportError: broken" in health.check_devices(host).message
