"""Speed of the stain normalisers, one JSON line per measurement: ``python -m benchmarks.stain``.

Each method runs over the same batch in three forms: ours, compiled and batched; NumPy in float64, and
PyTorch in float32, image by image, as packages of either kind do. Before anything is timed the forms must make the
same images; how far they are apart, in grey levels, stands in the lines. Forms take turns within every
round and the best round counts, so that other work on the machine falls on all alike; beside it stands the
processor's own time, of all threads together. ``--device`` names where ours runs; PyTorch stays on the CPU.
The tiles are mixtures of two stains in 8 bits; what they show does not change the work.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from benchmarks.timing import in_turns, significant
from medgen_jax import stain
from medgen_jax.stain import macenko
from twins import stain_numpy

SIZES = {224: 16, 512: 8, 1024: 4}  # pixels a side: tiles in a batch
STAINS = np.array([[0.56, 0.72, 0.41], [0.22, 0.80, 0.56]])
#: Method -> options under which our results are those of the other forms.
OPTIONS = {"macenko": {"options": macenko.TORCHSTAIN}, "reinhard": {"pixels": "all"}, "vahadane": {}}
#: Mean difference to our images above which another form does other work, grey levels.
MOST_APART = 0.5

#: Returns what its images are made of: (b, h, w, 3) or a list of images.
Maker = Callable[[], Any]
#: Form -> how its images, as a `Maker` returns them, become grey levels (b, h, w, 3).
LEVELS: dict[str, Callable[[Any], np.ndarray]] = {
    "jax": lambda made: 255 * np.asarray(made),
    "numpy": lambda made: 255 * np.stack(made),
    "torch": lambda made: np.stack([np.moveaxis(image.numpy(), 0, -1) for image in made]),
}


def tiles(count: int, size: int, seed: int = 0) -> np.ndarray:
    """Mixtures of two stains that vary from pixel to pixel and over the tile, (count, size, size, 3) in [0, 1]."""
    rng = np.random.default_rng(seed)
    coarse = rng.gamma(2.0, 0.3, (count, size // 16, size // 16, 2)).repeat(16, 1).repeat(16, 2)
    amounts = coarse * rng.gamma(8.0, 1 / 8, (count, size, size, 2))
    return (np.round(255 * np.exp(-amounts @ STAINS)) / 255).astype(np.float32)


def ours(method: str, target: np.ndarray, batch: np.ndarray, device: jax.Device) -> Maker:
    """Our form on a batch that already lies on the device."""
    module = stain.load(method)
    fit, transform = (functools.partial(function, **OPTIONS[method]) for function in (module.fit, module.transform))
    look, images = jax.device_put((jax.jit(fit)(target[None]), batch), device)
    compiled = jax.jit(transform).lower(look, images).compile()
    return lambda: jax.block_until_ready(compiled(look, images)).images


def with_numpy(method: str, target: np.ndarray, batch: np.ndarray) -> Maker:
    """The NumPy form, image by image."""
    measure, transform = {
        "macenko": (lambda image: stain_numpy.unmixed(image)[:2], stain_numpy.macenko),
        "reinhard": (lambda image: stain_numpy.statistics(stain_numpy.to_lab(image)), stain_numpy.reinhard),
        "vahadane": (lambda image: stain_numpy.vahadane_look(image)[:2], stain_numpy.vahadane),
    }[method]
    look = measure(target)
    return lambda: [transform(image, look) for image in batch]


def with_torch(method: str, target: np.ndarray, batch: np.ndarray) -> Maker:
    """The PyTorch form, image by image."""
    import torch

    from twins import stain as twins

    measure, transform = {
        "macenko": (lambda image: twins.unmixed(image, white=240, alpha=0.01, beta=0.15)[0], twins.macenko),
        "reinhard": (lambda image: twins.statistics(twins.to_lab(image)), twins.reinhard),
        "vahadane": (lambda image: twins.vahadane_look(image)[0], twins.vahadane),
    }[method]
    goal, images = (torch.from_numpy(255 * x).movedim(-1, -3).contiguous() for x in (target, batch))
    look = measure(goal)
    return lambda: [transform(image, look) for image in images]


def makers(method: str, target: np.ndarray, batch: np.ndarray, device: jax.Device) -> dict[str, Maker]:
    """All forms of a method; without PyTorch's where that is not installed."""
    found = {"jax": ours(method, target, batch, device), "numpy": with_numpy(method, target, batch)}
    try:
        found["torch"] = with_torch(method, target, batch)
    except ImportError:
        print("PyTorch is not installed: its form is left out", file=sys.stderr)
    return found


def differences(found: Mapping[str, Maker]) -> dict[str, float]:
    """Largest difference of every form's images to ours, grey levels.

    Raises:
      ValueError: a form whose mean difference exceeds `MOST_APART`: it would be timed at other work.
    """
    levels = {name: LEVELS[name](maker()) for name, maker in found.items()}
    apart = {name: np.abs(image - levels["jax"]) for name, image in levels.items()}
    for name, each in apart.items():
        if not each.mean() <= MOST_APART:
            raise ValueError(f"{name} makes other images: {each.mean():.3g} grey levels apart in the mean")
    return {name: float(each.max()) for name, each in apart.items()}


def measured(method: str, size: int, batch: int, rounds: int, device: jax.Device) -> list[dict[str, Any]]:
    """A line for every form."""
    found = makers(method, tiles(1, size, seed=1)[0], tiles(batch, size), device)
    apart = differences(found)
    least = {name: (s.wall.min(), s.processor.min()) for name, s in in_turns(found, rounds).items()}
    return [
        {
            "benchmark": "stain", "method": method, "form": form, "size": size, "batch": batch,
            "tiles_per_s": significant(batch / seconds),
            "ms_per_tile": significant(1e3 * seconds / batch),
            "processor_ms_per_tile": significant(1e3 * processor / batch),
            "rounds": rounds,
            "jax_times_faster": significant(seconds / least["jax"][0], 3),
            "levels_from_jax": significant(apart[form], 2),
            "device": device.device_kind if form == "jax" else "cpu",
        }
        for form, (seconds, processor) in least.items()
    ]  # fmt: skip


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), choices=list(SIZES))
    parser.add_argument("--methods", nargs="+", default=list(OPTIONS), choices=list(OPTIONS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cpu", "gpu", "tpu"])
    arguments = parser.parse_args()
    device = jax.devices(arguments.device)[0]
    for size in arguments.sizes:
        for method in arguments.methods:
            for line in measured(method, size, SIZES[size], arguments.rounds, device):
                print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
