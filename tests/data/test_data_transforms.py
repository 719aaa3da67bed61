"""Geometry: dtype kept, the same for every column, decided by the generator alone."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from medgen_jax.core.config import DataConfig
from medgen_jax.data.transforms import crop, evaluation_view, resize, training_view


def ramp(size, dtype=np.uint8, channels=1):
    """Every pixel of a square image different: value = row * size + column (+ channel * 1000)."""
    plane = np.arange(size * size).reshape(size, size, 1)
    return np.concatenate([plane + 1000 * c for c in range(channels)], -1).astype(dtype)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_resize_of_a_constant_is_that_constant(dtype):
    top = np.iinfo(dtype).max
    for value in (0, top // 3, top):
        out = resize(np.full((9, 7, 3), value, dtype), 16, 5)
        assert out.dtype == dtype
        np.testing.assert_array_equal(out, np.full((16, 5, 3), value))


def test_resize_agrees_with_pillow_on_8_bits():
    # Mid-range noise: Pillow clips its 8-bit form between the two passes, ours only at the end.
    image = np.random.default_rng(0).integers(90, 165, (40, 31, 3), dtype=np.uint8)
    for height, width in ((64, 50), (17, 23)):
        reference = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
        assert np.abs(resize(image, height, width).astype(int) - reference).max() <= 1


def test_resize_of_16_bits_has_16_bit_precision():
    line = np.linspace(20000, 40000, 32)
    image = np.rint(np.tile(line[:, None, None], (1, 8, 1))).astype(np.uint16)
    out = resize(image, 64, 8)[8:-8, 0, 0].astype(float)
    places = (np.arange(64) + 0.5) / 2 - 0.5  # pixel centres of the enlarged line
    np.testing.assert_allclose(out, np.interp(places, np.arange(32), line)[8:-8], atol=1.5)


def test_overshoot_is_clipped_not_wrapped():
    edge = np.zeros((8, 8, 1), np.uint8)
    edge[:, 4:] = 255
    out = resize(edge, 8, 32)[0, :, 0].astype(int)
    assert (out[:12] <= 20).all()
    assert (out[-12:] >= 235).all()
    assert out[:12].min() == 0
    assert out[-12:].max() == 255


def test_all_columns_get_the_same_geometry():
    config = DataConfig(crop_size=8, rotate=True)
    a, b = ramp(16), ramp(16, np.uint16, 3)
    seen = set()
    for index in range(40):
        view = training_view({"a": a, "b": b}, np.random.default_rng(index), config)
        assert view["a"].shape == (8, 8, 1)
        assert view["b"].shape == (8, 8, 3)
        np.testing.assert_array_equal(view["b"][..., 0], view["a"][..., 0])
        np.testing.assert_array_equal(view["b"][..., 2], view["b"][..., 0] + 2000)
        seen.add(view["a"].tobytes())
    assert len(seen) > 30


def test_crops_reach_every_border_and_never_beyond():
    config = DataConfig(crop_size=3, flip=False)
    image = ramp(5)
    corners = {
        tuple(divmod(int(training_view({"a": image}, np.random.default_rng(i), config)["a"][0, 0, 0]), 5))
        for i in range(200)
    }
    assert corners == {(r, c) for r in range(3) for c in range(3)}


def test_flips_and_turns_are_the_eight_of_the_square():
    image = ramp(4)

    def views(**options):
        config = DataConfig(crop_size=4, **options)
        return {training_view({"a": image}, np.random.default_rng(i), config)["a"].tobytes() for i in range(100)}

    flipped = image[:, ::-1]
    assert views(flip=False) == {image.tobytes()}
    assert views(flip=True) == {image.tobytes(), flipped.tobytes()}
    assert views(flip=False, rotate=True) == {np.rot90(image, k).tobytes() for k in range(4)}
    assert views(flip=True, rotate=True) == {np.rot90(x, k).tobytes() for k in range(4) for x in (image, flipped)}


def test_the_same_generator_gives_the_same_view():
    config = DataConfig(load_size=12, crop_size=8, rotate=True)
    one, two = (training_view({"a": ramp(16)}, np.random.default_rng(3), config)["a"] for _ in range(2))
    np.testing.assert_array_equal(one, two)


def test_evaluation_keeps_full_size_without_load_size():
    image = ramp(11)
    view = evaluation_view({"a": image}, DataConfig(crop_size=4))
    np.testing.assert_array_equal(view["a"], image)


def test_evaluation_crops_the_centre_of_the_resized_image():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    view = evaluation_view({"a": image}, DataConfig(load_size=12, crop_size=8))["a"]
    np.testing.assert_array_equal(view, crop(resize(image, 12, 12), 2, 2, 8))
