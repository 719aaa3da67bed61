"""What every solver is given: a stack on the device, where its windows lie, and what is known of the pupil."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medgen_jax.fpm.forward import Windows, cut, to_field
from medgen_jax.fpm.pupils import PupilAt


class Tile(NamedTuple):
    """The measurements of one tile.

    Attributes:
      stack: (n, N, N) uint8, uint16 or float32 as recorded; roots are taken frame by frame.
      background: (n,) float32 stray light of each frame, counts of intensity.
      unit: () float32, the intensity in counts that becomes 1.
      ceiling: () float32, counts from which a pixel is saturated; infinity for none.
      windows: of the LEDs.
      order: (n,) int32, the LEDs as they are visited; those held out come last.
      used: (n,) float32, 1 for LEDs that are solved for and 0 for those held out.
      lit: (n,) bool, frames bright enough to tell the gain of their LED.
    """

    stack: Any
    background: Any
    unit: Any
    ceiling: Any
    windows: Windows
    order: Any
    used: Any
    lit: Any


class Guess(NamedTuple):
    """What is sought: the centred spectrum (M, M) and the values of the free pupil (K, K), both complex64."""

    spectrum: jax.Array
    values: jax.Array


class Measurement(NamedTuple):
    """One LED's part of a `Tile`: amplitude (N, N), weights (N, N) of its pixels, and its window."""

    amplitude: jax.Array
    weight: jax.Array
    start: jax.Array
    rest: jax.Array
    used: jax.Array


def measurement(tile: Tile, led: jax.Array, squared: bool) -> Measurement:
    """Amplitude and weights of the frame of one LED.

    Args:
      tile: all of them.
      led: its number.
      squared: whether the stack holds intensities, not amplitudes.
    """
    plane = tile.stack[led].astype(jnp.float32)
    weight = (plane < tile.ceiling).astype(jnp.float32)
    light = plane if squared else jnp.square(plane)
    amplitude = jnp.sqrt(jnp.maximum(light - tile.background[led], 0.0) / tile.unit)
    return Measurement(amplitude, weight, tile.windows.start[led], tile.windows.rest[led], tile.used[led])


def direction(field: jax.Array) -> jax.Array:
    """``u / |u|``, and 1 where u is 0: several times faster than ``exp(i angle(u))``."""
    size = jnp.abs(field)
    return jnp.where(size > 0, field / jnp.where(size > 0, size, 1.0), 1.0)


def correction(field: jax.Array, amplitude: jax.Array, weight: jax.Array) -> jax.Array:
    """What a field (N, N) lacks to have the measured amplitude; nothing where a pixel does not count."""
    return weight * (amplitude * direction(field) - field)


def seen_by(guess: Guess, within: PupilAt, start: jax.Array, rest: jax.Array, size: int) -> tuple[jax.Array, ...]:
    """Known pupil (K, K), cells of the spectrum (K, K) and field (N, N) of one LED."""
    known = within(rest)
    cells = cut(guess.spectrum, start, known.shape[-1])
    return known, cells, to_field(guess.values * known * cells, size)
