"""The lines that the README has for a notebook, executed."""

from __future__ import annotations

import pathlib
import re

import numpy as np


def texture(seed: int, side: int = 64) -> np.ndarray:
    """Random values in [0, 1] (side, side), without detail finer than five pixels."""
    frequencies = np.hypot(*np.meshgrid(np.fft.fftfreq(side), np.fft.fftfreq(side)))
    noise = np.fft.fft2(np.random.default_rng(seed).normal(size=(side, side)))
    values = np.fft.ifft2(noise * (frequencies < 0.2)).real
    return (values - values.min()) / np.ptp(values)


def test_the_lines_of_the_readme_solve_what_they_simulate(root: pathlib.Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), flags=re.DOTALL)
    (lines,) = (block for block in blocks if block.startswith("from medgen_jax.fpm import"))
    assert len([line for line in lines.splitlines() if line]) == 5
    amplitude, phase = 0.6 + 0.4 * texture(0), texture(1)
    names = {"np": np, "amplitude": amplitude, "phase": phase}
    exec(lines, names)
    truth, found = amplitude * np.exp(1j * phase), names["solution"].obj
    assert names["stack"].shape == (37, 32, 32) and found.shape == truth.shape
    factor = np.vdot(found, truth) / np.vdot(found, found)
    assert np.linalg.norm(factor * found - truth) < 0.03 * np.linalg.norm(truth)
