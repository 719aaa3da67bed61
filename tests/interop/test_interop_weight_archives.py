"""Published weight files: read without executing anything, refused when they ask for more than arrays."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import pickle
import tarfile
import zipfile

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.interop import inert_pickles, weight_archives
from medgen_jax.interop.inert_pickles import read_array_tree, read_torchscript
from medgen_jax.interop.packs import read_pack
from medgen_jax.interop.weight_archives import backbone_arrays, inception_arrays, inception_modules, read_members

# -- a pickle assembler: each function returns the opcodes that push one value -----------------------


def name(module, attribute):
    return f"c{module}\n{attribute}\n".encode()


def text(value):
    return b"X" + len(value).to_bytes(4, "little") + value.encode()


def number(value):
    return b"J" + value.to_bytes(4, "little", signed=True)


def row(*items):
    return b"(" + b"".join(items) + b"t"


def call(function, *arguments):
    return function + row(*arguments) + b"R"


def module(**attributes):
    """An object of a TorchScript class, as torch.jit.save writes it."""
    pairs = b"".join(text(key) + value for key, value in attributes.items())
    return name("__torch__.any.net", "Net") + b")\x81}(" + pairs + b"ub"


FLOATS = name("torch", "FloatStorage")


def storage(key, count, kind=FLOATS):
    return row(text("storage"), kind, text(key), text("cpu"), number(count)) + b"Q"


def tensor(key, shape, strides, offset=0, count=None):
    count = int(np.prod(shape)) if count is None else count
    hooks = call(name("collections", "OrderedDict"))
    window = (number(offset), row(*map(number, shape)), row(*map(number, strides)), b"\x89", hooks)
    return call(name("torch._utils", "_rebuild_tensor_v2"), storage(key, count), *window)


def program(body):
    return b"\x80\x02" + body + b"."


def torchscript(root, storages=None, folder="archive"):
    """A TorchScript archive: the pickle of its root module, and the bytes of its storages."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(f"{folder}/data.pkl", program(root))
        archive.writestr(f"{folder}/constants.pkl", program(b")"))
        for key, content in (storages or {}).items():
            archive.writestr(f"{folder}/data/{key}", np.asarray(content, "<f4").tobytes())
    return out.getvalue()


def flax_pickle(tree):
    """As numpy 1 wrote arrays in protocol 3, whichever numpy runs here."""
    return pickle.dumps(tree, 3).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


def tar_gz(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for member, content in members.items():
            info = tarfile.TarInfo(member)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def sha(content):
    return hashlib.sha256(content).hexdigest()


# -- TorchScript -------------------------------------------------------------------------------------


def test_tensors_of_a_torchscript_archive_come_out_by_attribute_path():
    root = module(
        training=b"\x88",
        net=module(
            conv=module(weight=tensor("0", (2, 3), (3, 1)), stride=number(2)),
            bias=tensor("shared", (2,), (1,), offset=1, count=4),
            padding=call(name("torch.jit._pickle", "build_intlist"), b"](" + number(0) + number(3) + b"e"),
        ),
        scalar=tensor("shared", (), (), offset=3, count=4),
    )
    content = torchscript(root, {"0": [0, 1, 2, 3, 4, 5], "shared": [9, 8, 7, 6]})
    arrays = read_torchscript(content, "net.pt")
    assert list(arrays) == ["net.conv.weight", "net.bias", "scalar"]
    np.testing.assert_array_equal(arrays["net.conv.weight"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(arrays["net.bias"], [8, 7])
    assert (arrays["scalar"].shape, float(arrays["scalar"])) == ((), 6.0)


@pytest.mark.parametrize(
    ("root", "storages", "word"),
    [
        (module(w=tensor("0", (2, 2), (1, 2))), {"0": range(4)}, "w is not contiguous"),
        (module(w=tensor("0", (2,), (1,))), {"0": range(3)}, "w does not fit"),
        (module(w=tensor("0", (2,), (1,), offset=3, count=4)), {"0": range(4)}, "w does not fit"),
        (module(w=tensor("0", (-1,), (1,), count=1)), {"0": range(1)}, "w has a shape that cannot be"),
        (module(w=tensor("0", (1,), (1,), offset=-1)), {"0": range(1)}, "w has a shape that cannot be"),
        (module(w=tensor("0", (2,), (1,))), {}, "lacks its member archive/data/0"),
        (module(w=tensor("../../etc/passwd", (2,), (1,))), {}, "lacks its member archive/data/../../etc/passwd"),
        (module(w=storage("0", 1, name("torch", "LongStorage"))), {}, "torch.LongStorage"),
        (module(w=storage("0", 1, text("float"))), {}, "no float32 storage"),
        (module(w=text("elsewhere") + b"Q"), {}, "no float32 storage"),
        (module(w=call(name("torch._utils", "_rebuild_tensor_v2"), *[number(1)] * 4)), {}, "no storage"),
        (b"}" + b"(" + text("a") + module() + b"u", {}, "holds no module"),
        (module(w=b"}(" + number(1) + number(2) + b"u"), {}, "names that are no text"),
        (module(a=module() + b"q\x01", b=b"h\x01"), {}, "the same branch"),
        (b"0", {}, "pickle is damaged"),
        (b"]r\xff\xff\xff\xff", {}, "4294967295 places in memory"),
    ],
)
def test_odd_torchscript_archives_are_refused(root, storages, word):
    with pytest.raises(UserError) as error:
        read_torchscript(torchscript(root, storages), "some.pt")
    assert str(error.value).startswith("some.pt: ") and word in str(error.value)


def test_other_zips_and_damage_are_refused(monkeypatch):
    whole = torchscript(module(w=tensor("0", (64,), (1,))), {"0": range(64)})
    for content in (b"", b"no zip", whole[:200], whole.replace(b"\x01\x00\x00\x00", b"\x02\x00\x00\x00", 1)):
        with pytest.raises(UserError, match="some.pt: damaged or no TorchScript archive"):
            read_torchscript(content, "some.pt")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("weights.json", "{}")
    with pytest.raises(UserError, match="no TorchScript archive"):
        read_torchscript(out.getvalue(), "some.pt")
    monkeypatch.setattr(inert_pickles, "BUDGET", 100)
    with pytest.raises(UserError, match="more than the 100 bytes"):
        read_torchscript(whole, "some.pt")


# -- trees of NumPy arrays ---------------------------------------------------------------------------


def test_arrays_of_a_flax_pickle_come_out_by_path():
    kernel = np.arange(6, dtype=np.float32).reshape(2, 3)
    tree = {"Net_0": {"Conv_0": {"kernel": kernel, "bias": np.asfortranarray(kernel)}}, "half": np.float16([0.5, 2])}
    arrays = read_array_tree(flax_pickle(tree), "a.ckpt")
    assert list(arrays) == ["Net_0/Conv_0/kernel", "Net_0/Conv_0/bias", "half"]
    np.testing.assert_array_equal(arrays["Net_0/Conv_0/kernel"], kernel)
    np.testing.assert_array_equal(arrays["Net_0/Conv_0/bias"], kernel)
    assert arrays["half"].dtype == np.float16


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (flax_pickle({"a": np.arange(3)}), "array a is no plain little-endian float array"),
        (flax_pickle({"a": np.ones(2, ">f4")}), "array a is no plain"),
        (flax_pickle({"a": np.array([None])}), "array a is no plain"),
        (flax_pickle({"a": np.ones(4, np.float32)}).replace(b"K\x04\x85", b"K\x05\x85"), "array a is no plain"),
        (flax_pickle([1, 2]), "no dictionary"),
        (flax_pickle({"a": np.ones(4, np.float32)})[:-9], "pickle is damaged"),
        (b"", "pickle is damaged"),
        (b"\x1f\x8b\x08", "pickle is damaged"),
        (pickle.dumps({"a": np.float32(1)}, 2).replace(b"numpy._core", b"numpy.core"), "numpy.core.multiarray.scalar"),
        (program(text("0") + b"Q"), "no float32 storage"),
        (program(name("__torch__.any", "Net") + b")\x81"), "__torch__.any.Net"),
    ],
)
def test_odd_flax_pickles_are_refused(content, word):
    with pytest.raises(UserError) as error:
        read_array_tree(content, "a.ckpt")
    assert str(error.value).startswith("a.ckpt: ") and word in str(error.value)


# -- hostile pickles ---------------------------------------------------------------------------------


class Reduced:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.reduced = function, arguments

    def __reduce__(self):
        return self.reduced


def hostile(flag):
    """Programs that create the file ``flag`` when they are executed, and what each asks for first."""
    source = f"open({str(flag)!r}, 'w').close()"
    shell = f"touch {flag}"
    dumped = {
        "posix.system": pickle.dumps(Reduced(os.system, shell), 2),
        "builtins.exec": pickle.dumps(Reduced(exec, source), 4),  # names from the stack
        "builtins.eval": pickle.dumps({"Net_0": {"Conv_0": Reduced(eval, source)}}, 5),
    }
    return dumped | {
        "os.mkdir": program(b"(" + text(str(flag)) + b"ios\nmkdir\n"),  # INST
        "os.makedirs": program(b"(" + name("os", "makedirs") + text(str(flag)) + b"o"),  # OBJ
        "numpy.load": program(call(name("numpy", "load"), text(str(flag)))),
        "numpy.core.multiarray.fromfile": program(call(name("numpy.core.multiarray", "fromfile"), text(str(flag)))),
        "collections.OrderedDict.fromkeys": program(
            b"\x80\x04" + text("collections") + text("OrderedDict.fromkeys") + b"\x93)R"
        ),
        "torch._utils.__builtins__": program(name("torch._utils", "__builtins__")),
        "torch.hub.load": program(call(name("torch.hub", "load"), text("repo"))),
    }


ASKED = list(hostile("flag"))


@pytest.mark.parametrize("asked", ASKED)
def test_a_hostile_pickle_is_refused_by_the_name_it_asks_for_and_runs_nothing(asked, tmp_path):
    flag = tmp_path / "executed"
    content = hostile(flag)[asked]
    with pytest.raises(UserError, match=f"refused, because it asks for {asked}, which is never executed"):
        read_array_tree(content, "a.ckpt")
    with pytest.raises(UserError, match=f"refused, because it asks for {asked}, which is never executed"):
        read_torchscript(torchscript(content[:-1]), "a.pt")
    assert not flag.exists()


def test_the_hostile_pickles_are_real(tmp_path):
    for i, asked in enumerate(("posix.system", "builtins.exec", "builtins.eval", "os.mkdir", "os.makedirs")):
        flag = tmp_path / f"executed{i}"
        pickle.loads(hostile(flag)[asked])
        assert flag.exists(), asked


@pytest.mark.parametrize(
    "target",
    [name("torch._utils", "_rebuild_tensor_v2"), name("torch", "FloatStorage"), name("__torch__.any", "Net")],
)
def test_a_pickle_cannot_alter_what_stands_in_for_its_names(target):
    state = b"N}(" + text("altered") + number(1) + b"u\x86"  # the form that sets attributes one by one
    with pytest.raises(UserError, match="damaged|alters"):
        read_torchscript(torchscript(target + state + b"b"), "a.pt")
    stand_ins = [*inert_pickles._TORCHSCRIPT.values(), inert_pickles._Module]
    assert not any(hasattr(stand_in, "altered") for stand_in in stand_ins)


def test_a_registered_extension_code_is_no_way_in(tmp_path):
    import copyreg

    copyreg.add_extension("posix", "system", 0x7D)
    try:
        content = program(call(b"\x82\x7d", text(f"touch {tmp_path / 'executed'}")))
        with pytest.raises(UserError, match="posix.system"):
            read_array_tree(content, "a.ckpt")
    finally:
        copyreg.remove_extension("posix", "system", 0x7D)
    assert not (tmp_path / "executed").exists()


# -- archives ----------------------------------------------------------------------------------------

WANTED = {"pkg/weights/a.bin": sha(b"weights a"), "pkg/b.bin": sha(b"weights b")}


def test_members_of_a_source_archive_are_found_below_its_top_folder(tmp_path):
    members = {"proj-1.0/pkg/weights/a.bin": b"weights a", "proj-1.0/README": b"", "proj-1.0/pkg/b.bin": b"weights b"}
    path = tar_gz(tmp_path / "proj.tar.gz", members)
    assert read_members(path, WANTED) == {"pkg/weights/a.bin": b"weights a", "pkg/b.bin": b"weights b"}
    assert read_members(str(path), {"pkg/b.bin": WANTED["pkg/b.bin"]}) == {"pkg/b.bin": b"weights b"}
    some = tar_gz(tmp_path / "some", {"proj-1.0/pkg/b.bin": b"weights b"})
    assert read_members(some, WANTED) == {"pkg/b.bin": b"weights b"}


def test_a_bare_file_is_recognised_by_its_content(tmp_path):
    (tmp_path / "renamed").write_bytes(b"weights b")
    assert read_members(tmp_path / "renamed", WANTED) == {"pkg/b.bin": b"weights b"}


def test_other_archives_are_refused_by_name(tmp_path):
    with pytest.raises(UserError, match="none: cannot be read .No such file"):
        read_members(tmp_path / "none", WANTED)
    with pytest.raises(UserError, match="cannot be read .Is a directory"):
        read_members(tmp_path, WANTED)
    (tmp_path / "other").write_bytes(b"weights c")
    with pytest.raises(
        UserError, match=f"no published file .sha256 {sha(b'weights c')}.* pkg/weights/a.bin or pkg/b.bin"
    ):
        read_members(tmp_path / "other", WANTED)
    changed = tar_gz(tmp_path / "changed", {"proj/pkg/b.bin": b"weights B"})
    with pytest.raises(UserError, match="its pkg/b.bin is not the published file"):
        read_members(changed, WANTED)
    empty = tar_gz(tmp_path / "empty", {"proj/README": b"weights b"})
    with pytest.raises(UserError, match="holds no pkg/weights/a.bin and no pkg/b.bin"):
        read_members(empty, WANTED)


def test_paths_and_links_lead_nowhere(tmp_path):
    secret = tmp_path / "b.bin"
    secret.write_bytes(b"weights b")
    path = tmp_path / "links.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            info = tarfile.TarInfo("proj/pkg/b.bin")
            info.type, info.linkname = kind, str(secret)
            archive.addfile(info)
        for member in ("/pkg/../pkg/b.bin", "../pkg/b.bin.sh", "pkg/b.bin"):
            archive.addfile(tarfile.TarInfo(member))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(UserError, match="holds no"):
        read_members(path, WANTED)
    assert sorted(tmp_path.iterdir()) == before


def test_damaged_archives_are_refused(tmp_path):
    noise = np.random.default_rng(0).bytes(60000)
    path = tar_gz(tmp_path / "a.tar.gz", {"proj/noise": noise, "proj/pkg/b.bin": b"weights b"})
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:5], whole[:100] + b"?" * 200 + whole[300:], gzip.compress(noise)):
        path.write_bytes(content)
        with pytest.raises(UserError, match="damaged or no .tar.gz"):
            read_members(path, WANTED)


@pytest.mark.parametrize("kind", ["member", "header"])
def test_an_archive_bomb_stops_at_the_budget(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(weight_archives, "BUDGET", 2**20)
    path = tmp_path / "bomb.tar.gz"
    info = tarfile.TarInfo("proj/pkg/b.bin")
    info.size = 2**23
    if kind == "header":  # tarfile itself reads such a member into memory
        info.type = tarfile.GNUTYPE_LONGNAME
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(info, io.BytesIO(bytes(2**23)))
    assert path.stat().st_size < 2**15
    with pytest.raises(UserError, match="unpacks to more than 1048576 bytes"):
        read_members(path, WANTED)


# -- names -------------------------------------------------------------------------------------------


def test_every_inception_module_has_one_name_of_its_own():
    modules = inception_modules()
    assert (len(modules), len(set(modules.values()))) == (94, 94)
    assert modules["net.layers.conv_4"] == "Conv2d_4a_3x3"
    assert modules["net.layers.mixed.tower.conv_1"] == "Mixed_5b.branch5x5_2"
    assert modules["net.layers.mixed_7.tower_1.conv_4"] == "Mixed_6e.branch7x7dbl_5"
    assert modules["net.layers.mixed_10.tower_1_mixed_conv_1"] == "Mixed_7c.branch3x3dbl_3b"


def inception_file(without=None, extra=False):
    """An archive with the published file's names, whose k-th tensor holds the number k."""
    leaves = [f"{scope}.{leaf}" for scope in inception_modules() for leaf in ("weight", "beta", "mean", "var")]
    tree = {}
    for k, path in enumerate(leaves):
        *scopes, leaf = path.split(".")
        node = tree
        for scope in scopes:
            node = node.setdefault(scope, {})
        if path != without:
            node[leaf] = tensor(str(k), (1,), (1,))
    if extra:
        tree["net"]["fc"] = tensor("0", (1,), (1,))

    def built(node):
        return module(**{key: built(v) if isinstance(v, dict) else v for key, v in node.items()})

    return leaves, torchscript(built(tree), {str(k): [k] for k in range(len(leaves))})


def test_inception_tensors_get_the_names_of_the_pack():
    leaves, content = inception_file()
    arrays = inception_arrays(content, "i.pt")
    assert len(arrays) == 376
    for ours, theirs in {
        "Conv2d_1a_3x3.conv.weight": "net.layers.conv.weight",
        "Mixed_6a.branch3x3.bn.bias": "net.layers.mixed_3.conv.beta",
        "Mixed_6b.branch_pool.bn.running_mean": "net.layers.mixed_4.tower_2.conv.mean",
        "Mixed_7a.branch7x7x3_4.bn.running_var": "net.layers.mixed_8.tower_1.conv_3.var",
    }.items():
        assert arrays[ours] == [leaves.index(theirs)]


def test_inception_files_with_other_tensors_are_refused():
    with pytest.raises(UserError, match="i.pt: lacks net.layers.mixed_9.conv.var"):
        inception_arrays(inception_file(without="net.layers.mixed_9.conv.var")[1], "i.pt")
    with pytest.raises(UserError, match="i.pt: has unknown net.fc"):
        inception_arrays(inception_file(extra=True)[1], "i.pt")


def test_backbones_come_without_their_heads():
    ones = np.ones((1, 1, 2, 2), np.float32)
    tree = {
        "VGG16_0": {"Conv_12": {"kernel": ones, "bias": ones[0, 0, 0]}},
        "NetLinLayer_0": {"Conv_0": {"kernel": ones}},
    }
    assert list(backbone_arrays(flax_pickle(tree), "v.ckpt")) == ["Conv_12/kernel", "Conv_12/bias"]
    with pytest.raises(UserError, match="v.ckpt: holds no AlexNet_0 and no VGG16_0"):
        backbone_arrays(flax_pickle({"NetLinLayer_0": {"Conv_0": {"kernel": ones}}}), "v.ckpt")


def test_the_names_are_those_of_the_shared_pack(shared):
    path = shared / "weights" / "inception_fid_2015_fp32.npz"
    if not path.is_file():
        pytest.skip("needs the Inception pack of the shared folder, which is absent")
    arrays = read_pack(path)
    stems = {name.removesuffix(".conv.weight") for name in arrays if name.endswith(".conv.weight")}
    assert stems == set(inception_modules().values())
