"""Folders of counterfactuals made by hand: numbers by hand, what is left out and why, what is refused."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json

import jax.numpy as jnp
import numpy as np
import pytest
import small_counterfactuals as small
import small_systems
import untrained_runs
from small_counterfactuals import NORMAL, OPACITY

from medgen_jax.core import config as configs
from medgen_jax.core.errors import UserError
from medgen_jax.data import images as image_files
from medgen_jax.engine import rundir
from medgen_jax.evaluation import counterfactuals, results
from medgen_jax.evaluation.counterfactuals import Request, measures
from medgen_jax.evaluation.counterfactuals import judge as judging
from medgen_jax.evaluation.counterfactuals.localisation import VIEW_PRIOR
from medgen_jax.evaluation.settings import Settings
from medgen_jax.metrics.localisation import ONES, PRIOR
from medgen_jax.ops.scale import to_unit
from medgen_jax.sampling import load_sampler

QUICK = dict(resamples=40, pictures=1, batch=4)
#: Label, view, shift of the counterfactual and of the round trip, on images that span [-1, 1].
SHIFTS = (
    (NORMAL, "PA", 0.1, 0.1), (NORMAL, "PA", 0.2, 0.1), (NORMAL, "AP", 0.3, 0.1),
    (OPACITY, "AP", 0.25, 0.1), (OPACITY, "AP", 0.4, 0.1), (OPACITY, "AP", 0.55, 0.2),
)  # fmt: skip


def judged(paths, output, **options):
    request = {name: options.pop(name) for name in ("judge", "train_boxes", "against") if name in options}
    paths = paths if isinstance(paths, list) else [paths]
    return counterfactuals.evaluate(Request(paths, **request), output, Settings(**QUICK | options), say=str)


def value(found, name):
    return found.numbers[name]["value"]


@pytest.fixture(scope="module")
def shifts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("counterfactuals") / "cfg"
    rows = [small.shifted(i, a, b, label=label, view=view) for i, (label, view, a, b) in enumerate(SHIFTS)]
    return small.write(folder, rows)


# -- differences ------------------------------------------------------------------------------------


def test_differences_by_class_are_those_that_were_made(shifts, tmp_path):
    found = judged(shifts, tmp_path / "out")
    for name, mean, sd in ((NORMAL, 0.1, 0.05), (OPACITY, 0.2, 0.075)):
        entry = found.numbers[f"mean_residual cfg, {name}"]
        assert (entry["value"], entry["sd"], entry["n"]) == (
            pytest.approx(mean, rel=1e-4),
            pytest.approx(sd, rel=1e-4),
            3,
        )
    assert value(found, f"mean_control cfg, {OPACITY}") == pytest.approx(0.4 / 6, rel=1e-4)
    assert value(found, f"mean_subtracted cfg, {OPACITY}") == pytest.approx(0.4 / 3, rel=1e-4)
    assert value(found, f"mean_residual cfg, {NORMAL}, PA") == pytest.approx(0.075, rel=1e-4)
    # Means .1 and .2, variances .0025 and .005625.
    effect = found.numbers[f"effect_residual cfg, {OPACITY}"]
    assert effect["value"] == pytest.approx(0.1 / 0.0040625**0.5, rel=1e-4)
    assert effect["interval"][0] < effect["value"] < effect["interval"][1] and effect["positives"] == 3
    # Of nine pairs .25 against .3 alone is lost. Who only knows the view wins two thirds, and ties the rest.
    area = found.numbers[f"auroc_residual cfg, {OPACITY}"]
    assert area["value"] == pytest.approx(8 / 9) and "DeLong" in area["method"]
    assert value(found, f"auroc_view cfg, {OPACITY}") == pytest.approx(2 / 3 + 1 / 6)
    assert f"auroc_residual cfg, {OPACITY}, AP" not in found.numbers
    assert any("OPACITY, AP need two images" in line for line in found.warnings)


def test_files_and_page(shifts, tmp_path):
    out = tmp_path / "out"
    found = judged(shifts, out)
    stored = json.loads((out / results.METRICS).read_text())
    assert list(stored) == list(found.numbers) and all(entry["value"] is not None for entry in stored.values())
    assert stored[f"mean_residual cfg, {NORMAL}"]["fingerprint"].split("|")[1:3] == ["target=NORMAL", "N=6/6"]
    rows = list(csv.DictReader((out / results.PER_IMAGE).open()))
    assert [float(row["mean_residual"]) for row in rows] == pytest.approx([a / 2 for _, _, a, _ in SHIFTS], rel=1e-4)
    assert rows[3]["label"] == OPACITY and rows[3]["counterfactual_difference_inside"] == ""
    page = (out / results.PAGE).read_text()
    for words in ("Differences by class", "Cohen&#x27;s d", "View alone", "Spectra as curves", "changed most"):
        assert words in page, words
    for path in out.iterdir():
        assert "doe-" not in path.read_text(), path  # no letters that pictures hold by chance
    headline = results.lines(found)
    assert any(line.startswith(f"effect_residual cfg, {OPACITY} ") for line in headline)
    assert f"and {len(found.numbers) - len(found.headline)} more numbers in metrics.csv" in headline


def test_a_later_evaluation_says_what_changed(shifts, tmp_path):
    judged(shifts, tmp_path / "out")
    rows = [small.shifted(i, a + 0.2, b, label=label, view=view) for i, (label, view, a, b) in enumerate(SHIFTS)]
    found = judged(small.write(tmp_path / "cfg", rows), tmp_path / "new", against=tmp_path / "out" / results.METRICS)
    changes = {change.name: change for change in found.changes}
    mean = changes[f"mean_residual cfg, {NORMAL}"]
    assert mean.change == pytest.approx(0.1, rel=1e-3) and mean.verdict == "changed" and not mean.differences
    assert changes[f"auroc_residual cfg, {OPACITY}"].verdict == "no clear change"


def test_patients_are_drawn_whole(shifts, tmp_path):
    """Two patients whose own images agree: fewer independent draws, a wider interval."""
    rows = [small.shifted(i, (0.1, 0.5)[i % 2], label=NORMAL) for i in range(8)]
    whose = [{**row, "patient": f"p{i % 2}"} for i, row in enumerate(rows)]
    alone = judged(small.write(tmp_path / "alone", rows), tmp_path / "a", resamples=400)
    drawn = judged(small.write(tmp_path / "drawn", whose), tmp_path / "b", resamples=400)
    entries = [f.numbers[f"mean_residual {n}, {NORMAL}"] for f, n in ((alone, "alone"), (drawn, "drawn"))]
    assert entries[0]["value"] == entries[1]["value"] == pytest.approx(0.15, rel=1e-4)
    widths = [high - low for low, high in (entry["interval"] for entry in entries)]
    assert widths[1] == pytest.approx(0.2, rel=1e-4) and widths[0] < 0.16
    assert entries[1]["patients"] == 2 and "over patients" in entries[1]["method"]
    assert any("fewer than 10 patients" in line for line in drawn.all_warnings)


# -- spectra ----------------------------------------------------------------------------------------


def test_a_method_that_blurs_loses_its_finest_bands(tmp_path):
    def blurred(image):
        for axis in (0, 1):
            image = (np.roll(image, 1, axis) + 2 * image + np.roll(image, -1, axis)) / 4
        return image

    rows = []
    for i in range(4):
        image = small.texture(i)
        rows.append(
            {"image": image, "counterfactual": blurred(image), "control": image, "label": (NORMAL, OPACITY)[i % 2]}
        )
    found = judged(small.write(tmp_path / "blur", rows), tmp_path / "out")
    for label in (NORMAL, OPACITY):
        bands = [value(found, f"band_ratio_{i} blur, {label}") for i in range(5)]
        # The filter's gain is cos^2(pi f) along each axis: little at 1/16, a quarter of the power at (1/4, 0).
        assert all(a > b for a, b in itertools.pairwise(bands[1:])) and bands[1] > -1 and bands[4] < -6
        assert value(found, f"band_ratio_4 blur round trip, {label}") == pytest.approx(0, abs=1e-4)
    assert [chart.title for chart in found.sections[-1].charts] == [NORMAL, OPACITY]
    blur, control = found.sections[-1].charts[0].lines
    assert control.dashed and not blur.dashed and blur.hue == control.hue
    assert blur.x[-1] == 0.5 and blur.y[-1] < -9 and np.all(blur.low <= blur.y + 1e-9)


# -- boxes ------------------------------------------------------------------------------------------

BOX = (4.0, 6.0, 8.0, 6.0)


def boxed(seed, inside=0.4, outside=0.0, box=BOX, control=0.1, **known):
    """Guidance darkened the box by ``inside`` and everything else by ``outside``."""
    image = small.texture(seed)
    change = np.full_like(image, outside)
    x, y, width, height = map(int, box)
    change[y : y + height, x : x + width] = inside
    known = {"boxes": (box,), "label": OPACITY} | known
    return {"image": image, "counterfactual": image - change, "control": image - np.float32(control), **known}


@pytest.fixture(scope="module")
def lesions(tmp_path_factory):
    """Four lesions in two places and two healthy images, every residual exactly its box; three patients."""
    folder = tmp_path_factory.mktemp("lesions") / "exact"
    boxes = (BOX, BOX, (12.0, 12.0, 6.0, 8.0), (12.0, 12.0, 6.0, 8.0))
    rows = [boxed(i, box=box, patient=f"p{i}", view="AP") for i, box in enumerate(boxes)]
    rows += [boxed(9 + i, inside=0, boxes=(), label=NORMAL, patient=f"q{i}", view="PA") for i in range(2)]
    return small.write(folder, rows)


def test_inside_and_outside_of_the_boxes(tmp_path):
    rows = [boxed(0, outside=0.1), boxed(1, outside=0.1), small.shifted(2, 0.7, label=NORMAL, boxes=())]
    found = judged(small.write(tmp_path / "m", rows), tmp_path / "out")
    inside, outside = (found.numbers[f"counterfactual_difference_{part} m"] for part in ("inside", "outside"))
    assert (inside["value"], outside["value"]) == (pytest.approx(0.2, rel=1e-4), pytest.approx(0.05, rel=1e-4))
    assert inside["n"] == 2 and outside["better"] == "lower"
    for part in ("inside", "outside"):
        assert value(found, f"control_difference_{part} m") == pytest.approx(0.05, rel=1e-4)
    assert value(found, "counterfactual_ssim_outside m") > value(found, "counterfactual_ssim_inside m")


def test_localisation_of_residuals_that_are_their_boxes(lesions, tmp_path):
    found = judged(lesions, tmp_path / "out")
    for number in ("pixel_auroc", "pixel_auprc", "dice", "iou", "pointing", "image_auroc"):
        assert value(found, f"{number} exact") == pytest.approx(1, abs=1e-6), number
    # Both kinds of box cover 48 of 576 pixels, in four images of six.
    share = 48 / 576
    assert value(found, f"dice {ONES}") == pytest.approx(2 * share / (1 + share))
    assert value(found, f"pixel_auprc {ONES}") == pytest.approx(share * 4 / 6, rel=0.2)
    assert value(found, "pixel_auroc exact round trip") == pytest.approx(0.5, abs=0.1)
    low, high = found.numbers[f"pixel_auprc {ONES}"]["interval"]
    assert low < value(found, f"pixel_auprc {ONES}") < high and found.numbers[f"dice {ONES}"]["n"] == 4
    assert found.numbers["dice exact"]["baselines"][ONES] == value(found, f"dice {ONES}")
    assert f"dice {PRIOR}" not in found.numbers
    assert any(PRIOR in line and "--train_boxes is missing" in line for line in found.warnings)
    assert not any("no better than" in line for line in found.warnings)


def test_prior_maps_come_from_training_boxes(lesions, tmp_path):
    """A CSV whose boxes are those of the images: the prior map knows both places, that of the view the same."""
    image_files.write_image(tmp_path / "a.png", np.zeros((48, 48, 1), np.uint8))
    image_files.write_image(tmp_path / "b.png", np.zeros((24, 24, 1), np.uint8))
    lines = ["path,x,y,width,height,view", "a.png,8,12,16,12,AP", "b.png,12,12,6,8,AP", "b.png,,,,,AP"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
    found = judged(lesions, tmp_path / "out", train_boxes=tmp_path / "boxes.csv")
    # A half each: the places are all that the map marks, and each image's own is half of it.
    assert value(found, f"dice {PRIOR}") == pytest.approx(2 * 48 / (96 + 48))
    assert any("views of judged images are unknown, or absent" in line for line in found.warnings)
    assert ",boxes=" in found.numbers[f"dice {PRIOR}"]["fingerprint"]
    assert ",boxes=" not in found.numbers["dice exact"]["fingerprint"]

    # Lesions are AP and healthy images PA: a larger box in PA ranks the healthy ones first.
    lines[2:] = ["b.png,12,12,12,8,PA"]
    (tmp_path / "boxes.csv").write_text("\n".join(lines) + "\n")
    found = judged(lesions, tmp_path / "views", train_boxes=tmp_path / "boxes.csv")
    assert value(found, f"image_auroc {VIEW_PRIOR}") == 0 and value(found, f"image_auroc {PRIOR}") == 0.5
    assert not any(VIEW_PRIOR in line for line in found.warnings if "left out" in line)


def test_two_folders_of_the_same_images_share_their_baselines(lesions, tmp_path):
    rows = [boxed(i, inside=0.1, outside=0.2, box=box) for i, box in enumerate((BOX, BOX, (12.0, 12.0, 6.0, 8.0)))]
    other = small.write(tmp_path / "inverted", rows)
    found = judged([lesions, other], tmp_path / "out")
    assert value(found, "pixel_auroc inverted") < 0.2 and value(found, "pixel_auroc exact") > 0.99
    assert f"dice {ONES} (exact)" in found.numbers and f"dice {ONES} (inverted)" in found.numbers
    assert any(line.startswith("inverted: pixel AUROC") and "no better than that of" in line for line in found.warnings)
    assert "inverted holds other images than exact: rows are not about the same images" in found.warnings


# -- the judge --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    config = small_systems.CONFIGS["noise_classifier"]()
    config.data.classes = (NORMAL, OPACITY)
    return untrained_runs.write(tmp_path_factory.mktemp("judge") / "judge", config)


@pytest.fixture
def bright_is_ill(monkeypatch):
    """An answer by brightness in place of the network: mean above zero is OPACITY."""

    def function(variables, inputs, key):
        mean = jnp.mean(to_unit(inputs["image"]), axis=(1, 2, 3))
        return jnp.stack([0.5 - mean / 2, 0.5 + mean / 2], -1)

    def load(run, name, which):
        return dataclasses.replace(load_sampler(run, name, which), function=function)

    monkeypatch.setattr(judging, "load_sampler", load)


def bright(level, counterfactual, control, **known):
    names = ("image", "counterfactual", "control")
    return {
        n: np.full((24, 24, 1), v, np.float32) for n, v in zip(names, (level, counterfactual, control), strict=True)
    } | known


def test_flips_are_counted_among_images_that_were_called_right(judge, bright_is_ill, tmp_path):
    rows = [
        bright(0.5, -0.5, 0.4, label=OPACITY),
        bright(0.5, -0.1, -0.1, label=OPACITY),
        bright(0.3, 0.2, 0.3, label=OPACITY),
        bright(-0.3, -0.5, -0.3, label=OPACITY),  # called NORMAL from the start: not counted
        bright(-0.5, -0.6, -0.5, label=NORMAL),  # of the target class: not counted
    ]
    found = judged(small.write(tmp_path / "m", rows), tmp_path / "out", judge=judge)
    flips, control = found.numbers["flip_rate m"], found.numbers["control_flip_rate m"]
    assert (flips["value"], flips["hits"], flips["n"]) == (pytest.approx(2 / 3), 2, 3)
    assert (
        ",judge=" in flips["fingerprint"]
        and ",judge=" not in found.numbers[f"mean_residual m, {NORMAL}"]["fingerprint"]
    )
    assert control["value"] == pytest.approx(1 / 3) and "Wilson" in flips["method"]
    assert "Does an independent classifier change its mind?" in (tmp_path / "out" / results.PAGE).read_text()
    rows = list(csv.DictReader((tmp_path / "out" / results.PER_IMAGE).open()))
    assert float(rows[0]["p_OPACITY_image"]) == pytest.approx(0.75)
    assert float(rows[0]["p_NORMAL_counterfactual"]) == pytest.approx(0.75)


def guides(judge):
    """Settings that name the judge, and settings that name another run of that name."""
    digest = judging.manifest.file_digest(judge / "checkpoints/00000000" / judging.manifest.NAME)
    same = [
        {"classifier": str(judge)},
        {"classifier": judge.name},
        {"classifier": "moved", "classifier_digest": digest},
    ]
    gone = {"classifier": judge.name, "classifier_digest": "0" * 64, "classifier_checkpoint": 7}
    return [*same, gone], {**gone, "classifier_checkpoint": 0}


def test_a_judge_that_guided_is_refused(judge, bright_is_ill, tmp_path):
    same, other = guides(judge)
    rows = [bright(0.5, -0.5, 0.5, label=OPACITY)]
    for i, settings in enumerate(same):
        with pytest.raises(UserError, match=r"--judge .*: guided .*, so it was moved on purpose"):
            judged(small.write(tmp_path / f"m{i}", rows, settings=settings), tmp_path / "out", judge=judge)
    assert not (tmp_path / "out").exists()
    found = judged(small.write(tmp_path / "m", rows, settings=other), tmp_path / "out", judge=judge)
    assert value(found, "flip_rate m") == 1


def test_a_judge_must_fit(judge, tmp_path):
    strange = small.write(tmp_path / "strange", [bright(0, 0, 0, label="FRACTURE")])
    with pytest.raises(UserError, match=r"does not know the class 'FRACTURE' of .*; it knows NORMAL, OPACITY"):
        judged(strange, tmp_path / "out", judge=judge)
    large = small.write(tmp_path / "large", [bright(0, 0, 0, label=NORMAL)])
    with pytest.raises(UserError, match=r"does not take .* of 24 x 24 pixels; it was trained on 16 x 16"):
        judged(large, tmp_path / "out", judge=judge)
    config = configs.resolve(small_systems.CONFIGS["diffusion"](), num_train=16)
    (other := tmp_path / "run").mkdir()
    rundir.write_config(other, "diffusion", configs.to_dict(config), {})
    with pytest.raises(UserError, match=r"--judge .*: answers with no classes"):
        judged(large, tmp_path / "out", judge=other)


def test_a_noise_classifier_is_asked_about_images_without_noise(judge, tmp_path):
    rows = [small.shifted(i, 0.5, 0.1, size=16, label=OPACITY) for i in range(3)]
    method = measures.open_methods([small.write(tmp_path / "m", rows)])[0]
    opened = judging.open_judge(judge, "last", [method])
    asked = judging.Asked(opened, method, 4)
    arrays = [method.folder.arrays(entry) for entry in method.entries]
    asked.look([2, 0], [arrays[2], arrays[0]])
    expected = np.asarray(load_sampler(judge)({"image": np.stack([own.control for own in arrays])}))
    np.testing.assert_allclose(asked.probabilities["control"][[0, 2]], expected[[0, 2]], rtol=1e-5)
    assert np.isnan(asked.probabilities["control"][1]).all()


# -- what is left out, what is refused --------------------------------------------------------------


def test_what_is_not_known_is_left_out_with_a_reason(tmp_path):
    rows = [{**small.shifted(i, 0.2), "image": small.texture(i)} for i in range(2)]
    found = judged(small.write(tmp_path / "m", rows), tmp_path / "out")
    left = [line for line in found.warnings if line.startswith("left out: ")]
    for words in ("have no labels", "--judge is missing", "identity outside the boxes", "localisation needs boxes"):
        assert sum(words in line for line in left) == 1, words
    assert value(found, "mean_residual m, all images") == pytest.approx(0.1, rel=1e-4)
    assert {name.split()[0].rstrip("_01234") for name in found.numbers} <= {
        "mean_residual",
        "mean_control",
        "mean_subtracted",
        "band_ratio",
    }


def test_one_class_alone_is_said(tmp_path):
    found = judged(
        small.write(tmp_path / "m", [small.shifted(i, 0.2, label=OPACITY) for i in range(2)]), tmp_path / "out"
    )
    assert any("these images are all of OPACITY, and the target is NORMAL" in line for line in found.warnings)
    assert not any(name.startswith(("effect", "auroc")) for name in found.numbers)


def test_small_images_of_several_sizes(tmp_path):
    """Too small for a spectrum, and of two sizes: said, and no number is NaN."""
    rows = [
        small.shifted(i, 0.2, size=size, label=NORMAL, boxes=((1.0, 1.0, 4.0, 4.0),)) for i, size in enumerate((12, 14))
    ]
    found = judged(small.write(tmp_path / "m", rows), tmp_path / "out")
    assert all(np.isfinite(entry["value"]) for entry in found.numbers.values())
    said = " ".join(found.warnings)
    assert "2 images are too small for a spectrum" in said and "localisation needs images of one size" in said


def test_bad_input_is_refused_in_one_line(lesions, tmp_path):
    out = tmp_path / "out"
    outside = small.write(tmp_path / "outside", [boxed(0, boxes=((20.0, 4.0, 8.0, 8.0),))])
    with pytest.raises(UserError, match=r"outside, image doe-0: the box \[20.0, 4.0, 8.0, 8.0\] .* reaches outside"):
        judged(outside, out)
    with pytest.raises(UserError, match="holds no scores.json"):
        judged(tmp_path, tmp_path / "new")
    with pytest.raises(UserError, match="is given twice"):
        judged([lesions, lesions], tmp_path / "new")
    with pytest.raises(UserError, match="holds 6 of the images of"):
        judged(lesions, tmp_path / "new", train_boxes=lesions)
    nameless = [small.write(tmp_path / f"n{i}", [boxed(0), boxed(i)]) for i in range(2)]
    with pytest.raises(UserError, match="holds 1 of the images of"):
        judged(nameless[0], tmp_path / "new", train_boxes=nameless[1])
    (tmp_path / "boxes.csv").write_text("path,x,y,width\na.png,1,2,3\n")
    with pytest.raises(UserError, match="has no column 'height'"):
        judged(lesions, tmp_path / "new", train_boxes=tmp_path / "boxes.csv")
    (tmp_path / "boxes.csv").write_text("path,x,y,width,height\na.png,1,2,3,wide\n")
    with pytest.raises(UserError, match="line 2: x, y, width and height are not four numbers"):
        judged(lesions, tmp_path / "new", train_boxes=tmp_path / "boxes.csv")
    with pytest.raises(UserError, match="--metrics: counterfactuals are always given all"):
        judged(lesions, tmp_path / "new", metrics=("fid",))
    assert not (tmp_path / "new").exists()


def test_folders_of_one_name_are_told_apart(tmp_path):
    rows = [small.shifted(i, 0.2, label=NORMAL) for i in range(2)]
    paths = [small.write(tmp_path / run / "out", rows) for run in ("a", "b")]
    found = judged(paths, tmp_path / "results", resamples=0)
    assert all(entry["interval"] is None for entry in found.numbers.values())
    assert {f"mean_residual {run}/out, {NORMAL}" for run in ("a", "b")} <= set(found.numbers)
