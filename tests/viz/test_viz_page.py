"""The frame of every page."""

from __future__ import annotations

from medgen_jax.viz.markup import element
from medgen_jax.viz.page import POLICY, page


def test_a_page_loads_and_runs_nothing_and_escapes_what_it_shows() -> None:
    text = page("a <b>", [element("p", "1 < 2"), None], ".own { margin: 0; }")
    assert text.startswith("<!DOCTYPE html>\n<html") and text.endswith("</html>\n")
    assert "default-src 'none'" in POLICY and "default-src &#x27;none&#x27;" in text
    assert "<title>a &lt;b&gt;</title>" in text and "<main><p>1 &lt; 2</p></main>" in text
    assert ".own { margin: 0; }</style>" in text and "<script" not in text
