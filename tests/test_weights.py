"""``python -m medgen_jax.weights`` from the outside."""

from __future__ import annotations

import subprocess
import sys

import pytest
import small_runs

from medgen_jax.interop.weight_store import CATALOGUE


@pytest.fixture
def weights(root, tmp_path):
    def run(*arguments, **environ):
        command = [sys.executable, "-m", "medgen_jax.weights", *map(str, arguments)]
        # No proxy answers there, so nothing of these tests leaves the machine.
        nowhere = {"HTTPS_PROXY": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1", "no_proxy": ""}
        environment = small_runs.child_environment(**nowhere | {"MEDGEN_WEIGHTS": str(tmp_path / "default")} | environ)
        return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, timeout=120)

    return run


def test_without_flags_it_lists_what_is_missing_where_and_the_command_that_gets_it(weights, tmp_path):
    done = weights()
    first, *rows, last = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert first == f"weights in {tmp_path / 'default'}"
    assert [row.split()[:2] for row in rows] == [[name, "missing"] for name in CATALOGUE] + [
        ["lpips_heads", "packaged"]
    ]
    assert all(
        one.licence in row and one.digest[:12] in row for one, row in zip(CATALOGUE.values(), rows, strict=False)
    )
    assert "BSD-2-Clause" in rows[-1] and "21 kB" in rows[-1]
    assert last == "get the rest: python -m medgen_jax.weights --get all"
    there = weights("--weights", tmp_path / "my weights").stdout.splitlines()
    assert there[-1] == f"get the rest: python -m medgen_jax.weights --get all --weights '{tmp_path / 'my weights'}'"
    assert not list(tmp_path.iterdir())


def test_verified_weights_are_listed_and_not_downloaded_again(weights, shared):
    if not (shared / "weights" / CATALOGUE["lpips_alexnet"].file).is_file():
        pytest.skip("needs the weight packs of the shared folder, which are absent")
    listed = weights(MEDGEN_WEIGHTS=str(shared / "weights"))
    assert listed.stdout.count(" verified ") == len(CATALOGUE)
    assert "--get" not in listed.stdout
    got = weights("--get", "lpips_alexnet,lpips_vgg16", "--weights", shared / "weights")
    assert got.returncode == 0, got.stderr
    assert f"lpips_alexnet: {shared / 'weights'}/lpips_alexnet_fp32.npz\n  AlexNet: BSD-3-Clause" in got.stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--get", "lpips_alexnet"), "alexnet.ckpt: no connection"),
        (
            ("--get", "lpips_alexnet,vgg"),
            "weights 'vgg': not in the catalogue; there are inception, lpips_alexnet, lpips",
        ),
        (("--get="), "--get names nothing; there are inception"),
        (("--archive", "README.md"), "README.md: is no published file (sha256 "),
        (("--archive", "none.tar.gz", "--get", "all"), "none.tar.gz: cannot be read (No such file or directory)"),
        (("inception",), "unexpected argument 'inception'"),
    ],
)
def test_bad_input_is_one_line_and_code_2(weights, words, message):
    done = weights(*([words] if isinstance(words, str) else words))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and message in done.stderr
    assert done.stderr.count("\n") == 1
