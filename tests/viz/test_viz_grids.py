"""Grids and PNG files: placement, value ranges, metadata, messages."""

import numpy as np
import pytest
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.viz.grids import INVALID, MARKS, PADDING, grid, save_png


def test_images_stand_where_they_belong_with_their_values():
    grey = np.full((10, 12, 1), 0.0, np.float32)
    red = np.zeros((10, 12, 3), np.uint8)
    red[..., 0] = 200
    got = grid([[grey, red], [red]])
    assert got.shape == (3 * PADDING + 20, 3 * PADDING + 24, 3) and got.dtype == np.uint8
    p = PADDING
    assert (got[p : p + 10, p : p + 12] == 128).all()
    assert (got[p : p + 10, 2 * p + 12 : 2 * p + 24] == [200, 0, 0]).all()
    assert (got[2 * p + 10 : 2 * p + 20, p : p + 12] == [200, 0, 0]).all()
    assert (got[2 * p + 10 : 2 * p + 20, 2 * p + 12 :] == 255).all()
    assert (got[:p] == 255).all() and (got[:, :p] == 255).all()


def test_floats_are_clipped_and_black_is_minus_one():
    image = np.array([[-3.0, -1.0, 1.0, 3.0]])
    assert grid([[image]])[PADDING, PADDING:-PADDING, 0].tolist() == [0, 0, 255, 255]


def test_pixels_that_are_not_finite_can_be_seen():
    image = np.zeros((2, 2, 3), np.float32)
    image[0, 0, 1], image[1, 1, 2] = np.nan, np.inf
    got = grid([[image]])[PADDING:-PADDING, PADDING:-PADDING]
    assert tuple(got[0, 0]) == tuple(got[1, 1]) == INVALID and tuple(got[0, 1]) == (128, 128, 128)


def test_smaller_images_are_centred_in_their_cell():
    got = grid([[np.full((8, 8), 255, np.uint8) * 0, np.zeros((2, 4), np.uint8)]])[..., 0]
    cell = got[PADDING:-PADDING, 2 * PADDING + 8 : -PADDING]
    assert np.argwhere(cell == 0).min(0).tolist() == [3, 0] and np.argwhere(cell == 0).max(0).tolist() == [4, 3]


def test_titles_are_drawn_above_their_columns_and_widen_narrow_ones():
    tiles = [[np.zeros((16, 16), np.uint8)] * 2]
    plain, titled = grid(tiles), grid(tiles, ["x", "a long title"])
    assert titled.shape[1] > plain.shape[1] and titled.shape[0] > plain.shape[0]
    band = titled[: titled.shape[0] - 16 - PADDING, :, 0]
    columns = np.flatnonzero((band < 200).any(0))
    assert columns.min() < PADDING + 16 and columns.max() > titled.shape[1] // 2
    assert (titled[-PADDING - 16 : -PADDING, PADDING : PADDING + 16] == 0).all()


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        ([], None, "no image"),
        ([[]], None, "no image"),
        ([[np.zeros((4, 4, 2))]], None, r"row 0, column 0 has shape \(4, 4, 2\)"),
        ([[np.zeros((4, 4)), np.zeros((4, 4), np.int32)]], None, "row 0, column 1 holds int32"),
        ([[np.zeros((4, 4))]], ["a", "b"], "2 titles for 1 columns"),
    ],
)
def test_bad_grids_are_named(rows, labels, message):
    with pytest.raises(UserError, match=message):
        grid(rows, labels)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 3)])
def test_png_holds_the_pixels_and_only_the_marks(tmp_path, shape):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    path = save_png(tmp_path / "samples" / "step_00000150.png", array, ["synthetic"])
    with Image.open(path) as image:
        assert (np.asarray(image) == array.squeeze()).all()
        assert image.text == {"mark": "synthetic", "Disclaimer": MARKS["synthetic"]}
    with Image.open(save_png(tmp_path / "plain.png", array)) as image:
        image.load()
        assert image.info == {}
    assert [p.name for p in (tmp_path / "samples").iterdir()] == ["step_00000150.png"]


def test_marks_are_a_closed_list(tmp_path):
    with pytest.raises(UserError, match="'patient 12' is no mark"):
        save_png(tmp_path / "a.png", np.zeros((4, 4), np.uint8), ["patient 12"])
    assert not list(tmp_path.iterdir())


def test_png_names_what_it_cannot_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/a\.png: cannot be written"):
        save_png(tmp_path / "file" / "a.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(UserError, match="not float64"):
        save_png(tmp_path / "a.png", np.zeros((4, 4)))
