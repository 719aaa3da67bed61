"""``optics.yaml``: one microscope, one way of storing frames, one way of solving them. Lengths are in metres.

    optics:                        # the fields of medgen_jax.fpm.Optics
      wavelength: 523e-9
      na: 0.1
      magnification: 4
      camera_pixel: 4e-6
      leds: {layout: rings, counts: [1, 8, 12], step: 9e-3, height: 110e-3}
    stack:
      values: intensity            # or amplitude
      field: images                # of several arrays
      axis: first                  # along which frames are counted, where their number does not tell
      background: 2.2              # stray light, counts of intensity; a list of each frame's; or auto, estimated
      saturation: 255              # count from which a pixel is saturated
      frames: [[0, 1], [2]]        # LEDs lit in each frame, from 0; left out where one is lit after the other
    solve: {passes: 20}            # fields of medgen_jax.fpm.Settings that differ from their defaults

What the stack's own file knows, it may say itself: ``{field: NAME}`` instead of a number or list reads it from there,
``factor`` multiplies it, and ``columns: yx`` says that a list of pairs has y first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medgen_jax import cli
from medgen_jax.core.errors import UserError
from medgen_jax.data import led_stacks
from medgen_jax.fpm import Optics, Settings, mapping

VALUES = ("intensity", "amplitude")
#: Stray light is estimated, `medgen_jax.fpm.calibration.background`.
AUTO = "auto"
_COLUMNS = ("xy", "yx")


@dataclass(frozen=True)
class Recording:
    """How a stack is stored.

    Attributes:
      values: ``intensity`` or ``amplitude``; nothing can tell them apart but who saved them.
      field: name of the array; empty for the only stack of a file.
      axis: of the frames, ``first`` or ``last``; empty to have it found.
      background: stray light, counts of intensity, of all frames or of each; or `AUTO`.
      saturation: value from which a pixel is saturated and does not count.
      gains: brightness of every LED, or of every frame of several, by which frames are divided; empty where it is not
        known beforehand.
      frames: numbers of the LEDs that are lit in each frame, see `medgen_jax.fpm.multiplexing`; empty where one is lit
        after the other.
    """

    values: str
    field: str = ""
    axis: str = ""
    background: float | tuple[float, ...] | str = 0.0
    saturation: float | None = None
    gains: tuple[float, ...] = ()
    frames: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.values not in VALUES:
            raise UserError(f"stack.values = {self.values!r}: expected {' or '.join(VALUES)}")
        if self.axis and self.axis not in led_stacks.AXES:
            raise UserError(f"stack.axis = {self.axis!r}: expected {' or '.join(led_stacks.AXES)}")
        check_background("stack.background", self.background)
        if self.saturation is not None and not self.saturation > 0:
            raise UserError(f"stack.saturation = {self.saturation:g}: must be positive; leave it out for none")
        for number, gain in enumerate(self.gains):
            if not 1e-3 <= gain <= 1e3:
                raise UserError(f"stack.gains[{number}] = {gain:g}: must lie between 0.001 and 1000")


def check_background(name: str, value: float | tuple[float, ...] | str) -> None:
    """Refuse stray light that makes no sense.

    Raises:
      UserError: naming it.
    """
    if isinstance(value, str):
        if value != AUTO:
            raise UserError(f"{name} = {value!r}: expected counts, a list of counts with one per frame, or {AUTO}")
        return
    for number in value if isinstance(value, tuple) else (value,):
        if not number >= 0:
            raise UserError(f"{name} = {number:g}: counts cannot be negative")


@dataclass(frozen=True)
class Description:
    """What a file says.

    Attributes:
      path: of the file.
      optics: fields of `Optics`, some of which the stack's file may have to fill.
      recording: of the stack.
      settings: of the solver.
    """

    path: Path
    optics: Mapping[str, Any]
    recording: Recording
    settings: Settings


def read_description(path: str | Path) -> Description:
    """Read a file, or one of the packaged descriptions by its name.

    Raises:
      UserError: there is no such file, it is no YAML, a field is unknown, missing or out of range; always
        with the file's name.
    """
    path = find(path)
    content = read_yaml(path)
    try:
        return _described(path, content)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def read_yaml(path: Path) -> Any:
    """What a YAML file holds.

    Raises:
      UserError: it cannot be read, or is no YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from error
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is no YAML ({' '.join(str(error).split())})") from error


def optics_of(description: Description, stack: str | Path) -> Optics:
    """The microscope, with what the stack's file says about it.

    Raises:
      UserError: a field of the description or of the stack's file that is missing or makes no sense.
    """
    try:
        return Optics.from_mapping(_filled(description.optics, "optics", stack))
    except UserError as error:
        raise UserError(f"{description.path}: {error}") from error


def find(path: str | Path) -> Path:
    """The file that ``--optics`` means.

    Raises:
      UserError: there is neither such a file nor such a packaged description.
    """
    given, folder = Path(path).expanduser(), cli.config_folder() / "fpm"
    packaged = folder / f"{given.stem}.yaml"
    if given.is_file():
        return given
    if given.parent in (Path("."), Path("configs/fpm")) and packaged.is_file():
        return packaged
    names = ", ".join(sorted(p.stem for p in folder.glob("*.yaml")))
    raise UserError(f"{path}: no such file; packaged descriptions are: {names}")


def _described(path: Path, content: Any) -> Description:
    mapping.check_table(content, "the file")
    parts = ("optics", "stack", "solve")
    mapping.check_known(content, parts, "the file")
    for name in parts[:2]:
        if name not in content:
            raise UserError(f"section {name!r} is missing; there are {', '.join(parts)}")
        mapping.check_table(content[name], name)
    recording = mapping.read(Recording, content["stack"], "stack")
    settings = mapping.read(Settings, content.get("solve") or {}, "solve")
    if not _asks(content["optics"]):
        Optics.from_mapping(content["optics"])
    return Description(path, content["optics"], recording, settings)


def _asks(value: Any) -> bool:
    """Whether something is to be read from the stack's file."""
    return isinstance(value, Mapping) and ("field" in value or any(map(_asks, value.values())))


def _filled(value: Any, where: str, stack: str | Path) -> Any:
    if not isinstance(value, Mapping):
        return value
    if "field" not in value:
        return {name: _filled(entry, f"{where}.{name}", stack) for name, entry in value.items()}
    mapping.check_known(value, ("field", "factor", "columns"), where)
    columns = value.get("columns", _COLUMNS[0])
    if columns not in _COLUMNS:
        raise UserError(f"{where}.columns = {columns!r}: expected {' or '.join(_COLUMNS)}")
    factor = mapping.convert(value.get("factor", 1.0), float, f"{where}.factor")
    numbers = led_stacks.read_numbers(stack, mapping.convert(value["field"], str, f"{where}.field")) * factor
    if numbers.size == 1:
        return numbers.item()
    if numbers.ndim == 2 and numbers.shape[0] == 2 != numbers.shape[1]:
        numbers = numbers.T
    return (numbers[:, ::-1] if numbers.ndim == 2 and columns == "yx" else numbers).tolist()
