"""DDIM and its inverse step by step against the diffusers package, whose numbers were made once outside.

``golden/diffusers_ddim.json`` holds the package's states for every combination of its options, its version and the rule
by which the network and the start are made. How its options read here:

=========================================  ===================================================================
leading, N steps                           `respace` to ``range(0, N * s, s)``, ``s = T // N`` ("ddimN" where N
                                           divides T)
trailing                                   `uniform_timesteps` of depth T
set_alpha_to_one=True                      the clean node, which every schedule has
set_alpha_to_one=False                     levels only: a walk over a grid that has step 0, left one step early
prediction epsilon, sample, v_prediction   ``kind`` epsilon, x0, v
clip_sample                                ``clip=True, rederive=False``
... with use_clipped_model_output          ``clip=True``
DDIMInverse                                ``ddim_encode(ask="destination")``
=========================================  ===================================================================

Not expressible, and wrong there: trailing steps of an N that does not divide T, whose stride ``T // N`` misses the
package's own next timestep; and a start at the clean image of a network that predicts x0, which divides by zero.
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from affine_denoiser import SHAPE, answer, draws

from medgen_jax.diffusion.inversion import ddim_encode
from medgen_jax.diffusion.process import ddim_step, inverse_ddim_step, predict
from medgen_jax.diffusion.samplers import Model, ddim_sample
from medgen_jax.diffusion.schedules import (
    Level,
    Schedule,
    level,
    make_schedule,
    respace,
    section_timesteps,
    uniform_timesteps,
)

FULL = make_schedule("linear", 1000)
GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden/diffusers_ddim.json").read_text())
START, IMAGE, *NOISE = draws(6)
IMAGE *= np.float32(0.6)
CLIP = {"off": {"clip": False}, "on": {"clip": True, "rederive": False}, "rederived": {"clip": True}}
Row = dict[str, Any]


def name(row: Row) -> str:
    one = "one" if row["set_alpha_to_one"] else "first"
    return f"{row['spacing']}{row['steps']}-{one}-{row['clip']}-{row['prediction']}-eta{row.get('eta', 0):g}"


def states(row: Row) -> np.ndarray:
    """(N, B, H, W, C) float64 after each step; NaN where the package has no finite number."""
    return np.array(row["states"], np.float64).reshape(-1, *SHAPE)


def before(row: Row, start: np.ndarray) -> np.ndarray:
    """(N, B, H, W, C) float32: the states that the package stepped from."""
    return np.concatenate([start[None], states(row)[:-1]]).astype(np.float32)


def levels(row: Row, shift: int) -> Level:
    """Of the row's timesteps less ``shift`` strides of the package, by its own alpha_bars; (N, 1, 1, 1, 1)."""
    times = np.array(row["timesteps"]) - shift * (1000 // row["steps"])
    first = 1.0 if row["set_alpha_to_one"] else GOLDEN["alphas_cumprod"]["0"]
    bars = [GOLDEN["alphas_cumprod"][str(t)] if t >= 0 else first for t in times]
    found = level(np.reshape(bars, (-1, 1, 1, 1, 1)))
    return Level(*(jnp.asarray(root, jnp.float32) for root in found))


def asked(row: Row) -> np.ndarray:
    return np.reshape(row["timesteps"], (-1, 1, 1, 1, 1))


def grid(row: Row) -> Schedule:
    return respace(FULL, sorted(row["timesteps"]))


def denoise(kind: str) -> Any:
    return lambda x, t, condition: answer(kind, x, t.reshape(-1, 1, 1, 1))


def test_every_combination_is_there() -> None:
    for rows, clips in ((GOLDEN["ddim"], CLIP), (GOLDEN["inverse"], ("off", "on"))):
        names = {name(row) for row in rows}
        assert len(names) == len(rows)
        for spacing in ("leading4", "trailing4"):
            for one in ("one", "first"):
                assert {
                    f"{spacing}-{one}-{clip}-{kind}-eta0" for clip in clips for kind in ("epsilon", "x0", "v")
                } <= names
    # Each choice of clipping leads elsewhere, so that a comparison tells them apart.
    for kind in ("epsilon", "x0", "v"):
        found = {
            row["clip"]: states(row)
            for row in GOLDEN["ddim"]
            if name(row).startswith("trailing4-first") and row["prediction"] == kind
        }
        assert np.abs(found["off"] - found["on"]).max() > 1e-3 < np.abs(found["rederived"] - found["on"]).max()


def test_levels_and_grids_are_the_package_s() -> None:
    """But for its float32: of the first step's noise variance, 1e-4, it keeps three digits."""
    for t, bar in GOLDEN["alphas_cumprod"].items():
        np.testing.assert_allclose(FULL.alphas_cumprod[int(t)], bar, rtol=2e-6)
    times = {(row["spacing"], row["steps"]): tuple(sorted(row["timesteps"])) for row in GOLDEN["ddim"]}
    assert times["leading", 4] == section_timesteps(1000, "ddim4") == tuple(range(0, 1000, 250))
    assert times["leading", 3] == tuple(range(0, 999, 333))
    for steps in (3, 4):
        assert times["trailing", steps] == uniform_timesteps(1000, steps)


@pytest.mark.parametrize("row", GOLDEN["ddim"], ids=name)
def test_ddim_steps(row: Row) -> None:
    x, source, target = before(row, START), levels(row, 0), levels(row, 1)
    found = predict(x, answer(row["prediction"], x, asked(row)), source, row["prediction"], **CLIP[row["clip"]])
    noise = np.stack(NOISE[: len(x)]) if row["eta"] else None
    np.testing.assert_allclose(ddim_step(found, source, target, row["eta"], noise), states(row), atol=1e-5)


@pytest.mark.parametrize("row", GOLDEN["inverse"], ids=name)
def test_inverse_steps(row: Row) -> None:
    x, source, target = before(row, IMAGE), levels(row, 1), levels(row, 0)
    found = predict(x, answer(row["prediction"], x, asked(row)), source, row["prediction"], **CLIP[row["clip"]])
    got = inverse_ddim_step(found, target)
    if row["prediction"] == "x0" and row["set_alpha_to_one"]:
        # The noise in a clean image: 0 / 0 there, 0 here.
        assert not np.any(np.isfinite(states(row)))
        np.testing.assert_array_equal(found.epsilon[0], np.zeros(SHAPE))
        np.testing.assert_allclose(got[0], target.signal[0] * found.x0[0], rtol=1e-6)
    else:
        # An x0 asked at the next step is far from the image that hardly has noise: states up to 24.
        np.testing.assert_allclose(got, states(row), atol=1e-5, rtol=5e-6)


def walks(rows: list[Row], chosen: str) -> list[Any]:
    """The rows whose grid is one of ours, under the package's default of clipping, and epsilon under the others."""
    return [
        pytest.param(row, id=name(row))
        for row in rows
        if row["set_alpha_to_one"] and not row.get("eta") and name(row) != "trailing3-one-off-epsilon-eta0"
        and (row["clip"] == "on" or row["prediction"] == "epsilon") and name(row).startswith(chosen)
    ]  # fmt: skip


@pytest.mark.parametrize("row", walks(GOLDEN["ddim"], ("leading", "trailing")))
def test_ddim_walks(row: Row) -> None:
    model = Model(denoise(row["prediction"]), grid(row), row["prediction"], **CLIP[row["clip"]])
    np.testing.assert_allclose(ddim_sample(model, START, trajectory=True).trajectory, states(row), atol=2e-5)


@pytest.mark.parametrize(
    "row", walks([r for r in GOLDEN["inverse"] if r["prediction"] != "x0"], ("leading", "trailing"))
)
def test_inverse_walks(row: Row) -> None:
    model = Model(denoise(row["prediction"]), grid(row), row["prediction"], **CLIP[row["clip"]])
    np.testing.assert_allclose(ddim_encode(model, IMAGE, trajectory=True).trajectory, states(row), atol=2e-5)


def test_the_end_at_the_first_step_is_a_walk_left_early() -> None:
    """set_alpha_to_one=False: the state one step before the clean node of a grid with step 0."""
    row = next(row for row in GOLDEN["ddim"] if name(row) == "trailing4-first-on-epsilon-eta0")
    longer = respace(FULL, (0, *uniform_timesteps(1000, 4)))
    model = Model(denoise("epsilon"), longer, **CLIP["on"])
    np.testing.assert_allclose(ddim_sample(model, START, trajectory=True).trajectory[:-1], states(row), atol=2e-5)


def test_the_package_s_stride_misses_its_own_trailing_steps() -> None:
    """T // 3 = 333 leads from step 666 to 333, where the next one is 332: not a walk over nodes, and not ours."""
    row = next(row for row in GOLDEN["ddim"] if name(row) == "trailing3-one-off-epsilon-eta0")
    assert row["timesteps"] == [999, 666, 332]
    model = Model(denoise("epsilon"), grid(row))
    apart = np.abs(ddim_sample(model, START, trajectory=True).trajectory - states(row)).max((1, 2, 3, 4))
    assert apart[0] < 1e-5 and apart[1] > 1e-3
