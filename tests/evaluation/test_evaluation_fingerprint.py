"""Fingerprints: canonical, short, and clear about what makes numbers incomparable."""

from __future__ import annotations

import pytest

import medgen_jax
from medgen_jax.evaluation import fingerprint
from medgen_jax.nn.inception_fid import PROTOCOLS

FID = dict(
    network="inception-fid",
    weights="1234567890abcdef",
    resize="torch-fidelity",
    scaling="(v-128)/128",
    n_real=64,
    n_fake=50,
    reference="aaaaaaaabbbb",
    fake="ccccccccdddd",
    seed=0,
)


def test_text_is_short_and_in_one_order():
    expected = "fid|inception-fid w=12345678|torch-fidelity|(v-128)/128|N=64/50|real=aaaaaaaa|fake=cccccccc|seed=0"
    found = fingerprint.conditions("fid", **FID)
    assert fingerprint.text(found) == f"{expected}|medgen_jax {medgen_jax.__version__}"
    turned = fingerprint.conditions("fid", **dict(reversed(FID.items())))
    assert list(turned) == list(found) and fingerprint.text(turned) == fingerprint.text(found)


def test_conditions_that_do_not_apply_are_absent():
    found = fingerprint.conditions(
        "psnr", n_real=3, n_fake=3, settings=None, split="test", values="outputs not rounded"
    )
    assert "settings" not in found and "network" not in found
    version = medgen_jax.__version__
    assert fingerprint.text(found) == f"psnr|outputs not rounded|split=test|N=3/3|medgen_jax {version}"
    with pytest.raises(KeyError, match="reszie"):
        fingerprint.conditions("fid", reszie="clean")


def test_another_generated_set_is_no_difference():
    a, b = (fingerprint.conditions("fid", **FID | {"fake": fake, "run": fake}) for fake in ("one", "two"))
    assert fingerprint.differences(a, b) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"weights": "ffffffffffff"}, "weights: 12345678 against ffffffff (other features)"),
        ({"n_fake": 5000}, "number of generated images: 50 against 5000 (bias and spread depend on it)"),
        ({"reference": "eeeeeeeeffff"}, "reference images: aaaaaaaa against eeeeeeee (another yardstick)"),
        ({"settings": "k=3"}, "settings: none against k=3 (another definition)"),
        ({"seed": 1}, "seed: 0 against 1 (other random draws in intervals, subsets and samplers)"),
    ],
)
def test_differences_are_said_in_words(change, words):
    a, b = fingerprint.conditions("fid", **FID), fingerprint.conditions("fid", **FID | change)
    assert fingerprint.differences(a, b) == [words]


def test_every_protocol_has_its_scaling():
    assert set(fingerprint.SCALING) == set(PROTOCOLS)
