"""``python -m medgen_jax.severity`` as a user types it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from test_cli import command, error_of

from medgen_jax.data import counterfactual_folders
from medgen_jax.data.counterfactual_folders import Arrays, Entry


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Twelve images whose residual is as bright as their score."""
    root = tmp_path_factory.mktemp("severity")
    rng = np.random.default_rng(0)
    for score in range(12):
        healthy = rng.normal(-0.5, 0.05, (16, 16, 1))
        arrays = Arrays(healthy + 0.05 * score, healthy, healthy + 0.05 * score)
        counterfactual_folders.write_arrays(root / "cf", f"x{score}", arrays)
    counterfactual_folders.write_scores(root / "cf", {}, [Entry(f"x{score}") for score in range(12)])
    rows = [f"x{score}.png,P{score},{score / 2}" for score in range(12)]
    (root / "scores.csv").write_text("\n".join(["file,patient_id,opacity", *rows]))
    return root


def test_scores_are_learned_and_written(folder):
    arguments = ["--residuals=cf", "--scores=scores.csv", "--column=opacity", "--output=out", "--range=0,6"]
    done = command("severity", *arguments, "--resamples=100", "--repeats=2", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "page: out/index.html" in done.stderr
    assert "warning: 12 images of 12 patients are too few for a claim: shown for correctness only" in done.stdout
    written = json.loads((folder / "out/metrics.json").read_text())
    assert written["mae residual"]["value"] < 0.2 < written["mae mean score"]["value"]
    assert "mae residual " in done.stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--residuals is missing: a folder made by python -m medgen_jax.counterfactual"),
        (["--residuals=cf", "--scores=scores.csv"], "--column is missing: which score, such as opacity"),
        (
            ["--residuals=cf", "--scores=scores.csv", "--column=opacity", "--output=new", "--range=0-6"],
            "--range 0-6: must be two numbers, such as 0,8",
        ),
    ],
)
def test_a_wrong_command_is_answered_in_one_line(folder, arguments, message):
    assert message in error_of(command("severity", *arguments, cwd=folder))
    assert not (folder / "new").exists()
