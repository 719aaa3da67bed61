"""The page of an evaluation: numbers with intervals, warnings in words, the worst and best images, fingerprints.

One HTML file that opens from disk, loads nothing and runs nothing. Pictures are encoded anew, so no metadata of theirs
gets in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.viz.grids import grid
from medgen_jax.viz.markup import Markup, element
from medgen_jax.viz.numerals import decimals, interval_text, number_text
from medgen_jax.viz.page import page
from medgen_jax.viz.pictures import captioned, under_headings
from medgen_jax.viz.results import results_table
from medgen_jax.viz.score_tables import TABLE_STYLE, Section, section

MANY = 60  # numbers, beyond which fingerprints are shown together
LARGEST, SMALLEST = 320, 128  # pixels of the longer side of a picture on the page

NAMES = {
    "fid": "FID",
    "kid": "KID",
    "fid_ratio": "FID ratio",
    "kid_ratio": "KID ratio",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "lpips": "LPIPS",
    "psnr": "PSNR, pooled (dB)",
    "psnr_mean": "PSNR, mean (dB)",
    "ssim": "SSIM",
    "ms_ssim": "MS-SSIM",
    "haarpsi": "HaarPSI",
    "pearson": "Pearson r",
    "mae": "Mean abs. error",
    "delta_e_76": "Colour difference, CIE 1976",
    "delta_e_2000": "Colour difference, CIEDE2000",
    "grey_pearson": "Pearson r in grey",
    "haematoxylin_angle": "Haematoxylin angle (degrees)",
    "eosin_angle": "Eosin angle (degrees)",
    "stains_lost": "Stains lost (share)",
    "memorisation_pixels": "Distance to training over held-out images, pixels",
    "memorisation_network": "Distance to training over held-out images, network",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy, mean recall",
    "f1": "F1, mean over classes",
    "auroc": "AUROC, mean over classes",
    "nll": "Neg. log-likelihood (nats)",
}
#: What numbers of single classes, such as ``recall_NAME``, start with, and are called.
_OF_CLASS = {"recall_": "Recall", "auroc_": "AUROC"}
#: What an interval covers, where nothing else is said.
DRAWN = (
    "An interval covers the chance of having drawn these images and not others of the same number, taken as "
    "independent of each other."
)

_EXTRA_STYLE = """
.numbers .words, .numbers thead th.words { text-align: left; white-space: normal; font-size: 13px; min-width: 34ch; }
.numbers td.words { color: var(--soft); }
.cases { display: flex; flex-wrap: wrap; gap: 18px; }
.cases figure { flex: 0 1 auto; max-width: calc((100% - 36px) / 2); }
.prints td { font-family: ui-monospace, "SF Mono", "DejaVu Sans Mono", Consolas, monospace; font-size: 12px; }
.prints th { padding-right: 24px; font-weight: 400; white-space: nowrap; }
.confusion tbody td { border: 2px solid var(--paper); }
.verdict.better { color: var(--good); font-weight: 650; } .verdict.worse { color: var(--warn); font-weight: 650; }
"""


class Case(NamedTuple):
    """One example on the page.

    Attributes:
      heading: under which it stands, such as ``Worst``.
      caption: what it is.
      pictures: title and image of each, left to right; uint8 or float in [-1, 1], (h, w, 1 or 3).
    """

    heading: str
    caption: str
    pictures: Sequence[tuple[str, np.ndarray]]


def render(
    *,
    title: str,
    facts: Mapping[str, str],
    numbers: Mapping[str, Mapping[str, Any]],
    warnings: Sequence[str] = (),
    cases: Sequence[Case] = (),
    changes: Sequence[Mapping[str, Any]] = (),
    baselines: Mapping[str, Mapping[str, float]] | None = None,
    audit: Mapping[str, Any] | None = None,
    drawn: str = DRAWN,
    confusion: Mapping[str, Any] | None = None,
    sections: Sequence[Section] = (),
) -> str:
    """The page.

    Args:
      title: heading.
      facts: short facts by label.
      numbers: the content of ``metrics.json``: name -> ``value``, ``interval``, ``level``, ``method``, ``better``,
        ``n`` (and ``counted``, of what, if not pairs) or ``n_real`` and ``n_fake``, ``fingerprint``, and extras.
      warnings: sentences.
      cases: examples; those of one heading stand together.
      changes: against an earlier evaluation: ``name``, ``before``, ``now``, ``change``, ``interval``, ``verdict``
        and ``differences``.
      baselines: what answers without a network score: row -> number -> value.
      audit: report of `medgen_jax.metrics.memorisation.audit.audit`.
      drawn: what the intervals cover.
      confusion: of a classifier: ``classes``, and ``counts`` (k, k) of images by true class (rows) and answer.
      sections: tables and charts that show the numbers instead of one long list.
    """
    items = [element("div", element("dt", label), element("dd", value)) for label, value in facts.items()]
    body = [
        element(
            "header",
            element("p", "Evaluation", cls="kind"),
            element("h1", title),
            element("dl", items, cls="facts"),
        ),
        _notice("Before you quote a number", warnings),
        [section(each, numbers) for each in sections] + [_methods(numbers, drawn)]
        if sections
        else _scores(numbers, drawn),
        _baselines(numbers, baselines or {}),
        _confusion(confusion),
        _changes(changes),
        _audit(audit),
        under_headings(cases, _case, "cases"),
        _fingerprints(numbers),
        element("footer", f"Written by medgen_jax. {_caution(confusion)}: not for diagnostic use."),
    ]
    return page(f"{title}: evaluation", body, _EXTRA_STYLE + TABLE_STYLE)


def _notice(heading: str, lines: Sequence[str]) -> Markup | None:
    if not lines:
        return None
    listed = element("ul", [element("li", line) for line in lines])
    return element("section", element("h2", heading), listed, cls="notice")


def _caution(confusion: Mapping[str, Any] | None) -> str:
    return "Answers of a trained network" if confusion else "Generated images are synthetic"


def _scores(numbers: Mapping[str, Mapping[str, Any]], drawn: str) -> Markup:
    levels = {entry["level"] for entry in numbers.values()}
    interval = f"{levels.pop():.0%} interval" if len(levels) == 1 else "interval"
    beside = any(_beside(entry) for entry in numbers.values())
    head = [element("th", text, scope="col") for text in ("Number", "Value", interval, "Images")]
    head += [element("th", "Beside it", scope="col", cls="words")] if beside else []
    lines = [_score(name, entry, beside) for name, entry in numbers.items()]
    methods = dict.fromkeys(entry["method"] for entry in numbers.values() if entry["interval"])
    said = [
        f"Arrows point to better values. {drawn}",
        *(f"Interval: {_named(numbers, method)}: {method}." for method in methods),
    ]
    notes = [element("p", text, cls="note") for text in said]
    return element("section", element("h2", "Scores"), _table(head, lines), notes)


def _methods(numbers: Mapping[str, Mapping[str, Any]], drawn: str) -> Markup:
    """How the intervals of tables were made, without a list of their numbers."""
    methods = dict.fromkeys(entry["method"] for entry in numbers.values() if entry["interval"])
    said = [drawn, *([f"How: {'; '.join(methods)}."] if methods else [])]
    return element("section", element("h2", "Intervals"), [element("p", text, cls="note") for text in said])


def _named(numbers: Mapping[str, Mapping[str, Any]], method: str) -> str:
    return ", ".join(_name(name) for name, entry in numbers.items() if entry["interval"] and entry["method"] == method)


def _name(number: str) -> str:
    if prefix := next((prefix for prefix in _OF_CLASS if number.startswith(prefix)), None):
        return f"{_OF_CLASS[prefix]}, {number.removeprefix(prefix)}"
    kind, _, row = number.partition(" ")
    title = NAMES.get(kind, kind.replace("_", " "))
    return f"{title}, {row}" if row else title


def _score(name: str, entry: Mapping[str, Any], beside: bool) -> Markup:
    arrow = {"higher": " \u2191", "lower": " \u2193"}.get(entry["better"], "")
    cells = [element("th", _name(name) + arrow, scope="row")]
    places = decimals(entry["interval"])
    texts = (number_text(entry["value"], places), interval_text(entry["interval"], places), _count(entry))
    cells += [element("td", text) for text in texts]
    return element("tr", cells, element("td", _beside(entry), cls="words") if beside else None)


def _beside(entry: Mapping[str, Any]) -> str:
    """The extras that a reader of the number should see."""
    said = []
    if "fid_infinity" in entry:
        error = number_text(entry["fid_infinity_standard_error"])
        said.append(f"extrapolated to infinitely many images {number_text(entry['fid_infinity'])} (fit \u00b1 {error})")
    if "floor" in entry:
        said.append(f"real against real {number_text(entry['floor'])}, halves of {entry['floor_n']}")
    if "subset_mean" in entry:
        mean, error = number_text(entry["subset_mean"]), number_text(entry["subset_standard_error"])
        said.append(f"mean of {entry['subsets']} subsets of {entry['subset_size']}: {mean} \u00b1 {error}")
    if "expected_ratio" in entry:
        expected, p_value = number_text(entry["expected_ratio"]), number_text(entry["p_value"])
        said.append(f"expected if nothing is copied {expected}, p = {p_value}; see Memorisation")
    if "k" in entry:
        said.append(f"k = {entry['k']}")
    return "; ".join(said)


def _count(entry: Mapping[str, Any]) -> str:
    if "n" in entry:
        return f"{entry['n']} {entry.get('counted', 'pairs')}"
    return f"{entry['n_real']} real, {entry['n_fake']} generated"


def _baselines(numbers: Mapping[str, Mapping[str, Any]], rows: Mapping[str, Mapping[str, float]]) -> Markup | None:
    if not rows:
        return None
    shared = {name for row in rows.values() for name in row}
    values = {name: entry["value"] for name, entry in numbers.items() if name in shared}
    table = results_table({"metrics": values, "baselines": rows})
    return element("section", element("h2", "Beside answers that need no network"), table)


def _confusion(table: Mapping[str, Any] | None) -> Markup | None:
    """Images by true class and answer; the shade of a cell is its share of the row."""
    if not table:
        return None
    classes, counts = table["classes"], np.asarray(table["counts"])
    head = [element("th", text, scope="col") for text in ("True class", *classes, "Images")]
    lines = []
    for k, (name, row) in enumerate(zip(classes, counts, strict=True)):
        total = row.sum()
        cells = [_shaded(int(count), count / max(total, 1), right=j == k) for j, count in enumerate(row)]
        lines.append(element("tr", element("th", name, scope="row"), cells, element("td", str(total))))
    matrix = element("table", element("thead", element("tr", head)), element("tbody", lines), cls="numbers confusion")
    said = "Columns are answers, right ones on the diagonal. A cell is the darker the larger its share of the row."
    return element(
        "section",
        element("h2", "Which class was taken for which"),
        element("div", matrix, cls="scroll"),
        element("p", said, cls="note"),
    )


def _shaded(count: int, share: float, right: bool) -> Markup:
    colour = "46, 138, 90" if right else "200, 98, 40"
    style = f"background: rgba({colour}, {0.55 * share:.3f})" if count else "color: var(--soft)"
    return element("td", str(count), style=style)


def _changes(changes: Sequence[Mapping[str, Any]]) -> Markup | None:
    if not changes:
        return None
    names = ("Number", "Before", "Now", "Change", "Interval of the change", "")
    head = [element("th", name, scope="col") for name in names]
    lines = []
    for change in changes:
        values = [number_text(change[part]) for part in ("before", "now", "change")]
        cells = [element("td", text) for text in (*values, interval_text(change["interval"]))]
        cells.append(element("td", change["verdict"], cls=f"verdict {change['verdict']}"))
        lines.append(element("tr", element("th", _name(change["name"]), scope="row"), cells))
    different = list(dict.fromkeys(line for change in changes for line in change["differences"]))
    notice = _notice("The two evaluations are not comparable", different)
    return element("section", element("h2", "Against the other evaluation"), notice, _table(head, lines))


def _audit(report: Mapping[str, Any] | None) -> Markup | None:
    """Verdicts, measures and power of an audit of memorisation."""
    if not report:
        return None
    parts: list[Markup] = [element("p", report["verdict"])]
    for name, space in report["spaces"].items():
        parts += [element("h3", f"By {name}"), element("p", space["verdict"])]
        parts += [element("p", note, cls="note") for note in space["notes"]]
        parts.append(_p_values(space["measures"]))
        parts += [_power(space["power"], list(space["measures"]))] if space["power"] else []
    return element("section", element("h2", "Memorisation"), parts)


def _p_values(measures: Mapping[str, Mapping[str, Any]]) -> Markup:
    head = [element("th", text, scope="col") for text in ("", *map(_name, measures))]
    lines = []
    for key, title in (("p_value", "p"), ("corrected_p_value", "p, corrected for the number of measures")):
        values = [measure[key] for measure in measures.values()]
        cells = [element("td", "\u2013" if value is None else number_text(value)) for value in values]
        lines.append(element("tr", element("th", title, scope="row"), cells))
    return _table(head, lines)


def _power(power: Mapping[str, Any], measures: Sequence[str]) -> Markup:
    """How often each measure noticed copies that were planted on purpose."""
    head = [element("th", text, scope="col") for text in ("Planted among real images", *map(_name, measures), "any")]
    lines = []
    for row in power["rows"]:
        title = "nothing" if row["copies"] == "none" else f"{row['planted']} of {power['generated']}, {row['copies']}"
        found = [row[name] for name in (*measures, "any")]
        cells = [element("td", f"{each['share']:.0%}" if each["trials"] else "\u2013") for each in found]
        lines.append(element("tr", element("th", title, scope="row"), cells))
    said = f"Share of {power['trials']} trials that raised an alarm, at level {power['alpha']}."
    return element(
        "div", element("h3", "What the measures can see"), _table(head, lines), element("p", said, cls="note")
    )


def _table(head: Sequence[Markup], lines: Sequence[Markup]) -> Markup:
    table = element("table", element("thead", element("tr", head)), element("tbody", lines), cls="numbers")
    return element("div", table, cls="scroll")


def _case(case: Case) -> Markup:
    picture = grid([[_fitted(image) for _, image in case.pictures]], [name for name, _ in case.pictures])
    return captioned(picture, case.caption)


def _fitted(image: np.ndarray) -> np.ndarray:
    """An image brought near the sizes of the page by a whole factor: box averages, or repeated pixels."""
    side = max(image.shape[:2])
    if side < SMALLEST:
        factor = SMALLEST // side
        return image.repeat(factor, 0).repeat(factor, 1)
    factor = -(-side // LARGEST)
    height, width = (max(factor, length // factor * factor) for length in image.shape[:2])
    image = np.pad(image, [(0, max(0, height - image.shape[0])), (0, max(0, width - image.shape[1])), (0, 0)], "edge")
    blocks = image[:height, :width].reshape(height // factor, factor, width // factor, factor, -1)
    means = blocks.mean((1, 3))
    return np.rint(means).astype(np.uint8) if image.dtype == np.uint8 else means


def _fingerprints(numbers: Mapping[str, Mapping[str, Any]]) -> Markup:
    lines = [
        element("tr", element("th", name, scope="row"), element("td", print_)) for name, print_ in _prints(numbers)
    ]
    said = (
        "Two numbers may be compared when their fingerprints agree in everything but what is judged. "
        "The full conditions are in metrics.json; --against compares two evaluations."
    )
    table = element("div", element("table", lines, cls="prints"), cls="scroll")
    return element("section", element("h2", "Fingerprints"), element("p", said, cls="note"), table)


def _prints(numbers: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Names and fingerprints; of many numbers those that differ by their name alone share a line."""
    if len(numbers) <= MANY:
        return [(_name(name), entry["fingerprint"]) for name, entry in numbers.items()]
    alike: dict[str, list[str]] = {}
    for name, entry in numbers.items():
        alike.setdefault(entry["fingerprint"].partition("|")[2], []).append(name)
    return [(f"{len(names)} numbers" if len(names) > 1 else _name(names[0]), print_) for print_, names in alike.items()]
