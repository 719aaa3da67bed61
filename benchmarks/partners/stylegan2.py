"""StyleGAN2's step without regularisers in PyTorch: G, then D against the new G, Adam, styles mixed.

Modulation scales activations, which is faster than the twins' kernel per sample and the same.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from twins import stylegan2 as twins

Data = dict[str, torch.Tensor]
Networks = dict[str, torch.nn.Module]


def networks(config: Any) -> Networks:
    """Generator and discriminator at the configuration's size."""
    m, size, classes = config.model, config.data.crop_size, len(config.data.classes)
    widths = (m.map_layers, m.channel_base, m.channel_max)
    g = twins.Generator(size, m.channels, classes, m.z_dim, m.w_dim, *widths)
    return {"g": g, "d": twins.Discriminator(size, m.channels, classes, *widths, m.minibatch_group)}


def records(config: Any, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Images in [-1, 1], NCHW, classes as vectors, and a place for as many codes."""
    side, m, classes = config.data.crop_size, config.model, len(config.data.classes)
    return {
        "image": rng.uniform(-1, 1, (batch, m.channels, side, side)).astype(np.float32),
        "label": np.eye(classes, dtype=np.float32)[rng.integers(0, classes, batch)],
        "codes": np.zeros((batch, m.z_dim), np.float32),
    }


def modulated(x: torch.Tensor, weight: torch.Tensor, style: torch.Tensor, demodulate: bool, up: bool) -> torch.Tensor:
    """Style on the channels that go in, its norm on those that come out."""
    scaled = x * style[:, :, None, None].to(x.dtype)
    if up:
        grown = F.conv_transpose2d(scaled, weight.transpose(0, 1), stride=2)
        y = twins.upfirdn(grown, pad=(1, 1), gain=4)
    else:
        y = F.conv2d(scaled, weight, padding=weight.shape[-1] // 2)
    if not demodulate:
        return y
    power = style.square() @ weight.square().sum((2, 3)).T
    return y * (power + 1e-8).rsqrt()[:, :, None, None].to(y.dtype)


def _layer(layer: twins.SynthesisLayer, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    y = modulated(x, layer.weight, layer.affine(w), True, layer.up)
    noise = torch.randn_like(y[:, :1]) * layer.noise_strength
    return twins.lrelu(y + noise + layer.bias[:, None, None])


def synthesise(g: twins.Generator, ws: torch.Tensor) -> torch.Tensor:
    """Styles (n, layers, w_dim) -> NCHW."""
    net, rest = g.synthesis, list(ws.unbind(1))
    x = image = None
    for side in net.sides:
        block = getattr(net, f"b{side}")
        x = block.const[None].repeat(len(ws), 1, 1, 1) if x is None else _layer(block.conv0, x, rest.pop(0))
        x = _layer(block.conv1, x, rest.pop(0))
        style = block.torgb.affine(rest[0]) / x.shape[1] ** 0.5
        made = modulated(x, block.torgb.weight, style, False, False) + block.torgb.bias[:, None, None]
        image = made if image is None else twins.double(image) + made
    return image


def _mixed(g: twins.Generator, data: Data) -> torch.Tensor:
    """Images of fresh codes, the upper styles from others."""
    layers = 2 * len(g.synthesis.sides)
    low, high = (g.mapping(torch.randn_like(data["codes"]), data["label"])[:, None] for _ in range(2))
    where = int(torch.randint(1, layers, ())) if float(torch.rand(())) < 0.9 else layers
    return synthesise(g, torch.cat([low.repeat(1, where, 1), high.repeat(1, layers - where, 1)], 1))


def train_step(nets: Networks) -> Callable[[Data], None]:
    """One step of both networks; rates and decays are those beside lazy regularisers."""
    g, d = nets["g"], nets["d"]
    steps = {"g": 4 / 5, "d": 16 / 17}
    adams = {
        n: torch.optim.Adam(m.parameters(), lr=2.5e-3 * steps[n], betas=(0.0, 0.99 ** steps[n]))
        for n, m in nets.items()
    }

    def step(data: Data) -> None:
        d.requires_grad_(False)
        adams["g"].zero_grad(set_to_none=True)
        F.softplus(-d(_mixed(g, data), data["label"])).mean().backward()
        adams["g"].step()
        d.requires_grad_(True)
        with torch.no_grad():
            fake = _mixed(g, data)
        adams["d"].zero_grad(set_to_none=True)
        on_real, on_fake = d(data["image"], data["label"]), d(fake, data["label"])
        (F.softplus(-on_real).mean() + F.softplus(on_fake).mean()).backward()
        adams["d"].step()

    return step


def sampler(nets: Networks) -> Callable[[Data], None]:
    """Images of fresh codes, not mixed."""
    g = nets["g"]

    def sample(data: Data) -> None:
        w = g.mapping(torch.randn_like(data["codes"]), data["label"])
        synthesise(g, w[:, None].repeat(1, 2 * len(g.synthesis.sides), 1))

    return sample
