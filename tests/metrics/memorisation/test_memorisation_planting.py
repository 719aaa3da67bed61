"""Planting: alterations by hand, halvings by patient, alarms with and without copies; real X-rays."""

import csv

import numpy as np
import pytest
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.metrics.memorisation import planting
from medgen_jax.metrics.memorisation.planting import alterations, detection_power, holm
from medgen_jax.metrics.memorisation.sets import Sets
from medgen_jax.metrics.memorisation.thumbnails import pixel_features, pixel_variants


def gaussian(seed, n, d=8):
    return np.random.default_rng(seed).normal(size=(n, d))


def rows_of(table):
    return {(row["copies"], row["rate"]): row for row in table["rows"]}


def test_alterations_by_hand():
    ramp = np.tile(np.linspace(-1, 1, 20, dtype=np.float32), (20, 1))[None, :, :, None]
    altered = alterations(np.concatenate([ramp, ramp]))
    np.testing.assert_array_equal(altered["flipped"], -np.concatenate([ramp, ramp]))
    cropped = altered["cropped"][0, :, :, 0]
    assert cropped.shape == (20, 20)
    np.testing.assert_allclose(cropped, cropped[:1].repeat(20, axis=0), atol=1e-6)
    np.testing.assert_allclose(np.diff(cropped[0])[2:-2], 0.9 * 2 / 19, rtol=1e-3)
    assert np.abs(altered["cropped"][1] - altered["cropped"][0]).max() > 1e-3
    grey = alterations(np.zeros((1, 64, 64, 1)))["noised"]
    assert grey.std() == pytest.approx(0.2, rel=0.05) and altered["noised"].max() == 1
    np.testing.assert_array_equal(grey, alterations(np.zeros((1, 64, 64, 1)))["noised"])
    assert np.abs(grey - alterations(np.zeros((1, 64, 64, 1)), seed=1)["noised"]).max() > 0.1
    with pytest.raises(UserError, match="shape"):
        alterations(ramp[0])


def test_holm_by_hand():
    got = holm({"a": 0.01, "b": 0.04, "c": 0.03, "d": None})
    assert got == pytest.approx({"a": 0.03, "c": 0.06, "b": 0.06})
    assert holm({"a": 0.6, "b": 0.7}) == {"a": 1.0, "b": 1.0}
    assert holm({"a": None}) == {}


def test_halves_share_no_patient():
    patient = np.repeat(np.arange(6), [3, 1, 2, 1, 1, 4])
    stays, honest = planting._halves(patient, None, np.random.default_rng(0))
    assert len(np.unique(patient[stays])) == 3
    assert not set(patient[stays]) & set(patient[honest])
    assert sorted([*honest, *np.flatnonzero(stays)]) == list(range(12))
    assert len(planting._halves(patient, 2, np.random.default_rng(0))[1]) == 2


@pytest.fixture(scope="module")
def table():
    train = gaussian(0, 60)
    sets = Sets(train, gaussian(1, 80), altered={"blurred": 1e-2 + train[:30], "lost": gaussian(2, 60)})
    return detection_power(sets, rates=(0.01, 0.5), trials=6, permutations=39)


def test_power_and_false_alarms(table):
    rows = rows_of(table)
    assert (table["train"], table["held_out"], table["generated"], table["trials"]) == (60, 40, 40, 6)
    assert list(rows) == [("none", 0.0), *((k, r) for k in ("exact", "blurred", "lost") for r in (0.01, 0.5))]
    assert [rows[key]["planted"] for key in (("none", 0.0), ("exact", 0.01), ("lost", 0.5))] == [0, 1, 20]
    for kind in ("exact", "blurred"):
        assert rows[kind, 0.01]["suspects"]["alarms"] == rows[kind, 0.5]["any"]["alarms"] == 6
        assert rows[kind, 0.5]["close_share"]["alarms"] == 6
        assert rows[kind, 0.01]["close_share"]["alarms"] <= 2
    for key in (("none", 0.0), ("lost", 0.5)):
        assert rows[key]["any"]["alarms"] <= 2
    assert rows["exact", 0.5]["any"]["interval"]["low"] > 0.5
    assert (rows["none", 0.0]["traced"], rows["exact", 0.5]["traced"]) == (None, 1.0)
    assert rows["blurred", 0.5]["traced"] == 1.0 and rows["lost", 0.5]["traced"] < 0.3


def test_one_table_per_seed(table):
    sets = Sets(gaussian(0, 60), gaussian(1, 80), gaussian(3, 10))
    options = dict(rates=(0.2,), trials=2, permutations=19)
    first = detection_power(sets, **options)
    assert first == detection_power(sets, **options)
    assert first["generated"] == 10 and rows_of(first)["exact", 0.2]["planted"] == 2
    assert first != detection_power(sets, **options, seed=1)


def test_measures_that_are_not_defined_have_no_share():
    """Four held-out images: no tail, no cell with enough of them."""
    got = rows_of(detection_power(Sets(gaussian(0, 8), gaussian(1, 4)), rates=(1.0,), trials=2, permutations=5))
    row = got["exact", 1.0]
    assert row["suspects"] == row["data_copying"] == {"alarms": 0, "trials": 0, "share": None, "interval": None}
    assert row["close_share"]["trials"] == 2


def test_too_few_patients_and_bad_options():
    few = Sets(gaussian(0, 8), gaussian(1, 6), None, list("aabbccdd"), list("efgefg"))
    assert detection_power(few, rates=(0.5,), trials=1) is None
    with pytest.raises(UserError, match="0 trials"):
        detection_power(few, trials=0)
    with pytest.raises(UserError, match="rates in"):
        detection_power(few, rates=(0.0,))


@pytest.fixture(scope="module")
def xrays(shared):
    """Half of the patients for training, the others held out: paediatric chest X-rays (Kermany et al. 2018)."""
    folder = shared / "data" / "cxr"
    with open(folder / "index.csv", newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["licence_class"] == "permissive"]
    rows = [row for row in rows if row["file"].startswith(("normal/", "pneumonia/"))]
    images = np.stack([np.asarray(Image.open(folder / row["file"])) for row in rows])
    images = images[..., None].astype(np.float32) / 127.5 - 1
    patients = np.array([row["patient_id"] for row in rows])
    chosen = np.random.default_rng(0).permutation(np.unique(patients))
    train = np.isin(patients, chosen[: len(chosen) // 2])
    return images, patients, train


@pytest.mark.slow
@pytest.mark.ci_slow
def test_planting_on_real_xrays(xrays, monkeypatch):
    monkeypatch.setattr(planting, "COPIES", 64)
    images, patients, train = xrays
    features = pixel_features(images)
    sets = Sets(
        features[train],
        features[~train],
        train_patients=patients[train],
        held_out_patients=patients[~train],
        variants=pixel_variants(),
        altered={kind: pixel_features(copies) for kind, copies in alterations(images[train][:64]).items()},
    )
    table = detection_power(sets, rates=(0.01, 0.05), trials=10, permutations=99)
    rows = rows_of(table)
    assert table["generated"] > 130
    assert rows["none", 0.0]["any"]["alarms"] <= 3
    assert rows["cropped", 0.05]["any"]["alarms"] >= 8
    assert all(row["traced"] > 0.95 for row in table["rows"][1:])
    for kind in ("exact", "flipped", "noised"):
        assert rows[kind, 0.05]["any"]["alarms"] == 10
        assert rows[kind, 0.01]["suspects"]["alarms"] == 10
        assert rows[kind, 0.05]["close_share"]["alarms"] == 10
        assert rows[kind, 0.05]["authenticity"]["alarms"] <= 3  # as published: blind to so few
    assert rows["flipped", 0.05]["data_copying"]["alarms"] <= 3  # knows nothing of variants


@pytest.mark.slow
@pytest.mark.ci_slow
def test_without_variants_altered_xrays_go_unnoticed(xrays, monkeypatch):
    monkeypatch.setattr(planting, "COPIES", 64)
    images, patients, train = xrays
    features = pixel_features(images)
    altered = {
        kind: pixel_features(copies) for kind, copies in alterations(images[train][:64]).items() if kind != "noised"
    }
    sets = Sets(features[train], features[~train], None, patients[train], patients[~train], None, altered)
    rows = rows_of(detection_power(sets, rates=(0.05,), trials=10, permutations=99))
    assert rows["exact", 0.05]["any"]["alarms"] == 10
    for kind in ("flipped", "cropped"):
        assert rows[kind, 0.05]["any"]["alarms"] <= 3 and rows[kind, 0.05]["traced"] < 0.5
