"""DCGAN and the fully connected GAN against PyTorch twins with the same weights: outputs, statistics, gradients."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import latent_layout
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs PyTorch")

from medgen_jax.core import trees  # noqa: E402
from medgen_jax.nn.dcgan import DCGANDiscriminator, DCGANGenerator  # noqa: E402
from medgen_jax.nn.mlp_gan import MLPDiscriminator, MLPGenerator  # noqa: E402
from twins import dcgan, mlp_gan  # noqa: E402
from twins.pix2pix import randomise  # noqa: E402

pytestmark = pytest.mark.parity

LATENT, SHAPE = 7, (6, 5, 2)
PAIRS = {
    "dcgan-g": (lambda: dcgan.Generator(3, LATENT, 8, 2), DCGANGenerator(16, 3, 8), (4, LATENT)),
    "dcgan-d": (lambda: dcgan.Discriminator(3, 8, 2), DCGANDiscriminator(8), (4, 16, 16, 3)),
    "mlp-g": (lambda: mlp_gan.Generator(SHAPE, LATENT, (8, 12, 16)), MLPGenerator(SHAPE, (8, 12, 16)), (4, LATENT)),
    "mlp-d": (lambda: mlp_gan.Discriminator(SHAPE, (8, 12)), MLPDiscriminator((8, 12)), (4, *SHAPE)),
}


def nchw(x):
    return torch.from_numpy(np.asarray(x).transpose(0, 3, 1, 2).copy() if x.ndim == 4 else np.array(x))


def nhwc(x):
    x = x.detach().numpy()
    return x.transpose(0, 2, 3, 1) if x.ndim == 4 else x


def assert_close(ours, theirs, tolerance):
    """Largest difference within ``tolerance`` of the range."""
    assert np.ptp(theirs) > 0
    assert np.abs(np.asarray(ours) - theirs).max() <= tolerance * np.ptp(theirs)


@pytest.mark.parametrize("name", PAIRS)
def test_output_statistics_and_gradients(name):
    make, network, shape = PAIRS[name]
    twin = make()
    randomise(twin, seed=1)
    params, stats = latent_layout.ours(twin.state_dict())
    x = jax.random.normal(jax.random.key(2), shape)

    def answer(params, x, mode):
        return network.apply({"params": params, "batch_stats": stats}, x, stats=mode, mutable=["batch_stats"])

    def loss(params, x):
        out, new = answer(params, x, "batch")
        weights = jnp.cos(jnp.arange(out.size, dtype=jnp.float32)).reshape(out.shape)
        return jnp.sum(weights * out), (out, new.get("batch_stats", {}))

    assert_close(jax.jit(answer, static_argnums=2)(params, x, "running")[0], nhwc(twin.eval()(nchw(x))), 1e-4)
    gradients, (out, new) = jax.jit(jax.grad(loss, argnums=(0, 1), has_aux=True))(params, x)
    given = nchw(x).requires_grad_()
    wanted = twin.train()(given)
    assert_close(out, nhwc(wanted), 1e-4)
    weights = np.cos(np.arange(out.size, dtype=np.float32)).reshape(out.shape)
    (nchw(weights) * wanted).sum().backward()
    theirs, _ = latent_layout.ours({n: p.grad for n, p in twin.named_parameters()})
    assert jax.tree.structure(theirs) == jax.tree.structure(gradients[0])
    for (path, ours), value in zip(
        jax.tree_util.tree_leaves_with_path(gradients[0]), jax.tree.leaves(theirs), strict=True
    ):
        assert np.abs(ours - value).max() <= 1e-3 * np.abs(value).max() > 0, jax.tree_util.keystr(path)
    assert_close(gradients[1], nhwc(given.grad), 1e-3)
    _, after = latent_layout.ours(twin.state_dict())
    assert bool(after) == (name != "mlp-d")
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), dict(new), after)


@pytest.mark.parametrize(
    ("twin", "network", "shape"),
    [
        (dcgan.Generator, DCGANGenerator(), (1, 100)),
        (dcgan.Discriminator, DCGANDiscriminator(), (1, 64, 64, 3)),
        (lambda: mlp_gan.Generator((64, 64, 1)), MLPGenerator((64, 64, 1)), (1, 100)),
        (lambda: mlp_gan.Discriminator((64, 64, 1)), MLPDiscriminator(), (1, 64, 64, 1)),
    ],
)
def test_counts_at_full_size(twin, network, shape):
    with torch.device("meta"):
        theirs = sum(p.numel() for p in twin().parameters())
    variables = jax.eval_shape(network.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
    assert trees.count(variables["params"]) == theirs
