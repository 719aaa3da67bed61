"""A classifier through the front door: class folders, the classes of a run, the layer's start, resuming."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
import small_runs
import small_systems
from PIL import Image

from medgen_jax import training
from medgen_jax.core import trees
from medgen_jax.core.errors import UserError

COLOURS = {"ADI": (220, 200, 215), "STR": (200, 110, 170), "TUM": (120, 70, 160)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """{train,val}/CLASS/n.png, 40 x 40 RGB."""
    root, rng = tmp_path_factory.mktemp("classes"), np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                image = np.clip(np.array(colour) + rng.integers(-40, 40, (40, 40, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(image).save(root / split / name / f"{i}.png")
    return root


def config(source, steps=4, **data):
    config = small_systems.CONFIGS["stain_classifier"]()
    config.data.source, config.train.steps = str(source), steps
    config.train.log_every = config.train.save_every = 2
    config.optim.cosine_epochs = 1.0  # else the rate would depend on the length of the run
    for name, value in data.items():
        setattr(config.data, name, value)
    return config


def train(config, workdir):
    return training.train(config, workdir, devices=jax.devices()[:1], console=small_runs.silent())


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run") / "r"
    return workdir, train(config(folder, classes=("TUM", "ADI")), workdir)


def test_a_run_remembers_its_classes_and_measures_them(finished):
    workdir, result = finished
    stored = json.loads((workdir / "config.json").read_text())["config"]
    assert stored["data"]["classes"] == ["TUM", "ADI"] and stored["num_train"] == 8
    assert {"accuracy", "balanced_accuracy", "f1", "auroc", "nll"} <= set(result.numbers)
    assert result.state.params["net"]["linear"]["kernel"].shape[-1] == 2
    assert list((workdir / "samples").iterdir())  # tiles before and behind the layer


def test_the_layer_starts_from_the_training_tiles(finished, folder):
    _, result = finished
    chosen = [np.asarray(Image.open(folder / "train" / n / f"{i}.png")) for n in ("TUM", "ADI") for i in range(4)]
    mean = np.mean(chosen, axis=(0, 1, 2)) / 255
    np.testing.assert_allclose(result.state.mutable["norm"]["reference"]["rgb"]["mean"], mean, atol=1e-4)


def test_all_classes_are_written_down_where_none_are_named(folder):
    system, resolved, _ = training.prepare(config(folder))
    assert resolved.data.classes == ("ADI", "STR", "TUM") and system.classes == 3


def test_a_resumed_run_is_the_same_run(finished, folder, tmp_path):
    _, whole = finished
    train(config(folder, steps=2, classes=("TUM", "ADI")), tmp_path / "r")
    resumed = train(config(folder, classes=("TUM", "ADI")), tmp_path / "r")
    assert resumed.step == whole.step == 4
    for part in ("params", "mutable", "opt"):
        one, other = (trees.digest(getattr(result.state, part)) for result in (resumed, whole))
        assert one == other, part


def test_refusals(folder, tmp_path):
    with pytest.raises(UserError, match=r"config\.data\.classes: no class 'XXX'; there are ADI, STR, TUM"):
        train(config(folder, classes=("TUM", "XXX")), tmp_path / "a")
    (tmp_path / "flat" / "train").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "flat" / "train" / "1.png")
    with pytest.raises(UserError, match=r"stream 'records' needs labels 'label'"):
        train(config(tmp_path / "flat", layout=training.configs.Layout.IMAGES), tmp_path / "b")
    other = tmp_path / "sizes" / "train"
    for name, side in (("x", 40), ("y", 48)):
        (other / name).mkdir(parents=True)
        Image.new("RGB", (side, side)).save(other / name / "1.png")
    with pytest.raises(UserError, match=r"training images of different sizes, .* set config\.data\.load_size"):
        train(config(tmp_path / "sizes"), tmp_path / "c")
