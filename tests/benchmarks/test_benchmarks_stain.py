"""The speed of stain normalisers: forms of one method make one image, and lines say what was measured."""

from __future__ import annotations

import json
import sys

import jax
import numpy as np
import pytest

from benchmarks import stain as benchmark
from medgen_jax import stain

SIZE = 32


@pytest.fixture(scope="module")
def material():
    """A target (h, w, 3) and a batch of two tiles."""
    return benchmark.tiles(1, SIZE, seed=1)[0], benchmark.tiles(2, SIZE)


def test_every_method_of_two_stains_or_lab_is_measured():
    assert set(benchmark.OPTIONS) == set(stain.METHODS) - {"histogram"}


def test_tiles_are_levels_of_8_bits(material):
    _, batch = material
    assert batch.shape == (2, SIZE, SIZE, 3) and batch.dtype == np.float32
    np.testing.assert_allclose(255 * batch, np.rint(255 * batch), atol=1e-4)
    assert np.abs(batch[0] - batch[1]).mean() > 0.05


SLOW = dict.fromkeys(("macenko", "vahadane"), (pytest.mark.slow, pytest.mark.ci_slow))  # to compile


@pytest.mark.parametrize("method", [pytest.param(name, marks=SLOW.get(name, ())) for name in benchmark.OPTIONS])
def test_numpy_and_we_make_the_same_images(material, method):
    target, batch = material
    found = {
        "jax": benchmark.ours(method, target, batch, jax.devices()[0]),
        "numpy": benchmark.with_numpy(method, target, batch),
    }
    apart = benchmark.differences(found)
    assert apart["jax"] == 0 and 0 < apart["numpy"] < 0.1
    assert np.abs(benchmark.LEVELS["jax"](found["jax"]()) - 255 * batch).mean() > 2  # which are not what came in


@pytest.mark.parity
@pytest.mark.parametrize("method", list(benchmark.OPTIONS))
def test_pytorch_and_numpy_make_the_same_images(material, method):
    pytest.importorskip("torch", reason="needs PyTorch")
    target, batch = material
    theirs = benchmark.LEVELS["torch"](benchmark.with_torch(method, target, batch)())
    numpys = benchmark.LEVELS["numpy"](benchmark.with_numpy(method, target, batch)())
    assert theirs.shape == batch.shape
    np.testing.assert_allclose(theirs, numpys, atol=2)  # nearest ranks there, interpolated ones here


def test_another_image_is_not_timed(material):
    _, batch = material
    made = {"jax": lambda: batch, "numpy": lambda: list(batch)}
    assert benchmark.differences(made) == {"jax": 0, "numpy": 0}
    made["numpy"] = lambda: list(batch + 0.01)
    with pytest.raises(ValueError, match=r"numpy makes other images: 2\.55 grey levels apart"):
        benchmark.differences(made)
    made["numpy"] = lambda: list(batch * np.nan)
    with pytest.raises(ValueError, match="nan grey levels"):
        benchmark.differences(made)


def test_lines_say_what_was_measured(monkeypatch, capsys):
    def makers(method, target, batch, device):
        assert target.shape == (224, 224, 3) and device.platform == "cpu"
        return {"jax": lambda: batch, "numpy": lambda: list(batch + 1 / 255)}

    monkeypatch.setattr(benchmark, "makers", makers)
    monkeypatch.setattr(benchmark, "MOST_APART", 1.5)
    monkeypatch.setattr(benchmark, "SIZES", {224: 2})
    monkeypatch.setattr(sys, "argv", ["stain", "--methods", "vahadane", "--rounds", "2"])
    benchmark.main()
    ours, numpys = map(json.loads, capsys.readouterr().out.splitlines())
    for line in (ours, numpys):
        assert (line["method"], line["size"], line["batch"], line["rounds"]) == ("vahadane", 224, 2, 2)
        assert line["tiles_per_s"] * line["ms_per_tile"] == pytest.approx(1000, rel=2e-3)
    assert (ours["form"], ours["jax_times_faster"], ours["levels_from_jax"]) == ("jax", 1, 0)
    assert (numpys["form"], numpys["levels_from_jax"]) == ("numpy", 1.0)
