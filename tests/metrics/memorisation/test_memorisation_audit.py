"""The audit's report: verdicts for copies, none, smooth images; what it notes; what it refuses."""

import dataclasses
import json

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.metrics.memorisation import audit as audits
from medgen_jax.metrics.memorisation.audit import audit
from medgen_jax.metrics.memorisation.planting import MEASURES
from medgen_jax.metrics.memorisation.sets import Sets

OPTIONS = dict(rates=(0.05,), trials=4, permutations=39, pairs=3)


def gaussian(seed, n, d=8):
    return np.random.default_rng(seed).normal(size=(n, d))


def patients(first, n):
    return [f"p{first + i // 2}" for i in range(n)]


def sets(generated):
    return Sets(gaussian(0, 60), gaussian(1, 80), generated, patients(0, 60), patients(100, 80))


@pytest.fixture(scope="module")
def report():
    """One space where three of 40 are copies, one where nothing is copied."""
    copied = np.concatenate([gaussian(2, 37), gaussian(0, 60)[[7, 20, 50]]])
    return audit({"copied": sets(copied), "fresh": sets(gaussian(2, 40))}, **OPTIONS)


def test_report_is_json_and_complete(report):
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    for space in report["spaces"].values():
        assert set(space["measures"]) == set(MEASURES)
        assert all(m["corrected_p_value"] >= m["p_value"] for m in space["measures"].values())
        assert space["n"] == {
            "train": 60,
            "held_out": 80,
            "generated": 40,
            "train_patients": 30,
            "held_out_patients": 40,
        }
        assert (space["dimensions"], space["variants"], space["power"]["trials"]) == (8, 0, 4)


def test_copies_are_found_and_listed(report):
    space = report["spaces"]["copied"]
    assert space["verdict"].startswith("Evidence of copying (suspects p ")
    assert sorted(space["measures"]["suspects"]["images"]) == [37, 38, 39]
    assert [(p["generated"], p["train"], p["train_patient"]) for p in space["closest_pairs"]] == [
        (37, 7, "p3"),
        (38, 20, "p10"),
        (39, 50, "p25"),
    ]
    assert all(pair["suspect"] and pair["distance"] == 0 for pair in space["closest_pairs"])
    assert space["notes"] == ["3 generated images are identical to a training image in these features."]
    assert report["verdict"].startswith("Evidence of copying in copied (level 0.05, corrected for 10 measures)")


def test_silence_quotes_the_power(report):
    space = report["spaces"]["fresh"]
    assert space["verdict"].startswith("No copying was detected (5 measures, level 0.05), which does not show")
    assert "among 40 real images, 40 others held out" in space["verdict"]
    assert "exact 5 % in 4/4 trials; without copies they raised 0/4 alarms" in space["verdict"]
    assert not space["notes"] and not any(pair["suspect"] for pair in space["closest_pairs"])


def test_smooth_images_leave_it_undecided():
    got = audit({"network": sets(0.3 * gaussian(2, 80))}, **OPTIONS)
    assert got["spaces"]["network"]["verdict"].startswith("Undecided (data_copying p ")
    assert "smooth or uniform images" in got["spaces"]["network"]["verdict"]
    assert got["verdict"].startswith("Undecided: see network")


def test_nothing_found_anywhere():
    got = audit({"network": sets(gaussian(2, 40))}, **OPTIONS)
    assert got["verdict"].startswith("No copying was detected in network (level 0.05, corrected for 5 measures).")


def test_what_spoils_an_audit_is_noted():
    train = np.concatenate([gaussian(0, 30), gaussian(0, 1)])
    leaking = Sets(train, np.concatenate([gaussian(1, 30), train[4:6]]), gaussian(2, 12))
    notes = audit({"network": leaking}, **OPTIONS)["spaces"]["network"]["notes"]
    assert [note.split(" ")[0] for note in notes] == ["2", "2", "Patients"]
    assert "training images are identical to another" in notes[0] and "the split leaks" in notes[1]
    power = {"alpha": 0.05, "rows": [{"any": {"alarms": 9, "trials": 20, "interval": {"low": 0.25}}}]}
    facts = audits.Facts(*(np.ones(2),) * 7)
    reference = audits.Reference(*(np.ones(2),) * 6, 1)
    noted = audits._notes(sets(None), reference, facts, facts, power)
    assert noted == [
        "False alarms in 9 of 20 trials are more than alpha 0.05 allows: held-out and training images differ, "
        "so distrust an alarm."
    ]


def test_the_smallest_sets_and_constant_ones():
    smallest = audit({"network": Sets(gaussian(0, 2), gaussian(1, 2), gaussian(2, 1))}, **OPTIONS)
    assert "unknown: fewer than 4 held-out patients" in smallest["spaces"]["network"]["verdict"]
    flat = np.full((16, 4), 0.3)
    for got in (smallest, audit({"network": Sets(flat, flat, flat)}, **OPTIONS)):
        json.dumps(got, allow_nan=False)
        assert got["verdict"].startswith("No copying was detected")


def test_bad_input_is_refused_before_anything_is_computed(monkeypatch):
    monkeypatch.setattr(audits, "prepare", lambda *_, **__: pytest.fail("computed"))
    good = sets(gaussian(2, 5))
    broken = gaussian(2, 5)
    broken[2, 3] = np.inf
    with pytest.raises(UserError, match="second: generated features: number 2 holds NaN or infinity"):
        audit({"first": good, "second": dataclasses.replace(good, generated=broken)})
    with pytest.raises(UserError, match="first: 30 patients are in both"):
        audit({"first": dataclasses.replace(good, held_out_patients=patients(0, 80))})
    with pytest.raises(UserError, match="first: no generated images"):
        audit({"first": dataclasses.replace(good, generated=None)})
    with pytest.raises(UserError, match="no feature space"):
        audit({})
    with pytest.raises(UserError, match="alpha is 5"):
        audit({"first": good}, alpha=5)
