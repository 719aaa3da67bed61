"""Images as derived DICOM files: secondary captures that say what they are (PS3.3, A.8.1).

Every file is marked as synthetic, gets new identifiers and carries nothing that names a patient: of a
source file only geometry and the record of lossy compression are taken over.
"""

from __future__ import annotations

import importlib
import io
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.datadict import tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.tag import Tag
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid
from pydicom.valuerep import DSfloat

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import dicom
from medgen_jax.data.formats.samples import Range, Source

#: Attributes of a source that describe the picture and not the person.
_KEPT = (
    "Modality", "ViewPosition", "Laterality", "ImageLaterality", "PatientOrientation", "ImageOrientationPatient",
    "PixelSpacing", "ImagerPixelSpacing", "LossyImageCompression", "LossyImageCompressionRatio",
    "LossyImageCompressionMethod", "BurnedInAnnotation",
)  # fmt: skip
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing")
#: Attributes of type 2: they must be there, and stay empty.
_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "ReferringPhysicianName", "StudyID", "AccessionNumber", "SeriesNumber", "PatientOrientation",
)  # fmt: skip


def new_uid() -> str:
    """A unique identifier that needs no registration: 2.25 and a random UUID (PS3.5, B.2)."""
    return str(generate_uid(prefix=None))


@dataclass(frozen=True)
class Derivation:
    """Where a written image comes from.

    Attributes:
      source: DICOM file of the same field of view, whose geometry the image keeps; sizes of pixels
        only while the image has its number of rows and columns.
      description: what was computed, such as ``healthy counterfactual``.
      study, series: identifiers that the images of one run share; random by default.
      number: of the image within its series.
    """

    source: Path | None = None
    description: str = ""
    study: str = field(default_factory=new_uid)
    series: str = field(default_factory=new_uid)
    number: int = 1


def encode(
    array: np.ndarray,
    microns_per_pixel: float | None = None,
    span: Range | None = None,
    derivation: Derivation | None = None,
) -> bytes:
    """A DICOM file of HW or HW3 levels, ``uint8`` or ``uint16``.

    Args:
      array: levels.
      microns_per_pixel: goes before the spacing of the source.
      span: physical values of the levels of a grey image; the file's rescale slope and intercept
        return them. Where ``low`` exceeds ``high`` the image becomes MONOCHROME1.
      derivation: origin.

    Raises:
      UserError: for a source that is no DICOM image.
    """
    about = derivation or Derivation()
    data = _labels(about)
    for name, value in (_geometry(about.source, array.shape[:2]) if about.source else {}).items():
        setattr(data, name, value)
    if microns_per_pixel is not None:
        data.PixelSpacing = [_decimal(microns_per_pixel / 1000)] * 2
    _put_pixels(data, array, span if array.ndim == 2 else None)
    meta = data.file_meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID = data.SOPClassUID, data.SOPInstanceUID
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    stream = io.BytesIO()
    data.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def _labels(about: Derivation) -> Dataset:
    """Everything but geometry and pixels."""
    data = Dataset()
    for name in _EMPTY:
        setattr(data, name, None)
    version = importlib.import_module("medgen_jax").__version__
    data.SpecificCharacterSet = "ISO_IR 192"
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, new_uid()
    data.StudyInstanceUID, data.SeriesInstanceUID = about.study, about.series
    data.InstanceNumber = about.number
    data.Modality, data.ConversionType = "OT", "SYN"
    data.ImageType = ["DERIVED", "SECONDARY"]
    data.SeriesDescription = f"SYNTHETIC {about.description}".strip()[:64]
    what = f" ({about.description})" if about.description else ""
    data.DerivationDescription = f"SYNTHETIC image{what}, computed by medgen_jax {version}; not for diagnosis"[:1024]
    data.BurnedInAnnotation = "NO"
    data.PatientIdentityRemoved = "YES"
    data.DeidentificationMethod = "No attribute of a patient is written"
    purpose = Dataset()
    purpose.CodeValue, purpose.CodingSchemeDesignator = "109103", "DCM"
    purpose.CodeMeaning = "Modifying Equipment"
    equipment = Dataset()
    equipment.PurposeOfReferenceCodeSequence = [purpose]
    equipment.Manufacturer, equipment.ManufacturerModelName = "medgen_jax", "medgen_jax"
    equipment.SoftwareVersions = version
    equipment.ContributionDescription = "Computed this image"
    data.ContributingEquipmentSequence = [equipment]
    return data


def _geometry(path: Path, size: tuple[int, int]) -> dict[str, object]:
    """What a source file may lend."""
    tags = [Tag(tag_for_keyword(name)) for name in (*_KEPT, "Rows", "Columns")]
    try:
        with dicom.open_dataset(Source(Path(path)), tags) as opened:
            found = {name: opened.data.get(name) for name in (*_KEPT, "Rows", "Columns")}
    except UserError:
        raise
    # pydicom raises nearly every exception type on damaged input.
    except Exception as error:
        raise UserError(f"{path}: cannot be read as a DICOM source ({error}); leave it out") from error
    same = (found.pop("Rows"), found.pop("Columns")) == size
    return {name: value for name, value in found.items() if value not in (None, "") and (same or name not in _SPACINGS)}


def _put_pixels(data: Dataset, array: np.ndarray, span: Range | None) -> None:
    bits, top = 8 * array.dtype.itemsize, np.iinfo(array.dtype).max
    data.Rows, data.Columns = array.shape[:2]
    data.SamplesPerPixel = 1 if array.ndim == 2 else 3
    data.PhotometricInterpretation = "MONOCHROME2" if array.ndim == 2 else "RGB"
    if array.ndim == 3:
        data.PlanarConfiguration = 0
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = 0
    if span is not None:
        low, high = sorted(span[:2])
        if span.low > span.high:
            data.PhotometricInterpretation, array = "MONOCHROME1", top - array
        data.RescaleSlope, data.RescaleIntercept = _decimal((high - low) / float(top)), _decimal(low)
        data.RescaleType = span.unit[:64] if span.unit not in ("", "display") else "US"
    pixels = array.astype(array.dtype.newbyteorder("<")).tobytes()
    data.add_new("PixelData", "OB" if bits == 8 else "OW", pixels + bytes(len(pixels) % 2))


def _decimal(value: float) -> DSfloat:
    """A number in at most 16 characters."""
    return DSfloat(float(value), auto_format=True)
