"""Pyramids written row by row: every level as computed whole, seen alike by tifffile and OpenSlide; all or nothing."""

from __future__ import annotations

import errno

import numpy as np
import pytest
import tifffile
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.data import images
from medgen_jax.data.formats import ome_tiff
from medgen_jax.data.slides import open_slide

ABOUT = ome_tiff.About('Synthetic <image> & "text"', "medgen_jax 0", (0.25, 0.5))


def picture(height, width, channels=3):
    """Smooth with some noise, as lossy codecs like it."""
    y, x = np.mgrid[:height, :width]
    base = 128 + 60 * np.sin(y / 40) + 50 * np.cos(x / 55)
    noise = np.random.default_rng(0).normal(0, 2, (height, width, channels))
    return np.clip(base[..., None] + noise + 5 * np.arange(channels), 0, 255).astype(np.uint8)


def write(path, array, compression="deflate", about=ABOUT, step=97):
    with ome_tiff.create(path, *array.shape, about, compression) as pyramid:
        for start in range(0, len(array), step):
            pyramid.write(array[start : start + step])
    return pyramid


def levels_of(array):
    made = [array]
    while max(made[-1].shape) > ome_tiff.SMALLEST:
        made.append(ome_tiff.halved(made[-1]))
    return made


def test_means_of_two_by_two():
    image = np.array([[0, 1, 10], [2, 4, 20], [5, 5, 255]], np.uint8)[..., None]
    # (0+1+2+4)/4 = 1.75; (10+20)/2 = 15; (5+5)/2 = 5; the corner alone.
    np.testing.assert_array_equal(ome_tiff.halved(image)[..., 0], [[2, 15], [5, 255]])


def test_levels_shrink_until_they_are_small():
    assert ome_tiff.level_sizes(1, 1) == [(1, 1)]
    assert ome_tiff.level_sizes(512, 100) == [(512, 100)]
    assert ome_tiff.level_sizes(513, 100) == [(513, 100), (257, 50)]
    assert ome_tiff.level_sizes(4000, 2001) == [(4000, 2001), (2000, 1001), (1000, 501), (500, 251)]


@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("shape", [(1, 1, 3), (1301, 777, 3), (600, 512, 1)])
def test_every_level_is_that_of_the_whole_image(tmp_path, monkeypatch, shape, big):
    monkeypatch.setattr(ome_tiff, "_CLASSIC_LIMIT", 0 if big else 1 << 32)
    array, path = picture(*shape), tmp_path / "x.ome.tif"
    pyramid = write(path, array)
    wanted = [level.squeeze(-1) if shape[-1] == 1 else level for level in levels_of(array)]
    with tifffile.TiffFile(path) as tiff:
        assert tiff.is_bigtiff == big and tiff.is_ome
        chain = [page.offset for page in tiff.pages]
        assert [page.subfiletype for page in tiff.pages] == [0] + [1] * (len(wanted) - 1)
        (series,) = tiff.series
        # Sub-directories, which OME readers follow, and the chain are the same directories.
        assert [level.pages[0].offset for level in series.levels] == chain
        for level, right in zip(series.levels, wanted, strict=True):
            np.testing.assert_array_equal(level.asarray().reshape(right.shape), right)
    np.testing.assert_array_equal(pyramid.smallest.reshape(wanted[-1].shape), wanted[-1])
    # The reader of ordinary images takes the full level, and libtiff all of them.
    np.testing.assert_array_equal(images.read_image(path), array)
    with Image.open(path) as file:
        assert file.n_frames == len(wanted)
        np.testing.assert_array_equal(np.asarray(file).reshape(array.shape), array)


def test_openslide_sees_the_same(tmp_path):
    openslide = pytest.importorskip("openslide", reason="needs OpenSlide (extra wsi)")
    array, path = picture(1301, 777), tmp_path / "x.ome.tif"
    write(path, array)
    with openslide.OpenSlide(path) as slide:
        assert slide.level_dimensions == ((777, 1301), (389, 651), (195, 326))
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        assert float(slide.properties["openslide.mpp-y"]) == pytest.approx(0.25)
        for level, right in enumerate(levels_of(array)):
            seen = np.asarray(slide.read_region((0, 0), level, slide.level_dimensions[level]))
            np.testing.assert_array_equal(seen[..., :3], right)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_is_smaller_and_close(tmp_path, channels):
    array = picture(700, 600, channels)
    write(tmp_path / "a.tif", array)
    write(tmp_path / "b.tif", array, "jpeg")
    assert (tmp_path / "b.tif").stat().st_size < (tmp_path / "a.tif").stat().st_size / 2
    with Image.open(tmp_path / "b.tif") as file:
        made = np.asarray(file.convert("RGB" if channels == 3 else "L")).reshape(array.shape).astype(int)
    assert np.abs(made - array).mean() < 3
    assert np.abs((made - array).mean((0, 1))).max() < 1  # no cast


def test_what_the_file_says(tmp_path):
    write(tmp_path / "x.ome.tif", picture(700, 40))
    with tifffile.TiffFile(tmp_path / "x.ome.tif") as tiff:
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]
        assert pixels["Description"] == ABOUT.description
        pixels = pixels["Pixels"]
        assert (pixels["SizeX"], pixels["SizeY"], pixels["SizeC"], pixels["Type"]) == (40, 700, 3, "uint8")
        assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeY"]) == (0.5, 0.25)
        assert tiff.pages[0].software == "medgen_jax 0"
        # Pixels per centimetre: 20,000 and 40,000 at the full level, half of that at the next one.
        assert [page.tags["XResolution"].value for page in tiff.pages] == [(20000, 1), (10000, 1)]
        assert [page.tags["YResolution"].value for page in tiff.pages] == [(40000, 1), (20000, 1)]
    write(tmp_path / "y.ome.tif", picture(20, 20), about=ome_tiff.About("text", "program"))
    with tifffile.TiffFile(tmp_path / "y.ome.tif") as tiff:
        assert "PhysicalSize" not in tiff.ome_metadata and "XResolution" not in tiff.pages[0].tags
    with open_slide(tmp_path / "x.ome.tif") as slide:
        assert slide.microns_per_pixel == (0.25, 0.5)


def test_nothing_is_left_of_a_file_that_was_not_finished(tmp_path):
    array, path = picture(100, 80), tmp_path / "x.tif"
    path.write_bytes(b"old")

    def attempt(rows):
        with ome_tiff.create(path, 100, 80, 3, ABOUT) as pyramid:
            pyramid.write(rows)

    with pytest.raises(ValueError, match="50 of 100 rows"):
        attempt(array[:50])
    with pytest.raises(ValueError, match="do not continue"):
        attempt(picture(101, 80))
    with pytest.raises(ValueError, match="do not continue"):
        attempt(array[:, :79])
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]
    attempt(array)
    np.testing.assert_array_equal(tifffile.imread(path), array)


def test_a_full_disk_is_one_message(tmp_path, monkeypatch):
    def full(tile):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ome_tiff, "_deflated", full)
    with pytest.raises(UserError, match=r"x.tif: cannot be written \(No space left on device\)"):
        write(tmp_path / "x.tif", picture(20, 20))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match=r"none/x.tif: cannot be written \(No such file"):
        write(tmp_path / "none/x.tif", picture(20, 20))


@pytest.mark.parametrize("wrong", [(20, 20, 2, "deflate"), (20, 20, 3, "zip"), (0, 20, 3, "jpeg")])
def test_what_cannot_be_written_is_an_error(tmp_path, wrong):
    *shape, compression = wrong
    with (
        pytest.raises(ValueError, match="cannot be written"),
        ome_tiff.create(tmp_path / "x.tif", *shape, ABOUT, compression),
    ):
        pass


def test_estimates_grow_with_the_tissue():
    whole, none = (ome_tiff.estimate(10_000, 10_000, 3, "deflate", share) for share in (1, 0))
    # 300 MB of pixels, a third more for the smaller levels, at 0.8 bytes a byte.
    assert 320e6 < whole < 330e6 and none < 6e6
    assert ome_tiff.estimate(10_000, 10_000, 3, "jpeg") < whole / 3
