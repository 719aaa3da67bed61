"""Worst and best examples: in order, each once, and only those kept that are shown."""

from __future__ import annotations

import pytest

from medgen_jax.evaluation.extremes import Extremes


def shown(values, count, better="higher"):
    """Captions by heading."""
    kept, called = Extremes(count, better), []
    for value in values:
        kept.add(value, lambda value=value: called.append(value) or (str(value), []))
    cases = kept.cases()
    assert len(called) == len(cases) and len(kept._kept) <= 2 * count
    return [[case.caption for case in cases if case.heading == heading] for heading in ("Worst", "Best")]


@pytest.mark.parametrize(("better", "order"), [("higher", 1), ("lower", -1)])
def test_both_ends_of_a_stream(better, order):
    worst, best = shown([order * v for v in (3, 9, 1, 7, 5, 2, 8)], 2, better)
    assert worst == [str(order * 1), str(order * 2)] and best == [str(order * 9), str(order * 8)]


def test_no_example_twice_in_a_short_stream():
    assert shown([4, 2, 3], 2) == [["2", "3"], ["4"]]
    assert shown([4], 3) == [["4"], []]
    assert shown([], 3) == [[], []]


def test_none_asked_for_none_kept():
    assert shown([1, 2, 3], 0) == [[], []]


def test_what_is_not_finite_is_the_worst_and_ties_keep_their_order():
    worst, best = shown([1.0, float("nan"), 1.0, 2.0], 1)
    assert worst == ["nan"] and best == ["2.0"]
