"""``python -m medgen_jax.evaluate`` as a user types it; the real networks against published numbers."""

from __future__ import annotations

import json

import numpy as np
import pytest
import small_counterfactuals
import small_networks
from PIL import Image
from test_cli import command, error_of

from medgen_jax.evaluation import sets
from medgen_jax.evaluation.settings import Settings
from medgen_jax.metrics.frechet import frechet_distance


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Twelve images, and the same a little brighter."""
    root = tmp_path_factory.mktemp("evaluate")
    images = small_networks.pictures(12)
    small_networks.write(root / "real", images)
    small_networks.write(root / "fake", images + np.arange(12, dtype=np.uint8)[:, None, None])
    return root


def test_two_folders_are_compared_with_each_other_and_with_before(folders):
    earlier = {"mae": {"value": 1.0, "interval": [0.9, 1.1], "level": 0.95, "conditions": {}}}
    (folders / "earlier.json").write_text(json.dumps(earlier))
    arguments = ["--real", "real", "--fake", "fake", "--metrics", "psnr,mae", "--output", "out", "--resamples=100"]
    done = command("evaluate", *arguments, "--against", "earlier.json", cwd=folders)
    assert done.returncode == 0, done.stderr
    name, value, *_ = done.stdout.splitlines()[1].split()
    assert (name, float(value)) == ("mae", pytest.approx(5.5 * 2 / 255, abs=1e-4))
    assert "page: out/index.html" in done.stderr
    assert json.loads((folders / "out/metrics.json").read_text())["psnr"]["n"] == 12
    assert "change of mae: 1 -> 0.0431" in done.stdout and "not comparable with --against: " in done.stdout


def test_folders_of_counterfactuals_are_judged_side_by_side(tmp_path):
    for name, shift in (("cfg", 0.4), ("cg", 0.2)):
        rows = [small_counterfactuals.shifted(i, shift, label=small_counterfactuals.NORMAL) for i in range(2)]
        small_counterfactuals.write(tmp_path / name, rows)
    arguments = ["--counterfactuals", "cfg,cg", "--output", "out", "--resamples=20", "--pictures=0", "--batch=2"]
    done = command("evaluate", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    values = {
        line.split("  ")[0]: line.split()[3] for line in done.stdout.splitlines() if line.startswith("mean_residual")
    }
    assert values == {"mean_residual cfg, NORMAL": "0.2", "mean_residual cg, NORMAL": "0.1"}
    assert "warning: left out: flip rate: --judge is missing" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--fake is missing: a folder of generated images, or --workdir RUN"),
        (["--real=real", "--fake=fake"], "--output is missing"),
        (["--workdir=x", "--real=real"], "--real does not go with --workdir"),
        (["--real=real", "--fake=fake", "--split=test"], "--split is about a run: --workdir is missing"),
        (["--real=real", "--fake=fake", "--output=new", "--metrics=pnsr"], "'pnsr' (did you mean psnr?)"),
    ],
)
def test_a_wrong_command_is_answered_in_one_line(folders, arguments, message):
    assert message in error_of(command("evaluate", *arguments, cwd=folders))
    assert not (folders / "new").exists()


def golden_image(group, number, size=64):
    """The formula behind the golden numbers: set 0 or 1, image number, (size, size, 3) uint8."""
    y, x, c = np.meshgrid(np.arange(size), np.arange(size), np.arange(3), indexing="ij")
    wave = np.sin(2 * np.pi * (y * (1 + number % 5) + x * (1 + c)) / (29 + 11 * group) + 0.37 * number)
    texture = 20 * ((x * y * (number + 1)) % 17 - 8) / 8
    return np.clip(np.floor(127.5 + 100 * wave + texture), 0, 255).astype(np.uint8)


@pytest.mark.slow
@pytest.mark.ci_slow
def test_the_real_networks_give_the_golden_numbers(shared, tmp_path, monkeypatch):
    """FID of 4 against 4 images from stored reference features, LPIPS of a stored pair."""
    monkeypatch.setenv("MEDGEN_CACHE", str(tmp_path))
    golden = np.load(shared / "weights/golden.npz")
    stored = json.loads((shared / "weights/golden.json").read_text())
    for group, name in enumerate(("real", "fake")):
        for number in range(4):
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(golden_image(group, number, 299)).save(tmp_path / name / f"{number}.png")
    settings = Settings(metrics=("fid",), weights=str(shared / "weights"), resamples=0, batch=4)
    found = sets.evaluate(sets.Request(tmp_path / "fake", tmp_path / "real"), tmp_path / "out", settings, say=str)
    expected = frechet_distance(golden["feat_tf_s0"], golden["feat_tf_s1"])
    assert found.numbers["fid"]["value"] == pytest.approx(expected, rel=2e-4)
    for group, number, name in ((0, 3, "a"), (1, 5, "b")):
        (tmp_path / name).mkdir()
        Image.fromarray(golden_image(group, number)).save(tmp_path / name / "pair.png")
    settings = Settings(metrics=("lpips",), weights=str(shared / "weights"))
    found = sets.evaluate(sets.Request(tmp_path / "b", tmp_path / "a"), tmp_path / "lpips", settings, say=str)
    assert found.numbers["lpips"]["value"] == pytest.approx(stored["lpips_alex_s0n3_vs_s1n5_64px"], abs=2e-4)
