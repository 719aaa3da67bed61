"""Lengths in metres, and what to say when one cannot be."""

from __future__ import annotations

import math

from medgen_jax.core.errors import UserError

UNITS = {"nm": 1e-9, "um": 1e-6, "mm": 1e-3, "cm": 1e-2}


def check_length(name: str, value: float, low: float, high: float) -> None:
    """Refuse a length outside of ``[low, high]`` metres, and guess the unit it was given in.

    Raises:
      UserError: naming the field; a wavelength of 532 is told to be 5.32e-07.
    """
    if low <= value <= high:
        return
    guesses = [
        f"{value:g} {unit} is {value * factor:g}" for unit, factor in UNITS.items() if low <= value * factor <= high
    ]
    hint = f"; {guesses[0]}" if guesses else ""
    raise UserError(f"{name} = {value:g}: lengths are in metres, here between {low:g} and {high:g}{hint}")


def check_signed_length(name: str, value: float, high: float) -> None:
    """Refuse a length whose size exceeds ``high`` metres, or that is no number.

    Raises:
      UserError: naming the field.
    """
    if not abs(value) <= high:
        raise UserError(f"{name} = {value:g}: lengths are in metres, here between {-high:g} and {high:g}")


def check_number(name: str, value: float, low: float, high: float, rule: str = "") -> None:
    """Refuse a number outside of ``[low, high]``.

    Raises:
      UserError: naming the field and, where given, the reason.
    """
    if not (math.isfinite(value) and low <= value <= high):
        raise UserError(f"{name} = {value:g}: must lie between {low:g} and {high:g}{'; ' if rule else ''}{rule}")
