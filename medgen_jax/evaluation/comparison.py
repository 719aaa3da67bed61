"""This evaluation against an earlier one."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation import fingerprint

Numbers = Mapping[str, Mapping[str, Any]]  # the content of metrics.json


@dataclass(frozen=True)
class Change:
    """How one number moved.

    Attributes:
      name: of the number.
      before, now: values; None where one was not finite.
      change: now - before.
      interval: of the change, or None. Its ends come from both intervals as if the two evaluations were independent;
        the same reference on both sides makes the true interval a little narrower.
      verdict: ``better``, ``worse``, ``changed`` where neither is known, ``no clear change``, ``no interval`` or ``not
        comparable``.
      differences: what makes the two incomparable, in words.
    """

    name: str
    before: float | None
    now: float | None
    change: float | None
    interval: tuple[float, float] | None
    verdict: str
    differences: tuple[str, ...]

    def __str__(self) -> str:
        if self.change is None:
            return f"{self.name}: {self.verdict}"
        ends = f" [{self.interval[0]:+.4g}, {self.interval[1]:+.4g}]" if self.interval else ""
        return f"{self.name}: {self.before:.4g} -> {self.now:.4g}, change {self.change:+.4g}{ends}, {self.verdict}"


def read(path: str | Path) -> Numbers:
    """The ``metrics.json`` of another evaluation.

    Raises:
      UserError: naming the file, when there is none or it is another kind of file.
    """
    path = Path(path).expanduser()
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        wrong = [name for name, entry in found.items() if not {"value", "conditions"} <= set(entry)]
    except OSError as error:
        raise UserError(f"--against {path}: cannot be read ({error.strerror})") from error
    except (ValueError, AttributeError, TypeError):
        found, wrong = {}, []
    if wrong or not found:
        raise UserError(f"--against {path}: is no metrics.json of an evaluation")
    return found


def changes(before: Numbers, now: Numbers) -> list[Change]:
    """What happened to every number that both have."""
    return [_change(name, before[name], entry) for name, entry in now.items() if name in before]


def _change(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> Change:
    different = tuple(fingerprint.differences(before["conditions"], now["conditions"]))
    old, new = before["value"], now["value"]
    if old is None or new is None or not math.isfinite(new):
        return Change(name, old, None, None, None, "not comparable", different)
    interval = None
    if before.get("interval") and now.get("interval") and before.get("level") == now.get("level"):
        reaches = [(e["value"] - e["interval"][0], e["interval"][1] - e["value"]) for e in (before, now)]
        # The change is low where the new number is low and the old one high.
        interval = (
            new - old - math.hypot(reaches[1][0], reaches[0][1]),
            new - old + math.hypot(reaches[1][1], reaches[0][0]),
        )
    return Change(name, old, new, new - old, interval, _verdict(new - old, interval, now, different), different)


def _verdict(
    change: float, interval: tuple[float, float] | None, now: Mapping[str, Any], different: tuple[str, ...]
) -> str:
    if different:
        return "not comparable"
    if interval is None:
        return "no interval"
    if interval[0] <= 0 <= interval[1]:
        return "no clear change"
    if now.get("better") == "unknown":
        return "changed"
    return "better" if (change > 0) == (now["better"] == "higher") else "worse"
