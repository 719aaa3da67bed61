"""Written DICOM files: synthetic by every mark, nobody's by every tag, and exact to half a level."""

from __future__ import annotations

import dataclasses

import numpy as np
import pydicom
import pytest
from dicom_files import write

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats.dicom_write import Derivation
from medgen_jax.data.images import Range, View, dequantise, quantise, read_header, read_image, read_range, write_image

#: Personal attributes of the source, all different from anything that may be written.
PERSONAL = {
    "PatientName": "Doe^Jane", "PatientID": "1234567", "PatientBirthDate": "19700102", "PatientSex": "F",
    "PatientAge": "054Y", "PatientAddress": "Elm Street 7", "InstitutionName": "General Hospital",
    "ReferringPhysicianName": "Roe^Richard", "OperatorsName": "Poe^Edgar", "AccessionNumber": "A99",
    "StudyDate": "20240305", "StudyTime": "101112", "StudyID": "S77", "StationName": "ROOM9",
    "DeviceSerialNumber": "SN123", "ImageComments": "cardiac patient", "StudyDescription": "THORAX Jane",
    "StudyInstanceUID": "1.2.3.4.1", "SeriesInstanceUID": "1.2.3.4.2", "FrameOfReferenceUID": "1.2.3.4.3",
}  # fmt: skip
GEOMETRY = {
    "Modality": "DX", "ViewPosition": "AP", "Laterality": "L", "PatientOrientation": ["L", "F"],
    "ImagerPixelSpacing": [0.143, 0.144], "PixelSpacing": [0.139, 0.14],
    "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
}  # fmt: skip


def ramp(dtype, channels=1):
    size = 256 if dtype == np.uint16 else 16
    array = np.arange(size * size).astype(dtype).reshape(size, size, 1)
    return np.concatenate([array, array[::-1], array[:, ::-1]][:channels], -1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_levels_return_exactly(tmp_path, dtype, channels):
    write_image(tmp_path / "x.dcm", ramp(dtype, channels))
    np.testing.assert_array_equal(read_image(tmp_path / "x.dcm"), ramp(dtype, channels))
    pixels = pydicom.dcmread(tmp_path / "x.dcm").pixel_array
    np.testing.assert_array_equal(pixels.reshape(ramp(dtype, channels).shape), ramp(dtype, channels))


@pytest.mark.parametrize("span", [Range(-1024, 3071, "HU"), Range(1e-3, 0.7), Range(2.5, -7.25), Range(1e6, 1e6 + 3)])
def test_values_return_within_half_a_level(tmp_path, span):
    path, values = tmp_path / "x.dcm", np.linspace(span.low, span.high, 10_000).reshape(100, 100)
    write_image(path, quantise(values, span.low, span.high), span=span)
    found = read_range(path)
    assert found[:2] == pytest.approx(span[:2], rel=1e-9)
    assert found.unit == span.unit
    half = abs(span.high - span.low) / 65535 / 2
    back = dequantise(read_image(path), *found[:2], np.float64)[..., 0]
    assert np.abs(back - values).max() <= half * (1 + 1e-4)
    # Any other reader gets the same values from slope and intercept.
    data = pydicom.dcmread(path)
    theirs = pydicom.pixels.apply_modality_lut(data.pixel_array, data)
    assert np.abs(theirs - values).max() <= half * (1 + 1e-4)
    assert data.PhotometricInterpretation == ("MONOCHROME2" if span.low < span.high else "MONOCHROME1")


def test_a_16_bit_image_through_dicom_and_back_to_tiff(tmp_path):
    array = np.random.default_rng(0).integers(0, 4096, (33, 17)).astype(np.uint16)
    source = write(tmp_path / "in.dcm", array, stored=12, WindowCenter=2048, WindowWidth=4096)
    seen, span = read_image(source), read_range(source)
    write_image(tmp_path / "out.dcm", seen, span=span, derivation=Derivation(source))
    write_image(tmp_path / "out.tif", dequantise(seen, *span[:2]))
    assert (
        np.abs(dequantise(read_image(tmp_path / "out.dcm"), *span[:2])[..., 0] - array).max() <= 4095 / 65535 / 2 + 1e-3
    )
    again = read_image(tmp_path / "out.tif", view=View(range=span))
    np.testing.assert_array_equal(again, seen)


@pytest.fixture
def written(tmp_path):
    source = write(tmp_path / "in.dcm", ramp(np.uint8)[..., 0], **PERSONAL, **GEOMETRY)
    about = Derivation(source, "healthy counterfactual", number=3)
    write_image(tmp_path / "out.dcm", ramp(np.uint8), derivation=about)
    return pydicom.dcmread(source), pydicom.dcmread(tmp_path / "out.dcm"), about


def test_marks_of_a_synthetic_image(written):
    _, data, about = written
    assert list(data.ImageType) == ["DERIVED", "SECONDARY"]
    assert data.SOPClassUID.name == "Secondary Capture Image Storage"
    assert data.SeriesDescription == "SYNTHETIC healthy counterfactual"
    assert data.ConversionType == "SYN"
    assert data.BurnedInAnnotation == "NO"
    assert data.PatientIdentityRemoved == "YES"
    assert "medgen_jax" in data.DerivationDescription
    assert "SYNTHETIC" in data.DerivationDescription
    equipment = data.ContributingEquipmentSequence[0]
    assert (equipment.ManufacturerModelName, equipment.PurposeOfReferenceCodeSequence[0].CodeValue) == (
        "medgen_jax",
        "109103",
    )
    assert (data.InstanceNumber, data.StudyInstanceUID, data.SeriesInstanceUID) == (3, about.study, about.series)


def test_nothing_of_the_person_travels(written):
    source, data, _ = written
    text = str(data)
    for name, value in PERSONAL.items():
        assert len(value) < 2 or value not in text, name
        assert not data.get(name) or data.get(name) != source.get(name), name
    allowed = set(GEOMETRY) | {"Rows", "Columns", "SpecificCharacterSet"}
    same = {e.keyword for e in data if e.keyword in source and e.value == source[e.keyword].value and e.value}
    pixel = {"SamplesPerPixel", "PhotometricInterpretation", "BitsAllocated", "BitsStored", "HighBit", "PixelData"}
    assert same <= allowed | pixel | {"SOPClassUID"}


def test_geometry_is_kept_while_it_is_true(written, tmp_path):
    source, data, about = written
    for name in GEOMETRY:
        assert data[name].value == source[name].value, name
    write_image(tmp_path / "half.dcm", ramp(np.uint8)[::2], derivation=about)
    half = pydicom.dcmread(tmp_path / "half.dcm")
    assert "PixelSpacing" not in half
    assert "ImagerPixelSpacing" not in half
    assert half.ViewPosition == "AP"
    write_image(tmp_path / "um.dcm", ramp(np.uint8), microns_per_pixel=0.25, derivation=about)
    assert list(pydicom.dcmread(tmp_path / "um.dcm").PixelSpacing) == [0.00025, 0.00025]


def test_burned_in_text_and_lossy_compression_are_not_denied(tmp_path):
    more = {"BurnedInAnnotation": "YES", "LossyImageCompression": "01", "LossyImageCompressionRatio": 9}
    source = write(tmp_path / "in.dcm", ramp(np.uint8)[..., 0], **more)
    write_image(tmp_path / "out.dcm", ramp(np.uint8), derivation=Derivation(source))
    data = pydicom.dcmread(tmp_path / "out.dcm")
    assert {name: data[name].value for name in more} == more


def test_identifiers_are_new_each_time_and_shared_on_request(tmp_path):
    run, found = Derivation(), []
    for number in range(3):
        path = tmp_path / f"{number}.dcm"
        write_image(path, ramp(np.uint8), derivation=dataclasses.replace(run, number=number) if number else None)
        found.append(pydicom.dcmread(path))
    assert len({data.SOPInstanceUID for data in found}) == 3
    assert all(
        uid.startswith("2.25.") and len(uid) <= 64
        for data in found
        for uid in (data.SOPInstanceUID, data.StudyInstanceUID)
    )
    assert found[1].SeriesInstanceUID == found[2].SeriesInstanceUID != found[0].SeriesInstanceUID
    assert found[1].file_meta.MediaStorageSOPInstanceUID == found[1].SOPInstanceUID


def test_a_bad_source_is_named(tmp_path):
    (tmp_path / "in.dcm").write_bytes(b"not DICOM" * 50)
    with pytest.raises(UserError, match=r"in\.dcm: cannot be read as a DICOM source"):
        write_image(tmp_path / "out.dcm", ramp(np.uint8), derivation=Derivation(tmp_path / "in.dcm"))
    assert not (tmp_path / "out.dcm").exists()


def test_a_real_radiograph_loses_its_name(shared, tmp_path):
    source = shared / "data" / "cxr" / "rsna_mini" / "real_rsna_sample.dcm"
    write_image(tmp_path / "out.dcm", read_image(source), derivation=Derivation(source))
    theirs, ours = pydicom.dcmread(source), pydicom.dcmread(tmp_path / "out.dcm")
    assert theirs.PatientID
    assert theirs.PatientID not in str(ours)
    assert str(theirs.StudyInstanceUID) not in str(ours)
    assert (ours.Modality, ours.ViewPosition, ours.PixelSpacing) == (
        theirs.Modality,
        theirs.ViewPosition,
        theirs.PixelSpacing,
    )
    assert ours.LossyImageCompression == "01"
    assert read_header(tmp_path / "out.dcm") == (1024, 1024, 1, 8)
