"""One image in numbers, copies that are not equal, and shifts: closed forms first, then real images."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from medgen_jax.data.inspection import likeness, registration
from medgen_jax.data.inspection.containers import Container, look
from medgen_jax.data.inspection.measures import count_levels, measure, quantile
from medgen_jax.data.transforms import resize


def smooth(seed=0, size=64, channels=1):
    """Random blobs, as unlike each other as pictures are."""
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 8, channels)).astype(np.uint8)
    return resize(coarse, size, size)


# ---- levels --------------------------------------------------------------------------------------


def test_numbers_of_a_hand_made_image():
    found, counts = measure(np.array([[[0], [10]], [[10], [20]]], np.uint8))
    assert (found.low, found.high, found.mean) == (0, 20, 10)
    assert found.std == pytest.approx(50**0.5)
    assert counts.shape == (256,) and {i: int(n) for i, n in enumerate(counts) if n} == {0: 1, 10: 2, 20: 1}
    assert not found.same_channels and not found.coarse


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_counts_and_quantiles_are_those_of_numpy(dtype):
    image = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (700, 801, 3)).astype(dtype)
    counts = count_levels(image)  # more samples than one block
    assert (counts == np.bincount(image.reshape(-1), minlength=len(counts))).all()
    for share in (0.001, 0.25, 0.5, 0.999):
        assert quantile(counts, share) == np.quantile(image, share, method="inverted_cdf")


@pytest.mark.parametrize(
    ("levels", "coarse"),
    [([0, 257, 65535], True), ([0, 256, 65280], True), ([0, 7, 255], True), ([0, 257, 513], False)],
)
def test_eight_bit_levels_in_16_bits_are_noticed(levels, coarse):
    assert measure(np.array(levels, np.uint16).reshape(1, 3, 1))[0].coarse is coarse


def test_grey_pictures_in_colour_are_noticed_up_to_two_levels():
    image = smooth().repeat(3, -1)
    assert measure(image)[0].same_channels and not measure(image[..., :1])[0].same_channels
    for blue, same in ((102, True), (103, False)):
        image[5, 5] = (100, 100, blue)
        assert measure(image)[0].same_channels is same
        assert measure(image.astype(np.uint16) * 257)[0].same_channels is same


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 200, 3), (33, 7, 1)])
def test_odd_shapes_and_constant_images_give_finite_numbers(shape):
    found, _ = measure(np.full(shape, 7, np.uint8))
    assert (found.mean, found.std, found.hash >> 64) == (7, 0, 0)
    assert found.outline.shape == (32, 32) and not found.outline.any()


def test_the_digest_tells_pixels_shapes_and_types_apart():
    image = smooth()
    same, other = measure(image)[0].digest, image.copy()
    other[0, 0, 0] ^= 1
    assert measure(image.copy())[0].digest == same
    assert (
        len({same, *(measure(i)[0].digest for i in (other, image.reshape(32, 128, 1), image.astype(np.uint16)))}) == 4
    )


# ---- copies --------------------------------------------------------------------------------------


def found_similar(one, other):
    """Whether two images count as similar."""
    (a, _), (b, _) = measure(one), measure(other)
    hashes = (np.array([m.hash], np.uint64) for m in (a, b))
    first, second = hashes
    return bool(list(likeness.similar(first, a.outline[None], second, b.outline[None])))


def jpeg(image, quality):
    stream = io.BytesIO()
    Image.fromarray(image[..., 0]).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))[..., None]


EDITS = {
    "resized": lambda image: resize(image, 41, 41),
    "compressed": lambda image: jpeg(image, 40),
    "brightened": lambda image: np.clip(image.astype(int) // 2 + 60, 0, 255).astype(np.uint8),
    "in 16 bits": lambda image: image.astype(np.uint16) * 257,
    "in colour": lambda image: image.repeat(3, -1),
}


@pytest.mark.parametrize("edit", EDITS)
def test_edited_copies_are_similar_and_other_images_are_not(edit):
    for seed in range(5):
        assert found_similar(smooth(seed), EDITS[edit](smooth(seed)))
        assert not found_similar(smooth(seed), EDITS[edit](smooth(seed + 100)))


def test_what_the_method_says_it_misses_it_misses():
    assert not found_similar(smooth(), np.ascontiguousarray(smooth()[:, ::-1]))
    assert not found_similar(smooth(), 255 - smooth())


def test_a_candidate_by_hash_needs_equal_outlines():
    """Equal hashes alone are not enough: the correlation decides."""
    hashes = np.zeros(1, np.uint64)
    outlines = np.random.default_rng(0).integers(0, 256, (2, 32, 32)).astype(np.uint8)
    assert not list(likeness.similar(hashes, outlines[:1], hashes, outlines[1:]))
    assert list(likeness.similar(hashes, outlines[:1], hashes, outlines[:1])) == [(0, 0)]
    assert not list(likeness.similar(hashes, np.zeros_like(outlines[:1]), hashes, outlines[:1]))


def test_hundreds_of_images_are_compared_in_blocks(monkeypatch):
    monkeypatch.setattr(likeness, "_BLOCK", 45)
    monkeypatch.setattr(likeness, "_PAIRS", 2)
    measures = [measure(smooth(seed))[0] for seed in range(20)]
    hashes, outlines = np.array([m.hash for m in measures], np.uint64), np.array([m.outline for m in measures])
    found = set(likeness.similar(hashes, outlines, hashes[5:], outlines[5:]))
    assert found == {(i, i - 5) for i in range(5, 20)}


def test_chest_x_rays_of_different_people_are_not_taken_for_copies(shared):
    from medgen_jax.data.images import read_image

    files = sorted((shared / "data/cxr/normal").glob("*.jpg"))[:120]
    measures = [measure(read_image(file))[0] for file in files]
    hashes, outlines = np.array([m.hash for m in measures], np.uint64), np.array([m.outline for m in measures])
    pairs = set(likeness.similar(hashes, outlines, hashes, outlines))
    assert pairs == {(i, i) for i in range(len(files))}
    near = np.bitwise_count(hashes[:, None] ^ hashes[None]) <= likeness.DISTANCE
    assert near.sum() > len(files) + 10  # the hash alone would have named many


# ---- shifts --------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [(0, 0), (5, -9), (-17, 3)])
@pytest.mark.parametrize("size", [100, 600])
def test_a_shift_is_found_to_the_pixel_also_under_inverted_contrast(offset, size):
    scene = np.random.default_rng(0).normal(size=(size + 60, size + 60))
    for axis in (0, 1):  # detail a few pixels wide
        scene = sum(np.roll(scene, k, axis) for k in range(-2, 3))
    scene = np.clip(scene * 8 + 128, 0, 255).astype(np.uint8)[..., None]
    a = scene[30 : 30 + size, 30 : 30 + size]
    b = 255 - scene[30 - offset[0] : 30 - offset[0] + size, 30 - offset[1] : 30 - offset[1] + size]
    found = registration.shift(a, b)
    assert found[:2] == offset and found.believed
    assert found.pixels == pytest.approx(np.hypot(*offset))


def test_unrelated_noise_shows_no_shift_that_is_believed():
    rng = np.random.default_rng(0)
    for _ in range(5):
        a, b = rng.integers(0, 256, (2, 128, 128, 1)).astype(np.uint8)
        assert not registration.shift(a, b).believed


def test_what_cannot_be_compared_gives_none():
    image = smooth()
    assert registration.shift(image, image[:-1]) is None
    assert registration.shift(image[:30], image[:30]) is None
    assert registration.shift(image, np.full_like(image, 3)) is None


# ---- files ---------------------------------------------------------------------------------------


def test_what_files_say_of_themselves(tmp_path):
    grey = Image.fromarray(smooth()[..., 0])
    turned = Image.Exif()
    turned[0x0112] = 6
    grey.save(tmp_path / "plain.png")
    grey.convert("P").save(tmp_path / "palette.png")
    grey.convert("RGBA").save(tmp_path / "alpha.png")
    grey.convert("RGB").save(tmp_path / "turned.jpg", exif=turned)
    grey.convert("RGBA").save(tmp_path / "alpha.tif")
    grey.save(tmp_path / "turned.tif", tiffinfo={0x0112: 3})
    (tmp_path / "broken.png").write_bytes(b"no picture")
    (tmp_path / "other.npy").write_bytes(b"")
    said = {path.name: look(path) for path in tmp_path.iterdir()}
    assert said["plain.png"] == Container("L")
    assert said["palette.png"].palette and not said["plain.png"].palette
    assert said["alpha.png"].alpha and said["alpha.tif"].alpha
    assert said["turned.jpg"] == Container("RGB", rotated=True, lossy=True)
    assert said["turned.tif"].rotated and said["turned.tif"].mode == "MINISBLACK"
    assert said["broken.png"] == said["other.npy"] == Container()
