"""Walks through codes: arcs by hand, closed ways, and the file."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.synthesis import walk

EAST, NORTH = np.array([1.0, 0, 0]), np.array([0, 1.0, 0])


def test_a_right_angle_by_hand():
    codes = walk.spherical(EAST, NORTH, np.array([0, 1 / 3, 0.5, 1]))
    half = np.sqrt(0.5)
    expected = [[1, 0, 0], [np.sqrt(3) / 2, 0.5, 0], [half, half, 0], [0, 1, 0]]
    np.testing.assert_allclose(codes, expected, atol=1e-12)


def test_codes_on_the_way_are_as_long_as_its_ends():
    rng = np.random.default_rng(0)
    start, end = (code / np.linalg.norm(code) * 10 for code in rng.standard_normal((2, 100)))
    lengths = np.linalg.norm(walk.spherical(start, end, np.linspace(0, 1, 7)), axis=1)
    np.testing.assert_allclose(lengths, 10, atol=1e-9)


@pytest.mark.parametrize("end", [EAST, 3 * EAST, -EAST, 0 * EAST])
def test_where_there_is_no_arc_the_way_is_straight(end):
    codes = walk.spherical(EAST, end, np.array([0, 0.25, 1]))
    np.testing.assert_allclose(codes, [EAST, 0.75 * EAST + 0.25 * end, end], atol=1e-6)


def test_the_way_passes_its_stops_and_comes_back():
    stops = np.array([EAST, NORTH, [0, 0, 1.0]])
    codes = walk.path_through(stops, 6)
    assert codes.shape == (6, 3) and codes.dtype == np.float32
    np.testing.assert_allclose(codes[::2], stops, atol=1e-7)
    half = np.sqrt(0.5)
    np.testing.assert_allclose(codes[5], [half, 0, half], atol=1e-6)
    np.testing.assert_allclose(walk.path_through(stops[:1], 2), [EAST, EAST])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_file_is_an_endless_gif_that_says_what_it_is(tmp_path, channels):
    frames = [np.full((8, 12, channels), 40 * i, np.uint8) for i in range(5)]
    path = walk.check_name(tmp_path / "walk.gif", False)
    walk.write(path, frames)
    image = Image.open(path)
    assert (image.size, image.n_frames, image.info["loop"]) == ((12, 8), 5, 0)
    assert image.info["comment"] == b"synthetic image, not a patient"
    image.seek(3)
    assert abs(int(np.asarray(image.convert("L"))[0, 0]) - 120) <= 2
    assert walk.check_name(path, False) == path  # its own walks are replaced


def test_other_places_are_refused(tmp_path):
    (tmp_path / "mine.gif").write_bytes(b"GIF89a")
    with pytest.raises(UserError, match=r"walk\.mp4: walks are written as GIF; name it walk\.gif"):
        walk.check_name(tmp_path / "walk.mp4", False)
    with pytest.raises(UserError, match="no such folder"):
        walk.check_name(tmp_path / "none/walk.gif", False)
    with pytest.raises(UserError, match=r"mine\.gif: exists already"):
        walk.check_name(tmp_path / "mine.gif", False)
    assert walk.check_name(tmp_path / "mine.gif", True)
