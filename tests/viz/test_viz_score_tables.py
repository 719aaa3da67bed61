"""Tables of numbers, and charts of lines: which cells, which paths."""

from __future__ import annotations

import re

import numpy as np
from test_viz_report import Page

from medgen_jax.viz import scores
from medgen_jax.viz.line_charts import Chart, Series, chart
from medgen_jax.viz.score_tables import Section, section


def entry(value, interval=None, **extras):
    return {
        "value": value, "interval": interval, "level": 0.95, "method": "by hand", "better": "higher",
        "n": 7, "fingerprint": "a|b", **extras,
    }  # fmt: skip


NUMBERS = {"dice cfg": entry(0.51234, [0.5, 0.52], sd=0.25), "dice cg": entry(0.4), "iou cfg": entry(0.3, sd=None)}


def cells(markup):
    return re.findall(r"<td[^>]*>(.*?)</td>", markup)


def test_a_cell_shows_a_number_with_its_interval_or_what_stands_beside_it():
    content = Section(
        "H", ("Row", "n", "Dice", "SD", "IoU"), [("a<b", [("dice cfg", "n"), "dice cfg", ("dice cfg", "sd"), None])]
    )
    found = section(content, NUMBERS)
    assert cells(found) == ["7", "0.5123<small>0.5000 to 0.5200</small>", "0.25", "\u2013"]
    assert "a&lt;b" in found


def test_rows_and_sections_without_numbers_are_left_out():
    content = Section("H", ("Row", "Dice"), [("none", ["dice other"]), ("some", ["dice cg"])], notes=["said"])
    found = section(content, NUMBERS)
    assert ">some<" in found and ">none<" not in found and "said" in found
    assert section(content._replace(rows=content.rows[:1]), NUMBERS) is None
    assert cells(section(Section("H", ("",), [("r", ["iou cfg", ("iou cfg", "sd")])]), NUMBERS)) == ["0.3", "\u2013"]


def line(name="l", dashed=False, hue=1):
    y = np.array([0.0, 1.0, np.nan, 2.0, 3.0])
    x, ends = np.array([0.1, 0.2, 0.3, 0.4, 0.5]), np.full(5, np.nan)
    low, high = ends.copy(), ends.copy()
    low[3:], high[3:] = [1.5, 2.5], [2.5, 3.5]
    return Series(name, x, y, low, high, hue, dashed)


def test_a_line_breaks_where_it_is_not_finite_and_carries_its_band():
    drawn = str(chart(Chart("T", [line("<a>"), line("b", dashed=True)], "f", "dB")))
    curve = re.findall(r'<path d="([^"]*)" class="curve">', drawn)[0]
    assert curve.count("M") == 2 and curve.count("L") == 2
    bands = re.findall(r'<path d="([^"]*)" class="band">', drawn)
    assert len(bands) == 2 and bands[0].endswith("Z") and bands[0].count("L") == 3
    assert drawn.count('class="h1 dashed"') == 2 and "&lt;a&gt;" in drawn
    places = [float(x) for x in re.findall(r"[ML]([\d.]+) ", curve)]
    assert places[-1] == 400 and places[0] == 80  # a fifth and the whole of the width


def test_a_flat_line_and_one_without_any_value_are_drawn():
    flat = line()._replace(y=np.zeros(5))
    empty = line()._replace(y=np.full(5, np.nan))
    for one in (flat, empty):
        assert "nan" not in str(chart(Chart("T", [one], "f", "dB")))


def test_sections_take_the_place_of_the_list_on_the_page():
    content = Section("Tables", ("Row", "Dice"), [("cfg", ["dice cfg"])], charts=[Chart("C", [line()], "f", "dB")])
    found = Page(scores.render(title="T", facts={}, numbers=NUMBERS, sections=[content]))
    assert "Tables" in found.words and "Scores" not in found.words and "How: by hand." in found.words
    assert not {tag for tag, _ in found.tags} & {"script", "link"}


def test_many_fingerprints_that_differ_by_name_alone_share_a_line():
    numbers = {f"n{i}": entry(0.1, fingerprint=f"n{i}|N=7/7|cfg") for i in range(scores.MANY + 1)}
    numbers["other"] = entry(0.1, fingerprint="other|N=9/9|cfg")
    found = Page(scores.render(title="T", facts={}, numbers=numbers))
    assert found.words.count("N=7/7|cfg") == 1 and f"{scores.MANY + 1} numbers" in found.words
    assert "N=9/9|cfg" in found.words
