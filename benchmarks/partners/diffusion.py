"""The denoising U-Net in PyTorch: squared error of the noise at random steps, AdamW; the classes with a null row."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from medgen_jax.diffusion.schedules import make_schedule
from twins import guided_diffusion as twins

Data = dict[str, torch.Tensor]
Networks = dict[str, torch.nn.Module]


def sizes(config: Any) -> dict[str, Any]:
    """Arguments that the twins' networks have in common."""
    n = config.network
    return {
        "width": n.width, "multipliers": n.multipliers, "blocks": n.blocks,
        "heads": n.heads, "head_width": n.head_width,
        "attention": tuple(config.data.crop_size // side for side in n.attention), "order": n.head_order.value,
        "film": n.film, "resample": n.resample.value,
    }  # fmt: skip


def networks(config: Any) -> Networks:
    """The U-Net at the configuration's size."""
    channels = config.network.channels
    out = channels * (1 + config.loss.learned_variance)
    return {"net": twins.UNet(channels, out, classes=len(config.data.classes) + 1, **sizes(config)).train()}


def records(config: Any, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Images in [-1, 1], NCHW, classes, and the process: roots of the shares of signal and noise by step."""
    side, channels = config.data.crop_size, config.network.channels
    levels = make_schedule(config.process.noise.value, config.process.steps).levels
    return {
        "image": rng.uniform(-1, 1, (batch, channels, side, side)).astype(np.float32),
        "label": rng.integers(0, len(config.data.classes), batch),
        "signal": np.float32(levels.signal[1:]), "noise": np.float32(levels.noise[1:]),
    }  # fmt: skip


def noised(data: Data) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Noisy images, the noise and the steps."""
    image = data["image"]
    t = torch.randint(len(data["signal"]), (len(image),), device=image.device)
    epsilon = torch.randn_like(image)
    signal, noise = (data[name][t].view(-1, 1, 1, 1) for name in ("signal", "noise"))
    return signal * image + noise * epsilon, epsilon, t


def train_step(nets: Networks) -> Callable[[Data], None]:
    """One step."""
    net = nets["net"]
    adam = torch.optim.AdamW(net.parameters(), lr=1e-4, weight_decay=0.0)

    def step(data: Data) -> None:
        x, epsilon, t = noised(data)
        adam.zero_grad(set_to_none=True)
        torch.nn.functional.mse_loss(net(x, t, data["label"])[:, : epsilon.shape[1]], epsilon).backward()
        adam.step()

    return step


def sampler(nets: Networks) -> Callable[[Data], None]:
    """50 steps of DDIM under classifier-free guidance, a batch of 2b at each."""

    def sample(data: Data) -> None:
        x = torch.randn_like(data["image"])
        walk(data, x, nodes(data, 50), guided(nets["net"], data["label"]), clip=True)

    return sample


def counterfactual(nets: Networks, steps: int) -> Callable[[Data], None]:
    """Images encoded by DDIM in so many steps, decoded under guidance, and decoded without: the control."""
    net = nets["net"]

    def encode_and_decode(data: Data) -> None:
        label, down = data["label"], nodes(data, steps)

        def plain(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return net(x, t, label)[:, : x.shape[1]]

        # Encoding asks at the level that a step goes to, decoding at the one that it leaves.
        latent = walk(data, data["image"], down[::-1], plain, ahead=True)
        walk(data, latent, down, guided(net, 1 - label))
        walk(data, latent, down, plain)

    return encode_and_decode


def nodes(data: Data, steps: int) -> list[int]:
    """Steps of the process from the noisiest to the first, ``steps + 1`` of them."""
    return [round(node) for node in np.linspace(len(data["signal"]) - 1, 0, steps + 1)]


def guided(net: torch.nn.Module, labels: torch.Tensor) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The noise as the network sees it under classifier-free guidance: known and unknown class in one batch."""
    both = torch.cat([labels, torch.full_like(labels, net.label_emb.num_embeddings - 1)])

    def epsilon(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        known, unknown = net(torch.cat([x, x]), torch.cat([t, t]), both)[:, : x.shape[1]].chunk(2)
        return known + 1.0 * (known - unknown)

    return epsilon


@torch.compiler.disable(recursive=False)  # compiled as a whole it would be unrolled, network by network
def walk(
    data: Data,
    x: torch.Tensor,
    steps: list[int],
    epsilon: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    clip: bool = False,
    ahead: bool = False,
) -> torch.Tensor:
    """DDIM from the first to the last of ``steps``; ``ahead`` asks the network at the end of each."""
    for here, there in itertools.pairwise(steps):
        noise = epsilon(x, torch.full((len(x),), there if ahead else here, device=x.device))
        clean = (x - data["noise"][here] * noise) / data["signal"][here]
        clean = clean.clamp(-1, 1) if clip else clean
        x = data["signal"][there] * clean + data["noise"][there] * noise
    return x
