"""From runs to folders of images: equal to the sampler's, gone on with, described, marked; and what is refused."""

from __future__ import annotations

import json

import jax
import numpy as np
import painter
import pytest
import small_systems
import untrained_runs
from PIL import Image

from medgen_jax import systems
from medgen_jax.core import config as configs
from medgen_jax.core import manifest
from medgen_jax.core.errors import UserError
from medgen_jax.data.images import read_image, write_image
from medgen_jax.engine import restore, rundir
from medgen_jax.ops.scale import from_unit
from medgen_jax.sampling import load_sampler
from medgen_jax.synthesis import commands
from medgen_jax.synthesis.commands import Request


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("synthesis")


@pytest.fixture(scope="module")
def toys():
    """The toy system, registered."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(systems.REGISTRY, painter.NAME, painter.__name__)
        yield


@pytest.fixture(scope="module")
def run(folder):
    """``run(name, **data)``: an untrained run of a system of `small_systems`, made once."""

    def of(name, **data):
        if not (folder / name).is_dir():
            config = small_systems.CONFIGS[name]()
            for field, value in data.items():
                setattr(config.data, field, value)
            untrained_runs.write(folder / name, config)
        return folder / name

    return of


@pytest.fixture(scope="module")
def described(folder):
    """``described(name)``: the directory of a run that has no checkpoint, which is enough to be refused."""

    def of(name):
        config = small_systems.CONFIGS[name]()
        (folder / name).mkdir(exist_ok=True)
        rundir.write_config(folder / name, systems.name_of(config), configs.to_dict(config), {})
        return folder / name

    return of


@pytest.fixture(scope="module")
def noise(folder, toys):
    return untrained_runs.write(folder / "noise", painter.configured())


@pytest.fixture(scope="module")
def of_images(folder, toys):
    return untrained_runs.write(folder / "of_images", painter.configured(kind="images"))


def sample(workdir, output, count=None, **options):
    said = []
    asked = Request(str(workdir), str(output), count, **options)
    return commands.synthesise(asked, said.append, devices=jax.devices()[:1]), said


def greys(output, pattern="*.png"):
    """The grey of the first pixel of every image, by name."""
    return {str(p.relative_to(output)): int(read_image(p)[0, 0, 0]) for p in sorted(output.glob(pattern))}


def blocks(sheet, grey):
    """Left edges of all 8 x 8 pixels of one grey; letters hold none."""
    windows = np.lib.stride_tricks.sliding_window_view(sheet[..., 0], (8, 8))
    return np.argwhere((windows == grey).all(axis=(2, 3)))[:, 1]


def level(grey, white=255):
    return round((np.clip(grey, -1, 1) + 1) * white / 2)


# -- systems that draw from noise -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gan", "dcgan"])
def test_files_hold_what_the_loaded_sampler_draws(run, tmp_path, name):
    done, _ = sample(run(name), tmp_path / "out", 10, seed=3, batch=4)
    assert (done.images, done.before, done.speed.images) == (10, 0, 10)
    expected = np.asarray(from_unit(load_sampler(run(name))({"number": np.arange(10)}, key=3)))
    found = np.stack([read_image(tmp_path / "out" / f"{i:08d}.png") for i in range(10)])
    assert np.abs(found.astype(int) - expected).max() <= 1 and (found == expected).mean() > 0.99
    assert len(np.unique(found.reshape(10, -1), axis=0)) == 10


def test_an_interrupted_call_is_gone_on_with(run, tmp_path):
    output = tmp_path / "out"
    sample(run("gan"), output, 6, batch=4)
    files = [output / f"{number:08d}.png" for number in range(6)]
    written = [(read_image(file), file.stat().st_mtime_ns) for file in files]
    for number in (1, 4, 5):
        files[number].unlink()
    done, _ = sample(run("gan"), output, 8, batch=4)
    assert (done.images, done.before, done.speed.images) == (8, 3, 5)
    for number, (pixels, time) in enumerate(written):
        assert np.abs(read_image(files[number]).astype(int) - pixels).max() <= 1
        assert (files[number].stat().st_mtime_ns == time) == (number in (0, 2, 3))
    assert json.loads((output / "samples.json").read_text())["images"] == 8
    done, _ = sample(run("gan"), output, 5)
    assert done.speed is None and done.before == 5


def test_a_folder_and_its_images_say_what_they_are(run, tmp_path):
    sample(run("gan"), tmp_path / "out", 2, seed=5)
    about = json.loads((tmp_path / "out/samples.json").read_text())
    digest = manifest.file_digest(restore.intact_step(run("gan")) / manifest.NAME)
    settings = about["settings"]
    assert (about["images"], about["notice"]) == (2, "synthetic image, not a patient")
    assert (settings["system"], settings["sampler"], settings["checkpoint"]) == ("gan", "sample", digest)
    image = Image.open(tmp_path / "out/00000001.png")
    assert image.text == {
        "Software": f"medgen_jax {settings['version']}", "Run": "gan", "Checkpoint": f"step 0, sha256 {digest}",
        "Seed": "5", "Number": "1", "mark": "synthetic", "Disclaimer": "synthetic image, not a patient",
    }  # fmt: skip


def test_diffusion_draws_the_images_of_its_loaded_sampler(run, tmp_path):
    workdir = run("diffusion", classes=("normal", "sick"))
    sample(workdir, tmp_path / "out", 3, label="sick", values={"scale": "1.5"}, bits=16, batch=3)
    # In a batch of another size, in another order.
    inputs = {"number": [2, 0], "label": [1, 1], "scale": [1.5, 1.5]}
    for number, expected in zip((2, 0), np.asarray(load_sampler(workdir)(inputs)), strict=True):
        found = read_image(tmp_path / "out" / f"{number:08d}.png")
        np.testing.assert_allclose(found / 32767.5 - 1, expected, atol=1e-3)
    settings = json.loads((tmp_path / "out/samples.json").read_text())["settings"]
    assert settings["values"] == {"scale": 1.5} and settings["classes"] == ["sick"] and settings["bits"] == 16
    text = Image.open(tmp_path / "out/00000002.png").text
    assert (text["Class"], text["Settings"]) == ("sick", "scale=1.5")


# -- classes and values -----------------------------------------------------------------------------


def test_all_classes_take_turns_in_folders_of_their_own(noise, tmp_path):
    sample(noise, tmp_path, 5, label="all")
    assert greys(tmp_path, "*/*.png") == {
        "dim/00000000.png": level(0), "lit/00000001.png": level(0.01 - 0.5), "dim/00000002.png": level(0.02),
        "lit/00000003.png": level(0.03 - 0.5), "dim/00000004.png": level(0.04),
    }  # fmt: skip
    assert Image.open(tmp_path / "lit/00000003.png").text["Class"] == "lit"
    with pytest.raises(UserError, match=r"made with classes = .*not \[\"lit\"\]; choose another"):
        sample(noise, tmp_path, 5, label="lit")


def test_truncation_reaches_the_sampler(noise, tmp_path):
    sample(noise, tmp_path, 41, label="unknown", values={"truncation": "0.7"}, bits=16)
    assert abs(greys(tmp_path)["00000040.png"] - level(0.4 * 0.7 + 0.5, 65535)) <= 1
    with pytest.raises(UserError, match=r"values = {\"truncation\": 0.7}, not {\"truncation\": 1.0}"):
        sample(noise, tmp_path, 41, label="unknown", bits=16)
    sample(noise, tmp_path, 2, label="unknown", overwrite=True)
    assert greys(tmp_path) == {"00000000.png": level(0.5), "00000001.png": level(0.51)}


def test_an_image_that_is_not_finite_stops_the_call(folder, toys, tmp_path):
    workdir = untrained_runs.write(folder / "broken", painter.configured(broken=3))
    with pytest.raises(UserError, match="draws images that are not finite"):
        sample(workdir, tmp_path, 6, label="dim", batch=2)
    assert {"00000000.png", "00000001.png"} <= set(greys(tmp_path)) and "00000003.png" not in greys(tmp_path)


def test_four_devices_draw_what_one_draws(noise, tmp_path):
    sample(noise, tmp_path / "one", 7, label="all")
    asked = Request(str(noise), str(tmp_path / "four"), 7, label="all")
    commands.synthesise(asked, devices=jax.devices()[:4])
    assert greys(tmp_path / "one", "*/*.png") == greys(tmp_path / "four", "*/*.png")


# -- images of images -------------------------------------------------------------------------------


@pytest.fixture
def sources(tmp_path):
    """Two grey images, one of them of another size."""
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in/a.png", np.full((8, 8, 1), 100, np.uint8))
    write_image(tmp_path / "in/b.png", np.full((16, 16, 1), 200, np.uint8))
    return tmp_path / "in"


def test_of_every_source_come_several_images(of_images, sources, tmp_path):
    done, _ = sample(of_images, tmp_path / "out", label="lit", source=str(sources), per_input=3, batch=4)
    assert done.images == 6

    def expected(grey, number):
        return level((grey / 127.5 - 1) / 2 + 0.01 * number - 0.1)

    assert greys(tmp_path / "out") == {
        f"{name}_00{i}.png": expected(grey, 3 * place + i)
        for place, (name, grey) in enumerate((("a", 100), ("b", 200)))
        for i in range(3)
    }
    write_image(sources / "b.png", np.full((16, 16, 1), 201, np.uint8))
    with pytest.raises(UserError, match=r"made with sources = \w{12}\.\.\., not \w{12}\.\.\."):
        sample(of_images, tmp_path / "out", label="lit", source=str(sources), per_input=3)


def test_a_sheet_of_sources(of_images, sources, tmp_path):
    done, _ = sample(of_images, tmp_path / "out", label="all", source=str(sources), per_input=2, sheet=True)
    assert done.sheet == tmp_path / "out/pictures/sheet.png"
    assert len(greys(tmp_path / "out", "lit/*.png")) == 4
    sheet = read_image(done.sheet)
    for path in (tmp_path / "out").glob("*/*_00?.png"):
        assert len(blocks(sheet, int(read_image(path)[0, 0, 0]))), path


# -- pictures ---------------------------------------------------------------------------------------


def test_a_sheet_shows_real_images_where_the_data_are_at_hand(folder, toys, tmp_path):
    for name, grey in (("dim", 10), ("lit", 240)):
        for i in range(3):
            (tmp_path / f"data/train/{name}").mkdir(parents=True, exist_ok=True)
            write_image(tmp_path / f"data/train/{name}/{i}.png", np.full((8, 8, 1), grey + i, np.uint8))
    config = painter.configured()
    config.data.source = str(tmp_path / "data")
    workdir = untrained_runs.write(tmp_path / "run", config)
    done, said = sample(workdir, tmp_path / "out", 6, label="all", sheet=True)
    assert said == []
    sheet = read_image(done.sheet)
    middle = sheet.shape[1] // 2
    for grey in (*range(10, 13), *range(240, 243)):
        assert len(blocks(sheet, grey)) == 1 and blocks(sheet, grey)[0] > middle, grey
    assert "not a patient" in Image.open(done.sheet).text["Disclaimer"]
    one, _ = sample(workdir, tmp_path / "one", 3, label="lit", sheet=True)
    sheet = read_image(one.sheet)
    assert len(blocks(sheet, 241)) == 1 and not len(blocks(sheet, 11))


def test_a_sheet_without_data_says_so(run, tmp_path):
    done, said = sample(run("gan"), tmp_path / "out", 3, sheet=True)
    assert done.sheet.is_file() and len(said) == 1
    assert said[0].startswith("the sheet shows no real images: config.data.source is empty")
    assert sorted(greys(tmp_path / "out")) == [f"0000000{i}.png" for i in range(3)]


def test_a_walk_passes_the_images_of_its_stops(run, tmp_path):
    done, _ = sample(run("gan"), tmp_path / "out", 6, walk=str(tmp_path / "walk.gif"), frames=12, seed=1)
    image = Image.open(done.walk)
    assert image.n_frames == 12 and image.size == (16, 16)
    stills = [read_image(tmp_path / "out" / f"0000000{stop}.png")[..., 0].astype(int) for stop in range(6)]
    for stop, still in enumerate(stills):
        image.seek(2 * stop)
        assert np.abs(np.asarray(image.convert("L")) - still).max() <= 1
        assert np.abs(stills[stop - 1] - still).mean() > 4
    alone = commands.synthesise(Request(str(run("gan")), walk=str(tmp_path / "walk.gif"), frames=3))
    assert alone == (0, 0, None, None, tmp_path / "walk.gif")


def test_a_walk_shows_the_classes_side_by_side(noise, tmp_path):
    asked = Request(str(noise), label="all", walk=str(tmp_path / "walk.gif"), frames=4)
    commands.synthesise(asked, devices=jax.devices()[:1])
    image = Image.open(tmp_path / "walk.gif").convert("L")
    assert image.size == (16, 8)
    code = float(jax.random.normal(jax.random.fold_in(jax.random.key(0), 0), (4,))[0])
    left, right = (int(image.getpixel((x, 0))) for x in (0, 15))
    assert abs(left - level(code)) <= 2 and abs(right - level(code - 0.5)) <= 2


# -- what is refused --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pix2pix", r"a run of pix2pix draws no images, it has the sampler a2b: use .*\.translate"),
        ("cyclegan", r"a run of cyclegan draws no images, it has the samplers a2b, b2a: use .*\.translate"),
        ("stain_classifier", r"a run of stain_classifier draws no images, .*: use .*\.evaluate"),
        ("noise_classifier", r"it has the sampler predict: use python -m medgen_jax\.evaluate"),
    ],
)
def test_runs_that_draw_nothing_are_refused_with_the_command_for_them(described, tmp_path, name, said):
    with pytest.raises(UserError, match=said):
        commands.synthesise(Request(str(described(name)), str(tmp_path / "out"), 4))
    assert not (tmp_path / "out").exists()


def test_samples_without_number_or_code_are_refused(noise, tmp_path, monkeypatch):
    """Which image of the key is wanted could not be said."""
    monkeypatch.setattr(painter.Painter, "sampler_inputs", {"sample": {"label": painter.LABEL}})
    with pytest.raises(UserError, match="a run of painter draws no images, it has the sampler sample: use"):
        sample(noise, tmp_path / "out", 4, label="dim")


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gan", {"label": "covid"}, "--class covid: this run draws all classes together"),
        ("gan", {"values": {"truncation": "0.7"}}, "truncation: sampler 'sample' is told no such value"),
        ("gan", {"source": "in"}, "--input in: gan draws images out of noise; leave --input out, give --n"),
        ("gan", {"count": 0}, "--n = 0: must be at least 1"),
        ("gan", {"count": -3}, "--n = -3: must be at least 1"),
        ("gan", {"count": None}, "--n is missing: how many images"),
        ("gan", {"batch": 0}, "--batch = 0: must be at least 1"),
        ("gan", {"seed": -1}, "--seed = -1: must be at least 0"),
        ("gan", {"bits": 12}, "--bits = 12: must be 8 or 16"),
        ("gan", {"output": None}, "--output is missing"),
        ("gan", {"which": 7}, "has no checkpoint 7"),
        ("gan", {"walk": "walk.mp4"}, r"walks are written as GIF; name it walk\.gif"),
        ("diffusion", {}, "--class is missing: normal, sick, unknown, all"),
        ("diffusion", {"label": "flu"}, "--class flu: is no class of this run; there are: normal, sick, unknown, all"),
        ("diffusion", {"label": "sick", "walk": "w.gif"}, "--walk: a run of diffusion draws nothing from codes"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_made(run, tmp_path, monkeypatch, name, options, message):
    monkeypatch.chdir(tmp_path)
    workdir = run(name, **({"classes": ("normal", "sick")} if name == "diffusion" else {}))
    with pytest.raises(UserError, match=message):
        commands.synthesise(Request(**{"workdir": str(workdir), "output": "out", "count": 4, **options}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "--input is missing: of_images makes images of images"),
        ({"source": "in", "count": 4}, "--n 4: of_images makes --per_input images of each of --input"),
        ({"source": "nowhere"}, "--input nowhere: no such file or folder"),
        ({"source": "in", "output": "in"}, "--output in: is the folder of the images of --input"),
        ({"source": "in", "per_input": 0}, "--per_input = 0: must be at least 1"),
        ({"source": "in", "walk": "w.gif"}, "--walk: a run of painter draws nothing from codes"),
    ],
)
def test_sources_that_do_not_fit_are_refused(of_images, sources, monkeypatch, options, message):
    monkeypatch.chdir(sources.parent)
    asked = {"workdir": str(of_images), "output": "out", "label": "dim", **options}
    with pytest.raises(UserError, match=message):
        commands.synthesise(Request(**asked))
    assert not (sources.parent / "out").exists()
