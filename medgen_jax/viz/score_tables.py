"""Tables of numbers with their intervals, and charts, for pages with more numbers than one list can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from medgen_jax.viz.line_charts import CHART_STYLE, Chart, chart
from medgen_jax.viz.markup import Markup, element
from medgen_jax.viz.numerals import decimals, interval_text, number_text

TABLE_STYLE = (
    """
.numbers td small { display: block; color: var(--soft); font-size: 11.5px; }
.numbers.rows th, .numbers.rows td { padding: 7px 9px; }
.numbers.rows tbody th { min-width: 18ch; max-width: 30ch; white-space: normal; overflow-wrap: break-word; }
.numbers.rows thead th { max-width: 14ch; white-space: normal; }
.charts { display: flex; flex-wrap: wrap; gap: 22px 28px; }
.charts figure { flex: 1 1 400px; max-width: 540px; }
"""
    + CHART_STYLE
)

#: The name of a number; such a name with what stands beside it, such as ``sd``; or None for nothing.
Cell = str | tuple[str, str] | None


class Section(NamedTuple):
    """A heading with a table and charts.

    Attributes:
      heading: of the section.
      columns: their titles; the first is that of the rows' names.
      rows: name and cells of each; rows without any number are left out.
      notes: sentences below.
      charts: pictures below the table.
    """

    heading: str
    columns: Sequence[str] = ()
    rows: Sequence[tuple[str, Sequence[Cell]]] = ()
    notes: Sequence[str] = ()
    charts: Sequence[Chart] = ()


def section(content: Section, numbers: Mapping[str, Mapping[str, Any]]) -> Markup | None:
    """The section; None where no row has a number and there is no chart.

    Args:
      content: what it shows.
      numbers: the content of ``metrics.json``.
    """
    rows = [(name, cells) for name, cells in content.rows if any(_known(cell, numbers) for cell in cells)]
    if not rows and not content.charts:
        return None
    lines = [
        element("tr", element("th", name, scope="row"), [_cell(c, numbers) for c in cells]) for name, cells in rows
    ]
    head = element("tr", [element("th", title, scope="col") for title in content.columns])
    table = element("table", element("thead", head), element("tbody", lines), cls="numbers rows")
    return element(
        "section",
        element("h2", content.heading),
        element("div", table, cls="scroll") if rows else None,
        element("div", [chart(each) for each in content.charts], cls="charts") if content.charts else None,
        [element("p", text, cls="note") for text in content.notes],
    )


def _known(cell: Cell, numbers: Mapping[str, Any]) -> bool:
    return (cell[0] if isinstance(cell, tuple) else cell) in numbers


def _cell(cell: Cell, numbers: Mapping[str, Mapping[str, Any]]) -> Markup:
    if not _known(cell, numbers):
        return element("td", "\u2013")
    if isinstance(cell, tuple):
        value = numbers[cell[0]].get(cell[1])
        return element("td", "\u2013" if value is None else number_text(value))
    entry = numbers[cell]
    places = decimals(entry["interval"])
    ends = element("small", interval_text(entry["interval"], places)) if entry["interval"] else None
    return element("td", number_text(entry["value"], places), ends)
