"""Every packaged configuration builds its system and says how it is run and what it costs."""

from __future__ import annotations

import ast
import importlib.util
import pathlib

import pytest

from medgen_jax import systems
from medgen_jax.core import config as configs
from medgen_jax.engine.preflight import check_system

FILES = sorted((pathlib.Path(__file__).resolve().parents[1] / "configs").glob("*.py"))


def loaded(file):
    spec = importlib.util.spec_from_file_location(file.stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config()


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_it_builds(file):
    config = loaded(file)
    configs.validate_types(config)
    module = systems.load(systems.name_of(config))
    for resolved in (config, configs.resolve(config, 1000)):
        assert check_system(module.build(resolved)) is None  # by not raising


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.stem)
def test_it_says_how_it_is_run_and_what_it_costs(file):
    text = ast.get_docstring(ast.parse(file.read_text()))
    assert f"--config configs/{file.name}" in text and "Cost:" in text
    assert len(file.read_text().splitlines()) < 80


def test_every_system_has_a_configuration():
    assert {systems.name_of(loaded(file)) for file in FILES} == set(systems.REGISTRY)
