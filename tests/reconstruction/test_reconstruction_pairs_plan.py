"""Plans of fields and colours, and the dealing of splits."""

from __future__ import annotations

import pathlib

import led_fields
import pytest
import yaml

from medgen_jax.core.errors import UserError
from medgen_jax.reconstruction.pairs.plan import FieldOfView, read_plan, splits_of


def table(folder: pathlib.Path, **changes: object) -> pathlib.Path:
    """A plan of two fields in three colours, with some parts changed; None leaves a part out."""
    for colour, wavelength in led_fields.COLOURS.items():
        led_fields.save_optics(folder / f"{colour}.yaml", wavelength)
    stacks = {colour: f"{colour}.npz" for colour in led_fields.COLOURS}
    content = {
        "colours": {colour: f"{colour}.yaml" for colour in led_fields.COLOURS},
        "phase": "green",
        "fields": [{"name": "one", "stacks": stacks}, {"stacks": stacks}],
    } | changes
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}, sort_keys=False))
    return path


def test_a_plan_is_read_with_its_paths_beside_it(tmp_path: pathlib.Path) -> None:
    plan = read_plan(table(tmp_path), None)
    assert list(plan.colours) == ["red", "green", "blue"] and plan.phase == "green"
    assert plan.colours["blue"].optics["wavelength"] == 0.45e-6
    stacks = tuple(tmp_path / f"{colour}.npz" for colour in ("red", "green", "blue"))
    assert plan.fields == (FieldOfView("one", stacks, "one"), FieldOfView("red", stacks, "red"))


def test_the_first_colour_has_the_phase_unless_said(tmp_path: pathlib.Path) -> None:
    assert read_plan(table(tmp_path, phase=None), None).phase == "red"


def test_descriptions_may_be_packaged(tmp_path: pathlib.Path) -> None:
    one = table(tmp_path, colours={"g": "hololab_usaf"}, phase="g", fields=[{"stacks": {"g": "a b.h5"}}])
    plan = read_plan(one, None)
    assert plan.colours["g"].path.name == "hololab_usaf.yaml"
    assert plan.fields == (FieldOfView("a_b", (tmp_path / "a b.h5",), "a_b"),)


def test_a_folder_holds_a_stack_for_each_field_in_natural_order(tmp_path: pathlib.Path) -> None:
    for name in ("f10.npz", "f2.tif", "notes.txt", ".hidden.npz"):
        (tmp_path / name).touch()
    (tmp_path / "f3").mkdir()
    plan = read_plan(tmp_path, "hololab_usaf")
    assert [field.name for field in plan.fields] == ["f2", "f3", "f10"]
    assert list(plan.colours) == ["grey"] == [plan.phase] and plan.fields[1].stacks == (tmp_path / "f3",)


STACKS = {"red": "r.npz", "green": "g.npz", "blue": "b.npz"}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colours": None}, "section 'colours' is missing"),
        ({"fields": []}, "fields: expected a list with at least one entry"),
        ({"colour": {}}, "the file: field 'colour' is unknown; did you mean 'colours'"),
        ({"colours": {"a": "x", "b": "y"}}, "there are 2; expected one, or three"),
        ({"phase": "infrared"}, "phase = 'infrared': expected one of the colours, red, green, blue"),
        ({"fields": [{"name": "a"}]}, r"fields\[0\]: field 'stacks' is missing"),
        ({"fields": [{"stacks": {"red": "r.npz"}}]}, r"fields\[0\].stacks: there is none for colour 'green'"),
        ({"fields": [{"stacks": STACKS, "split": "training"}]}, "split = 'training': expected train, val, test"),
        ({"fields": [{"stacks": STACKS}] * 2}, "two fields are called r; give them different names"),
        (
            {"colours": {"red": "nothing"}, "phase": None, "fields": [{"stacks": {"red": "r.npz"}}]},
            "nothing: no such file; packaged descriptions are",
        ),
    ],
)
def test_what_is_wrong_with_a_plan_is_named(tmp_path: pathlib.Path, changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=f"plan.yaml: .*{message}"):
        read_plan(table(tmp_path, **changes), None)


def test_what_is_missing_is_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UserError, match="--pairs .*absent: no such folder or file"):
        read_plan(tmp_path / "absent", "hololab_usaf")
    with pytest.raises(UserError, match="holds no stacks; expected .mat, .h5"):
        read_plan(tmp_path, "hololab_usaf")
    with pytest.raises(UserError, match="--optics is missing"):
        read_plan(tmp_path, None)
    with pytest.raises(UserError, match="leave --optics out"):
        read_plan(table(tmp_path), "hololab_usaf")


def fields(*groups: str, split: str = "") -> list[FieldOfView]:
    return [FieldOfView(f"f{i}", (), group, split) for i, group in enumerate(groups)]


def test_groups_stay_together_and_every_split_gets_what_it_should() -> None:
    for count, few, test in ((2, 1, 0), (9, 1, 0), (10, 1, 1), (30, 3, 3)):
        both = [f"g{i}" for i in range(count)] * 2
        splits = splits_of(fields(*both))
        found = list(splits.values())
        assert found[:count] == found[count:]
        counts = [found[:count].count(name) for name in ("train", "val", "test")]
        assert counts == [count - few - test, few, test]
        assert splits == splits_of(fields(*both))


def test_a_single_field_is_left_to_be_split_by_place() -> None:
    assert splits_of(fields("a")) == {}


def test_said_splits_hold() -> None:
    said = [*fields("a", "a", split="train"), FieldOfView("v", (), "b", "val")]
    assert splits_of(said) == {"f0": "train", "f1": "train", "v": "val"}


def test_splits_that_leak_or_teach_nothing_are_refused() -> None:
    with pytest.raises(UserError, match="1 in train and val"):
        splits_of([*fields("a", split="train"), FieldOfView("v", (), "a", "val")])
    with pytest.raises(UserError, match="v has no split, others do"):
        splits_of([*fields("a", split="train"), FieldOfView("v", (), "b")])
    with pytest.raises(UserError, match="none of them is in split train"):
        splits_of(fields("a", split="val"))
    with pytest.raises(UserError, match="all 2 are of one group"):
        splits_of(fields("a", "a"))
