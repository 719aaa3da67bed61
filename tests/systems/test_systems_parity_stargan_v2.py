"""One iteration of StarGAN v2, all four updates, against the same iteration in PyTorch over the twins."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import small_systems

torch = pytest.importorskip("torch", reason="needs PyTorch")

from benchmarks.partners import stargan_v2 as partner  # noqa: E402
from medgen_jax.interop import stargan_v2_layout as layout  # noqa: E402
from medgen_jax.interop import torch_layout  # noqa: E402
from twins.pix2pix import randomise  # noqa: E402

pytestmark = pytest.mark.parity

NAME = "stargan_v2"
#: That of `small_systems`, at step 10 of the 40 in which lambda_ds falls from 2 to 0.
INFO = layout.Info(16, 1, 2, 4, 2, 3, 3, 8, 0.0)
LAMBDAS = {"reg": 0.7, "sty": 1.3, "ds": 1.5, "cyc": 0.6}
RATES = {"generator": 1e-3, "mapping_network": 1e-4, "style_encoder": 1e-3, "discriminator": 1e-3}


def tree_of(network, named):
    """Tensors of a twin's parameters, by name, as the tree of our network."""
    arrays = {name: tensor.detach().numpy() for name, tensor in named}
    return torch_layout.to_flax(network, layout.network_rows(network, INFO), arrays)[0]


def theirs_of(part):
    """What an update learns from, as the partner takes it."""

    def tensor(array):
        array = np.array(array)
        return torch.from_numpy(array.transpose(0, 3, 1, 2).copy() if array.ndim == 4 else array)

    labels = {name: tensor(part[name]).long() for name in ("label", "target")}
    references = {f"reference_{which}": tensor(part["reference"][:, which]) for which in (0, 1)}
    return {"image": tensor(part["image"]), "latent": tensor(part["latent"]), **labels, **references}


def assert_close(ours, theirs, what):
    """Leaf by leaf to 1e-3 of its size; biases in front of norms get rounding, and a share of themselves, alone."""
    largest = max(np.abs(leaf).max() for leaf in jax.tree.leaves(theirs))
    for (path, value), mine in zip(jax.tree_util.tree_leaves_with_path(theirs), jax.tree.leaves(ours), strict=True):
        distance, allowed = np.abs(np.asarray(mine) - value).max(), 1e-3 * np.abs(value).max() + 1e-6 * largest
        assert distance <= allowed, f"{what}{jax.tree_util.keystr(path)}: {distance} > {allowed}"


def test_one_iteration():
    system, nets = small_systems.build(NAME), partner.networks(small_systems.CONFIGS[NAME]())
    for seed, net in enumerate(nets.values()):
        randomise(net, seed)
    params = {name: tree_of(name, net.named_parameters()) for name, net in nets.items()}
    fresh = small_systems.initial_state(NAME)
    state = fresh.replace(params=jax.tree.map(jnp.asarray, params), step=jnp.int32(10))
    assert jax.tree.structure(state) == jax.tree.structure(fresh)
    batch = small_systems.batch(NAME)
    batch["reference"]["label"] = np.array([1, 1, 0, 0, 0, 0, 1, 1], np.int32)
    batch["source"]["label"] = np.array([0, 0, 1, 1], np.int32)
    after, metrics = jax.device_get(small_systems.compiled(NAME, "train")(state, batch))

    adams = partner.optimisers(nets, RATES["generator"], RATES["mapping_network"])
    wanted = partner.iteration(nets, adams, theirs_of(system.parts(state, batch)), LAMBDAS)
    assert set(metrics) == {*wanted, "lambda_ds"} and metrics["lambda_ds"] == pytest.approx([LAMBDAS["ds"]])
    for name, value in wanted.items():
        assert float(metrics[name][0]) == pytest.approx(value.item(), rel=1e-4), name
    for name, net in nets.items():
        adam = after.opt[name][1]
        moments = {n: adams[name].state[p] for n, p in net.named_parameters()}
        assert {int(m["step"]) for m in moments.values()} == {int(adam.count)}
        # Without a first moment's memory it is the last gradient, L2 in it; the second moment holds the one before too.
        assert_close(adam.mu, tree_of(name, ((n, m["exp_avg"]) for n, m in moments.items())), f"gradient of {name}")
        roots = tree_of(name, ((n, m["exp_avg_sq"].sqrt()) for n, m in moments.items()))
        assert_close(jax.tree.map(np.sqrt, adam.nu), roots, f"gradients of {name}")
        weights = tree_of(name, net.named_parameters())
        gone = jax.tree.map(lambda x, y: float(np.abs(np.asarray(x) - y).mean()), after.params[name], weights)
        assert max(jax.tree.leaves(gone)) < 0.1 * RATES[name], gone
