"""What an evaluation leaves: numbers (``metrics.json`` and ``.csv``), ``per_image.csv``, ``index.html``, audits."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medgen_jax.core.errors import UserError
from medgen_jax.core.manifest import write_durably
from medgen_jax.engine.runtime import why_not_writable
from medgen_jax.engine.writers import json_safe, write_json
from medgen_jax.evaluation.comparison import Change
from medgen_jax.viz import scores as page
from medgen_jax.viz.results import beaten
from medgen_jax.viz.score_tables import Section

METRICS, TABLE, PER_IMAGE, AUDIT, PAGE = FILES = (
    "metrics.json", "metrics.csv", "per_image.csv", "memorisation.json", "index.html",
)  # fmt: skip


@dataclass
class Evaluation:
    """Everything an evaluation found.

    Attributes:
      title: heading of the page.
      facts: what was evaluated, by label.
      numbers: metric -> object of `medgen_jax.evaluation.scores.entry`; the content of ``metrics.json``.
      per_image: columns of equal length, one row per image; empty where nothing is known of single images.
      warnings: sentences about the images; those about single numbers stand with them.
      cases: pictures for the page.
      changes: against an earlier evaluation, if there was one.
      baselines: what answers without a network score: row -> number -> value.
      audit: report on memorisation, if it was asked for; the content of ``memorisation.json``.
      drawn: what the intervals cover, for the page.
      confusion: of a classifier: ``classes``, and ``counts`` of images by true class (rows) and answer.
      sections: tables and charts for the page, in place of one list of all numbers.
      headline: names of the numbers that the terminal shows; all where there are none.
    """

    title: str
    facts: dict[str, str]
    numbers: dict[str, dict[str, Any]] = field(default_factory=dict)
    per_image: dict[str, Sequence[Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    cases: list[page.Case] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    baselines: dict[str, dict[str, float]] = field(default_factory=dict)
    audit: dict[str, Any] | None = None
    drawn: str = page.DRAWN
    confusion: dict[str, Any] | None = None
    sections: list[Section] = field(default_factory=list)
    headline: tuple[str, ...] = ()

    @property
    def all_warnings(self) -> list[str]:
        """Warnings about the images and about numbers, each once."""
        about_numbers = [line for entry in self.numbers.values() for line in entry["warnings"]]
        return list(dict.fromkeys([*self.warnings, *about_numbers, *self._beaten()]))

    def _beaten(self) -> list[str]:
        values = {name: entry["value"] for name, entry in self.numbers.items()}
        return beaten({"metrics": values, "baselines": self.baselines})


def claim(output: str | Path, overwrite: bool) -> Path:
    """The folder for the results, made and proved writable.

    Raises:
      UserError: when it holds results and may not be overwritten, or cannot be written.
    """
    folder = Path(output).expanduser()
    present = [name for name in FILES if (folder / name).exists()]
    if present and not overwrite:
        raise UserError(f"--output {folder}: holds {present[0]} already; choose another folder or add --overwrite")
    if reason := why_not_writable(folder, mode=0o777):
        raise UserError(f"--output {folder}: cannot be written ({reason}); choose another folder")
    return folder


def write(folder: Path, found: Evaluation) -> Path:
    """Write all files, those that are not needed removed; returns the page's path.

    Raises:
      UserError: naming the file that cannot be written.
    """
    write_json(folder / METRICS, found.numbers)
    _write_text(folder / TABLE, table(found.numbers))
    for name in (PER_IMAGE, AUDIT):
        (folder / name).unlink(missing_ok=True)
    if found.audit:
        write_json(folder / AUDIT, found.audit)
    if found.per_image:
        _write_text(folder / PER_IMAGE, _csv(list(found.per_image), zip(*found.per_image.values(), strict=True)))
    text = page.render(
        title=found.title,
        facts=found.facts,
        numbers=json_safe(found.numbers),
        warnings=found.all_warnings,
        cases=found.cases,
        changes=[vars(change) for change in found.changes],
        baselines=found.baselines,
        audit=json_safe(found.audit),
        drawn=found.drawn,
        confusion=json_safe(found.confusion),
        sections=found.sections,
    )
    _write_text(folder / PAGE, text)
    return folder / PAGE


def table(numbers: Mapping[str, Mapping[str, Any]]) -> str:
    """``metrics.csv``: one line per number."""
    names = ("metric", "value", "low", "high", "level", "better", "n_real", "n_fake", "method", "fingerprint")
    rows = []
    for name, entry in numbers.items():
        low, high = entry["interval"] or ("", "")
        counts = [entry["conditions"][side] for side in ("n_real", "n_fake")]
        row = [name, entry["value"], low, high, entry["level"], entry["better"], *counts]
        rows.append([*row, entry["method"], entry["fingerprint"]])
    return _csv(names, rows)


def lines(found: Evaluation) -> list[str]:
    """The numbers as lines for a terminal, then warnings and changes."""
    shown = {name: found.numbers[name] for name in found.headline or found.numbers}
    width = max(map(len, shown))
    said = []
    for name, entry in shown.items():
        ends = f"[{entry['interval'][0]:.4g}, {entry['interval'][1]:.4g}]" if entry["interval"] else ""
        better = "" if entry["better"] == "unknown" else f"  {entry['better']} is better"
        said.append(f"{name:<{width}}  {entry['value']:>10.4g}  {ends:<22}{better}".rstrip())
    if more := len(found.numbers) - len(shown):
        said.append(f"and {more} more numbers in {TABLE}")
    said += [f"warning: {line}" for line in found.all_warnings]
    said += [f"change of {change}" for change in found.changes]
    different = dict.fromkeys(line for change in found.changes for line in change.differences)
    return said + [f"warning: not comparable with --against: {line}" for line in different]


def _csv(names: Sequence[str], rows: Any) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_plain(value) for value in row] for row in rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    value = json_safe(value)
    return "" if value is None else f"{value:.8g}" if isinstance(value, float) else value


def _write_text(path: Path, text: str) -> None:
    try:
        write_durably(path, text)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); check the disk and the path") from error
