"""StarGAN v2 in PyTorch: D on drawn styles and on references, then G with F and E on drawn ones and G alone on those.

The parity test takes its iteration from here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn.functional import l1_loss, softplus

from twins import stargan_v2 as twins

Data = Mapping[str, torch.Tensor]
Networks = dict[str, torch.nn.Module]
Terms = dict[str, torch.Tensor]

ORIGINS = ("latent", "reference")
LEARNERS = {"latent": ("generator", "mapping_network", "style_encoder"), "reference": ("generator",)}
#: Weights of the terms beside the adversarial one.
LAMBDAS = {"reg": 1.0, "sty": 1.0, "ds": 1.0, "cyc": 1.0}


def networks(config: Any) -> Networks:
    """All four at the configuration's size."""
    m, size, domains = config.model, config.data.crop_size, len(config.data.classes) or 2
    shared = {"widest": m.max_width, "channels": m.channels, "width": m.width}
    return {
        "generator": twins.Generator(size, m.style, w_hpf=m.w_hpf, **shared),
        "mapping_network": twins.MappingNetwork(m.latent, m.style, domains, m.hidden),
        "style_encoder": twins.StyleEncoder(size, m.style, domains, **shared),
        "discriminator": twins.Discriminator(size, domains, **shared),
    }


def records(config: Any, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Images and both references in [-1, 1], NCHW, their domains, and a place for two codes of each."""
    side, m, domains = config.data.crop_size, config.model, len(config.data.classes) or 2
    names = ("image", "reference_0", "reference_1")
    images = {n: rng.uniform(-1, 1, (batch, m.channels, side, side)).astype(np.float32) for n in names}
    labels = {name: rng.integers(0, domains, batch) for name in ("label", "target")}
    return {**images, **labels, "latent": np.zeros((batch, 2, m.latent), np.float32)}


def optimisers(nets: Networks, lr: float = 1e-4, mapping_lr: float = 1e-6) -> dict[str, torch.optim.Adam]:
    """One for each network; L2 is part of the gradient."""
    rates = dict.fromkeys(nets, lr) | {"mapping_network": mapping_lr}
    return {
        name: torch.optim.Adam(net.parameters(), rates[name], betas=(0.0, 0.99), weight_decay=1e-4)
        for name, net in nets.items()
    }


def _style(nets: Networks, data: Data, origin: str, which: int) -> torch.Tensor:
    if origin == "latent":
        return nets["mapping_network"](data["latent"][:, which], data["target"])
    return nets["style_encoder"](data[f"reference_{which}"], data["target"])


@torch.compiler.disable
def _on_real(judge: torch.nn.Module, image: torch.Tensor, label: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits of real images, and the penalty on their slope, a gradient of which cannot be compiled."""
    logits = judge(image, label)
    (slope,) = torch.autograd.grad(logits.sum(), image, create_graph=True)
    return logits, 0.5 * slope.square().sum((1, 2, 3)).mean()


def discriminator_loss(
    nets: Networks, data: Data, origin: str, lambdas: Mapping[str, float]
) -> tuple[torch.Tensor, Terms]:
    """What the discriminator minimises, and its terms."""
    judge, image = nets["discriminator"], data["image"].detach().requires_grad_()
    with torch.no_grad():
        fake = nets["generator"](data["image"], _style(nets, data, origin, 0))
    on_real, penalty = _on_real(judge, image, data["label"])
    on_fake = judge(fake, data["target"])
    terms = {"real": softplus(-on_real).mean(), "fake": softplus(on_fake).mean(), "r1": penalty}
    return terms["real"] + terms["fake"] + lambdas["reg"] * penalty, terms


def generator_loss(nets: Networks, data: Data, origin: str, lambdas: Mapping[str, float]) -> tuple[torch.Tensor, Terms]:
    """What generator, mapping network and style encoder minimise, and its terms."""
    generator, encoder, image = nets["generator"], nets["style_encoder"], data["image"]
    style = _style(nets, data, origin, 0)
    fake = generator(image, style)
    with torch.no_grad():
        second = generator(image, _style(nets, data, origin, 1))
    terms = {
        "gan": softplus(-nets["discriminator"](fake, data["target"])).mean(),
        "style": l1_loss(encoder(fake, data["target"]), style),
        "diversity": l1_loss(fake, second),
        "cycle": l1_loss(generator(fake, encoder(image, data["label"])), image),
    }
    total = terms["gan"] + lambdas["sty"] * terms["style"] + lambdas["cyc"] * terms["cycle"]
    return total - lambdas["ds"] * terms["diversity"], terms


def iteration(
    nets: Networks, adams: Mapping[str, torch.optim.Adam], data: Data, lambdas: Mapping[str, float]
) -> dict[str, torch.Tensor]:
    """All four updates, in the reference's order; every term of the losses by name."""
    found: Terms = {}

    def update(name: str, learners: tuple[str, ...], loss: Callable[..., Any], origin: str) -> None:
        for network, net in nets.items():  # what does not learn needs no gradients of its weights
            net.requires_grad_(network in learners)
            adams[network].zero_grad(set_to_none=True)
        total, terms = loss(nets, data, origin, lambdas)
        total.backward()
        for network in learners:
            adams[network].step()
        found.update({f"{name}_{origin}_{term}": value.detach() for term, value in terms.items()})

    for origin in ORIGINS:
        update("d", ("discriminator",), discriminator_loss, origin)
    for origin in ORIGINS:
        update("g", LEARNERS[origin], generator_loss, origin)
    return found


def train_step(nets: Networks) -> Callable[[Data], None]:
    """One iteration on fresh codes."""
    adams = optimisers(nets)

    def step(data: Data) -> None:
        iteration(nets, adams, {**data, "latent": torch.randn_like(data["latent"])}, LAMBDAS)

    return step


def sampler(nets: Networks) -> Callable[[Data], None]:
    """Images into styles drawn afresh."""

    def sample(data: Data) -> None:
        codes = torch.randn_like(data["latent"][:, 0])
        nets["generator"](data["image"], nets["mapping_network"](codes, data["target"]))

    return sample
