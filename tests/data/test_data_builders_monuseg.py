"""MoNuSeg on generated trees with the official names, and on real tissue where it is at hand."""

from __future__ import annotations

import numpy as np
import pytest

from medgen_jax.core.config import DataConfig
from medgen_jax.core.errors import UserError
from medgen_jax.core.manifest import read
from medgen_jax.data.builders import monuseg, prepare
from medgen_jax.data.builders.monuseg import open_source, outline_boxes
from medgen_jax.data.images import read_image, write_image
from medgen_jax.data.sources import open_tables

PATIENTS = ("TCGA-18-5592", "TCGA-A7-A13E", "TCGA-B0-5710", "TCGA-CH-5767", "TCGA-HE-7128", "TCGA-NH-A8F7")
SQUARE = ((2, 3), (8, 3), (8, 12.5), (2, 12.5))


def annotation(*outlines, hole=()):
    """An ImageScope annotation of outlines, each a sequence of vertices; those numbered in ``hole`` are holes."""
    regions = "".join(
        f'<Region Id="{i}" NegativeROA="{int(i in hole)}"><Attributes/><Vertices>'
        + "".join(f'<Vertex X="{x}" Y="{y}"/>' for x, y in outline)
        + "</Vertices></Region>"
        for i, outline in enumerate(outlines)
    )
    head = '<Annotations MicronsPerPixel="0.25"><Annotation Id="1"><Attributes/><Regions><RegionAttributeHeaders/>'
    return f"{head}{regions}</Regions><Plots/></Annotation></Annotations>"


def write_region(images, annotations, name, *outlines, image=None):
    for folder in (images, annotations):
        folder.mkdir(parents=True, exist_ok=True)
    write_image(images / f"{name}.tif", np.zeros((20, 30, 3), np.uint8) if image is None else image)
    (annotations / f"{name}.xml").write_text(annotation(*outlines))


@pytest.fixture
def source(tmp_path):
    """Both parts as they are unpacked: one folder repeated inside itself, the other flat."""
    root = tmp_path / "monuseg"
    part = root / "MoNuSeg 2018 Training Data" / "MoNuSeg 2018 Training Data"
    for i, patient in enumerate(PATIENTS):
        write_region(part / "Tissue Images", part / "Annotations", f"{patient}-01Z-00-DX1", *[SQUARE] * i)
    test = root / "MoNuSegTestData"
    write_region(test, test, "TCGA-2Z-A9J9-01A-01-TS1", SQUARE, ((10, 5), (12, 5), (11, 9)))
    return root


def test_parts_are_splits_and_train_is_dealt_by_patient(source):
    found = open_source(source, val_share=0.4)
    assert list(found) == ["train", "val", "test"]
    assert found["test"].boxes["nuclei"] == (((2.0, 3.0, 6.0, 9.5), (10.0, 5.0, 2.0, 4.0)),)
    assert found["test"].values["nuclei_count"] == (2.0,)
    dealt = {
        p: n for s in ("train", "val") for p, n in zip(found[s].groups, found[s].values["nuclei_count"], strict=True)
    }
    assert dealt == {patient: float(i) for i, patient in enumerate(PATIENTS)}
    assert all(name.startswith("region_") for listing in found.values() for name in listing.ids)


@pytest.mark.parametrize("folder", ["MoNuSegTrainingData", "."])
def test_other_nestings_of_the_training_part(tmp_path, folder):
    part = tmp_path / "src" / folder
    for patient in PATIENTS:
        write_region(part / "Tissue_Images", part / "Annotations", f"{patient}-01Z-00-DX1", SQUARE)
    found = open_source(tmp_path / "src", val_share=0.4)
    assert set(found) == {"train", "val"}
    assert sum(map(len, found.values())) == len(PATIENTS)


def test_the_test_part_alone_is_a_source(source):
    assert set(open_source(source / "MoNuSegTestData")) == {"test"}


def test_boxes_are_cut_at_the_edges_and_holes_are_none(tmp_path):
    file = tmp_path / "x.xml"
    beyond, outside, line = ((-3, -2), (4, 5)), ((40, 1), (50, 9)), ((5, 5), (5, 9))
    file.write_text(annotation(beyond, SQUARE, outside, line, ((25, 15), (33, 22)), (), hole=(1,)))
    assert outline_boxes(file, 30, 20) == ((0.0, 0.0, 4.0, 5.0), (25.0, 15.0, 5.0, 5.0))


# ---- bad outlines --------------------------------------------------------------------------------

BOMB = """<?xml version="1.0"?>
<!DOCTYPE a [<!ENTITY x "xxxxxxxxxx"><!ENTITY y "&x;&x;&x;&x;&x;&x;&x;&x;&x;&x;">]>
<Annotations>&y;</Annotations>"""


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (annotation(SQUARE)[:-30], "line 1: broken outlines \\((no element found|unclosed token)"),
        ("", "line 1: broken outlines \\(no element found"),
        (BOMB, "line 2: broken outlines \\(it declares a document type"),
        ("<svg/>", "its first element is svg, not Annotations"),
        (annotation(SQUARE).replace('X="2"', 'X="nan"'), "a Vertex needs the numbers X and Y"),
        (annotation(SQUARE).replace('X="2"', 'X="1e400"'), "a Vertex needs the numbers X and Y"),
        (annotation(SQUARE).replace('X="2"', ""), "a Vertex needs the numbers X and Y"),
        (annotation(SQUARE).replace('X="2"', 'X="zwei"'), "a Vertex needs the numbers X and Y"),
    ],
)
def test_broken_outlines_are_named(source, text, reason):
    file = source / "MoNuSegTestData" / "TCGA-2Z-A9J9-01A-01-TS1.xml"
    file.write_text(text)
    with pytest.raises(UserError, match=rf"TS1\.xml: .*{reason}"):
        open_source(source)


def test_outlines_beyond_the_size_limit_are_not_parsed(source, monkeypatch):
    monkeypatch.setattr(monuseg, "MAX_XML_BYTES", 100)
    with pytest.raises(UserError, match=r"\.xml: has [\d,]+ bytes, more than the 100 that outlines may have"):
        open_source(source)


# ---- bad trees -----------------------------------------------------------------------------------


def test_bad_sources_are_refused(source, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no images; expected 'MoNuSeg 2018 Training Data'/"):
        open_source(tmp_path / "empty")
    test = source / "MoNuSegTestData"
    write_region(test, test, "TCGA-18-5592-01Z-00-DX1")
    with pytest.raises(UserError, match=r"TCGA-18-5592-01Z-00-DX1\.tif: is there twice, also as .*Tissue Images"):
        open_source(source)
    (test / "TCGA-18-5592-01Z-00-DX1.xml").unlink()
    with pytest.raises(UserError, match=r"lacks the outlines of 1 of 2 images \(first: TCGA-18-5592-01Z-00-DX1\.xml\)"):
        open_source(source)
    (test / "TCGA-18-5592-01Z-00-DX1.tif").rename(test / "TCGA-18.tif")
    (test / "TCGA-18.xml").write_text(annotation(SQUARE))
    with pytest.raises(UserError, match=r"TCGA-18\.tif: is not named by a TCGA barcode"):
        open_source(source)
    (test / "TCGA-18.tif").unlink()
    with pytest.raises(UserError, match=r"lacks the images of 1 of 2 outlines \(first: TCGA-18\.tif\)"):
        open_source(source)


def test_outlines_may_not_be_links_out_of_the_source(source, tmp_path):
    file = source / "MoNuSegTestData" / "TCGA-2Z-A9J9-01A-01-TS1.xml"
    (tmp_path / "elsewhere.xml").write_text(file.read_text())
    file.unlink()
    file.symlink_to(tmp_path / "elsewhere.xml")
    with pytest.raises(UserError, match=r"TS1\.xml: is a link out of"):
        open_source(source)


def test_a_patient_in_both_parts_is_refused(source, tmp_path):
    test = source / "MoNuSegTestData"
    write_region(test, test, "TCGA-18-5592-01A-01-BS1")
    with pytest.raises(UserError, match="in more than one split: 1 in train and test") as caught:
        prepare("monuseg", source, tmp_path / "out", options={"val_share": "0"}, say=lambda _: None)
    assert "5592" not in str(caught.value)


# ---- prepared ------------------------------------------------------------------------------------


def test_prepared_boxes_follow_the_size_and_patients_stay_unnamed(source, tmp_path):
    write = {"options": {"val_share": "0"}, "say": lambda _: None}
    target = prepare("monuseg", source, tmp_path / "out", size=10, **write)
    table = open_tables(DataConfig(source=str(target)), "test")["records"]
    # 30 x 20 pixels became 10 x 10.
    np.testing.assert_allclose(table.boxes["nuclei"][0][0], [2 / 3, 1.5, 2.0, 4.75], rtol=1e-6)
    assert table.values["nuclei_count"].tolist() == [2.0]
    written = b"".join(file.read_bytes() for file in target.iterdir())
    assert not any(patient.encode() in written for patient in PATIENTS)
    # Other outlines of the same images are another set.
    outlines = next((source / "MoNuSegTestData").glob("*.xml"))
    outlines.write_text(annotation(SQUARE))
    other = prepare("monuseg", source, tmp_path / "other", size=10, **write)
    assert read(other)["source"]["sha256"] != read(target)["source"]["sha256"]


def test_real_tissue_of_several_patients(shared, tmp_path):
    tiles = sorted((shared / "data" / "histology" / "unpaired" / "monuseg").glob("*_y0_x0.jpg"))
    if len(tiles) < 10:
        pytest.skip("needs the tiles in histology/unpaired/monuseg")
    part = tmp_path / "monuseg"
    for tile in tiles[:10]:
        barcode = tile.stem.removesuffix("_y0_x0")
        write_region(part / "Tissue Images", part / "Annotations", barcode, SQUARE, image=read_image(tile))
    target = prepare("monuseg", part, tmp_path / "out", options={"val_share": "0.3"}, say=lambda _: None)
    tables = [open_tables(DataConfig(source=str(target)), split)["records"] for split in ("train", "val")]
    assert sum(map(len, tables)) == 10
    for table in tables:
        for i in range(len(table)):
            assert any(np.array_equal(table[i]["image"], read_image(tile)) for tile in tiles[:10])
