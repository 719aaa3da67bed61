"""Pictures of a reconstruction: a panel of what went in and came out, and a preview of where LEDs should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle

#: Pixels along a side above which a picture is reduced by means of blocks.
_MOST = 1024
#: Circles above which only every so many-th is drawn.
_CIRCLES = 50
_BRIGHT, _DARK = "#f0955b", "#6aa9ec"


@dataclass(frozen=True)
class Circles:
    """Pupils in a picture of a spectrum.

    Attributes:
      centres: (n, 2) x and y in cells from the middle of the spectrum.
      radius: cells.
      bright: (n,) bool, LEDs within the NA.
    """

    centres: np.ndarray
    radius: float
    bright: np.ndarray


def panel(
    raw: np.ndarray,
    amplitude: np.ndarray,
    phase: np.ndarray,
    pupil: np.ndarray,
    spectrum: np.ndarray,
    circles: Circles,
    curves: Mapping[str, np.ndarray],
    microns: tuple[float, float],
    title: str = "",
) -> np.ndarray:
    """Six pictures in two rows.

    Args:
      raw: (h, w) the frame of the LED nearest to the axis, as stored.
      amplitude: (H, W).
      phase: (H, W) radians, unwrapped.
      pupil: (K, K) complex, 0 outside of the aperture.
      spectrum: (M, M) complex, centred.
      circles: the LEDs in that spectrum.
      curves: name -> (passes,) residuals, NaN where there are none.
      microns: side of a pixel of the frame and of the object.
      title: above all.

    Returns:
      uint8 (h, w, 3).
    """
    figure = Figure(figsize=(15, 9.6), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=11)
    axes = figure.subplots(2, 3).ravel()
    _image(figure, axes[0], raw, "frame nearest to the axis", microns[0])
    _image(figure, axes[1], amplitude, "amplitude", microns[1])
    _image(figure, axes[2], phase, "phase, unwrapped, rad", microns[1])
    inside = np.abs(pupil) > 0
    shown = np.where(inside, np.angle(pupil), np.nan)
    # Twilight: its ends meet, as the ends of a phase do.
    drawn = axes[3].imshow(shown, cmap="twilight", vmin=-np.pi, vmax=np.pi)
    axes[3].set(title="phase of the pupil, rad", xticks=(), yticks=())
    figure.colorbar(drawn, ax=axes[3], shrink=0.8)
    _spectrum(axes[4], np.abs(spectrum), circles, "spectrum of the object, LEDs")
    _curves(axes[5], curves)
    return _pixels(figure)


def preview(spectra: Sequence[np.ndarray], circles: Sequence[Circles], labels: Sequence[str], title: str) -> np.ndarray:
    """Spectra of measured frames with the circles that the optics predict: both should lie on the same edges.

    Args:
      spectra: (N, N) sizes of the centred Fourier coefficients of each frame.
      circles: for each.
      labels: over each.
      title: above all.

    Returns:
      uint8 (h, w, 3).
    """
    columns = min(4, len(spectra))
    rows = -(-len(spectra) // columns)
    figure = Figure(figsize=(3.6 * columns, 3.9 * rows + 0.8), dpi=100, layout="constrained")
    figure.suptitle(title, fontsize=11, wrap=True)
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, spectrum, circle, label in zip(axes, spectra, circles, labels, strict=False):
        _spectrum(ax, spectrum, circle, label)
    for ax in axes[len(spectra) :]:
        ax.set_axis_off()
    return _pixels(figure)


def _image(figure: Figure, ax: Axes, values: np.ndarray, title: str, microns: float) -> None:
    low, high = np.percentile(values[np.isfinite(values)], (0.5, 99.5)) if np.isfinite(values).any() else (0, 1)
    extent = (0, values.shape[1] * microns, values.shape[0] * microns, 0)
    drawn = ax.imshow(_reduced(values), cmap="gray", vmin=low, vmax=high, extent=extent)
    ax.set(title=title, xlabel="um")
    figure.colorbar(drawn, ax=ax, shrink=0.8)


def _reduced(values: np.ndarray) -> np.ndarray:
    by = -(-max(values.shape) // _MOST)
    height, width = (side // by * by for side in values.shape)
    if by == 1 or not height or not width:
        return values
    blocks = np.asarray(values[:height, :width], np.float32).reshape(height // by, by, width // by, by)
    return blocks.mean(axis=(1, 3))


def _spectrum(ax: Axes, sizes: np.ndarray, circles: Circles, title: str) -> None:
    height, width = sizes.shape
    # Cell (h // 2, w // 2) is frequency 0; a pixel of the picture is centred on its cell.
    extent = (-(width // 2) - 0.5, width - width // 2 - 0.5, height - height // 2 - 0.5, -(height // 2) - 0.5)
    top = float(sizes.max(initial=0.0)) or 1.0
    ax.imshow(np.log10(np.maximum(sizes / top, 1e-8)), cmap="gray", vmin=-5.5, vmax=-1, extent=extent)
    step = max(1, len(circles.centres) // _CIRCLES)
    for (x, y), bright in list(zip(circles.centres, circles.bright, strict=True))[::step]:
        colour = _BRIGHT if bright else _DARK
        ax.add_patch(Circle((x, y), circles.radius, fill=False, linewidth=0.7, alpha=0.6, color=colour))
    ax.set(title=title, xlim=extent[:2], ylim=extent[2:], xticks=(), yticks=())
    ax.title.set_fontsize(10)


def _curves(ax: Axes, curves: Mapping[str, np.ndarray]) -> None:
    for name, values in curves.items():
        passes = np.arange(1, len(values) + 1)
        if np.isfinite(values).any():
            ax.semilogy(passes, values, marker="o", markersize=3, label=name)
    ax.set(title="residual, best gains", xlabel="pass")
    ax.grid(alpha=0.3, which="both")
    if ax.lines:
        ax.legend(frameon=False)


def _pixels(figure: Figure) -> np.ndarray:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
