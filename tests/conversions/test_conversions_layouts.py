"""The table of layouts agrees with the modules that it names."""

from __future__ import annotations

import inspect

import pytest

from medgen_jax import conversions


@pytest.mark.parametrize("name", conversions.LAYOUTS)
def test_modules_take_the_options_of_the_table(name: str) -> None:
    layout, module = conversions.LAYOUTS[name], conversions.load(name)
    reading, writing = (list(inspect.signature(function).parameters) for function in (module.read, module.write))
    assert name == module.LAYOUT
    assert set(reading[2:]) == set(layout.reading) and reading[1] == "output"
    assert writing[:3] == ["workdir", "output", "which"] and set(writing[3:]) == set(layout.writing)
    assert set(layout.needed) <= {"file", *layout.reading}
