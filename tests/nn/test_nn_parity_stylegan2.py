"""StyleGAN2 against PyTorch twins with the same random weights: outputs, gradients, R1 and path length.

The twins compute in float64, so that what differs is our rounding.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stylegan2_layout import arrays, discriminator_tree, generator_tree, gradients

torch = pytest.importorskip("torch")

from medgen_jax.core.trees import count  # noqa: E402
from medgen_jax.losses.adversarial import generator_loss, r1_penalty  # noqa: E402
from medgen_jax.losses.stylegan2 import path_lengths, path_penalty  # noqa: E402
from medgen_jax.nn.stylegan2 import Discriminator, Generator  # noqa: E402
from twins import stylegan2 as twins  # noqa: E402

pytestmark = pytest.mark.parity

SIZE, CHANNELS, CLASSES, BATCH, GROUP = 8, 2, 3, 4, 2
WIDTHS = {"map_layers": 2, "channel_base": 48, "channel_max": 8}
LATER = [pytest.mark.slow, pytest.mark.ci_slow]
LABELS = np.array([2, 0, 1, 1])
#: The reference's groups are strided, ours consecutive: its batch in this order has ours as its groups.
STRIDED = [0, 2, 1, 3]


def nhwc(tensor: Any) -> np.ndarray:
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def nchw(array: np.ndarray) -> Any:
    return torch.from_numpy(array.transpose(0, 3, 1, 2).astype(np.float64)).requires_grad_()


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def one_hot(labels: np.ndarray) -> Any:
    return torch.eye(CLASSES, dtype=torch.float64)[torch.from_numpy(labels)]


def assert_close(ours: Any, theirs: np.ndarray, tolerance: float, what: str) -> None:
    scale = max(np.ptp(theirs), np.abs(theirs).max())
    assert scale > 0, what
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * scale, what


def assert_trees_close(ours: Any, theirs: Any, tolerance: float) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, wanted), got in zip(jax.tree_util.tree_leaves_with_path(theirs), jax.tree.leaves(ours), strict=True):
        assert got.shape == wanted.shape, jax.tree_util.keystr(path)
        if np.any(wanted):
            assert_close(got, wanted, tolerance, jax.tree_util.keystr(path))
        else:
            np.testing.assert_array_equal(got, wanted)


def generators() -> tuple[Any, Generator]:
    twin = twins.randomised(lambda: twins.Generator(SIZE, CHANNELS, CLASSES, 6, 5, 2, 48, 8), 1)
    return twin, Generator(SIZE, CHANNELS, CLASSES, 6, 5, **WIDTHS)


def discriminators(classes: int) -> tuple[Any, Discriminator]:
    twin = twins.randomised(lambda: twins.Discriminator(SIZE, CHANNELS, classes, 2, 48, 8, GROUP), 2)
    return twin, Discriminator(SIZE, CHANNELS, classes, minibatch_group=GROUP, **WIDTHS)


def test_generator() -> None:
    """Images, and gradients of a random weighting of them by every parameter and the codes."""
    twin, net = generators()
    params, constants = generator_tree(arrays(twin.state_dict().items()))
    averages = {"mapping": {"w": np.zeros(5, np.float32)}}
    z, probe = normal(0, BATCH, 6), normal(1, BATCH, SIZE, SIZE, CHANNELS)
    codes = torch.from_numpy(z).double().requires_grad_()
    wanted = twin(codes, one_hot(LABELS))
    (wanted * nchw(probe).detach()).sum().backward()

    def loss(params: Any, z: jax.Array) -> Any:
        images = net.apply({"params": params, "constants": constants, "averages": averages}, z, LABELS, noise="const")
        return jnp.sum(images * probe), images

    (slopes, of_codes), images = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, z)
    assert_close(images, nhwc(wanted), 1e-4, "images")
    assert_close(of_codes, nhwc(codes.grad), 1e-3, "gradient of the codes")
    assert_trees_close(slopes, generator_tree(gradients(twin))[0], 1e-3)


@pytest.mark.parametrize("classes", [CLASSES, pytest.param(0, marks=LATER)])
def test_discriminator_and_r1(classes: int) -> None:
    """Logits; R1; gradients of their sum by every parameter."""
    twin, net = discriminators(classes)
    params = discriminator_tree(arrays(twin.state_dict().items()))
    images = normal(3, BATCH, SIZE, SIZE, CHANNELS)
    labels = LABELS if classes else None
    seen = nchw(images[STRIDED])
    logits = twin(seen, one_hot(LABELS[STRIDED]) if classes else None)
    (slope,) = torch.autograd.grad(logits.sum(), seen, create_graph=True)
    r1 = slope.square().sum((1, 2, 3)).mean() / 2
    (torch.nn.functional.softplus(-logits).mean() + r1).backward()

    def loss(params: Any) -> Any:
        def score(x: jax.Array) -> jax.Array:
            return net.apply({"params": params}, x, labels)

        ours = score(images)
        penalty, _ = r1_penalty(score, images)
        return generator_loss(ours) + penalty, (ours, penalty)

    slopes, (ours, penalty) = jax.jit(jax.grad(loss, has_aux=True))(params)
    assert_close(ours, nhwc(logits)[STRIDED], 1e-4, "logits")
    assert float(penalty) == pytest.approx(r1.item(), rel=1e-4)
    assert_trees_close(slopes, discriminator_tree(gradients(twin)), 1e-3)


def test_path_length() -> None:
    """Lengths, penalty, new mean, and gradients of the penalty by every parameter."""
    twin, net = generators()
    params, constants = generator_tree(arrays(twin.state_dict().items()))
    styles, probe, mean = normal(4, BATCH, net.styles, 5), normal(5, BATCH, SIZE, SIZE, CHANNELS), 0.7
    ws = torch.from_numpy(styles).double().requires_grad_()
    images = twin.synthesis(ws)
    (slope,) = torch.autograd.grad((images * nchw(probe)).sum() / SIZE, ws, create_graph=True)
    lengths = slope.square().sum(2).mean(1).sqrt()
    new = mean + 0.01 * (lengths.mean() - mean)
    penalty = (lengths - new).square().mean()
    penalty.backward()

    def loss(params: Any) -> Any:
        def synthesise(ws: jax.Array) -> jax.Array:
            return net.apply({"params": params, "constants": constants}, ws, "const", method="synthesise")

        ours = path_lengths(synthesise, styles, probe)
        value, new = path_penalty(ours, mean)
        return value, (ours, value, new)

    slopes, ours = jax.jit(jax.grad(loss, has_aux=True))({**params, "mapping": {}})
    assert_close(ours[0], nhwc(lengths), 1e-4, "lengths")
    assert float(ours[1]) == pytest.approx(penalty.item(), rel=1e-4)
    assert float(ours[2]) == pytest.approx(new.item(), rel=1e-5)
    wanted = generator_tree(gradients(twin))[0]["synthesis"]
    assert_trees_close(slopes["synthesis"], wanted, 1e-3)


@pytest.mark.parametrize(
    ("size", "channels", "classes", "base"), [pytest.param(256, 1, 3, 16384, marks=LATER), (64, 3, 0, 2048)]
)
def test_published_widths_have_as_many_parameters(size: int, channels: int, classes: int, base: int) -> None:
    net = Generator(size, channels, classes, channel_base=base)
    judge = Discriminator(size, channels, classes, channel_base=base)
    labels = jnp.zeros(4, int) if classes else None
    images = jax.ShapeDtypeStruct((4, size, size, channels), jnp.float32)
    made = jax.eval_shape(net.init, jax.random.key(0), jnp.zeros((4, 512)), labels)
    judged = jax.eval_shape(judge.init, jax.random.key(0), images, labels)
    with torch.device("meta"):
        twin = twins.Generator(size, channels, classes, 512, 512, 8, base, 512)
        other = twins.Discriminator(size, channels, classes, 8, base, 512, 4)
    assert count(made["params"]) == sum(p.numel() for p in twin.parameters())
    assert count(judged["params"]) == sum(p.numel() for p in other.parameters())
    assert jax.eval_shape(judge.apply, judged, images, labels).shape == (4,)
    assert jax.eval_shape(lambda v, z: net.apply(v, z, labels, noise="const"), made, jnp.zeros((4, 512))) == images
