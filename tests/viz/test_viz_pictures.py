"""Pixels inside a page, and pictures under their headings."""

from __future__ import annotations

import base64
import io
import re
from typing import NamedTuple

import numpy as np
import pytest
from PIL import Image

from medgen_jax.viz.markup import Markup
from medgen_jax.viz.pictures import captioned, embedded, enlarged, under_headings


def opened(markup: str) -> Image.Image:
    kind, data = re.search(r'src="data:image/(png|jpeg);base64,([^"]+)"', markup).groups()
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert image.format.lower() == kind
    return image


@pytest.mark.parametrize("channels", [1, 3])
def test_a_png_holds_the_same_pixels(channels: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 5, channels)).astype(np.uint8)
    markup = embedded(image, 'a "b"')
    np.testing.assert_array_equal(np.asarray(opened(markup)).reshape(image.shape), image)
    assert 'alt="a &quot;b&quot;"' in markup and 'width="5" height="3"' in markup
    assert opened(embedded(Image.new("RGB", (4, 4)), "x", jpeg=85)).size == (4, 4)


def test_captions_are_what_is_read_aloud_unless_more_is_said() -> None:
    image = np.zeros((1, 1, 1), np.uint8)
    assert 'alt="lung"' in captioned(image, "lung") and "<figcaption>lung</figcaption>" in captioned(image, "lung")
    assert 'alt="case 1: lung"' in captioned(image, "lung", alt="case 1: lung")


def test_small_images_are_enlarged_by_whole_pixels() -> None:
    image = np.arange(6, dtype=np.uint8).reshape(2, 3, 1)
    np.testing.assert_array_equal(enlarged(image, 7), image.repeat(2, 0).repeat(2, 1))
    np.testing.assert_array_equal(enlarged(image, 2), image)


class Shown(NamedTuple):
    heading: str
    text: str


def test_headings_come_in_the_order_in_which_they_first_occur() -> None:
    shown = [Shown("b", "1"), Shown("a", "2"), Shown("b", "3")]
    sections = under_headings(shown, lambda one: Markup(f"<i>{one.text}</i>"), "thumbs")
    assert sections == [
        '<section><h2>b</h2><div class="thumbs"><i>1</i><i>3</i></div></section>',
        '<section><h2>a</h2><div class="thumbs"><i>2</i></div></section>',
    ]
    assert under_headings([], Markup, "thumbs") == []
