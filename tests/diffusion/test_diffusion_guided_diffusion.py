"""Reverse step, losses, DDIM both ways, respacing against openai/guided-diffusion: numbers made once outside.

``golden/guided_diffusion.json`` holds them with the commit and the rule by which network and inputs are made. What it
has and we have not: predictions of x before, variances learned without a range, bounds of fixed variances, and a step
from its last noise level on to pure noise, which is a level but no node of a schedule (`test_reverse_ddim_steps`).
"""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from affine_denoiser import SHAPE, answer, draws

from medgen_jax.diffusion import process
from medgen_jax.diffusion.guidance import classifier_guided
from medgen_jax.diffusion.samplers import Model, ddim_sample
from medgen_jax.diffusion.schedules import Schedule, level, make_schedule, respace, section_timesteps

FULL = make_schedule("linear", 1000)
GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden/guided_diffusion.json").read_text())
BATCH = (4, 2, 2, 1)
X, EPSILON = draws(2, BATCH)
GREY = (np.round(255 * np.clip(0.5 + 0.25 * X, 0, 1)) / 127.5 - 1).astype(np.float32)
START, IMAGE, *NOISE = draws(7)
IMAGE *= np.float32(0.42)
Row = dict[str, Any]


def name(row: Row) -> str:
    fields = ("respacing", "prediction", "variance", "loss")
    switches = [f"{key}={row[key]}" for key in ("clip", "eta", "guided") if key in row]
    return "-".join([str(row[key]) for key in fields if key in row] + switches)


def rows(part: str) -> Any:
    return pytest.mark.parametrize("row", GOLDEN[part], ids=name)


def schedule(row: Row) -> Schedule:
    return respace(FULL, section_timesteps(1000, row["respacing"]))


def output(row: Row, grid: Schedule, x: Any) -> tuple[jax.Array, jax.Array]:
    """The network at the row's positions: what it predicts and its variance values."""
    t = grid.timesteps[np.array(row["positions"])].reshape(-1, 1, 1, 1)
    return jnp.asarray(answer(row["prediction"], x, t)), jnp.asarray(answer("values", x, t))


@pytest.mark.parametrize("spec", list(GOLDEN["respacing"]))
def test_respacing_keeps_the_same_steps(spec: str) -> None:
    assert section_timesteps(1000, spec) == tuple(GOLDEN["respacing"][spec])


@rows("p_mean_variance")
def test_mean_and_variance_of_the_reverse_step(row: Row) -> None:
    grid, t = schedule(row), jnp.asarray(row["positions"])
    source, target = process.take(grid.levels, t + 1, 4), process.take(grid.levels, t, 4)
    logs = process.take(grid.log_variances, t, 4)
    predicted, values = output(row, grid, X)
    x0 = process.predict(X, predicted, source, row["prediction"], clip=row["clip"]).x0
    variance = row["variance"]
    found = (
        process.learned_log_variance(values, logs["small"], logs["beta"]) if variance == "learned" else logs[variance]
    )
    got = {
        "mean": process.posterior(X, x0, source, target).mean,
        "pred_xstart": x0,
        "log_variance": np.broadcast_to(found, BATCH),
    }
    for key, value in got.items():
        # Of x0 the rounding of x shows, divided by what is left of the signal.
        atol = np.broadcast_to(1e-5 / source.signal if key == "pred_xstart" else 1e-5, BATCH)
        assert np.all(np.abs(value - np.reshape(row[key], BATCH)) <= atol), key


@rows("training_losses")
def test_losses(row: Row) -> None:
    grid, t = schedule(row), jnp.asarray(row["positions"])
    at = process.take(grid.levels, t + 1, 4)
    x = process.q_sample(GREY, EPSILON, at)
    predicted, values = output(row, grid, x)
    if row["variance"] == "small":
        mse = process.mse_loss(predicted, GREY, EPSILON, at, row["prediction"])
        got = {"mse": mse, "loss": mse}
    else:
        both = jnp.concatenate([predicted, values], -1)
        terms = process.hybrid_terms(grid, both, GREY, EPSILON, t, row["prediction"])
        share = {"MSE": 1, "RESCALED_MSE": len(grid) / 1000, "KL": 1, "RESCALED_KL": len(grid)}[row["loss"]]
        got = {"mse": terms.mse, "vb": share * terms.bound, "loss": terms.mse + share * terms.bound}
        if row["loss"].endswith("KL"):
            got = {"loss": share * process.bound_loss(grid, both, x, GREY, t, row["prediction"])}
    assert got.keys() == row["terms"].keys()
    # A divergence near 0 is a difference of float32 logarithms: 1e-7 bits, a tenth of what the published one misses.
    atol = 1e-7 * (len(grid) if row["loss"] == "RESCALED_KL" else 1)
    for key, value in got.items():
        np.testing.assert_allclose(value, row["terms"][key], rtol=1e-5, atol=atol, err_msg=key)


def guide(prediction: Any, x: jax.Array, t: jax.Array, level: Any) -> Any:
    return classifier_guided(prediction, x, 0.5 - 0.3 * x, level, 1.0)


def model(row: Row) -> Model:
    def denoise(x: jax.Array, t: jax.Array, condition: Any) -> jax.Array:
        return answer(row["prediction"], x, t.reshape(-1, 1, 1, 1))

    return Model(denoise, schedule(row), row["prediction"], row["clip"], guide if row.get("guided") else None)


def steps(row: Row, start: np.ndarray) -> Any:
    """Of every step in the order walked: the state before, and the state after."""
    states = np.reshape(row["states"], (-1, *SHAPE))
    return zip([start, *states[:-1].astype(np.float32)], states, strict=True)


@rows("ddim_sample")
def test_ddim_steps(row: Row) -> None:
    ours = model(row)
    for k, (x, wanted) in enumerate(steps(row, START)):
        node = len(ours.schedule) - k
        prediction = ours.answer(x, node, None).prediction
        got = process.ddim_step(prediction, ours.level(node, 4), ours.level(node - 1, 4), row["eta"], NOISE[k])
        np.testing.assert_allclose(got, wanted, atol=1e-5, err_msg=f"step {k}")


@pytest.mark.parametrize("kind", ["epsilon", "x0"])
def test_ddim_walks(kind: str) -> None:
    chosen = {"prediction": kind, "clip": True, "eta": 0.0, "guided": False}
    row = next(row for row in GOLDEN["ddim_sample"] if chosen.items() <= row.items())
    got = ddim_sample(model(row), START, trajectory=True).trajectory
    np.testing.assert_allclose(got, np.reshape(row["states"], (-1, *SHAPE)), atol=2e-5)


@rows("ddim_reverse_sample")
def test_reverse_ddim_steps(row: Row) -> None:
    """Asked at the source's step; its position k is our node k + 1, as it has no clean one."""
    ours = model(row)
    for k, (x, wanted) in enumerate(steps(row, IMAGE)):
        prediction = ours.answer(x, k + 1, None).prediction
        pure = level(0.0)
        target = ours.level(k + 2, 4) if k + 1 < len(ours.schedule) else type(pure)(*map(jnp.float32, pure))
        got = process.inverse_ddim_step(prediction, target)
        np.testing.assert_allclose(got, wanted, atol=1e-5, err_msg=f"step {k}")
    assert k + 1 == len(ours.schedule)
