"""The study of stain normalisers: which tiles, which runs, and its numbers by hand."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from stained_images import PINK, PURPLE, glass, tissue

from benchmarks import stain_claim
from medgen_jax import training
from medgen_jax.core import config as configs
from medgen_jax.core.errors import UserError
from medgen_jax.systems import stain_classifier
from medgen_jax.systems.stain_classifier import Normaliser, Start

COLUMNS = ("file", "organ", "stain_domain", "patient_id")


def row(organ, domain, patient, number=0):
    return {"file": f"sets/{patient}_{number}.png", "organ": organ, "stain_domain": domain, "patient_id": patient}


#: One patient of every organ in either domain.
ROWS = [
    row(organ, domain, f"{organ}-{domain}")
    for organ in stain_claim.ORGANS
    for domain in (stain_claim.TRAIN, stain_claim.TEST)
]


def write(folder, rows, columns=COLUMNS):
    """A table in a folder ``sets``, as `read_tiles` expects it."""
    (folder / "sets").mkdir(exist_ok=True)
    path = folder / "sets" / "tiles.csv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def numbered(right, patients, organs, method="none", balanced=0.0):
    """A row of the results."""
    return {
        "method": method, "right": right, "patients": patients, "organs": organs, "balanced_accuracy": balanced
    }  # fmt: skip


# -- tiles -----------------------------------------------------------------------------------------


def test_tiles_are_those_of_three_organs_in_two_domains(tmp_path):
    others = [row("colon", "B_purple", "colon-1"), row("liver", "C_blue", "liver-2")]
    capital = row("Liver", "A_pink", "liver-3")
    tiles = stain_claim.read_tiles(write(tmp_path, [others[0], *ROWS, others[1], capital]))
    assert [t.patient for t in tiles] == [r["patient_id"] for r in ROWS] + ["liver-3"]
    assert tiles[-1] == (tmp_path.resolve() / "sets/liver-3_0.png", "liver", "A_pink", "liver-3")
    assert [t.organ for t in stain_claim.of_domain(tiles, "B_purple")] == list(stain_claim.ORGANS)


@pytest.mark.parametrize(
    ("rows", "columns", "message"),
    [
        (ROWS, COLUMNS[:-1], "has no column 'patient_id'"),
        ([], (), "has no column 'file'"),
        ([], COLUMNS, "breast is not in both A_pink and B_purple"),
        (ROWS[:-1], COLUMNS, "liver is not in both A_pink and B_purple"),
        ([*ROWS, row("kidney", "B_purple", "liver-A_pink")], COLUMNS, "patient liver-A_pink is in both domains"),
    ],
)
def test_unfit_tables_are_refused(tmp_path, rows, columns, message):
    with pytest.raises(UserError, match=message):
        stain_claim.read_tiles(write(tmp_path, rows, columns))


def test_templates_are_spread_over_the_training_tiles():
    tiles = [stain_claim.Tile(None, "liver", domain, "p") for domain in ("B_purple", "A_pink") for _ in range(8)]
    assert stain_claim.template_numbers(tiles, 4) == [0, 2, 4, 6]
    assert stain_claim.template_numbers(tiles, 3) == [0, 2, 5]
    assert stain_claim.template_numbers(tiles, 8) == list(range(8))


# -- what is run -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["none", "macenko"])
def test_without_the_layer(method):
    config = stain_claim.configured(method, "tiles.csv", 5, 3, 120, 32)
    assert config.norm.kind is Normaliser.NONE
    assert (config.data.source, config.data.crop_size, config.model.depth) == ("tiles.csv", 112, 18)
    assert (config.train.seed, config.train.steps, config.train.batch_size) == (3, 120, 32)
    assert config.stop.patience is None  # there is no split to stop by


@pytest.mark.parametrize(
    ("method", "spaces", "trained"),
    [
        ("template", ("lab",), False),
        ("lab", ("lab",), True),
        ("hsv", ("hsv",), True),
        ("fused", ("lab", "hsv", "rgb"), True),
    ],
)
def test_with_the_layer(method, spaces, trained):
    config = stain_claim.configured(method, "tiles.csv", 5, 3, 120, 32)
    norm = config.norm
    assert (norm.kind, norm.start, norm.template) == (Normaliser.LSTAINNORM, Start.TEMPLATE, 5)
    assert (norm.spaces, norm.trained) == (spaces, trained)
    assert stain_classifier.build(configs.resolve(config, 100)).layer.spaces == spaces


def test_the_layer_starts_from_the_tile_that_macenko_takes(tmp_path):
    """The number of a template means the same tile to both."""
    organs = ("liver", "breast", "kidney", "breast")  # in no order that sorting would leave alone
    tiles = [stain_claim.Tile(None, organ, "A_pink", f"p{i}") for i, organ in enumerate(organs)]
    images = np.random.default_rng(0).integers(0, 256, (4, 120, 120, 3), np.uint8)
    table = stain_claim.write_training_set(tmp_path, tiles, images)
    for template in (0, 2):
        system, config, data = training.prepare(stain_claim.configured("fused", table, template, 0, 4, 4))
        assert set(config.data.classes) == set(organs)
        np.testing.assert_array_equal(data.observed(system.observation)["image"], images[template][None])


def test_macenko_keeps_glass_and_the_order(monkeypatch):
    monkeypatch.setattr(stain_claim, "MACENKO_BATCH", 2)  # three tiles leave a part that is filled up
    template = tissue(24, 24)
    images = np.stack([glass(24, 24), tissue(24, 24, PURPLE, seed=1), template])
    found = stain_claim.normalised_by_macenko(images, template)
    assert found.shape == images.shape and found.dtype == np.uint8
    np.testing.assert_array_equal(found[0], images[0])
    # Its own look: what its two stains do not explain is lost.
    np.testing.assert_allclose(found[2].astype(int), template.astype(int), atol=5)
    # The same amounts in the template's stains.
    np.testing.assert_allclose(found[1].mean((0, 1)), tissue(24, 24, PINK, seed=1).mean((0, 1)), atol=6)
    assert np.abs(images[1].mean((0, 1)) - tissue(24, 24, PINK, seed=1).mean((0, 1))).max() > 12


# -- what is measured ------------------------------------------------------------------------------


def test_quadrants_by_hand():
    image = np.arange(36).reshape(1, 6, 6, 1)
    found = stain_claim.centres(image, size=2)
    assert found.shape == (4, 1, 2, 2, 1)
    top, bottom = [[7, 8, 13, 14], [9, 10, 15, 16]], [[19, 20, 25, 26], [21, 22, 27, 28]]
    np.testing.assert_array_equal(found.reshape(4, 4), top + bottom)


def test_a_run_is_judged_on_the_other_domain(tmp_path, monkeypatch):
    """A classifier that answers what a tile's red says: 2 of 3 breasts, the kidney, no liver."""
    classes = ("liver", "breast", "kidney")
    test = [("breast", 1), ("breast", 1), ("breast", 2), ("kidney", 2), ("liver", 1)]
    rows = [r for r in ROWS if r["stain_domain"] == "A_pink"]
    rows += [row(organ, "B_purple", f"test-{organ}", i) for i, (organ, _) in enumerate(test)]
    table = write(tmp_path, rows)
    reds = [100] * 3 + [answer for _, answer in test]
    for r, red in zip(rows, reds, strict=True):
        Image.new("RGB", (224, 224), (red, 0, 0)).save(tmp_path / r["file"])
    trained = []

    def train(config, workdir, console):
        trained.extend(csv.DictReader(Path(config.data.source).read_text().splitlines()))

    class Predict:
        config = SimpleNamespace(data=SimpleNamespace(classes=classes))

        def __call__(self, inputs):
            return np.eye(3)[inputs["image"][:, 0, 0, 0]]

    monkeypatch.setattr(stain_claim.training, "train", train)
    monkeypatch.setattr(stain_claim, "load_sampler", lambda workdir, name: {"predict": Predict()}[name])
    found = stain_claim.run("none", stain_claim.read_tiles(table), template=1, seed=7, steps=2, batch=4)
    assert [(t["label"], t["split"]) for t in trained] == [(organ, "train") for organ in stain_claim.ORGANS]
    assert found["right"] == [1, 1, 0, 1, 0] and found["organs"] == [organ for organ, _ in test]
    assert found["accuracy"] == pytest.approx(3 / 5)
    assert found["balanced_accuracy"] == pytest.approx((2 / 3 + 1 + 0) / 3)
    assert (found["method"], found["template"], found["seed"]) == ("none", 1, 7)
    json.dumps(found)


def test_one_patient_per_organ_gives_no_width():
    patients, organs = ["b", "b", "k", "l"], ["breast", "breast", "kidney", "liver"]
    rows = [numbered([1, 0, 1, 0], patients, organs), numbered([1, 1, 1, 1], patients, organs)]
    # Means over the rows: breast (1 + 0.5) / 2, kidney 1, liver 0.5.
    assert stain_claim.interval(rows) == pytest.approx((0.75, 0.75))


def test_patients_are_the_units_of_an_interval():
    """Nine tiles of one breast right, one each of five others wrong.

    Among six drawn patients the first is not at all in a third of the draws, four times or more in 1 of 115, and three
    times in 1 of 19: with its tiles it then stands for 27 of 30.
    """
    patients = ["b0"] * 9 + [f"b{i}" for i in range(1, 6)] + ["k", "l"]
    organs = ["breast"] * 14 + ["kidney", "liver"]
    found = stain_claim.interval([numbered([1] * 9 + [0] * 5 + [1, 1], patients, organs)])
    assert found == pytest.approx(((0 + 1 + 1) / 3, (0.9 + 1 + 1) / 3))


def test_the_table():
    patients, organs = ["b", "k", "l"], ["breast", "kidney", "liver"]
    rows = [
        numbered([1, 1, 0], patients, organs, "fused", 0.5),
        numbered([0, 1, 0], patients, organs, "none", 0.25),
        numbered([1, 0, 0], patients, organs, "fused", 0.75),
    ]
    head, rule, *lines = stain_claim.table(rows)
    assert len({line.count("|") for line in (head, rule, *lines)}) == 1
    assert lines == [
        "| none | 1 | 0.250 | [0.333, 0.333] |  | 0.250 | 0.250 |",
        "| fused | 2 | 0.625 | [0.500, 0.500] | 0.177 | 0.500 | 0.750 |",
    ]


def test_runs_that_are_there_are_not_repeated(tmp_path, monkeypatch, capsys):
    table, output, ran = write(tmp_path, ROWS), tmp_path / "found.jsonl", []

    def run(method, tiles, template, seed, steps, batch):
        ran.append((method, template, seed))
        return numbered([1, 1, 0], ["b", "k", "l"], list(stain_claim.ORGANS), method, 0.5) | {
            "template": template, "seed": seed, "steps": steps, "batch": batch
        }  # fmt: skip

    monkeypatch.setattr(stain_claim, "run", run)
    options = ["stain_claim", "--tiles", str(table), "--output", str(output), "--methods", "none", "fused"]
    for more in (["--templates", "2"], ["--templates", "3"], ["--templates", "1", "--steps", "7"]):
        monkeypatch.setattr("sys.argv", [*options, *more])
        stain_claim.main()
    # Of three training tiles: two templates, 0 and 1; then three, 0 to 2; another length is another study.
    first, second, third = ([("none", i, i), ("fused", i, i)] for i in range(3))
    assert ran == [*first, *second, *third, *first]
    assert len(output.read_text().splitlines()) == 8
    printed = capsys.readouterr().out
    assert [printed.count(f"| fused | {n} | 0.500 |") for n in (1, 2, 3)] == [1, 1, 1]
