"""Severity from folders of counterfactuals, end to end: what is found, written, said of few images, and refused."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
import small_networks
from PIL import Image, ImageFilter

from medgen_jax.core.errors import UserError
from medgen_jax.data import counterfactual_folders
from medgen_jax.data.counterfactual_folders import Arrays, Entry
from medgen_jax.data.severity_scores import SeverityScores
from medgen_jax.evaluation import severity
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.severity import residuals

QUICK = dict(resamples=100, pictures=1, batch=8)
SIZE = 24


def write_folder(folder, scores, patients=None, names="jane-doe-{}", strength=0.15, lost=0.02):
    """Images with a blob whose brightness is their score, counterfactuals without it, controls a little off."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:SIZE, :SIZE]
    entries = []
    for place, score in enumerate(scores):
        row, column = rng.uniform(6, 18, 2)
        healthy = rng.normal(-0.4, 0.1, (SIZE, SIZE))
        blob = strength * score * np.exp(-((y - row) ** 2 + (x - column) ** 2) / 18)
        off = rng.normal(0, 1, (SIZE, SIZE))
        arrays = (healthy + blob, healthy + 0.02 * off, healthy + blob + lost * off)
        entries.append(Entry(names.format(place), patient=patients[place] if patients else None))
        counterfactual_folders.write_arrays(folder, entries[-1].name, Arrays(*(a[..., None] for a in arrays)))
    counterfactual_folders.write_scores(folder, {"method": "planted"}, entries)
    return folder


def write_table(file, scores, patients, readers=None, names="scans/jane-doe-{}.png"):
    header = ["file", "patient_id", "opacity"] + (["opacity_1", "opacity_2"] if readers is not None else [])
    with file.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(header)
        for place, (score, patient) in enumerate(zip(scores, patients, strict=True)):
            read = [] if readers is None else [f"{one[place]:.4f}" for one in readers]
            writer.writerow([names.format(place), patient, f"{score:.4f}", *read])
    return file


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """60 images of 30 patients with the scores of two readers one point apart; two folders."""
    root = tmp_path_factory.mktemp("severity")
    scores = np.random.default_rng(0).uniform(0.5, 5.5, 30).repeat(2)
    patients = [f"MRN-{place // 2}" for place in range(60)]
    write_folder(root / "strong", scores)
    write_folder(root / "weak", scores, strength=0.01)
    write_table(root / "scores.csv", scores, patients, np.stack([scores - 0.5, scores + 0.5]))
    return root


def run(root, output, folders=("strong",), table="scores.csv", networks=small_networks.never, **options):
    """An evaluation; options belong to the request or to the settings."""
    of_request = {name: options.pop(name) for name in list(options) if name in severity.Request.__dataclass_fields__}
    of_request = dict(column="opacity", limits=(0, 6), repeats=3) | of_request
    request = severity.Request(tuple(root / folder for folder in folders), root / table, **of_request)
    return severity.evaluate(request, output, Settings(**QUICK | options), networks=networks, say=str)


@pytest.fixture(scope="module")
def judged(planted, tmp_path_factory):
    output = tmp_path_factory.mktemp("judged") / "out"
    return output, run(planted, output, encoder="inception", networks=small_networks.networks)


def test_planted_opacity_is_told_by_the_residual_and_not_by_the_control(judged):
    written = json.loads((judged[0] / "metrics.json").read_text())
    assert written["pearson residual"]["value"] > 0.95
    assert written["mae residual"]["value"] < 0.5 * written["mae mean score"]["value"]
    assert written["mae control alone"]["value"] > 0.7 * written["mae mean score"]["value"]
    assert written["mae residual"]["interval"][1] < written["mae mean score"]["interval"][0]
    assert "no better than the mean score" not in (judged[0] / "metrics.json").read_text()


def test_every_number_says_of_what_it_is(judged):
    written = json.loads((judged[0] / "metrics.json").read_text())
    kinds = ["mae", "pearson", "spearman"]
    learned = ["residual", "residual beyond control", "control alone", "inception"]
    expected = [f"{kind} {name}" for name in learned for kind in kinds] + ["mae mean score"]
    expected += [f"mae_difference {name}" for name in (*learned[:3], "mean score")]
    assert list(written) == [*expected, *(f"{kind} readers" for kind in kinds)]
    for name, entry in written.items():
        assert (entry["n"], entry["counted"]) == (18, "images of 9 patients")
        assert (entry["conditions"]["n_real"], entry["conditions"]["n_fake"]) == (42, 18)
        assert entry["better"] == ("lower" if name.startswith("mae") else "higher")
        assert "opacity limited to 0..6" in entry["fingerprint"]
    assert written["mae inception"]["conditions"]["network"] == "small"
    assert "network" not in written["mae residual"]["conditions"]
    assert written["mae readers"]["value"] == pytest.approx(1, abs=1e-3)
    difference = written["mae residual"]["value"] - written["mae inception"]["value"]
    assert written["mae_difference residual"]["value"] == pytest.approx(difference)


def test_the_curves_are_of_the_same_patients(judged):
    written = json.loads((judged[0] / "label_efficiency.json").read_text())
    assert (written["images"], written["patients"]) == (60, 30)
    assert written["held_out"] == {"images": 18, "patients": 9}
    assert list(written["curves"]) == [
        "residual",
        "residual beyond control",
        "control alone",
        "inception",
        "mean score",
    ]
    for curve in written["curves"].values():
        assert curve["patients"] == [4, 8, 16, 21] and curve["images"] == [8, 16, 32, 42]
        np.testing.assert_allclose(np.mean(curve["mae"], 1), curve["mae_mean"])
    numbers = judged[1].numbers
    for name in ("residual", "inception", "mean score"):
        assert written["curves"][name]["mae_mean"][-1] == pytest.approx(numbers[f"mae {name}"]["value"])
    residual, flat = (written["curves"][name]["mae_mean"] for name in ("residual", "mean score"))
    assert residual[-1] < residual[0] < flat[0]


def test_the_page_shows_table_and_curves(judged):
    page = (judged[0] / "index.html").read_text()
    for text in ("Severity from residuals: opacity", "42 images of 21 patients", "Error minus that of inception"):
        assert text in page
    chart = page[page.index("Error by the number of scored patients") :]
    assert [f">{count}</text>" in chart for count in (4, 8, 16, 21)] == [True] * 4
    assert chart.count('class="band"') == 5 and "readers" in chart
    assert "too few for a claim" not in page and "Largest errors" in page
    assert "<script" not in page and "NaN" not in chart[: chart.index("Intervals")]


def test_neither_names_nor_patients_leave_unasked(judged, planted, tmp_path):
    for path in judged[0].iterdir():
        assert "jane" not in path.read_text() and "MRN" not in path.read_text(), path
    rows = list(csv.DictReader((judged[0] / "per_image.csv").open()))
    assert list(rows[0]) == [
        "record", "score", "residual", "residual beyond control", "control alone", "inception", "mean score",
    ]  # fmt: skip
    assert len(rows) == 18 and all(0 <= float(row["residual"]) <= 6 for row in rows)
    run(planted, tmp_path / "named", names=True)
    named = (tmp_path / "named" / "per_image.csv").read_text()
    assert "jane-doe-" in named and "MRN" not in named


def test_folders_are_told_apart_by_name(planted, judged, tmp_path):
    found = run(planted, tmp_path / "two", folders=("strong", "weak"))
    assert found.numbers["mae strong residual"]["value"] == judged[1].numbers["mae residual"]["value"]
    assert found.numbers["mae weak residual"]["value"] > found.numbers["mae strong residual"]["value"]
    page = (tmp_path / "two" / "index.html").read_text()
    assert page.count('class="band"') == 8
    with pytest.raises(UserError, match="the same folder is given twice"):
        run(planted, tmp_path / "same", folders=("weak", "weak"))


def test_the_control_is_in_two_sets_of_features_and_not_in_the_first(planted, judged, tmp_path):
    scores = np.random.default_rng(0).uniform(0.5, 5.5, 30).repeat(2)
    write_folder(tmp_path / "lossy", scores, lost=0.2)
    (tmp_path / "scores.csv").write_text((planted / "scores.csv").read_text())
    found = run(tmp_path, tmp_path / "out", folders=("lossy",))
    kinds = ("residual", "residual beyond control", "control alone")
    made = [[each.numbers[f"mae {kind}"]["conditions"]["fake"] for kind in kinds] for each in (found, judged[1])]
    assert [one == other for one, other in zip(*made, strict=True)] == [True, False, False]
    assert len(set(made[0])) == 3


def test_only_what_is_scored_and_in_every_folder_counts(planted, tmp_path):
    write_folder(tmp_path / "part", np.arange(1.0, 6).repeat(8), names="jane-doe-{}")
    write_folder(tmp_path / "other", np.ones(30), names="jane-doe-{}")
    (tmp_path / "scores.csv").write_text((planted / "scores.csv").read_text())
    found = run(tmp_path, tmp_path / "out", folders=("part", "other"))
    assert "60 images are scored and 40 in a folder: the 30 that are both count" in found.warnings
    assert found.facts["Held out"] == "8 images of 4 patients"


def test_few_images_are_no_claim(tmp_path):
    scores = np.linspace(0, 5, 14)
    write_folder(tmp_path / "few", scores)
    write_table(tmp_path / "scores.csv", scores, range(14))
    found = run(tmp_path, tmp_path / "out", folders=("few",), limits=None)
    sentence = "14 images of 14 patients are too few for a claim: shown for correctness only"
    assert found.warnings[0] == sentence
    for name in ("metrics.json", "label_efficiency.json", "index.html"):
        assert sentence in (tmp_path / "out" / name).read_text(), name
    assert found.facts["Range"].endswith(", of the scores that are learned from")


def test_the_fewest_patients_give_a_table_and_no_curve(tmp_path):
    write_folder(tmp_path / "few", np.arange(6.0))
    write_table(tmp_path / "scores.csv", np.arange(6.0), range(6))
    run(tmp_path, tmp_path / "out", folders=("few",))
    page = (tmp_path / "out" / "index.html").read_text()
    assert "Scores of held-out patients" in page and 'class="band"' not in page


def test_patients_come_from_the_folder_or_are_missed(tmp_path):
    scores = np.arange(16) % 6
    write_folder(tmp_path / "known", scores, patients=[f"P{place // 2}" for place in range(16)])
    write_folder(tmp_path / "unknown", scores)
    write_table(tmp_path / "scores.csv", scores, [""] * 16)
    found = run(tmp_path, tmp_path / "a", folders=("known",))
    assert found.facts["Learned from"] == "12 images of 6 patients" and len(found.warnings) >= 1
    assert not [line for line in found.warnings if "whose the images are" in line]
    found = run(tmp_path, tmp_path / "b", folders=("unknown",))
    assert found.facts["Learned from"] == "11 images of 11 patients"
    assert [line for line in found.warnings if "add a column patient_id" in line]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(folders=()), "--residuals is missing"),
        (dict(folders=("nowhere",)), "nowhere: holds no scores.json"),
        (dict(table="nowhere.csv"), "--scores .*nowhere.csv: no such file"),
        (dict(column="extent"), "--column extent: .* it has: opacity, opacity_1, opacity_2"),
        (dict(limits=(0, 2)), r"--range 0,2: \d+ scores lie outside, such as"),
        (dict(limits=(6, 0)), "--range 6,0: the first number must be the smaller one"),
        (dict(encoder="resnet"), "--encoder resnet: must be inception"),
        (dict(repeats=1), "--repeats 1: at least 2"),
        (dict(held_out=0.0), "0.0 of the patients cannot be held out"),
        (dict(level=2.0), "--level=2.0"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(planted, tmp_path, options, message):
    with pytest.raises(UserError, match=message):
        run(planted, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_strange_folders_and_damaged_arrays_are_named(planted, tmp_path):
    write_folder(tmp_path / "strange", np.ones(3), names="scan-{}")
    (tmp_path / "scores.csv").write_text((planted / "scores.csv").read_text())
    with pytest.raises(UserError, match=r"none of its images \('scan-0' is the first\) has a score"):
        run(tmp_path, tmp_path / "out", folders=("strange",))
    write_folder(tmp_path / "broken", np.ones(60))
    (tmp_path / "broken" / "arrays" / "jane-doe-7.npz").write_bytes(b"PK")
    with pytest.raises(UserError, match=r"jane-doe-7\.npz: is missing or damaged"):
        run(tmp_path, tmp_path / "out", folders=("broken",))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"holds metrics\.json already; .* --overwrite"):
        run(planted, tmp_path / "full")


def test_two_entries_of_one_image_are_refused(tmp_path):
    write_folder(tmp_path / "twice", np.ones(2), names="row_{:04d}")
    write_folder(tmp_path / "twice", np.ones(9), names="{}")
    names = tuple(map(str, range(9)))
    table = SeverityScores("opacity", names, np.arange(9.0), names, aliases={"row_0001": 1})
    with pytest.raises(UserError, match="1 and row_0001 are one image in the table of scores"):
        residuals.join([tmp_path / "twice"], table)


def test_the_miniature_of_ralo(shared, tmp_path):
    """Real images against themselves blurred: all of it runs, the copied reader is refused, no claim is made."""
    source = shared / "data" / "cxr" / "ralo_mini"
    entries = []
    for file in sorted((source / "CXR_images_scored").iterdir()):
        image = Image.open(file).convert("L").resize((64, 64))
        pictures = [image, *(image.filter(ImageFilter.GaussianBlur(radius)) for radius in (4, 0.5))]
        arrays = Arrays(*(np.asarray(picture, np.float32)[..., None] / 127.5 - 1 for picture in pictures))
        counterfactual_folders.write_arrays(tmp_path / "blurred", file.stem, arrays)
        entries.append(Entry(file.stem))
    counterfactual_folders.write_scores(tmp_path / "blurred", {}, entries)
    request = severity.Request((tmp_path / "blurred",), source, "opacity", encoder="inception", repeats=3)
    settings, networks = Settings(**QUICK), small_networks.networks
    found = severity.evaluate(request, tmp_path / "out", settings, networks=networks, say=str)
    assert found.facts["Range"] == "0 to 8" and found.facts["Held out"].endswith("of 4 patients")
    assert found.warnings[0].startswith("14 images of 12 patients are too few for a claim")
    assert "the same on all 14 images; a copy says nothing of agreement" in " ".join(found.warnings)
    assert not [name for name in found.numbers if "readers" in name]
    values = [entry["value"] for entry in found.numbers.values()]
    assert np.isfinite(values).all() and 0 < found.numbers["mae residual"]["value"] < 8
    curves = json.loads((tmp_path / "out" / "label_efficiency.json").read_text())["curves"]
    assert curves["residual"]["patients"] == [4, 8]
