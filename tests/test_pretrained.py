"""Pretrained networks with their real weights, against reference numbers."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest

from medgen_jax import pretrained
from medgen_jax.core.errors import UserError
from medgen_jax.interop.weight_store import CATALOGUE


def pattern(s, n, size):
    """Image ``n`` of set ``s`` of the reference numbers, (size, size, 3) uint8."""
    y, x, c = np.meshgrid(*[np.arange(k, dtype=np.float64) for k in (size, size, 3)], indexing="ij")
    waves = 100 * np.sin(2 * np.pi * (y * (1 + n % 5) + x * (1 + c)) / (29 + 11 * s) + 0.37 * n)
    return np.clip(np.floor(127.5 + waves + 20 * ((x * y * (n + 1)) % 17 - 8) / 8), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def weights(shared):
    folder = shared / "weights"
    if not all((folder / one.file).is_file() for one in CATALOGUE.values()):
        pytest.skip("needs the weight packs of the shared folder, which are absent")
    return folder


@pytest.fixture(scope="module")
def golden(root):
    return json.loads((root / "tests/metrics/golden/golden.json").read_text())


@pytest.fixture(scope="module")
def pair():
    return [pattern(s, n, 64)[None].astype(np.float32) / 127.5 - 1 for s, n in ((0, 3), (1, 5))]


@pytest.mark.parametrize(("net", "key"), [("alex", "lpips_alex_s0n3_vs_s1n5_64px"), ("vgg", "lpips_vgg_fp16weights")])
def test_lpips_gives_the_reference_distance(weights, golden, pair, net, key):
    found = pretrained.lpips(net, weights)
    distance = jax.jit(found.apply)
    np.testing.assert_allclose(distance(found.variables, *pair), [golden[key]], rtol=2e-5)
    np.testing.assert_allclose(distance(found.variables, pair[0], pair[0]), [0.0], atol=1e-12)


def test_what_belongs_to_a_network_is_told_apart(weights):
    alex, vgg, content = pretrained.lpips("alex", weights), pretrained.lpips("vgg", weights), pretrained.vgg16(weights)
    assert [found.name for found in (alex, vgg, content)] == ["lpips-alex", "lpips-vgg", "vgg16"]
    assert len({alex.digest, vgg.digest, content.digest}) == 3
    assert content.digest == CATALOGUE["lpips_vgg16"].digest
    assert all(
        leaf.dtype == np.float32 for leaf in jax.tree.leaves([found.variables for found in (alex, vgg, content)])
    )
    kernel = content.variables["params"]["conv3_1"]["kernel"]
    np.testing.assert_array_equal(kernel, vgg.variables["params"]["conv3_1"]["kernel"])
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    taps = jax.eval_shape(lambda v, x: content.apply(v, x, taps=("relu2_2", "relu3_3")), content.variables, image)
    assert {tap: part.shape for tap, part in taps.items()} == {"relu2_2": (1, 32, 32, 128), "relu3_3": (1, 16, 16, 256)}


def test_inception_gives_the_reference_features(weights, root):
    found = pretrained.inception(weights)
    assert (found.name, found.digest) == ("inception-fid", CATALOGUE["inception"].digest)
    with np.load(root / "tests/metrics/golden/golden.npz") as file:
        expected = file["feat_tf_s0"][:2]
    features = jax.jit(found.apply)(found.variables, np.stack([pattern(0, n, 299) for n in range(2)]))
    np.testing.assert_allclose(features, expected, rtol=1e-4, atol=1e-5)


def test_fixed_weights_by_the_names_that_systems_use(weights):
    variables, digests = pretrained.fixed(("vgg16",), weights)
    assert set(variables) == {"vgg16"} and digests == {"vgg16": CATALOGUE["lpips_vgg16"].digest}
    assert pretrained.fixed((), "nowhere") == ({}, {})
    with pytest.raises(UserError, match="needs the fixed weights 'resnet'; there are: vgg16"):
        pretrained.fixed(("resnet",))


def test_missing_weights_and_unknown_networks_are_said(tmp_path):
    commands = {
        "inception": lambda: pretrained.inception(tmp_path),
        "lpips_alexnet": lambda: pretrained.lpips("alex", tmp_path),
        "lpips_vgg16": lambda: pretrained.vgg16(tmp_path),
    }
    for name, make in commands.items():
        with pytest.raises(UserError, match=f"python -m medgen_jax.weights --get {name} --weights {tmp_path}"):
            make()
    with pytest.raises(UserError, match="'squeeze': expected one of alex, vgg"):
        pretrained.lpips("squeeze", tmp_path)
