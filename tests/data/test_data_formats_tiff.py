"""TIFF beyond 8 and 16 unsigned bits: every sample type, cut, codec and predictor gives the exact samples."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
import tifffile
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import tiff_segments
from medgen_jax.data.images import Range, View, quantise, read_header, read_image, read_range, write_image

SIZE = (37, 21)
TYPES = ("uint8", "uint16", "uint32", "int16", "int32", "float16", "float32", "float64")
CUTS = ({}, {"rowsperstrip": 5}, {"tile": (16, 32)}, {"byteorder": ">"}, {"bigtiff": True})


def noise(dtype, channels=1):
    rng = np.random.default_rng(channels)
    shape = (*SIZE, channels) if channels > 1 else SIZE
    if np.dtype(dtype).kind == "f":
        return rng.normal(0, 100, shape).astype(dtype)
    info = np.iinfo(dtype)
    return rng.integers(info.min, info.max, shape, endpoint=True).astype(dtype)


def samples_of(path):
    """The stored samples, HWC, as our reader unpacks them."""
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        return tiff_segments.read(tiff.filehandle, page, page.dtype)


@pytest.mark.parametrize("cut", CUTS, ids=str)
@pytest.mark.parametrize("dtype", TYPES)
def test_samples_of_every_type(tmp_path, dtype, cut):
    path = tmp_path / "x.tif"
    for channels, packed in itertools.product((1, 3), (None, "zlib")):
        array = noise(dtype, channels)
        tifffile.imwrite(path, array, photometric="rgb" if channels == 3 else "minisblack", compression=packed, **cut)
        np.testing.assert_array_equal(samples_of(path), array.reshape(*SIZE, channels))


@pytest.mark.parametrize("dtype", TYPES)
def test_separate_planes(tmp_path, dtype):
    path, array = tmp_path / "x.tif", noise(dtype, 3)
    planes = np.ascontiguousarray(np.moveaxis(array, -1, 0))
    for options in ({}, {"tile": (16, 16), "compression": "zlib"}):
        tifffile.imwrite(path, planes, photometric="rgb", planarconfig="separate", **options)
        np.testing.assert_array_equal(samples_of(path), array)


@pytest.mark.parametrize("codec", ["tiff_lzw", "packbits", "zstd", "lzma", "tiff_deflate", "tiff_adobe_deflate"])
@pytest.mark.parametrize("mode", ["L", "RGB", "I;16", "F", "I"])
def test_codecs_of_libtiff(tmp_path, codec, mode):
    """Pillow writes with libtiff, we unpack the bytes and undo libtiff's predictors ourselves."""
    array = noise({"I;16": "uint16", "F": "float32", "I": "int32"}.get(mode, "uint8"), 3 if mode == "RGB" else 1)
    for predictor in (1, 2, 3) if mode == "F" else (1, 2):
        if codec == "packbits" and predictor != 1:
            continue
        path = tmp_path / f"{predictor}.tif"
        Image.fromarray(array).save(path, compression=codec, tiffinfo={317: predictor})
        with tifffile.TiffFile(path) as tiff:
            assert tiff.pages[0].compression != 1
            assert tiff.pages[0].predictor == predictor
        np.testing.assert_array_equal(samples_of(path), array.reshape(*SIZE, -1))


def float_predicted(array):
    """Technical Note 3 by hand: bytes of one rank together, highest first, then byte differences."""
    rows, columns, samples = array.shape
    raw = array.astype(array.dtype.newbyteorder(">")).reshape(rows, columns * samples, 1).view(np.uint8)
    planes = raw.transpose(0, 2, 1).reshape(rows, -1, samples)
    return np.diff(planes, axis=1, prepend=np.zeros((rows, 1, samples), np.uint8)).tobytes()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floating_point_predictor_by_hand(dtype):
    array = noise(dtype, 3)
    found = tiff_segments._float_predicted(float_predicted(array), array.shape, array.itemsize)
    np.testing.assert_array_equal(found, array)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_white_is_zero(tmp_path, compression):
    array, path = noise("uint16"), tmp_path / "x.tif"
    tifffile.imwrite(path, array, photometric="miniswhite", compression=compression)
    np.testing.assert_array_equal(read_image(path)[..., 0], 65535 - array)


# ---- levels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["uint32", "int32", "float16", "float32", "float64"])
def test_wide_samples_need_a_range(tmp_path, dtype):
    path = tmp_path / "x.tif"
    tifffile.imwrite(
        path, np.array([[-1, 0], [1, 2]]).astype(dtype) if dtype[0] != "u" else np.uint32([[0, 1], [2, 3]])
    )
    with pytest.raises(UserError, match=rf"x\.tif: has {dtype} samples.*config\.data\.range_low"):
        read_header(path)
    view = View(range=Range(0, 2))
    assert read_header(path, view) == (2, 2, 1, 16)
    assert read_range(path, view) == (0, 2, "")
    assert read_image(path, view=View(range=Range(0, 2), bits=8)).max() == 255


def test_float_values_by_hand(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, np.float32([[-5, 0, 0.5], [1, 2, 3]]))
    found = read_image(path, view=View(range=Range(0, 2)))
    np.testing.assert_array_equal(found[..., 0], [[0, 0, 16384], [32768, 65535, 65535]])


def test_signed_16_bits_are_shifted_not_cut(tmp_path):
    path, array = tmp_path / "x.tif", noise("int16")
    tifffile.imwrite(path, array)
    assert (read_header(path), read_range(path)) == ((*SIZE, 1, 16), (-32768, 32767, ""))
    np.testing.assert_array_equal(read_image(path)[..., 0], array.astype(np.int32) + 32768)


def test_a_declared_range_holds_for_plain_files_too(tmp_path):
    write_image(tmp_path / "x.tif", np.array([[0, 2048, 4095]], np.uint16))
    write_image(tmp_path / "x.png", np.array([[0, 2048, 4095]], np.uint16))
    for name in ("x.tif", "x.png"):
        found = read_image(tmp_path / name, view=View(range=Range(0, 4095)))
        np.testing.assert_array_equal(found[..., 0], [[0, 32776, 65535]])  # 2048 * 65535 / 4095 = 32775.5


def test_nan_in_a_float_image(tmp_path):
    path, array = tmp_path / "x.tif", noise("float32")
    array[3, 4], array[5, 6] = np.nan, np.inf
    tifffile.imwrite(path, array)
    with pytest.raises(UserError, match=r"x\.tif: 2 of 777 samples are NaN or infinite"):
        read_image(path, view=View(range=Range(-100, 100)))
    found = read_image(path, view=View(range=Range(-100, 100), nan="low"))
    assert found[3, 4, 0] == found[5, 6, 0] == 0
    keep = np.isfinite(array)
    np.testing.assert_array_equal(found[keep][:, 0], quantise(array[keep], -100, 100))


# ---- pages ---------------------------------------------------------------------------------------


def test_a_page_is_chosen_by_number(tmp_path):
    path, stack = tmp_path / "x.tif", np.stack([noise("uint16") + np.uint16(i) for i in range(3)])
    tifffile.imwrite(path, stack, photometric="minisblack", compression="zlib")
    with pytest.raises(UserError, match=r"x\.tif: holds 3 pages; choose one with x\.tif#0 to #2"):
        read_header(path)
    for i in range(3):
        assert read_header(f"{path}#{i}") == (*SIZE, 1, 16)
        np.testing.assert_array_equal(read_image(f"{path}#{i}")[..., 0], stack[i])
    with pytest.raises(UserError, match=r"x\.tif#3: holds 3 pages, counted from 0"):
        read_image(f"{path}#3")


def test_a_page_of_pillow_is_chosen_by_number(tmp_path):
    path, masks = tmp_path / "x.tif", [np.eye(9, dtype=bool), ~np.eye(9, dtype=bool)]
    first, second = (Image.fromarray(mask) for mask in masks)
    first.save(path, save_all=True, append_images=[second], compression="group4")
    for i in range(2):
        np.testing.assert_array_equal(read_image(f"{path}#{i}")[..., 0], 255 * masks[i])


def test_thumbnails_do_not_count(tmp_path):
    path, array = tmp_path / "x.tif", noise("uint8", 3)
    with tifffile.TiffWriter(path) as writer:
        writer.write(array, photometric="rgb")
        writer.write(array[::2, ::2], photometric="rgb", subfiletype=1)
    np.testing.assert_array_equal(read_image(path), array)
    np.testing.assert_array_equal(read_image(f"{path}#1"), array[::2, ::2])


def test_a_stack_hidden_in_one_page_is_not_taken_for_its_first_plane(tmp_path):
    stack = np.stack([noise("uint8")] * 4)
    tifffile.imwrite(tmp_path / "shaped.tif", stack, photometric="minisblack", truncate=True)
    tifffile.imwrite(tmp_path / "imagej.tif", stack[:, None], imagej=True, truncate=True)
    for name in ("shaped.tif", "imagej.tif"):
        with tifffile.TiffFile(tmp_path / name) as tiff:
            assert len(tiff.pages) == 1
        with pytest.raises(UserError, match=rf"{name}: one page holds a stack of 4 images"):
            read_header(tmp_path / name)


# ---- refusals ------------------------------------------------------------------------------------


def patched(path, code, value):
    """Overwrite the value of a tag of the first page."""
    with tifffile.TiffFile(path) as tiff:
        tag = tiff.pages[0].tags[code]
        place, kind = tag.valueoffset, tag.dtype
    raw = bytearray(path.read_bytes())
    struct.pack_into("<H" if kind == 3 else "<I", raw, place, value)
    path.write_bytes(raw)


def test_lying_strips(tmp_path):
    path = tmp_path / "x.tif"
    for code, value, reason in (
        (257, 4000, "strips or tiles|bytes instead|beyond the end"),  # ImageLength
        (278, 3, r"13 strips or tiles are needed, the file lists 1"),  # RowsPerStrip
        (273, 1 << 30, "beyond the end of the file"),  # StripOffsets
        (279, 1 << 30, "beyond the end of the file"),  # StripByteCounts
        (279, 20, "bytes instead of 777"),
    ):
        tifffile.imwrite(path, noise("uint8"), compression="zlib")
        patched(path, code, value)
        with pytest.raises(UserError, match=rf"x\.tif: .*({reason})"):
            read_image(path)


def test_lying_tiles(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise("uint8"), compression="zlib", tile=(16, 16))
    patched(path, 322, 0xFFF0)
    patched(path, 323, 0xFFF0)
    with pytest.raises(UserError, match=r"x\.tif: 37x21 pixels.* need 4,292,8\d\d,\d+ bytes, more than the limit"):
        read_image(path)


def test_unread_codecs_are_named(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise("uint8"), compression="zlib")
    patched(path, 259, 34712)
    with pytest.raises(UserError, match=r"compression \(JPEG2000\) is not read here; save it with LZW or deflate"):
        read_image(path)


def test_unknown_colours_are_named(tmp_path):
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, noise("uint8"))
    patched(path, 262, 777)
    with pytest.raises(UserError, match=r"x\.tif: its pixel type \(colour model 777 with 8-bit"):
        read_header(path)


def test_transparency_and_odd_pixels(tmp_path):
    path = tmp_path / "x.tif"
    array = np.concatenate([noise("uint16", 3), np.full((*SIZE, 1), 65535, np.uint16)], -1)
    tifffile.imwrite(path, array, photometric="rgb", extrasamples=["unassalpha"], compression="zlib")
    np.testing.assert_array_equal(read_image(path), array[..., :3])
    tifffile.imwrite(path, array.astype(np.float32), photometric="rgb", extrasamples=["unassalpha"])
    with pytest.raises(UserError, match="extra channel of float32"):
        read_image(path, view=View(range=Range(0, 1)))
    tifffile.imwrite(path, noise("int16"), photometric="miniswhite")
    with pytest.raises(UserError, match="pixel type .*not supported"):
        read_image(path)


# ---- writing -------------------------------------------------------------------------------------


def test_resolution_tags(tmp_path):
    path, array = tmp_path / "x.tif", noise("float32")
    write_image(path, array, microns_per_pixel=0.25)
    with tifffile.TiffFile(path) as tiff:
        page = tiff.pages[0]
        assert page.tags["ResolutionUnit"].value == 3
        numerator, denominator = page.tags["XResolution"].value
        assert numerator / denominator == pytest.approx(40_000)  # pixels per centimetre
        np.testing.assert_array_equal(page.asarray(), array)


def test_real_files_of_the_shared_folder(shared):
    for name, size in {
        "focus/stacks/dfnn_mitochondria": (800, 512, 1, 16),
        "focus/stacks/isl_phase": (1024, 640, 1, 8),
        "focus/bbbc006_unpaired/in": (520, 696, 1, 16),
        "histology/originals": (1000, 1000, 3, 8),
    }.items():
        files = [p for p in sorted((shared / "data" / name).iterdir()) if p.suffix in (".png", ".tif")]
        assert files
        for path in files[:2]:
            assert read_header(path) == size
            assert read_image(path).std() > 1
