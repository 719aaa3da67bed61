"""Tiles cover, overlap and blend back; seams are seen."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.ops.tiles import Grid, Seams, seam_score

SIZES = [(64, 64), (65, 64), (100, 333), (20, 64), (1, 1), (128, 40), (1000, 65)]


def blended(grid, tiles):
    return np.concatenate(list(grid.blend(tiles)))


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("overlap", [0, 1, 16, 63])
def test_tiles_cover_overlap_and_stay_inside(height, width, overlap):
    grid = Grid(height, width, 64, overlap)
    for starts, length in ((grid.tops, height), (grid.lefts, width)):
        step = {0: 8, 1: 4, 16: 4, 63: 1}[overlap]
        assert starts[0] == 0 and max(length, 64) <= starts[-1] + 64 < max(length, 64) + step
        assert not np.any(np.array(starts) % step)
        gaps = np.diff(starts)
        assert (gaps <= 64 - overlap).all() and (gaps > 0).all()
        # One tile fewer would not do.
        furthest = (64 - overlap) // step * step
        assert len(starts) == 1 or (len(starts) - 2) * furthest + 64 < length


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("overlap", [0, 16, 40])
def test_cut_and_blend_give_the_image_back(height, width, overlap):
    image = np.random.default_rng(0).normal(size=(height, width, 2)).astype(np.float32)
    grid = Grid(height, width, 64, overlap)
    tiles = [grid.cut(image, *corner) for corner in grid.corners]
    assert {t.shape for t in tiles} == {(64, 64, 2)}
    np.testing.assert_allclose(blended(grid, tiles), image, atol=2e-6)


def test_large_tiles_begin_where_a_network_of_four_halvings_sees_the_same_cells():
    grid = Grid(2048, 2967, 256, 64)
    assert not [start for start in (*grid.tops, *grid.lefts) if start % 16]
    assert grid.tops[-1] == 2048 - 256 and grid.lefts[-1] == 2720
    assert len(grid.tops) == 11 and np.diff(grid.tops).max() <= 192


def test_tiles_of_a_network_with_strides_are_those_of_the_whole_image():
    """A mean over cells of 4 pixels: exact wherever tiles begin at cells, wrong anywhere else."""
    image = np.random.default_rng(0).normal(size=(203, 301, 1)).astype(np.float32)
    grid = Grid(203, 301, 64, 16)

    def cells(tile):
        height, width = (-(-length // 4) * 4 for length in tile.shape[:2])
        tile = np.pad(tile, [(0, height - tile.shape[0]), (0, width - tile.shape[1]), (0, 0)], mode="symmetric")
        return tile.reshape(height // 4, 4, width // 4, 4, 1).mean((1, 3)).repeat(4, 0).repeat(4, 1)

    made = blended(grid, [cells(grid.cut(image, *corner)) for corner in grid.corners])
    np.testing.assert_allclose(made, cells(image)[:203, :301], atol=2e-6)


def test_short_images_are_continued_by_reflection():
    image = np.arange(6, dtype=np.float32).reshape(2, 3, 1)
    tile = Grid(2, 3, 4, 0).cut(image, 0, 0)[..., 0]
    np.testing.assert_array_equal(tile, [[0, 1, 2, 2], [3, 4, 5, 5], [3, 4, 5, 5], [0, 1, 2, 2]])


def test_the_blend_moves_smoothly_from_one_tile_to_the_next():
    grid = Grid(8, 24, 16, 8)
    row = blended(grid, [np.zeros((16, 16, 1)), np.ones((16, 16, 1))])[0, :, 0]
    position = (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(row, np.r_[np.zeros(8), np.sin(np.pi / 2 * position) ** 2, np.ones(8)], atol=1e-6)


def test_rows_come_as_soon_as_they_are_done():
    grid = Grid(160, 64, 64, 16)
    asked = []

    def tiles():
        for corner in grid.corners:
            asked.append(corner)
            yield np.zeros((64, 64, 1))

    bands = grid.blend(tiles())
    assert len(next(bands)) == 48 and len(asked) == 1


@pytest.mark.parametrize("grid", [(0, 5, 4, 0), (5, 5, 4, 4), (5, 5, 4, -1), (5, 5, 0, 0)])
def test_impossible_grids_are_refused(grid):
    with pytest.raises(ValueError, match="overlap smaller than a tile"):
        Grid(*grid)


def test_the_seam_score_sees_steps_at_tile_edges_and_nothing_else():
    grid = Grid(128, 128, 64, 0)
    texture = np.random.default_rng(0).normal(size=(128, 128, 1))
    assert abs(seam_score(texture, grid) - 1) < 0.1
    stepped = texture.copy()
    stepped[:, 64:] += 3
    assert seam_score(stepped, grid) > 1.5
    elsewhere = texture.copy()
    elsewhere[:, 50:] += 3
    assert seam_score(elsewhere, grid) < 1.02
    assert seam_score(np.zeros((128, 128, 3)), grid) == 1
    assert seam_score(texture[:32, :32], Grid(32, 32, 64, 0)) == 1
    assert seam_score(np.repeat([0.0, 1.0], 64)[None, :, None] * np.ones((128, 1, 1)), grid) == float("inf")


@pytest.mark.parametrize("rows", [1, 37, 100])
def test_seams_are_measured_the_same_when_rows_come_few_at_a_time(rows):
    grid = Grid(100, 150, 32, 0)
    image = np.random.default_rng(0).integers(0, 50, (100, 150, 3)).astype(np.uint8)
    for top, left in grid.corners:
        image[top : top + 32, left : left + 32] += np.uint8(3 * ((top + 3 * left) % 20))
    seams = Seams(grid)
    for start in range(0, 100, rows):
        seams.add(image[start : start + rows])
    whole = seam_score(image, grid)
    assert whole > 1.1 and seams.score() == pytest.approx(whole, rel=1e-5)
