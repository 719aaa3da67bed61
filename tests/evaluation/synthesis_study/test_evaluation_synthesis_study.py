"""The Med-StyleGAN2 study end to end on runs that were never trained, and what it refuses."""

from __future__ import annotations

import json

import numpy as np
import pytest
import small_networks
import small_xrays
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.data import sources
from medgen_jax.data.images import read_image
from medgen_jax.engine import restore
from medgen_jax.evaluation import memorisation, results, sets, synthesis_study
from medgen_jax.evaluation.settings import Settings
from medgen_jax.evaluation.synthesis_study import Request, draws, judge
from medgen_jax.synthesis import commands

QUICK = dict(resamples=10, batch=20, pictures=1, cache=False)
COUNT, KEPT = 20, 12
COVID, OTHER, NORMAL = small_xrays.CLASSES
RUNS = ("gan", "stylegan2", "stargan_v2")


@pytest.fixture(scope="module")
def toys(tmp_path_factory):
    """A folder with the data, the runs and the judge."""
    root = tmp_path_factory.mktemp("xrays")
    data = small_xrays.write_data(root)
    for system in RUNS:
        small_xrays.write_run(root, system, data)
    small_xrays.write_judge(root)
    return root


def study(root, output, runs=RUNS, networks=small_xrays.networks, say=str, **options):
    of_request = {name: options.pop(name) for name in list(options) if name in Request.__dataclass_fields__}
    request = Request([root / run for run in runs], **{"n": COUNT, **of_request})
    return synthesis_study.evaluate(request, output, Settings(**QUICK | options), networks=networks, say=say)


@pytest.fixture(scope="module")
def done(toys, tmp_path_factory):
    """All of it, once: the folder, what was found, what was said."""
    output, said = tmp_path_factory.mktemp("study") / "out", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "KEPT", KEPT)
        patch.setattr(memorisation, "COPIES", 8)  # planting more of them is most of the time
        found = study(toys, output, judge=toys / "judge", tstr=True, say=said.append)
    return output, found, said


@pytest.fixture(scope="module")
def written(done):
    return json.loads((done[0] / results.METRICS).read_text())


# -- the table --------------------------------------------------------------------------------------


def test_rows_follow_the_protocol_of_each_system(written):
    pairs = [f"{a} to {b}" for b in small_xrays.CLASSES for a in small_xrays.CLASSES if a != b]
    expected = {
        "gan": {"all classes": (36, COUNT)},
        "stylegan2": dict.fromkeys(small_xrays.CLASSES, (12, COUNT)),
        "stargan_v2": dict.fromkeys(pairs, (12, 40)) | dict.fromkeys(small_xrays.CLASSES, (12, 80)),
    }
    rows = {f"fid {run}, {row}": counts for run, own in expected.items() for row, counts in own.items()}
    assert {n: (e["n_real"], e["n_fake"]) for n, e in written.items() if n.startswith("fid ")} == rows
    for name in rows:
        for kind in ("fid", "kid", "diversity"):
            entry = written[name.replace("fid", kind, 1)]
            assert entry["standard_error"] > 0 and entry["interval"][0] <= entry["value"] <= entry["interval"][1]
        fid = written[name]
        assert fid["floor"] > 0 and fid["conditions"]["weights"] == "a" * 64 and "N=" in fid["fingerprint"]
        assert fid["fingerprint"].split("|")[0] == name


def test_a_target_is_the_mean_of_the_pairs_that_lead_to_it(written):
    for kind in ("fid", "kid", "diversity"):
        pairs = [written[f"{kind} stargan_v2, {source} to {NORMAL}"] for source in (COVID, OTHER)]
        target = written[f"{kind} stargan_v2, {NORMAL}"]
        assert target["value"] == pytest.approx(np.mean([pair["value"] for pair in pairs])) and target["pairs"] == 2
        errors = [pair["standard_error"] for pair in pairs]
        mean = np.hypot(*errors) / 2 if kind == "diversity" else np.mean(errors)
        assert target["standard_error"] == pytest.approx(mean)


def test_distances_are_those_of_the_same_images_in_folders(toys, written, tmp_path):
    """Images by ``sample`` and files of the training split, compared by ``evaluate --real --fake``."""
    commands.synthesise(commands.Request(str(toys / "gan"), str(tmp_path / "fake"), count=COUNT, batch=10))
    table = sources.open_tables(restore.open_run(toys / "gan")[1].data, "train")["records"]
    small_networks.write(tmp_path / "real", [table.images(i)["image"][..., 0] for i in range(len(table))])
    request = sets.Request(tmp_path / "fake", tmp_path / "real")
    settings = Settings(metrics=("fid",), **QUICK)
    found = sets.evaluate(request, tmp_path / "out", settings, networks=small_xrays.networks, say=str)
    for kind in ("fid", "kid"):
        assert written[f"{kind} gan, all classes"]["value"] == pytest.approx(found.numbers[kind]["value"], rel=1e-3)


def test_real_images_have_a_diversity_and_how_rows_differ_is_said(done, written):
    # Two images differ by noise alone: twice the variance of 31 levels, times the squared weight.
    expected = 2 * (31**2 - 1) / 12 / 127.5**2 * 4
    for name in small_xrays.CLASSES:
        assert written[f"diversity real, {name}"]["value"] == pytest.approx(expected, rel=0.1)
    output, found, said = done
    assert any(line.startswith("The rows differ in protocol") for line in said)
    assert found.warnings[0].startswith("The rows differ in protocol")
    page = (output / results.PAGE).read_text()
    for words in (
        "The table",
        "Translations, pair by pair",
        "2446.5",
        "Where a classifier looks",
        "Are training images",
    ):
        assert words in page, words


# -- pictures and the card --------------------------------------------------------------------------


def test_the_figure_has_a_band_of_every_class_and_says_that_it_is_synthetic(done):
    output, found, _ = done
    with Image.open(output / "figure.png") as picture:
        assert picture.info["mark"] == "synthetic"
        shown = np.asarray(picture)
    # Images of a class are grey as their class; the real column is the last one.
    band = shown.shape[0] // 3
    for place, grey in enumerate(small_xrays.CLASSES.values()):
        column = shown[place * band : (place + 1) * band, :, 0]
        assert np.sum(np.abs(column.astype(int) - grey) <= 15) > 2 * 100
    titles = [title for title, _ in found.cases[0].pictures]
    assert titles == ["GAN", "Med-StyleGAN2 as described", "Med-StyleGAN2 as published", "real"]
    assert [case.caption for case in found.cases if case.heading == "Drawn and real"] == [
        name for name in small_xrays.CLASSES for _ in range(2)
    ]


def test_the_model_card_names_data_settings_figures_and_limits(done, toys):
    card = (done[0] / "model_card.md").read_text()
    for words in (
        "## Med-StyleGAN2 as published: stargan_v2", "* Images, training: COVID-19 12, Non-COVID 12, Normal 12.",
        "lambda_ds=2.0", "Kermany set is CC BY 4.0", "Not for diagnosis", "| fid gan, all classes |",
        "* Images, val, shown to it: COVID-19 4", "`judge`, a ResNet for COVID-19, Non-COVID, Normal",
    ):  # fmt: skip
        assert words in card, words
    assert str(toys) not in card


# -- what the paper lacks ---------------------------------------------------------------------------


def test_energy_in_the_lungs_stands_beside_their_area(done, written):
    share = small_xrays.lungs().mean()
    rows = [f"real, {name}" for name in small_xrays.CLASSES] + ["gan, all classes"]
    rows += [f"{run}, {name}" for run in RUNS[1:] for name in small_xrays.CLASSES]
    for row in rows:
        assert 0 <= written[f"energy_mean {row}"]["value"] <= 1
        assert written[f"area_mean {row}"]["value"] == pytest.approx(share, abs=0.02)
        assert (f"energy_own {row}" in written) == row.startswith("real")
    assert written[f"energy_own real, {COVID}"]["n"] == 6 and written["energy_mean gan, all classes"]["n"] == KEPT
    assert (done[0] / "activation_maps.png").is_file()


def test_real_images_teach_a_classifier_what_untrained_generators_do_not(written):
    real = written["accuracy real images of stargan_v2"]
    assert real["value"] == 1 and real["n"] == 18 and real["trained_on"] == 36
    assert written["auroc real images of stargan_v2"]["value"] == 1
    for run in RUNS[1:]:
        drawn = written[f"accuracy images by {run}"]
        assert drawn["value"] < 0.7 and drawn["trained_on"] == 36 and drawn["interval"]
        assert drawn["conditions"]["split"] == "test"
    assert written["accuracy the judge, judge"]["trained_on"] is None


def test_audits_and_what_is_left_out(done, written):
    output, found, _ = done
    for run in RUNS:
        report = json.loads((output / f"memorisation_{run}.json").read_text())
        assert set(report["spaces"]) == {"pixels", "network"}
        assert written[f"memorisation_pixels {run}"]["value"] > 0
    assert "left out: gan: training a classifier: its images have no classes" in found.warnings


def test_without_outlines_maps_are_pictures_alone(toys, tmp_path):
    found = study(toys, tmp_path / "out", runs=("gan",), judge=toys / "judge", data=toys / "plain")
    assert "left out: energy in the lungs: the data of gan outline none (column lung_mask)" in found.warnings
    assert not any(name.startswith("energy") for name in found.numbers)
    assert (tmp_path / "out/activation_maps.png").is_file()


def test_without_a_judge_the_rest_is_there(toys, tmp_path):
    found = study(toys, tmp_path / "out", runs=("gan",))
    assert (
        "left out: class activation maps: --judge is missing, a run of stain_classifier on real images"
        in found.warnings
    )
    assert not any(name.startswith(("energy", "accuracy")) for name in found.numbers)
    assert not (tmp_path / "out/activation_maps.png").exists()
    assert read_image(tmp_path / "out/figure.png").ndim == 3


# -- refusals ---------------------------------------------------------------------------------------


def refusal(toys, tmp_path, **options):
    with pytest.raises(UserError) as error:
        study(toys, tmp_path / "out", networks=small_networks.never, **options)
    assert not (tmp_path / "out").exists()
    return str(error.value).replace(f"{toys}/", "")


def test_runs_and_options_that_do_not_fit_are_refused_before_a_network_is_asked_for(toys, tmp_path):
    said = refusal(toys, tmp_path, runs=("gan", "judge"))
    assert (
        said == "--workdirs judge: is a run of stain_classifier; this study is about gan, dcgan, stylegan2, stargan_v2"
    )
    assert refusal(toys, tmp_path, n=3) == (
        "--n=3: 3 images; fid needs at least 4 on each side; add images, or choose other measures with --metrics"
    )
    assert "training images of COVID-19: 12 images; kid needs at least 13" in refusal(
        toys, tmp_path, kid_subset_size=13
    )
    assert refusal(toys, tmp_path, n=0) == "--n=0: must be from 1 to 100,000,000"
    assert refusal(toys, tmp_path, tstr=True).startswith("--tstr: --judge is missing")
    assert refusal(toys, tmp_path, metrics=("fid",)).startswith("--metrics: this study always gives all its numbers")
    assert refusal(toys, tmp_path, runs=("gan", "gan")).startswith("--workdirs: two runs are called gan")
    assert "--workdirs gan: " in (said := refusal(toys, tmp_path, data=toys / "nowhere")) and "--data=DIR" in said


def test_classes_that_do_not_fit_are_refused(toys, tmp_path):
    data = restore.open_run(toys / "gan")[1].data.source
    small_xrays.write_run(tmp_path, "stylegan2", data, classes=(COVID, NORMAL), name="two")
    small_xrays.write_run(tmp_path, "stylegan2", data, classes=(COVID, "Healthy"), name="strange")
    small_xrays.write_judge(tmp_path, classes=(COVID, NORMAL))
    assert refusal(toys, tmp_path, runs=("stargan_v2", tmp_path / "two")) == (
        f"--workdirs {tmp_path / 'two'}: does not know the class 'Non-COVID' of stargan_v2; give runs of the "
        "same classes"
    )
    assert "has no image of the class 'Healthy'" in refusal(toys, tmp_path, runs=("gan", tmp_path / "strange"))
    said = refusal(toys, tmp_path, judge=tmp_path / "judge")
    assert said.endswith("the study is about COVID-19, Non-COVID, Normal; 'Non-COVID' is in one of them only")
    assert refusal(toys, tmp_path, judge=toys / "gan").endswith(
        "is a run of gan; class activation maps need one of stain_classifier"
    )


@pytest.mark.parametrize("channels", [1, 3])
def test_a_judge_sees_images_of_any_kind(channels):
    grey = np.full((6, 6, 1), 40, np.uint8)
    coloured = np.concatenate([grey, grey + 1, grey + 5], axis=-1)
    for image, mean in ((grey, 40), (grey.astype(np.uint16) * 257, 40), (coloured, 42)):
        seen = judge.shown(image, 3, channels)
        assert seen.shape == (3, 3, channels) and seen.dtype == np.uint8
        assert (seen.mean(-1) == mean).all()
