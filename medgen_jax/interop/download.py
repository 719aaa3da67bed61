"""One file from the network: over https, with a known size and sha256, whole or not at all. No jax, no NumPy."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from tqdm import tqdm

from medgen_jax.core.errors import UserError

#: Seconds of silence after which a server counts as gone.
TIMEOUT = 30.0
_CHUNK = 2**20
_LOCAL = ("localhost", "127.0.0.1", "::1")


def fetch(url: str, target: Path, size: int, sha256: str, progress: bool | None = None) -> None:
    """Download a file whose size and sha256 are known.

    Args:
      url: https; http is taken from this machine alone.
      target: file to write, replaced when the download has been verified; its folder exists.
      size: bytes; not one more is written.
      sha256: of the content.
      progress: whether to draw a bar on stderr; None draws it on a terminal.

    Raises:
      UserError: no https, no network, refused, another size or content, or no space. Nothing is left behind.
    """
    _require_secure(url)
    _require_space(target, size)
    scratch = target.with_name(f"{target.name}.{os.getpid()}.part")
    try:
        received, found = _store(url, scratch, size, progress)
        if received != size:
            raise UserError(f"{url}: broke off after {received} of {size} bytes; run the same command again")
        if found != sha256:
            raise UserError(
                f"{url}: is not the published file (sha256 {found}, expected {sha256}); what came was deleted. "
                "Try another network: a proxy may answer in the server's place"
            )
        os.replace(scratch, target)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{target.parent}: cannot be written ({reason}); free space or choose another folder") from None
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink()


def _store(url: str, scratch: Path, size: int, progress: bool | None) -> tuple[int, str]:
    """Bytes written and their sha256."""
    received, total = 0, hashlib.sha256()
    bar = tqdm(
        total=size, unit="B", unit_scale=True, desc=urlsplit(url).path.rpartition("/")[2], disable=_hidden(progress)
    )
    with bar, scratch.open("wb") as file:
        for chunk in _chunks(url, size):
            file.write(chunk)
            total.update(chunk)
            received += len(chunk)
            bar.update(len(chunk))
        file.flush()
        os.fsync(file.fileno())
    return received, total.hexdigest()


def _hidden(progress: bool | None) -> bool | None:
    return None if progress is None else not progress


def _chunks(url: str, size: int) -> Iterator[bytes]:
    """The body in pieces; every fault of the network becomes a UserError, so that OSErrors left are the disk's."""
    elsewhere = "or get the file elsewhere and give it to --archive"
    try:
        with urllib.request.build_opener(_SecureRedirects).open(url, timeout=TIMEOUT) as response:
            announced = response.headers.get("Content-Length")
            if announced is not None and announced != str(size):
                raise UserError(f"{url}: the server offers {announced} bytes, the published file has {size}; try later")
            left = size + 1
            while left > 0 and (chunk := response.read(min(_CHUNK, left))):
                left -= len(chunk)
                if left == 0:
                    raise UserError(f"{url}: sends more than the {size} bytes of the published file; try later")
                yield chunk
    except urllib.error.HTTPError as error:
        answer = f"{error.code} {error.reason}".splitlines()[0]
        raise UserError(f"{url}: the server answers {answer}; try later, {elsewhere}") from None
    except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
        reason = getattr(error, "reason", None) or error
        text = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise UserError(f"{url}: no connection ({text}); check network and HTTPS_PROXY, {elsewhere}") from None


class _SecureRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects, but never from https to anything else."""

    def redirect_request(
        self, req: urllib.request.Request, fp: Any, code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        _require_secure(newurl, local=req.type != "https")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_secure(url: str, local: bool = True) -> None:
    parts = urlsplit(url)
    if parts.scheme != "https" and not (local and parts.scheme == "http" and parts.hostname in _LOCAL):
        raise UserError(f"{url}: refused, weights are taken over https only; check network and proxy")


def _require_space(target: Path, size: int) -> None:
    try:
        free = shutil.disk_usage(target.parent).free
    except OSError as error:
        raise UserError(f"{target.parent}: cannot be used ({error.strerror}); choose another folder") from None
    if free < size:
        raise UserError(f"{target.parent}: {free} bytes free, {size} needed; free space or choose another folder")
