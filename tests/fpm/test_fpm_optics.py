"""The description of a microscope: what follows from it, how it is read, what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.fpm import Board, Centres, Grid, Optics, Points, sampling_faults
from medgen_jax.fpm.sampling import camera_sampling, circle_overlap

#: The red stack of the public blood smear, as a configuration file would hold it.
SMEAR = {
    "wavelength": "630e-9",  # text, as YAML reads it
    "na": 0.1,
    "magnification": 2,
    "camera_pixel": 3.69e-6,
    "defocus": -55.0e-6,
    "leds": {"layout": "grid", "columns": 15, "rows": 15, "pitch": 4.0e-3, "order": "spiral", "height": 90.88e-3},
    "glass": {"thickness": 1.0e-3, "index": 1.52},
}


def leds(**changes: object) -> dict[str, object]:
    """The smear's LEDs with other fields."""
    return SMEAR["leds"] | changes


def test_what_follows_from_the_blood_smear() -> None:
    optics = Optics.from_mapping(SMEAR)
    assert optics.pixel == pytest.approx(1.845e-6) and optics.wavelength == pytest.approx(630e-9)
    assert optics.radius(128) == pytest.approx(0.1 / 630e-9 * 128 * 1.845e-6)
    assert camera_sampling(optics) == pytest.approx(1.707, abs=1e-3)
    # A slide of thickness t and index n lets LEDs near the axis appear t / n farther away than the glass does.
    assert optics.sines[1] == pytest.approx((4 / np.hypot(4, 90.88 + 1 / 1.52), 0), abs=2e-5)
    assert optics.synthetic_na == pytest.approx(0.497, abs=1e-3)
    assert (optics.count, optics.factor, optics.bright_field.sum()) == (225, 3, 21)
    assert dataclasses.replace(optics, upsampling=4).factor == 4
    assert sampling_faults(optics) == ()


def test_the_overlap_of_circles_by_hand() -> None:
    assert circle_overlap(0.0, 0.1) == 1 and circle_overlap(0.2, 0.1) == 0 and circle_overlap(0.5, 0.1) == 0
    # A gap of one radius: x = 1 / 2, (2 / pi) (pi / 3 - sqrt(3) / 4).
    assert circle_overlap(0.1, 0.1) == pytest.approx(2 / 3 - np.sqrt(3) / (2 * np.pi))
    grid = np.hypot(*np.meshgrid(np.linspace(-1, 1.7, 2000), np.linspace(-1, 1, 2000)))
    other = np.hypot(*np.meshgrid(np.linspace(-1, 1.7, 2000) - 0.7, np.linspace(-1, 1, 2000)))
    assert ((grid <= 1) & (other <= 1)).sum() / (grid <= 1).sum() == pytest.approx(circle_overlap(0.7, 1.0), abs=2e-3)
    assert Optics.from_mapping(SMEAR).overlap == pytest.approx(0.724, abs=1e-3)


@pytest.mark.parametrize(
    "board",
    [
        leds(first=[6, 6], origin=[6.5, 7], flip_x=True, offset=[0, "1e-3"], rotation_degrees=-2),
        {"layout": "rings", "counts": [1, 8, 12], "step": 9.0e-3, "start_degrees": 90, "height": 0.11},
        {"layout": "dome", "counts": [1, 6], "step_degrees": 10, "height": 0.05, "scale": 1.01},
        {"layout": "points", "positions": np.array([[0, 0], [4e-3, -1e-3]]), "height": 0.1},
    ],
)
def test_a_mapping_is_read_and_written_back(board: dict[str, object]) -> None:
    optics = Optics.from_mapping(SMEAR | {"leds": board, "tile": [1e-4, -2e-4], "upsampling": 5})
    again = Optics.from_mapping(optics.to_mapping())
    assert again == optics and hash(again) == hash(optics)
    assert again.to_mapping()["leds"]["layout"] == board["layout"]
    moved = dataclasses.replace(optics, tile=(0.0, 0.0))
    assert moved != optics and np.all(moved.sines[:, 0] > optics.sines[:, 0])


def test_measured_centres_are_those_of_their_tile() -> None:
    cells = [[0.25, -3.5], [4.0, 1.0]]
    mapping = {k: v for k, v in SMEAR.items() if k != "glass"} | {
        "leds": {"layout": "centres", "cells": cells, "size": 32}
    }
    optics = Optics.from_mapping(mapping)
    np.testing.assert_allclose(optics.centres(32), cells, rtol=1e-12)
    np.testing.assert_allclose(optics.centres(64), 2 * np.array(cells), rtol=1e-12)
    assert Optics.from_mapping(optics.to_mapping()) == optics
    shifted = dataclasses.replace(optics.leds, shift=(-2.0, 1.0))
    np.testing.assert_allclose(
        dataclasses.replace(optics, leds=shifted).centres(32), np.add(cells, (-2, 1)), rtol=1e-12
    )
    with pytest.raises(UserError, match="hold for one tile"):
        dataclasses.replace(optics, tile=(1e-4, 0.0))
    with pytest.raises(UserError, match="would be light of NA 1.6"):
        dataclasses.replace(optics, leds=Centres(((150.0, 0.0),), 32))


def test_a_tile_sees_the_leds_from_where_it_is() -> None:
    board = Board(Points(((0.0, 0.0), (0.0, 2e-3))), 0.1)
    optics = Optics(0.5e-6, 0.1, 4, 4e-6, board).at_pixel(1000.5, 300.5, (1002, 1002))
    assert optics.tile == pytest.approx((500e-6, -200e-6))  # pixels of 1 um, middle of the frame at 500.5
    assert optics.sines[0] == pytest.approx((-5e-3, 2e-3), rel=1e-3)
    assert optics.sines[1] == pytest.approx((-5e-3, 22e-3), rel=1e-3)


def test_faults_are_sentences_with_a_remedy() -> None:
    optics = Optics.from_mapping(SMEAR | {"camera_pixel": 7.0e-6, "upsampling": 3, "leds": leds(pitch=12.0e-3)})
    pixel, upsampling, overlap = sampling_faults(optics)
    assert "undersample the field 1.11 times" in pixel and "needs 3.15 um or less" in pixel
    assert "upsampling = 3 is too little for the synthetic NA 0.893" in upsampling and "it needs 10" in upsampling
    assert "overlap by 24 % of their area: at least 35 % are needed" in overlap
    far = dataclasses.replace(optics, leds=Board(Grid(2, 1, 0.04), 0.09))
    assert any(
        "no LED lies within the NA: the nearest to the axis has NA 0.21" in fault for fault in sampling_faults(far)
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wavelength": 532}, "optics.wavelength = 532: lengths are in metres.*532 nm is 5.32e-07"),
        ({"wavelength": 0.532}, "0.532 um is 5.32e-07"),
        ({"wavelength": "red"}, "optics.wavelength = 'red': expected a number"),
        ({"wavelength": None}, "optics.wavelength = None: expected a number"),
        ({"wavelenth": 5e-7}, "optics: field 'wavelenth' is unknown; did you mean 'wavelength'?"),
        ({"na": 1.3}, "optics.na = 1.3: .*cannot exceed the refractive index"),
        ({"na": True}, "optics.na = True: expected a number"),
        ({"camera_pixel": 3.69}, "3.69 um is 3.69e-06"),
        ({"upsampling": 2.5}, "optics.upsampling = 2.5: expected a whole number"),
        ({"upsampling": 0}, "optics.upsampling = 0"),
        ({"defocus": -55}, "optics.defocus = -55: lengths are in metres"),
        ({"tile": [1e-4]}, "optics.tile = .*expected 2 values, got 1"),
        ({"tile": 3}, "optics.tile = 3: expected a list"),
        ({"glass": {"thickness": 1e-3, "n": 1.5}}, "optics.glass: field 'n' is unknown"),
        ({"glass": 1e-3}, "optics.glass: expected fields with values, got float"),
        ({"leds": [1, 2]}, "optics.leds: expected fields with values, got list"),
        ({"leds": leds(layout="gird")}, "optics.leds.layout = 'gird': expected one of grid, rings"),
        ({"leds": leds(heigth=1)}, "optics.leds: field 'heigth' is unknown; did you mean 'height'?"),
        ({"leds": leds(flip_x=1)}, "optics.leds.flip_x = 1: expected bool"),
        ({"leds": {k: v for k, v in leds().items() if k != "height"}}, "optics.leds: field 'height' is missing"),
        ({"leds": {k: v for k, v in leds().items() if k != "pitch"}}, "optics.leds: field 'pitch' is missing"),
    ],
)
def test_bad_fields_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message):
        Optics.from_mapping(SMEAR | changes)


@pytest.mark.parametrize("name", ["wavelength", "na", "magnification", "camera_pixel", "leds"])
def test_missing_fields_are_named(name: str) -> None:
    with pytest.raises(UserError, match=f"optics: field '{name}' is missing"):
        Optics.from_mapping({key: value for key, value in SMEAR.items() if key != name})


def test_a_stack_has_one_frame_per_led() -> None:
    optics = Optics.from_mapping(SMEAR)
    optics.check_frames(225)
    with pytest.raises(UserError, match="there are 224 frames, but optics.leds describe 225 LEDs"):
        optics.check_frames(224)
    with pytest.raises(UserError, match="there are no frames"):
        optics.check_frames(0)
