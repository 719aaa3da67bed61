"""What a file says becomes a configuration, or is held against one; and what all layouts refuse alike."""

from __future__ import annotations

from pathlib import Path

import pytest

from medgen_jax.conversions import runs, settings
from medgen_jax.core.errors import UserError
from medgen_jax.systems import dcgan, gan

TOLD = {"data.crop_size": 32, "model.ngf": 7}


def test_a_fresh_configuration_takes_what_the_file_says() -> None:
    made = settings.fitted("x.pth", None, TOLD, fresh=settings.adopt(dcgan.Config(), {"train.batch_size": 3}))
    assert (made.data.crop_size, made.model.ngf, made.train.batch_size) == (32, 7, 3)
    assert made.model.ndf == dcgan.Config().model.ndf


def test_a_given_configuration_stays_or_is_told_all_that_differs() -> None:
    given = settings.adopt(dcgan.Config(), {**TOLD, "train.batch_size": 5})
    assert settings.fitted("x.pth", given, TOLD, fresh=dcgan.Config()) is given
    given.data.crop_size, given.model.ngf = 16, 8
    with pytest.raises(UserError, match=r"^x\.pth: .* the file says config\.data\.crop_size=32, config\.model\.ngf=7$"):
        settings.fitted("x.pth", given, TOLD, fresh=dcgan.Config())
    assert (given.data.crop_size, given.model.ngf) == (16, 8)


def test_names_of_classes() -> None:
    assert settings.with_classes("x.pth", dcgan.Config(), 3).data.classes == ("0", "1", "2")
    named = settings.adopt(dcgan.Config(), {"data.classes": ("a", "b")})
    assert settings.with_classes("x.pth", named, 2).data.classes == ("a", "b")
    with pytest.raises(UserError, match=r"^x\.pth: has 3 classes, config\.data\.classes names 2$"):
        settings.with_classes("x.pth", named, 3)


def test_configurations_are_checked_before_files_are_read() -> None:
    runs.check_config(None, "dcgan", "dcgan")
    with pytest.raises(UserError, match="^--config is of the system 'gan'; dcgan holds networks of dcgan$"):
        runs.check_config(gan.Config(), "dcgan", "dcgan")
    with pytest.raises(UserError, match="model.ngf"):
        runs.check_config(
            settings.adopt(dcgan.Config(), {"train.steps": 1, "train.batch_size": 2, "model.ngf": 0}), "dcgan", "dcgan"
        )


def test_places_of_new_files(tmp_path: Path) -> None:
    assert runs.vacant(tmp_path / "new", "a", "b") == [tmp_path / "new" / "a", tmp_path / "new" / "b"]
    (tmp_path / "b").touch()
    with pytest.raises(UserError, match="/b: exists already; give another --output"):
        runs.vacant(tmp_path, "a", "b")


def test_errors_say_whose_they_are() -> None:
    with pytest.raises(UserError, match=r"^x\.pth: no tensor$"), runs.naming("x.pth"):
        raise UserError("no tensor")
    assert runs.fresh(("g", "d"), {"g": 1}) == ["network 'd': not given, starts fresh"]
