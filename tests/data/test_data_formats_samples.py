"""Levels and physical values: exact where integers allow it, within half a level elsewhere."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import samples
from medgen_jax.data.formats.samples import Range, Source, View, dequantise, quantise


def test_ends_middle_and_beyond():
    values = np.array([-1.0, 0.0, 5.0, 10.0, 11.0])
    np.testing.assert_array_equal(quantise(values, 0, 10, 8), [0, 0, 128, 255, 255])  # 127.5 rounds to even
    np.testing.assert_array_equal(quantise(values, 10, 0, 16), [65535, 65535, 32768, 0, 0])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("low", "high"), [(0, 1), (-1000, 3000.5), (5e-7, 2e-7), (1e6, 1e6 + 1)])
def test_values_return_within_half_a_level(bits, low, high):
    values = np.linspace(low, high, 100_003)
    back = dequantise(quantise(values, low, high, bits), low, high, np.float64)
    half = abs(high - low) / (2**bits - 1) / 2
    assert np.abs(back - values).max() <= half * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_level_returns_exactly(dtype):
    levels = np.arange(np.iinfo(dtype).max + 1).astype(dtype)
    for low, high in ((0, 1), (-1024, 3071), (7.5, -2.25)):
        values = dequantise(levels, low, high)
        assert values.dtype == np.float32
        np.testing.assert_array_equal(quantise(values, low, high, 8 * levels.itemsize), levels)


def test_blocks_make_no_difference(monkeypatch):
    values = np.random.default_rng(0).normal(size=(7, 11, 3)).astype(np.float32)
    whole = quantise(values, -2, 2)
    monkeypatch.setattr(samples, "_BLOCK", 10)
    np.testing.assert_array_equal(quantise(values, -2, 2), whole)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_not_finite_is_refused_or_low(bad):
    values = np.array([[0.5, bad], [1.0, 0.0]], np.float32)
    with pytest.raises(UserError, match=r"1 of 4 samples are NaN or infinite"):
        quantise(values, 0, 1)
    np.testing.assert_array_equal(quantise(values, 0, 1, 8, nan="low"), [[128, 0], [255, 0]])
    np.testing.assert_array_equal(quantise(values, 1, 0, 8, nan="low"), [[128, 0], [0, 255]])


@pytest.mark.parametrize("ends", [(1, 1), (0, np.nan), (np.inf, 0), (-1e308, 1e308), ("0", 1)])
def test_impossible_ranges(ends):
    with pytest.raises(UserError, match=r"config\.data\.range_low"):
        quantise(np.zeros(3), *ends)
    with pytest.raises(UserError, match="two distinct finite numbers"):
        View(range=Range(*ends))


@pytest.mark.parametrize(
    "wrong", [{"bits": 12}, {"nan": "skip"}, {"window": "wide"}, {"window": (40, 0)}, {"window": (1, 2, 3)}], ids=str
)
def test_view_names_the_wrong_option(wrong):
    with pytest.raises(UserError, match=next(iter(wrong))):
        View(**wrong)


def test_parts_of_a_path(tmp_path):
    for name in ("a.tif", "odd#1.tif", "b.h5"):
        (tmp_path / name).touch()
    parsed = [Source.parse(tmp_path / f"{name}") for name in ("a.tif#3", "odd#1.tif", "b.h5#g/x[12]", "b.h5#[2]")]
    assert [(s.path.name, s.name, s.index) for s in parsed] == [
        ("a.tif", "3", None),
        ("odd#1.tif", "", None),
        ("b.h5", "g/x", 12),
        ("b.h5", "", 2),
    ]
    assert str(parsed[2]).endswith("b.h5#g/x[12]")
    assert Source.parse("x" * 5000 + "#1").name == ""
    assert Source.parse("no#1/such.tif") == (Source.parse("no#1/such.tif").path, "", None)


def test_numbered_parts(tmp_path):
    (tmp_path / "a.tif").touch()
    assert Source.parse(tmp_path / "a.tif").number(1, "page") == 0
    assert Source.parse(tmp_path / "a.tif#2").number(3, "page") == 2
    with pytest.raises(UserError, match=r"holds 3 pages; choose one with a\.tif#0 to #2"):
        Source.parse(tmp_path / "a.tif").number(3, "page")
    for wanted in ("#3", "#phase", "#-1", "#9999999999"):
        with pytest.raises(UserError, match="holds 3 pages, counted from 0"):
            Source.parse(tmp_path / f"a.tif{wanted}").number(3, "page")
