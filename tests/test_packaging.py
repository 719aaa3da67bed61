"""The distribution: what it asks for, what it carries, and that it works away from the checkout."""

from __future__ import annotations

import ast
import importlib.metadata
import os
import pathlib
import re
import signal
import subprocess
import sys
import tarfile
import tomllib
import zipfile

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import medgen_jax
from medgen_jax.engine.interrupt import EXIT_CODES

ROOT = pathlib.Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]


def build(target: str, source: pathlib.Path, out: pathlib.Path) -> pathlib.Path:
    """Build a wheel or an sdist of ``source`` without a network."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(out)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next(out.glob("*.whl" if target == "wheel" else "*.tar.gz"))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    return build("wheel", ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> pathlib.Path:
    """The wheel's files, as an installation lays them out."""
    site = tmp_path_factory.mktemp("installed") / "site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    return site


def closure(requirements: list[str]) -> set[str]:
    """Canonical names of everything that ``pip install requirements`` brings, as installed here."""
    found: set[tuple[str, str]] = set()
    todo = [(Requirement(r), "") for r in requirements]
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in found:
                found.add((name, wanted))
                todo += [(Requirement(r), wanted) for r in importlib.metadata.requires(name) or []]
    return {name for name, _ in found}


def test_an_install_brings_neither_torch_nor_tensorflow_nor_cuda():
    names = closure(PROJECT["dependencies"] + EXTRAS["test"])
    assert {"jax", "jaxlib", "flax", "numpy", "pytest"} <= names
    heavy = re.compile(r"torch.*|tensorflow|tensorflow-(cpu|gpu|intel).*|keras|tf-nightly.*|nvidia-.*|jax-cuda.*")
    assert [n for n in sorted(names) if heavy.fullmatch(n)] == []


def test_the_closure_follows_extras_of_requirements():
    assert "pluggy" in closure(["pytest"])
    assert "jax-cuda13-plugin" in {canonicalize_name(Requirement(r).name) for r in importlib.metadata.requires("jax")}


def test_no_requirement_is_gpl_or_capped():
    listed = PROJECT["dependencies"] + [r for name, extra in EXTRAS.items() if name != "dev" for r in extra]
    assert "pylibjpeg-libjpeg" not in {canonicalize_name(Requirement(r).name) for r in listed}
    assert [r for r in listed if re.search(r"<|==|~=", r)] == []


def test_accelerators_name_their_cuda():
    assert {name: EXTRAS[name] for name in ("cuda12", "cuda13", "tpu")} == {
        "cuda12": ["jax[cuda12]"],
        "cuda13": ["jax[cuda13]"],
        "tpu": ["jax[tpu]"],
    }


def imports(tree: ast.Module) -> set[str]:
    """Top-level names of all absolute imports of a module, wherever they stand in it."""
    nodes = list(ast.walk(tree))
    plain = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    named = {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    return {name.split(".")[0] for name in plain | named}


def test_every_import_of_the_package_is_declared():
    optional = [r for name, extra in EXTRAS.items() if name not in ("test", "dev") for r in extra]
    declared = {canonicalize_name(Requirement(r).name) for r in PROJECT["dependencies"] + optional}
    providers = importlib.metadata.packages_distributions()
    undeclared = []
    for file in sorted((ROOT / "medgen_jax").rglob("*.py")):
        for module in sorted(imports(ast.parse(file.read_text())) - set(sys.stdlib_module_names) - {"medgen_jax"}):
            distributions = {canonicalize_name(d) for d in providers.get(module, [module])}
            if not distributions & declared:
                undeclared.append(f"{file.relative_to(ROOT)}: {module}")
    assert undeclared == []


def test_the_wheel_carries_code_configurations_images_and_licences(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    code = {str(p.relative_to(ROOT)) for p in (ROOT / "medgen_jax").rglob("*.py")}
    images = {str(p.relative_to(ROOT)) for p in (ROOT / "medgen_jax" / "data" / "isl").rglob("*.png")}
    files = [p for p in (ROOT / "configs").rglob("*") if p.suffix in (".py", ".yaml", ".sbatch")]
    images |= {f"medgen_jax/data/hololab/{name}" for name in ("stack.h5", "optics.yaml", "README.md")}
    configs = {f"medgen_jax/{p.relative_to(ROOT)}" for p in files}
    assert images
    assert "medgen_jax/configs/quickstart.py" in configs
    assert code | images | configs | {"medgen_jax/interop/lpips_lin_v0_1.npz"} <= names
    dist_info = f"medgen_jax-{medgen_jax.__version__}.dist-info"
    assert {f"{dist_info}/licenses/LICENSE", f"{dist_info}/licenses/NOTICE"} <= names
    assert [n for n in names if not n.startswith(("medgen_jax/", dist_info)) or "__pycache__" in n] == []


def test_the_sdist_builds_the_same_wheel(wheel, tmp_path):
    archive = build("sdist", ROOT, tmp_path / "sdist")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    source = tmp_path / f"medgen_jax-{medgen_jax.__version__}"
    assert (source / "tests" / "conftest.py").is_file()
    again = build("wheel", source, tmp_path / "again")
    assert set(zipfile.ZipFile(again).namelist()) == set(zipfile.ZipFile(wheel).namelist())


def run_installed(site: pathlib.Path, folder: pathlib.Path, *arguments: str) -> str:
    """stdout of a Python process that has only the installed package, in an unrelated folder."""
    environ = {**os.environ, "PYTHONPATH": str(site), "PYTHONSAFEPATH": "1"}
    done = subprocess.run([sys.executable, *arguments], cwd=folder, env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_package_finds_its_configurations_from_any_folder(installed, tmp_path):
    code = "from medgen_jax.cli import config_path as p; print(p('quickstart'), p('configs/quickstart.py'), sep='\\n')"
    lines = run_installed(installed, tmp_path, "-c", code).splitlines()
    assert lines == [str(installed / "medgen_jax" / "configs" / "quickstart.py")] * 2


def test_an_installed_package_lists_its_commands(installed, tmp_path):
    assert medgen_jax.__version__ in run_installed(installed, tmp_path, "-m", "medgen_jax")


def test_an_installed_package_holds_intact_metric_heads(installed, tmp_path):
    code = "from medgen_jax.interop import weight_store as w; print(w.HEADS, len(w.heads()))"
    assert run_installed(installed, tmp_path, "-c", code).split() == [
        str(installed / "medgen_jax" / "interop" / "lpips_lin_v0_1.npz"), "17"
    ]  # fmt: skip


def test_papers_of_the_project_agree():
    assert "                                 Apache License" in (ROOT / "LICENSE").read_text()
    assert PROJECT["license"] == "Apache-2.0"
    assert f"\nversion: {medgen_jax.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{medgen_jax.__version__}]" in (ROOT / "CHANGELOG.md").read_text()
    notice = (ROOT / "NOTICE").read_text()
    assert "5db882b" in notice
    assert "lpips_lin_v0_1.npz" in notice and "Richard Zhang" in notice


# -- job files ---------------------------------------------------------------------------------------


def slurm(folder: pathlib.Path, code: int, *arguments: str, **environ: str) -> tuple[int, str]:
    """Run the batch script with stand-ins for Slurm's programs: (exit code, their calls)."""
    for name, status in (("srun", code), ("scontrol", 0)):
        program = folder / name
        program.write_text(f'#!/bin/sh\necho {name} "$@" "ids=$JAX_LOCAL_DEVICE_IDS" >> calls\nexit {status}\n')
        program.chmod(0o755)
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "JAX_LOCAL"))}
    mine = {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "17", "PYTHON": "py"}
    command = ["bash", str(ROOT / "configs" / "cluster" / "slurm.sbatch"), *arguments]
    done = subprocess.run(command, cwd=folder, env={**clean, **mine, **environ}, capture_output=True)
    calls = folder / "calls"
    return done.returncode, calls.read_text() if calls.is_file() else ""


def test_slurm_requeues_a_saved_run(tmp_path):
    code, calls = slurm(tmp_path, 75, "configs/a.py", "runs/a b", "--config.train.steps=3", SLURM_GPUS_ON_NODE="4")
    assert code == 0
    train = "py -m medgen_jax.train --config configs/a.py --workdir runs/a b --multihost --config.train.steps=3"
    assert f"{train} ids=0,1,2,3\n" in calls
    assert "scontrol requeue 17 " in calls


@pytest.mark.parametrize("code", [0, 1, 2, 134])
def test_slurm_passes_other_codes_on(tmp_path, code):
    got, calls = slurm(tmp_path, code, "configs/a.py", "runs/a")
    assert got == code
    assert "scontrol" not in calls


def test_slurm_leaves_the_device_to_jax_with_a_task_per_gpu(tmp_path):
    _, calls = slurm(tmp_path, 0, "a.py", "runs/a", SLURM_GPUS_ON_NODE="4", TASK_PER_GPU="1")
    assert calls.endswith(" ids=\n")


def test_slurm_says_what_it_wants(tmp_path):
    assert slurm(tmp_path, 0, "configs/a.py") == (2, "")


def test_jobset_agrees_with_itself_and_with_the_exit_codes():
    jobset = yaml.safe_load((ROOT / "configs" / "cluster" / "jobset.yaml").read_text())
    (job,) = jobset["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    flags = dict(a.removeprefix("--").partition("=")[::2] for a in container["args"])
    assert spec["parallelism"] == spec["completions"] == int(flags["num_processes"])
    environ = {e["name"]: e.get("value") for e in container["env"]}
    name = jobset["metadata"]["name"]
    assert environ["JAX_COORDINATOR_ADDRESS"].startswith(f"{name}-{job['name']}-0-0.{name}:")
    saved, _ = spec["podFailurePolicy"]["rules"]
    assert set(saved["onExitCodes"]["values"]) == {
        code for number, code in EXIT_CODES.items() if number != signal.SIGINT
    }
    assert saved["onExitCodes"]["containerName"] == container["name"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # without it podFailurePolicy is refused
    assert (ROOT / flags["config"]).is_file()
