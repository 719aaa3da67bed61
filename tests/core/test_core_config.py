"""Configurations: types, ranges, what the engine fills in, JSON and back."""

from __future__ import annotations

import dataclasses
import json

import pytest
import toy_system

from medgen_jax.core import config as configs
from medgen_jax.core.config import DataConfig, Layout, Nan, TrainConfig
from medgen_jax.core.errors import UserError
from medgen_jax.systems import pix2pix


def toy(**train):
    config = toy_system.Config()
    config.train.steps = 10
    for name, value in train.items():
        setattr(config.train, name, value)
    return config


@pytest.mark.parametrize(
    ("field", "value", "wanted"),
    [
        ("seed", 1.5, "expected int"),
        ("seed", True, "expected int"),
        ("precision", 16, "expected str"),
        ("epochs", "many", "expected float"),
    ],
)
def test_mistyped_values_are_named(field, value, wanted):
    with pytest.raises(UserError, match=f"config.train.{field} = .*{wanted}"):
        configs.validate_types(toy(**{field: value}))


def test_integers_pass_for_floats_and_none_for_optionals():
    config = toy(epochs=3)
    config.data.load_size = None
    configs.validate_types(config)
    config.data.load_size = "big"
    with pytest.raises(UserError, match=r"config\.data\.load_size = 'big': expected Optional\[int\]"):
        configs.validate_types(config)


def test_tuples_check_their_elements():
    @dataclasses.dataclass
    class Blurs:
        sigmas: tuple[float, ...] = (1.0, 2)

    configs.validate_types(Blurs())
    with pytest.raises(UserError, match="config.sigmas"):
        configs.validate_types(Blurs((1.0, "x")))
    with pytest.raises(UserError, match="config.sigmas"):
        configs.validate_types(Blurs([1.0]))


def test_a_typo_in_a_configuration_file_is_an_error():
    with pytest.raises(AttributeError):
        pix2pix.Config().optim.learning_rate = 1e-3


@pytest.mark.parametrize(
    ("room", "name", "value"),
    [
        ("data", "bits", 12), ("data", "crop_size", 0), ("data", "load_size", 200), ("data", "threads", -1),
        ("train", "batch_size", 0), ("train", "seed", -1), ("train", "precision", "float16"), ("train", "keep", 0),
        ("train", "steps", 0), ("train", "steps", -5), ("train", "epochs", 2.0), ("train", "eval_every", -1),
    ],
)  # fmt: skip
def test_shared_ranges(room, name, value):
    data, train = DataConfig(), TrainConfig(steps=10)
    configs.validate_shared(data, train)
    setattr({"data": data, "train": train}[room], name, value)
    with pytest.raises(UserError, match=f"config.{room}."):
        configs.validate_shared(data, train)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"range_low": -1.0}, r"data\.range_high = None: give both ends"),
        ({"range_high": -1.0}, r"data\.range_high = -1\.0: give both ends.*range_low = None"),
        ({"range_low": 2.0, "range_high": 2.0}, r"data\.range_high = 2\.0: must not be data\.range_low"),
        ({"range_low": float("nan"), "range_high": 2.0}, r"data\.range_low = nan: must be finite"),
        ({"range_low": 0.0, "range_high": float("inf")}, r"data\.range_high = inf: must be finite"),
        ({"range_low": 0.0, "range_high": 1.0, "window": "full"}, r"data\.window = 'full': does not go with"),
        ({"nan": Nan.LOW}, r"data\.nan = 'low': is for a declared range"),
        ({"window": "wide"}, r"data\.window = 'wide': must be file, full, or CENTRE,WIDTH"),
        ({"window": "40"}, r"data\.window = '40'"),
        ({"window": "40,0.5"}, r"data\.window = '40,0\.5'.*at least 1"),
        ({"window": "nan,400"}, r"data\.window = 'nan,400'"),
        ({"window": "1,2,3"}, r"data\.window = '1,2,3'"),
    ],
)
def test_impossible_greyscales_are_named(fields, message):
    with pytest.raises(UserError, match=message):
        configs.validate_shared(DataConfig(**fields), TrainConfig(steps=10))


def test_greyscales():
    for fields in ({"range_low": 1.0, "range_high": 0.0, "nan": Nan.LOW}, {"window": "-600,1500"}, {"window": "full"}):
        configs.validate_shared(DataConfig(**fields), TrainConfig(steps=10))
    assert [configs.parse_window(text) for text in ("file", "full", " -600, 1500")] == ["file", "full", (-600, 1500)]


def test_the_engine_fills_its_fields_once():
    config = configs.resolve(toy(batch_size=4), num_train=10)
    assert (config.num_train, config.steps_per_epoch) == (10, 3)  # the crossing batch belongs to the epoch it ends
    with pytest.raises(UserError, match="num_train = 10: is written by the engine"):
        configs.resolve(config, 10)


def test_length_in_steps_or_epochs():
    assert configs.total_steps(configs.resolve(toy(), 100)) == 10
    assert configs.total_steps(configs.resolve(toy(steps=0, epochs=2.5, batch_size=8), 33)) == 13


def test_json_and_back():
    config = configs.resolve(pix2pix.Config(), 5)
    config.data.layout, config.data.load_size = Layout.PAIRED, 300
    config.data.range_low, config.data.range_high, config.data.nan = -1000.0, 1000.0, Nan.LOW
    stored = json.loads(json.dumps(configs.to_dict(config)))
    assert stored["data"]["layout"] == "paired" and stored["model"]["norm"] == "batch"
    assert configs.from_dict(pix2pix.Config, stored) == config
    stored["model"]["depth"] = 3
    with pytest.raises(UserError, match=r"config\.model\.depth: no such field .*another version"):
        configs.from_dict(pix2pix.Config, stored)


def test_differences_name_every_changed_leaf():
    old, new = configs.to_dict(pix2pix.Config()), configs.to_dict(pix2pix.Config())
    assert configs.differences(old, new) == []
    new["optim"]["lr"], new["data"]["bits"] = 1.0, 16
    assert configs.differences(old, new) == ["config.data.bits: 8 -> 16", "config.optim.lr: 0.0002 -> 1.0"]
