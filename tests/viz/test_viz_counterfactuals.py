"""Pictures of counterfactuals by hand: colours, one scale, boxes; the page: order, warning, escaping, bounds."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from test_viz_report import Page as Parsed

from medgen_jax.core.errors import UserError
from medgen_jax.viz import counterfactuals
from medgen_jax.viz.counterfactuals import ABSOLUTE, BOX, SIGNED, Page, absolute, limit_of, overlay, pictures, signed
from medgen_jax.viz.page import POLICY


def result(residual=0.4, lost=0.02, size=(6, 8, 1)):
    """An image of 0 whose counterfactual is darker by ``residual`` in its left half."""
    changed = np.zeros(size, np.float32)
    changed[:, : size[1] // 2] = residual
    control = np.full(size, lost, np.float32)
    beyond = np.maximum(np.abs(changed) - np.abs(control), 0)
    image = np.zeros(size, np.float32)
    return SimpleNamespace(
        image=image, counterfactual=-changed, control=-control, residual=changed, control_residual=control,
        subtracted=beyond,
    )  # fmt: skip


def entry(**more):
    numbers = {"mean_absolute_residual": 0.1, "mean_absolute_control": 0.01, "round_trip_rms": 0.02}
    known = {
        "label": "Lung Opacity", "view": "AP", "boxes": None, "source": {"label": None}, "target": {"label": "Normal"},
        "depth": 500, "scale": 3.0, "numbers": numbers | more.pop("numbers", {}),
    }  # fmt: skip
    return SimpleNamespace(**(known | more))


def test_zero_is_neutral_grey_and_the_ends_are_the_ends():
    values = np.array([[-1.0, -0.2, 0.0, 0.1, 0.2, 7.0]])
    colours = signed(values, 0.2)[0].tolist()
    assert colours[0] == colours[1] == list(SIGNED[0]) and colours[4] == colours[5] == list(SIGNED[2])
    assert colours[2] == [128, 128, 128]
    assert colours[3] == [round((SIGNED[1][c] + SIGNED[2][c]) / 2) for c in range(3)]
    assert absolute(np.array([[0.0, 0.1, 0.2, 0.5]]), 0.2)[0].tolist() == [list(c) for c in (*ABSOLUTE, ABSOLUTE[2])]


def test_the_scale_is_the_next_round_number_and_never_minute():
    assert limit_of([]) == 0.01 and limit_of([result(0.0, 0.0)]) == 0.01
    assert limit_of([result(0.04), result(0.2)]) == pytest.approx(0.1)
    assert limit_of([result(0.22)]) == pytest.approx(0.2)
    assert limit_of([result(0.0, 0.3)]) == pytest.approx(0.2)  # the control counts
    assert limit_of([result(2.0)]) == 1.0


def test_one_bright_pixel_does_not_set_the_scale():
    one = result(0.04, 0.0, (40, 40, 1))
    one.residual[0, 0] = 2.0
    assert limit_of([one]) == pytest.approx(0.02)


def test_nothing_lies_over_an_image_that_did_not_change():
    image = np.linspace(-1, 1, 12, dtype=np.float32).reshape(3, 4, 1)
    grey = overlay(image, np.zeros((3, 4)), 0.1)
    np.testing.assert_array_equal(grey, np.rint((image + 1) * 127.5).repeat(3, -1))
    strong = overlay(image, np.full((3, 4), 0.1), 0.1)
    np.testing.assert_allclose(strong, np.rint(grey * 0.2 + np.array(SIGNED[2]) * 0.8), atol=1)


def test_boxes_are_outlined_inside_the_picture():
    got = overlay(np.zeros((8, 8, 1), np.float32), np.zeros((8, 8)), 0.1, [(2, 1, 4, 5), (6, 6, 9, 9)])
    marked = (got == BOX).all(-1)
    expected = np.zeros((8, 8), bool)
    expected[[1, 5], 2:6] = expected[1:6, 2] = expected[1:6, 5] = True
    expected[6:8, 6:8] = True
    np.testing.assert_array_equal(marked, expected)


def test_pictures_show_what_they_are_called():
    made = pictures(result(), entry(), 0.2, subtract=False)
    assert list(made) == ["input", "counterfactual", "residual", "absolute", "overlay", "control", "control residual"]
    assert (made["input"] == 128).all() and made["counterfactual"][0, 0, 0] == 76  # (1 - 0.4) * 127.5
    assert made["residual"][0, 0].tolist() == list(SIGNED[2]) and made["residual"][0, 7].tolist() == [128, 128, 128]
    assert made["absolute"][0, 0].tolist() == list(ABSOLUTE[2]) and made["absolute"][0, 7].tolist() == list(ABSOLUTE[0])
    less = pictures(result(), entry(), 0.2, subtract=True)
    np.testing.assert_allclose(less["absolute"][0, 0], absolute(np.array([[0.19]]), 0.2)[0, 0], atol=1)
    np.testing.assert_array_equal(less["residual"], made["residual"])


def test_colours_of_opposite_sign_do_not_hide_in_the_absolute_picture():
    one = result(size=(2, 2, 3))
    one.residual = np.broadcast_to(np.float32([0.4, -0.4, 0.0]), (2, 2, 3))
    made = pictures(one, entry(), 0.2, subtract=False)
    assert (made["residual"] == 128).all() and (made["absolute"].sum(-1) > 0).all()


def page(tmp_path, *added, notes=(), **settings):
    made = Page({"run": "rsna", "method": "bdia", "steps": 100, "clip": False, **settings}, 0.2, notes)
    for number, (title, one) in enumerate(added):
        made.add(title, one, result(), None, tmp_path / "pictures" / str(number))
    return made


def test_a_page_stands_alone_warns_and_escapes(tmp_path):
    text = page(tmp_path, ("<b>a</b>.png", entry(label="<i>")), notes=("n<o",), target="x<y", ensemble=[1, 2]).render()
    parsed = Parsed(text)
    assert "<b>a</b>.png" in parsed.words and "n<o" in parsed.words and "x<y" in parsed.words and "<i>" in parsed.text
    assert not {tag for tag, _ in parsed.tags} & {"script", "link", "iframe", "b", "i"}
    assert "A residual that is no larger than the control's is not a finding" in parsed.text
    assert [a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy"] == [POLICY]
    assert "bdia" in parsed.words and "1, 2" in parsed.words and "no" in parsed.words
    names = [alt for alt, _ in parsed.images()]
    assert names[0].startswith("Colour bar from -0.2 to +0.2") and names[1:3] == [
        "<b>a</b>.png: input", "<b>a</b>.png: counterfactual",
    ]  # fmt: skip
    assert len(names) == 8
    assert [cell for cell, _ in parsed.rows[1]] == [
        "<b>a</b>.png", "<i>", "AP", "500", "3", "0.1000", "0.0100", "0.0200",
    ]  # fmt: skip


def test_it_says_so_where_a_residual_is_no_finding(tmp_path):
    weak = entry(numbers={"mean_absolute_residual": 0.01, "mean_absolute_control": 0.01})
    assert "no larger than the control's: not a finding" in Parsed(page(tmp_path, ("a", weak)).render()).text
    assert "no larger than the control's: not a finding" not in Parsed(page(tmp_path, ("a", entry())).render()).text


def test_chosen_depths_and_scales_stand_with_their_gaps(tmp_path):
    gaps = {"forward_gap": 0.25, "forward_gap_reference": 0.5}
    settings = {"scale": "auto", "scale_range": [0.0, 3.0], "reference": "train"}
    made = page(tmp_path, ("a", entry(scale=1.5, numbers=gaps)), ("b", entry(scale=None, depth=None)), **settings)
    parsed = Parsed(made.render())
    assert [cell for cell, _ in parsed.rows[0]][3:5] == ["Depth", "Scale"]
    assert [cell for cell, _ in parsed.rows[0]][-1] == "Widest gap"
    assert [[cell for cell, _ in row][3:5] for row in parsed.rows[1:]] == [["500", "1.5000"], ["\u2013", "\u2013"]]
    assert "Widest gap: how much guidance would change" in parsed.text and "depth 500; scale 1.5" in parsed.text
    assert {"Scales from, to", "0, 3", "train", "auto"} <= set(parsed.words)


def test_pictures_are_written_and_only_some_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(counterfactuals, "SHOWN", 1)
    made = page(tmp_path, ("a", entry()), ("b", entry()))
    made.add("c", entry(), result(), np.full((6, 8, 1), 0.1, np.float32), tmp_path / "pictures/2")
    assert "Deviation: standard deviation" in made.render() and "Deviation" not in page(tmp_path).render()
    parsed = Parsed(made.render())
    assert "Images, 1 of 3" in parsed.words and len(parsed.rows) == 4 and len(parsed.images()) == 8
    kinds = {"counterfactual", "residual", "absolute", "overlay", "control"}
    written = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert written == {f"{n}_{kind}.png" for n in range(3) for kind in kinds} | {"2_deviation.png"}
    with Image.open(tmp_path / "pictures/0_counterfactual.png") as picture:
        assert picture.text["mark"] == "synthetic" and picture.size == (8, 6)
    assert made.write(tmp_path / "index.html").read_text() == made.render()


def test_a_page_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        page(tmp_path, ("a", entry())).write(tmp_path / "file/index.html")
