"""Whole slides through a sampler: exact where tissue is, white elsewhere, in bounded memory, all or nothing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_runs
import tifffile

from medgen_jax.core.errors import UserError
from medgen_jax.core.streams import Field
from medgen_jax.data.formats import ome_tiff
from medgen_jax.data.slides import open_slide
from medgen_jax.ops.tiles import Grid, seam_score
from medgen_jax.sampling import LoadedSampler
from medgen_jax.translation import slides
from medgen_jax.translation.tiles import POOL_TILES

HEIGHT, WIDTH, TILE = 150, 230, 32


def identity(variables, inputs, key):
    return inputs["image"].astype(jnp.float32) / 127.5 - 1


def sampler(function=identity, pool=None, channels=3):
    inputs = {"image": Field((TILE, TILE, channels), "uint8")}
    return LoadedSampler("a2b", "toy", None, {}, function, jax.jit(function), inputs, pool)


@pytest.fixture(scope="module")
def picture():
    """Grey glass with a pink and textured piece of tissue: rows 40 to 110, columns 60 to 150."""
    made = np.full((HEIGHT, WIDTH, 3), 235, np.uint8)
    texture = np.random.default_rng(0).integers(-30, 30, (70, 90, 1))
    made[40:110, 60:150] = np.array([200, 100, 160]) + texture
    return made


@pytest.fixture
def source(tmp_path, picture):
    """A slide whose header tells of a patient."""
    path = tmp_path / "Jane-Doe.tif"
    with tifffile.TiffWriter(path) as tiff:
        about = {"description": "Jane Doe|MPP = 0.5|User = Dr Who", "software": "Scanner 7", "metadata": None}
        tiff.write(picture, photometric="rgb", tile=(64, 64), **about)
        tiff.write(picture[::2, ::2], photometric="rgb", tile=(64, 64), subfiletype=1, metadata=None)
    return path


@pytest.fixture
def output(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "x.ome.tif"


def test_tissue_is_translated_and_glass_becomes_white(source, output, picture):
    told = []
    done = slides.translate_slide(sampler(), source, output, done=told.append)
    made = tifffile.imread(output)
    grid = Grid(HEIGHT, WIDTH, TILE, TILE // 4)
    assert (done.source, done.output, done.tiles) == (source, output, len(grid.corners))
    np.testing.assert_array_equal(made[40:110, 60:150], picture[40:110, 60:150])
    # Tissue lies in tiles that begin above 110 and end below 40, and likewise across; at least one pixel in a hundred.
    touched = [
        (y, x)
        for y, x in grid.corners
        if max(0, min(y + TILE, 110) - max(y, 40)) * max(0, min(x + TILE, 150) - max(x, 60)) >= TILE**2 / 100
    ]
    assert done.skipped == len(grid.corners) - len(touched) > 20
    far = np.ones(made.shape[:2], bool)
    for y, x in touched:
        far[y : y + TILE, x : x + TILE] = False
    assert far.sum() > 1000 and (made[far] == 255).all()
    assert sum(told) == done.tiles
    assert done.before.shape == done.after.shape == made.shape
    np.testing.assert_array_equal(done.after, made)
    np.testing.assert_array_equal(done.before, picture)


def test_every_tile_of_an_unstained_slide(source, output, picture):
    done = slides.translate_slide(sampler(), source, output, every_tile=True, batch=3)
    assert done.skipped == 0
    made = tifffile.imread(output)
    np.testing.assert_array_equal(made, picture)
    assert done.seam_score == pytest.approx(seam_score(made, Grid(HEIGHT, WIDTH, TILE, TILE // 4)), rel=1e-6)


def test_statistics_come_from_tissue_alone(source, output, picture):
    seen = []

    def pool(variables, inputs, key):
        seen.append(np.asarray(inputs["image"]))
        return {}

    slides.translate_slide(sampler(pool=pool), source, output)
    (tiles,) = seen
    assert len(tiles) == POOL_TILES and all((tile != 235).any() for tile in tiles)


def test_a_smaller_level(source, output, picture):
    done = slides.translate_slide(sampler(), source, output, level=1)
    made = tifffile.imread(output)
    assert made.shape == (75, 115, 3) and done.tiles == len(Grid(75, 115, TILE, 8).corners)
    np.testing.assert_array_equal(made[20:55, 30:75], picture[::2, ::2][20:55, 30:75])
    with open_slide(output) as opened:
        assert opened.microns_per_pixel == pytest.approx((1, 1))


def test_thumbnails_of_large_slides_are_small_and_match(tmp_path, output):
    y, x = np.mgrid[:700, :1100]
    array = np.stack([y // 4, x // 5, 60 + 0 * x], -1).astype(np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", array, photometric="rgb", tile=(64, 64))
    done = slides.translate_slide(sampler(), tmp_path / "a.tif", output, tile=128, every_tile=True)
    assert done.before.shape == done.after.shape == (175, 275, 3)
    assert np.abs(done.before.astype(int) - done.after).max() <= 2
    with tifffile.TiffFile(output) as tiff:
        np.testing.assert_array_equal(tiff.series[0].levels[-1].asarray(), done.after)


def test_the_output_says_what_it_is_and_names_no_one(source, output):
    slides.translate_slide(sampler(), source, output)
    with tifffile.TiffFile(output) as tiff:
        text = tiff.ome_metadata
        assert tiff.pages[0].software.startswith("medgen_jax ")
    assert "Synthetic image" in text and "sampler a2b" in text and 'PhysicalSizeX="0.5"' in text
    raw = output.read_bytes()
    assert not [word for word in (b"Jane", b"Doe", b"Who", b"Scanner") if word in raw]


def test_grey_samplers_and_jpeg(source, output, picture):
    def grey(variables, inputs, key):
        return identity(variables, inputs, key)[..., :1]

    done = slides.translate_slide(sampler(grey), source, output, compression="jpeg", every_tile=True)
    assert done.after.shape == (HEIGHT, WIDTH, 1)
    assert np.abs(done.after[..., 0].astype(int) - picture[..., 0]).max() == 0  # before packing
    with tifffile.TiffFile(output) as tiff:
        assert (tiff.pages[0].compression, tiff.pages[0].samplesperpixel) == (7, 1)


def test_a_colour_profile_that_is_not_applied_is_said(tmp_path, picture, output):
    tifffile.imwrite(tmp_path / "a.tif", picture, photometric="rgb", tile=(64, 64), iccprofile=b"profile")
    assert slides.translate_slide(sampler(), tmp_path / "a.tif", output).profile_ignored
    assert b"colour profile of the scanned slide was not applied" in output.read_bytes()


def test_plans_read_the_header_alone(source):
    assert slides.plan_slide(sampler(), source) == Grid(HEIGHT, WIDTH, TILE, 8)
    assert slides.plan_slide(sampler(), source, level=1, tile=16, overlap=2) == Grid(75, 115, 16, 2)


def test_names_of_outputs(tmp_path):
    names = {"a.svs": "a.ome.tif", "b.x.NDPI": "b.x.ome.tif", "c.ome.tiff": "c.ome.tif", "d.OME.TIF": "d.ome.tif"}
    assert {name: slides.output_name(tmp_path / name) for name in names} == names


def assert_refused(source, output, message, model=None, **options):
    before = sorted(output.parent.iterdir())
    with pytest.raises(UserError, match=message):
        slides.translate_slide(model or sampler(), source, output, **options)
    assert sorted(output.parent.iterdir()) == before


def test_what_cannot_be_done_is_refused(source, output, tmp_path, monkeypatch):
    assert_refused(source, output, "has levels 0 to 1; there is no level 2", level=2)
    assert_refused(source, output, "no level -1", level=-1)
    assert_refused(source, output, "--overlap = 16", tile=16, overlap=16)
    assert_refused(source, output, "--batch = 0", batch=0)
    assert_refused(source, output, "--compression = zip: must be one of deflate, jpeg", compression="zip")
    assert_refused(source, output.with_suffix(".png"), "name it Jane-Doe.ome.tif")
    assert_refused(source, source, "would replace the slide itself")
    assert_refused(tmp_path / "no.tif", output, "no.tif: no such file")
    with pytest.raises(UserError, match="no such folder"):
        slides.translate_slide(sampler(), source, tmp_path / "none" / "x.tif")
    assert_refused(source, output, "makes 2 channels", sampler(lambda *a: identity(*a)[..., :2]))

    def one_channel(variables, inputs, key):
        if inputs["image"].shape[-1] != 1:
            raise UserError("takes 1 channel")
        return identity(variables, inputs, key)

    assert_refused(source, output, "Jane-Doe.tif: tiles of 32 x 32 pixels: takes 1 channel", sampler(one_channel))
    monkeypatch.setattr(slides, "_ROW_BYTES", 1000)
    assert_refused(source, output, "choose a smaller --tile or a higher --level")


def test_slides_without_tissue_are_refused(tmp_path, output):
    tifffile.imwrite(tmp_path / "a.tif", np.full((80, 90, 3), 240, np.uint8), photometric="rgb", tile=(64, 64))
    assert_refused(tmp_path / "a.tif", output, r"no tile holds stained tissue; add --every_tile")


def test_a_disk_that_is_too_small_is_noticed_first(source, output, monkeypatch):
    def never(*_, **__):
        raise AssertionError("a tile was translated")

    monkeypatch.setattr(slides, "sample_rows", never)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10**6))
    assert_refused(
        source, output, r"x.ome.tif: needs about 0.0 GB and 0.0 GB are free; make room, or --compression jpeg"
    )


def test_a_failure_on_the_way_leaves_nothing(source, output, monkeypatch):
    def gone(variables, inputs, key):
        return identity(variables, inputs, key) * jnp.nan

    assert_refused(source, output, "the sampler returns NaN", sampler(gone))
    output.write_bytes(b"old")

    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        slides.translate_slide(sampler(), source, output, done=interrupt)
    assert output.read_bytes() == b"old" and list(output.parent.iterdir()) == [output]


_CHILD = """
import json, pathlib, sys
import jax
import numpy as np
from medgen_jax.translation import slides
from medgen_jax.core.streams import Field
from medgen_jax.sampling import LoadedSampler
from medgen_jax.systems import cyclegan

def peak():
    # getrusage would give the peak of the process that started this one, where that is higher.
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith("VmHWM"))

def network():
    config = cyclegan.Config()
    config.data.crop_size, config.train.batch_size, config.train.precision = 256, 1, "float32"
    config.train.steps, config.num_train = 1, 1
    config.model = cyclegan.ModelConfig(3, 3, ngf=8, ndf=8, blocks=3)
    system = cyclegan.build(config)
    variables = system.inference_variables(jax.jit(system.init)(jax.random.key(0)))
    run = system.samplers["a2b"]
    inputs, pool = {"image": Field((256, 256, 3), "uint8")}, jax.jit(system.tile_variables["a2b"])
    return LoadedSampler("a2b", "cyclegan", config, variables, run, jax.jit(run), inputs, pool)

def identity():
    run = lambda variables, inputs, key: inputs["image"].astype(np.float32) / 127.5 - 1
    return LoadedSampler("a2b", "toy", None, {}, run, jax.jit(run), {"image": Field((256, 256, 3), "uint8")}, None)

model = {"cyclegan": network, "identity": identity}[sys.argv[1]]()
done = slides.translate_slide(model, pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3]))
print(json.dumps([peak(), done.tiles, done.skipped]))
"""


def in_a_child(model, source, output, root):
    """Peak memory of the whole process in MiB, tiles, skipped tiles."""
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, model, source, output], cwd=root, capture_output=True, text=True, timeout=500,
        env=small_runs.child_environment(),
    )  # fmt: skip
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


@pytest.mark.slow
@pytest.mark.ci_slow
def test_a_real_slide_through_cyclegan_stays_below_one_and_a_half_gigabytes(shared, output, root):
    source = shared / "data/histology/originals/CMU-1-Small-Region.svs"
    peak, tiles, skipped = in_a_child("cyclegan", source, output, root)
    print(f"peak {peak} MiB, {tiles} tiles, {skipped} without tissue")
    assert peak * 2**20 < 1.5e9
    assert tiles == 12 * 16 and 50 < skipped < 90
    with open_slide(output) as opened:
        assert opened.levels == ((2967, 2220), (1484, 1110), (742, 555), (371, 278))
        assert opened.microns_per_pixel == pytest.approx((0.499, 0.499))


@pytest.mark.slow
@pytest.mark.ci_slow
def test_memory_does_not_grow_with_the_height(tmp_path, output, root):
    peaks = {}
    block = np.random.default_rng(0).integers(90, 190, (512, 2048, 3), dtype=np.uint8) * np.uint8([1, 0, 1])
    for height in (12288, 24576):
        source = tmp_path / f"{height}.tif"
        with ome_tiff.create(source, height, 2048, 3, ome_tiff.About("", ""), "jpeg") as pyramid:
            for _ in range(height // 512):
                pyramid.write(block)
        peaks[height], *_ = in_a_child("identity", source, output, root)
    print("peak MiB", peaks)
    # 72 MiB of pixels more, and 288 MiB as float32; both fill the cache of decoded tiles.
    assert peaks[24576] - peaks[12288] < 60
