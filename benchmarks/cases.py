"""What is measured: systems at the papers' sizes and at small ones, and what the papers' runs amount to."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medgen_jax.systems import (
    cyclegan,
    cyclegan_options,
    dcgan,
    diffusion,
    diffusion_options,
    gan,
    noise_classifier,
    pix2pix,
    stain_classifier,
    stargan_v2,
    stargan_v2_options,
    stylegan2,
    stylegan2_options,
)

#: The papers' sizes; 64 px for machines without an accelerator; as small as tests want them.
PAPER, MEDIUM, SMALL = "paper", "medium", "small"


@dataclass(frozen=True)
class Case:
    """A system at a size.

    Attributes:
      name: system, or system and recipe.
      size: ``paper``, ``medium`` or ``small``.
      configure: batch size -> configuration, but for its compute dtype.
      batches: sizes of batches that are measured.
      partner: module in ``benchmarks.partners`` that does the same in PyTorch; None where nothing does.
      sampler: which sampler is timed beside the training step; None for none.
    """

    name: str
    size: str
    configure: Callable[[int], Any]
    batches: tuple[int, ...]
    partner: str | None
    sampler: str | None = "a2b"


@dataclass(frozen=True)
class Paper:
    """What a paper computed: a training run, or the reconstruction of all its stacks.

    Attributes:
      case: name of the `Case`, at paper size, or of another measurement with lines of images per second.
      images: in an epoch, of the first stream: of one domain where there are two.
      epochs: of the run.
      remark: whose numbers these are.
      what: which lines of the case count.
    """

    case: str
    images: int
    epochs: float
    remark: str = ""
    what: str = "train"


def _common(config: Any, batch: int, side: int) -> Any:
    config.data.crop_size, config.train.batch_size, config.train.steps = side, batch, 100
    return config


def _pix2pix(side: int, **model: int) -> Callable[[int], Any]:
    def configure(batch: int) -> Any:
        config = _common(pix2pix.Config(), batch, side)
        config.model = pix2pix.ModelConfig(**model)
        return config

    return configure


def _cyclegan(side: int, **model: int) -> Callable[[int], Any]:
    def configure(batch: int) -> Any:
        config = _common(cyclegan.Config(), batch, side)
        config.model = cyclegan_options.ModelConfig(**model)
        return config

    return configure


def _focus(side: int, **model: int) -> Callable[[int], Any]:
    def configure(batch: int) -> Any:
        config = _cyclegan(side, residual=True, **model)(batch)
        config.pairs, config.pool = cyclegan_options.Pairs.ALL, 0
        config.loss = cyclegan_options.LossConfig(adversarial=1e-3, content=1.0, cycle_a=1.0, cycle_b=1.0, identity=0.0)
        return config

    return configure


def _latent(module: Any, side: int, **model: Any) -> Callable[[int], Any]:
    def configure(batch: int) -> Any:
        config = _common(module.Config(), batch, side)
        config.model = module.ModelConfig(**model)
        return config

    return configure


def _stain_classifier(side: int, width: int) -> Callable[[int], Any]:
    def configure(batch: int) -> Any:
        config = _common(stain_classifier.Config(), batch, side)
        config.data.classes = tuple(map(str, range(8)))
        config.model.width, config.norm.variant = width, "published"
        return config

    return configure


def _stargan_v2(side: int, **model: Any) -> Callable[[int], Any]:
    def configure(batch: int) -> Any:
        config = _common(stargan_v2.Config(), batch, side)
        config.data.classes = ("0", "1", "2")
        config.model = stargan_v2_options.ModelConfig(**model)
        return config

    return configure


def _noisy(module: Any, side: int, **network: Any) -> Callable[[int], Any]:
    def configure(batch: int) -> Any:
        config = _common(module.Config(), batch, side)
        config.data.classes = ("0", "1")
        config.network = diffusion_options.NetworkConfig(**network)
        return config

    return configure


def _stylegan2(side: int, **model: int) -> Callable[[int], Any]:
    def configure(batch: int) -> Any:
        config = _common(stylegan2.Config(), batch, side)
        config.data.classes = ("0", "1", "2")
        config.model = stylegan2.ModelConfig(**model)
        config.ada.pipe = stylegan2_options.Pipe.NONE
        return config

    return configure


#: 25.4 million parameters.
_ADM64 = {"width": 64, "multipliers": (1.0, 2.0, 3.0, 4.0), "blocks": 2, "attention": (32, 16, 8)}
_TINY = {"width": 32, "multipliers": (1.0, 2.0), "blocks": 1, "attention": (8,), "head_width": 32}
_SLIM = {"width": 8, "max_width": 16, "hidden": 32}
_GUIDE = {"width": 32, "blocks": 4, "attention": (32, 16, 8), "head_width": 32}

CASES = (
    Case("diffusion", PAPER, _noisy(diffusion, 256), (1, 10), "diffusion", "sample"),
    Case("diffusion", MEDIUM, _noisy(diffusion, 64, **_ADM64), (4,), "diffusion", "sample"),
    Case("diffusion", SMALL, _noisy(diffusion, 16, **_TINY), (4,), "diffusion", "sample"),
    Case("noise_classifier", PAPER, _noisy(noise_classifier, 256, **_GUIDE), (10,), "noise_classifier", "predict"),
    Case("noise_classifier", SMALL, _noisy(noise_classifier, 16, **_TINY), (4,), "noise_classifier", "predict"),
    Case("pix2pix", PAPER, _pix2pix(256), (1, 4, 16), "pix2pix"),
    Case("pix2pix", SMALL, _pix2pix(64, ngf=16, ndf=16, downs=6), (4,), "pix2pix"),
    Case("dcgan", PAPER, _latent(dcgan, 64), (128,), "dcgan", "sample"),
    Case("dcgan", SMALL, _latent(dcgan, 32, ngf=16, ndf=16), (8,), "dcgan", "sample"),
    Case("gan", PAPER, _latent(gan, 64), (128,), "gan", "sample"),
    Case("gan", SMALL, _latent(gan, 32, widths=(32, 64)), (8,), "gan", "sample"),
    Case("cyclegan", PAPER, _cyclegan(256), (1, 8), "cyclegan"),
    Case("cyclegan", SMALL, _cyclegan(64, ngf=16, ndf=16, blocks=3), (4,), "cyclegan"),
    Case("focus", PAPER, _focus(512), (4,), "focus"),
    Case("focus", SMALL, _focus(64, ngf=16, ndf=16, blocks=3), (4,), "focus"),
    Case("stain_classifier", PAPER, _stain_classifier(224, 64), (16, 64), "stain_classifier", "predict"),
    Case("stain_classifier", SMALL, _stain_classifier(64, 16), (8,), "stain_classifier", "predict"),
    Case("stargan_v2", PAPER, _stargan_v2(256), (8,), "stargan_v2", "latent"),
    Case("stargan_v2", MEDIUM, _stargan_v2(64, width=32, max_width=128), (4,), "stargan_v2", "latent"),
    Case("stargan_v2", SMALL, _stargan_v2(32, **_SLIM), (4,), "stargan_v2", "latent"),
    Case("stylegan2", PAPER, _stylegan2(256), (8, 64), "stylegan2", "sample"),
    Case("stylegan2", MEDIUM, _stylegan2(64, channel_base=2048, map_layers=2), (8,), "stylegan2", "sample"),
    Case("stylegan2", SMALL, _stylegan2(16, channel_base=512, map_layers=2), (4,), "stylegan2", "sample"),
)

PAPERS = (
    Paper("pix2pix", 1_141, 500, remark="Pair"),
    Paper("cyclegan", 24_282, 500, remark="Unpair: 24,282 of each domain"),
    Paper("diffusion", 60_000, 10, remark="60,000 steps of 10 at 256 px: ours, the paper states none"),
    Paper("dcgan", 33_920, 100, remark="X-ray baseline, 64 px"),
    Paper("gan", 33_920, 100, remark="X-ray baseline, 64 px: ours, the paper gives no size"),
    Paper("focus", 25_000, 4, remark="25,000 steps of 4 at 512 px"),
    Paper("stain_classifier", 89_434, 100, remark="LStainNorm, at most"),
    Paper("stargan_v2", 33_920, 100, remark="Med-StyleGAN2 as published, 256 px"),
    Paper("stylegan2", 33_920, 100, remark="Med-StyleGAN2 as described, 256 px"),
    Paper("fpm", 1_141, 1, remark="stacks of 225 LEDs at 128 px, 20 passes: ours", what="reconstruct"),
)


def chosen(systems: tuple[str, ...], sizes: tuple[str, ...]) -> list[Case]:
    """The cases of some systems (``all`` for every one) at some sizes.

    Raises:
      ValueError: an unknown system.
    """
    known = {case.name for case in CASES}
    if unknown := set(systems) - known - {"all"}:
        raise ValueError(f"--systems {sorted(unknown)[0]}: unknown; there are {', '.join(sorted(known))} and all")
    return [case for case in CASES if case.size in sizes and ("all" in systems or case.name in systems)]


def add_options(parser: argparse.ArgumentParser) -> None:
    """What all measurements of cases ask: which ones, at which batch sizes, in which type, and where lines go."""
    parser.add_argument("--systems", nargs="+", default=["all"], help="names of systems, or all")
    parser.add_argument("--sizes", nargs="+", default=[SMALL], choices=[PAPER, MEDIUM, SMALL])
    parser.add_argument("--batches", nargs="+", type=int, help="in place of each case's own")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines, appended to")
