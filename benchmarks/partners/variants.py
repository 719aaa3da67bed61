"""The forms in which PyTorch may run a partner; the fastest is the one that is compared with."""

from __future__ import annotations

import functools
import importlib
import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from benchmarks.timing import Form


class Variant(NamedTuple):
    """How PyTorch runs."""

    compiled: bool
    channels_last: bool
    bfloat16: bool

    def __str__(self) -> str:
        words = ("compiled" if self.compiled else "eager", "channels_last" if self.channels_last else "nchw")
        return " ".join((*words, "bfloat16" if self.bfloat16 else "float32"))


def variants(device: str, compiled: bool = False) -> list[Variant]:
    """On an accelerator all eight. On a CPU, where bfloat16 is emulated, float32, and compiled ones if asked for."""
    if device == "cpu":
        return [Variant(c, last, False) for c in ((False, True) if compiled else (False,)) for last in (False, True)]
    return [Variant(*flags) for flags in itertools.product((False, True), repeat=3)]


def makers(
    partner: str,
    configure: Callable[[], Any],
    batch: int,
    device: str,
    program: str,
    compiled: bool = False,
    **options: Any,
) -> dict[str, Callable[[], Form]]:
    """Every variant of one of a partner's programs, to be made ready to run.

    Args:
      partner: module in this package.
      configure: gives the configuration.
      batch: its size.
      device: ``cpu`` or ``cuda``.
      program: function of the module, ``train_step`` or one that learns nothing, such as ``sampler``.
      compiled: on a CPU, compiled variants as well.
      **options: of that function.
    """
    module = importlib.import_module(f"benchmarks.partners.{partner}")
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    return {
        str(variant): functools.partial(_form, module, configure, batch, device, variant, program, options)
        for variant in variants(device, compiled)
    }


def _form(
    module: Any,
    configure: Callable[[], Any],
    batch: int,
    device: str,
    variant: Variant,
    program: str,
    options: dict[str, Any],
) -> Form:
    layout = torch.channels_last if variant.channels_last else torch.contiguous_format
    config, rng = configure(), np.random.default_rng(0)
    networks = {k: m.to(device).to(memory_format=layout) for k, m in module.networks(config).items()}
    data = {name: torch.from_numpy(array).to(device) for name, array in module.records(config, batch, rng).items()}
    data = {name: x.to(memory_format=layout) if x.ndim == 4 else x for name, x in data.items()}
    if program != "train_step":
        networks = {name: net.eval() for name, net in networks.items()}
    run = getattr(module, program)(networks, **options)
    run = run if program == "train_step" else torch.no_grad()(run)
    run = torch.compile(run) if variant.compiled else run

    def form() -> None:
        with torch.autocast(device, torch.bfloat16, enabled=variant.bfloat16):
            run(data)
        if device != "cpu":
            torch.cuda.synchronize()

    return form
