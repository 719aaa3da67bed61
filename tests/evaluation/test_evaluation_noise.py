"""The robustness table: what is done to the sources, which rows there are, what they are compared with."""

from __future__ import annotations

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
import small_networks
import small_runs

from medgen_jax import training
from medgen_jax.core.errors import UserError
from medgen_jax.evaluation import noise, splits
from medgen_jax.evaluation.noise import CLEAN, Source
from medgen_jax.evaluation.settings import Settings
from medgen_jax.sampling import load_sampler

QUICK = dict(resamples=10, pictures=1, batch=4)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished toy run with eight validation pairs."""
    folder = tmp_path_factory.mktemp("noise")
    source = small_runs.make_pairs(folder / "data", counts=(("train", 6), ("val", 8)))
    training.train(small_runs.config(source), folder / "run", devices=jax.devices()[:1], console=small_runs.silent())
    return folder / "run"


@pytest.fixture(scope="module")
def studied(run, tmp_path_factory):
    output = tmp_path_factory.mktemp("out")
    rows = noise.sources((0.0, 10.0, 60.0), (None, (0.02, 0.25)))
    found = noise.study(run, output, Settings(**QUICK), rows, networks=small_networks.networks, say=lambda _: None)
    return output, found


def test_rows_and_their_names():
    rows = noise.sources()
    assert rows[0] == CLEAN and len(rows) == 10 == len(set(rows))
    names = [noise.row(source) for source in rows]
    assert {"AICD", "Gaussian1", "Gaussian2"} < set(names)
    assert noise.row(Source(5.0)) == "noise 5/255"
    assert noise.row(Source(5.0, (0.02, 0.25))) == "noise 5/255, band 0.02 to 0.25 cycles/px"
    assert noise.sources((25.0,), (None,)) == [CLEAN, Source(25.0)]


def test_noise_has_the_stated_deviation_and_keeps_the_dtype():
    for dtype in (np.uint8, np.uint16):
        grey = np.full((128, 128, 1), np.iinfo(dtype).max // 2, dtype)
        noisy = np.asarray(noise._disturbed(grey, jax.random.key(0), Source(10.0)))
        assert noisy.dtype == dtype
        levels = (noisy.astype(float) - grey) / np.iinfo(dtype).max * 255
        assert levels.std() == pytest.approx(10, rel=0.03) and abs(levels.mean()) < 0.3


def test_the_band_keeps_the_mean_and_stops_what_lies_outside():
    x = np.arange(128)
    slow, fast = (40 * np.sin(2 * np.pi * f * x) for f in (0.125, 0.45))
    image = np.broadcast_to(128 + slow + fast, (128, 128)).astype(np.uint8)[..., None]
    kept = np.asarray(noise._disturbed(image, jax.random.key(0), Source(0.0, (0.02, 0.25)))).astype(float)[64, :, 0]
    power = np.abs(np.fft.rfft(kept - kept.mean())) / 64
    assert kept.mean() == pytest.approx(image.mean(), abs=1)
    assert power[16] == pytest.approx(40 / (1 + 0.5**4) - 40 / (1 + (0.125 / 0.02) ** 4), rel=0.05)
    assert power[57:59].max() < 5  # 40 / (1 + 1.8^4) = 3.5


def test_a_record_is_always_disturbed_alike_and_records_differ(run):
    records = splits.open_split(load_sampler(run))
    one, again = (noise.disturb(records, Source(20.0), seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.inputs.image(2), again.inputs.image(2))
    other = noise.disturb(records, Source(20.0), seed=4)
    assert not np.array_equal(one.inputs.image(2), other.inputs.image(2))
    first, second = (one.inputs.image(i).astype(int) - records.inputs.image(i) for i in (0, 1))
    assert not np.array_equal(first, second)
    np.testing.assert_array_equal(noise.disturb(records, CLEAN, 0).inputs.image(0), records.inputs.image(0))
    assert one.targets is records.targets


def test_the_table(studied):
    output, found = studied
    names = ["AICD", "noise 10/255", "noise 60/255", "Gaussian1"]
    for row in names:
        for number in ("fid", "kid", "fid_ratio", "kid_ratio"):
            assert f"{number} {row}" in found.numbers, row
    clean, noisy = found.numbers["fid AICD"], found.numbers["fid noise 60/255"]
    assert found.numbers["fid_ratio AICD"]["value"] == pytest.approx(1)
    assert found.numbers["fid_ratio noise 60/255"]["value"] == pytest.approx(noisy["value"] / clean["value"], rel=1e-5)
    low, high = found.numbers["fid_ratio noise 60/255"]["interval"]
    assert low < found.numbers["fid_ratio noise 60/255"]["value"] < high
    assert noisy["value"] != clean["value"]
    assert noisy["conditions"]["source"] == "noise 60/255" and "|noise 60/255|" in noisy["fingerprint"]
    assert json.loads((output / "metrics.json").read_text())["fid AICD"]["n_fake"] == 8
    page = (output / "index.html").read_text()
    assert "Gaussian1" in page and "names of the paper, values ours" in page
    assert [title for title, _ in found.cases[0].pictures] == ["source", "output"]


def test_an_earlier_study_is_compared_row_by_row(run, studied, tmp_path):
    rows = noise.sources((0.0, 60.0), (None,))
    earlier = studied[0] / "metrics.json"
    again = noise.study(
        run, tmp_path / "again", Settings(**QUICK), rows, against=earlier, networks=small_networks.networks,
        say=lambda _: None,
    )  # fmt: skip
    assert {change.name for change in again.changes} >= {"fid AICD", "fid noise 60/255"}
    assert not any(change.differences for change in again.changes)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: noise.sources((300.0,)), "--noise: 300 is no standard deviation in 8-bit levels"),
        (lambda: noise.parse_levels(["ten"]), "--noise: could not convert string to float: 'ten'"),
        (lambda: noise.sources((0.0,), ((0.3, 0.1),)), "--bands: 0.3-0.1 is no band"),
        (lambda: noise.parse_bands(["low"]), "--bands: 'low' is neither none nor low-high"),
    ],
)
def test_bad_settings_are_named(call, message):
    with pytest.raises(UserError, match=message):
        call()


def test_words_become_bands():
    assert noise.parse_bands(["none", "0.02-0.25", " .1 - .3 "]) == [None, (0.02, 0.25), (0.1, 0.3)]
    assert noise.parse_levels(["0", "2.5"]) == [0.0, 2.5]


def test_too_few_records_are_refused_before_anything_runs(run, tmp_path):
    settings = Settings(**QUICK, kid_subset_size=50)
    with pytest.raises(UserError, match="needs at least"):
        noise.study(run, tmp_path, settings, noise.sources(), networks=small_networks.never, say=lambda _: None)


def test_the_flags_of_the_command(tmp_path):
    def refused(*flags):
        command = [sys.executable, "-m", "medgen_jax.evaluate", *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=small_runs.child_environment(), cwd=tmp_path)
        assert done.returncode == 2
        return done.stderr

    assert "--study is about a run: --workdir is missing" in refused("--study=noise", "--fake=x", "--output=y")
