"""``python -m medgen_jax.counterfactual``: what it writes, what it keeps, what it refuses."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
import small_runs
import small_systems
from data import dicom_files
from made_up_xrays import xray

from medgen_jax import training
from medgen_jax.core.errors import UserError
from medgen_jax.counterfactuals import commands, files, latents, runs
from medgen_jax.counterfactuals.commands import Given
from medgen_jax.counterfactuals.made import take
from medgen_jax.data import counterfactual_folders as folders
from medgen_jax.data.images import read_image, write_image
from medgen_jax.engine.runtime import CompileCounter

WORDS = {
    "target": None, "source": "unknown", "view": "unknown", "scale": None, "steps": 4, "classifier_scale": None,
    "depth": "20", "method": "bdia", "clip": None, "interval": (), "ensemble": (),
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def _loaded_once():
    """Each run is loaded and traced once for all tests."""
    load, loaded = runs.sampler, {}

    def sampler(run, guide, which="last", guide_which="last", **how):
        key = (run.workdir, guide and guide.workdir, *sorted(how.items()))
        if key not in loaded:
            loaded[key] = load(run, guide, which, guide_which, **how)
        return loaded[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "sampler", sampler)
        yield


def opened(run, output, images=None, *, given=None, **words):
    where = Given(str(run), str(output), None if images is None else str(images), None if images else "val")
    return commands.opened(where._replace(**given or {}), commands.request_of(**{**WORDS, **words}))


def make(run, output, images=None, *, given=None, batch=2, overwrite=False, subtract_control=False, **words):
    """Results and what was said."""
    said = []
    maker, cases = opened(run, output, images, given=given, **words)
    done = files.write(
        maker, cases, output, batch=batch, overwrite=overwrite, subtract_control=subtract_control, say=said.append
    )
    return done, said


@pytest.fixture(scope="module")
def split(diffusion_run, tmp_path_factory):
    """Results on the val split."""
    return make(diffusion_run, tmp_path_factory.mktemp("out") / "split")[0]


# ---- what is written -------------------------------------------------------------------------------


def test_a_split_brings_all_that_is_known(split):
    found = folders.read(split.path)
    assert [e.label for e in found.entries] == ["Normal", "Lung Opacity"] * 2 + ["Normal"]
    assert [e.view for e in found.entries] == ["PA", "AP", None, "PA", "AP"]
    assert [e.patient for e in found.entries] == ["p00001", "p00001", "p00002", "p00002", "p00003"]
    assert {e.boxes for e in found.entries} == {None} and {e.depth for e in found.entries} == {20}
    assert found.settings["target"] == "Normal" and found.settings["scale"] == 3.0 and found.settings["run"] == "rsna"
    one = found.entries[1]
    assert one.source == {"label": None, "view": None} and one.target == {"label": "Normal", "view": None}
    arrays, numbers = found.arrays(one), one.numbers
    np.testing.assert_allclose(arrays.image, xray(1, True) / 127.5 - 1, atol=1e-6)
    assert numbers["mean_absolute_residual"] == pytest.approx(np.abs(arrays.residual).mean() / 2, rel=1e-5)
    assert numbers["mean_absolute_residual"] > 0.01 > 10 * numbers["mean_absolute_control"]
    assert numbers["round_trip_rms"] < 1e-4


def test_pictures_and_page_are_beside(split):
    names = {path.name for path in (split.path / "pictures").iterdir()}
    kinds = ("counterfactual", "control", "residual", "absolute", "overlay")
    assert names == {f"{e.name}_{kind}.png" for e in split.entries for kind in kinds}
    shown = read_image(split.path / "pictures" / f"{split.entries[0].name}_counterfactual.png")
    np.testing.assert_allclose(shown / 127.5 - 1, split.arrays(split.entries[0]).counterfactual, atol=0.005)
    page = (split.path / "index.html").read_text()
    assert "is not a finding" in page and "bdia" in page


def test_the_same_results_as_the_public_sampler(split, diffusion_run):
    from medgen_jax.sampling import load_counterfactual

    healthy = load_counterfactual(diffusion_run, method="bdia", steps=4)
    arrays = [split.arrays(entry) for entry in split.entries[:2]]
    images = np.stack([each.image for each in arrays])
    result = healthy(images, {"label": 2}, {"label": 0}, scale=3.0, depth=20)
    made = np.stack([each.counterfactual for each in arrays])
    np.testing.assert_allclose(np.clip(result.counterfactual, -1, 1), made, atol=1e-3)


def test_what_was_stopped_goes_on(split, diffusion_run, tmp_path):
    half = tmp_path / "half"
    shutil.copytree(split.path, half)
    content = json.loads((half / "scores.json").read_text())
    first, content["images"] = content["images"][0], content["images"][1:]
    (half / "scores.json").write_text(json.dumps(content))
    (half / "arrays" / f"{first['name']}.npz").unlink()
    done, said = make(diffusion_run, half)
    assert said == ["4 of 5 images were there already", "1 latents kept before were used; only decoding was needed"]
    made = {entry.name: entry for entry in done.entries}
    assert made[first["name"]].numbers == pytest.approx(first["numbers"], abs=1e-5)


def test_another_strength_needs_a_word_and_keeps_the_latents(split, diffusion_run, tmp_path):
    again = tmp_path / "again"
    shutil.copytree(split.path, again)
    with pytest.raises(UserError, match=r"again: holds counterfactuals made with scale = 3.0, not 0.0; choose another"):
        make(diffusion_run, again, scale=0.0)
    done, said = make(diffusion_run, again, scale=0.0, overwrite=True)
    assert said == ["5 latents kept before were used; only decoding was needed"]
    assert json.loads((again / files.ASIDE).read_text())["settings"]["scale"] == 3.0
    assert done.settings["scale"] == 0.0 and {e.scale for e in done.entries} == {0.0}
    weak, strong = (np.mean([e.numbers["mean_absolute_residual"] for e in one.entries]) for one in (done, split))
    assert weak < strong
    elsewhere, said = make(diffusion_run, tmp_path / "new", given={"latents": str(split.path)}, scale=0.0)
    assert said == ["5 latents kept before were used; only decoding was needed"]
    assert [e.numbers for e in elsewhere.entries] == [e.numbers for e in done.entries]


@pytest.mark.parametrize(("words", "reason"), [({"depth": "12"}, "depth"), ({"source": "Normal"}, "source")])
def test_latents_of_another_kind_are_made_anew_aloud(split, diffusion_run, tmp_path, words, reason):
    _, said = make(diffusion_run, tmp_path / "new", given={"latents": str(split.path), "count": 2}, **words)
    assert said == [f"2 latents kept before could not be used (made with another {reason}); encoded anew"]


def test_damaged_results_are_overwritten_when_asked_and_kept_aside(split, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(split.path, out)
    assert set(files.prepare(out, split.settings, overwrite=False)) == {entry.name for entry in split.entries}
    assert files.prepare(out, split.settings, overwrite=True) == {} and (out / "scores.json").is_file()
    (out / "arrays" / f"{split.entries[2].name}.npz").unlink()
    with pytest.raises(UserError, match="npz: missing; make it again with .* --overwrite"):
        files.prepare(out, split.settings, overwrite=False)
    assert files.prepare(out, split.settings, overwrite=True) == {}
    assert not (out / "scores.json").exists() and (out / files.ASIDE).is_file()


def test_a_changed_image_of_the_same_name_is_noticed(diffusion_run, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    for name in "ab":
        write_image(source / f"{name}.png", xray(1))
    make(diffusion_run, tmp_path / "out", source)
    write_image(source / "b.png", xray(5))
    done, said = make(diffusion_run, tmp_path / "out", source)
    assert said == [
        "1 of 2 images were there already",
        "1 latent kept before could not be used (made with another image); encoded anew",
    ]
    np.testing.assert_allclose(done.arrays("b").image, xray(5) / 127.5 - 1, atol=1e-6)


def test_damaged_latents_and_changed_images_are_made_anew(split, tmp_path):
    name = split.entries[0].name
    file = split.path / latents.FOLDER / f"{name}.npz"
    (tmp_path / latents.FOLDER).mkdir()
    (tmp_path / latents.FOLDER / "cut.npz").write_bytes(file.read_bytes()[:200])
    assert latents.load(tmp_path, "cut", {}) == (None, "damaged")
    assert latents.load(tmp_path, "none", {}) == (None, "")
    with np.load(file) as stored:
        key = json.loads(str(stored["about"]))["key"]
    found, _ = latents.load(split.path, name, key)
    assert len(found.states) == 2 and found.depth == 20
    assert latents.load(split.path, name, {**key, "image": "0"}) == (None, "made with another image")


def test_nothing_recompiles(split, diffusion_run, tmp_path):
    maker, cases = opened(diffusion_run, tmp_path / "first")
    files.write(maker, cases[:3], tmp_path / "first", batch=2)
    asked = dataclasses.replace(
        maker.asked, scale=1.5, target="Lung Opacity", source="Normal", depth=11, interval=(3, 9)
    )
    other = dataclasses.replace(maker, asked=asked, encoding={"other": 1}, folders=(tmp_path / "second",))
    with CompileCounter() as compiled:
        done = files.write(other, cases, tmp_path / "second", batch=2)
    assert compiled.count == 0 and len(done.entries) == 5
    assert maker.sampler.jitted["counterfactual"]._cache_size() == 1


def test_every_image_is_told_its_own_view(views_run, tmp_path):
    maker, cases = opened(views_run, tmp_path)
    condition = maker._condition([take(case) for case in cases[:4]], 6, "Lung Opacity")
    assert condition["label"].tolist() == [1] * 6 and condition["view"].tolist() == [0, 1, 2, 0, 0, 0]
    assert maker._condition([take(cases[1])], 1, "unknown")["label"].tolist() == [2]
    assert maker.settings["view"] == "unknown"
    with pytest.raises(UserError, match="--view: the data of --split say which view an image has"):
        opened(views_run, tmp_path, view="PA")


# ---- variants --------------------------------------------------------------------------------------


def test_a_view_and_a_classifier(views_run, classifier_run, tmp_path):
    guided = {"classifier": str(classifier_run), "count": 2}
    done, _ = make(views_run, tmp_path / "out", given=guided, classifier_scale=2.0)
    assert done.settings["classifier"] == "judge" and done.settings["scale"] == 0.0
    first, second = done.entries
    assert first.source == {"label": None, "view": "PA"} and first.target == {"label": "Normal", "view": "PA"}
    assert second.target["view"] is None
    assert 0 < first.numbers["probability_before"] < 1 and 0 < first.numbers["probability_after"] < 1
    assert "guiding classifier" in (done.path / "index.html").read_text()


def test_a_depth_for_each_image(diffusion_run, tmp_path):
    done, _ = make(diffusion_run, tmp_path / "out", depth="auto", given={"count": 2})
    assert all(1 <= e.depth <= 40 for e in done.entries) and done.settings["depth"] == "auto"
    again, said = make(diffusion_run, tmp_path / "again", depth="auto", given={"latents": str(done.path), "count": 2})
    assert said == ["2 latents kept before were used; only decoding was needed"]
    assert [e.depth for e in again.entries] == [e.depth for e in done.entries]


def test_an_ensemble_has_a_deviation_and_scales_may_be_chosen_for_it(diffusion_run, tmp_path):
    given = {"count": 2}
    done, _ = make(diffusion_run, tmp_path / "out", depth=None, ensemble=("10", "20"), scale="auto", given=given)
    name = done.entries[0].name
    deviation = folders.read_deviation(done.path, name)
    assert deviation.shape == (16, 16, 1) and deviation.max() > 0 and done.entries[0].depth is None
    assert (done.path / f"pictures/{name}_deviation.png").is_file()
    assert not (done.path / latents.FOLDER).exists()
    page = (done.path / "index.html").read_text()
    assert "Deviation: standard deviation of the residual over the depths" in page and "10, 20" in page
    for entry in done.entries:
        share = entry.numbers["forward_gap"] / entry.numbers["forward_gap_reference"]
        assert entry.scale == pytest.approx(3 * min(share, 1), rel=1e-5)


def test_a_cycle_gan_plugs_in(cycle_run, tmp_path):
    done, said = make(cycle_run, tmp_path / "out", given={"count": 4})
    assert said == ["4 of 4 images are of 16 x 16 pixels and were resized to the model's 24 x 24"]
    assert done.settings["method"] == "b2a" and (done.settings["source"], done.settings["target"]) == (
        "Lung Opacity", "Normal",
    )  # fmt: skip
    assert [e.label for e in done.entries] == ["Normal", "Lung Opacity", "Normal", "Lung Opacity"]
    arrays = done.arrays(done.entries[0])
    from medgen_jax.sampling import load_sampler

    there, back = (load_sampler(cycle_run, name) for name in ("b2a", "a2b"))
    made = there({"image": arrays.image[None]})
    np.testing.assert_allclose(arrays.counterfactual, made[0], atol=1e-5)
    np.testing.assert_allclose(arrays.control, back({"image": made})[0], atol=1e-5)


# ---- files -----------------------------------------------------------------------------------------


def test_png_tiff_and_dicom(diffusion_run, tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    write_image(source / "a.png", xray(1, True))
    write_image(source / "b.tif", xray(1, True, dtype=np.uint16))
    dicom_files.write(source / "doe_jane.dcm", xray(1, True)[..., 0], PatientName="Doe^Jane")
    write_image(source / "large.png", xray(2, size=32))
    done, said = make(diffusion_run, tmp_path / "out", source)
    assert said == ["1 of 4 images is of 32 x 32 pixels and was resized to the model's 16 x 16"]
    arrays = {e.name: done.arrays(e) for e in done.entries}
    for name in ("b", "doe_jane"):
        np.testing.assert_allclose(arrays[name].image, arrays["a"].image, atol=1e-6)
        np.testing.assert_allclose(arrays[name].counterfactual, arrays["a"].counterfactual, atol=1e-4)
    assert {e.label for e in done.entries} == {None} and arrays["large"].image.shape == (16, 16, 1)
    page = (done.path / "index.html").read_text()
    assert "doe_jane" not in page and "DICOM image 3" in page and "resized" in page


def test_constant_images_are_fine(diffusion_run, tmp_path):
    for name, level in (("black", 0), ("white", 255)):
        write_image(tmp_path / f"{name}.png", np.full((16, 16, 1), level, np.uint8))
    done, _ = make(diffusion_run, tmp_path / "out", tmp_path, subtract_control=True)
    assert len(done.entries) == 2 and done.settings["subtract_control"]
    assert np.isfinite([list(entry.numbers.values()) for entry in done.entries]).all()


def test_boxes_come_along(diffusion_run, tmp_path):
    from medgen_jax.core.config import DataConfig
    from medgen_jax.counterfactuals import inputs
    from medgen_jax.data.listing import Listing
    from medgen_jax.data.tables import FileTable

    write_image(tmp_path / "a.png", xray(1, size=32))
    wanted = inputs.Wanted("rsna", 16, 1, DataConfig(load_size=24, crop_size=16))

    def boxes(*box):
        table = FileTable(Listing({"image": (tmp_path / "a.png",)}, boxes={"opacity": ((box,),)}))
        return next(inputs._cases(table, "image", [0], [None], wanted)).boxes

    assert boxes(8.0, 16.0, 8.0, 8.0) == ((2.0, 8.0, 6.0, 6.0),)  # 32 -> 24 pixels, less 4 on each side
    assert boxes(0.0, 0.0, 4.0, 4.0) == ()
    with pytest.raises(UserError, match=r"a.png: the box \(x 30, y 0, 4 wide, 4 high\) reaches out of the image"):
        boxes(30.0, 0.0, 4.0, 4.0)


# ---- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"target": "Pneumonia"}, "--target Pneumonia: is no class of the run; there are: Normal, Lung Opacity"),
        ({"source": "sick"}, "--source sick: is no class of the run; there are: Normal, Lung Opacity"),
        ({"view": "PA"}, "--view PA: rsna is told no view"),
        ({"depth": "41"}, "--depth 41: expected 1 to 40, the steps of the run's process"),
        ({"depth": "0"}, "--depth 0: expected 1 to 40"),
        ({"depth": "deep"}, "--depth deep: expected a whole number, or auto"),
        ({"steps": 41}, "--steps 41: expected 1 to 40"),
        ({"depth": None, "ensemble": ("10", "50")}, "--ensemble 50: expected 1 to 40"),
        ({"depth": None, "ensemble": ("10",)}, "--ensemble: needs two depths or more"),
        ({"ensemble": ("10", "20")}, "--ensemble takes the place of --depth"),
        ({"interval": ("5",)}, "--interval 5: expected START,STOP"),
        ({"interval": ("9", "5")}, "--interval 9,5: expected START,STOP with START < STOP"),
        ({"method": "exact"}, "--method exact: expected one of source, destination, fixed_point, edict, bdia"),
        ({"method": "edict", "clip": True}, "--clip: edict inverts affine steps only"),
        ({"classifier_scale": 1.0}, "--classifier_scale: needs --classifier"),
        ({"scale": -1.0}, "--scale -1: must be 0"),
    ],
)
def test_what_the_run_does_not_know_is_refused(diffusion_run, tmp_path, words, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace("|", r"\|")):
        opened(diffusion_run, tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


def edited(run, folder, **changes):
    """The run with other fields in its configuration; it has no weights, for these are not to be read."""
    folder.mkdir()
    stored = json.loads((run / "config.json").read_text())
    for name, value in changes.items():
        *path, last = name.split("__")
        part = stored["config"]
        for step in path:
            part = part[step]
        part[last] = value
    (folder / "config.json").write_text(json.dumps(stored))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process__steps": 50}, "judge: was trained on the process linear of 50 steps, rsna on linear of 40 steps"),
        (
            {"data__crop_size": 32, "network__attention": [16]},
            "judge: takes 32 x 32 pixels of 1 channel, rsna 16 x 16 pixels",
        ),
        ({"network__channels": 3}, "judge: takes 16 x 16 pixels of 3 channels, rsna 16 x 16 pixels of 1 channel"),
        ({"data__classes": ["Lung Opacity", "Normal"]}, "knows the classes Lung Opacity, Normal, rsna Normal, Lung Op"),
    ],
)
def test_a_classifier_that_does_not_fit(diffusion_run, classifier_run, tmp_path, changes, message):
    judge = edited(classifier_run, tmp_path / "judge", **changes)
    with pytest.raises(UserError, match=message):
        opened(diffusion_run, tmp_path / "out", given={"classifier": str(judge)}, classifier_scale=1.0)


def test_runs_of_other_systems(diffusion_run, classifier_run, cycle_run, tmp_path):
    with pytest.raises(
        UserError, match="judge: is a run of noise_classifier; counterfactuals need one of diffusion or"
    ):
        opened(classifier_run, tmp_path)
    with pytest.raises(
        UserError, match="--classifier .*rsna: is a run of diffusion; counterfactuals need one of noise"
    ):
        opened(diffusion_run, tmp_path, given={"classifier": str(diffusion_run)}, classifier_scale=1.0)
    with pytest.raises(UserError, match="--classifier_scale is missing"):
        opened(diffusion_run, tmp_path, given={"classifier": str(classifier_run)})
    with pytest.raises(UserError, match="--scale: is for runs of diffusion; cycle is one of cyclegan"):
        opened(cycle_run, tmp_path, given={"only_diffusion": ("scale",)})
    with pytest.raises(UserError, match="--direction: is for runs of cyclegan"):
        opened(diffusion_run, tmp_path, given={"direction": "a2b"})


def test_a_run_that_never_met_the_unknown(diffusion_run, tmp_path):
    run = edited(diffusion_run, tmp_path / "told", condition__drop=0.0)
    for words, flag in (({"scale": 3.0}, "--scale"), ({}, "--source=unknown")):
        with pytest.raises(UserError, match=f"^{flag}: told was trained with config.condition.drop = 0"):
            opened(run, tmp_path / "out", **words)
    shutil.copytree(diffusion_run / "checkpoints", run / "checkpoints")
    maker, _ = opened(run, tmp_path / "out", source="Lung Opacity")
    assert maker.settings["scale"] is None and maker.sampler.recipe.null is None


def test_a_target_must_be_said_where_no_class_is_called_normal(diffusion_run, tmp_path):
    run = edited(diffusion_run, tmp_path / "run", data__classes=["A", "B"])
    with pytest.raises(UserError, match="--target is missing: the class to decode as, one of A, B"):
        opened(run, tmp_path / "out")


def test_images_that_do_not_fit(diffusion_run, tmp_path):
    write_image(tmp_path / "red.png", np.zeros((16, 16, 3), np.uint8))
    dicom_files.write(tmp_path / "red.dcm", np.zeros((16, 16, 3), np.uint8), photometric="RGB")
    with pytest.raises(UserError, match="red.png: is a colour picture of 3 channels, rsna takes grey ones; convert it"):
        opened(diffusion_run, tmp_path / "out", tmp_path / "red.png")
    with pytest.raises(UserError, match="red.dcm: is an RGB DICOM file of 3 channels, rsna takes grey ones"):
        opened(diffusion_run, tmp_path / "out", tmp_path / "red.dcm")
    with pytest.raises(UserError, match="--input .*none: no such file or folder"):
        opened(diffusion_run, tmp_path / "out", tmp_path / "none")
    with pytest.raises(UserError, match="--split test: the run's data have no such split; there are: train, val"):
        opened(diffusion_run, tmp_path / "out", given={"split": "test"})
    with pytest.raises(UserError, match="--latents .*none: no such folder"):
        opened(diffusion_run, tmp_path / "out", given={"latents": str(tmp_path / "none")})


@pytest.mark.slow
def test_a_run_that_was_trained(xrays, tmp_path):
    config = small_systems.CONFIGS["diffusion"]()
    config.data.source, config.data.classes = str(xrays / "data.csv"), ("Normal", "Lung Opacity")
    config.train.batch_size, config.train.steps, config.data.views = 2, 2, ("PA", "AP")
    training.train(config, tmp_path / "run", devices=jax.devices()[:1], console=small_runs.silent())
    done, _ = make(tmp_path / "run", tmp_path / "out", depth="auto", method="fixed_point")
    assert len(done.entries) == 5 and max(e.numbers["round_trip_rms"] for e in done.entries) < 0.01
    assert done.entries[1].target == {"label": "Normal", "view": "AP"}


def test_the_command(diffusion_run, tmp_path):
    write_image(tmp_path / "a.png", xray(1, True))

    def command(*words):
        line = [sys.executable, "-m", "medgen_jax.counterfactual", *map(str, words)]
        environment = small_runs.child_environment()
        return subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)

    wrong = command("--workdir", diffusion_run, "--output", "out")
    assert wrong.returncode == 2 and wrong.stderr.startswith("error: give --input, an image or a folder, or --split")
    done = command(
        "--workdir", diffusion_run, "--input", "a.png", "--output", "out", "--steps=4", "--depth=20", "--method=bdia",
        "--interval=2,20",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    summary, report = done.stdout.splitlines()
    assert summary.startswith("1 image in out: mean absolute residual 0.") and report == "report: out/index.html"
    assert folders.read(tmp_path / "out").settings["interval"] == [2, 20]
