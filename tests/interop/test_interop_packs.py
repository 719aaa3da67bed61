"""Weight packs: byte planes by hand, digests, and files that are not what they should be."""

from __future__ import annotations

import hashlib
import json
import zipfile

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.interop.packs import digest, read_npz, read_pack, write_pack

ARRAYS = {
    "b/kernel": np.arange(12, dtype=np.float32).reshape(1, 3, 2, 2) / 7,
    "a.bias": np.array([-1.5, 0.25], np.float32),
    "scalar": np.float32(3.0),
    "none": np.zeros((0, 4), np.float32),
}


@pytest.fixture
def pack(tmp_path):
    write_pack(tmp_path / "w.npz", ARRAYS)
    return tmp_path / "w.npz"


def members(path):
    with np.load(path, allow_pickle=False) as file:
        return dict(file)


def meta(**changes):
    content = {"dtype": "<f4", "index": [["a", [2], 0]]} | changes
    return np.frombuffer(json.dumps(content).encode(), np.uint8)


def handmade(path, **changes):
    """A pack of the numbers 1 and -2, byte by byte: 1 is 00 00 80 3f, -2 is 00 00 00 c0."""
    rows = ([0, 0], [0, 0], [0x80, 0x00], [0x3F, 0xC0])
    content = {"meta": meta()} | {f"plane{k}": np.array(row, np.uint8) for k, row in enumerate(rows)}
    content |= changes
    np.savez(path, **{name: array for name, array in content.items() if array is not None})
    return path


def test_a_pack_made_by_hand_reads(tmp_path):
    arrays = read_pack(handmade(tmp_path / "w.npz"))
    assert list(arrays) == ["a"]
    assert arrays["a"].dtype == np.float32
    np.testing.assert_array_equal(arrays["a"], [1.0, -2.0])


def test_what_is_written_comes_back(pack):
    arrays = read_pack(pack)
    assert list(arrays) == sorted(ARRAYS)
    for name, array in ARRAYS.items():
        assert arrays[name].shape == np.shape(array)
        np.testing.assert_array_equal(arrays[name], array)
    stored = members(pack)
    flat = np.concatenate([np.ravel(ARRAYS[name]) for name in sorted(ARRAYS)]).astype("<f4")
    for k in range(4):
        np.testing.assert_array_equal(stored[f"plane{k}"], flat.view(np.uint8)[k::4])


def test_half_precision_rounds_to_nearest(tmp_path):
    values = np.array([1 + 2**-11, 1 + 3 * 2**-11, -0.1], np.float32)  # the first two lie midway
    write_pack(tmp_path / "h.npz", {"x": values}, "<f2")
    read = read_pack(tmp_path / "h.npz")["x"]
    assert read.dtype == np.float16
    np.testing.assert_array_equal(read, np.array([1.0, 1 + 2**-9, -0.0999755859375], np.float16))


def test_the_same_arrays_make_the_same_bytes_in_any_order(pack, tmp_path):
    write_pack(tmp_path / "deep" / "again.npz", dict(reversed(ARRAYS.items())))
    assert (tmp_path / "deep" / "again.npz").read_bytes() == pack.read_bytes()
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["again.npz"]


def test_big_endian_and_strided_arrays_are_written_alike(tmp_path):
    plain = np.arange(6, dtype=np.float32).reshape(2, 3)
    write_pack(tmp_path / "a.npz", {"x": np.asfortranarray(plain).astype(">f4")})
    np.testing.assert_array_equal(read_pack(tmp_path / "a.npz")["x"], plain)


@pytest.mark.parametrize(
    ("arrays", "dtype", "words"),
    [
        ({"x": np.array([7e4])}, "<f2", ["x holds values that are not finite in <f2", "<f4"]),
        ({"x": np.array([np.nan])}, "<f4", ["x holds values that are not finite"]),
        ({"x": np.ones(2)}, "<f8", ["'<f8'", "<f2, <f4"]),
        ({}, "<f4", ["no arrays"]),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, arrays, dtype, words):
    with pytest.raises(UserError) as error:
        write_pack(tmp_path / "w.npz", arrays, dtype)
    assert all(word in str(error.value) for word in [str(tmp_path / "w.npz"), *words])
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written .*choose another folder"):
        write_pack(tmp_path / "file" / "w.npz", ARRAYS)


def test_the_digest_by_hand():
    content = b'["a", "<f4", [2]]' + np.array([1, 2], "<f4").tobytes() + b'["b", "<f2", []]' + b"\x00\x3c"
    found = digest({"b": np.float16(1.0), "a": np.array([1, 2], np.float32)})
    assert found == hashlib.sha256(content).hexdigest()


def test_the_digest_sees_content_alone():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    first = digest({"x": x, "y": x})
    assert digest({"y": np.asfortranarray(x), "x": x.astype(">f4")}) == first
    flipped = x.copy()
    flipped.view(np.uint32)[1, 2] ^= 1
    others = ({"x": flipped, "y": x}, {"x": x.T, "y": x}, {"z": x, "y": x}, {"x": x.astype(np.float64), "y": x})
    assert len({first, *map(digest, others)}) == 5


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"meta": None}, "no weight pack"),
        ({"meta": np.frombuffer(b"{", np.uint8)}, "meta cannot be read"),
        ({"meta": np.frombuffer(b"[" * 9000, np.uint8)}, "meta cannot be read"),
        ({"meta": meta(index=7)}, "meta cannot be read"),
        ({"meta": meta(index=[["a", 2, 0]])}, "meta cannot be read"),
        ({"meta": meta(dtype="|O")}, "dtype"),
        ({"meta": meta(dtype="<f2")}, "needs meta, plane0, plane1"),
        ({"meta": meta(index=[["a", [1], 0]])}, "1 of 2 elements"),
        ({"meta": meta(index=[["a", [3], 0]])}, "wrong at a"),
        ({"meta": meta(index=[["a", [-2], 0]])}, "wrong at a"),
        ({"meta": meta(index=[["a", [2.0], 0]])}, "wrong at a"),
        ({"meta": meta(index=[["a", [2], 1]])}, "wrong at a"),
        ({"meta": meta(index=[["a", [1], 0], ["a", [1], 1]])}, "wrong at a"),
        ({"plane3": None}, "plane3"),
        ({"extra": np.zeros(2, np.uint8)}, "extra"),
        ({"plane3": np.zeros(3, np.uint8)}, "one length"),
        ({"plane3": np.zeros(2, np.int8)}, "one length"),
        ({"plane3": np.array([None, {}], object)}, "Python objects, which are never loaded"),
    ],
)
def test_a_damaged_pack_is_named(tmp_path, changes, word):
    path = handmade(tmp_path / "w.npz", **changes)
    with pytest.raises(UserError) as error:
        read_pack(path, remedy="fetch it")
    message = str(error.value)
    assert message.startswith(f"{path}: ") and message.endswith("; fetch it") and word in message


def test_every_truncation_and_flip_of_a_stored_byte_is_noticed(pack):
    whole = pack.read_bytes()
    for length in range(0, len(whole), 97):
        pack.write_bytes(whole[:length])
        with pytest.raises(UserError, match="damaged or not an .npz"):
            read_pack(pack)
    start = whole.index(b"plane3.npy") + 40  # inside the compressed bytes of a member
    pack.write_bytes(whole[:start] + bytes([whole[start] ^ 16]) + whole[start + 1 :])
    with pytest.raises(UserError, match=str(pack)):
        read_pack(pack)


@pytest.mark.parametrize("content", [b"", b"PK", b"\x93NUMPY", b"version https://git-lfs.github.com/spec/v1\n"])
def test_other_files_are_refused(tmp_path, content):
    (tmp_path / "w.npz").write_bytes(content)
    with pytest.raises(UserError, match="damaged or not an .npz"):
        read_pack(tmp_path / "w.npz")


def test_a_missing_file_and_a_folder_are_named(tmp_path):
    with pytest.raises(UserError, match="none.npz: no such file"):
        read_pack(tmp_path / "none.npz")
    with pytest.raises(UserError, match="no such file"):
        read_pack(tmp_path)


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path):
    path = tmp_path / "w.npz"
    np.savez_compressed(path, meta=meta(), plane0=np.zeros(2**22, np.uint8))
    assert path.stat().st_size < 2**14
    with pytest.raises(UserError, match="more than the 1048576 allowed"):
        read_pack(path, budget=2**20)


def test_an_array_that_claims_more_than_its_member_is_refused(tmp_path):
    path = tmp_path / "w.npz"
    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (1099511627776,), }".ljust(117) + "\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("meta.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + b"ab")
    with pytest.raises(UserError, match="says 1099511627776 bytes and has 2"):
        read_pack(path)


def test_a_member_that_unpacks_to_more_than_listed_is_refused(pack):
    content = bytearray(pack.read_bytes())
    entry = content.rindex(b"plane0.npy") - 46  # its line in the central directory
    listed = int.from_bytes(content[entry + 24 : entry + 28], "little")
    content[entry + 24 : entry + 28] = (listed - 1).to_bytes(4, "little")
    pack.write_bytes(content)
    with pytest.raises(UserError, match="plane0.npy"):
        read_pack(pack)


def test_plain_arrays_read_with_the_same_care(tmp_path):
    np.savez(tmp_path / "n.npz", head=np.asfortranarray(ARRAYS["b/kernel"]))
    np.testing.assert_array_equal(read_npz(tmp_path / "n.npz")["head"], ARRAYS["b/kernel"])
    np.savez(tmp_path / "o.npz", head=np.array([print]))
    with pytest.raises(UserError, match="never loaded"):
        read_npz(tmp_path / "o.npz")


@pytest.mark.parametrize(
    ("name", "count", "sizes"),
    [
        ("lpips_alexnet_fp32", 10, 2469696),
        ("lpips_vgg16_fp16", 26, 14714688),
        ("inception_fid_2015_fp32", 376, 21802784),
    ],
)
def test_the_shared_packs_read_and_are_what_write_pack_writes(shared, tmp_path, name, count, sizes):
    path = shared / "weights" / f"{name}.npz"
    if not path.is_file():
        pytest.skip(f"needs the weight pack {name}.npz of the shared folder, which is absent")
    arrays = read_pack(path)
    assert (len(arrays), sum(a.size for a in arrays.values())) == (count, sizes)
    if name == "lpips_alexnet_fp32":
        assert arrays["Conv_0/kernel"].shape == (11, 11, 3, 64)
        write_pack(tmp_path / "again.npz", arrays)
        assert digest(read_pack(tmp_path / "again.npz")) == digest(arrays)
