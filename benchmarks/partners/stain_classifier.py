"""LStainNorm (published form) and ResNet-18 in PyTorch: cross-entropy, AdamW."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from medgen_jax.nn.stain_norm import REFERENCE
from twins import resnet, stain_norm

Data = dict[str, torch.Tensor]
Networks = dict[str, torch.nn.Module]


def networks(config: Any) -> Networks:
    """Layer and backbone at the configuration's size."""
    net = resnet.ResNet(config.model.depth, 3, len(config.data.classes), config.model.width)
    return {"norm": stain_norm.SA3(REFERENCE), "net": net.train()}


def records(config: Any, batch: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Tiles in [0, 1], NCHW, and classes."""
    side, classes = config.data.crop_size, len(config.data.classes)
    images = rng.uniform(0, 1, (batch, 3, side, side)).astype(np.float32)
    return {"image": images, "label": rng.integers(0, classes, batch)}


def _placed(nets: Networks) -> Networks:
    """The layer's starting colours are plain tensors, which do not follow it to another device by themselves."""
    place = next(nets["norm"].parameters()).device
    for colours in nets["norm"].reference.values():
        colours.update({name: values.to(place) for name, values in colours.items()})
    return nets


def train_step(nets: Networks) -> Callable[[Data], None]:
    """One step of both."""
    nets = _placed(nets)
    weights = [*nets["norm"].parameters(), *nets["net"].parameters()]
    adam = torch.optim.AdamW(weights, lr=5e-4, weight_decay=1e-5)

    def step(data: Data) -> None:
        adam.zero_grad(set_to_none=True)
        with torch.autocast("cuda" if data["image"].is_cuda else "cpu", enabled=False):
            shown = nets["norm"](data["image"])
        torch.nn.functional.cross_entropy(nets["net"](shown), data["label"]).backward()
        adam.step()

    return step


def sampler(nets: Networks) -> Callable[[Data], None]:
    """Tiles -> probabilities."""
    nets = _placed(nets)
    return lambda data: torch.softmax(nets["net"](nets["norm"](data["image"])), 1)
