"""The networks of StarGAN v2 against PyTorch twins with the same random weights: outputs, gradients, R1."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")

from medgen_jax.interop import stargan_v2_layout as layout  # noqa: E402
from medgen_jax.interop import torch_layout  # noqa: E402
from medgen_jax.losses.adversarial import r1_penalty  # noqa: E402
from medgen_jax.nn.stargan_v2 import Discriminator, Generator, MappingNetwork, StyleEncoder  # noqa: E402
from twins import stargan_v2 as twins  # noqa: E402
from twins.pix2pix import randomise  # noqa: E402

pytestmark = pytest.mark.parity

DOMAINS, STYLE, LATENT, HIDDEN, WIDTH, WIDEST = 3, 6, 5, 7, 4, 12
LATER = [pytest.mark.slow, pytest.mark.ci_slow]
LABELS = np.array([2, 0], np.int32)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def described(size: int, channels: int, w_hpf: float = 0.0) -> layout.Info:
    return layout.Info(size, channels, WIDTH, WIDEST, DOMAINS, STYLE, LATENT, HIDDEN, w_hpf)


def theirs_of(array: np.ndarray) -> torch.Tensor:
    """As a leaf that collects gradients, NCHW if it is an image."""
    array = array.transpose(0, 3, 1, 2) if array.ndim == 4 else array
    return torch.from_numpy(array.copy()).requires_grad_()


def nhwc(tensor: torch.Tensor) -> np.ndarray:
    array = tensor.detach().numpy()
    return array.transpose(0, 2, 3, 1) if array.ndim == 4 else array


def tree_of(named: Any, network: str, info: layout.Info) -> Any:
    """Tensors of a twin, by name, as a tree for our network."""
    rows = layout.network_rows(network, info)
    arrays = {name: tensor.detach().numpy() for name, tensor in named}
    return torch_layout.to_flax(network, rows, arrays)[0]


def assert_close(ours: Any, theirs: np.ndarray, tolerance: float, what: str) -> None:
    scale = np.ptp(theirs)
    assert scale > 0, what
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * scale, what


def assert_trees_close(ours: Any, theirs: Any, tolerance: float) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs))
    for (path, wanted), got in zip(jax.tree_util.tree_leaves_with_path(theirs), jax.tree.leaves(ours), strict=True):
        what = jax.tree_util.keystr(path)
        if np.abs(wanted).max() > 1e-5 * largest:
            assert_close(got, wanted, tolerance, what)
        else:  # what no output depends on, such as a bias in front of a norm
            assert np.abs(got).max() <= 1e-5 * largest, what


def assert_parity(
    net: Any, twin: Any, network: str, info: layout.Info, inputs: tuple[np.ndarray, ...], *labels: Any
) -> None:
    """Outputs to 1e-4 of their range; gradients of a random weighting of them by inputs and parameters to 1e-3."""
    randomise(twin, seed=1)
    seen = [theirs_of(array) for array in inputs]
    wanted = twin(*seen, *(torch.from_numpy(label).long() for label in labels))
    probe = normal(9, *nhwc(wanted).shape)
    (wanted * theirs_of(probe).detach()).sum().backward()

    def loss(params: Any, *inputs: jax.Array) -> Any:
        out = net.apply({"params": params}, *inputs, *labels)
        return jnp.sum(out * probe), out

    params = tree_of(twin.named_parameters(), network, info)
    arguments = tuple(range(1 + len(inputs)))
    grads, out = jax.jit(jax.grad(loss, argnums=arguments, has_aux=True))(params, *inputs)
    assert_close(out, nhwc(wanted), 1e-4, "output")
    for ours, theirs in zip(grads[1:], seen, strict=True):
        assert_close(ours, nhwc(theirs.grad), 1e-3, "gradient of an input")
    slopes = ((n, torch.zeros_like(p) if p.grad is None else p.grad) for n, p in twin.named_parameters())
    assert_trees_close(grads[0], tree_of(slopes, network, info), 1e-3)


@pytest.mark.parametrize(("size", "channels"), [(32, 2), pytest.param(64, 3, marks=LATER)])
def test_generator(size: int, channels: int) -> None:
    info = described(size, channels)
    net = Generator(size=size, channels=channels, width=WIDTH, max_width=WIDEST)
    twin = twins.Generator(size, STYLE, WIDEST, 0, channels, WIDTH)
    assert_parity(net, twin, "generator", info, (normal(0, 2, size, size, channels), normal(1, 2, STYLE)))


@pytest.mark.slow
@pytest.mark.ci_slow
def test_generator_with_high_pass_skips() -> None:
    """Skips at 32 and 64 pixels, each with a mask of its own, of another size than the images."""
    size, w_hpf = 64, 2.5
    info = described(size, 2, w_hpf)
    net = Generator(size=size, channels=2, width=WIDTH, max_width=WIDEST, w_hpf=w_hpf)
    twin = twins.Generator(size, STYLE, WIDEST, w_hpf, 2, WIDTH)
    taps = twin.hpf.filter  # as a buffer it would become random with the weights
    del twin.hpf.filter
    twin.hpf.filter = taps
    mask = np.random.default_rng(3).random((2, 96, 96, 2)).astype(np.float32)
    masks = torch.from_numpy(mask.transpose(0, 3, 1, 2).copy())
    forward = twin.forward
    twin.forward = lambda x, s: forward(x, s, (masks[:, :1], masks[:, 1:]))

    class Masked:
        def apply(self, variables: Any, x: jax.Array, s: jax.Array) -> jax.Array:
            return net.apply(variables, x, s, mask)

    assert_parity(Masked(), twin, "generator", info, (normal(0, 2, size, size, 2), normal(1, 2, STYLE)))


def test_mapping_network() -> None:
    twin = twins.MappingNetwork(LATENT, STYLE, DOMAINS, HIDDEN)
    net = MappingNetwork(DOMAINS, STYLE, HIDDEN)
    assert_parity(net, twin, "mapping_network", described(16, 1), (normal(0, 2, LATENT),), LABELS)


@pytest.mark.slow
@pytest.mark.ci_slow
def test_style_encoder() -> None:
    twin = twins.StyleEncoder(16, STYLE, DOMAINS, WIDEST, 1, WIDTH)
    net = StyleEncoder(size=16, channels=1, width=WIDTH, max_width=WIDEST, domains=DOMAINS, style_width=STYLE)
    assert_parity(net, twin, "style_encoder", described(16, 1), (normal(0, 2, 16, 16, 1),), LABELS)


@pytest.mark.slow
@pytest.mark.ci_slow
def test_discriminator() -> None:
    twin = twins.Discriminator(16, DOMAINS, WIDEST, 3, WIDTH)
    net = Discriminator(size=16, channels=3, width=WIDTH, max_width=WIDEST, domains=DOMAINS)
    assert_parity(net, twin, "discriminator", described(16, 3), (normal(0, 2, 16, 16, 3),), LABELS)


def test_r1_of_the_discriminator() -> None:
    """The penalty and its gradient, which differentiates the discriminator twice."""
    info = described(16, 1)
    twin = twins.Discriminator(16, DOMAINS, WIDEST, 1, WIDTH)
    randomise(twin, seed=1)
    net = Discriminator(size=16, channels=1, width=WIDTH, max_width=WIDEST, domains=DOMAINS)
    x = normal(0, 2, 16, 16, 1)
    seen = theirs_of(x)
    logits = twin(seen, torch.from_numpy(LABELS).long())
    (slope,) = torch.autograd.grad(logits.sum(), seen, create_graph=True)
    penalty = 0.5 * slope.square().sum((1, 2, 3)).mean()
    wanted = torch.autograd.grad(penalty, list(twin.parameters()), allow_unused=True)

    def loss(params: Any) -> tuple[jax.Array, jax.Array]:
        return r1_penalty(lambda x: net.apply({"params": params}, x, LABELS), x)

    params = tree_of(twin.named_parameters(), "discriminator", info)
    (ours, judged), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    assert ours == pytest.approx(penalty.item(), rel=1e-4)
    assert_close(judged, logits.detach().numpy(), 1e-4, "logits")
    slopes = (
        (name, torch.zeros_like(p) if g is None else g)
        for (name, p), g in zip(twin.named_parameters(), wanted, strict=True)
    )
    assert_trees_close(grads, tree_of(slopes, "discriminator", info), 1e-3)
