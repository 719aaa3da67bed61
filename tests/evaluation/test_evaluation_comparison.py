"""Two evaluations: how each number moved, and whether they may be compared at all."""

from __future__ import annotations

import json
import math

import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.evaluation import comparison


def entry(value, interval=None, better="lower", level=0.95, **conditions):
    return {"value": value, "interval": interval, "level": level, "better": better, "conditions": conditions}


def test_the_change_and_its_interval_by_hand():
    """Reaches 3 and 4 make 5."""
    (change,) = comparison.changes({"fid": entry(20.0, [17, 23])}, {"fid": entry(10.0, [6, 14])})
    assert (change.before, change.now, change.change) == (20, 10, -10)
    assert change.interval == pytest.approx((-15, -5)) and change.verdict == "better"
    assert str(change) == "fid: 20 -> 10, change -10 [-15, -5], better"


def test_skew_intervals_meet_the_right_way_round():
    """The change is least where the new value is low and the old one high."""
    (change,) = comparison.changes({"x": entry(0.0, [-1, 4])}, {"x": entry(10.0, [7, 22])})
    assert change.interval == pytest.approx((10 - math.hypot(3, 4), 10 + math.hypot(12, 1)))


@pytest.mark.parametrize(
    ("before", "now", "better", "verdict"),
    [
        ((5, [4, 6]), (9, [8, 10]), "higher", "better"),
        ((5, [4, 6]), (9, [8, 10]), "lower", "worse"),
        ((5, [1, 9]), (9, [8, 10]), "lower", "no clear change"),
        ((5, None), (9, [8, 10]), "lower", "no interval"),
        ((None, None), (9, [8, 10]), "lower", "not comparable"),
        ((5, [4, 6]), (None, None), "lower", "not comparable"),
    ],
)
def test_verdicts(before, now, better, verdict):
    (change,) = comparison.changes({"x": entry(*before, better)}, {"x": entry(*now, better)})
    assert change.verdict == verdict and verdict in str(change)


def test_other_conditions_make_numbers_incomparable():
    before, now = entry(5.0, [4, 6], n_fake=64, fake="a"), entry(9.0, [8, 10], n_fake=65, fake="b")
    (change,) = comparison.changes({"x": before}, {"x": now})
    assert change.verdict == "not comparable" and change.change == 4
    assert change.differences == ("number of generated images: 64 against 65 (bias and spread depend on it)",)


def test_levels_must_agree_and_only_shared_numbers_are_compared():
    now = {"x": entry(9.0, [8, 10]), "new": entry(1.0)}
    (change,) = comparison.changes({"x": entry(5.0, [4, 6], level=0.9), "old": entry(1.0)}, now)
    assert change.name == "x" and change.verdict == "no interval"


def test_only_results_of_evaluations_are_read(tmp_path):
    path = tmp_path / "metrics.json"
    with pytest.raises(UserError, match=r"--against .*metrics\.json: cannot be read \(No such file"):
        comparison.read(path)
    for text in ("nonsense", "{}", "[1]", '{"fid": {"value": 3}}', '{"fid": 3}', '"text"'):
        path.write_text(text)
        with pytest.raises(UserError, match=r"is no metrics\.json of an evaluation"):
            comparison.read(path)
    path.write_text(json.dumps({"fid": entry(3.0)}))
    assert comparison.read(path)["fid"]["value"] == 3
