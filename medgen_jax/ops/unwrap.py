"""Phase without jumps: weighted least squares over the differences of neighbours (Ghiglia and Romero 1994).

The unwrapped phase is the one whose differences between neighbours are, in the mean of weighted squares, closest to
those of the wrapped phase, each brought into [-pi, pi). Without weights that is Poisson's equation with free borders,
solved by two transforms; with weights, conjugate gradients with that solution as preconditioner. NumPy only.
"""

from __future__ import annotations

import numpy as np

from medgen_jax.core.errors import UserError

#: Share of the first residual at which conjugate gradients stop.
_CLOSE = 1e-4


def wrap(phase: np.ndarray) -> np.ndarray:
    """The same angles within [-pi, pi)."""
    return (phase + np.pi) % (2 * np.pi) - np.pi


def unwrap(phase: np.ndarray, weight: np.ndarray | None = None, rounds: int = 30) -> np.ndarray:
    """Phase without jumps of 2 pi, which differs from ``phase`` by whole multiples of 2 pi in every pixel.

    Exact where the true phase rises by less than pi from pixel to pixel. Around points where that fails, the
    least-squares solution bends, and the nearest whole multiples may leave a cut.

    Args:
      phase: (h, w) radians, wrapped anywhere.
      weight: (h, w), not negative: how far each pixel may be believed, such as its amplitude. None: all alike.
      rounds: at most so many of conjugate gradients; without weights one is enough.

    Returns:
      (h, w) float64.

    Raises:
      UserError: another shape, values that are not finite, negative weights.
    """
    phase = np.asarray(phase, np.float64)
    weight = np.ones_like(phase) if weight is None else np.asarray(weight, np.float64)
    if phase.ndim != 2 or phase.shape != weight.shape or not phase.size:
        raise UserError(f"phase of shape {phase.shape} with weights {weight.shape}: expected two equal planes")
    if not (np.isfinite(phase).all() and np.isfinite(weight).all() and (weight >= 0).all()):
        raise UserError("phase and weights must be finite, weights not negative")
    flat = _least_squares(phase, weight, rounds)
    # The constant that least squares leave open, from where the two agree up to it.
    shift = np.angle(np.sum(weight * np.exp(1j * (phase - flat))))
    return phase + 2 * np.pi * np.rint((flat + shift - phase) / (2 * np.pi))


def _least_squares(phase: np.ndarray, weight: np.ndarray, rounds: int) -> np.ndarray:
    links = [np.minimum(*pair) ** 2 for pair in (_neighbours(weight, 0), _neighbours(weight, 1))]
    top = max((link.max(initial=0.0) for link in links), default=0.0)
    if top == 0:
        return np.zeros_like(phase)
    links = [link / top for link in links]

    def apply(values: np.ndarray) -> np.ndarray:
        return _divergence([link * np.diff(values, axis=axis) for axis, link in enumerate(links)], phase.shape)

    steps = [link * wrap(np.diff(phase, axis=axis)) for axis, link in enumerate(links)]
    residual = _divergence(steps, phase.shape)
    solution, direction, before = np.zeros_like(phase), None, 1.0
    first = np.linalg.norm(residual)
    for _ in range(rounds):
        if np.linalg.norm(residual) <= _CLOSE * first:
            break
        smooth = _poisson(residual)
        product = float(np.sum(residual * smooth))
        direction = smooth if direction is None else smooth + product / before * direction
        moved = apply(direction)
        curvature = float(np.sum(direction * moved))
        if curvature <= 0:
            break
        solution += product / curvature * direction
        residual -= product / curvature * moved
        before = product
    return solution


def _neighbours(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Each pixel but the last, and the one after it."""
    count = values.shape[axis]
    return np.take(values, range(count - 1), axis), np.take(values, range(1, count), axis)


def _divergence(steps: list[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The transpose of taking differences, of both axes together."""
    total = np.zeros(shape)
    down, across = steps
    total[:-1] -= down
    total[1:] += down
    total[:, :-1] -= across
    total[:, 1:] += across
    return total


def _poisson(source: np.ndarray) -> np.ndarray:
    """The plane of mean 0 whose differences have this divergence; cosines are free at the borders."""
    height, width = source.shape
    powers = [2 - 2 * np.cos(np.pi * np.arange(side) / side) for side in (height, width)]
    powers = powers[0][:, None] + powers[1]
    powers[0, 0] = np.inf
    spectrum = _cosines(_cosines(source).T).T / powers
    return _from_cosines(_from_cosines(spectrum.T).T)


def _cosines(values: np.ndarray) -> np.ndarray:
    """DCT-II of the rows by one real transform of their own length (Makhoul 1980), up to a factor."""
    count = values.shape[-1]
    mixed = np.concatenate([values[:, ::2], values[:, 1::2][:, ::-1]], axis=1)
    half = np.fft.rfft(mixed) * np.exp(-0.5j * np.pi / count * np.arange(count // 2 + 1))
    back = np.arange(1, (count + 1) // 2)
    result = np.empty(values.shape)
    result[:, : count // 2 + 1] = half.real
    result[:, count - back] = -half.imag[:, back]
    return result


def _from_cosines(values: np.ndarray) -> np.ndarray:
    """The inverse of `_cosines`."""
    count = values.shape[-1]
    order = np.arange(count // 2 + 1)
    half = values[:, order].astype(np.complex128)
    half[:, 1:] -= 1j * values[:, count - order[1:]]
    mixed = np.fft.irfft(half * np.exp(0.5j * np.pi / count * order), count)
    result, middle = np.empty(values.shape), (count + 1) // 2
    result[:, ::2], result[:, 1::2] = mixed[:, :middle], mixed[:, middle:][:, ::-1]
    return result
