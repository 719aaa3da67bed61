"""Folders of images: 8-bit rule, contents and not names, what is warned about and what refused."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
import small_networks

from medgen_jax.core.errors import UserError
from medgen_jax.data.images import write_image
from medgen_jax.evaluation.folders import ImageSet, eight_bit, require_matched, share_of_copies


def test_eight_bits_are_rounded_multiples_of_257():
    values = np.array([0, 128, 129, 257, 65535 - 129, 65535 - 128, 65535], np.uint16).reshape(1, -1, 1)
    np.testing.assert_array_equal(eight_bit(values)[0, :, 0], [0, 0, 1, 1, 254, 255, 255])
    everything = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    exact = np.rint(everything / 257).astype(np.uint8)  # no value lies exactly between two
    np.testing.assert_array_equal(eight_bit(everything), exact.repeat(3, -1))


def test_grey_is_repeated_and_colour_kept():
    grey = np.array([[[3], [7]]], np.uint8)
    np.testing.assert_array_equal(eight_bit(grey), [[[3, 3, 3], [7, 7, 7]]])
    colour = np.arange(6, dtype=np.uint8).reshape(1, 2, 3)
    assert eight_bit(colour) is colour


def test_the_digest_is_of_contents_in_order_and_not_of_names(tmp_path):
    images = small_networks.pictures(3)
    one = ImageSet.open("--real", small_networks.write(tmp_path / "one", images))
    other = ImageSet.open("--real", small_networks.write(tmp_path / "other", images, prefix="patient"))
    turned = ImageSet.open("--real", small_networks.write(tmp_path / "turned", images[::-1]))
    assert one.digest == other.digest != turned.digest
    assert one.digests[0] == hashlib.sha256((tmp_path / "one/p000.png").read_bytes()).hexdigest()
    assert share_of_copies(one.digests, turned.digests) == 3
    assert share_of_copies(one.digests[:1], turned.digests) == 1


def test_sizes_are_grouped_and_odd_files_warned_about(tmp_path):
    folder = small_networks.write(tmp_path, small_networks.pictures(2))
    small_networks.write(folder, small_networks.pictures(1, size=(30, 20)), prefix="a")
    small_networks.write(folder, small_networks.pictures(1, bits=16), prefix="z")
    small_networks.write(folder, small_networks.pictures(1), suffix=".jpg", prefix="q")
    found = ImageSet.open("--fake", folder)
    assert found.names == ("a000", "p000", "p001", "q000", "z000")
    assert found.groups() == {(30, 20): [0], (24, 24): [1, 2, 3, 4]}
    jpeg, sizes, bits = found.warnings()
    assert jpeg == "--fake: 1 of 5 files are JPEG: compression artefacts count as image content"
    assert "2 different sizes" in sizes and "4 images have 8 bits and 1 have 16" in bits


@pytest.mark.parametrize(("top", "said"), [(4095, True), (65535, False), (0, False)])
def test_16_bit_files_that_use_few_levels_are_warned_about(tmp_path, top, said):
    image = np.zeros((24, 24, 1), np.uint16)
    image[3, 4] = top
    write_image(tmp_path / "a.png", image)
    found = ImageSet.open("--real", tmp_path).warnings()
    assert len(found) == said
    assert not said or "--real: the brightest 16-bit sample found is 4,095 of 65,535" in found[0]


def test_a_plain_folder_has_no_warnings(tmp_path):
    assert not ImageSet.open("--real", small_networks.write(tmp_path, small_networks.pictures(2))).warnings()


def test_missing_empty_and_broken_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="--real .*nowhere: no such folder"):
        ImageSet.open("--real", tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no images"):
        ImageSet.open("--real", tmp_path)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG nonsense")
    with pytest.raises(UserError, match=r"broken\.png: cannot be read"):
        ImageSet.open("--real", tmp_path)


def test_pairs_need_one_name_and_one_kind(tmp_path):
    images = small_networks.pictures(3)
    real = ImageSet.open("--real", small_networks.write(tmp_path / "real", images))
    require_matched(real, ImageSet.open("--fake", small_networks.write(tmp_path / "same", images)))
    fewer = ImageSet.open("--fake", small_networks.write(tmp_path / "fewer", images[:1]))
    with pytest.raises(UserError, match="has 3 and --fake 1 images, 2 without a partner.*--real p001, --real p002"):
        require_matched(real, fewer)


@pytest.mark.parametrize("kind", [{"bits": 16}, {"size": (24, 20)}, {"channels": 3}])
def test_partners_differ_in_nothing_but_their_pixels(tmp_path, kind):
    real = ImageSet.open("--real", small_networks.write(tmp_path / "real", small_networks.pictures(1)))
    other = small_networks.write(tmp_path / "fake", small_networks.pictures(1, **kind))
    with pytest.raises(
        UserError, match=r"p000\.png: has .*, its partner in --real 24x24 pixels, 1 channel\(s\) of 8 bits"
    ):
        require_matched(real, ImageSet.open("--fake", other))
