"""Small files that claim, or unpack to, gigabytes: refused from the header, memory bounded in a child process."""

from __future__ import annotations

import io
import json
import struct
import subprocess
import sys
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import tifffile
from dicom_files import dataset, write, write_deflated, write_encapsulated
from PIL import Image
from pydicom.uid import RLELossless

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import budget
from medgen_jax.data.images import read_image

MEGA = 1 << 20


def swollen(megabytes, wbits=15):
    """A deflate stream of zeros: one independent block, repeated. It takes no time to make."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(MEGA)) + packer.flush(zlib.Z_FULL_FLUSH)
    return (b"\x78\xda" if wbits > 0 else b"") + block * megabytes + b"\x03\x00"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(path, height, width, extra=b""):
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rows = b"".join(b"\0" + bytes(width) for _ in range(min(height, 8)))
    body = header + extra + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def tiff(path, side, strip_rows, packed, codec=8, count=None):
    """Every strip is the same packed block."""
    strips = -(-side // strip_rows)
    tags = {256: (side,), 257: (side,), 258: (8,), 259: (codec,), 262: (1,), 273: None, 277: (1,), 278: (strip_rows,),
            279: (len(packed),) * strips}  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4 + 8 * strips
    tags[273] = (start,) * strips
    entries, tail = b"", b""
    for tag, values in tags.items():
        raw = struct.pack(f"<{len(values)}I", *values)
        place = raw if len(raw) == 4 else struct.pack("<I", 8 + 2 + 12 * len(tags) + 4 + len(tail))
        tail += b"" if len(raw) == 4 else raw
        entries += struct.pack("<HHI", tag, 4, count if tag == 273 and count else len(values)) + place
    tail = tail.ljust(8 * strips, b"\0")
    path.write_bytes(b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + tail + packed)


def lzw(path):
    """A strip of LZW that unpacks to far more than its 64 x 64 pixels."""
    Image.new("L", (12000, 12000)).save(path, compression="tiff_lzw", tiffinfo={278: 12000})
    with tifffile.TiffFile(path) as file:
        start, count = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    tiff(path, 64, 64, path.read_bytes()[start : start + count], codec=5)


def matlab(path, side, claim, megabytes):
    """One deflated matrix of doubles: dimensions, bytes of numbers claimed, and what the stream holds."""
    body = struct.pack("<IIIIII", 14, 48 + claim, 6, 8, 6, 0)
    body += struct.pack("<IIii", 5, 8, side, side) + struct.pack("<HH4s", 1, 1, b"a") + struct.pack("<II", 9, claim)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = b"\x78\xda" + packer.compress(body) + packer.flush(zlib.Z_FULL_FLUSH) + swollen(megabytes, -15)
    mark = b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM"
    path.write_bytes(mark + struct.pack("<II", 15, len(packed)) + packed)


def npz(path, shape, megabytes):
    """An NPZ member whose deflated data are zeros."""
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as member:
        member.write(stream.getvalue())
        for _ in range(megabytes):
            member.write(bytes(MEGA))


def wide_npy(path):
    header = b"{'descr':'|u1','fortran_order':False,'shape':(60000,60000)}".ljust(63) + b"\n"
    path.write_bytes(b"\x93NUMPY\1\0\x40\0" + header)


def lying_npz(path):
    """The directory gives the size that the array header wants; the stream holds 300 MB more."""
    npz(path, (1024, 1024), 1)
    raw = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        info, start = archive.infolist()[0], archive.read("a.npy")[:128]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    data = packer.compress(start) + packer.flush(zlib.Z_FULL_FLUSH) + swollen(300, -15)
    start = 30 + len("a.npy")
    head, directory = raw[:start], raw[raw.index(b"PK\1\2") :]
    struct.pack_into("<HIII", head, 6, 0, 0, 0, len(data))
    struct.pack_into("<II", head, 18, len(data), info.file_size)
    struct.pack_into("<H", directory, 8, 0)
    struct.pack_into("<II", directory, 20, len(data), info.file_size)
    struct.pack_into("<I", directory, len(directory) - 6, start + len(data))
    path.write_bytes(head + data + directory)


def hdf5(path, shape, chunks, packed=None):
    with h5py.File(path, "w") as file:
        data = file.create_dataset("a", shape, "u1", chunks=chunks, maxshape=(None, None), compression="gzip")
        if packed:
            data.id.write_direct_chunk((0, 0), packed)


def run_length(path, rows, pairs):
    frame = struct.pack("<16I", 1, 64, *[0] * 14) + b"\x81\0" * pairs
    write_encapsulated(path, np.zeros((2, 2), np.uint8), [frame], RLELossless, Rows=rows, Columns=rows)


def wide_jpeg(path):
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "JPEG")
    raw = bytearray(stream.getvalue())
    struct.pack_into(">HH", raw, raw.index(b"\xff\xc0") + 5, 65000, 65000)
    path.write_bytes(raw)


def wide_bmp(path):
    stream = io.BytesIO()
    Image.new("L", (8, 8)).save(stream, "BMP")
    raw = bytearray(stream.getvalue())
    struct.pack_into("<ii", raw, 18, 60000, 60000)
    path.write_bytes(raw)


def fat_header(path):
    """A deflated data set whose comment of 500 MB stands before its pixels."""
    write_deflated(path, 64, 64, 8192)
    raw = path.read_bytes()
    end = 144 + struct.unpack_from("<I", raw, 140)[0]
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    comment = struct.pack("<HH2sHI", 0x0020, 0x4000, b"UT", 0, 500 * MEGA)
    path.write_bytes(raw[:end] + packer.compress(comment) + packer.flush(zlib.Z_FULL_FLUSH) + swollen(500, -15))


LIMIT = "more than the limit"
#: Name -> how it is made, and what is answered; an empty answer stands for an image or any refusal.
BOMBS = {
    "a.tif": (lambda p: tiff(p, 40000, 1000, swollen(39)), LIMIT),  # 1.6 GB
    "b.tif": (lambda p: tiff(p, 64, 64, swollen(500)), ""),
    "c.tif": (lzw, ""),
    "d.tif": (lambda p: tiff(p, 64, 64, swollen(1), count=0xFFFFFFFF), "cannot be read"),
    "e.tif": (lambda p: tiff(p, 64, 64, swollen(500), codec=1), ""),
    "a.dcm": (lambda p: write_deflated(p, 16000, 16000, 512_000_000), LIMIT),
    "b.dcm": (lambda p: write_deflated(p, 64, 64, 300 * MEGA), ""),
    "c.dcm": (fat_header, "claims 524,288,000 bytes"),
    "d.dcm": (lambda p: run_length(p, 30000, 7_000_000), LIMIT),
    "e.dcm": (lambda p: run_length(p, 64, 7_000_000), ""),
    "f.dcm": (lambda p: write(p, np.zeros((4, 4), np.uint8), NumberOfFrames=2**31 - 1), "holds 2147483647 frames"),
    "g.dcm": (lambda p: write(p, np.zeros((4, 4), np.uint16), Rows=65535, Columns=65535), LIMIT),
    "a.png": (lambda p: png(p, 20000, 20000), LIMIT),
    "b.png": (lambda p: png(p, 8, 8, chunk(b"iCCP", b"icc\0\0" + swollen(500))), ""),
    "c.png": (lambda p: png(p, 8, 8, chunk(b"zTXt", b"note\0\0" + swollen(500))), ""),
    "d.png": (lambda p: png(p, 8, 8, chunk(b"iTXt", b"note\0\1\0\0\0" + swollen(500))), ""),
    "a.jpg": (wide_jpeg, LIMIT),
    "a.bmp": (wide_bmp, LIMIT),
    "a.npz": (lambda p: npz(p, (12288, 12288), 144), LIMIT),
    "b.npz": (lying_npz, ""),
    "a.npy": (wide_npy, LIMIT),
    "a.mat": (lambda p: matlab(p, 40000, 0x7FFFFFF0, 2), LIMIT),
    "b.mat": (lambda p: matlab(p, 64, 500 * MEGA, 500), "cannot be read"),
    "a.h5": (lambda p: hdf5(p, (60000, 60000), (1000, 1000)), LIMIT),
    "b.h5": (lambda p: hdf5(p, (10, 10), (60000, 60000)), LIMIT),
    "c.h5": (lambda p: hdf5(p, (1000, 1000), (1000, 1000), swollen(500)), ""),
}  # fmt: skip

_CHILD = """
import json, pathlib, sys
import h5py, numpy as np, pydicom, tifffile
from medgen_jax.core.errors import UserError
from medgen_jax.data.images import Range, View, read_image

def megabytes(field):
    # getrusage would give the peak of the process that started this one, where that is higher.
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) // 1024 for line in lines if line.startswith(field))

def growth(work):
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = megabytes("VmRSS")
    return work(), megabytes("VmHWM") - before

def read(path):
    try:
        return str(read_image(path, view=View(range=Range(0, 255))).shape)
    except UserError as error:
        return str(error)

answers = {path.name: growth(lambda: read(path)) for path in sorted(pathlib.Path(sys.argv[1]).iterdir())}
answers["control"] = growth(lambda: int(np.ones(150 << 20, np.uint8)[-1]))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def answers(tmp_path_factory, root):
    folder = tmp_path_factory.mktemp("bombs")
    for name, (make, _) in BOMBS.items():
        make(folder / name)
        assert (folder / name).stat().st_size < 16 * MEGA, name
    child = subprocess.run(
        [sys.executable, "-c", _CHILD, folder], cwd=root, capture_output=True, text=True, timeout=300
    )
    assert child.returncode == 0, child.stderr
    return json.loads(child.stdout)


@pytest.mark.parametrize("name", BOMBS)
def test_bombs_are_refused_or_contained(answers, name):
    answer, megabytes = answers[name]
    wanted = BOMBS[name][1]
    print(name, megabytes, "MB:", answer[-150:])
    assert megabytes < 100
    if wanted:
        assert any(part in answer for part in wanted.split("|")), answer
        assert name in answer


def test_the_measure_sees_memory(answers):
    assert 140 < answers["control"][1] < 200


def test_the_budget(tmp_path, monkeypatch):
    path = tmp_path / "x"
    path.write_bytes(bytes(1000))
    monkeypatch.setattr(budget, "MAX_IMAGE_BYTES", 10_000)
    monkeypatch.setattr(budget, "FREE_BYTES", 2000)
    monkeypatch.setattr(budget, "RATIO", 5)
    budget.check(path, "claims", 5000)  # five times its size
    with pytest.raises(
        UserError, match=r"x: claims need 5,001 bytes, more than the limit of 5,000 for a file of 1,000"
    ):
        budget.check(path, "claims", 5001)
    monkeypatch.setattr(budget, "RATIO", 50)
    with pytest.raises(UserError, match="limit of 10,000"):
        budget.check(path, "claims", 10_001)
    path.write_bytes(b"")
    budget.check(path, "claims", 2000)
    with pytest.raises(UserError, match="limit of 2,000"):
        budget.check(path, "claims", 2001)


def test_reading_never_goes_beyond_the_file():
    stream = io.BytesIO(bytes(10))
    assert budget.read_at(stream, 4, 6) == bytes(6)
    for offset, count in ((4, 7), (11, 0), (-1, 2), (0, 1 << 40)):
        with pytest.raises(ValueError, match="beyond the end of the file"):
            budget.read_at(stream, offset, count)
    assert budget.inflate(zlib.compress(bytes(100)), 7) == bytes(7)
    assert budget.inflate(zlib.compress(bytes(100)), 0) == b""


def test_a_blank_image_of_ordinary_size_is_no_bomb(tmp_path):
    Image.fromarray(np.zeros((4000, 4000), np.uint8)).save(tmp_path / "x.png")
    assert (tmp_path / "x.png").stat().st_size < 4000 * 4000 / 500
    assert read_image(tmp_path / "x.png").shape == (4000, 4000, 1)


def test_an_element_longer_than_the_file(tmp_path):
    data = dataset(np.zeros((4, 4), np.uint8), ImageComments="x" * 500)
    data.save_as(tmp_path / "x.dcm", enforce_file_format=True)
    raw = (tmp_path / "x.dcm").read_bytes()
    at = raw.index(b"x" * 500)
    (tmp_path / "x.dcm").write_bytes(raw[: at - 2] + struct.pack("<H", 60_000) + raw[at:])
    with pytest.raises(UserError, match=r"x\.dcm: .*claims 60,000 bytes, more than there are"):
        read_image(tmp_path / "x.dcm")
