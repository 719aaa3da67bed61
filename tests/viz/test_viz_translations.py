"""The page of a translation: worst first, closed, escaped, small; previews by hand."""

from __future__ import annotations

import numpy as np
import pytest
from test_viz_report import Page

from medgen_jax.core.errors import UserError
from medgen_jax.viz import translations
from medgen_jax.viz.page import POLICY
from medgen_jax.viz.translations import LARGEST, PICTURES, Gallery, Row, preview

BLACK = np.zeros((4, 6, 1), np.uint8)


def gallery(*rows):
    made = Gallery()
    for row in rows:
        made.add(row, BLACK, np.full((4, 6, 3), 0.5, np.float32))
    return made


def row(label, tiles=4, score=1.0):
    return Row(label, (40, 60, 1), 16, tiles, score)


def test_a_page_stands_alone_and_escapes():
    page = Page(gallery(row("<b>a</b>.png")).render("T<i>", {"Run": "x<y"}, ("n<o",)))
    assert "<b>a</b>.png" in page.words and "T<i>" in page.words and "x<y" in page.words and "n<o" in page.words
    assert not {tag for tag, _ in page.tags} & {"script", "link", "iframe", "b", "i"}
    policies = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [POLICY]
    assert not [attrs for _, attrs in page.tags if str(attrs.get("src", "data:")).startswith("http")]


def test_worst_seams_come_first_and_whole_images_last():
    rows = [row("w1", 1), row("low", 4, 1.01), row("high", 4, 1.2), row("w2", 1), row("none", 9, 0.9)]
    page = Page(gallery(*rows).render("T", {}))
    assert [cells[0][0] for cells in page.rows[1:]] == ["high", "low", "none", "w1", "w2"]
    assert [alt for alt, _ in page.images()] == ["high: seam score 1.200", "low: seam score 1.010",
                                                 "none: seam score 0.900", "w1", "w2"]  # fmt: skip
    marked = {cells[0][0]: cells[-1][1] for cells in page.rows[1:]}
    assert marked["high"] == "high" and marked["low"] is None and marked["w1"] is None
    texts = [text for text, _ in page.rows[1]]
    assert texts == ["high", "40 \u00d7 60", "1", "16", "4", "1.200"]
    assert "edges of tiles" not in Page(gallery(row("w", 1)).render("T", {})).text


def test_pictures_are_those_of_the_worst_and_bounded():
    many = gallery(*(row(f"i{n}", 4, 1 + n / 100) for n in range(PICTURES + 6)))
    page = Page(many.render("T", {}))
    assert len(page.images()) == PICTURES and len(page.rows) == 1 + PICTURES + 6
    assert page.images()[0][0].startswith(f"i{PICTURES + 5}:")
    assert f"{PICTURES} of {PICTURES + 6}" in page.text


def test_previews_by_hand():
    image = np.arange(4 * LARGEST, dtype=np.uint16).reshape(2, 2 * LARGEST, 1) * 50
    small = preview(image)
    assert small.shape == (1, LARGEST, 1) and small.dtype == np.uint8
    assert small[0, 0, 0] == round(np.mean([0, 50, 100 * LARGEST, 100 * LARGEST + 50]) / 257)
    np.testing.assert_array_equal(preview(BLACK), BLACK)
    ends = np.array([[-1.5, -1.0, 0.0, 1.0, 2.0]], np.float32)[..., None]
    np.testing.assert_array_equal(preview(ends)[0, :, 0], [0, 0, 128, 255, 255])


@pytest.mark.parametrize("shape", [(1, 5000, 1), (5000, 3, 3), (641, 641, 3), (320, 320, 1)])
def test_previews_of_any_shape(shape):
    small = preview(np.full(shape, 77, np.uint8))
    assert max(small.shape[:2]) <= LARGEST and min(small.shape[:2]) >= 1 and (small == 77).all()


def test_the_page_is_written_whole_or_not_at_all(tmp_path):
    path = gallery(row("a")).write(tmp_path / "report" / "index.html", "T", {})
    assert path.read_text().startswith("<!DOCTYPE html>") and list(path.parent.iterdir()) == [path]
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"index\.html: cannot be written"):
        gallery(row("a")).write(tmp_path / "file" / "index.html", "T", {})


def test_previews_are_small_whatever_was_added(monkeypatch):
    kept = gallery(row("a"))
    kept.add(row("large", 9, 3.0), np.zeros((2000, 1000, 3), np.uint8), np.zeros((2000, 1000, 3), np.float32))
    assert {max(p.shape) for _, *pair in kept._pictures for p in pair} <= {6, 2000 // -(-2000 // translations.LARGEST)}
