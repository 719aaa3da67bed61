"""The staining paper's alternation as a phase machine: D alone, then G against a frozen D, in turn.

* ``d0``: the discriminator learns without the generator, from pairs that are wrong by construction,
  until it reads held-out amplitude images accurately.
* ``g``: the discriminator is frozen, parameters and statistics; the generator learns.
* ``d``: the discriminator learns again, now from the generator's images and some wrong pairs.

A step ends by wishing for a phase in ``extra["flags"]``; the host grants the wish at its next look.
Until then the old phase goes on, and a wish once made stays: the machine is idempotent, so a resumed
run, which knows only what was granted, takes the same turns.
"""

# No postponed annotations: config_flags reads the types of the configuration's fields.
import enum
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from medgen_jax.core.config import require

PyTree = Any
PHASES = ("d0", "g", "d")


class Kind(enum.Enum):
    """Both players in every step (pix2pix), or in turn (the staining paper)."""

    JOINT = "joint"
    SEED = "seed"


class Negatives(enum.Enum):
    """Wrong pairs that need no generator."""

    PHASE_AS_AMPLITUDE = "phase_as_amplitude"  # the input passed off as its own stained image
    SHUFFLED_PAIR = "shuffled_pair"  # the target of another record of the batch


@dataclass(slots=True)
class ScheduleConfig:
    """Who learns when. Everything but ``kind`` concerns the seed's schedule."""

    kind: Kind = Kind.JOINT
    negatives: Negatives = Negatives.PHASE_AS_AMPLITUDE
    d_accuracy: float = 0.95  # phases d0 and d end when held-out real and wrong pairs are read this well
    max_d_steps: int = 500  # ... or after so many steps
    g_steps: int = 1000  # phase g ends after so many steps
    g_floor: float = 0.55  # ... or when D tells fakes apart less often than this
    d0_share: float = 0.25  # share of wrong pairs among the fakes of the later phases d
    accuracy_decay: float = 0.9  # of the moving averages the decisions are made on
    flag_every: int = 10  # steps between two looks of the host


def validate(config: ScheduleConfig, batch_size: int) -> None:
    """Check the ranges.

    Raises:
      UserError: naming the field.
    """
    for name in ("d_accuracy", "g_floor", "d0_share", "accuracy_decay"):
        require(0 <= getattr(config, name) <= 1, f"schedule.{name}", getattr(config, name), "must lie in [0, 1]")
    for name in ("max_d_steps", "g_steps", "flag_every"):
        require(getattr(config, name) >= 1, f"schedule.{name}", getattr(config, name), "must be at least 1")
    if config.kind is Kind.SEED and config.negatives is Negatives.SHUFFLED_PAIR:
        rule = "needs train.batch_size of at least 2; take phase_as_amplitude for single pairs"
        require(batch_size >= 2, "schedule.negatives", config.negatives.value, rule)


def accuracy(logits: jax.Array, real: bool, gan: str) -> jax.Array:
    """Share of patches on the right side: 0 for cross-entropy logits, 0.5 for least squares."""
    threshold = 0.0 if gan == "vanilla" else 0.5
    right = logits > threshold if real else logits <= threshold
    return jnp.mean(right.astype(jnp.float32))


def negatives(a: jax.Array, b: jax.Array, kind: str) -> tuple[jax.Array, jax.Array]:
    """Wrong pairs made from right ones, (b, h, w, c) each."""
    if kind == "shuffled_pair":
        return a, jnp.roll(b, 1, axis=0)
    if a.shape[-1] == b.shape[-1]:
        return a, a
    return a, jnp.broadcast_to(jnp.mean(a, -1, keepdims=True), b.shape)


def initial() -> dict[str, PyTree]:
    """``extra`` of a fresh run: phase d0, nothing measured."""
    return {
        "flags": jnp.zeros((1,), jnp.int32),
        "phase": {
            "current": jnp.zeros((), jnp.int32),
            "steps": jnp.zeros((), jnp.int32),
            "real": jnp.zeros((), jnp.float32),
            "fake": jnp.zeros((), jnp.float32),
        },
    }


@dataclass(frozen=True)
class Schedule:
    """The static part of the machine; fields as in `ScheduleConfig`."""

    alternating: bool
    negatives: str
    d_accuracy: float
    max_d_steps: int
    g_steps: int
    g_floor: float
    d0_share: float
    accuracy_decay: float
    flag_every: int

    @classmethod
    def from_config(cls, config: ScheduleConfig) -> "Schedule":
        """The same values, hashable."""
        return cls(
            alternating=config.kind is Kind.SEED,
            negatives=config.negatives.value,
            d_accuracy=config.d_accuracy,
            max_d_steps=config.max_d_steps,
            g_steps=config.g_steps,
            g_floor=config.g_floor,
            d0_share=config.d0_share,
            accuracy_decay=config.accuracy_decay,
            flag_every=config.flag_every,
        )

    def advance(
        self, extra: dict[str, PyTree], name: str, *, fake: jax.Array, real: jax.Array | float = 1.0
    ) -> dict[str, PyTree]:
        """``extra`` after one step of phase ``name``.

        Args:
          extra: as before the step.
          name: the phase that has just run a step.
          fake: D's accuracy on fakes in this step.
          real: D's accuracy on held-out real pairs; not looked at in phase g.
        """
        number, before = PHASES.index(name), extra["phase"]
        entered = before["current"] != number
        # Discriminator phases must earn their averages from 0, phase g starts from a perfect D.
        start = 1.0 if name == "g" else 0.0

        def moved(old: jax.Array, new: jax.Array | float) -> jax.Array:
            return self.accuracy_decay * jnp.where(entered, start, old) + (1 - self.accuracy_decay) * new

        phase = {
            "current": jnp.full((), number, jnp.int32),
            "steps": jnp.where(entered, 0, before["steps"]) + 1,
            "real": moved(before["real"], real),
            "fake": moved(before["fake"], fake),
        }
        if name == "g":
            over = (phase["steps"] >= self.g_steps) | (phase["fake"] < self.g_floor)
        else:
            accurate = jnp.minimum(phase["real"], phase["fake"]) >= self.d_accuracy
            over = accurate | (phase["steps"] >= self.max_d_steps)
        next_phase = PHASES.index("d") if name == "g" else PHASES.index("g")
        already = ~entered & (extra["flags"][0] == next_phase)
        wish = jnp.where(over | already, next_phase, number)
        return {"flags": wish[None].astype(jnp.int32), "phase": phase}
