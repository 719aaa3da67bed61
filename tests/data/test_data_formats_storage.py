"""Types of stored samples and sizes of pixels, as TIFF writers put them down."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from dicom_files import write
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.data.images import Range, View, read_header, read_image, read_range, read_storage, write_image

GREY = np.arange(12).reshape(3, 4)
ANY = View(range=Range(0, 100))


@pytest.mark.parametrize(
    "dtype", ["uint8", "uint16", "uint32", "int8", "int16", "int32", "float16", "float32", "float64"]
)
@pytest.mark.parametrize("suffix", [".tif", ".npy"])
def test_types_of_samples_are_written_and_found(tmp_path, dtype, suffix):
    path, array = tmp_path / f"x{suffix}", GREY.astype(dtype)
    write_image(path, array)
    assert read_storage(path, ANY).dtype == np.dtype(dtype)
    np.testing.assert_array_equal(tifffile.imread(path) if suffix == ".tif" else np.load(path), array)


def test_other_files_hold_levels(tmp_path):
    write_image(tmp_path / "x.png", GREY.astype(np.uint16))
    np.savez(tmp_path / "x.npz", mask=GREY > 3)
    Image.fromarray(GREY.astype(np.uint8)).convert("P").save(tmp_path / "palette.tif")
    tifffile.imwrite(tmp_path / "bilevel.tif", GREY > 3)
    dicom = write(tmp_path / "x.dcm", GREY.astype(np.int16), stored=12)
    names = {"x.png": "uint16", "x.npz": "uint8", "palette.tif": "uint8", "bilevel.tif": "uint8"}
    assert {name: read_storage(tmp_path / name).dtype.name for name in names} == names
    assert read_storage(dicom) == (np.dtype(np.uint16), None)


def test_the_byte_order_of_a_file_stays_its_own(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", GREY.astype(">u2"), byteorder=">")
    assert read_storage(tmp_path / "x.tif").dtype.isnative


def test_the_chosen_page_counts_and_thumbnails_do_not(tmp_path):
    with tifffile.TiffWriter(tmp_path / "x.tif") as tiff:
        tiff.write(GREY.astype(np.uint8), subfiletype=1, resolution=(1, 1), resolutionunit=3)
        tiff.write(GREY.astype(np.uint16), resolution=(4000, 4000), resolutionunit=3)
    assert read_storage(tmp_path / "x.tif") == (np.dtype(np.uint16), 2.5)
    assert read_storage(tmp_path / "x.tif#0") == (np.dtype(np.uint8), 10000)


UM = {"unit": "um"}


@pytest.mark.parametrize(
    ("options", "microns"),
    [
        ({"resolution": (25400, 25400), "resolutionunit": 2}, 1.0),
        ({"resolution": (20000, 20000), "resolutionunit": 3}, 0.5),
        ({"resolution": (20000, 10000), "resolutionunit": 3}, None),  # not square
        ({"resolution": (20000, 20000), "resolutionunit": 1}, None),  # without a unit
        ({}, None),
        ({"imagej": True, "resolution": (4, 4), "metadata": UM}, 0.25),
        ({"imagej": True, "resolution": (4, 4), "metadata": {"unit": "pixel"}}, None),
        ({"ome": True, "metadata": {"axes": "YX", "PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5}}, 0.5),
        (
            {
                "ome": True,
                "metadata": {"axes": "YX", "PhysicalSizeX": 5, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 5},
            },
            None,
        ),
        ({"ome": True, "metadata": {"axes": "YX"}}, None),
    ],
)
def test_sizes_of_pixels(tmp_path, options, microns):
    path = tmp_path / ("x.ome.tif" if options.get("ome") else "x.tif")
    tifffile.imwrite(path, GREY.astype(np.uint16), **{"metadata": None} | options)
    assert read_storage(path).microns_per_pixel == (None if microns is None else pytest.approx(microns))


def test_what_is_written_is_found(tmp_path):
    write_image(tmp_path / "x.tif", GREY.astype(np.uint8), microns_per_pixel=0.2525)
    assert read_storage(tmp_path / "x.tif").microns_per_pixel == pytest.approx(0.2525, rel=1e-4)


def test_unreadable_files_are_named(tmp_path):
    (tmp_path / "x.tif").write_bytes(b"II*\0nothing")
    with pytest.raises(UserError, match=r"x\.tif"):
        read_storage(tmp_path / "x.tif")


# ---- a range is of one quantity ------------------------------------------------------------------


def test_a_range_leaves_colours_alone_that_are_levels(tmp_path):
    colours = np.random.default_rng(0).integers(0, 65536, (5, 6, 3)).astype(np.uint16)
    view = View(range=Range(-3, 3))
    for name in ("x.png", "x.tif", "x.dcm"):
        write_image(tmp_path / name, colours)
        np.testing.assert_array_equal(read_image(tmp_path / name, view=view), colours)
        assert read_range(tmp_path / name, view)[:2] == (0, 65535)
    for dtype in (np.float32, np.int16):
        write_image(tmp_path / "y.tif", (colours % 7 - 3).astype(dtype))
        assert read_header(tmp_path / "y.tif", view) == (5, 6, 3, 16) and read_range(tmp_path / "y.tif", view)[0] == -3
