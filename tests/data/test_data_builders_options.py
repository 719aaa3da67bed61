"""Options of data sets: from annotations, to values and words."""

from __future__ import annotations

import enum
from pathlib import Path

import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.data.builders import BUILDERS, builder, describe_options
from medgen_jax.data.builders.options import as_text, describe, options_of, read_options, split_words


class Colour(enum.Enum):
    RED = "red"
    DARK_BLUE = "dark blue"


def example(
    source: Path,
    *,
    count: int = 3,
    share: float = 0.5,
    whole: bool = False,
    colour: Colour = Colour.RED,
    names: tuple[str, ...] = (),
    planes: tuple[int, ...] = (1, 2),
    table: Path | None = None,
    limit: int | None = None,
) -> dict:
    """What it gives.

    Args:
      source: not an option.
      count: how many
        of them.
      colour: which one.

    Raises:
      UserError: never.
    """
    return {}


def read(**given):
    return read_options("example", example, given)


def test_text_becomes_what_the_annotation_says():
    assert read(count="7", share="1e-2", whole="Yes", colour="dark blue") == {
        "count": 7,
        "share": 0.01,
        "whole": True,
        "colour": Colour.DARK_BLUE,
    }
    assert read(names="a, b,,c", planes="4", table="~/x.csv", limit="none") == {
        "names": ("a", "b", "c"),
        "planes": (4,),
        "table": Path.home() / "x.csv",
        "limit": None,
    }
    assert read(limit="9", table="none", names="") == {"limit": 9, "table": None, "names": ()}
    assert read(colour=Colour.RED, planes=(3,)) == {"colour": Colour.RED, "planes": (3,)}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("count", "3.5", "--set count=3.5: must be an integer"),
        ("share", "much", "--set share=much: must be a number"),
        ("whole", "maybe", "--set whole=maybe: must be true or false"),
        ("colour", "green", "--set colour=green: must be one of red, dark blue"),
        ("planes", "1,x", "--set planes=x: must be an integer"),
        ("limit", "few", "--set limit=few: must be an integer"),
        ("source", "x", r"--set source: example has the options count \(3\), share \(0.5\), whole \(false\)"),
    ],
)
def test_wrong_options_say_what_is_right(name, text, message):
    with pytest.raises(UserError, match=message):
        read(**{name: text})


def test_words_are_names_and_values():
    assert split_words(["a=1", "b=x=y", "c="]) == {"a": "1", "b": "x=y", "c": ""}
    with pytest.raises(UserError, match="--set a: write --set name=value"):
        split_words(["a"])
    with pytest.raises(UserError, match="--set a: is given twice, '1' and '2'"):
        split_words(["a=1", "a=2"])


def test_values_read_back_as_they_were_written():
    for name, value in dict(count=2, share=0.25, whole=True, colour=Colour.DARK_BLUE, planes=(5, 6)).items():
        assert read(**{name: as_text(value)}) == {name: value}
    assert as_text(Path("/somewhere/else/map.csv")) == "map.csv"


def test_the_description_tells_default_choices_and_meaning():
    first, *lines = describe(example)
    assert first == "What it gives."
    assert [line.split()[1] for line in lines][:4] == ["count=3", "share=0.5", "whole=false", "colour=red"]
    assert lines[0].endswith("an integer: how many of them.")
    assert lines[3].endswith("one of red, dark blue: which one.")
    assert lines[6].split(maxsplit=2)[1:] == ["table=none", "a file or folder, or none"]


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_every_data_set_explains_itself(name):
    first, *lines = describe_options(name)
    assert first.endswith(".")
    assert len(lines) == len(options_of(builder(name)))
    for option in options_of(builder(name)).values():
        assert option.meaning, option.name
