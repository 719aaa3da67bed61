"""``--scale auto``: a strength of guidance for each image by its forward gap, without pixel labels."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from made_up_xrays import xray
from test_counterfactuals_commands import _loaded_once, edited, opened  # noqa: F401
from test_counterfactuals_commands import make as make_limited

from medgen_jax.core.errors import UserError
from medgen_jax.counterfactuals import files
from medgen_jax.data import counterfactual_folders as folders
from medgen_jax.engine.runtime import CompileCounter


def make(*where, **words):
    """Predicted images are not limited: then gaps at two scales differ by a factor, and those of images by more."""
    return make_limited(*where, clip=False, **words)


@pytest.fixture(scope="module")
def chosen(diffusion_run, tmp_path_factory):
    """Three images of val, whose scales are chosen beside the one sick image of train."""
    return make(diffusion_run, tmp_path_factory.mktemp("auto") / "out", scale="auto", given={"count": 3})[0]


def test_scales_follow_from_gaps_beside_the_widest_of_other_images(chosen, diffusion_run, tmp_path):
    healthy = opened(diffusion_run, tmp_path, clip=False)[0].sampler
    entries, unknown, normal = chosen.entries[:2], {"label": 2}, {"label": 0}
    images = np.stack([chosen.arrays(entry).image for entry in entries])
    sick = np.float32(xray(1, True) / 127.5 - 1)[None].repeat(2, 0)
    gaps, reference = (
        np.max(healthy.forward_gap(x, unknown, normal, scale=3.0, depth=20), axis=0) for x in (images, sick)
    )
    np.testing.assert_allclose([entry.numbers["forward_gap"] for entry in entries], gaps, rtol=1e-3)
    np.testing.assert_allclose([entry.numbers["forward_gap_reference"] for entry in entries], reference, rtol=1e-3)
    scales = 3 * np.minimum(gaps / reference, 1)
    np.testing.assert_allclose([entry.scale for entry in chosen.entries[:2]], scales, rtol=2e-3)
    assert np.ptp(scales) > 0.1 and {entry.depth for entry in chosen.entries} == {20}
    made = np.clip(healthy(images, unknown, normal, scale=scales, depth=20).counterfactual, -1, 1)
    np.testing.assert_allclose(np.stack([chosen.arrays(e).counterfactual for e in entries]), made, atol=2e-3)


def test_the_choice_is_written_and_shown(chosen):
    said = folders.read(chosen.path).settings
    assert (said["scale"], said["scale_range"], said["reference"]) == ("auto", [0.0, 3.0], "train")
    page = (chosen.path / "index.html").read_text()
    for words in ("Scales from, to", "Scales set by split", "Widest gap", f"scale {chosen.entries[0].scale:.3g}"):
        assert words in page, words


def test_other_ends_recompile_nothing_and_use_the_latents(chosen, diffusion_run, tmp_path):
    given = {"count": 3, "latents": str(chosen.path)}
    maker, cases = opened(diffusion_run, tmp_path / "a", clip=False, scale="auto", given=given)
    files.write(maker, cases, tmp_path / "a", batch=2)
    asked = dataclasses.replace(maker.asked, scale_range=(0.5, 1.0))
    other = dataclasses.replace(maker, asked=asked)
    said = []
    with CompileCounter() as compiled:
        done = files.write(other, cases, tmp_path / "b", batch=2, say=said.append)
    assert compiled.count == 0 and said == ["3 latents kept before were used; only decoding was needed"]
    # Gaps are measured at the higher end: all smaller by (1 + 1)^2 over (1 + 3)^2, that of the reference alike.
    before, after = (np.array([(e.numbers["forward_gap"], e.scale) for e in one.entries]).T for one in (chosen, done))
    np.testing.assert_allclose(after[0], before[0] / 4, rtol=1e-3)
    np.testing.assert_allclose(after[1], 0.5 + 0.5 * before[1] / 3, rtol=1e-3)


def test_depth_and_scale_together(diffusion_run, tmp_path):
    plain, _ = make(diffusion_run, tmp_path / "plain", depth="auto", given={"count": 2})
    both, said = make(
        diffusion_run, tmp_path / "both", depth="auto", scale="auto", given={"count": 2, "latents": str(plain.path)}
    )
    # Depths are measured at the higher end of the scales, here the one scale of the other call.
    assert said == ["2 latents kept before were used; only decoding was needed"]
    assert [e.depth for e in both.entries] == [e.depth for e in plain.entries]
    assert all(0 <= entry.scale <= 3 and entry.numbers["forward_gap_reference"] > 0 for entry in both.entries)
    assert all(entry.numbers["forward_gap"] > 0 and entry.scale == 3 for entry in plain.entries)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"scale": "strong"}, "--scale strong: expected a number, or auto"),
        ({"scale": "nan"}, "--scale nan: expected a number"),
        ({"scale": "auto", "scale_range": ("1",)}, "--scale_range 1: expected LOW,HIGH, two scales"),
        ({"scale": "auto", "scale_range": ("1", "x")}, "--scale_range x: expected a number"),
        ({"scale": "auto", "scale_range": ("3", "1")}, "--scale_range 3,1: expected LOW,HIGH with 0 <= LOW < HIGH"),
        ({"scale_range": ("0", "3")}, "--scale_range: is for --scale auto"),
        ({"scale": "2", "reference": "train"}, "--reference: is for --scale auto"),
        ({"scale": "auto", "reference": "val"}, "--reference val: is the split that is asked about; give another"),
        ({"scale": "auto", "reference": "dev"}, "--reference dev: the run's data have no such split; there are: train"),
    ],
)
def test_what_cannot_be_chosen_is_refused(diffusion_run, tmp_path, words, message):
    with pytest.raises(UserError, match=f"^{message}"):
        opened(diffusion_run, tmp_path / "out", **words)
    assert not (tmp_path / "out").exists()


def test_no_image_of_another_class_to_compare_with(diffusion_run, tmp_path):
    run = edited(diffusion_run, tmp_path / "run", data__classes=["Normal", "Effusion"])
    (run / "checkpoints").symlink_to(diffusion_run / "checkpoints")
    with pytest.raises(UserError, match="^--reference train: has no image of the run's classes, Effusion"):
        opened(run, tmp_path / "out", scale="auto")
