"""The page of an evaluation: valid, self-contained, escaped, and telling the right things."""

from __future__ import annotations

import numpy as np
import pytest
from test_viz_report import Page

from medgen_jax.viz import scores
from medgen_jax.viz.page import POLICY


def entry(value, interval=None, better="lower", **extras):
    return {
        "value": value, "interval": interval, "level": 0.95, "method": "by hand", "better": better,
        "n_real": 64, "n_fake": 50, "fingerprint": "fid|<w>", **extras,
    }  # fmt: skip


def page(numbers=None, **parts):
    numbers = {"fid": entry(115.9312, [105.2, 126.6])} if numbers is None else numbers
    return Page(scores.render(title="T", facts={"Real": "a<b"}, numbers=numbers, **parts))


def test_a_page_stands_alone_and_escapes():
    found = page(warnings=["<b>bold</b>"])
    assert "a<b" in found.words and "<b>bold</b>" in found.words and "fid|<w>" in found.words
    assert not {tag for tag, _ in found.tags} & {"script", "link", "iframe", "object", "b"}
    policies = [attrs["content"] for tag, attrs in found.tags if attrs.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [POLICY]
    assert not [attrs for _, attrs in found.tags if str(attrs.get("src", "data:")).startswith("http")]


def test_values_have_as_many_digits_as_their_interval_deserves():
    numbers = {
        "fid": entry(115.9312, [105.1777, 126.6333]),
        "kid": entry(0.0552012, [-0.0041234, 0.1]),
        "psnr": entry(12.34567, None, "higher"),
        "ssim": entry(None),
    }
    rows = {cells[0][0]: [text for text, _ in cells[1:]] for cells in page(numbers).rows if len(cells) > 3}
    assert rows["FID \u2193"][:3] == ["115.9", "105.2 to 126.6", "64 real, 50 generated"]
    assert rows["KID \u2193"][:2] == ["0.055", "\u22120.004 to 0.100"]
    assert rows["PSNR, pooled (dB) \u2191"][:2] == ["12.35", "\u2013"]
    assert rows["SSIM \u2193"][0] == "not finite"


def test_what_judges_a_number_stands_beside_it():
    extras = dict(fid_infinity=113.4, fid_infinity_standard_error=3.13, floor=81.58, floor_n=32)
    numbers = {"fid": entry(116.0, [105, 127], **extras), "recall": entry(1.0, [0.8, 1], "higher", k=5)}
    text = page(numbers).text
    assert "infinitely many images 113.4 (fit \u00b1 3.13); real against real 81.58, halves of 32" in text
    assert "k = 5" in text and "Beside it" in text and "Beside it" not in page().text
    pairs = {"psnr": {**entry(20.0, [19, 21], "higher"), "n": 7}}
    assert "7 pairs" in page(pairs).text


def test_methods_are_named_once():
    numbers = {name: entry(0.5, [0.4, 0.6], "higher") for name in ("precision", "recall")}
    assert "Interval: Precision, Recall: by hand." in page(numbers).text


@pytest.mark.parametrize(("size", "shown"), [((32, 32), 128), ((128, 100), 128), ((1000, 600), 250), ((300, 2), 300)])
def test_pictures_come_near_one_size(size, shown):
    image = np.zeros((*size, 3), np.uint8)
    found = page(cases=[scores.Case("Worst", "image 3", [("generated", image), ("real", image)])])
    ((alt, picture),) = found.images()
    assert alt == "image 3" and picture.height == shown + 4 + 4 + 14 + 4
    assert picture.width >= 2 * size[1] * shown // size[0] and not picture.info


def test_reduction_averages_and_enlargement_repeats():
    board = np.indices((640, 640)).sum(0) % 2 * 200
    np.testing.assert_array_equal(scores._fitted(board[..., None].astype(np.uint8)), np.full((320, 320, 1), 100))
    small = np.arange(4, dtype=np.uint8).reshape(2, 2, 1)
    np.testing.assert_array_equal(scores._fitted(small)[::64, ::64], small)


def test_cases_stand_under_their_headings():
    image = np.zeros((16, 16, 1), np.float32)
    cases = [scores.Case(h, c, [("output", image)]) for h, c in (("Worst", "one"), ("Worst", "two"), ("Best", "three"))]
    text = page(cases=cases).text
    assert text.index("Worst") < text.index("one") < text.index("two") < text.index("Best") < text.index("three")
    assert text.count("Worst") == 1


def test_changes_and_what_makes_them_incomparable():
    change = dict(
        name="fid", before=20.0, now=10.0, change=-10.0, interval=[-15.0, -5.0], verdict="better", differences=()
    )
    found = page(changes=[change])
    assert [text for text, _ in found.rows[-2]] == ["FID", "20", "10", "\u221210", "\u221215 to \u22125", "better"]
    assert "not comparable" not in found.text
    odd = {**change, "verdict": "not comparable", "differences": ("seed: 0 against 1",)}
    assert "The two evaluations are not comparable | seed: 0 against 1" in page(changes=[odd, odd]).text


def test_baselines_beside_the_model():
    numbers = {"psnr": entry(20.0, [19, 21], "higher"), "lpips": entry(0.2)}
    found = page(numbers, baselines={"all black": {"psnr": 21.0}})
    rows = [[text for text, _ in cells] for cells in found.rows]
    assert ["this model", "20.00"] in rows and ["all black", "21.00"] in rows
    assert ("21.00", "best") in [cell for cells in found.rows for cell in cells]


def test_an_audit_has_its_verdict_p_values_and_power():
    def share(value, trials=10):
        return {"share": value, "trials": trials}

    power = {
        "generated": 20, "trials": 10, "alpha": 0.05,
        "rows": [
            {"copies": "none", "planted": 0, "suspects": share(0.1), "any": share(0.1)},
            {"copies": "exact", "planted": 2, "suspects": share(0, trials=0), "any": share(1.0)},
        ],
    }  # fmt: skip
    measures = {"suspects": {"p_value": 0.01, "corrected_p_value": None}}
    space = {"verdict": "Look.", "notes": ["A note."], "measures": measures, "power": power}
    found = page(audit={"verdict": "Evidence of copying.", "spaces": {"pixels": space}})
    rows = [[text for text, _ in cells] for cells in found.rows]
    assert ["p", "0.01"] in rows and ["p, corrected for the number of measures", "\u2013"] in rows
    assert ["nothing", "10%", "10%"] in rows and ["2 of 20, exact", "\u2013", "100%"] in rows
    for words in ("Evidence of copying.", "Look.", "A note."):
        assert words in found.words
    assert (
        "What the measures can see" not in page(audit={"verdict": "v", "spaces": {"p": space | {"power": None}}}).text
    )
