"""Colours of a field brought together: level phase, amplitudes in one unit, and what is not to be believed."""

from __future__ import annotations

import pathlib

import led_fields
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Optics
from medgen_jax.fpm.field_of_view import cover_of
from medgen_jax.reconstruction.description import Recording, read_description
from medgen_jax.reconstruction.pairs import registered
from medgen_jax.reconstruction.pairs.registered import Registered, believable, level, register
from medgen_jax.reconstruction.pairs.shifts import moved
from medgen_jax.reconstruction.stacks import open_described

OBJECT = (0.5 + 0.5 * led_fields.smooth(3)) * np.exp(1j * led_fields.smooth(4))


def fitted(objects: dict[str, np.ndarray], margin: int = 10) -> Registered:
    lit = {name: np.ones(obj.shape, bool) for name, obj in objects.items()}
    lit["green"][50, 40] = False
    units = {"red": 2.0, "green": 3.0, "blue": 4.0}
    return register(objects, np.angle(OBJECT), lit, {name: units[name] for name in objects}, "green", margin)


def test_colours_come_to_lie_over_each_other_in_their_units() -> None:
    objects = {"red": moved(OBJECT, -1.3, 0.7), "green": OBJECT, "blue": moved(OBJECT, 0.4, 2.2)}
    maps = fitted(objects)
    assert maps.corner == (13, 13) and maps.phase.shape == (70, 70) and maps.amplitude.shape == (70, 70, 3)
    inside = np.abs(OBJECT)[13:83, 13:83]
    for number, unit in enumerate((2, 3, 4)):
        np.testing.assert_allclose(maps.amplitude[..., number], unit * inside, atol=0.04 * unit)
    np.testing.assert_allclose([*maps.shifts["red"][:2], *maps.shifts["blue"][:2]], [1.3, -0.7, -0.4, -2.2], atol=0.06)
    assert not maps.valid[37, 27] and maps.valid.sum() == 70 * 70 - 1  # the saturated pixel, moved with the corner
    assert maps.amplitude.dtype == maps.phase.dtype == np.float32


def test_one_colour_stays_as_it_is() -> None:
    maps = fitted({"green": OBJECT})
    np.testing.assert_allclose(maps.amplitude[..., 0], 3 * np.abs(OBJECT)[10:86, 10:86], rtol=1e-6)
    assert maps.shifts == {} and np.median(maps.phase[maps.valid]) == 0


def test_a_field_that_is_all_border_is_refused() -> None:
    with pytest.raises(UserError, match="96 x 96 pixels has no part 48 pixels or more from its border"):
        fitted({"green": OBJECT}, margin=48)


def test_a_tilt_is_taken_off_and_the_specimen_stays() -> None:
    rows, columns = np.mgrid[:80, :60]
    cell = 1.5 * (np.hypot(rows - 30, columns - 20) < 12)
    flat = level(cell + 0.02 * rows - 0.05 * columns + 7, np.ones((80, 60), bool))
    np.testing.assert_allclose(flat, cell, atol=1e-5)


def test_phases_of_few_pixels_and_of_none_are_finite() -> None:
    for shape in ((1, 1), (4, 5)):
        for valid in (np.zeros(shape, bool), np.ones(shape, bool)):
            assert np.isfinite(level(np.full(shape, 2.5), valid)).all()


def test_dark_places_and_cuts_are_not_believed() -> None:
    amplitude, phase = np.ones((6, 7)), np.zeros((6, 7))
    amplitude[0, 6] = 0.04
    phase[3:, 2] = 6.0  # a column that rises by a turn between rows 2 and 3, and stands apart from its neighbours
    expected = np.ones((6, 7), bool)
    expected[0, 6] = False
    expected[3:, 1:4] = False
    expected[2, 2] = False
    np.testing.assert_array_equal(believable(phase, amplitude), expected)


def test_border_light_is_that_of_the_pupil_and_the_defocus() -> None:
    described = {**led_fields.OPTICS, "defocus": -20e-6}
    # 2 * 0.5 um / 0.15 and 20 um * 0.15, in pixels of 0.5 um.
    assert registered.spread(Optics.from_mapping(led_fields.OPTICS)) == 14 == led_fields.MARGIN
    assert registered.spread(Optics.from_mapping(described)) == 20


def test_brightness_is_the_root_of_the_counts_above_the_background(tmp_path: pathlib.Path) -> None:
    stack = led_fields.save_stack(tmp_path / "a.npz", np.full((96, 96), 0.5))
    opened = open_described(stack, read_description(led_fields.save_optics(tmp_path / "o.yaml")))
    cover = cover_of((48, 48), 32, 16)
    assert registered.brightness_of(opened, cover) == pytest.approx(np.sqrt(5000), rel=1e-3)
    dim = opened._replace(recording=Recording("intensity", background=1000))
    assert registered.brightness_of(dim, cover) == pytest.approx(np.sqrt(4000), rel=1e-3)
    amplitudes = opened._replace(recording=Recording("amplitude"))
    assert registered.brightness_of(amplitudes, cover) == pytest.approx(5000, rel=1e-3)
    assert registered.lit_of(opened).all() and registered.lit_of(opened).shape == (96, 96)
    assert not registered.lit_of(opened._replace(recording=Recording("intensity", saturation=5000))).any()


def test_maps_come_back_from_their_file(tmp_path: pathlib.Path) -> None:
    maps = fitted({"red": OBJECT, "green": OBJECT})
    registered.write(tmp_path / "maps.h5", maps, {"request": "x"})
    again, facts = registered.read(tmp_path / "maps.h5")
    assert facts == registered.facts_of(tmp_path / "maps.h5") == {"request": "x"}
    assert again.corner == maps.corner and again.shifts == maps.shifts
    for name in ("phase", "amplitude", "valid"):
        np.testing.assert_array_equal(getattr(again, name), getattr(maps, name))


def test_missing_and_cut_files_have_no_facts(tmp_path: pathlib.Path) -> None:
    (tmp_path / "cut.h5").write_bytes(b"\x89HDF")
    assert registered.facts_of(tmp_path / "cut.h5") == registered.facts_of(tmp_path / "absent.h5") == {}
