"""DICOM pixels against the standard's formulas, written out here, and against pydicom's own processing."""

from __future__ import annotations

import io
import math
import pathlib
import warnings

import numpy as np
import pydicom
import pytest
from dicom_files import dataset, run_length, write, write_deflated, write_encapsulated, write_run_length
from PIL import Image
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import codestream, dicom_frames
from medgen_jax.data.images import Range, View, dequantise, is_image, read_header, read_image, read_range

SIZE = (9, 7)
FULL = View(window="full")


def noise(dtype, low=None, high=None, size=SIZE):
    info = np.iinfo(dtype)
    rng = np.random.default_rng(3)
    return rng.integers(
        info.min if low is None else low, info.max if high is None else high, size, endpoint=True
    ).astype(dtype)


def level(value, low, high, top=65535):
    """Level of one value, by hand."""
    return min(max(round((value - low) / (high - low) * top), 0), top)


def levels(values, low, high, top=65535):
    return np.array([level(float(v), low, high, top) for v in np.ravel(values)]).reshape(*np.shape(values), 1)


# ---- stored values -------------------------------------------------------------------------------


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, pydicom.uid.ExplicitVRLittleEndian, ExplicitVRBigEndian,
                                    DeflatedExplicitVRLittleEndian])  # fmt: skip
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16])
def test_native_samples(tmp_path, dtype, syntax):
    array = noise(dtype)
    path = write(tmp_path / "x.dcm", array, syntax=syntax)
    expected = array.astype(int) + (32768 if dtype == np.int16 else 0)
    np.testing.assert_array_equal(read_image(path)[..., 0], expected)
    assert read_header(path) == (*SIZE, 1, 8 * np.dtype(dtype).itemsize)
    info = np.iinfo(dtype)
    assert read_range(path) == (info.min, info.max, "")


@pytest.mark.parametrize("stored", [10, 12, 15])
@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_garbage_above_the_stored_bits_is_cut_off(tmp_path, dtype, stored):
    least, greatest = (0, 2**stored - 1) if dtype == np.uint16 else (-(2 ** (stored - 1)), 2 ** (stored - 1) - 1)
    clean = noise(dtype, least, greatest)
    dirt = np.random.default_rng(0).integers(0, 2 ** (16 - stored), SIZE) << stored
    dirty = (clean.astype(int) & (2**stored - 1) | dirt).astype(np.uint16).view(dtype)
    for name, save in (("native", write), ("rle", write_run_length)):
        path = save(tmp_path / f"{name}.dcm", dirty, stored=stored)
        np.testing.assert_array_equal(read_image(path), levels(clean, least, greatest))
        assert read_range(path) == (least, greatest, "")


def test_twelve_bits_in_the_high_part_of_a_word(tmp_path):
    clean = noise(np.uint16, 0, 4095)
    path = write(tmp_path / "x.dcm", clean << 4 | 7, stored=12, HighBit=15)
    np.testing.assert_array_equal(read_image(path), levels(clean, 0, 4095))


def test_fewer_than_eight_bits_fill_the_range(tmp_path):
    array = noise(np.uint8, 0, 127)
    path = write(tmp_path / "x.dcm", array, stored=7)
    np.testing.assert_array_equal(read_image(path), levels(array, 0, 127, 255))


def test_one_bit(tmp_path):
    bits = noise(np.uint8, 0, 1)
    packed = np.packbits(bits.ravel(), bitorder="little")
    frames = np.packbits(np.concatenate([bits.ravel(), 1 - bits.ravel()]), bitorder="little")
    for name, data, extra in (("one", packed, {}), ("two", frames, {"NumberOfFrames": 2})):
        what = dataset(bits, **extra)
        what.BitsAllocated, what.BitsStored, what.HighBit = 1, 1, 0
        what.PixelData = data.tobytes() + bytes(len(data) % 2)
        what.save_as(tmp_path / f"{name}.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_image(tmp_path / "one.dcm")[..., 0], 255 * bits)
    # 63 bits a frame: the second begins within a byte.
    np.testing.assert_array_equal(read_image(tmp_path / "two.dcm#1")[..., 0], 255 * (1 - bits))


def test_bytes_in_big_endian_words(tmp_path):
    """Frames of 27 bytes: the second begins within a word."""
    stack = noise(np.uint8, size=(2, 3, 3, 3))
    data = dataset(stack, photometric="RGB", syntax=ExplicitVRBigEndian, frames=2)
    data.add_new("PixelData", "OW", np.frombuffer(stack.tobytes(), "<u2").byteswap().tobytes())
    data.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    for i in range(2):
        np.testing.assert_array_equal(read_image(tmp_path / f"x.dcm#{i}"), stack[i])


# ---- modality and window -------------------------------------------------------------------------


def test_slope_and_intercept(tmp_path):
    array = noise(np.int16, -1024, 3071)
    path = write(tmp_path / "x.dcm", array, stored=13, RescaleSlope="0.5", RescaleIntercept="-24", RescaleType="HU")
    assert read_range(path) == (-4096 * 0.5 - 24, 4095 * 0.5 - 24, "HU")
    values = dequantise(read_image(path), *read_range(path)[:2])
    np.testing.assert_allclose(values[..., 0], array * 0.5 - 24, atol=0.5 * 4095.5 / 65535)
    # A negative slope turns the scale round: the highest stored value is the darkest.
    path = write(tmp_path / "y.dcm", array, stored=13, RescaleSlope="-1", RescaleIntercept="0")
    assert read_range(path) == (-4095, 4096, "")
    np.testing.assert_array_equal(read_image(path), levels(-array.astype(int), -4095, 4096))


@pytest.mark.parametrize(
    ("function", "centre", "width", "expected"),
    [  # the standard's pseudo-code and equations, value by value
        ("LINEAR", 40, 400, lambda x: 0 if x <= 39.5 - 199.5 else 1 if x > 39.5 + 199.5 else (x - 39.5) / 399 + 0.5),
        ("LINEAR_EXACT", 40, 400, lambda x: 0 if x <= -160 else 1 if x > 240 else (x - 40) / 400 + 0.5),
        ("SIGMOID", 40, 400, lambda x: 1 / (1 + math.exp(-4 * (x - 40) / 400))),
        (None, 1.5, 1, lambda x: 0 if x <= 1 else 1),
    ],
)
def test_windows(tmp_path, function, centre, width, expected):
    array = noise(np.int16, -500, 600)
    array.ravel()[:6] = [-160, -161, 240, 239, 1, 2]
    more = {"VOILUTFunction": function} if function else {}
    path = write(tmp_path / "x.dcm", array, WindowCenter=centre, WindowWidth=width, **more)
    wanted = np.array([65535 * expected(int(x)) for x in array.ravel()]).reshape(*SIZE, 1)
    assert np.abs(read_image(path) - wanted).max() <= 0.5 + 1e-9
    if function == "LINEAR":
        assert read_range(path) == (-160, 239, "")
        np.testing.assert_array_equal(read_image(path), read_image(path, view=View(window=(40, 400))))
    if function == "LINEAR_EXACT":
        assert read_range(path) == (-160, 240, "")
        np.testing.assert_array_equal(read_image(path), read_image(path, view=View(range=Range(-160, 240))))
    assert read_range(path, FULL) == (-32768, 32767, "")


def test_the_first_of_several_windows(tmp_path):
    path = write(tmp_path / "x.dcm", noise(np.int16), WindowCenter=[50, 300], WindowWidth=[11, 700])
    assert read_range(path) == (44.5, 54.5, "")


def test_eight_and_sixteen_bits_out(tmp_path):
    array = noise(np.uint16, 0, 4095)
    path = write(tmp_path / "x.dcm", array, stored=12)
    eight = read_image(path, view=View(bits=8))
    np.testing.assert_array_equal(eight, levels(array, 0, 4095, 255))
    assert read_header(path, View(bits=8)).bits == 8
    assert read_header(path).bits == 16


def table_item(first, values, bits, kind="OW"):
    item = pydicom.Dataset()
    item.add_new("LUTDescriptor", "SS" if first < 0 else "US", [len(values) % 65536, first, bits])
    data = np.asarray(values, "<u2")
    item.add_new("LUTData", kind, data.tobytes() if kind == "OW" else [int(v) for v in data])
    return Sequence([item])


@pytest.mark.parametrize("kind", ["OW", "US"])
def test_look_up_tables(tmp_path, kind):
    array = noise(np.int16, -6, 9)
    values = [3, 1, 4, 1, 5, 9, 2, 6]
    looked = np.array([values[min(max(int(x) + 2, 0), 7)] for x in array.ravel()]).reshape(SIZE)
    path = write(tmp_path / "m.dcm", array, ModalityLUTSequence=table_item(-2, values, 4, kind))
    np.testing.assert_array_equal(read_image(path), levels(looked, 0, 15))
    assert read_range(path) == (0, 15, "")
    path = write(
        tmp_path / "v.dcm", array, VOILUTSequence=table_item(-2, values, 4, kind), WindowCenter=1, WindowWidth=2
    )
    np.testing.assert_array_equal(read_image(path), levels(looked, 0, 15))  # the table goes before the window
    assert read_range(path) == (0, 15, "display")
    both = {
        "ModalityLUTSequence": table_item(-2, values, 4, kind),
        "VOILUTSequence": table_item(2, [0, 7, 11], 4, kind),
    }
    path = write(tmp_path / "b.dcm", array, **both)
    np.testing.assert_array_equal(read_image(path), levels(np.array([0, 7, 11])[np.clip(looked - 2, 0, 2)], 0, 15))


def test_monochrome1_is_inverted(tmp_path):
    array = noise(np.uint16, 0, 4095)
    options = {"stored": 12, "WindowCenter": 2000, "WindowWidth": 1000}
    plain = write(tmp_path / "2.dcm", array, **options)
    inverse = write(tmp_path / "1.dcm", array, photometric="MONOCHROME1", **options)
    assert read_range(inverse) == (*read_range(plain)[1::-1], "")
    np.testing.assert_array_equal(read_image(inverse), 65535 - read_image(plain))
    np.testing.assert_array_equal(read_image(inverse, view=FULL), levels(array, 4095, 0))
    declared = View(range=Range(1000, 2000))
    assert read_range(inverse, declared) == (2000, 1000, "")
    np.testing.assert_array_equal(read_image(inverse, view=declared), levels(array, 2000, 1000))
    back = dequantise(read_image(inverse, view=FULL), *read_range(inverse, FULL)[:2])
    np.testing.assert_allclose(back[..., 0], array, atol=0.04)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_padding_is_black(tmp_path, photometric):
    array = noise(np.int16, -1000, 1000)
    array[0, :3] = [-2000, -1500, -1999]
    for number, options in enumerate((
        {"PixelPaddingValue": -2000},
        {"PixelPaddingValue": -2000, "PixelPaddingRangeLimit": -1500},
        {"PixelPaddingValue": -1500, "PixelPaddingRangeLimit": -2000},
    )):  # fmt: skip
        path = write(tmp_path / f"{number}.dcm", array, photometric=photometric, **options)
        bare = write(tmp_path / "bare.dcm", array, photometric=photometric)
        expected = read_image(bare).copy()
        expected[0, : 3 if number else 1] = 0
        np.testing.assert_array_equal(read_image(path), expected)


def test_padding_beyond_the_stored_bits_marks_no_other_pixel(tmp_path):
    """63536 & 4095 = 2096, which is a legitimate value here."""
    array = np.array([[63536, 2096, 5]], np.uint16)
    data = dataset(array, stored=12)
    data.add_new("PixelPaddingValue", "US", 63536)
    data.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_image(tmp_path / "x.dcm"), levels([[0, 2096, 5]], 0, 4095))


def test_padding_written_with_the_other_sign(tmp_path):
    data = dataset(np.array([[-2000, 7]], np.int16))
    data.add_new("PixelPaddingValue", "US", 65536 - 2000)
    data.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_image(tmp_path / "x.dcm")[..., 0], [[0, 32775]])


def test_scales_of_single_frames(tmp_path):
    """Enhanced files keep slope and window per frame, or shared (C.7.6.16)."""

    def group(slope, centre):
        item, scale, window = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        scale.RescaleSlope, scale.RescaleIntercept, scale.RescaleType = str(slope), "0", "HU"
        window.WindowCenter, window.WindowWidth = centre, 101
        item.PixelValueTransformationSequence, item.FrameVOILUTSequence = Sequence([scale]), Sequence([window])
        return item

    array = noise(np.uint16, 0, 200, (3, *SIZE))
    path = write(tmp_path / "per.dcm", array, frames=3,
                 PerFrameFunctionalGroupsSequence=Sequence([group(1, 50), group(2, 100), group(4, 150)]))  # fmt: skip
    for i, (slope, centre) in enumerate(((1, 50), (2, 100), (4, 150))):
        assert read_range(f"{path}#{i}") == (centre - 50.5, centre + 49.5, "HU")
        expected = levels(array[i] * float(slope), centre - 50.5, centre + 49.5)
        np.testing.assert_array_equal(read_image(f"{path}#{i}"), expected)
    path = write(tmp_path / "shared.dcm", array[0], SharedFunctionalGroupsSequence=Sequence([group(2, 100)]))
    assert read_range(path) == (49.5, 149.5, "HU")


def test_wide_and_floating_samples_need_a_range(tmp_path):
    values = np.linspace(-3, 7, 63).reshape(SIZE)
    integers = write(tmp_path / "i.dcm", (values * 1e6).astype(np.int32), RescaleSlope="1e-6", RescaleIntercept="0")
    data = dataset(np.zeros(SIZE, np.uint32))
    del data.PixelData, data.PixelRepresentation, data.BitsStored, data.HighBit
    data.FloatPixelData = values.astype("<f4").tobytes()
    data.save_as(tmp_path / "f.dcm", enforce_file_format=True)
    for path in (integers, tmp_path / "f.dcm"):
        with pytest.raises(UserError, match=r"samples of 32 bits and no window; set config\.data\.range_low"):
            read_header(path)
        found = read_image(path, view=View(range=Range(-2, 6)))
        assert np.abs(found - np.clip((values + 2) / 8, 0, 1)[..., None] * 65535).max() <= 0.51


# ---- colour --------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_rgb_by_pixel_by_plane_and_run_length(tmp_path, dtype):
    array = noise(dtype, size=(*SIZE, 3))
    np.testing.assert_array_equal(read_image(write(tmp_path / "a.dcm", array, photometric="RGB")), array)
    data = dataset(array, photometric="RGB", PlanarConfiguration=1)
    data.PixelData = np.ascontiguousarray(np.moveaxis(array, -1, 0)).tobytes() + bytes(array.nbytes % 2)
    data.save_as(tmp_path / "b.dcm", enforce_file_format=True)
    np.testing.assert_array_equal(read_image(tmp_path / "b.dcm"), array)
    np.testing.assert_array_equal(read_image(write_run_length(tmp_path / "c.dcm", array, photometric="RGB")), array)
    assert read_header(tmp_path / "c.dcm") == (*SIZE, 3, 8 * np.dtype(dtype).itemsize)


def test_ybr_full_by_the_formula(tmp_path):
    array = noise(np.uint8, size=(*SIZE, 3))
    path = write(tmp_path / "x.dcm", array, photometric="YBR_FULL")
    y, b, r = (array[..., i].astype(float) - (128 if i else 0) for i in range(3))
    # C.7.6.3.1.2, solved for red, green and blue.
    rgb = np.stack([y + 1.402 * r, y - 0.344136 * b - 0.714136 * r, y + 1.772 * b], -1)
    assert np.abs(read_image(path) - np.clip(rgb, 0, 255)).max() <= 1


def test_twelve_bit_colours_fill_the_range(tmp_path):
    array = noise(np.uint16, 0, 4095, (*SIZE, 3))
    path = write(tmp_path / "x.dcm", array, photometric="RGB", stored=12)
    np.testing.assert_array_equal(read_image(path), levels(array, 0, 4095)[..., 0])


@pytest.mark.parametrize("bits", [8, 16])
def test_palette(tmp_path, bits):
    indices = noise(np.uint8, 0, 9)
    tables = np.random.default_rng(0).integers(0, 2**bits, (3, 6)).astype(f"<u{bits // 8}")
    more = {}
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        more[f"{colour}PaletteColorLookupTableDescriptor"] = [6, 2, bits]
        more[f"{colour}PaletteColorLookupTableData"] = table.tobytes()
    path = write(tmp_path / "x.dcm", indices, photometric="PALETTE COLOR", **more)
    expected = np.stack([table[np.clip(indices.astype(int) - 2, 0, 5)] for table in tables], -1)
    assert read_header(path) == (*SIZE, 3, bits)
    np.testing.assert_array_equal(read_image(path), expected)


# ---- frames, files and names ---------------------------------------------------------------------


@pytest.mark.parametrize("save", [write, write_run_length])
def test_frames_are_chosen_by_number(tmp_path, save):
    stack = noise(np.uint16, size=(4, *SIZE))
    path = tmp_path / "x.dcm"
    if save is write:
        write(path, stack, frames=4)
    else:
        write_encapsulated(path, stack[0], [run_length(frame) for frame in stack], RLELossless, NumberOfFrames=4)
    with pytest.raises(UserError, match=r"x\.dcm: holds 4 frames; choose one with x\.dcm#0 to #3"):
        read_header(path)
    for i in range(4):
        np.testing.assert_array_equal(read_image(f"{path}#{i}")[..., 0], stack[i])
    with pytest.raises(UserError, match="holds 4 frames, counted from 0"):
        read_image(f"{path}#4")


def test_a_file_without_suffix_is_known_by_its_mark(tmp_path):
    for name in ("IM0001", "1.2.840.113619.55", "x.ima", "x.DICOM"):
        path = write(tmp_path / name, noise(np.uint8))
        assert is_image(path)
        np.testing.assert_array_equal(read_image(path)[..., 0], noise(np.uint8))
    (tmp_path / "README").write_text("no image")
    assert not is_image(tmp_path / "README")
    assert not is_image(tmp_path)
    with pytest.raises(UserError, match="README: unknown image type"):
        read_image(tmp_path / "README")


REFUSED = {
    "no pixel data": lambda data: data.__delattr__("PixelData"),
    "has no Rows": lambda data: data.__delattr__("Rows"),
    "colour model CMYK": lambda data: setattr(data, "PhotometricInterpretation", "CMYK"),
    "RescaleSlope 0": lambda data: setattr(data, "RescaleSlope", 0),
    "window of width 0": lambda data: (setattr(data, "WindowCenter", 5), setattr(data, "WindowWidth", 0)),
    "VOI LUT function": lambda data: (
        setattr(data, "WindowCenter", 5),
        setattr(data, "WindowWidth", 5),
        setattr(data, "VOILUTFunction", "CUBIC"),
    ),
    "12 bits stored in 8": lambda data: setattr(data, "BitsStored", 12),
    "needs .* bytes, the file has": lambda data: setattr(data, "Rows", 400),
    "with 3 samples per pixel": lambda data: setattr(data, "SamplesPerPixel", 3),
    "look-up table of 9 entries": lambda data: setattr(data, "VOILUTSequence", _short_table()),
}


def _short_table():
    sequence = table_item(0, [1, 2, 3], 16)
    sequence[0].LUTDescriptor = [9, 0, 16]
    return sequence


@pytest.mark.parametrize("reason", REFUSED)
def test_refusals(tmp_path, reason):
    data = dataset(noise(np.uint8, size=(4, 4)))
    REFUSED[reason](data)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    with pytest.raises(UserError, match=rf"x\.dcm: .*{reason}"):
        read_image(tmp_path / "x.dcm")


def test_a_deflated_file_that_ends_early(tmp_path):
    path = write_deflated(tmp_path / "x.dcm", 64, 64, 100)
    assert read_header(path) == (64, 64, 1, 16)
    with pytest.raises(UserError, match=r"x\.dcm: cannot be read .*needs 8,192 bytes, the file has 100"):
        read_image(path)


# ---- compressed frames ---------------------------------------------------------------------------


def encoded(array, kind, **options):
    stream = io.BytesIO()
    Image.fromarray(array).save(stream, kind, **options)
    return stream.getvalue()


def test_jpeg_and_jpeg_2000(tmp_path):
    array = np.tile(np.linspace(0, 255, 32, dtype=np.uint8), (16, 1))
    jpeg = encoded(array, "JPEG", quality=95)
    path = write_encapsulated(tmp_path / "a.dcm", array, [jpeg], JPEGBaseline8Bit)
    np.testing.assert_array_equal(read_image(path)[..., 0], np.asarray(Image.open(io.BytesIO(jpeg))))
    deep = noise(np.uint16, size=(16, 32))
    for name, box in (("b.dcm", True), ("c.dcm", False)):
        frame = encoded(deep, "JPEG2000", irreversible=False, no_jp2=not box)
        path = write_encapsulated(tmp_path / name, deep, [frame], JPEG2000Lossless)
        np.testing.assert_array_equal(read_image(path)[..., 0], deep)


def test_a_codestream_that_ends_early_is_one_error_and_no_traceback(tmp_path, caplog):
    array = noise(np.uint8, size=(64, 64))
    jpeg = encoded(array, "JPEG", quality=95)
    path = write_encapsulated(tmp_path / "a.dcm", array, [jpeg[: len(jpeg) // 2]], JPEGBaseline8Bit)
    with pytest.raises(UserError, match=r"a\.dcm: .*truncated"):
        read_image(path)
    assert not caplog.records


@pytest.mark.parametrize(("kind", "syntax"), [("JPEG", JPEGBaseline8Bit), ("JPEG2000", JPEG2000Lossless)])
def test_a_frame_larger_than_its_header_is_not_decoded(tmp_path, monkeypatch, kind, syntax):
    frame = encoded(np.zeros((300, 400), np.uint8), kind, **({"no_jp2": True} if kind == "JPEG2000" else {}))
    assert codestream.examine(frame) == (300, 400, 1, 8)
    path = write_encapsulated(tmp_path / "x.dcm", np.zeros((4, 4), np.uint8), [frame], syntax)
    monkeypatch.setattr(dicom_frames, "get_decoder", lambda syntax: pytest.fail("decoded"))
    with pytest.raises(UserError, match=r"compressed frame has 300x400 pixels.* header says 4x4"):
        read_image(path)


def test_values_of_a_frame_beyond_its_stored_bits(tmp_path):
    deep = np.arange(512, dtype=np.uint16).reshape(16, 32) * 8
    frame = encoded(deep, "JPEG2000", irreversible=False, no_jp2=True)
    path = write_encapsulated(tmp_path / "x.dcm", deep, [frame], JPEG2000Lossless, stored=11)
    with pytest.raises(UserError, match=r"x\.dcm: .*holds values that 11 bits do not"):
        read_image(path)
    # Twelve bits hold them; for signed samples the upper half is two's complement.
    path = write_encapsulated(tmp_path / "u.dcm", deep, [frame], JPEG2000Lossless, stored=12)
    np.testing.assert_array_equal(read_image(path), levels(deep, 0, 4095))
    layout = dicom_frames.Layout(16, 32, 1, 16, 12, 11, True, "MONOCHROME2", False, 1, False)
    expected = np.where(deep > 2047, deep.astype(int) - 4096, deep)
    np.testing.assert_array_equal(dicom_frames._within(deep, layout), expected)


def test_a_missing_decoder_is_named(tmp_path, monkeypatch):
    class Nothing:
        available_plugins = ()

    monkeypatch.setattr(dicom_frames, "get_decoder", lambda syntax: Nothing)
    frame = encoded(np.zeros((4, 4), np.uint8), "JPEG").replace(b"\xff\xc0", b"\xff\xf7", 1)
    path = write_encapsulated(tmp_path / "x.dcm", np.zeros((4, 4), np.uint8), [frame], JPEGLSLossless)
    with pytest.raises(UserError, match=r"x\.dcm: is compressed as JPEG-LS.*medgen_jax\[dicom\]"):
        read_image(path)


def test_damaged_codestreams():
    good = encoded(np.zeros((4, 4), np.uint8), "JPEG2000", no_jp2=True)
    with pytest.raises(ValueError, match="tiles"):
        codestream.examine(good[:24] + b"\0\0\0\1\0\0\0\0" + good[32:])
    with pytest.raises(ValueError, match="scans"):
        codestream.examine(b"\xff\xd8" + b"\xff\xda" * 501)
    with pytest.raises(ValueError, match="neither"):
        codestream.examine(b"GIF89a")
    with pytest.raises(ValueError, match="no header"):
        codestream.examine(b"\xff\xd8\xff\xe0\x00\x04ab")
    with pytest.raises(ValueError, match="box"):
        codestream.unboxed(b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(16))


# ---- pydicom's own files, with pydicom's own processing as the other side ------------------------

FILES = pathlib.Path(pydicom.__file__).parent / "data" / "test_files"
COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
#: Files whose decoder comes with an extra.
EXTRA = {
    "GDCMJ2K_TextGBR.dcm", "JPEGLSNearLossless_08.dcm", "JPEGLSNearLossless_16.dcm", "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_jls_lossy_line.dcm", "SC_rgb_jls_lossy_sample.dcm", "SC_rgb_jpeg_gdcm.dcm",
}  # fmt: skip
#: What is not read, and why.
NOT_READ = {
    "ExplVR_BigEndNoMeta.dcm": "preamble", "ExplVR_LitEndNoMeta.dcm": "preamble", "no_meta.dcm": "preamble",
    "rtstruct.dcm": "preamble", "JPEG-lossy.dcm": "12 bits", "JPGExtended.dcm": "12 bits",
    "JPEG2000-embedded-sequence-delimiter.dcm": "tiles", "MR_truncated.dcm": "beyond the end",
    "SC_rgb_rle_32bit.dcm": "32 bits", "SC_rgb_rle_32bit_2frame.dcm": "32 bits", "badVR.dcm": "invalid literal",
    "meta_missing_tsyntax.dcm": "no BitsAllocated", "nested_priv_SQ.dcm": "no BitsAllocated",
}  # fmt: skip
WITHOUT_PIXELS = {
    "UN_sequence.dcm", "empty_charset_LEI.dcm", "no_meta_group_length.dcm", "priv_SQ.dcm", "reportsi.dcm",
    "reportsi_with_empty_number_tags.dcm", "rtplan.dcm", "rtplan_truncated.dcm", "test-SR.dcm", "waveform_ecg.dcm",
}  # fmt: skip


def by_pydicom(path, frame, view):
    """The image that pydicom's processing gives, as unrounded levels."""
    data = pydicom.dcmread(path)
    stored = pixel_array(data, index=frame)
    photometric = data.PhotometricInterpretation
    if photometric == "PALETTE COLOR":
        return apply_color_lut(stored, data).astype(float)
    if photometric in COLOURS:
        return stored.astype(float)
    if data.BitsAllocated == 1:
        return 255.0 * stored[..., None]
    values = apply_modality_lut(stored, data)
    top = 255 if data.BitsStored <= 8 else 65535
    half = 1 << (data.BitsStored - 1)
    ends = [data.get("RescaleSlope", 1) * s + data.get("RescaleIntercept", 0)
            for s in ((-half, half - 1) if data.PixelRepresentation else (0, 2 * half - 1))]  # fmt: skip
    ends = view.range[:2] if view.range else ends
    values = apply_voi_lut(values, data) if "WindowWidth" in data and not view.range else values
    found = np.clip((values.astype(float) - min(ends)) / (max(ends) - min(ends)) * top, 0, top)
    return (found if photometric == "MONOCHROME2" else top - found)[..., None]


def names():
    known = EXTRA | set(NOT_READ) | WITHOUT_PIXELS
    return sorted(path.name for path in FILES.glob("*.dcm") if path.name not in known)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", names())
def test_files_of_pydicom(name):
    path = FILES / name
    view = View(range=Range(0, 5)) if name.startswith("rtdose") else View()
    frames = int(pydicom.dcmread(path, stop_before_pixels=True).get("NumberOfFrames", 1))
    for frame in sorted({0, frames - 1}):
        part = f"{path}#{frame}"
        found, wanted = read_image(part, view=view), by_pydicom(path, frame, view)
        assert read_header(part, view) == (*wanted.shape, 8 * found.itemsize)
        assert np.abs(found - wanted).max() <= 0.5 + 1e-6


def test_the_lists_of_files_are_complete():
    assert len(names()) > 40
    for name in WITHOUT_PIXELS:
        with pytest.raises(UserError, match="holds no pixel data"):
            read_header(FILES / name)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NOT_READ)
def test_files_of_pydicom_that_are_refused(name):
    with pytest.raises(UserError, match=rf"{name}.*: .*{NOT_READ[name]}"):
        read_image(f"{FILES / name}#0")


@pytest.mark.parametrize("name", sorted(EXTRA))
def test_files_of_pydicom_that_need_the_extra(name):
    path = FILES / name
    syntax = pydicom.dcmread(path, stop_before_pixels=True).file_meta.TransferSyntaxUID
    if not set(dicom_frames._DECODERS[syntax]) & set(pydicom.pixels.get_decoder(syntax).available_plugins) - {"pillow"}:
        if name != "GDCMJ2K_TextGBR.dcm":  # Pillow tries that one
            with pytest.raises(UserError, match=r"medgen_jax\[dicom\]"):
                read_image(path)
        pytest.skip("needs the extra `dicom`")
    assert np.abs(read_image(path) - by_pydicom(path, 0, View())).max() <= 0.5 + 1e-6


def test_real_radiographs(shared):
    """The RSNA miniature opens, grey and 1024 pixels square, and pydicom sees the same."""
    folder = shared / "data" / "cxr" / "rsna_mini"
    files = sorted(folder.rglob("*.dcm"))
    assert len(files) > 50
    for path in files:
        assert read_header(path) == (1024, 1024, 1, 8)
        assert read_range(path) == (0, 255, "")
    for path in files[:3]:
        np.testing.assert_array_equal(read_image(path)[..., 0], pydicom.dcmread(path).pixel_array)
