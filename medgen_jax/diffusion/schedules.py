"""How much noise at which step: beta schedules, respacing and the grid of nodes, in float64 NumPy.

``alpha_bar`` is the share of the signal's variance left after a step: the running product of ``1 - beta``
(Ho et al. 2020). The DDIM paper (Song et al. 2021) writes ``alpha`` for the same quantity.

The grid, one convention for sampling, encoding and decoding: a schedule of N steps has N + 1 *nodes*.
Node 0 is the clean image (``alpha_bar`` exactly 1); node k is the state after step k - 1. Decoding walks the
nodes N ... 0, encoding 0 ... N, so what one leaves the other finds. The network knows no label for the clean
node; asked there, it is given step 0, its smallest.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from medgen_jax.core.errors import UserError


class Level(NamedTuple):
    """A noise level: ``x = signal * x0 + noise * epsilon`` with ``signal**2 + noise**2 = 1``.

    Both roots travel, not ``alpha_bar``: in float32 ``1 - alpha_bar`` has lost three digits at the first
    steps, where it is 1e-4. The fields are arrays (NumPy or JAX) that broadcast against images.
    """

    signal: Any
    noise: Any


def level(alpha_bar: Any) -> Level:
    """The level of ``alpha_bar`` in [0, 1]: float64 NumPy, any shape."""
    alpha_bar = np.asarray(alpha_bar, np.float64)
    return Level(np.sqrt(alpha_bar), np.sqrt(1 - alpha_bar))


@dataclasses.dataclass(frozen=True, eq=False)
class Schedule:
    """The noise levels of N steps, least noise first.

    Not a pytree: its tables are constants of a compiled sampler, computed in float64 and rounded once, where
    a pytree's leaves would enter ``jit`` as float32 arguments. Equality and hash go by content, so a schedule may be
    closed over or passed as a static argument.

    Attributes:
      alphas_cumprod: (N,) float64 in (0, 1), strictly falling.
      timesteps: (N,) int64, strictly rising: each step's number in the process the network was trained on.
    """

    alphas_cumprod: np.ndarray
    timesteps: np.ndarray

    def __post_init__(self) -> None:
        bars, steps = np.array(self.alphas_cumprod, np.float64), np.array(self.timesteps, np.int64)
        if bars.ndim != 1 or bars.shape != steps.shape or not bars.size:
            raise ValueError(f"alphas_cumprod {bars.shape} and timesteps {steps.shape}: expected equal, 1-D, not empty")
        if not (np.all(np.diff(bars, prepend=1.0) < 0) and bars[-1] > 0):
            raise ValueError("alphas_cumprod: expected strictly falling values within (0, 1)")
        if not np.all(np.diff(steps, prepend=-1) > 0):
            raise ValueError("timesteps: expected strictly rising numbers from 0 upwards")
        for name, table in (("alphas_cumprod", bars), ("timesteps", steps)):
            table.flags.writeable = False
            object.__setattr__(self, name, table)

    def __len__(self) -> int:
        return len(self.timesteps)

    def _key(self) -> tuple[bytes, bytes]:
        return self.alphas_cumprod.tobytes(), self.timesteps.tobytes()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schedule) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    @functools.cached_property
    def levels(self) -> Level:
        """Levels of the N + 1 nodes, the clean one first: arrays of shape (N + 1,)."""
        return level(np.append(1.0, self.alphas_cumprod))

    @functools.cached_property
    def labels(self) -> np.ndarray:
        """(N + 1,) int64: the ``t`` at which the network is asked at each node (0 at the clean one)."""
        return np.append(0, self.timesteps)

    @functools.cached_property
    def betas(self) -> np.ndarray:
        """(N,): share of the variance that each step replaces by noise, ``1 - alpha_bar / alpha_bar before``."""
        return 1 - self.alphas_cumprod / np.append(1.0, self.alphas_cumprod[:-1])

    @functools.cached_property
    def snr(self) -> np.ndarray:
        """(N,): signal-to-noise ratio ``alpha_bar / (1 - alpha_bar)`` of the variances."""
        return self.alphas_cumprod / (1 - self.alphas_cumprod)

    @functools.cached_property
    def posterior_variances(self) -> np.ndarray:
        """(N,): variance of q(x before | x after, x0), Ho et al. 2020 eq. (7); 0 at the first step."""
        before = np.append(1.0, self.alphas_cumprod[:-1])
        return self.betas * (1 - before) / (1 - self.alphas_cumprod)

    @functools.cached_property
    def log_variances(self) -> dict[str, np.ndarray]:
        """(N,) each: the choices of a reverse step's log variance that are fixed in advance.

        ``small`` is the posterior's and ``beta`` the forward step's, the two ends between which a learned
        variance moves. ``large`` is ``beta`` but for the first step. A first step of zero variance has no
        logarithm: ``small`` and ``large`` take the second step's posterior there (Nichol & Dhariwal 2021).
        """
        second = self.posterior_variances[1] if len(self) > 1 else self.betas[0]
        beta, small = np.log(self.betas), np.log(np.append(second, self.posterior_variances[1:]))
        return {"small": small, "beta": beta, "large": np.append(small[0], beta[1:])}


def linear_betas(steps: int) -> np.ndarray:
    """Straight from 1e-4 to 0.02 at 1,000 steps, scaled by ``1000 / steps`` at others (Ho et al. 2020)."""
    scale = 1000 / steps
    return np.linspace(1e-4 * scale, 0.02 * scale, steps)


def betas_from(alpha_bar: Callable[[np.ndarray], np.ndarray], steps: int, cap: float = 0.999) -> np.ndarray:
    """Betas of a continuous ``alpha_bar(u)``, u in [0, 1], capped where it runs into 0."""
    values = alpha_bar(np.arange(steps + 1) / steps)
    return np.minimum(1 - values[1:] / values[:-1], cap)


def cosine_betas(steps: int) -> np.ndarray:
    """``alpha_bar = cos^2((u + 0.008) / 1.008 * pi / 2)``: Nichol & Dhariwal 2021 eq. (17)."""
    return betas_from(lambda u: np.cos((u + 0.008) / 1.008 * np.pi / 2) ** 2, steps)


def sigmoid_betas(steps: int, start: float = -3.0, end: float = 3.0, temperature: float = 1.0) -> np.ndarray:
    """``alpha_bar`` falls like a sigmoid between ``start`` and ``end``, scaled to [0, 1]: Jabri et al. 2022."""

    def sigmoid(u: Any) -> Any:
        return 1 / (1 + np.exp(-u / temperature))

    def alpha_bar(u: np.ndarray) -> np.ndarray:
        return (sigmoid(end) - sigmoid(start + u * (end - start))) / (sigmoid(end) - sigmoid(start))

    return betas_from(alpha_bar, steps)


BETAS: dict[str, Callable[[int], np.ndarray]] = {
    "linear": linear_betas,
    "cosine": cosine_betas,
    "sigmoid": sigmoid_betas,
}


def make_schedule(name: str = "linear", steps: int = 1000) -> Schedule:
    """The schedule of all ``steps`` steps of a process.

    Raises:
      UserError: an unknown name, or a number of steps at which the betas leave (0, 1).
    """
    if name not in BETAS:
        raise UserError(f"schedule {name!r}: expected one of {', '.join(BETAS)}")
    if steps < 1:
        raise UserError(f"schedule steps {steps}: expected at least 1")
    betas = BETAS[name](steps)
    if not np.all((betas > 0) & (betas < 1)):
        raise UserError(f"{name} schedule of {steps} steps: betas leave (0, 1); take more steps or 'cosine'")
    return Schedule(np.cumprod(1 - betas), np.arange(steps))


def respace(schedule: Schedule, timesteps: Sequence[int]) -> Schedule:
    """The schedule that keeps only some steps; its betas are those of the longer strides.

    Args:
      schedule: any schedule.
      timesteps: the steps to keep, as `section_timesteps` and `uniform_timesteps` list them.

    Raises:
      UserError: a step that the schedule does not have.
    """
    kept = np.asarray(timesteps, np.int64)
    missing = np.setdiff1d(kept, schedule.timesteps)
    if missing.size:
        raise UserError(f"timestep {missing[0]}: not among the {len(schedule)} steps of the schedule")
    return Schedule(schedule.alphas_cumprod[np.searchsorted(schedule.timesteps, kept)], kept)


def _count(text: str, spec: str) -> int:
    if not text.strip().isdecimal():
        raise UserError(f"timesteps {spec!r}: expected 'ddimN', 'N' or 'N,N,...' with whole numbers")
    return int(text)


def section_timesteps(steps: int, spec: str) -> tuple[int, ...]:
    """The steps that a respacing string keeps, ascending.

    ``"ddimN"`` keeps every k-th step from 0 on, k whole (never the last step). ``"N"`` spreads N steps evenly
    from the first to the last one; ``"a,b,c"`` cuts the process into equal sections, the first ones a step
    longer where it does not divide, and spreads a, b and c steps over them. The same lists as the respacing of
    Nichol & Dhariwal 2021, down to the rounding.

    Args:
      steps: length of the process.
      spec: one of the above.

    Raises:
      UserError: a string of another form, more steps than there are, or no whole stride for ``"ddimN"``.
    """
    if spec.startswith("ddim"):
        count = _count(spec[4:], spec)
        for stride in range(1, steps):
            if -(-steps // stride) == count:
                return tuple(range(0, steps, stride))
        raise UserError(f"timesteps {spec!r}: no whole stride takes {count} of {steps} steps; use {str(count)!r}")
    counts = [_count(text, spec) for text in spec.split(",")]
    kept: list[int] = []
    start = 0
    for section, count in enumerate(counts):
        size = steps // len(counts) + (section < steps % len(counts))
        if count > size:
            raise UserError(f"timesteps {spec!r}: {count} steps asked of a section of {size}")
        stride = (size - 1) / (count - 1) if count > 1 else 1.0
        # The published lists add the stride up; a product would round some halves the other way.
        offsets = itertools.accumulate(itertools.repeat(stride, max(count - 1, 0)), initial=0.0)
        kept += [start + round(offset) for offset in itertools.islice(offsets, count)]
        start += size
    if not kept:
        raise UserError(f"timesteps {spec!r}: expected at least one step")
    return tuple(kept)


def uniform_timesteps(depth: int, steps: int) -> tuple[int, ...]:
    """``steps`` strides of equal length from the clean image to the state after ``depth`` noising steps.

    Node k lies ``k * depth / steps`` noising steps deep, rounded, halves up; the last is step ``depth - 1``. At
    ``depth`` = T these are the "trailing" timesteps of other samplers, and with ``steps = depth`` all of them.

    Raises:
      UserError: fewer than one stride, or more strides than ``depth``.
    """
    if not 1 <= steps <= depth:
        raise UserError(f"grid of {steps} steps over a depth of {depth}: expected between 1 and {depth}")
    return tuple((2 * node * depth + steps) // (2 * steps) - 1 for node in range(1, steps + 1))
