"""Blur in-focus images as a microscope out of focus would: pairs for training systems that restore focus.

    python -m medgen_jax.defocus --input DIR --output DIR --pixel 0.325e-6 --wavelength 550e-9 --na 0.4 --z 4e-6

All lengths are metres. --input is a data set in any layout that training reads, or a folder of images;
of pairs the images b are taken. OUTPUT/{train,val,test}/{A,B} holds the pairs, A blurred, OUTPUT/defocus.csv
their distances. Images must be linear in intensity: fluorescence, or brightfield without gamma; of
phase contrast the blur is not that of a microscope.
"""

from __future__ import annotations

import sys

from absl import flags

from medgen_jax import cli

_INPUT = flags.DEFINE_string("input", None, "In-focus images: a folder, CSV file, prepared or packaged data set.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the pairs; must not hold anything.")
_PIXEL = flags.DEFINE_float("pixel", None, "Side of a pixel in the specimen, m: camera pixel / magnification.")
_WAVELENGTH = flags.DEFINE_list("wavelength", None, "Wavelength, m; or three for red, green and blue, with commas.")
_NA = flags.DEFINE_float("na", None, "Numerical aperture of the objective.")
_INDEX = flags.DEFINE_float("index", 1.0, "Refractive index of the medium: 1 air, 1.33 water, 1.515 oil.")
_Z = flags.DEFINE_float("z", None, "Largest distance from focus, m; either side is drawn.")
_Z_MIN = flags.DEFINE_float("z_min", 0.0, "Smallest distance from focus, m.")
_PER_IMAGE = flags.DEFINE_integer("per_image", 1, "Blurred versions of each image.")
_SEED = flags.DEFINE_integer("seed", 0, "Of distances and noise.")
_FULL_WELL = flags.DEFINE_float("full_well", None, "Electrons of a white pixel: adds photon noise. None adds no noise.")
_READ_NOISE = flags.DEFINE_float("read_noise", 0.0, "Read noise, electrons.")
_LAYOUT = flags.DEFINE_string("layout", "auto", "Layout of --input: auto, paired, unpaired, classes, panels, images.")
_RANGE = flags.DEFINE_list("range", None, "Values that become black and white: low,high; for floats and counts.")
_SPLIT = flags.DEFINE_enum("split", "train", ["train", "val", "test"], "Where images go that have no splits.")


def main(_: list[str]) -> int:
    """Check, blur, write."""
    from medgen_jax import datachecking, defocusing
    from medgen_jax.core.config import DataConfig, Layout
    from medgen_jax.engine import runtime
    from medgen_jax.ops.defocus import Optics, blur_radius

    for flag in (_INPUT, _OUTPUT, _PIXEL, _WAVELENGTH, _NA, _Z):
        if flag.value is None:
            raise cli.UserError(f"--{flag.name} is missing: {flags.FLAGS[flag.name].help.rstrip('.')}")
    known = [layout.value for layout in Layout]
    if _LAYOUT.value not in known:
        raise cli.UserError(f"--layout {_LAYOUT.value}: must be one of {', '.join(known)}")
    wavelength = _numbers(_WAVELENGTH, "must be metres, such as 550e-9")
    low, high = _numbers(_RANGE, "must be two numbers, low,high", 2) if _RANGE.value else (None, None)
    data = DataConfig(source=_INPUT.value, layout=Layout(_LAYOUT.value), range_low=low, range_high=high)
    runtime.start()
    optics = Optics(_PIXEL.value, wavelength, _NA.value, _INDEX.value)
    settings = defocusing.Settings(
        optics, (_Z_MIN.value, _Z.value),
        per_image=_PER_IMAGE.value, seed=_SEED.value, full_well=_FULL_WELL.value, read_noise=_READ_NOISE.value,
    )  # fmt: skip
    for warning in defocusing.warnings(optics):
        print(f"warning: {warning}", file=sys.stderr)
    with datachecking.progress_bar() as done:
        written = defocusing.write_pairs(data, _OUTPUT.value, settings, split=_SPLIT.value, done=done)
    pairs = ", ".join(f"{split} {count}" for split, count in written.pairs.items())
    print(f"{len(written.z)} pairs written to {_OUTPUT.value} ({pairs})")
    print(f"largest blur: a disc of {blur_radius(optics, _Z.value):.1f} pixels in radius at z = {_Z.value:g} m")
    return 0


def _numbers(flag: flags.FlagHolder, meaning: str, count: int | None = None) -> tuple[float, ...]:
    try:
        found = tuple(map(float, flag.value))
    except ValueError:
        found = ()
    if not found or count not in (None, len(found)):
        raise cli.UserError(f"--{flag.name} {','.join(flag.value)}: {meaning}")
    return found


if __name__ == "__main__":
    cli.run(main)
