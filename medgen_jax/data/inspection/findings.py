"""One remark about a data set."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

#: Training refuses; a result may mislead; worth knowing.
ERROR, WARNING, NOTE = LEVELS = ("error", "warning", "note")


class Ref(NamedTuple):
    """An image: which column, counted as they were surveyed, and which of its records."""

    column: int
    record: int


@dataclass(frozen=True)
class Finding:
    """One remark.

    Attributes:
      level: one of `LEVELS`.
      code: short name of the rule, for programs.
      message: one sentence.
      remedy: what to do, or empty.
      names: records concerned, as they may be named; all of them.
      images: groups of images worth a look, those of one group side by side.
    """

    level: str
    code: str
    message: str
    remedy: str = ""
    names: tuple[str, ...] = ()
    images: tuple[tuple[Ref, ...], ...] = field(default=(), repr=False)

    def to_json(self) -> dict[str, Any]:
        """Everything but the images."""
        return {
            "level": self.level,
            "code": self.code,
            "message": self.message,
            "remedy": self.remedy,
            "names": list(self.names),
        }


def ranked(found: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; each remark once."""
    return sorted(dict.fromkeys(found), key=lambda finding: LEVELS.index(finding.level))


def counted(count: int, noun: str) -> str:
    """``1 image``, ``2 images``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "es" if noun.endswith(("s", "x")) else "s")
