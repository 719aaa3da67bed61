"""What a sampler takes beside images: refused where it is missing, checked on the host, given once for all images."""

from __future__ import annotations

from types import SimpleNamespace

import class_system
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import untrained_runs
from PIL import Image

from medgen_jax import systems
from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field
from medgen_jax.sampler_inputs import complete, require_images_alone, with_constants
from medgen_jax.sampling import LoadedSampler, export_sampler, load_exported, load_sampler
from medgen_jax.translation.files import translate_run

IMAGE, LABEL = Field((8, 8, 1)), Field((), "int32")


def sampler(inputs, classes=("dim", "lit")):
    """One that returns, as an image of one pixel, the sum of its inputs beside the image."""

    def function(variables, given, key):
        others = [given[name].astype(jnp.float32) for name in inputs if name != "image"]
        return sum(others, jnp.zeros(given["image"].shape[0]))[:, None, None, None]

    function = complete(function, inputs)
    return LoadedSampler(
        "paint", "toy", SimpleNamespace(data=DataConfig(classes=classes)), {}, function, jax.jit(function), inputs,
        jax.jit(complete(lambda variables, given, key: given["label"], inputs)),
    )  # fmt: skip


def images(count=2):
    return np.zeros((count, 8, 8, 1), np.uint8)


TOLD = sampler({"image": IMAGE, "label": LABEL})


@pytest.mark.parametrize(
    "label", [[0, 1], (0, 1), np.array([0, 1]), np.array([0, 1], np.uint8), jnp.array([0, 1])], ids=str
)
def test_classes_may_be_lists_and_arrays(label):
    assert np.asarray(TOLD({"image": images(), "label": label})).ravel().tolist() == [0, 1]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        ([0, 2], "'label' holds 2; the classes are 0 to 1: dim, lit"),
        ([-1, 0], "'label' holds -1; the classes"),
        (
            ["dim", "lit"],
            r"'label' is <U3 \(2,\); this sampler takes int32 \(any number\): .* place of its class in dim",
        ),
        ([0.0, 1.0], r"'label' is float64 \(2,\); this sampler takes int32"),
        (1, r"'label' is int64 \(\); this sampler takes int32"),
        ([[0], [1]], r"'label' is int64 \(2, 1\); this sampler takes"),
        ([0, 1, 1], "different numbers of records: {'image': 2, 'label': 3}"),
    ],
)
def test_wrong_classes_are_refused(label, message):
    with pytest.raises(UserError, match=message):
        TOLD({"image": images(), "label": label})


def test_an_input_that_may_be_unknown_takes_minus_one():
    may = sampler({"image": IMAGE, "label": Field((), "int32", unknown=True)})
    assert np.asarray(may({"image": images(), "label": [-1, 1]})).ravel().tolist() == [-1, 1]
    assert np.asarray(with_constants(may, {"label": "unknown"})({"image": images()})).ravel().tolist() == [-1, -1]
    with pytest.raises(UserError, match="'label' holds -2; the classes are 0 to 1: dim, lit; -1 is unknown"):
        may({"image": images(), "label": [-2, 1]})
    with pytest.raises(UserError, match="--set label=unknown: is no class"):
        with_constants(TOLD, {"label": "unknown"})


def test_values_on_a_device_are_not_waited_for_and_unknown_classes_not_checked():
    assert float(TOLD({"image": images(1), "label": jnp.array([7])})[0, 0, 0, 0]) == 7
    assert float(sampler(TOLD.inputs, ())({"image": images(1), "label": [7]})[0, 0, 0, 0]) == 7
    strong = sampler({"image": IMAGE, "strength": Field((), "float32")})
    assert float(strong({"image": images(1), "strength": [2]})[0, 0, 0, 0]) == 2


def test_images_that_are_lists_are_refused():
    with pytest.raises(UserError, match="'image' is a list; make an array of it"):
        TOLD({"image": images(1).tolist(), "label": [0]})


@pytest.mark.parametrize("part", ["function", "jitted", "pool"])
def test_nothing_is_traced_while_an_input_is_missing(part):
    with pytest.raises(UserError, match=r"inputs are \['image'\]; this sampler also needs \['label'\]"):
        getattr(TOLD, part)({}, {"image": images()}, jax.random.key(0))


@pytest.mark.parametrize(("text", "value"), [("lit", 1), ("0", 0), ("1", 1)])
def test_a_class_for_all_images(text, value):
    bound = with_constants(TOLD, {"label": text})
    assert np.asarray(bound({"image": images(3)})).ravel().tolist() == [value] * 3
    assert bound.pool({}, {"image": images(3)}, jax.random.key(0)).tolist() == [value] * 3
    require_images_alone(bound)


def test_a_sampler_of_images_alone_stays_as_it_is():
    alone = sampler({"image": IMAGE})
    assert with_constants(alone, {}) is alone


@pytest.mark.parametrize(
    ("inputs", "texts", "message"),
    [
        ({"label": LABEL}, {}, r"it also needs label; add --set label=CLASS \(the classes are dim, lit\)"),
        ({"label": LABEL}, {"label": "lid"}, r"--set label=lid: is no class \(the classes are dim, lit\)"),
        ({"label": LABEL}, {"label": "2"}, "--set label=2: is no class"),
        ({"label": LABEL}, {"lable": "lit"}, "--set lable: sampler 'paint' takes label beside images"),
        ({}, {"label": "lit"}, "--set label: sampler 'paint' takes nothing beside images"),
        ({"depth": LABEL}, {"depth": "deep"}, "--set depth=deep: is no whole number"),
        ({"depth": LABEL}, {"depth": "1e3"}, "--set depth=1e3: is no whole number"),
        ({"depth": LABEL}, {"depth": "99999999999"}, "is no whole number"),
        ({"scale": Field((), "float32")}, {"scale": "nan"}, "--set scale=nan: is no number"),
        ({"style": Field((64,), "float32")}, {"style": "1"}, r"style, an array of shape \(64,\) .* from Python"),
    ],
)
def test_what_cannot_be_fixed_is_named(inputs, texts, message):
    with pytest.raises(UserError, match=message):
        with_constants(sampler({"image": IMAGE, **inputs}), texts)


# -- of a run ---------------------------------------------------------------------------------------


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setitem(systems.REGISTRY, class_system.NAME, class_system.__name__)
    config = class_system.Config()
    config.data.classes, config.data.crop_size, config.train.steps = ("dim", "lit"), 8, 4
    return untrained_runs.write(tmp_path / "run", config)


def test_translate_tells_the_sampler_the_class(run, tmp_path):
    Image.fromarray(np.full((8, 8), 100, np.uint8)).save(tmp_path / "one.png")
    Image.fromarray(np.full((40, 40), 100, np.uint8)).save(tmp_path / "large.png")
    for name in ("one", "large"):
        source, target = tmp_path / f"{name}.png", tmp_path / f"out-{name}"
        with pytest.raises(UserError, match="'brighten' takes more than an image: it also needs label; add --set"):
            translate_run(run, source, target)
        assert not target.exists()
        translate_run(run, source, target, constants={"label": "lit"})
        made = np.asarray(Image.open(target / source.name))
        assert abs(made.astype(int) - (100 + 0.1 * 127.5)).max() <= 1
        assert "lit" in (target / "report/index.html").read_text()


def test_an_export_knows_the_classes(run, tmp_path):
    exported = load_exported(export_sampler(run, tmp_path / "exported"))
    given = {"image": images(), "label": [0, 1]}
    np.testing.assert_allclose(exported(given), load_sampler(run)(given), atol=1e-6)
    for one in (exported, load_sampler(run)):
        with pytest.raises(UserError, match="'label' holds 2; the classes are 0 to 1: dim, lit"):
            one({"image": images(), "label": [0, 2]})
    with pytest.raises(UserError, match=r"inputs hold \['key'\]"):
        exported({**given, "key": 0})
