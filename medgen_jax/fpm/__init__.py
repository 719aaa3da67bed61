"""Fourier ptychography: one objective, many LEDs, and the complex object behind their frames.

    from medgen_jax.fpm import Optics, simulate, solve

    optics = Optics.from_mapping({...})          # what optics.yaml holds
    stack = simulate(optics, amplitude * jnp.exp(1j * phase))
    solution = solve(stack, optics)              # solution.obj, solution.pupil, solution.residual_best_gain

Conventions, the same in every file here; the tests pin each with an object that has no symmetry.

* Units: metres, 1 / metre, radians. Fields that hold degrees say so in their name.
* Axes: an array is [row, column] = [y down, x right]. Pairs of coordinates (LED positions, sines, centres, a tile's
  place) are (x, y); pairs of indices (`Windows`) are (row, column). Camera and object have the same
  orientation: a camera that is mirrored or upside down is described by the board's flips and rotation.
* Waves are ``exp(i 2 pi f x)`` and their phase grows along the way: light that crossed more glass has the larger
  phase, and a defocus z moves a field along the light as in `medgen_jax.ops.pupil`.
* Sign of k: an LED at the side +x of the axis has sine +s and lights the object with ``exp(-i 2 pi (s / lambda) x)``,
  since its light travels towards -x. Its frame therefore shows the object's frequencies around **+s / lambda**.
  The opposite sign everywhere gives the same frames for the conjugate object behind the conjugate, turned pupil:
  no data can tell, so this is a convention.
* Spectra are centred: frequency 0 in cell (M // 2, M // 2), Fourier coefficients (``norm="forward"``), so that an
  object that is 1 everywhere has one coefficient, 1, and bright-field frames of intensity 1. Images start at
  pixel (0, 0) as in ``fft2``, and pixel (r, c) of a frame lies over pixel (u r, u c) of the object, u the up-sampling.
* A frame belongs to one LED, the next one to the next, unless lists say which LEDs are lit in each: `multiplexing`.
* Sub-cell centres: the window lies on whole cells, the pupil is evaluated around the true centre; see `pupils`.
"""

from medgen_jax.fpm.field_of_view import solve_field
from medgen_jax.fpm.leds import Board, Centres, Dome, Grid, Points, Rings, Slab
from medgen_jax.fpm.noise import Camera
from medgen_jax.fpm.optics import Optics
from medgen_jax.fpm.sampling import sampling_faults
from medgen_jax.fpm.simulation import simulate, simulate_colours
from medgen_jax.fpm.solve import Settings, Solution, solve, solve_colours

__all__ = [
    "Board",
    "Camera",
    "Centres",
    "Dome",
    "Grid",
    "Optics",
    "Points",
    "Rings",
    "Settings",
    "Slab",
    "Solution",
    "sampling_faults",
    "simulate",
    "simulate_colours",
    "solve",
    "solve_colours",
    "solve_field",
]
