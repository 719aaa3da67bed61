"""Two classes of single images as the domains of unpaired training."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from PIL import Image

from medgen_jax.core.config import DataConfig, Layout, TrainConfig, validate_shared
from medgen_jax.core.errors import UserError
from medgen_jax.data import builders, checks, sources

LEVELS = {"Normal": (10, 11, 12), "Lung Opacity": (200, 201), "Other": (99,)}


@pytest.fixture
def folder(tmp_path):
    for split in ("train", "val"):
        for name, levels in LEVELS.items():
            (tmp_path / "set" / split / name).mkdir(parents=True)
            for level in levels if split == "train" else levels[:1]:
                file = tmp_path / "set" / split / name / f"{split}{level}.png"
                Image.fromarray(np.full((8, 8), level, np.uint8)).save(file)
    return tmp_path / "set"


def config(source, a="Normal", b="Lung Opacity"):
    return DataConfig(source=str(source), class_a=a, class_b=b)


def levels(table):
    (name,) = table.names
    return sorted(int(table.images(i)[name].mean()) for i in range(len(table)))


def assert_domains(tables):
    assert levels(tables["a"]) == [10, 11, 12] and levels(tables["b"]) == [200, 201]
    again = pickle.loads(pickle.dumps(tables["b"]))
    assert levels(again) == [200, 201]
    assert again.header(0, "b")[:2] == (8, 8)


def test_of_class_folders(folder):
    tables = sources.open_tables(config(folder), "train")
    assert_domains(tables)
    assert len(tables["records"]) == 6
    assert tables["b"].record_id(0) == "Lung Opacity/train200" and tables["b"].origin(1, "b").endswith("train201.png")


def test_of_a_prepared_set(folder, tmp_path):
    target = builders.prepare("folder", folder, tmp_path / "prepared", say=lambda line: None)
    assert_domains(sources.open_tables(config(target), "train"))


def test_of_a_csv_file(folder, tmp_path):
    rows = [f"train/{name}/train{level}.png,{name},train" for name, levels in LEVELS.items() for level in levels]
    (folder / "all.csv").write_text("path,label,split\n" + "\n".join(rows))
    assert_domains(sources.open_tables(config(folder / "all.csv"), "train"))


def test_a_system_of_two_domains_says_which_classes_there_are(folder):
    tables = sources.open_tables(DataConfig(source=str(folder)), "train")
    with pytest.raises(UserError, match=r"config\.data\.class_b; .*has: records of the classes Lung Opacity, Normal"):
        checks.table_for(tables, "a")


def test_refusals(folder):
    with pytest.raises(UserError, match="class_b = 'Opacity': no such class; there are Lung Opacity, Normal, Other"):
        sources.open_tables(config(folder, b="Opacity"), "train")
    with pytest.raises(UserError, match="needs single images with named classes"):
        sources.open_tables(config("isl"), "train")
    plain = folder.parent / "plain" / "train"
    plain.mkdir(parents=True)
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(plain / "one.png")
    whole = config(plain.parent)
    whole.layout = Layout.IMAGES
    with pytest.raises(UserError, match=r"needs single images with named classes .*has: records"):
        sources.open_tables(whole, "train")
    for wrong in ({"a": "Normal", "b": None}, {"a": "Normal", "b": "Normal"}):
        with pytest.raises(UserError, match=r"config\.data\.class_b = .*two different classes, or neither"):
            validate_shared(config(folder, **wrong), TrainConfig(steps=1))
