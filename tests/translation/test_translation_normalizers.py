"""Stain normalisers over files: exact where tissue is, copies where none is, one transform for all of an image."""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np
import pytest
import small_systems
import stained_images
import tifffile
import untrained_runs
from stained_images import PURPLE, glass, tissue
from viz.test_viz_report import Page

from medgen_jax import stain
from medgen_jax.core import config as configs
from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field
from medgen_jax.data.images import read_image, write_image
from medgen_jax.ops.tiles import Grid
from medgen_jax.sampling import LoadedSampler
from medgen_jax.stain import reinhard
from medgen_jax.systems import stain_classifier
from medgen_jax.translation import files, inputs, normalizers, slides
from medgen_jax.translation.clock import Clock
from medgen_jax.translation.tiles import sample_image

SIDE = 48


def unit(images):
    return np.asarray(images, np.float32) / np.iinfo(images.dtype).max


@functools.cache
def look(name="reinhard"):
    return jax.jit(stain.load(name).fit)(unit(tissue(SIDE, SIDE, PURPLE, seed=7)[None]))


fit, transform = jax.jit(reinhard.fit), jax.jit(reinhard.transform)


@pytest.fixture(scope="module")
def purple():
    """Reinhard's method with a purple target."""
    return normalizers.of_method("reinhard", look(), "purple.png")


def normalise(chosen, source, target, **options):
    return files.translate(chosen, inputs.find(source, target), **options)


SLOW = {"vahadane": (pytest.mark.slow, pytest.mark.ci_slow)}  # to compile


@pytest.mark.parametrize("name", [pytest.param(name, marks=SLOW.get(name, ())) for name in stain.METHODS])
def test_every_method_is_a_sampler_that_moves_colours_to_the_target(name):
    model = normalizers.sampler(name, look(name))
    image = np.stack([tissue(SIDE, SIDE), glass(SIDE, SIDE)])
    made = (np.asarray(model({"image": image})) + 1) / 2
    expected = jax.jit(stain.load(name).transform)(look(name), unit(image))
    assert list(expected.ok) == [True, False]
    np.testing.assert_allclose(made, expected.images, atol=1e-5)
    goal = unit(tissue(SIDE, SIDE, PURPLE, seed=7)).mean((0, 1))
    before, after = (np.abs(x.mean((0, 1)) - goal).max() for x in (unit(image[0]), made[0]))
    assert after < before / 2


@pytest.mark.parametrize(("name", "dtype"), [("a.png", np.uint8), ("a.png", np.uint16), ("a.tif", np.uint16)])
def test_images_keep_their_kind_and_bits(purple, tmp_path, name, dtype):
    image = tissue(SIDE, SIDE + 9, dtype=dtype)
    write_image(tmp_path / name, image)
    (done,) = normalise(purple, tmp_path / name, tmp_path / "out")
    made = read_image(done.output)
    assert (done.output.name, done.tiles, done.ok, made.dtype) == (name, 1, True, dtype)
    expected = np.asarray(transform(look(), unit(image)[None]).images[0])
    np.testing.assert_allclose(unit(made), expected, atol=0.51 / np.iinfo(dtype).max + 1e-5)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("tile", [None, 16])
def test_what_shows_no_tissue_is_copied_and_told(purple, tmp_path, dtype, tile):
    (tmp_path / "in").mkdir()
    for name, image in (("a", tissue(SIDE, SIDE, dtype=dtype)), ("b", glass(SIDE, SIDE, dtype))):
        write_image(tmp_path / "in" / f"{name}.png", image)
    told = []
    done = normalise(purple, tmp_path / "in", tmp_path / "out", tile=tile, say=told.append)
    assert [d.ok for d in done] == [True, False]
    np.testing.assert_array_equal(read_image(done[1].output), glass(SIDE, SIDE, dtype))
    assert (read_image(done[0].output) != read_image(done[0].source)).mean() > 0.9
    said = "1 of 2 images shows too little tissue and was copied: b.png"
    assert told == [said]
    page = Page((tmp_path / "out/report/index.html").read_text())
    for words in (said, "Reinhard, to purple.png", "Stain normalisation", "Method"):
        assert words in page.text


def test_copies_are_named_up_to_five(purple, tmp_path):
    (tmp_path / "in").mkdir()
    for i in range(7):
        write_image(tmp_path / f"in/{i}.png", glass(16, 16))
    told = []
    assert not any(d.ok for d in normalise(purple, tmp_path / "in", tmp_path / "out", report=False, say=told.append))
    (said,) = told
    assert said == "7 of 7 images show too little tissue and were copied: 0.png, 1.png, 2.png, 3.png, 4.png and 2 more"


# ---- large images --------------------------------------------------------------------------------


def test_under_one_source_the_result_does_not_depend_on_the_tiles(purple):
    model, image = purple.model, tissue(96, 112)
    image[:, 56:] = tissue(96, 56, strength=1.0, seed=1)
    pooled = model.pool(model.variables, {"image": np.stack([image[:48, :48], image[:48, 56:104]])}, jax.random.key(0))
    assert pooled["source"].ok
    agreed = dataclasses.replace(model, variables=pooled, pool=None)
    whole = np.asarray(agreed({"image": image[None]}))[0]
    for tile, overlap in ((32, 0), (48, 16), (96, 0)):
        np.testing.assert_allclose(sample_image(agreed, image, Grid(96, 112, tile, overlap)), whole, atol=1e-5)
    # Measured by themselves, the two halves would come out alike.
    alone = np.asarray(model({"image": image[None, :, 56:]}))[0]
    assert np.abs(alone - whole[:, 56:]).mean() > 0.05


def test_pools_are_the_methods_own_over_tiles(purple):
    tiles = np.stack([tissue(SIDE, SIDE, seed=1), tissue(SIDE, SIDE, seed=2, strength=0.8), glass(SIDE, SIDE)])
    found = purple.model.pool(purple.model.variables, {"image": tiles}, jax.random.key(0))["source"]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found, fit(unit(tiles)))


def test_a_large_image_is_measured_where_its_tissue_is(purple, tmp_path):
    image = glass(256, 256)
    image[20:30, 98:110] = tissue(10, 12)  # in one of 64 tiles, which is none of 12 spread over all
    write_image(tmp_path / "a.png", image)
    (done,) = normalise(purple, tmp_path / "a.png", tmp_path / "out", tile=32)
    assert done.ok and done.tiles == 64
    assert (read_image(done.output)[20:30, 98:110] != image[20:30, 98:110]).mean() > 0.9


def test_images_of_up_to_four_megapixels_are_not_cut(purple, tmp_path, monkeypatch):
    monkeypatch.setattr(normalizers, "TILE", 16)
    small = normalizers.of_method("reinhard", look(), "")
    for name, size in (("a", (64, 64)), ("b", (64, 65))):
        write_image(tmp_path / f"{name}.png", tissue(*size))
        (done,) = normalise(small, tmp_path / f"{name}.png", tmp_path / name, report=False)
        assert done.tiles == (1 if name == "a" else 20)  # four rows of tiles that do not overlap, in five columns
    assert normalizers.TILE**2 * normalizers.WHOLE_AREAS == 64**2
    monkeypatch.undo()
    assert normalizers.TILE**2 * normalizers.WHOLE_AREAS == 2048**2


# ---- slides --------------------------------------------------------------------------------------


@pytest.fixture
def scan(tmp_path, monkeypatch):
    """A slide with tissue in rows 40 to 110, columns 60 to 150."""
    image = glass(150, 230)
    image[40:110, 60:150] = tissue(70, 90)
    path = tmp_path / "scan.tif"
    tifffile.imwrite(path, image, photometric="rgb", tile=(64, 64), metadata=None)
    monkeypatch.setattr(slides, "is_slide", lambda file: file.name == "scan.tif")
    return path, image


@pytest.mark.parametrize("every_tile", [False, True])
def test_slides_get_one_transform_and_white_glass(purple, scan, tmp_path, every_tile):
    source, image = scan
    clock = Clock()
    options = files.SlideOptions(every_tile=every_tile)
    (done,) = normalise(purple, source, tmp_path / "out", tile=32, slide_options=options, clock=clock)
    assert done.ok and done.output.name == "scan.ome.tif"
    with tifffile.TiffFile(done.output) as tiff:
        made, text = tiff.asarray(), tiff.ome_metadata
    assert "Recoloured image: stain normalisation (reinhard)" in text and "generative" not in text
    tiles = np.stack(slides.tissue_tiles(source, 12, level=0, tile=32))
    pooled = fit(unit(tiles))
    expected = transform(look(), unit(image)[None], pooled).images[0]
    inside = np.s_[40:110, 60:150]
    np.testing.assert_allclose(unit(made)[inside], expected[inside], atol=0.51 / 255 + 1e-4)
    corner = np.asarray(expected[0, 0] * 255)
    assert (made[0, 0] == 255).all() if not every_tile else np.abs(made[0, 0] - corner).max() <= 1
    assert 0 < clock.on_files < clock.seconds


# ---- refusals and doubts -------------------------------------------------------------------------


def test_grey_images_are_refused_before_the_first_is_made(purple, tmp_path):
    (tmp_path / "in").mkdir()
    write_image(tmp_path / "in/a.png", tissue(16, 16))
    write_image(tmp_path / "in/b.png", tissue(16, 16)[..., :1])
    with pytest.raises(UserError, match=r"in/b\.png: has 1 channel, and stains are told apart .*; give RGB images$"):
        normalise(purple, tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_dark_16_bit_images_are_doubted(purple, tmp_path):
    write_image(tmp_path / "a.tif", tissue(SIDE, SIDE, dtype=np.uint16) // 16)
    told = []
    normalise(purple, tmp_path / "a.tif", tmp_path / "out", report=False, say=told.append)
    assert "of 65,535, so white glass is taken for stain: stretch them to the full range first" in told[0]


def test_floats_with_a_declared_range_return_as_floats(tmp_path):
    chosen = normalizers.of_method("reinhard", look(), "", DataConfig(range_low=0.0, range_high=2.0))
    image = 2 * unit(tissue(SIDE, SIDE))
    write_image(tmp_path / "a.tif", image)
    (done,) = normalise(chosen, tmp_path / "a.tif", tmp_path / "out", report=False)
    made = tifffile.imread(done.output)
    expected = transform(look(), image[None] / 2).images[0]
    assert made.dtype == np.float32
    np.testing.assert_allclose(made / 2, expected, atol=1e-4)


def test_speed_is_that_without_compiling(monkeypatch):
    now = [10.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    clock = Clock()
    now[0] = 11.0
    with clock.files():
        now[0] = 13.5
    now[0] = 20.0
    assert clock.speed(40, 2.0) == (
        "40 tiles in 10.0 s, 2.0 s of it compiling: 5.0 tiles/s after that; 25% of the time went into reading "
        "and writing"
    )


# ---- the learned one -----------------------------------------------------------------------------


def halves():
    """(64, 96, 3) tissue that is darker from column 48 on: tiles of 32 pixels see the left half, both, the right."""
    image = tissue(64, 96)
    image[:, 48:] = tissue(64, 48, strength=1.0, seed=1)
    return image


def test_the_learned_one_leaves_no_seam_between_halves_of_other_brightness():
    config = small_systems.CONFIGS["stain_classifier"]()
    config.norm.spaces = ("lab",)
    system = stain_classifier.build(configs.resolve(config, 16))
    variables = {"norm": jax.jit(system.layer.init)(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))}
    function, pool = system.samplers["normalize"], jax.jit(system.tile_variables["normalize"])
    model = LoadedSampler(
        "normalize", "stain_classifier", config, variables, function, jax.jit(function),
        {"image": Field((32, 32, 3), "uint8")}, pool,
    )  # fmt: skip
    image, grid = halves(), Grid(64, 96, 32, 0)

    def step(made):
        # Left and right of the edge at column 32 the tissue is the same.
        return np.abs(made[:, 16:32].mean((0, 1)) - made[:, 32:48].mean((0, 1))).max()

    made, alone = (sample_image(one, image, grid) for one in (model, dataclasses.replace(model, pool=None)))
    assert step(made) < 0.05 < 0.15 < step(alone)
    # The halves stay what they are to each other.
    assert made[:, 64:].mean() < made[:, :32].mean() - 0.2
    tiles = np.stack([grid.cut(image, *corner) for corner in grid.corners])
    agreed = dataclasses.replace(model, variables=pool(variables, {"image": tiles}, jax.random.key(0)))
    np.testing.assert_allclose(made, agreed({"image": image[None]})[0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.ci_slow
def test_a_run_with_the_layer_normalises_and_others_say_why_not(tmp_path):
    run = untrained_runs.write(tmp_path / "run", small_systems.CONFIGS["stain_classifier"]())
    chosen = normalizers.of_run(run)
    assert dict(chosen.facts)["Run"] == "run" and chosen.model.name == "normalize"
    write_image(tmp_path / "a.png", tissue(32, 32))
    (done,) = normalise(chosen, tmp_path / "a.png", tmp_path / "out", report=False)
    image = tissue(32, 32)[None]
    expected = (np.asarray(chosen.model({"image": image}))[0] + 1) / 2
    np.testing.assert_allclose(unit(read_image(done.output)), expected, atol=0.51 / 255)
    # Glass is no part of what an image's tiles have in common; attention is all that is left of each tile's own.
    large = np.concatenate([halves(), glass(64, 96)], axis=1)
    write_image(tmp_path / "large.png", large)
    (done,) = normalise(chosen, tmp_path / "large.png", tmp_path / "large", report=False, tile=32, overlap=0)
    tiles = np.stack([large[y : y + 32, x : x + 32] for y in (0, 32) for x in (0, 32, 64)])
    pooled = chosen.model.pool(chosen.model.variables, {"image": tiles}, jax.random.key(0))
    agreed = dataclasses.replace(chosen.model, variables=pooled)
    np.testing.assert_allclose(
        unit(read_image(done.output)), (np.asarray(agreed({"image": large[None]}))[0] + 1) / 2, atol=2 / 255
    )
    write_image(tmp_path / "grey.png", stained_images.glass(32, 32)[..., :1])
    with pytest.raises(UserError, match=r"grey\.png: has 1 channel, and stains"):
        normalise(chosen, tmp_path / "grey.png", tmp_path / "out")
    other = untrained_runs.write(tmp_path / "other", small_systems.CONFIGS["pix2pix"]())
    with pytest.raises(UserError, match="has no sampler 'normalize'"):
        normalizers.of_run(other)
