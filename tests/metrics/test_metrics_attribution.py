"""Class activation maps: closed forms, pytorch-grad-cam's stored maps of real X-rays, tests of the tests."""

import csv
import itertools
import json
import pathlib

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hashed import hashed
from PIL import Image

from medgen_jax.core.errors import UserError
from medgen_jax.metrics import anomaly_maps, attribution

GOLDEN = pathlib.Path(__file__).parent / "golden" / "gradcam_package.json"
WIDTHS = (1, 8, 16, 16, 16)  # four convolutions, the third is tapped
CLASSES = 2


def weights(family=300):
    """Of the small CNN: (out, in, 3, 3) and (out,) for each convolution, then (classes, 16) and (classes,)."""

    def uniform(seed, spread, *shape):
        return np.float32((2 * hashed(family + seed, *shape) - 1) * spread)

    layers = [
        (uniform(20 + i, (6 / (9 * a)) ** 0.5, b, a, 3, 3), uniform(30 + i, 0.1, b))
        for i, (a, b) in enumerate(itertools.pairwise(WIDTHS))
    ]
    return [*layers, (uniform(40, 0.6, CLASSES, WIDTHS[-1]), uniform(41, 0.1, CLASSES))]


def radiographs(folder):
    """The first four images of normal/ and of pneumonia/ by file name, (8, 256, 256, 1) in [-1, 1], and their names."""
    with open(folder / "data/cxr/index.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["licence_class"] == "permissive"]
    names = [sorted(row["file"] for row in rows if row["label"] == label)[:4] for label in ("normal", "pneumonia")]
    names = [*names[0], *names[1]]
    images = [np.asarray(Image.open(folder / "data/cxr" / name).convert("L"), np.float32) for name in names]
    return np.stack(images)[..., None] / np.float32(127.5) - 1, names


class SmallCNN(nn.Module):
    """3x3 convolutions of stride 2 with ReLU, the mean, one linear layer."""

    def setup(self):
        self.convs = [nn.Conv(width, (3, 3), (2, 2), padding=1) for width in WIDTHS[1:]]
        self.fc = nn.Dense(CLASSES)

    def features(self, x):
        for conv in self.convs[:3]:
            x = nn.relu(conv(x))
        return x

    def head(self, a):
        return self.fc(jnp.mean(nn.relu(self.convs[3](a)), axis=(1, 2)))

    def __call__(self, x):
        return self.head(self.features(x))


def flax_params(family=300):
    *convs, (kernel, bias) = weights(family)
    params = {f"convs_{i}": {"kernel": k.transpose(2, 3, 1, 0), "bias": b} for i, (k, b) in enumerate(convs)}
    return params | {"fc": {"kernel": kernel.T, "bias": bias}}


MODULE = SmallCNN()
TAPPED = attribution.tap(
    lambda params, images: MODULE.apply({"params": params}, images, method="features"),
    lambda params, activations: MODULE.apply({"params": params}, activations, method="head"),
)
grad_cam = jax.jit(attribution.grad_cam, static_argnums=0, static_argnames="rectify")


def test_cam_by_hand():
    """Two channels at four places; the weights of class 1 are 2 and -1."""
    activations = np.float32([[[[1, 0], [0, 1]], [[3, 1], [0, 0]]]])
    got = attribution.class_activation(activations, np.float32([[5, 2], [5, -1]]), np.array([1]))
    np.testing.assert_array_equal(got, [[[2, -1], [5, 0]]])


def linear(params, activations):
    return jnp.mean(activations, axis=(1, 2)) @ params["w"] + params["b"][None]


def test_grad_cam_of_a_linear_head_is_cam_over_the_pooled_positions():
    activations = np.float32(2 * hashed(1, 3, 5, 7, 4) - 1)
    params, classes = {"w": np.float32(2 * hashed(2, 4, 3) - 1), "b": np.ones(3, np.float32)}, np.array([0, 2, 1])
    tapped = attribution.tap(lambda params, images: images, linear)
    cam = np.asarray(attribution.class_activation(activations, params["w"], classes))
    got = grad_cam(tapped, params, activations, classes)
    np.testing.assert_allclose(got, np.maximum(cam, 0) / 35, atol=1e-7)
    signed = grad_cam(tapped, params, activations, classes, rectify=False)
    np.testing.assert_allclose(signed, cam / 35, atol=1e-7)
    assert (cam < 0).any() and (cam > 0).any()


def test_grad_cam_of_a_square_by_hand():
    """y = sum A^2 over both channels: dy/dA = 2 A, its means 2 * (5/2) and 2 * (-1/2) at two places."""
    activations = np.float32([[[[2, -1], [3, 0]]]])
    tapped = attribution.tap(lambda _, x: x, lambda _, a: jnp.sum(a**2, axis=(1, 2, 3))[:, None])
    np.testing.assert_allclose(grad_cam(tapped, {}, activations), [[[11, 15]]])


def test_the_greatest_logit_is_explained_by_default():
    images, params = np.float32(2 * hashed(3, 2, 32, 32, 1) - 1), flax_params()
    logits = MODULE.apply({"params": params}, images)
    got = grad_cam(TAPPED, params, images)
    np.testing.assert_array_equal(got, grad_cam(TAPPED, params, images, jnp.argmax(logits, 1)))
    assert np.abs(got - grad_cam(TAPPED, params, images, jnp.argmin(logits, 1))).max() > 1e-4


def test_agrees_with_pytorch_grad_cam_on_real_radiographs(shared):
    stored = json.loads(GOLDEN.read_text())
    images, names = radiographs(shared)
    assert names == stored["files"]
    params, classes = flax_params(), np.array(stored["classes"])
    logits = MODULE.apply({"params": params}, images)
    np.testing.assert_allclose(logits, stored["logits"], atol=1e-4)
    raw = grad_cam(TAPPED, params, images, classes)
    assert raw.shape == (8, 32, 32)
    scale = np.max(stored["raw_max"])
    np.testing.assert_allclose(raw[:, ::8, ::8] / scale, np.array(stored["raw"]) / scale, atol=1e-4)
    np.testing.assert_allclose(raw.max((1, 2)) / scale, np.array(stored["raw_max"]) / scale, atol=1e-4)
    maps = attribution.scaled_maps(raw, (256, 256))
    np.testing.assert_allclose(maps[:, ::32, ::32], stored["scaled"], atol=1e-4)
    np.testing.assert_allclose(maps.mean((1, 2)), stored["scaled_mean"], atol=1e-4)


class Perturbed(nn.Module):
    """The same network with Flax's own tap."""

    @nn.compact
    def __call__(self, x):
        for i, width in enumerate(WIDTHS[1:]):
            x = nn.relu(nn.Conv(width, (3, 3), (2, 2), padding=1, name=f"convs_{i}")(x))
            if i == 2:
                x = self.perturb("last", x)
                self.sow("intermediates", "last", x)
        return nn.Dense(CLASSES, name="fc")(jnp.mean(x, axis=(1, 2)))


def by_perturb(params, images, perturbation):
    variables = {"params": params, "perturbations": {"last": perturbation}}
    logits, state = Perturbed().apply(variables, images, mutable=["intermediates"])
    return logits, state["intermediates"]["last"][0]


def by_interception(params, images, perturbation):
    seen = []

    def add(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if context.method_name == "features":
            out = out + perturbation
            seen.append(out)
        return out

    with nn.intercept_methods(add):
        return MODULE.apply({"params": params}, images), seen[0]


def test_every_way_to_tap_a_flax_module_gives_its_map():
    images, params, classes = np.float32(2 * hashed(4, 2, 32, 32, 1) - 1), flax_params(), np.array([0, 1])
    wanted = grad_cam(TAPPED, params, images, classes)
    assert (wanted > 0).any((1, 2)).all()
    for tapped in (by_perturb, by_interception):
        np.testing.assert_allclose(grad_cam(tapped, params, images, classes), wanted, atol=1e-7)


def test_activations_keep_their_dtype():
    """A perturbation in float32 would silently compute the head of a bfloat16 network in float32."""
    seen = []

    def head(params, activations):
        seen.append(activations.dtype)
        return linear(params, activations)

    tapped = attribution.tap(lambda _, x: x.astype(jnp.bfloat16), head)
    params = {"w": jnp.ones((4, 2), jnp.bfloat16), "b": jnp.zeros(2, jnp.bfloat16)}
    maps = attribution.grad_cam(tapped, params, np.float32(hashed(5, 1, 4, 4, 4)), np.array([1]))
    assert maps.dtype == jnp.float32 and set(seen) == {jnp.dtype(jnp.bfloat16)}


def test_upsampling_by_hand():
    """From 2 to 4 pixels the centres fall a quarter into the old ones, and edges continue."""
    got = attribution.upsample(np.float32([[[0, 4]]]), (1, 4))
    np.testing.assert_allclose(got, [[[0, 1, 3, 4]]])


def test_scaling_by_hand():
    got = attribution.min_max(np.float32([[[1, 3, 2]], [[7, 7, 7]], [[0, 0, 1e-7]]]))
    np.testing.assert_allclose(got, [[[0, 1, 0.5]], [[0, 0, 0]], [[0, 0, 0.5]]], atol=1e-6)


def first_pixels(weights):
    """A score linear in the pixels: its exact importance is its weights."""
    return lambda images: jnp.sum(images[..., 0] * weights, axis=(1, 2))


def test_deletion_and_insertion_by_hand():
    """Four pixels worth 4, 3, 2, 1 go in turn: 10, 6, 3, 1, 0 come out, and 0, 4, 7, 9, 10 go in."""
    worth = np.float32([[[1, 4], [2, 3]]])
    images, black = np.ones((1, 2, 2, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32)
    out = attribution.deletion_curve(first_pixels(worth), images, worth, black, steps=4)
    into = attribution.insertion_curve(first_pixels(worth), images, worth, black, steps=4)
    np.testing.assert_array_equal(out, [[10, 6, 3, 1, 0]])
    np.testing.assert_array_equal(into, [[0, 4, 7, 9, 10]])
    assert float(attribution.curve_area(out)[0]) == (5 + 6 + 3 + 1) / 4
    assert float(attribution.curve_area(into)[0]) == (0 + 4 + 7 + 9 + 5) / 4
    two = attribution.deletion_curve(first_pixels(worth), images, -worth, black, steps=2)
    np.testing.assert_array_equal(two, [[10, 7, 0]])


def test_a_constant_map_deletes_at_random():
    """In reading order the upper half of the score would go first; at random, about evenly."""
    worth = np.zeros((1, 16, 16), np.float32)
    worth[:, :8] = 1 / 128
    images, black = np.ones((2, 16, 16, 1), np.float32), np.zeros((1, 1, 1, 1), np.float32)
    curve = jax.jit(lambda m: attribution.deletion_curve(first_pixels(worth), images, m, black, steps=8))
    got = np.asarray(curve(np.full((2, 16, 16), 3.0)))
    np.testing.assert_allclose(got[0], 1 - np.arange(9) / 8, atol=0.1)
    np.testing.assert_array_equal(got[0], got[1])
    assert np.isnan(curve(np.stack([np.ones((16, 16)), np.full((16, 16), np.nan)]))[1]).all()


def test_rank_correlation_by_hand():
    """Ranks 1, 2.5, 2.5, 4 against 1, 2, 3, 4: 4.5 / sqrt(4.5 * 5). Rising functions change nothing."""
    a = np.float32([[1, 5, 5, 9], [1, 5, 5, 9], [1, 2, 3, 4], [3, 3, 3, 3]])
    b = np.float32([[1, 2, 3, 4], [1, 8, 8, 99], [-1, -8, -27, -64], [1, 2, 3, 4]])
    got = attribution.rank_correlation(a.reshape(4, 2, 2), b.reshape(4, 2, 2))
    np.testing.assert_allclose(got, [4.5 / np.sqrt(4.5 * 5), 1, -1, 0], atol=1e-12)


def test_rank_correlation_agrees_with_scipy():
    stats = pytest.importorskip("scipy.stats")
    a, b = np.round(hashed(6, 3, 20, 20) * 30), np.round(hashed(7, 3, 20, 20) * 30)
    b += np.array([0, 0.5, 5]).reshape(3, 1, 1) * a
    wanted = [stats.spearmanr(x.ravel(), y.ravel()).statistic for x, y in zip(a, b, strict=True)]
    np.testing.assert_allclose(attribution.rank_correlation(a, b), wanted, atol=1e-12)


def test_layers_become_fresh_one_after_another():
    params = {"head": {"w": 1}, "body": {"a": {"w": 2}, "b": {"w": 3}}, "stem": 4}
    fresh = {"head": {"w": -1}, "body": {"a": {"w": -2}, "b": {"w": -3}}, "stem": -4}
    turns = list(attribution.randomise_in_turn(params, fresh, ["head", "body/b", "body", "stem"]))
    assert [name for name, _ in turns] == ["head", "body/b", "body", "stem"]
    assert turns[0][1] == params | {"head": {"w": -1}}
    assert turns[1][1] == {"head": {"w": -1}, "body": {"a": {"w": 2}, "b": {"w": -3}}, "stem": 4}
    assert turns[3][1] == fresh
    assert params["head"] == {"w": 1} and params["body"]["b"] == {"w": 3}


def test_randomised_weights_tell_grad_cam_from_an_edge_detector(shared):
    """Maps of the network change when it does; the image's own gradient, which ignores it, does not."""
    images, _ = radiographs(shared)
    params, classes = flax_params(), np.array([0, 1] * 4)
    layers = ["fc", "convs_3", "convs_2", "convs_1", "convs_0"]

    def check(maps_of, family):
        return attribution.randomisation_check(maps_of, params, flax_params(family), layers)

    learned = [check(lambda p: grad_cam(TAPPED, p, images, classes), family) for family in range(500, 1100, 100)]
    assert all(list(row) == layers and row["fc"].shape == (8,) for row in learned)
    assert abs(np.mean([row["convs_0"] for row in learned])) < 0.2
    edges = check(lambda _: np.abs(np.diff(images[..., 0], axis=1)), 500)
    np.testing.assert_allclose(list(edges.values()), 1, atol=1e-12)


def test_raw_maps_go_straight_into_the_measures_of_localisation():
    """A network of one filter that looks for brightness, and a bright box."""
    images = np.zeros((1, 16, 16, 1), np.float32)
    images[0, 4:8, 8:12] = 1
    tapped = attribution.tap(lambda _, x: x, lambda _, a: jnp.mean(a, axis=(1, 2)))
    maps = grad_cam(tapped, {}, images)
    target = images[..., 0] > 0
    for measured in (anomaly_maps.pointing_hits, anomaly_maps.energy_in_mask):
        assert float(measured(maps, target)[0]) == 1


def test_bad_input_is_named():
    images, params = np.float32(hashed(8, 2, 32, 32, 1)), flax_params()
    with pytest.raises(UserError, match="record 1 asks for class 2; there are 2, counted from 0"):
        attribution.grad_cam(TAPPED, params, images, np.array([0, 2]))
    with pytest.raises(UserError, match="record 0 asks for class -1"):
        attribution.class_activation(np.ones((1, 2, 2, 3)), np.ones((3, 4)), np.array([-1]))
    with pytest.raises(UserError, match=r"classes have shape \(3,\); each of 2 images needs one"):
        attribution.grad_cam(TAPPED, params, images, np.array([0, 1, 1]))
    maps = grad_cam(TAPPED, params, images, np.array([0, 2]))
    np.testing.assert_array_equal(np.isnan(maps).all((1, 2)), [False, True])
    pooled = attribution.tap(lambda p, x: jnp.mean(x, axis=(1, 2)), lambda p, a: a)
    with pytest.raises(UserError, match=r"the tapped layer gives \(2, 1\)"):
        attribution.grad_cam(pooled, params, images)
    dense = attribution.tap(lambda p, x: x, lambda p, a: a)
    with pytest.raises(UserError, match=r"logits have shape \(2, 32, 32, 1\)"):
        attribution.grad_cam(dense, params, images)
    with pytest.raises(UserError, match=r"weights \(4, 3\) for activations \(1, 2, 2, 3\)"):
        attribution.class_activation(np.ones((1, 2, 2, 3)), np.ones((4, 3)), np.array([0]))
    score, black = first_pixels(1.0), np.zeros((1, 1, 1, 1), np.float32)
    with pytest.raises(UserError, match=r"maps \(2, 4, 4\) for images \(2, 32, 32, 1\); upsample"):
        attribution.deletion_curve(score, images, np.ones((2, 4, 4)), black)
    with pytest.raises(UserError, match="2000 steps over 1024 pixels"):
        attribution.insertion_curve(score, images, np.ones((2, 32, 32)), black, steps=2000)
    bad = np.ones((2, 32, 32))
    bad[1, 0, 0] = np.nan
    with pytest.raises(UserError, match="deletion: the map of record 1 holds NaN"):
        attribution.deletion_curve(score, images, bad, black)
    with pytest.raises(UserError, match="rank correlation: the map of record 1 holds NaN"):
        attribution.rank_correlation(np.ones((2, 32, 32)), bad)
    with pytest.raises(UserError, match=r"shapes \(2, 4\) and \(2, 5\)"):
        attribution.rank_correlation(np.ones((2, 4)), np.ones((2, 5)))
    with pytest.raises(UserError, match="no layer 'fc/w' in both sets of parameters; there is kernel, bias"):
        list(attribution.randomise_in_turn(params, params, ["fc/w"]))
    wider = params | {"fc": {"kernel": np.ones((16, 3)), "bias": np.ones(3)}}
    with pytest.raises(UserError, match="layer 'fc' has other shapes"):
        list(attribution.randomise_in_turn(params, wider, ["fc"]))
