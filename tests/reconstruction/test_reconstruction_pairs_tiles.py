"""Tiles: where they lie, what their levels stand for, and the files."""

from __future__ import annotations

import pathlib

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.data.images import read_image
from medgen_jax.reconstruction.pairs.registered import Registered
from medgen_jax.reconstruction.pairs.tiles import Ranges, Scale, Tile, least_sides, places, tiles_of, write_tile


def maps(height: int = 40, width: int = 60, colours: int = 3) -> Registered:
    """Phase rises down from -1 to 1, amplitudes across from 1 to 2, times the number of the colour."""
    phase = np.broadcast_to(np.linspace(-1, 1, height)[:, None], (height, width)).astype(np.float32)
    across = np.broadcast_to(np.linspace(1, 2, width), (height, width))
    amplitude = np.stack([across * (1 + n) for n in range(colours)], axis=-1).astype(np.float32)
    return Registered(phase, amplitude, np.ones((height, width), bool), (5, 7), {})


def test_tiles_are_spread_evenly_and_overlap_by_half_at_most() -> None:
    assert places((32, 32), 32, "val", 4) == [("val", 0, 0)]
    assert places((32, 47), 32, "val", 4) == [("val", 0, 7)]  # a second one would repeat more than half of it
    assert places((32, 48), 32, "val", 4) == [("val", 0, 0), ("val", 0, 16)]
    assert [left for _, _, left in places((32, 101), 32, "train", 4)] == [0, 23, 46, 69]


@pytest.mark.parametrize("shape", [(100, 37), (37, 100)])
def test_a_single_field_is_split_across_its_longer_side_with_a_gap(shape: tuple[int, int]) -> None:
    found = places(shape, 32, "", 6)
    axis = 1 + int(shape[1] > shape[0])
    train, val = ([spot[axis] for spot in found if spot[0] == name] for name in ("train", "val"))
    assert train == [0, 30] and val == [68] and 68 - (30 + 32) == 6
    assert {spot[3 - axis] for spot in found} == {2}


def test_the_least_field_holds_its_tiles() -> None:
    assert least_sides(32, 6, alone=False) == (32, 32)
    short, long = least_sides(32, 6, alone=True)
    assert places((short, long), 32, "", 6) == [("train", 0, 0), ("val", 0, 38)]


def test_maps_that_shifts_made_too_small_are_refused() -> None:
    with pytest.raises(UserError, match="have left 40 x 60 pixels, too few for --pair_size 32"):
        tiles_of(maps(), 32, "", 6)
    assert len(tiles_of(maps(), 32, "train", 6)) == 2


def test_valid_shares_are_counted() -> None:
    field = maps(32, 32)
    field.valid[:8] = False
    assert tiles_of(field, 32, "train", 4) == [Tile("train", 0, 0, 0.75)]


@pytest.mark.parametrize("bits", [8, 16])
def test_levels_stand_for_values(bits: int) -> None:
    scale = Scale(-1.0, 3.0 / (2**bits - 1))
    values = np.array([[-2.0, -1.0, 0.3], [1.9, 2.0, 5.0]])
    levels = scale.levels(values, bits)
    assert levels.dtype == f"uint{bits}" and levels[0, 0] == 0 and levels[1, 2] == 2**bits - 1
    stored = scale.low + levels * scale.step
    np.testing.assert_allclose(stored, np.clip(values, -1, 2), atol=scale.step / 2 + 1e-12)


def test_scales_are_those_of_valid_training_values() -> None:
    field = maps(32, 32)
    field.valid[-1] = False
    field.phase[-1], field.amplitude[-1] = 100, 100
    ranges = Ranges()
    ranges.add(field, [Tile("train", 0, 0, 1.0)], 32)
    phase, *amplitudes = ranges.scales(8)
    assert phase.low == pytest.approx(-1, abs=0.01) and phase.low + 255 * phase.step == pytest.approx(0.935, abs=0.01)
    assert [s.low for s in amplitudes] == [0, 0, 0]
    np.testing.assert_allclose([255 * s.step for s in amplitudes], [2, 4, 6], rtol=0.01)


def test_constants_have_a_scale() -> None:
    field = maps(32, 32, colours=1)
    field.phase[:], field.amplitude[:] = 0.5, 0
    ranges = Ranges()
    ranges.add(field, [Tile("train", 0, 0, 1.0)], 32)
    assert [s.levels(np.full(2, s.low), 8).tolist() for s in ranges.scales(8)] == [[0, 0], [0, 0]]


def test_files_of_a_tile(tmp_path: pathlib.Path) -> None:
    field, scales = maps(), [Scale(-1, 2 / 255), *(Scale(0, n / 100) for n in (1, 2, 3))]
    field.valid[4, 6] = False
    clipped = write_tile(tmp_path, "a", field, Tile("val", 4, 6, 1.0), 32, scales, 8, 1)
    box = slice(4, 36), slice(6, 38)
    assert clipped == 0
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.png")) == [
        "amplitude/val/A/a.png", "amplitude/val/B/a.png", "masks/val/a.png", "rgb/val/A/a.png", "rgb/val/B/a.png"
    ]  # fmt: skip
    for kind in ("amplitude", "rgb"):
        phase = read_image(tmp_path / kind / "val/A/a.png", 8)[..., 0]
        np.testing.assert_allclose(phase * (2 / 255) - 1, field.phase[box], atol=1.01 / 255)
    colours = read_image(tmp_path / "rgb/val/B/a.png", 8)
    np.testing.assert_allclose(colours * [0.01, 0.02, 0.03], field.amplitude[box], atol=0.0151)
    np.testing.assert_array_equal(read_image(tmp_path / "amplitude/val/B/a.png", 8)[..., 0], colours[..., 1])
    mask = read_image(tmp_path / "masks/val/a.png", 8)[..., 0]
    assert mask[0, 0] == 0 and mask.sum(dtype=int) == 255 * (32 * 32 - 1)


def test_what_lies_outside_of_its_scale_is_counted(tmp_path: pathlib.Path) -> None:
    field = maps(32, 32, colours=1)
    clipped = write_tile(tmp_path, "a", field, Tile("train", 0, 0, 1.0), 32, [Scale(0, 1 / 255), Scale(0, 1)], 8, 0)
    assert clipped == 0.25  # half of the phase is negative, no amplitude is
