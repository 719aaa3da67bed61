"""PNG files: any reader gets the pixels back, and the text."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medgen_jax.data.images import read_image
from medgen_jax.synthesis import png

TEXT = png.marks("1.2", Number="7", Class="Épanchement", Run="läuft 好")


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("shape", [(5, 7, 1), (5, 7, 3), (1, 1, 1), (300, 2, 3)])
def test_pixels_come_back(tmp_path, dtype, shape):
    array = np.random.default_rng(0).integers(0, np.iinfo(dtype).max + 1, shape).astype(dtype)
    path = tmp_path / "a.png"
    path.write_bytes(png.encode(array, TEXT))
    found = read_image(path)
    np.testing.assert_array_equal(found, array)
    assert found.dtype == dtype
    if dtype == np.uint8 or shape[-1] == 1:
        np.testing.assert_array_equal(np.asarray(Image.open(path)).reshape(shape), array)


def test_text_comes_back_in_any_script(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(png.encode(np.zeros((2, 2, 1), np.uint8), {**TEXT, "Odd": "a\0b"}))
    image = Image.open(path)
    image.load()
    assert image.text == {
        "Software": "medgen_jax 1.2", "Number": "7", "Class": "Épanchement", "Run": "läuft 好",
        "mark": "synthetic", "Disclaimer": "synthetic image, not a patient", "Odd": "a b",
    }  # fmt: skip


def test_files_of_this_program_are_told_from_others(tmp_path):
    ours, theirs = tmp_path / "ours.png", tmp_path / "theirs.png"
    ours.write_bytes(png.encode(np.zeros((2, 2, 3), np.uint8), TEXT))
    Image.new("L", (2, 2)).save(theirs)
    assert png.is_ours(ours)
    assert not png.is_ours(theirs) and not png.is_ours(tmp_path / "none.png") and not png.is_ours(tmp_path)


@pytest.mark.parametrize(
    "array", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 2), np.uint8), np.zeros((2, 2, 1), np.float32)]
)
def test_other_arrays_are_refused(array):
    with pytest.raises(ValueError, match="expected uint8 or uint16"):
        png.encode(array, {})
