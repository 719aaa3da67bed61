"""The frame of every page: one HTML file that opens from disk, loads nothing and runs nothing, and says so itself."""

from __future__ import annotations

from collections.abc import Sequence

from medgen_jax.viz.markup import Markup, element
from medgen_jax.viz.style import STYLE

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, body: Sequence[object], style: str = "") -> str:
    """The text of a page.

    Args:
      title: what a browser calls it.
      body: children, as `medgen_jax.viz.markup.element` takes them.
      style: CSS beside that of all pages.
    """
    head = [
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("title", title),
        element("style", Markup(STYLE + style)),
    ]
    whole = element("html", element("head", head), element("body", element("main", body)), lang="en")
    return f"<!DOCTYPE html>\n{whole}\n"
