"""Seconds of rival forms of the same work: they take turns, so that what else the machine does falls on all alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

#: Does the work once and waits for its end.
Form = Callable[[], None]


class Seconds(NamedTuple):
    """Of one form.

    Attributes:
      wall: (rounds,) by the clock.
      processor: (rounds,) of all threads of this process together; says nothing about work on an accelerator.
    """

    wall: np.ndarray
    processor: np.ndarray


def in_turns(forms: Mapping[str, Form], rounds: int) -> dict[str, Seconds]:
    """Run every form once unmeasured, then ``rounds`` times in turns."""
    for form in forms.values():
        form()
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    for _ in range(rounds):
        for name, form in forms.items():
            start = time.perf_counter(), time.process_time()
            form()
            spent[name].append((time.perf_counter() - start[0], time.process_time() - start[1]))
    return {name: Seconds(*np.transpose(each)) for name, each in spent.items()}


def mean(seconds: Mapping[str, Seconds], shares: Mapping[str, float]) -> Seconds:
    """Of works that take turns, the mean one: round by round, each weighed by the share of its turns."""
    return Seconds(*(sum(share * seconds[name][i] for name, share in shares.items()) for i in range(2)))


def significant(value: float, digits: int = 4) -> float:
    """Rounded to so many digits, whatever its size."""
    return float(f"{value:.{digits}g}")


def summary(seconds: Seconds) -> dict[str, float]:
    """Milliseconds: median, 90th percentile and least by the clock, median of the processor."""
    wall, processor = 1e3 * seconds.wall, 1e3 * seconds.processor
    return {
        "ms_p50": significant(np.median(wall)),
        "ms_p90": significant(np.quantile(wall, 0.9)),
        "ms_min": significant(wall.min()),
        "processor_ms_p50": significant(np.median(processor)),
    }
