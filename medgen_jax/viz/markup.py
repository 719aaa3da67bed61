"""HTML and SVG elements whose text is escaped unless it was made here."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

_VOID = {"img", "meta", "br"}


class Markup(str):
    """Text that already is markup; every other string is escaped when it enters an element."""

    __slots__ = ()


def element(tag: str, *children: str | Iterable[str] | None, **attributes: object) -> Markup:
    """One element.

    Args:
      tag: its name.
      children: strings (escaped), `Markup` (taken as it is), iterables of both, or None (left out).
      attributes: ``cls`` is class; other underscores are hyphens; a value of None is left out.
    """
    names = {"cls": "class"}
    pairs = ((names.get(k, k.replace("_", "-")), v) for k, v in attributes.items() if v is not None)
    opening = "".join(f' {name}="{escape(str(value))}"' for name, value in pairs)
    if tag in _VOID:
        return Markup(f"<{tag}{opening}>")
    return Markup(f"<{tag}{opening}>{join(children)}</{tag}>")


def join(children: Iterable[str | Iterable[str] | None]) -> Markup:
    """Children one after the other, as `element` takes them."""
    return Markup("".join(_text(child) for child in children))


def _text(child: str | Iterable[str] | None) -> str:
    if child is None or isinstance(child, Markup):
        return child or ""
    return escape(child) if isinstance(child, str) else join(child)
