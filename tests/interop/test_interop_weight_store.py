"""The store of pretrained weights: folders, verification, and downloads from a server on this machine."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import os
import pickle
import resource
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest

from medgen_jax.core.errors import UserError
from medgen_jax.interop import download, weight_store
from medgen_jax.interop.packs import digest, read_pack, write_pack
from medgen_jax.interop.weight_store import CATALOGUE, Published

KERNEL = np.arange(8, dtype=np.float32).reshape(1, 1, 2, 4) / 3
ARRAYS = {"Conv_0/kernel": KERNEL, "Conv_0/bias": np.ones(4, np.float32)}
TREE = {"VGG16_0": {"Conv_0": {"kernel": KERNEL, "bias": ARRAYS["Conv_0/bias"]}}}
#: As numpy 1 wrote it, whichever numpy runs here.
CONTENT = pickle.dumps(TREE, 3).replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
HALF = {name: array.astype(np.float16) for name, array in ARRAYS.items()}


class Server(http.server.ThreadingHTTPServer):
    """Answers from ``pages``: path -> (status, headers, body)."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages, self.asked = {}, []
        self.base = f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.asked.append(self.path)
        status, headers, body = self.server.pages.get(self.path, (404, {}, b"gone"))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if body is None:  # silence
            self.server.hold.wait(20)
        else:
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    made = Server()
    made.hold = threading.Event()
    thread = threading.Thread(target=made.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield made
    made.hold.set()
    made.shutdown()
    made.server_close()
    thread.join()


def published(url="https://example.org/tiny.ckpt", **changes):
    fields = dict(
        file="tiny_fp16.npz",
        digest=digest(HALF),
        dtype="<f2",
        url=url,
        member="pkg/tiny.ckpt",
        size=len(CONTENT),
        sha256=hashlib.sha256(CONTENT).hexdigest(),
        convert=CATALOGUE["lpips_vgg16"].convert,
        licence="MIT",
    )
    return Published(**fields | changes)


@pytest.fixture
def tiny(monkeypatch, server):
    """The one entry of a small catalogue, served by this machine."""
    one = published(f"{server.base}/tiny.ckpt")
    monkeypatch.setattr(weight_store, "CATALOGUE", {"tiny": one})
    server.pages["/tiny.ckpt"] = (200, {"Content-Length": str(len(CONTENT))}, CONTENT)
    return one


def assert_download_fails(folder, match, **changes):
    """The download of the small entry fails with one message and leaves nothing behind."""
    weight_store.CATALOGUE["tiny"] = published(**{"url": weight_store.CATALOGUE["tiny"].url} | changes)
    before = sorted(folder.iterdir()) if folder.exists() else []
    with pytest.raises(UserError, match=match) as error:
        weight_store.download("tiny", folder)
    assert "\n" not in str(error.value)
    assert (sorted(folder.iterdir()) if folder.exists() else []) == before


# -- the catalogue -----------------------------------------------------------------------------------


def test_addresses_name_a_commit_over_https_and_digests_are_whole():
    for name, one in CATALOGUE.items():
        host, owner, project, commit = one.url.removeprefix("https://").split("/")[:4]
        assert (one.url[:8], host) == ("https://", "raw.githubusercontent.com"), name
        assert owner and project and len(commit) == 40
        assert one.url.endswith(f"{commit}/{one.member}")
        assert {len(one.sha256), len(one.digest)} == {64}
        assert one.licence


@pytest.mark.parametrize("name", list(CATALOGUE))
def test_the_shared_packs_are_the_published_weights(shared, name):
    path = shared / "weights" / CATALOGUE[name].file
    if not path.is_file():
        pytest.skip(f"needs {path.name} of the shared folder, which is absent")
    arrays = weight_store.load(name, shared / "weights")
    assert {array.dtype.str for array in arrays.values()} == {CATALOGUE[name].dtype}


@pytest.mark.skipif("MEDGEN_ARCHIVES" not in os.environ, reason="needs MEDGEN_ARCHIVES, a folder of source archives")
def test_the_published_archives_become_the_published_weights(tmp_path):
    found = {}
    for archive in Path(os.environ["MEDGEN_ARCHIVES"]).glob("*.tar.gz"):
        found |= weight_store.convert_archive(archive, tmp_path)
    assert set(found) == set(CATALOGUE)
    assert {row.state for row in weight_store.survey(tmp_path)} == {"verified", "packaged"}


def test_the_heads_ship_with_the_package():
    heads = weight_store.heads()
    widths = {"alex": [64, 192, 384, 256, 256], "vgg": [64, 128, 256, 512, 512]}
    for net, expected in widths.items():
        assert [heads[f"{net}_lin{layer}"].shape for layer in range(5)] == [(width,) for width in expected]
    assert all(head.dtype == np.float32 and head.min() >= 0 for head in heads.values())


# -- folders -----------------------------------------------------------------------------------------


def test_the_folder_is_the_argument_then_the_environment_then_the_cache(monkeypatch):
    for name in ("MEDGEN_WEIGHTS", "MEDGEN_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/someone")
    assert weight_store.weights_folder() == Path("/home/someone/.cache/medgen_jax/weights")
    monkeypatch.setenv("MEDGEN_CACHE", "/scratch/cache")
    assert weight_store.weights_folder() == Path("/scratch/cache/weights")
    monkeypatch.setenv("MEDGEN_WEIGHTS", "~/w")
    assert weight_store.weights_folder() == Path("/home/someone/w")
    assert weight_store.weights_folder("~/mine") == Path("/home/someone/mine")


def test_missing_weights_are_one_message_with_the_command_that_gets_them(tmp_path, monkeypatch):
    folder = tmp_path / "my weights"
    with pytest.raises(UserError) as error:
        weight_store.load("inception", folder)
    assert str(error.value) == (
        f"{folder}/inception_fid_2015_fp32.npz: the inception weights are missing; "
        f"get them with: python -m medgen_jax.weights --get inception --weights '{folder}'"
    )
    monkeypatch.setenv("MEDGEN_WEIGHTS", str(folder))
    with pytest.raises(UserError, match="--get lpips_vgg16$"):
        weight_store.find("lpips_vgg16")
    with pytest.raises(UserError, match="weights 'vgg': not in the catalogue; there are inception, lpips_alexnet"):
        weight_store.find("vgg", folder)


def test_one_flipped_bit_is_refused_by_name(tiny, tmp_path):
    path = tmp_path / tiny.file
    write_pack(path, HALF, "<f2")
    assert weight_store.find("tiny", tmp_path) == path
    assert digest(weight_store.load("tiny", tmp_path)) == tiny.digest
    flipped = {name: array.copy() for name, array in HALF.items()}
    flipped["Conv_0/bias"].view(np.uint16)[2] ^= 1
    write_pack(path, flipped, "<f2")  # a sound pack of other values
    with pytest.raises(UserError) as error:
        weight_store.load("tiny", tmp_path)
    assert f"{path}: holds other values than published" in str(error.value)
    assert str(error.value).endswith(f"get it anew with: python -m medgen_jax.weights --get tiny --weights {tmp_path}")
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match=f"{path}: damaged .*; get it anew with: python -m medgen_jax.weights"):
        weight_store.load("tiny", tmp_path)


def test_the_survey_says_how_everything_stands(tiny, tmp_path):
    def states():
        return {row.name: row.state for row in weight_store.survey(tmp_path)}

    assert states() == {"tiny": "missing", "lpips_heads": "packaged"}
    write_pack(tmp_path / tiny.file, ARRAYS)
    assert states()["tiny"] == "damaged"
    write_pack(tmp_path / tiny.file, HALF, "<f2")
    assert states()["tiny"] == "verified"


# -- downloads ---------------------------------------------------------------------------------------


def test_a_download_is_verified_converted_and_leaves_the_pack_alone(tiny, tmp_path, server, capfd):
    path = weight_store.download("tiny", tmp_path / "new" / "folder", progress=True)
    assert path == tmp_path / "new" / "folder" / tiny.file
    assert [p.name for p in path.parent.iterdir()] == [tiny.file]
    np.testing.assert_array_equal(read_pack(path)["Conv_0/kernel"], HALF["Conv_0/kernel"])
    weight_store.load("tiny", path.parent)
    assert "tiny.ckpt" in capfd.readouterr().err


def test_only_what_is_missing_or_damaged_is_downloaded(tiny, tmp_path, server):
    for asked in (1, 1):
        assert weight_store.obtain(["tiny", "tiny"], tmp_path) == {"tiny": tmp_path / tiny.file}
        assert len(server.asked) == asked
    (tmp_path / tiny.file).write_bytes(b"damaged")
    weight_store.obtain(["tiny"], tmp_path)
    assert len(server.asked) == 2
    weight_store.load("tiny", tmp_path)
    with pytest.raises(UserError, match="'tinny': not in the catalogue"):
        weight_store.obtain(["tiny", "tinny"], tmp_path / "other")
    assert len(server.asked) == 2


def test_a_server_without_a_length_is_taken(tiny, tmp_path, server):
    server.pages["/tiny.ckpt"] = (200, {}, CONTENT)
    assert weight_store.download("tiny", tmp_path) == tmp_path / tiny.file
    weight_store.load("tiny", tmp_path)


def test_other_content_of_the_right_size_is_deleted(tiny, tmp_path, server):
    other = CONTENT[:-1] + b"!"
    server.pages["/tiny.ckpt"] = (200, {"Content-Length": str(len(other))}, other)
    assert_download_fails(
        tmp_path, f"is not the published file .sha256 {hashlib.sha256(other).hexdigest()}.* was deleted"
    )


def test_a_failed_download_keeps_the_pack_that_is_there(tiny, tmp_path, server):
    write_pack(tmp_path / tiny.file, HALF, "<f2")
    server.pages.clear()
    assert_download_fails(tmp_path, "404")
    weight_store.load("tiny", tmp_path)


@pytest.mark.parametrize(
    ("headers", "body", "match"),
    [
        ({"Content-Length": str(len(CONTENT))}, CONTENT[:50], "broke off after 50 of|no connection"),
        ({}, CONTENT[:50], f"broke off after 50 of {len(CONTENT)} bytes; run the same command again"),
        ({}, CONTENT + b"x", "more than the"),
        ({"Content-Length": "10000000000"}, b"", f"offers 10000000000 bytes, the published file has {len(CONTENT)}"),
        ({"Content-Length": "5"}, b"<htm>", "offers 5 bytes"),
    ],
)
def test_another_size_is_refused(tiny, tmp_path, server, headers, body, match):
    server.pages["/tiny.ckpt"] = (200, headers, body)
    assert_download_fails(tmp_path, match)


@pytest.mark.parametrize(("status", "reason"), [(404, "Not Found"), (403, "Forbidden"), (503, "Service Unavailable")])
def test_a_refusal_of_the_server_is_said(tiny, tmp_path, server, status, reason):
    server.pages["/tiny.ckpt"] = (status, {}, b"")
    assert_download_fails(tmp_path, f"tiny.ckpt: the server answers {status} {reason}; .*--archive")


def test_redirects_are_followed_on_this_machine_and_never_to_plain_http_elsewhere(tiny, tmp_path, server):
    server.pages["/moved"] = server.pages["/tiny.ckpt"]
    server.pages["/tiny.ckpt"] = (302, {"Location": "/moved"}, b"")
    weight_store.download("tiny", tmp_path)
    for address in ("http://example.org/tiny.ckpt", "ftp://127.0.0.1/tiny.ckpt"):
        server.pages["/tiny.ckpt"] = (302, {"Location": address}, b"")
        assert_download_fails(tmp_path, f"{address}: refused, weights are taken over https only")
    server.pages["/tiny.ckpt"] = (302, {"Location": "file:///etc/passwd"}, b"")
    assert_download_fails(tmp_path, "answers 302 .* 'file:///etc/passwd' is not allowed")
    server.pages["/tiny.ckpt"] = (302, {"Location": "/tiny.ckpt"}, b"")
    assert_download_fails(tmp_path, "answers 302 .* infinite loop")


def test_a_redirect_from_https_to_this_machine_is_refused():
    class Request:
        type = "https"

    with pytest.raises(UserError, match="https only"):
        download._SecureRedirects().redirect_request(Request, None, 302, "Found", {}, "http://127.0.0.1/x")


@pytest.mark.parametrize("url", ["http://example.org/x", "ftp://example.org/x", "file:///etc/passwd", "tiny.ckpt"])
def test_addresses_without_https_are_refused_unasked(tiny, tmp_path, url):
    assert_download_fails(tmp_path, f"{url}: refused, weights are taken over https only", url=url)


def test_no_network_and_no_answer_are_said(tiny, tmp_path, server, monkeypatch):
    server.pages["/tiny.ckpt"] = (200, {}, None)
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
    assert_download_fails(tmp_path, "no connection .timed out.; check network and HTTPS_PROXY, or .* --archive")
    assert_download_fails(tmp_path, "no connection .Connection refused.", url="http://127.0.0.1:1/tiny.ckpt")
    assert_download_fails(tmp_path, "no connection", url="https://host.invalid/tiny.ckpt")


@contextlib.contextmanager
def file_size_limit(size):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_one_line_and_leaves_nothing(tiny, tmp_path):
    with file_size_limit(64):
        assert_download_fails(
            tmp_path, f"{tmp_path}: cannot be written .File too large.; free space or choose another folder"
        )


def test_space_is_looked_at_before_the_server_is_asked(tiny, tmp_path, server):
    assert_download_fails(tmp_path, f"{tmp_path}: [0-9]+ bytes free, {10**18} needed", size=10**18)
    assert server.asked == []


def test_a_folder_that_cannot_be_made_is_said(tiny, tmp_path, server):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file/w: cannot be made .Not a directory.; give another folder by --weights"):
        weight_store.download("tiny", tmp_path / "file" / "w")
    assert server.asked == []


def test_a_conversion_that_changed_writes_nothing(tiny, tmp_path):
    assert_download_fails(tmp_path, "tiny.ckpt: holds other values than published .digest", digest="0" * 64)


# -- archives ----------------------------------------------------------------------------------------


def test_a_local_copy_needs_no_network(tiny, tmp_path, server):
    (tmp_path / "copy").write_bytes(CONTENT)
    with tarfile.open(tmp_path / "pkg.tar.gz", "w:gz") as archive:
        archive.add(tmp_path / "copy", "pkg-1.0/pkg/tiny.ckpt")
    for i, source in enumerate(("copy", "pkg.tar.gz")):
        folder = tmp_path / f"out{i}"
        assert weight_store.convert_archive(tmp_path / source, folder) == {"tiny": folder / tiny.file}
        weight_store.load("tiny", folder)
        assert [p.name for p in folder.iterdir()] == [tiny.file]
    assert server.asked == []


def test_wanted_weights_that_an_archive_lacks_are_named(tiny, tmp_path):
    weight_store.CATALOGUE["other"] = published(file="other.npz", member="pkg/other.ckpt", sha256="0" * 64)
    (tmp_path / "copy").write_bytes(CONTENT)
    assert list(weight_store.convert_archive(tmp_path / "copy", tmp_path)) == ["tiny"]
    with pytest.raises(UserError, match="copy: does not hold other; leave it out of --get"):
        weight_store.convert_archive(tmp_path / "copy", tmp_path / "none", ["tiny", "other"])
    with pytest.raises(UserError, match="'tinny': not in the catalogue"):
        weight_store.convert_archive(tmp_path / "copy", tmp_path / "none", ["tinny"])
    assert not (tmp_path / "none").exists()
