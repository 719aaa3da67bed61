"""A step of StyleGAN2 with both regularisers against the same step in PyTorch over the twins, in float64."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import small_systems
from stylegan2_layout import arrays, discriminator_tree, generator_tree, gradients

torch = pytest.importorskip("torch", reason="needs PyTorch")

from medgen_jax.core import config as configs  # noqa: E402
from medgen_jax.core import rng  # noqa: E402
from medgen_jax.systems import stylegan2  # noqa: E402
from medgen_jax.systems.stylegan2_options import DiversityScope, Pipe  # noqa: E402
from twins import stylegan2 as twins  # noqa: E402

pytestmark = pytest.mark.parity

CLASSES, PATH_MEAN, RATE = 3, 0.7, 1e-5
softplus = torch.nn.functional.softplus


def setting(scope):
    """A system without augmentation, with constant noise, and the twins with its weights."""
    config = small_systems.CONFIGS["stylegan2"]()
    config.data.classes = ("a", "b", "c")
    config.ada.pipe, config.loss.ds_scope, config.loss.mixing = Pipe.NONE, scope, 1.0
    config.optim.lr = RATE
    system = stylegan2.build(configs.resolve(config, 16))
    system = dataclasses.replace(system, maker=dataclasses.replace(system.maker, noise="const"))
    model = config.model
    widths = (model.map_layers, model.channel_base, model.channel_max)
    g = twins.randomised(lambda: twins.Generator(8, 1, CLASSES, model.z_dim, model.w_dim, *widths), 1)
    d = twins.randomised(lambda: twins.Discriminator(8, 1, CLASSES, *widths, model.minibatch_group), 2)
    state = jax.jit(system.init)(jax.random.key(0))
    params, constants = generator_tree(arrays(g.state_dict().items()))
    mutable = {"g": {**state.mutable["g"], "constants": constants}}
    params = {"g": params, "d": discriminator_tree(arrays(d.state_dict().items()))}
    extra = {**state.extra, "path_mean": np.float32(PATH_MEAN)}
    made = state.replace(params=params, mutable=mutable, extra=extra)
    assert jax.tree.structure(made) == jax.tree.structure(state)
    return system, made, g, d


def double(x):
    return torch.from_numpy(np.array(x)).double()


def one_hot(labels):
    return torch.eye(CLASSES, dtype=torch.float64)[torch.from_numpy(np.array(labels)).long()]


def styles(g, codes, crossover):
    c, layers = one_hot(codes["label"]), 2 * len(g.synthesis.sides)
    low, high = (g.mapping(double(codes[name]), c)[:, None].repeat(1, layers, 1) for name in ("z", "mixed"))
    return torch.cat([low[:, :crossover], high[:, crossover:]], 1)


class Reference:
    """The published order of updates; terms and gradients by name."""

    def __init__(self, system, g, d, keys):
        self.system, self.g, self.d, self.keys = system, g, d, keys
        k = {"g": 2 / 3, "d": 2 / 3}  # both regularisers come every second step
        nets = {"g": g, "d": d}
        self.adams = {n: torch.optim.Adam(nets[n].parameters(), RATE * k[n], (0.0, 0.99 ** k[n])) for n in nets}
        self.terms, self.slopes = {}, {}

    def drawn(self, phase, labels, *more):
        keys = rng.named(self.keys[phase], "codes", "crossover", "loss", *more)
        maker = self.system.maker
        return keys, maker.codes(keys["codes"], labels), int(maker.crossover(keys["crossover"]))

    def update(self, player, name, loss):
        net = self.g if player == "g" else self.d
        for other in (self.g, self.d):
            other.zero_grad()
        loss.backward()
        self.slopes[name] = gradients(net)
        self.adams[player].step()

    def generator(self, labels):
        keys, codes, crossover = self.drawn("g", labels, "others")
        fake = self.g.synthesis(styles(self.g, codes, crossover))
        others = self.g.synthesis(styles(self.g, self.system.others(keys["others"], codes), crossover)).detach()
        self.terms["g_gan"] = softplus(-self.d(fake, one_hot(labels))).mean()
        self.terms["diversity"] = (fake - others).abs().mean()
        self.update("g", "g", self.terms["g_gan"] - 2.0 * self.terms["diversity"])

    def path(self, labels):
        keys, codes, crossover = self.drawn("path", labels[::2])
        ws = styles(self.g, codes, crossover)
        probes = rng.named(jax.random.fold_in(keys["loss"], 0), "probes")["probes"]
        probes = double(self.system.probes(probes, len(ws))).permute(0, 3, 1, 2)
        (slope,) = torch.autograd.grad((self.g.synthesis(ws) * probes).sum() / 8, ws, create_graph=True)
        lengths = slope.square().sum(2).mean(1).sqrt()
        mean = PATH_MEAN + 0.01 * (lengths.mean() - PATH_MEAN)
        self.terms |= {"path_length": lengths.mean(), "path_mean": mean}
        self.terms["path_penalty"] = (lengths - mean).square().mean()
        self.update("g", "path", 2 * 2.0 * self.terms["path_penalty"])

    def discriminator(self, real, labels):
        _, codes, crossover = self.drawn("d", labels)
        fake = self.g.synthesis(styles(self.g, codes, crossover)).detach()
        self.terms["d_real"] = softplus(-self.d(real, one_hot(labels))).mean()
        self.terms["d_fake"] = softplus(self.d(fake, one_hot(labels))).mean()
        self.update("d", "d", self.terms["d_real"] + self.terms["d_fake"])

    def r1(self, real, labels):
        seen = real.clone().requires_grad_()
        (slope,) = torch.autograd.grad(self.d(seen, one_hot(labels)).sum(), seen, create_graph=True)
        self.terms["r1"] = slope.square().sum((1, 2, 3)).mean() / 2
        self.update("d", "r1", 2 * 1.0 * self.terms["r1"])


@pytest.mark.parametrize("scope", [DiversityScope.SAME_DOMAIN, DiversityScope.INTER_DOMAIN], ids=lambda s: s.value)
def test_a_step_with_both_regularisers(scope):
    """Every term; the gradient of each of the four updates, by what it does and by Adam's first moment."""
    system, state, g, d = setting(scope)
    records = small_systems.batch("stylegan2")["records"] | {"label": np.array([2, 0, 1, 1], np.int32)}
    records["image"] = np.random.default_rng(5).integers(0, 256, (4, 8, 8, 1)).astype(np.uint8)
    keys = rng.named(jax.random.fold_in(state.key, state.step), "g", "path", "d", "r1")
    reference = Reference(system, g, d, keys)
    labels = records["label"]
    real = double(records["image"]).permute(0, 3, 1, 2) / 127.5 - 1
    reference.generator(labels)
    reference.path(labels)
    reference.discriminator(real, labels)
    reference.r1(real, labels)

    both, metrics = jax.jit(system.step_variants["path_r1"])(state, {"records": records}, {})
    for name, value in reference.terms.items():
        np.testing.assert_allclose(float(metrics[name]), value.item(), rtol=1e-4, err_msg=name)
    assert_close(both.opt["g"].mu, generator_tree(reference.slopes["path"])[0])
    assert_close(both.opt["d"].mu, discriminator_tree(reference.slopes["r1"]))
    if scope is DiversityScope.INTER_DOMAIN:
        return  # the rest of its step is that of the other scope but for the generator's terms
    main, _ = jax.jit(system.step_variants["main"])(state, {"records": records}, {})
    assert_close(main.opt["g"].mu, generator_tree(reference.slopes["g"])[0])
    # The discriminator's first update is judged on images of a generator without the path lengths' update, 1e-5 away.
    assert_close(main.opt["d"].mu, discriminator_tree(reference.slopes["d"]))
    # Second moments hold the first update's gradient as well, decayed: 0.99^(2/3).
    decay = 0.99 ** (2 / 3)
    first, second = generator_tree(reference.slopes["g"])[0], generator_tree(reference.slopes["path"])[0]
    wanted = jax.tree.map(lambda a, b: (1 - decay) * (decay * np.square(a) + np.square(b)), first, second)
    assert_close(both.opt["g"].nu, wanted)


def assert_close(ours, theirs):
    """Leaf by leaf to 1e-3 of its largest entry."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for (path, wanted), got in zip(jax.tree_util.tree_leaves_with_path(theirs), jax.tree.leaves(ours), strict=True):
        where, scale = jax.tree_util.keystr(path), np.abs(wanted).max()
        assert np.abs(np.asarray(got) - wanted).max() <= 1e-3 * scale + 1e-9, where
