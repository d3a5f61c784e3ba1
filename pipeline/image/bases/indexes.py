"""What the index of a repository says, read without dnf: packages, their files, where they are.

Source: the format of createrepo_c (``repomd.xml``, ``primary.xml``, ``filelists.xml``).
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import http.client
import lzma
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from xml.etree import ElementTree

from pipeline.core import download, process
from pipeline.core.errors import NetworkError
from pipeline.image import tree
from pipeline.image.bases.repositories import INDEX, Repository

Fetch = Callable[[str], Path]  # from a path in the repository to a file on this machine
KEY_DIRECTORY = "/etc/pki/rpm-gpg/"
CHUNK = 1 << 20


@dataclass(frozen=True)
class Indexed:
    """A package in an index.

    Attributes:
        name: its name.
        arch: its architecture, which may be ``noarch``.
        version: epoch, version and release, as rpm writes them.
        built: when, in seconds since 1970.
        path: where it is in the repository.
        files: those of its files that the primary index names: programs and what is below ``/etc``.
    """

    name: str
    arch: str
    version: str
    built: int
    path: str
    files: tuple[str, ...]


def fetcher(repository: Repository, workspace: Path) -> Fetch:
    """Return what fetches files of a repository into a workspace, each once."""

    def fetch(path: str) -> Path:
        # The path is the index's word: it decides no place on this machine.
        place = hashlib.sha256(f"{repository.url} {path}".encode()).hexdigest()[:16]
        target = workspace / "indexes" / f"{place}-{path.rpartition('/')[2]}"
        if not target.exists():
            url = f"{repository.url}/{path}"
            target.parent.mkdir(parents=True, exist_ok=True)
            _fetch_from(repository.proxy, url, target) if repository.proxy else download.fetch(url, target)
        return target

    return fetch


def _fetch_from(proxy: str, url: str, target: Path) -> None:
    """Fetch from a server of our own, whatever this machine's settings for proxies are."""
    parts = urlsplit(proxy)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=60)
    try:
        connection.request("GET", url)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise NetworkError(f"the medium has no {urlsplit(url).path}", hint="it is damaged, or not complete")
        with target.open("wb") as stream:
            while chunk := answer.read(CHUNK):
                stream.write(chunk)
    finally:
        connection.close()


def packages(fetch: Fetch) -> Iterator[Indexed]:
    """Yield the packages of a repository.

    Raises:
        NetworkError: the index cannot be read.
    """
    for element in _elements(fetch, "primary", "package"):
        version = element.find("{*}version")
        location, time = element.find("{*}location"), element.find("{*}time")
        files = tuple(file.text or "" for file in element.iterfind("{*}format/{*}file"))
        if version is not None and location is not None:
            yield Indexed(
                name=element.findtext("{*}name") or "",
                arch=element.findtext("{*}arch") or "",
                version=_evr(version),
                built=int(time.get("build") or 0) if time is not None else 0,
                path=location.get("href") or "",
                files=files,
            )


def files(fetch: Fetch, wanted: Callable[[str], bool]) -> Iterator[str]:
    """Yield the files of those packages whose names are wanted."""
    for element in _elements(fetch, "filelists", "package"):
        if wanted(element.get("name") or ""):
            yield from (file.text or "" for file in element.iterfind("{*}file"))


def _evr(version: ElementTree.Element) -> str:
    epoch = version.get("epoch") or "0"
    text = f"{version.get('ver')}-{version.get('rel')}"
    return text if epoch == "0" else f"{epoch}:{text}"


def _elements(fetch: Fetch, kind: str, tag: str) -> Iterator[ElementTree.Element]:
    try:
        with _opened(_located(fetch, kind)) as stream:
            for _, element in ElementTree.iterparse(stream):  # noqa: S314  expat bounds entities, and fetches none
                if element.tag.rpartition("}")[2] == tag:
                    yield element
                    element.clear()
    except (ElementTree.ParseError, EOFError, OSError, ValueError, lzma.LZMAError, zlib.error) as error:
        raise NetworkError(
            f"the index {kind!r} of the repository cannot be read: {error}",
            hint="the medium or the mirror is damaged: fetch it again",
        ) from error


def _located(fetch: Fetch, kind: str) -> Path:
    """Fetch one of the files that ``repomd.xml`` names, and check it."""
    root = ElementTree.parse(fetch(INDEX)).getroot()  # noqa: S314  as above
    data = next((item for item in root.iterfind("{*}data") if item.get("type") == kind), None)
    location = data.find("{*}location") if data is not None else None
    if data is None or location is None:
        raise ValueError(f"{INDEX} does not name it")
    file = fetch(location.get("href") or "")
    checksum = data.find("{*}checksum")
    if checksum is not None and checksum.get("type") == "sha256" and checksum.text != tree.file_sha256(file):
        raise ValueError("its checksum is wrong")
    return file


@contextmanager
def _opened(file: Path) -> Iterator[IO[bytes]]:
    with file.open("rb") as stream:
        magic = stream.read(6)
    if magic.startswith(b"\x28\xb5\x2f\xfd"):
        file = unpacked(file, file.parent)
    opener: Callable[[Path], IO[bytes]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}.get(
        magic[:2], lambda path: path.open("rb")
    )  # type: ignore[assignment]
    with opener(file) as stream:
        yield stream


def unpacked(file: Path, scratch: Path) -> Path:
    """Decompress what zstd compressed, which Python learns in version 3.14 only; returns the file, in ``scratch``."""
    target = scratch / f"{file.name}.plain"
    if not target.exists():
        process.run(["zstd", "--decompress", "--quiet", "-o", target, file], what="decompressing")
    return target
