"""The rooms import one way only; outsiders get samplers without the trainer."""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys

import pytest

#: Room -> rooms it may import from. Mains and the files that join rooms may import everything.
ALLOWED = {
    "core": {"core"},
    "ops": {"core", "ops"},
    "nn": {"core", "ops", "nn"},
    "losses": {"core", "ops", "losses"},
    "metrics": {"core", "ops", "metrics"},
    "diffusion": {"core", "ops", "diffusion"},
    "fpm": {"core", "ops", "fpm"},
    "stain": {"core", "ops", "stain"},
    "systems": {"core", "ops", "nn", "losses", "metrics", "diffusion", "fpm", "stain", "systems"},
    "engine": {"core", "ops", "systems", "engine"},
    "data": {"core", "data"},
    "viz": {"core", "viz"},
    "interop": {"core", "interop"},
}
#: Modules of a room that only the standard library and NumPy may feed, besides each other.
WITHOUT_JAX = ("core.config", "core.errors", "core.manifest", "core.streams")


def imported(tree, package):
    """Absolute names of everything a file imports, wherever it does so."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            assert node.level == 0, f"{package}: relative import"
            yield from (f"{base}.{alias.name}" for alias in node.names)


def files(root):
    package = root / "medgen_jax"
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package), ast.parse(path.read_text())


def rooms_imported(path, tree):
    for name in imported(tree, path):
        parts = name.split(".")
        if parts[0] == "medgen_jax" and len(parts) > 1:
            yield parts[1], name


def test_rooms_import_only_what_lies_below(root):
    wrong, seen = [], set()
    for path, tree in files(root):
        room = path.parts[0]
        if room not in ALLOWED:
            continue
        seen.add(room)
        wrong += [
            f"{path} imports {name}" for target, name in rooms_imported(path, tree) if target not in ALLOWED[room]
        ]
    assert not wrong, wrong
    assert {
        "core",
        "ops",
        "nn",
        "losses",
        "metrics",
        "diffusion",
        "fpm",
        "stain",
        "systems",
        "engine",
        "data",
        "viz",
        "interop",
    } <= seen


def test_systems_do_not_import_each_other(root):
    from medgen_jax.systems import REGISTRY

    homes = set(REGISTRY.values())
    for path, tree in files(root):
        own = "medgen_jax." + ".".join(path.with_suffix("").parts)
        if path.parts[0] == "systems" and own in homes:
            names = {".".join(name.split(".")[:3]) for _, name in rooms_imported(path, tree)}
            assert not (names & homes) - {own}, path


def test_engine_knows_no_concrete_system(root):
    for path, tree in files(root):
        if path.parts[0] == "engine":
            names = {name for room, name in rooms_imported(path, tree) if room == "systems"}
            allowed = ("medgen_jax.systems.base", "medgen_jax.systems")
            assert all(name.startswith(allowed[0]) or name == allowed[1] for name in names), (path, names)


def test_data_never_imports_jax(root):
    for path, tree in files(root):
        without = path.parts[0] == "data" or ".".join(path.with_suffix("").parts) in WITHOUT_JAX
        if without:
            tops = {name.split(".")[0] for name in imported(tree, path)}
            assert not tops & {"jax", "flax", "optax", "orbax"}, path


@pytest.mark.parametrize(
    ("room", "commands"), [("evaluation", ["evaluate.py", "severity.py"]), ("conversions", ["convert.py"])]
)
def test_only_commands_import_some_rooms(root, room, commands):
    elsewhere = [(path, tree) for path, tree in files(root) if path.parts[0] != room]
    assert commands == [str(p) for p, tree in elsewhere if room in {name for name, _ in rooms_imported(p, tree)}]


def test_flax_lives_in_nn_and_systems(root):
    for path, tree in files(root):
        if path.parts[0] in (
            "core",
            "ops",
            "losses",
            "metrics",
            "engine",
            "viz",
            "interop",
            "diffusion",
            "fpm",
            "stain",
        ):
            assert "flax" not in {name.split(".")[0] for name in imported(tree, path)}, path


def test_torch_only_in_the_lazy_reader(root):
    users = [str(path) for path, tree in files(root) if "torch" in {n.split(".")[0] for n in imported(tree, path)}]
    assert users == ["interop/torch_file.py"]
    tree = ast.parse((root / "medgen_jax/interop/torch_file.py").read_text())
    assert all("torch" not in {n.split(".")[0] for n in imported(ast.Module([node], []), "")} for node in tree.body
               if isinstance(node, (ast.Import, ast.ImportFrom)))  # fmt: skip


def loaded_after(statement):
    """Top-level packages in ``sys.modules`` of a fresh interpreter after a statement."""
    code = f"{statement}\nimport sys\nprint(' '.join({{name.split('.')[0] for name in sys.modules}}))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(out.stdout.split())


def test_importing_the_package_costs_nothing():
    loaded = loaded_after("import medgen_jax")
    assert not loaded & {"jax", "numpy", "flax", "absl", "PIL"}


def test_sampling_imports_jax_alone():
    loaded = loaded_after("import medgen_jax.sampling")
    assert "jax" in loaded
    assert not loaded & {"flax", "optax", "orbax", "grain", "clu", "absl", "PIL", "tensorboardX", "tensorflow_datasets"}


@pytest.mark.parametrize(
    "main",
    [
        "train",
        "datacheck",
        "prepare",
        "defocus",
        "translate",
        "sample",
        "normalize",
        "counterfactual",
        "reconstruct",
        "evaluate",
        "severity",
        "convert",
        "weights",
        "doctor",
    ],
)
def test_mains_are_thin(root, main):
    path = root / "medgen_jax" / f"{main}.py"
    assert importlib.util.find_spec(f"medgen_jax.{main}")
    assert path.read_text().count("\n") < 110
    importers = [
        str(p)
        for p, tree in files(root)
        if f"medgen_jax.{main}" in {n for _, n in rooms_imported(p, tree)} and p.name != "__main__.py"
    ]
    assert not importers
