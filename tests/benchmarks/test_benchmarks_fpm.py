"""FPM beside SciPy: both forms make the same spectrum, lines tell which was faster."""

from __future__ import annotations

import argparse

import jax
import numpy as np
import pytest

from benchmarks import fpm
from benchmarks.partners import epry

GIVEN = argparse.Namespace(rounds=1, workers=1, passes=2)


@pytest.fixture(scope="module")
def sweep():
    """Two tiles of 32 pixels under 3 x 3 LEDs."""
    return fpm.Sweep(fpm.optics(3), 32, 2, 1, jax.devices()[0])


def test_both_forms_do_the_same_work(sweep):
    assert sweep.difference() < 1e-4
    ours, theirs = sweep.with_jax(), sweep.with_scipy()
    np.testing.assert_allclose(ours.values, np.stack([values for _, values in theirs]), atol=1e-4)
    start = np.asarray(sweep._starts.spectrum)
    assert np.abs(np.asarray(ours.spectrum) - start).max() > 1e-3 * np.abs(start).max()
    assert not np.allclose(theirs[0][0], theirs[1][0])


def test_a_pass_by_hand():
    """One LED, one cell: it takes the measured amplitude and keeps its phase."""
    problem = epry.Problem(np.full((1, 1, 1), 3, np.float32), np.ones((1, 1, 1), np.complex64), np.zeros((1, 2), int))
    spectrum, values = epry.sweep(problem, np.array([[2j]], np.complex64), np.ones((1, 1), np.complex64), 1, 0, 1)
    np.testing.assert_allclose(spectrum, [[3j]])
    np.testing.assert_allclose(values, 1)


def test_lines(sweep, monkeypatch):
    monkeypatch.setattr(fpm, "Sweep", lambda *_: sweep)
    jax_line, scipy_line = fpm.measured(32, 3, 2, GIVEN)
    assert (jax_line["form"], scipy_line["form"], jax_line["what"]) == ("jax", "scipy", "sweep")
    assert jax_line["times_faster"] == pytest.approx(scipy_line["ms_p50"] / jax_line["ms_p50"], rel=2e-3)
    assert jax_line["images_per_s"] == pytest.approx(2e3 / jax_line["ms_p50"], rel=2e-3)
    assert (jax_line["leds"], jax_line["tiles"], jax_line["size"]) == (9, 2, "small")
    monkeypatch.setattr(sweep, "difference", lambda: 0.5, raising=False)
    with pytest.raises(ValueError, match=r"spectra of both forms differ by 0\.5 after one sweep"):
        list(fpm.measured(32, 3, 2, GIVEN))


def test_a_reconstruction_is_measured_of_one_tile_alone():
    found = list(fpm.measured(32, 3, 1, GIVEN))
    assert [(line["what"], line["form"]) for line in found] == [
        ("sweep", "jax"), ("sweep", "scipy"), ("reconstruct", "jax"), ("reconstruct", "scipy"),
    ]  # fmt: skip
    assert found[2]["passes"] == 2 and found[2]["ms_p50"] > 0
