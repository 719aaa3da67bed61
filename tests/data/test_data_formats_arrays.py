"""NPY, NPZ, MAT and HDF5: numbers only, one array by name, and the values that other programs wrote."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
import zlib

import h5py
import numpy as np
import pytest
import scipy.io

from medgen_jax.core.errors import UserError
from medgen_jax.data.formats import budget, hdf5
from medgen_jax.data.images import Range, View, read_array, read_header, read_image, write_image

RNG = np.random.default_rng(0)
GREY = RNG.integers(0, 65536, (9, 7)).astype(np.uint16)
COLOUR = RNG.integers(0, 256, (9, 7, 3)).astype(np.uint8)
STACK = RNG.normal(size=(4, 9, 7)).astype(np.float32)
UNIT = View(range=Range(-1, 1))
SUFFIXES = (".npy", ".npz", ".mat", ".h5")


def save(path, name="image", array=GREY, **more):
    """One or more arrays, by the program that is at home with the format."""
    if path.suffix == ".npy":
        np.save(path, array)
    elif path.suffix == ".npz":
        np.savez_compressed(path, **{name: array}, **more)
    elif path.suffix == ".mat":
        scipy.io.savemat(path, {name: array, **more}, do_compression=True)
    else:
        with h5py.File(path, "w") as file:
            for key, value in ({name: array} | more).items():
                file[key] = value
    return path


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "array", [GREY, COLOUR, np.asfortranarray(GREY), GREY.astype(">u2")], ids=lambda a: a.dtype.str
)
def test_images(tmp_path, suffix, array):
    path = save(tmp_path / f"x{suffix}", array=array)
    assert read_header(path) == (9, 7, 3 if array.ndim == 3 else 1, 8 * array.itemsize)
    np.testing.assert_array_equal(read_image(path), array.reshape(9, 7, -1))
    np.testing.assert_array_equal(read_array(path), array)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_truth_values_become_black_and_white(tmp_path, suffix):
    path = save(tmp_path / f"x{suffix}", array=GREY > 30000)
    np.testing.assert_array_equal(read_image(path)[..., 0], 255 * (GREY > 30000))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_planes_of_a_stack(tmp_path, suffix):
    # MATLAB counts planes last.
    stack = np.moveaxis(STACK, 0, -1) if suffix == ".mat" else STACK
    path, name = save(tmp_path / f"x{suffix}", array=stack), "" if suffix == ".npy" else "image"
    np.testing.assert_array_equal(read_array(path), stack)
    with pytest.raises(UserError, match=r"is a stack of 4 planes; choose one with x\.\w+#(image\[0\]|0)$"):
        read_image(path, view=UNIT)
    for i in range(4):
        assert read_header(f"{path}#{name}[{i}]", UNIT) == (9, 7, 1, 16)
        np.testing.assert_array_equal(read_array(f"{path}#{name}[{i}]"), STACK[i])
        wanted = np.clip((STACK[i] + 1.0) / 2, 0, 1) * 65535
        assert np.abs(read_image(f"{path}#{name}[{i}]", view=UNIT)[..., 0] - wanted).max() <= 0.5
    with pytest.raises(UserError, match="has 4 planes, counted from 0"):
        read_image(f"{path}#{name}[4]", view=UNIT)
    with pytest.raises(UserError, match="has float32 samples.*range_low"):
        read_image(f"{path}#{name}[1]")
    if suffix == ".npy":
        np.testing.assert_array_equal(read_array(f"{path}#2"), STACK[2])


@pytest.mark.parametrize("suffix", SUFFIXES[1:])
def test_one_of_several_arrays(tmp_path, suffix):
    scalars = {"wavelength": np.float64(0.5), "order": np.arange(5)}
    path = save(tmp_path / f"a{suffix}", "phase", GREY, **scalars)
    np.testing.assert_array_equal(read_image(path)[..., 0], GREY)  # the only one that could be an image
    np.testing.assert_array_equal(np.ravel(read_array(f"{path}#order")), np.arange(5))
    path = save(tmp_path / f"b{suffix}", "phase", GREY, amplitude=COLOUR, **scalars)
    with pytest.raises(
        UserError, match=rf"b\{suffix}: choose an array with b\{suffix}#NAME; .*amplitude \(9x7x3 uint8\)"
    ):
        read_header(path)
    np.testing.assert_array_equal(read_image(f"{path}#amplitude"), COLOUR)
    with pytest.raises(UserError, match=r"there is no such array; the file holds .*phase \(9x7 uint16\)"):
        read_image(f"{path}#mask")


def test_arrays_in_groups(tmp_path):
    path = save(tmp_path / "x.hdf5", "section0/ptychogram", STACK)
    assert read_array(f"{path}#section0/ptychogram").shape == STACK.shape
    assert read_header(f"{path}#section0/ptychogram[1]", UNIT).height == 9


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int8, np.uint8, np.int16, np.uint16, np.int32, np.uint32,
                                   np.int64, np.uint64, np.complex64, np.complex128])  # fmt: skip
@pytest.mark.parametrize("packed", [False, True])
def test_matlab_classes_as_scipy_writes_them(tmp_path, dtype, packed):
    array = (RNG.normal(size=(5, 3, 2)) * 50).astype(dtype)
    array = array + np.array(1j, dtype) * array[::-1] if array.dtype.kind == "c" else array
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, {"a": array, "long_name_of_a_variable": array[0]}, do_compression=packed)
    found = read_array(f"{path}#a")
    np.testing.assert_array_equal(found, scipy.io.loadmat(path)["a"])
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(read_array(f"{path}#long_name_of_a_variable"), array[0])


def matrix(name, array, stored, order="<"):
    """A matrix of doubles by the definition, its numbers stored in another type, in either byte order."""
    codes = {"u1": 2, "i2": 3, "f8": 9}

    def element(kind, data):
        if len(data) <= 4:
            head = struct.pack(order + "HH", *((len(data), kind) if order == ">" else (kind, len(data))))
            return head + data.ljust(4, b"\0")
        return struct.pack(order + "II", kind, len(data)) + data + bytes(-len(data) % 8)

    body = element(6, struct.pack(order + "II", 6, 0))
    body += element(5, struct.pack(f"{order}{array.ndim}i", *array.shape)) + element(1, name.encode())
    body += element(codes[stored], array.astype(np.dtype(stored).newbyteorder(order)).tobytes(order="F"))
    return struct.pack(order + "II", 14, len(body)) + body


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("stored", ["u1", "i2", "f8"])
def test_matlab_numbers_stored_in_fewer_bytes(tmp_path, stored, order):
    array = np.arange(6.0).reshape(2, 3)
    mark = b"\0\1IM" if order == "<" else b"\1\0MI"
    plain = matrix("ab", array, stored, order)
    packed = zlib.compress(plain)
    for body in (plain, struct.pack(order + "II", 15, len(packed)) + packed):
        (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + mark + body)
        found = read_array(tmp_path / "x.mat")
        assert found.dtype == np.float64
        np.testing.assert_array_equal(found, array)


def test_matlab_numbers_that_are_too_few_or_too_many(tmp_path):
    array = np.arange(6.0).reshape(2, 3)
    body = matrix("ab", array, "f8")
    at = body.index(struct.pack("<II", 9, 48))
    for count in (40, 56):
        lie = body[:at] + struct.pack("<II", 9, count) + body[at + 8 :] + bytes(16)
        lie = lie[:4] + struct.pack("<I", len(lie) - 8) + lie[8:]
        (tmp_path / "x.mat").write_bytes(b"MATLAB 5.0 MAT-file".ljust(124) + b"\0\1IM" + lie)
        with pytest.raises(UserError, match=r"x\.mat.*: .*6 numbers are promised"):
            read_array(tmp_path / "x.mat")


def test_matlab_things_that_are_no_numbers(tmp_path):
    path = tmp_path / "x.mat"
    cell = np.empty((2, 2), object)
    cell[:] = [[1, "a"], [2, "b"]]
    scipy.io.savemat(path, {"c": cell, "s": {"field": 1}, "t": "text", "p": scipy.sparse.eye(3).tocsc()})
    for name, kind in {"c": "a cell array", "s": "a structure", "t": "text", "p": "a sparse matrix"}.items():
        with pytest.raises(UserError, match=rf"x\.mat#{name}: holds {kind}; only arrays of numbers are read"):
            read_array(f"{path}#{name}")
    scipy.io.savemat(path, {"a": GREY}, format="4")
    with pytest.raises(UserError, match=r"x\.mat: .*it is no MATLAB file of version 5 or later; save it with -v7"):
        read_array(path)


def test_matlab_7_3(tmp_path):
    """HDF5 behind 512 bytes of text, axes reversed, classes as attributes."""
    path = tmp_path / "x.mat"
    with h5py.File(path, "w", userblock_size=512) as file:
        file.create_dataset("stack", data=STACK).attrs["MATLAB_class"] = b"single"
        file.create_dataset("mask", data=(GREY > 9).T.astype(np.uint8)).attrs["MATLAB_class"] = b"logical"
        empty = file.create_dataset("nothing", data=np.zeros(2, np.uint64))
        empty.attrs["MATLAB_empty"] = 1
    with path.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\0\2IM")
    assert read_array(f"{path}#stack").shape == (7, 9, 4)
    np.testing.assert_array_equal(read_array(f"{path}#stack[3]"), STACK[3].T)
    np.testing.assert_array_equal(read_image(f"{path}#mask")[..., 0], 255 * (GREY > 9))
    with pytest.raises(UserError, match="no array of numbers"):
        read_array(f"{path}#nothing")


# ---- what must not be read -----------------------------------------------------------------------


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_pickled_arrays_are_never_executed(tmp_path):
    objects = np.array([Bomb(tmp_path / "executed")], object)
    np.save(tmp_path / "x.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "x.npz", image=objects)
    (tmp_path / "y.npy").write_bytes(pickle.dumps(Bomb(tmp_path / "executed")))
    for name in ("x.npy", "x.npz"):
        for read in (read_image, read_array, read_header):
            with pytest.raises(UserError, match=rf"{name}.*: holds pickled Python objects; only arrays of numbers"):
                read(tmp_path / name)
    with pytest.raises(UserError, match=r"y\.npy: cannot be read as an image \(it is no NPY"):
        read_array(tmp_path / "y.npy")
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.zeros((4, 4), complex), "complex values; save the amplitude or the phase"),
        (np.array([["a", "b"]]), "only arrays of numbers"),
        (np.zeros((2, 2), [("x", int)]), "only arrays of numbers"),
        (np.zeros(5), "is no image of HW or HWC"),
        (np.zeros((2, 3, 4, 5)), "stack of 2 planes"),
        (np.zeros((4, 4, 2), np.uint8), "stack of 4 planes"),
        (np.zeros((2, 2, 2, 2, 2)), "is no image"),
    ],
    ids=str,
)
def test_arrays_that_are_no_image(tmp_path, array, reason):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(UserError, match=rf"x\.npy: .*{reason}"):
        read_image(tmp_path / "x.npy", view=UNIT)


def test_an_index_into_no_stack(tmp_path):
    np.save(tmp_path / "x.npy", GREY)
    with pytest.raises(UserError, match="is no stack of planes; leave the index out"):
        read_array(tmp_path / "x.npy#0")


def test_npz_members_that_lie(tmp_path):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, GREY)
    path = tmp_path / "x.npz"
    for data, method, reason in (
        (
            stream.getvalue() + bytes(10),
            zipfile.ZIP_DEFLATED,
            r"image \(9x7 uint16\) needs 254 bytes, its member has 264",
        ),
        (stream.getvalue()[:-1], zipfile.ZIP_STORED, "its member has 253"),
        (stream.getvalue(), zipfile.ZIP_BZIP2, "compressed by method 12"),
    ):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("image.npy", data)
        with pytest.raises(UserError, match=rf"x\.npz: .*{reason}"):
            read_array(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("notes.txt", "hello")
    with pytest.raises(UserError, match=r"x\.npz.*no NPY data"):
        read_array(path)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (2, 4, 4)},
        {"chunks": (3, 9, 7), "compression": "gzip"},
        {"chunks": (3, 5, 4), "compression": "gzip", "shuffle": True},
        {"chunks": (1, 2, 2), "shuffle": True, "fletcher32": True},
        {"chunks": True, "compression": "lzf"},
        {"chunks": (8, 16, 16), "maxshape": (None, None, None), "compression": "gzip"},
    ],
    ids=str,
)
@pytest.mark.parametrize("dtype", [">f4", "<i2", "u1"])
def test_chunks_of_hdf5(tmp_path, monkeypatch, options, dtype):
    """Unpacked by the library where that cannot swell, and by us where it could: the same numbers."""
    path, array = tmp_path / "x.h5", (STACK * 50).astype(np.int8).astype(dtype)
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=array, **options)
    for part in ("", "#a[0]", "#a[3]"):
        np.testing.assert_array_equal(read_array(f"{path}{part}"), array[int(part[3])] if part else array)
    if options.get("compression") == "gzip":
        monkeypatch.setattr(budget, "FREE_BYTES", 1 << 14)
        monkeypatch.setattr(budget, "RATIO", 10**6)
        monkeypatch.setattr(hdf5.h5py.Dataset, "__getitem__", lambda *a: pytest.fail("read by the library"))
        for part in ("", "#a[0]", "#a[3]"):
            np.testing.assert_array_equal(read_array(f"{path}{part}"), array[int(part[3])] if part else array)


def test_large_chunks_that_only_the_library_unpacks_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "FREE_BYTES", 1 << 10)
    monkeypatch.setattr(budget, "RATIO", 10**6)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("a", data=RNG.integers(0, 256, (99, 99)), chunks=(99, 99), compression="lzf")
    with pytest.raises(UserError, match="large chunks packed by filters .*save it with gzip alone"):
        read_array(tmp_path / "x.h5")


def test_data_in_other_files_are_not_followed(tmp_path):
    (tmp_path / "secret.bin").write_bytes(bytes(63))
    save(tmp_path / "other.h5", "a", GREY)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("external", (9, 7), "u1", external=str(tmp_path / "secret.bin"))
        file["link"] = h5py.ExternalLink("other.h5", "a")
        layout = h5py.VirtualLayout((9, 7), "u2")
        layout[:] = h5py.VirtualSource(tmp_path / "other.h5", "a", (9, 7))
        file.create_virtual_dataset("virtual", layout)
    for name in ("external", "virtual"):
        with pytest.raises(UserError, match="holds data kept in another file"):
            read_array(tmp_path / f"x.h5#{name}")
    with pytest.raises(UserError, match="there is no such array"):
        read_array(tmp_path / "x.h5#link")


def test_too_many_arrays(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for i in range(1002):
            file[f"a{i}"] = 1.0
    with pytest.raises(UserError, match="holds more than 1000 arrays"):
        read_array(tmp_path / "x.h5")


def test_write_npy(tmp_path):
    for array in (GREY, COLOUR, STACK[0]):
        write_image(tmp_path / "x.npy", array)
        np.testing.assert_array_equal(np.load(tmp_path / "x.npy", allow_pickle=False), array)


def test_real_stacks(shared):
    folder = shared / "data" / "fpm"
    for name, size in {
        "bloodsmear_red.mat": (128, 128, 225),
        "bloodsmear_green.mat#imlow_HDR": (128, 128, 225),
        "hololab_usaf_ring93.h5#images": (93, 1024, 1024),
        "glasgow_usaf32_441.hdf5#section0/ptychogram": (441, 32, 32),
        "glasgow_usaf32_441.hdf5#section0/positions": (441, 2),
    }.items():
        assert read_array(folder / name).shape == size
    theirs = scipy.io.loadmat(folder / "bloodsmear_red.mat")
    np.testing.assert_array_equal(read_array(folder / "bloodsmear_red.mat"), theirs["imlow_HDR"])
    np.testing.assert_array_equal(read_array(folder / "bloodsmear_red.mat#wlength"), theirs["wlength"])
    with h5py.File(folder / "hololab_usaf_ring93.h5") as file:
        np.testing.assert_array_equal(
            read_image(folder / "hololab_usaf_ring93.h5#images[7]")[..., 0], file["images"][7]
        )
