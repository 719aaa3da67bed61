"""The face of the readers, PNG, JPEG, BMP and plain TIFF: exact pixels, or one clear refusal."""

from __future__ import annotations

import io
import itertools
import os
import struct
import zlib

import numpy as np
import pytest
import tifffile
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.data import images
from medgen_jax.data.formats import budget
from medgen_jax.data.images import read_header, read_image, write_image

SIZE = (13, 7)


def noise(channels, dtype, size=SIZE):
    rng = np.random.default_rng((channels, np.dtype(dtype).itemsize))
    return rng.integers(0, np.iinfo(dtype).max + 1, (*size, channels)).astype(dtype)


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(array, extra=b"", interlace=False):
    """A PNG written from the format's definition; row ``y`` uses filter ``y % 5``."""
    depth, channels = 8 * array.dtype.itemsize, array.shape[-1]
    passes = (
        [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
        if interlace
        else [(0, 0, 1, 1)]
    )
    data = b"".join(_filtered(array[top::down, left::right]) for top, left, down, right in passes)
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], depth, colour, 0, 0, int(interlace))
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def _filtered(array):
    if not array.size:
        return b""
    step = array.shape[-1] * array.dtype.itemsize
    rows = array.astype(array.dtype.newbyteorder(">")).reshape(len(array), -1).view(np.uint8).astype(int)
    out = bytearray()
    for y, row in enumerate(rows):
        up = rows[y - 1] if y else np.zeros_like(row)
        left, corner = (np.concatenate([np.zeros(step, int), r[:-step]]) for r in (row, up))
        p = left + up - corner
        near = np.argsort(np.abs(np.stack([p - left, p - up, p - corner])), axis=0, kind="stable")[0]
        paeth = np.choose(near, [left, up, corner])
        guess = (0 * row, left, up, (left + up) // 2, paeth)[y % 5]
        out += bytes([y % 5]) + ((row - guess) % 256).astype(np.uint8).tobytes()
    return bytes(out)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_write_then_read_is_exact(tmp_path, suffix, dtype, channels):
    array, path = noise(channels, dtype), tmp_path / f"x{suffix}"
    write_image(path, array)
    assert read_header(path) == (*SIZE, channels, 8 * np.dtype(dtype).itemsize)
    np.testing.assert_array_equal(read_image(path), array)
    assert read_image(path).dtype == dtype


@pytest.mark.parametrize("interlace", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bit_png_with_every_filter(tmp_path, channels, interlace):
    array = noise(channels, np.uint16)
    if channels in (2, 4):
        array[..., -1] = 65535
    path = tmp_path / "deep.png"
    path.write_bytes(png(array, interlace=interlace))
    colours = array[..., : 1 if channels < 3 else 3]
    assert read_header(path) == (*colours.shape, 16)
    np.testing.assert_array_equal(read_image(path), colours)


TIFF_KINDS = [
    {},
    {"compression": "zlib"},
    {"compression": "zlib", "predictor": 2},
    {"rowsperstrip": 3},
    {"tile": (16, 16), "compression": "zlib"},
    {"byteorder": ">"},
    {"byteorder": ">", "compression": "zlib"},
    {"bigtiff": True},
]


@pytest.mark.parametrize("kind", TIFF_KINDS, ids=str)
@pytest.mark.parametrize(("channels", "dtype"), list(itertools.product([1, 3], [np.uint8, np.uint16])))
def test_tiff_kinds(tmp_path, kind, channels, dtype):
    array, path = noise(channels, dtype), tmp_path / "x.tif"
    tifffile.imwrite(path, array[..., 0] if channels == 1 else array, **kind)
    np.testing.assert_array_equal(read_image(path), array)
    assert read_image(path).dtype == dtype


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_of_separate_planes(tmp_path, dtype):
    array, path = noise(3, dtype), tmp_path / "x.tif"
    tifffile.imwrite(path, np.moveaxis(array, -1, 0).copy(), photometric="rgb", planarconfig="separate")
    np.testing.assert_array_equal(read_image(path), array)


def test_tiff_white_is_zero(tmp_path):
    array, path = noise(1, np.uint16), tmp_path / "x.tif"
    tifffile.imwrite(path, array[..., 0], photometric="miniswhite")
    np.testing.assert_array_equal(read_image(path), 65535 - array)


def test_tiff_lzw_16_bit(tmp_path):
    array, path = noise(1, np.uint16), tmp_path / "x.tif"
    Image.fromarray(array[..., 0]).save(path, compression="tiff_lzw")
    np.testing.assert_array_equal(read_image(path), array)


def test_jpeg_and_bmp(tmp_path):
    array = np.tile(np.linspace(0, 255, 16, dtype=np.uint8)[None, :, None], (16, 1, 3))
    Image.fromarray(array).save(tmp_path / "x.bmp")
    np.testing.assert_array_equal(read_image(tmp_path / "x.bmp"), array)
    Image.fromarray(array).save(tmp_path / "x.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "x.jpg").astype(int) - array).max() <= 6
    Image.fromarray(array[..., 0]).save(tmp_path / "grey.jpeg", quality=95)
    assert read_header(tmp_path / "grey.jpeg") == (16, 16, 1, 8)


def test_palette_becomes_rgb(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putpixel((1, 0), 1)
    picture.save(tmp_path / "p.png")
    assert read_header(tmp_path / "p.png") == (1, 2, 3, 8)
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), [[[10, 20, 30], [40, 50, 60]]])
    picture.save(tmp_path / "p.tif")
    np.testing.assert_array_equal(read_image(tmp_path / "p.tif"), [[[10, 20, 30], [40, 50, 60]]])


@pytest.mark.parametrize("name", ["m.png", "m.tif", "m.bmp"])
def test_one_bit_becomes_0_and_255(tmp_path, name):
    mask = np.eye(9, dtype=bool)
    Image.fromarray(mask).save(tmp_path / name)
    np.testing.assert_array_equal(read_image(tmp_path / name)[..., 0], 255 * mask)


UPRIGHT = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
STORED = {  # what a camera stores for an upright scene, by EXIF orientation
    1: lambda a: a,
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_orientation_is_applied(tmp_path, orientation):
    stored = STORED[orientation](UPRIGHT)[..., 0].copy()
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(stored).save(tmp_path / "x.png", exif=exif)
    for compression in (None, "zlib"):
        tags = [(0x0112, "H", 1, orientation, True)]
        tifffile.imwrite(tmp_path / f"{compression}.tif", stored, extratags=tags, compression=compression)
    for name in ("x.png", "None.tif", "zlib.tif"):
        assert read_header(tmp_path / name) == (2, 3, 1, 8)
        np.testing.assert_array_equal(read_image(tmp_path / name), UPRIGHT)


def test_rotation_stored_after_the_pixels_is_not_missed(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    whole, path = png(noise(3, np.uint16)), tmp_path / "late.png"
    end = chunk(b"IEND", b"")
    path.write_bytes(whole.removesuffix(end) + chunk(b"eXIf", exif.tobytes()[6:]) + end)
    with pytest.raises(UserError, match=r"late\.png: the header promises"):
        read_image(path)


def test_opaque_alpha_is_dropped_and_other_alpha_refused(tmp_path):
    array = noise(4, np.uint8)
    array[..., 3] = 255
    Image.fromarray(array).save(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("x.png", "x.tif"):
        assert read_header(tmp_path / name) == (*SIZE, 3, 8)
        np.testing.assert_array_equal(read_image(tmp_path / name), array[..., :3])
    array[0, 0, 3] = 254
    Image.fromarray(array).save(tmp_path / "x.png")
    tifffile.imwrite(tmp_path / "x.tif", array, photometric="rgb", extrasamples=["unassalpha"])
    for name in ("x.png", "x.tif"):
        with pytest.raises(UserError, match="not fully opaque"):
            read_image(tmp_path / name)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_transparent_colour_key(tmp_path, dtype):
    array, path = noise(3, dtype), tmp_path / "x.png"
    key = array[3, 4].astype(">u2").tobytes()
    path.write_bytes(png(array, extra=chunk(b"tRNS", key)))
    with pytest.raises(UserError, match="transparent"):
        read_image(path)
    array[(array == array[3, 4]).all(-1)] += 1
    path.write_bytes(png(array, extra=chunk(b"tRNS", key)))
    np.testing.assert_array_equal(read_image(path), array)


def test_transparent_palette_entry(tmp_path):
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.save(tmp_path / "p.png", transparency=0)
    with pytest.raises(UserError, match="opaque"):
        read_image(tmp_path / "p.png")


def test_bits_that_differ_from_the_configuration(tmp_path):
    write_image(tmp_path / "x.png", noise(1, np.uint16))
    assert read_image(tmp_path / "x.png", bits=16).dtype == np.uint16
    with pytest.raises(UserError, match=r"x\.png: has 16 bits per sample, expected 8.*config\.data\.bits"):
        read_image(tmp_path / "x.png", bits=8)


REFUSED = {
    "float32": lambda p: tifffile.imwrite(p, np.zeros((4, 4), np.float32)),
    "int64": lambda p: tifffile.imwrite(p, np.zeros((4, 4), np.int64)),
    "uint32": lambda p: tifffile.imwrite(p, np.zeros((4, 4), np.uint32)),
    "pages": lambda p: tifffile.imwrite(p, np.zeros((3, 4, 4), np.uint8), photometric="minisblack"),
    "two_channels": lambda p: tifffile.imwrite(p, np.zeros((4, 4, 2), np.uint8), photometric="minisblack"),
    "cmyk": lambda p: Image.new("CMYK", (4, 4)).save(p, compression="tiff_adobe_deflate"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unsupported_tiff_is_refused(tmp_path, kind):
    path = tmp_path / f"{kind}.tif"
    REFUSED[kind](path)
    with pytest.raises(UserError, match=rf"{kind}\.tif: .*(not supported|pages|samples per pixel|must be declared)"):
        read_image(path)


def test_cmyk_jpeg_is_refused(tmp_path):
    Image.new("CMYK", (4, 4)).save(tmp_path / "x.jpg")
    with pytest.raises(UserError, match="CMYK"):
        read_header(tmp_path / "x.jpg")


def test_png_bomb_is_refused_from_the_header(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "MAX_IMAGE_BYTES", 1000)
    path = tmp_path / "bomb.png"
    path.write_bytes(png(np.zeros((40, 40, 1), np.uint8)))
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"bomb\.png: .*1,600 bytes, more than the limit"):
        read_image(path)


def test_huge_headers_are_refused(tmp_path):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 16, 2, 0, 0, 0))
    (tmp_path / "x.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    )
    # One strip of zeros; the header alone claims 40000 x 40000 pixels.
    small = io.BytesIO()
    tifffile.imwrite(small, np.zeros((4, 4, 3), np.uint8), photometric="rgb", compression="zlib")
    small.seek(0)
    with tifffile.TiffFile(small) as tiff:
        tags = tiff.pages[0].tags
        places = [tags[name].valueoffset for name in ("ImageWidth", "ImageLength")]
        formats = [tags[name].dtype for name in ("ImageWidth", "ImageLength")]
    raw = bytearray(small.getvalue())
    for place, kind in zip(places, formats, strict=True):
        struct.pack_into("<H" if kind == 3 else "<I", raw, place, 40000)
    (tmp_path / "x.tif").write_bytes(raw)
    for name in ("x.png", "x.tif"):
        with pytest.raises(UserError, match=rf"{name}: .*limit"):
            read_image(tmp_path / name)


def test_no_limit_but_ours(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    for suffix in (".png", ".tif"):
        write_image(tmp_path / f"x{suffix}", noise(1, np.uint8))
        np.testing.assert_array_equal(read_image(tmp_path / f"x{suffix}"), noise(1, np.uint8))
    Image.fromarray(noise(3, np.uint8)).save(tmp_path / "x.jpg")
    assert read_image(tmp_path / "x.jpg").shape == (*SIZE, 3)


def test_progressive_scans_are_counted(tmp_path):
    path = tmp_path / "x.jpg"
    Image.fromarray(noise(1, np.uint8)[..., 0]).save(path, progressive=True)
    assert read_image(path).shape == (*SIZE, 1)
    path.write_bytes(path.read_bytes() + b"\xff\xda" * 501)
    with pytest.raises(UserError, match=r"x\.jpg: .*it has more than 500 progressive scans"):
        read_image(path)


def test_animations_are_refused(tmp_path):
    frames = [Image.fromarray(noise(1, np.uint8)[..., 0] // n) for n in (1, 2, 3)]
    frames[0].save(tmp_path / "x.png", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match=r"x\.png: is an animation of 3 frames"):
        read_header(tmp_path / "x.png")


def _intact(folder):
    write_image(folder / "a.png", noise(3, np.uint8, (64, 64)))
    write_image(folder / "b.png", noise(3, np.uint16, (64, 64)))
    write_image(folder / "c.tif", noise(3, np.uint16, (64, 64)))
    tifffile.imwrite(folder / "d.tif", noise(3, np.uint8, (64, 64)), compression="zlib", photometric="rgb")
    Image.fromarray(noise(3, np.uint8, (64, 64))).save(folder / "e.jpg")
    Image.fromarray(noise(3, np.uint8, (64, 64))).save(folder / "f.bmp")
    return sorted(folder.iterdir())


@pytest.mark.parametrize("part", [0.0, 0.01, 0.3, 0.9])
def test_truncated_files_are_named(tmp_path, part):
    for path in _intact(tmp_path):
        whole = path.read_bytes()
        path.write_bytes(whole[: int(len(whole) * part)])
        with pytest.raises(UserError, match=rf"{path.name}: .*(replace or remove|save the file again)"):
            read_image(path)


def test_random_bytes_are_refused(tmp_path):
    rng = np.random.default_rng(0)
    for suffix in images.READERS:
        path = tmp_path / f"x{suffix}"
        path.write_bytes(rng.bytes(4096))
        with pytest.raises(UserError, match=rf"x\{suffix}: cannot be read as an image"):
            read_header(path)


def test_damaged_bytes_never_raise_anything_else(tmp_path):
    rng = np.random.default_rng(1)
    for path in _intact(tmp_path):
        whole = path.read_bytes()
        for _ in range(40):
            raw = bytearray(whole)
            for _ in range(4):
                raw[rng.integers(min(len(raw), 400))] = rng.integers(256)
            path.write_bytes(raw)
            try:
                array = read_image(path)
            except UserError as error:
                assert path.name in str(error)
            else:
                assert array.dtype in (np.uint8, np.uint16)
                assert array.shape[-1] in (1, 3)


def test_missing_and_unknown_files(tmp_path):
    with pytest.raises(UserError, match=r"x\.png: no such file"):
        read_image(tmp_path / "x.png")
    with pytest.raises(UserError, match=r"x\.gif: unknown image type; the types read are .*\.png"):
        read_image(tmp_path / "x.gif")


def test_write_refuses(tmp_path):
    with pytest.raises(UserError, match=r"x\.jpg: images are written as"):
        write_image(tmp_path / "x.jpg", noise(1, np.uint8))
    with pytest.raises(UserError, match="cannot be written"):
        write_image(tmp_path / "no" / "x.png", noise(1, np.uint8))
    for name in ("x.png", "x.dcm"):
        with pytest.raises(ValueError, match="expected uint8 or uint16"):
            write_image(tmp_path / name, np.zeros((4, 4, 3), np.float32))
    with pytest.raises(ValueError, match="expected uint8 or uint16"):
        write_image(tmp_path / "x.tif", np.zeros((4, 4, 2), np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_replaced_at_once_or_not_at_all(tmp_path, monkeypatch):
    path, seen = tmp_path / "x.png", []
    write_image(path, noise(1, np.uint8))
    replace = os.replace

    def failing(scratch, target):
        seen.append((scratch.name, read_image(target).tobytes()))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(UserError, match=r"x\.png: cannot be written \(No space left on device\)"):
        write_image(path, noise(1, np.uint16))
    # The old file stood until the last moment, nothing else is left, and the scratch file was hidden.
    assert seen[0][0].startswith(".")
    assert seen[0][1] == noise(1, np.uint8).tobytes()
    assert [p.name for p in tmp_path.iterdir()] == ["x.png"]
    np.testing.assert_array_equal(read_image(path), noise(1, np.uint8))
    monkeypatch.setattr(os, "replace", replace)
    write_image(path, noise(1, np.uint16))
    assert read_image(path).dtype == np.uint16


def test_written_files_have_ordinary_permissions(tmp_path):
    (tmp_path / "plain").touch()
    write_image(tmp_path / "x.png", noise(1, np.uint8))
    assert (tmp_path / "x.png").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_real_microscopy_16_bit_stack_agrees_with_tifffile(shared):
    """The 16-bit files of the shared folder keep their full range."""
    folder = shared / "data" / "focus" / "stacks" / "dfnn_mitochondria"
    for path in sorted(folder.iterdir())[:2]:
        header, array = read_header(path), read_image(path)
        with Image.open(path) as reference:
            np.testing.assert_array_equal(array[..., 0], np.asarray(reference))
        assert header == (*array.shape, 8 * array.dtype.itemsize)
