r"""A trained network's images come back: EDICT at p = 1 and BDIA at gamma = 1, unguided, in float32.

A small network learns from real chest X-rays for a few dozen steps, enough that it is far from answering zero. For a
run of one's own, at its own size, ``OUT/scores.json`` has every image's ``round_trip_rms`` and ``round_trip_max``
(--method edict likewise):

    python -m medgen_jax.counterfactual --workdir RUN --split val --output OUT --method bdia --noclip \
      --depth 500 --steps 100
"""

from __future__ import annotations

import csv
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from medgen_jax.core import config as configs
from medgen_jax.sampling import make_counterfactual
from medgen_jax.systems import diffusion

SIZE, STEPS, BATCH = 32, 60, 16
LABELS = ("normal", "pneumonia")


def chest_xrays(data: pathlib.Path, label: str, count: int) -> list[np.ndarray]:
    """The first by name of the rows marked permissive, (SIZE, SIZE, 1) uint8."""
    with (data / "cxr/index.csv").open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["licence_class"] == "permissive"]
    names = sorted(row["file"] for row in rows if row["file"].startswith(f"{label}/"))[:count]
    assert len(names) == count
    images = [Image.open(data / "cxr" / name).convert("L").resize((SIZE, SIZE), Image.Resampling.BOX) for name in names]
    return [np.asarray(image)[..., None] for image in images]


def config() -> diffusion.Config:
    made = diffusion.Config()
    made.data.crop_size = SIZE
    made.train.batch_size, made.train.steps, made.train.precision = BATCH, STEPS, "float32"
    made.network.width, made.network.multipliers, made.network.blocks = 16, (1.0, 2.0), 1
    made.network.attention, made.network.groups = (16,), 4
    made.optim.lr, made.ema = 2e-3, 0.0
    return made


@pytest.fixture(scope="module")
def images(shared: pathlib.Path) -> dict[str, np.ndarray]:
    made = [chest_xrays(shared / "data", label, 32) for label in LABELS]
    return {"image": np.concatenate(made), "label": np.repeat(np.arange(2, dtype=np.int32), 32)}


@pytest.fixture(scope="module")
def trained(images: dict[str, np.ndarray]) -> tuple[diffusion.Diffusion, Any]:
    """The system and its variables; its squared error has fallen well below the 1 of answering zero."""
    system = diffusion.build(configs.resolve(config(), 64))
    state, step = jax.jit(system.init)(jax.random.key(0)), jax.jit(system.train_step, donate_argnums=0)
    rng, losses = np.random.default_rng(0), []
    for number in range(STEPS):
        drawn = rng.permutation(64)[:BATCH]
        state, metrics = step(state, {"records": {name: values[drawn] for name, values in images.items()}}, {})
        state = state.replace(step=state.step + 1)
        losses.append(float(metrics["mse"]))
        assert np.isfinite(losses[-1]), number
    assert np.mean(losses[-10:]) < 0.4
    return system, system.inference_variables(state)


def trip(trained: Any, images: dict[str, np.ndarray], method: str, steps: int) -> tuple[float, float]:
    """Root mean square and largest error over the images, each encoded under its own class."""
    system, variables = trained
    sampler = make_counterfactual(
        jax.tree_util.Partial(system.denoise, variables), schedule=system.schedule, method=method, steps=steps
    )
    chosen = slice(30, 34)  # of both classes
    found = sampler.encode(images["image"][chosen], source={"label": images["label"][chosen]}, depth=500)
    return float(np.sqrt(np.mean(np.square(found.rms)))), float(np.max(found.maximum))


@pytest.mark.slow
@pytest.mark.parametrize("steps", [50, 100])
@pytest.mark.parametrize("method", ["edict", "bdia"])
def test_exact_inversions_come_back(method: str, steps: int, trained: Any, images: dict[str, np.ndarray]) -> None:
    rms, maximum = trip(trained, images, method, steps)
    print(f"{method} L=500 N={steps}: RMS {rms:.2e}, max {maximum:.2e}")
    assert rms <= 1e-4 and maximum <= 1e-3


@pytest.mark.slow
def test_the_network_is_no_easy_one(trained: Any, images: dict[str, np.ndarray]) -> None:
    """What comes back exactly above is lost in part by plain DDIM."""
    rms, maximum = trip(trained, images, "destination", 50)
    print(f"destination L=500 N=50: RMS {rms:.2e}, max {maximum:.2e}")
    assert rms > 2e-3
