"""Small DICOM files for the tests, written attribute by attribute."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    RLELossless,
    SecondaryCaptureImageStorage,
    generate_uid,
)


def dataset(pixels, *, photometric="MONOCHROME2", stored=None, syntax=ExplicitVRLittleEndian, frames=None, **more):
    """A data set whose pixels are an integer array HW, HW3, or with ``frames`` one axis more in front."""
    pixels = np.asarray(pixels)
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    shape = pixels.shape[1:] if frames else pixels.shape
    data.Rows, data.Columns = shape[:2]
    data.SamplesPerPixel = shape[2] if len(shape) == 3 else 1
    if len(shape) == 3:
        data.PlanarConfiguration = 0
    if frames:
        data.NumberOfFrames = frames
    data.PhotometricInterpretation = photometric
    data.BitsAllocated = 8 * pixels.dtype.itemsize
    data.BitsStored = stored or data.BitsAllocated
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    for name, value in more.items():
        setattr(data, name, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    raw = pixels.astype(pixels.dtype.newbyteorder("<" if syntax.is_little_endian else ">")).tobytes()
    data.add_new("PixelData", "OB" if data.BitsAllocated == 8 else "OW", raw + bytes(len(raw) % 2))
    return data


def write(path, pixels, **options):
    """Save `dataset` and return its path."""
    data = dataset(pixels, **options)
    data.save_as(path, enforce_file_format=True)
    return path


def write_encapsulated(path, pixels, frames, syntax, **options):
    """Save with already compressed frames; ``pixels`` give the header only."""
    data = dataset(pixels, **options)
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate(frames)
    data["PixelData"].VR = "OB"
    data["PixelData"].is_undefined_length = True
    data.save_as(path, enforce_file_format=True)
    return path


def run_length(pixels):
    """One frame HW or HWC encoded by the definition (PS3.5, annex G), rows as literal runs."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    parts = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">"))).view(np.uint8)
    parts = parts.reshape(*pixels.shape, pixels.dtype.itemsize)
    segments = []
    for channel in range(pixels.shape[2]):
        for byte in range(pixels.dtype.itemsize):
            flat = parts[:, :, channel, byte].tobytes()
            runs = [flat[i : i + 128] for i in range(0, len(flat), 128)]
            segment = b"".join(bytes([len(run) - 1]) + run for run in runs)
            segments.append(segment + bytes(len(segment) % 2))
    offsets = [64 + sum(map(len, segments[:i])) for i in range(len(segments))]
    header = struct.pack("<16I", len(segments), *offsets, *[0] * (15 - len(segments)))
    return header + b"".join(segments)


def write_run_length(path, pixels, **options):
    """Save run-length encoded."""
    return write_encapsulated(path, pixels, [run_length(pixels)], RLELossless, **options)


def write_deflated(path, rows, columns, zeros):
    """A deflated file that claims (rows, columns) of 16 bits, whose pixels are ``zeros`` bytes of 0."""
    plain = path.with_suffix(".plain")
    write(plain, np.zeros((2, 2), np.uint16), Rows=rows, Columns=columns)
    whole = plain.read_bytes()
    plain.unlink()
    meta_end = 144 + struct.unpack_from("<I", whole, 140)[0]
    pixels = whole.rindex(struct.pack("<HH", 0x7FE0, 0x0010))
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = packer.compress(whole[meta_end:pixels] + struct.pack("<HH2sHI", 0x7FE0, 0x0010, b"OW", 0, zeros))
    start += packer.flush(zlib.Z_FULL_FLUSH)
    # After a full flush a block does not look back, so one block may stand for many.
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    packed = start + block * (zeros >> 20) + packer.compress(bytes(zeros & 0xFFFFF)) + packer.flush()
    old, new = str(ExplicitVRLittleEndian).encode(), str(DeflatedExplicitVRLittleEndian).encode()
    # The longer identifier moves what follows, and the group's length counts it.
    head = whole[:meta_end]
    at = head.index(old)
    field = struct.unpack_from("<H", head, at - 2)[0]
    new += bytes(len(new) % 2)
    head = head[: at - 2] + struct.pack("<H", len(new)) + new + head[at + field :]
    head = head[:140] + struct.pack("<I", len(head) - 144) + head[144:]
    path.write_bytes(head + packed)
    return path
