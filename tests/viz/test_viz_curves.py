"""Curves from metric rows: grouping, scales, gaps, thinning, and well-formed SVG."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from medgen_jax.viz.curves import LEFT, MAX_POINTS, TOP, Curve, best, compact, curves, direction, group, panel


def curve(values, name="g_l1", split="train", every=1):
    values = np.asarray(values, float)
    return Curve(name, split, every * np.arange(1, len(values) + 1), values)


def draw(lines, last_step=None, reference=None):
    last = max(int(c.steps[-1]) for c in lines) if last_step is None else last_step
    return ET.fromstring(panel(lines, last, reference))


def paths(svg, cls):
    """Points of each stroke of the paths of a class."""
    found = [p.get("d") for p in svg.iter("path") if p.get("class") == cls]
    strokes = [s for d in found for s in d.split("M") if s]
    return [np.array([[float(v) for v in pair.split()] for pair in s.split("L")]) for s in strokes]


def texts(svg, cls):
    return [t.text for t in svg.iter("text") if t.get("class") == cls]


def test_rows_become_curves():
    rows = [
        {"step": 10, "images": 10, "time": 1.0, "split": "train", "loss": 2.0, "lr": 1e-3},
        {"step": 20, "images": 20, "time": 2.0, "split": "train", "loss": None, "note": "text"},
        {"step": 20, "images": 20, "time": 2.0, "split": "val", "loss": 1.0},
        {"step": 10, "images": 10, "time": 9.0, "split": "train", "loss": 3.0},
    ]
    loss, lr, val = curves(rows)
    assert (loss.name, loss.split, loss.steps.tolist()) == ("loss", "train", [10, 20])
    assert loss.values[0] == 3.0 and np.isnan(loss.values[1])
    assert (lr.name, lr.values.tolist()) == ("lr", [1e-3])
    assert (val.split, val.steps.tolist(), val.values.tolist()) == ("val", [20], [1.0])


@pytest.mark.parametrize(
    ("name", "split", "wanted"),
    [
        ("psnr", "val", "validation"),
        ("g_gan", "train", "losses"),
        ("lr", "train", "learning rate"),
        ("learning_rate_g", "train", "learning rate"),
        ("images_per_second", "train", "speed"),
        ("skipped_steps", "train", "run state"),
        ("ada_p", "train", "run state"),
        ("clr", "train", "losses"),
    ],
)
def test_every_number_has_its_heading(name, split, wanted):
    assert group(curve([1.0], name, split)) == wanted


def test_what_is_better_is_known_by_word():
    assert [direction(n) for n in ("psnr_mean", "val/ssim", "fid", "g_loss", "length", "lpips_diversity")] == [
        1,
        1,
        -1,
        -1,
        0,
        1,
    ]
    assert best(curve([1.0, np.nan, 3.0, 2.0], "psnr")) == 2
    assert best(curve([1.0, 3.0], "fid")) == 0
    assert best(curve([1.0], "length")) is None and best(curve([np.nan], "psnr")) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (23.5123, "23.51"),
        (2e-4, "2e-4"),
        (-1.5e-5, "-1.5e-5"),
        (12345.0, "12.35k"),
        (3e7, "3e7"),
        (1.0, "1"),
    ],
)
def test_numbers_are_short(value, text):
    assert compact(value) == text


def test_a_line_is_linear_in_steps_and_values():
    """Values 0, 1, 2 at steps 0, 50, 100: equal distances, upwards."""
    line = Curve("g_gan", "train", np.array([0, 50, 100]), np.array([0.0, 1.0, 2.0]))
    (points,) = paths(draw([line]), "curve")
    np.testing.assert_allclose(np.diff(points, axis=0), [np.diff(points, axis=0)[0]] * 2, atol=0.11)
    assert points[0, 0] == 0 and points[1, 1] < points[0, 1]


def test_large_spans_are_logarithmic_but_never_a_learning_rate():
    values = [1.0, 10.0, 100.0, 1000.0]
    (points,) = paths(draw([curve(values)]), "curve")
    np.testing.assert_allclose(np.diff(points[:, 1]), np.diff(points[:, 1])[0], atol=0.11)
    (points,) = paths(draw([curve(values, "lr")]), "curve")
    rises = np.abs(np.diff(points[:, 1]))
    assert rises[2] > 5 * rises[0]


def test_tick_labels_stand_at_their_values():
    svg = draw([curve(np.linspace(0, 10, 11))])
    (points,) = paths(svg, "curve")
    per_unit = (points[-1, 1] - points[0, 1]) / 10
    for text in (t for t in svg.iter("text") if t.get("class") == "y"):
        assert float(text.get("y")) - 3.5 - TOP == pytest.approx(points[0, 1] + per_unit * float(text.text), abs=0.2)
    assert {"0", "5", "10"} <= set(texts(svg, "y"))
    steps = {t.text: float(t.get("x")) - LEFT for t in svg.iter("text") if t.get("class") == "x"}
    assert steps["10"] == pytest.approx(points[9, 0], abs=0.2)


def test_values_that_are_not_finite_leave_a_gap_and_a_tick():
    svg = draw([curve([1.0, 2.0, np.nan, 2.0, 1.0])])
    assert [len(stroke) for stroke in paths(svg, "curve")] == [2, 2]
    assert sum(p.get("class") == "invalid" for p in svg.iter("path")) == 1


def test_noisy_curves_are_smoothed_without_a_lag():
    """A moving average flattens noise and leaves a ramp where it is."""
    noisy = draw([curve(5 + np.random.default_rng(0).normal(size=400))])
    (raw,), (smooth,) = paths(noisy, "raw"), paths(noisy, "curve")
    assert np.abs(np.diff(smooth[:, 1])).mean() < 0.2 * np.abs(np.diff(raw[:, 1])).mean()
    ramp = draw([curve(np.linspace(10, 11, 400))])
    (raw,), (smooth,) = paths(ramp, "raw"), paths(ramp, "curve")
    np.testing.assert_allclose(smooth[10:-10], raw[10:-10], atol=0.11)


def test_a_spike_at_the_start_does_not_flatten_the_rest():
    values = np.concatenate([[1e4, 5e3], 1 + 0.1 * np.sin(np.arange(600))])
    labels = [float(t) for t in texts(draw([curve(values)]), "y")]
    assert max(labels) < 200


def test_long_curves_are_thinned_to_their_extremes():
    values = np.zeros(20_000)
    values[12_345] = 1.0
    (points,) = paths(draw([curve(values, "lr")]), "curve")
    assert len(points) <= MAX_POINTS
    assert points[:, 1].min() < points[0, 1] - 50


def test_baseline_and_best_value_are_drawn():
    svg = draw([curve([10.0, 30.0, 20.0], "psnr", "val")], reference=5.0)
    ring = next(c for c in svg.iter("circle") if c.get("class") == "best")
    (points,) = paths(svg, "curve")
    assert [float(ring.get("cx")), float(ring.get("cy"))] == points[1].tolist()
    level = float(
        re.match(r"M0 ([\d.]+)H", next(p for p in svg.iter("path") if p.get("class") == "reference").get("d"))[1]
    )
    assert level > points[:, 1].max()


@pytest.mark.parametrize(
    "values", [[1.0], [0.0, 0.0], [np.nan, np.nan], [1e-30, 2e-30], [-5.0, 1e30], [0.0, 1e-9, 1.0, 1e9]]
)
def test_degenerate_curves_are_drawn(values):
    text = panel([curve(values)], len(values))
    assert ET.fromstring(text).tag == "svg"
    assert "nan" not in text.replace("not finite", "") and "inf" not in text.replace("not finite", "")


def test_names_are_escaped():
    svg = draw([curve([1.0, 2.0], '<b a="1">&')])
    assert svg.get("aria-label") == '<b a="1">& over optimiser steps'
