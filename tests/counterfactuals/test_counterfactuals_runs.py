"""Trained runs as denoisers: what is handed out, and where guidance leads away from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.counterfactuals import runs
from medgen_jax.diffusion.counterfactual import Guidance, Recipe, guided_model
from medgen_jax.diffusion.schedules import make_schedule
from medgen_jax.sampling import load_denoiser


def test_a_denoiser_has_all_that_a_sampler_needs(views_run):
    model = load_denoiser(views_run)
    assert model.classes == ("Normal", "Lung Opacity") and model.views == ("PA", "AP")
    assert model.null == {"label": 2, "view": 2} and (model.kind, model.clip) == ("epsilon", True)
    assert (model.size, model.channels, model.step) == (16, 1, 1) and len(model.schedule) == 40
    known = runs.open_run(views_run)
    x, t = np.zeros((2, 16, 16, 1), np.float32), np.array([3, 30], np.int32)
    output = jax.eval_shape(model.denoise, x, t, {"label": np.array([0, 2]), "view": np.array([1, 2])})
    assert output.shape == (2, 16, 16, 2)  # the variance is learned
    assert len(jax.tree.leaves(model.denoise)) > 20  # its parameters
    assert known.classes == model.classes and known.knows_unknown and runs.has_view(known)


def test_guidance_forgets_the_class_and_keeps_the_view(views_run):
    def denoise(x, t, condition):
        return jnp.broadcast_to((condition["label"] + 10 * condition["view"])[:, None, None, None], x.shape) * 1.0

    null = runs.sampler(runs.open_run(views_run), None, method="source", steps=4).recipe.null
    model = Recipe(make_schedule("linear", 40), "source", 4, null).model(denoise, 20)
    condition = {"label": jnp.array([0, 1]), "view": jnp.array([1, 0])}
    guided = guided_model(model, null, None, Guidance(condition, 3.0))
    got = guided.denoise(jnp.zeros((2, 1, 1, 1)), jnp.array([5, 5]), condition)
    np.testing.assert_allclose(np.ravel(got), [10 + 3 * (0 - 2), 1 + 3 * (1 - 2)])


@pytest.mark.parametrize(("method", "clip"), [("edict", False), ("bdia", True), ("fixed_point", True)])
def test_predicted_images_are_limited_as_the_run_does_where_the_method_can(diffusion_run, method, clip):
    assert runs.clips(runs.open_run(diffusion_run), method) is clip


def test_other_runs_are_no_denoisers(classifier_run, tmp_path):
    with pytest.raises(UserError, match="is a run of noise_classifier; counterfactuals need one of diffusion"):
        load_denoiser(classifier_run)
    with pytest.raises(UserError, match="none"):
        load_denoiser(tmp_path / "none")
