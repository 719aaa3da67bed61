"""The one exception that users are meant to read, and how its messages name many things."""

from __future__ import annotations

from collections.abc import Sequence


class UserError(Exception):
    """Bad input: the message names the file or field at fault and the remedy.

    The mains print it in one line, without a traceback, and exit with code 2.
    """


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names in words: ``a, b, c and 4 more``."""
    return ", ".join(names[:most]) + (f" and {len(names) - most:,} more" if len(names) > most else "")
