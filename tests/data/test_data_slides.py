"""Slides: regions equal the pixels that were written, whatever the layout; damaged and foreign files are named."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
import tifffile

from medgen_jax.core.errors import UserError
from medgen_jax.data import slides
from medgen_jax.data.formats import budget, ome_tiff, slide, slide_scanner
from medgen_jax.data.formats.slide_tiff import TiffSlide

SHAPE = (150, 210, 3)
RGB = {"photometric": "rgb", "tile": (48, 64)}
APERIO = "Aperio Image Library v11\r\n210x150 (64x48)|AppMag = 20|MPP = 0.4990|User = someone"


@pytest.fixture(scope="module")
def picture():
    return np.random.default_rng(0).integers(0, 256, SHAPE, dtype=np.uint8)


@pytest.fixture
def openslide():
    return pytest.importorskip("openslide", reason="needs OpenSlide (extra wsi)")


def chain(path, picture, description=None, **options):
    """Levels as pages one after the other, with a thumbnail in strips and a label between and after them."""
    with tifffile.TiffWriter(path, **options) as tiff:
        tiff.write(picture, description=description, metadata=None, **RGB)
        tiff.write(picture[::5, ::5], photometric="rgb", metadata=None, description=description)
        tiff.write(picture[::2, ::2], metadata=None, subfiletype=1, **RGB)
        tiff.write(picture[:48, :80], metadata=None, subfiletype=1, description="label", **RGB)
        tiff.write(picture[::4, ::4], metadata=None, subfiletype=1, **RGB)


def sub_directories(path, picture):
    with tifffile.TiffWriter(path, ome=True) as tiff:
        about = {"axes": "YXS", "PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25}
        tiff.write(picture, subifds=2, metadata=about, compression="zlib", **RGB)
        for step in (2, 4):
            tiff.write(picture[::step, ::step], subfiletype=1, compression="zlib", **RGB)


LAYOUTS = {
    "chain": chain,
    "big": lambda path, picture: chain(path, picture, bigtiff=True),
    "big endian": lambda path, picture: chain(path, picture, byteorder=">"),
    "sub-directories": sub_directories,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_regions_are_the_pixels_that_were_written(tmp_path, picture, layout):
    LAYOUTS[layout](tmp_path / "x.tif", picture)
    with slides.open_slide(tmp_path / "x.tif") as opened:
        # The page of 48 x 80 pixels has another shape and is no level.
        assert opened.levels == ((150, 210), (75, 105), (38, 53))
        for level, step in enumerate((1, 2, 4)):
            whole = picture[::step, ::step]
            np.testing.assert_array_equal(opened.region(level, 0, 0, *whole.shape[:2]), whole)
        for top, left in itertools.product((0, 47, 48, 100), (0, 63, 64, 110)):
            part = opened.region(0, top, left, 50, 100)
            np.testing.assert_array_equal(part, picture[top : top + 50, left : left + 100])
        np.testing.assert_array_equal(opened.region(0, 149, 209, 1, 1), picture[149:, 209:])


def test_our_own_pyramids_are_slides(tmp_path, picture):
    for compression in ("deflate", "jpeg"):
        path = tmp_path / f"{compression}.ome.tif"
        smooth = np.kron(picture[:20, :20], np.ones((30, 40, 1), np.uint8))
        with ome_tiff.create(path, 600, 800, 3, ome_tiff.About("", "", (0.5, 0.5)), compression) as pyramid:
            pyramid.write(smooth)
        with slides.open_slide(path) as opened:
            assert opened.levels == ((600, 800), (300, 400)) and opened.microns_per_pixel == (0.5, 0.5)
            difference = opened.region(0, 10, 20, 580, 770).astype(int) - smooth[10:590, 20:790]
        assert np.abs(difference).mean() < (1e-9 if compression == "deflate" else 12)


def test_a_tile_that_was_not_scanned_is_white(tmp_path, picture):
    path = tmp_path / "x.tif"
    chain(path, picture)
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags["TileByteCounts"]
        counts, place = list(tag.value), tag.valueoffset
    counts[5] = 0  # second row, second column
    with path.open("r+b") as stream:
        stream.seek(place)
        stream.write(struct.pack(f"<{len(counts)}{'H' if tag.dtype == 3 else 'I'}", *counts))
    wanted = picture.copy()
    wanted[48:96, 64:128] = 255
    with TiffSlide(path) as opened:
        np.testing.assert_array_equal(opened.region(0, 0, 0, 150, 210), wanted)


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"description": APERIO}, (0.499, 0.499)),
        ({"resolution": (40000, 20000), "resolutionunit": 3}, (0.5, 0.25)),  # across, then down
        ({"resolution": (50800, 50800), "resolutionunit": 2}, (0.5, 0.5)),
        ({"resolution": (72, 72), "resolutionunit": 2}, None),  # a screen
        ({"resolution": (40000, 40000), "resolutionunit": 1}, None),  # no unit
        ({"resolution": (0, 0), "resolutionunit": 3}, None),
        ({"description": "x|MPP = 1.2.3|"}, None),
        ({"description": '<OME><Pixels PhysicalSizeX="0.5" PhysicalSizeY="5e-4" PhysicalSizeYUnit="mm"/>'}, (0.5, 0.5)),
        ({"description": '<OME><Pixels PhysicalSizeX="0.5" PhysicalSizeY="1" PhysicalSizeYUnit="pixel"/>'}, None),
        ({}, None),
    ],
)
def test_microns_per_pixel(tmp_path, picture, options, wanted):
    tifffile.imwrite(tmp_path / "x.tif", picture, metadata=None, **RGB, **options)
    with TiffSlide(tmp_path / "x.tif") as opened:
        assert opened.microns_per_pixel == (wanted and pytest.approx(wanted))
        assert not opened.has_profile


def test_microns_of_ome_units(tmp_path, picture):
    sub_directories(tmp_path / "x.ome.tif", picture)
    with slides.open_slide(tmp_path / "x.ome.tif") as opened:
        assert opened.microns_per_pixel == pytest.approx((0.25, 0.5))


def test_a_colour_profile_is_noticed(tmp_path, picture):
    tifffile.imwrite(tmp_path / "x.tif", picture, metadata=None, iccprofile=b"profile", **RGB)
    with TiffSlide(tmp_path / "x.tif") as opened:
        assert opened.has_profile


class Painted(slide.Slide):
    """A slide in memory that remembers which levels were read, and how much at once."""

    def __init__(self, *levels):
        self.pixels, self.levels = levels, tuple(slide.Size(*level.shape[:2]) for level in levels)
        self.read = []

    def region(self, level, top, left, height, width):
        self.read.append((level, height * width))
        part = self.pixels[level][top : top + height, left : left + width]
        assert part.shape == (height, width, 3)
        return part

    def close(self):
        self.pixels = ()


@pytest.mark.parametrize("pixels", [1 << 22, 1000, 1])
def test_overviews_are_means_whatever_the_blocks(monkeypatch, picture, pixels):
    monkeypatch.setattr(slide, "_BLOCK_PIXELS", pixels)
    painted = Painted(picture[:144, :208])
    made = slides.overview(painted, 0, 8)
    means = picture[:144, :208].reshape(18, 8, 26, 8, 3).mean((1, 3))
    assert np.abs(made - means).max() <= 1
    assert max(size for _, size in painted.read) <= max(pixels, 64)


def test_overviews_of_odd_sizes(monkeypatch, picture):
    grey = np.full((151, 211, 3), 77, np.uint8)
    for pixels in (1 << 22, 500):
        monkeypatch.setattr(slide, "_BLOCK_PIXELS", pixels)
        made = slides.overview(Painted(grey), 0, 4)
        assert made.shape == (38, 53, 3) and (made == 77).all()


def test_overviews_come_from_the_coarsest_level_that_is_fine_enough(picture):
    painted = Painted(picture[:144, :208], picture[:72, :104], picture[:36, :52], picture[:9, :13])
    slides.overview(painted, 0, 8)
    slides.overview(painted, 2, 1)
    assert {level for level, _ in painted.read} == {2}


def broken(path, picture, edit):
    chain(path, picture)
    raw = bytearray(path.read_bytes())
    path.write_bytes(edit(raw))


def save(**options):
    def write(path, picture):
        tifffile.imwrite(path, options.pop("array", lambda p: p)(picture), metadata=None, **(RGB | options))

    return write


BAD = {
    "grey": (save(array=lambda p: p[..., 0], photometric="minisblack"), "8-bit RGB"),
    "deep": (save(array=lambda p: p.astype(np.uint16)), "8-bit RGB"),
    "planes": (save(array=lambda p: np.moveaxis(p, -1, 0).copy(), planarconfig="separate"), "interleaved"),
    "alpha": (save(array=lambda p: p[..., [0, 1, 2, 0]], extrasamples=["unassalpha"]), "8-bit RGB"),
    "strips": (save(tile=None), "no tiled TIFF"),
    "turned": (save(extratags=[(274, 3, 1, 6, True)]), "orientation"),
    "truncated": (lambda path, picture: broken(path, picture, lambda raw: raw[:100_000]), "is truncated"),
    "no directory": (
        lambda path, picture: broken(path, picture, lambda raw: raw[:4] + struct.pack("<I", len(raw)) + raw[8:]),
        "truncated or holds no image",
    ),
    "cut short": (lambda path, picture: broken(path, picture, lambda raw: raw[:100]), "cannot be read"),
    "text": (lambda path, picture: path.write_text("II*"), "cannot be read"),
    "empty": (lambda path, picture: path.write_bytes(b""), "cannot be read"),
    "absent": (lambda path, picture: None, "no such file"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_slide_is_named(tmp_path, picture, name):
    path = tmp_path / "x.tif"
    make, message = BAD[name]
    make(path, picture)
    with pytest.raises(UserError, match=message) as caught:
        slides.open_slide(path)
    assert str(path) in str(caught.value) and not slides.is_slide(path)


def test_damage_inside_a_tile_is_named(tmp_path, picture):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, picture, metadata=None, compression="zlib", **RGB)
    with tifffile.TiffFile(path) as tiff:
        start = tiff.pages[0].dataoffsets[0]
    raw = bytearray(path.read_bytes())
    raw[start : start + 64] = bytes(64)
    path.write_bytes(raw)
    with slides.open_slide(path) as opened, pytest.raises(UserError, match=r"x.tif: cannot be read as a slide"):
        opened.region(0, 0, 0, 10, 10)


def test_impossible_claims_are_refused_before_anything_is_taken(tmp_path, picture, monkeypatch):
    path = tmp_path / "x.tif"
    chain(path, picture)
    monkeypatch.setattr(slide, "_MOST_PIXELS", 150 * 210 - 1)
    with pytest.raises(UserError, match="claims a level of 150 x 210 pixels"):
        slides.open_slide(path)
    monkeypatch.undo()
    monkeypatch.setattr(budget, "FREE_BYTES", 3 * 48 * 64 - 1)
    monkeypatch.setattr(budget, "RATIO", 0)
    with pytest.raises(UserError, match="its tiles need 9,216 bytes"):
        slides.open_slide(path)


def test_other_codecs_name_the_extra(tmp_path, picture):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, picture, metadata=None, **RGB)
    with tifffile.TiffFile(path, mode="r+b") as tiff:
        tiff.pages[0].tags["Compression"].overwrite(33005)  # JPEG 2000 as Aperio writes it
    with pytest.raises(UserError, match=r"APERIO_JP2000_RGB.*medgen_jax\[wsi\]"):
        TiffSlide(path)


def test_scanner_formats_without_their_reader_name_the_extra(tmp_path, picture, monkeypatch):
    monkeypatch.setattr(slide_scanner, "available", lambda: False)
    for suffix in (".ndpi", ".MRXS", ".vms"):
        (tmp_path / f"a{suffix}").write_bytes(b"x")
        with pytest.raises(UserError, match=r"need OpenSlide; pip install 'medgen_jax\[wsi\]'"):
            slides.open_slide(tmp_path / f"a{suffix}")
    chain(tmp_path / "a.svs", picture, APERIO)
    with slides.open_slide(tmp_path / "a.svs") as opened:
        np.testing.assert_array_equal(opened.region(2, 0, 0, 38, 53), picture[::4, ::4])


def test_a_reader_that_does_not_start_is_one_message(tmp_path, monkeypatch):
    def broken_import(name):
        raise ModuleNotFoundError("libopenslide.so.1: cannot open shared object file")

    monkeypatch.setattr(slide_scanner, "available", lambda: True)
    monkeypatch.setattr(slide_scanner.importlib, "import_module", broken_import)
    (tmp_path / "a.ndpi").write_bytes(b"x")
    with pytest.raises(UserError, match=r"OpenSlide does not start \(libopenslide"):
        slides.open_slide(tmp_path / "a.ndpi")


def test_slides_are_known_by_suffix_or_by_size(tmp_path, picture, monkeypatch):
    for name in ("a.svs", "a.NDPI", "a.mrxs", "a.scn", "a.vms", "a.bif"):
        assert not slides.is_slide(tmp_path / name)  # there is no such file
        (tmp_path / name).write_bytes(b"x")
        assert slides.is_slide(tmp_path / name)
    tifffile.imwrite(tmp_path / "a.tif", picture, metadata=None, **RGB)
    (tmp_path / "a.png").write_bytes(b"x")
    assert not slides.is_slide(tmp_path / "a.tif") and not slides.is_slide(tmp_path / "a.png")
    monkeypatch.setattr(budget, "MAX_IMAGE_BYTES", 3 * 150 * 210 - 1)
    assert slides.is_slide(tmp_path / "a.tif")
    monkeypatch.setattr(budget, "MAX_IMAGE_BYTES", 3 * 150 * 210)
    assert not slides.is_slide(tmp_path / "a.tif")


def test_openslide_and_our_reader_agree_on_an_aperio_file(tmp_path, picture, openslide):
    chain(tmp_path / "a.svs", picture, APERIO)
    with slides.open_slide(tmp_path / "a.svs") as theirs, TiffSlide(tmp_path / "a.svs") as ours:
        assert isinstance(theirs, slide_scanner.ScannerSlide)
        assert theirs.levels[:2] == ours.levels[:2] == ((150, 210), (75, 105))
        assert theirs.microns_per_pixel == ours.microns_per_pixel == (0.499, 0.499)
        for level, top, left in ((0, 31, 70), (1, 5, 6)):
            wanted = picture[:: 2**level, :: 2**level][top : top + 60, left : left + 90]
            for opened in (theirs, ours):
                np.testing.assert_array_equal(opened.region(level, top, left, *wanted.shape[:2]), wanted)


def test_openslide_and_our_reader_agree_on_a_real_slide(shared, openslide):
    path = shared / "data/histology/originals/CMU-1-Small-Region.svs"
    with slides.open_slide(path) as theirs, TiffSlide(path) as ours:
        assert theirs.levels == ours.levels == ((2967, 2220),)
        assert theirs.microns_per_pixel == ours.microns_per_pixel == (0.499, 0.499)
        part = theirs.region(0, 1200, 700, 500, 600)
        assert part.std() > 20
        np.testing.assert_array_equal(part, ours.region(0, 1200, 700, 500, 600))


def test_what_was_not_scanned_is_white():
    image = np.array([[[10, 20, 30, 255], [10, 20, 30, 0], [100, 0, 200, 51]]], np.uint8)
    made = slide_scanner._on_white(image)
    # A fifth of the colour and four fifths of white: 0.2 * 100 + 204.
    np.testing.assert_array_equal(made, [[[10, 20, 30], [255, 255, 255], [224, 204, 244]]])
