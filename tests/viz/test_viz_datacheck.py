"""The page of a data check, from values that a check of odd data can have."""

from __future__ import annotations

import re
from types import SimpleNamespace

import numpy as np

from medgen_jax.viz.datacheck import render

ROW = {
    "split": "train",
    "table": "records",
    "column": "image",
    "records": 1234,
    "measured": 3,
    "unreadable": 0,
    "blank": 0,
    "sizes": {"min": [8, 9], "median": [10, 20], "max": [30, 40], "distinct": 17},
    "channels": {"1": 3},
    "bits": {"8": 2, "16": 1},
    "levels": {
        bits: {"min": 0, "max": 255, "low": 1, "high": 250, "at_min": 0.5, "at_max": 0.0123, "used": 9}
        for bits in ("8", "16")
    },
    "modes": {"L": 3},
    "classes": {"label": {"<b>": 1, "sick": 2}},
    "shifts": [],
}


def page(**changed):
    picture = SimpleNamespace(
        heading="Examples",
        captions=("one", "two & three"),
        images=(np.zeros((4, 5, 1), np.uint8), np.ones((4, 4, 3), np.uint8)),
    )
    finding = {"level": "warning", "message": "odd <images>", "remedy": "mend", "names": [f"n{i}" for i in range(30)]}
    made = dict(
        title="a & b", facts={"Layout": "paired"}, findings=[finding], rows=[ROW], pictures=[picture], method=["so"]
    )
    return render(**made | changed)


def test_numbers_and_words_are_on_the_page_escaped():
    text = page()
    for words in ("a &amp; b", "odd &lt;images&gt;", "1,234", "8 x 9, 10 x 20, 30 x 40", "17 sizes", "50.0%, 1.2%"):
        assert words in text
    assert "<b>" not in text and "&lt;b&gt;" in text and "two &amp; three" in text
    assert "n19" in text and "n20" not in text and "and 10 more, all of them in datacheck.json" in text
    assert len(re.findall(r'<img [^>]*src="data:image/png;base64,', text)) == 2


def test_headings_follow_the_levels():
    findings = [{"level": level, "message": level, "remedy": "", "names": ["one"]} for level in ("error", "note")]
    text = page(findings=findings)
    assert text.index("<h2>Training refuses</h2>") < text.index("<h2>Worth knowing</h2>")
    assert "May mislead" not in text and "<details" not in text


def test_nothing_found_and_nothing_there():
    assert "Nothing is wrong, and nothing is odd." in page(findings=[])
    bare = page(rows=[ROW | {"sizes": None, "levels": {}, "channels": {}, "bits": {}, "classes": {}}], pictures=[])
    assert "\u2013" in bare and "<img" not in bare and "Records by" not in bare
    assert "<h2>Columns</h2>" not in page(rows=[], pictures=[])
