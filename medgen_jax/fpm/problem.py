"""What every solver is given: a stack on the device, where its windows lie, and what is known of the pupil."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from medgen_jax.fpm.forward import Windows, cut, intensity, to_field
from medgen_jax.fpm.multiplexing import Together
from medgen_jax.fpm.pupils import PupilAt


class Tile(NamedTuple):
    """The measurements of one tile: n frames, each of one LED unless ``together`` says otherwise.

    Attributes:
      stack: (n, N, N) uint8, uint16 or float32 as recorded; roots are taken frame by frame.
      background: (n,) float32 stray light of each frame, counts of intensity.
      unit: () float32, the intensity in counts that becomes 1.
      ceiling: () float32, counts from which a pixel is saturated; infinity for none.
      windows: of the LEDs.
      order: (n,) int32, the frames as they are visited; those held out come last.
      used: (n,) float32, 1 for frames that are solved for and 0 for those held out.
      lit: (n,) bool, frames bright enough to tell the gain of their LED.
      together: the LEDs of each frame. None: one LED after the other.
    """

    stack: Any
    background: Any
    unit: Any
    ceiling: Any
    windows: Windows
    order: Any
    used: Any
    lit: Any
    together: Together | None = None


class Guess(NamedTuple):
    """What is sought: the centred spectrum (M, M) and the values of the free pupil (K, K), both complex64."""

    spectrum: jax.Array
    values: jax.Array


class Measurement(NamedTuple):
    """One frame of a `Tile`: amplitude (N, N), weights (N, N) of its pixels, and whether it is solved for."""

    amplitude: jax.Array
    weight: jax.Array
    used: jax.Array


class View(NamedTuple):
    """What one LED makes of a guess.

    Attributes:
      known: (K, K), the known pupil; 0 where the LED only fills up a frame.
      cells: (K, K) of the spectrum.
      field: (N, N).
      start: (2,) first row and column of the cells.
      on: 1, or 0 where the LED only fills up a frame.
    """

    known: jax.Array
    cells: jax.Array
    field: jax.Array
    start: jax.Array
    on: jax.Array | float


def measurement(tile: Tile, frame: jax.Array, squared: bool) -> Measurement:
    """Amplitude and weights of one frame.

    Args:
      tile: all of them.
      frame: its number, which is that of its LED where one is lit after the other.
      squared: whether the stack holds intensities, not amplitudes.
    """
    plane = tile.stack[frame].astype(jnp.float32)
    weight = (plane < tile.ceiling).astype(jnp.float32)
    light = plane if squared else jnp.square(plane)
    amplitude = jnp.sqrt(jnp.maximum(light - tile.background[frame], 0.0) / tile.unit)
    return Measurement(amplitude, weight, tile.used[frame])


def lit_in(tile: Tile, frame: jax.Array) -> list[tuple[jax.Array, jax.Array | float]]:
    """Number of each LED of a frame, and whether it is on."""
    if tile.together is None:
        return [(frame, 1.0)]
    leds, on = tile.together.leds[frame], tile.together.on[frame]
    return [(leds[place], on[place]) for place in range(leds.shape[-1])]


def cells_of(guess: Guess, tile: Tile, frame: jax.Array) -> list[jax.Array]:
    """The cells (K, K) of the spectrum that each LED of a frame shows."""
    starts = (tile.windows.start[led] for led, _ in lit_in(tile, frame))
    return [cut(guess.spectrum, start, guess.values.shape[-1]) for start in starts]


def views(
    guess: Guess, tile: Tile, within: PupilAt, frame: jax.Array, shown: list[jax.Array] | None = None
) -> list[View]:
    """What each LED of a frame makes of a guess; ``shown`` are its `cells_of`, where they were taken out before."""
    found = []
    shown = cells_of(guess, tile, frame) if shown is None else shown
    for (led, on), cells in zip(lit_in(tile, frame), shown, strict=True):
        start = tile.windows.start[led]
        known = within(tile.windows.rest[led])
        known = known if tile.together is None else on * known
        found.append(View(known, cells, to_field(guess.values * known * cells, tile.stack.shape[-1]), start, on))
    return found


def light_of(seen: list[View]) -> jax.Array:
    """Intensity (N, N) of a frame: of its LEDs together."""
    return sum(intensity(view.field) for view in seen)


def magnitude_of(seen: list[View]) -> jax.Array:
    """Amplitude (N, N) of a frame, exact also where it is tiny."""
    return jnp.abs(seen[0].field) if len(seen) == 1 else jnp.sqrt(light_of(seen))


def direction(field: jax.Array, size: jax.Array | None = None) -> jax.Array:
    """``u / |u|``, and 1 where u is 0: several times faster than ``exp(i angle(u))``.

    Args:
      field: u.
      size: what stands in place of ``|u|``: of one of several fields, the amplitude of them all.
    """
    size = jnp.abs(field) if size is None else size
    return jnp.where(size > 0, field / jnp.where(size > 0, size, 1.0), 1.0)


def correction(field: jax.Array, amplitude: jax.Array, weight: jax.Array, size: jax.Array | None = None) -> jax.Array:
    """What a field (N, N) lacks for its frame to have the measured amplitude; nothing where a pixel does not count."""
    return weight * (amplitude * direction(field, size) - field)
