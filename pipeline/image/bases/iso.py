"""A root tree from a vendor's DVD, read where it lies: nothing is mounted and nothing is copied but what is installed.

dnf fetches from a server on loopback that reads straight out of the ISO. It is shown as the proxy of a host that does
not exist: so the addresses, and with them dnf's cache, are the same whatever port it has. Sources: ECMA-119, the
Rock Ridge and Joliet extensions by way of pycdlib; layouts of media: os-facts.
"""

from __future__ import annotations

import collections
import configparser
import contextlib
import hashlib
import http.server
import os
import re
import struct
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from pipeline.core import progress
from pipeline.core.errors import InputError
from pipeline.image.bases import indexes, probe, rpm, rpmdb
from pipeline.image.bases.medium import Medium, Request, check_identity, wrong_arch
from pipeline.image.bases.repositories import INDEX, KEY_FILES, SPLIT, Repository

if TYPE_CHECKING:
    from pycdlib.dr import DirectoryRecord

SECTOR = 2048
DESCRIPTORS = 16 * SECTOR  # where the volume descriptors begin
HOST = "medium.invalid"  # a name that never is one (RFC 2606)
CHUNK = 1 << 18
NEUTRAL = {"noarch", "src", "nosrc", "i386", "i486", "i586", "i686"}  # architectures that tell nothing of a medium's


@dataclass(frozen=True)
class Extent:
    """Where a file is on a medium, in bytes."""

    offset: int
    length: int


class Iso:
    """An ISO, open for reading; ``with Iso(path) as iso: ...``.

    Args:
        path: the file.

    Attributes:
        path: the file.
        volume: its name.
        directories: those of its directories that are package repositories; the root is the empty one.

    Raises:
        InputError: it is none, is cut short, or holds no packages.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_size(path)
        self.volume, self._has_names, self._files = _read(path)
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.directories = self._find_repositories()

    def __enter__(self) -> Iso:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def find(self, path: str) -> Extent | None:
        """Return where a file is; None if there is none of this name."""
        return self._files.get(path if self._has_names else _bare(path))

    def read(self, path: str) -> bytes | None:
        """Return what a small file holds; None if there is none of this name."""
        extent = self.find(path)
        return b"".join(self.pieces(extent)) if extent else None

    def pieces(self, extent: Extent) -> Iterator[bytes]:
        """Yield what is there, in pieces."""
        offset, left = extent.offset, extent.length
        while left > 0:
            piece = os.pread(self._descriptor, min(CHUNK, left), offset)
            if not piece:
                raise InputError(f"{self.path} ends too early", hint="fetch it again")
            yield piece
            offset, left = offset + len(piece), left - len(piece)

    def digest(self) -> str:
        """Return the sha256 of its name and of its indexes, which vouch for everything that is read of it."""
        total = hashlib.sha256(self.volume.encode())
        for directory in self.directories:
            total.update(f"\0{directory}\0".encode() + (self.read(_below(directory, INDEX)) or b""))
        return total.hexdigest()

    def title(self) -> str:
        """Return what it calls itself."""
        parser = configparser.ConfigParser(interpolation=None, strict=False)
        with contextlib.suppress(configparser.Error):
            parser.read_string((self.read(".treeinfo") or b"").decode("utf-8", "replace"))
        for section, name in (("release", "name"), ("general", "family")):
            if parser.has_option(section, name):
                return f"{parser.get(section, name)} {parser.get(section, 'version', fallback='')}".strip()
        lines = (self.read(".discinfo") or b"").decode("utf-8", "replace").splitlines()
        return lines[1] if len(lines) > 1 else self.volume

    def keys(self, workspace: Path) -> tuple[Path, ...]:
        """Copy the key files that lie at its root or beside its repositories into a workspace."""
        found: list[Path] = []
        for path in self._files:
            directory, _, name = path.rpartition("/")
            if directory in {"", *self.directories} and re.match(KEY_FILES.replace("*", ".*"), name, re.IGNORECASE):
                target = workspace / f"medium-{len(found)}-{name}"
                target.write_bytes(self.read(path) or b"")
                found.append(target)
        return tuple(found)

    @contextlib.contextmanager
    def served(self) -> Iterator[str]:
        """Serve its repositories on loopback; yields the URL to use as a proxy."""
        iso = self

        class Handler(_Handler):
            source = iso

        with _Server(("127.0.0.1", 0), Handler) as server:
            thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
            thread.start()
            try:
                yield f"http://127.0.0.1:{server.server_port}"
            finally:
                server.shutdown()
                thread.join()

    def _find_repositories(self) -> tuple[str, ...]:
        if self.find(INDEX):
            return ("",)
        if all(self.find(_below(name, INDEX)) for name in SPLIT):
            return SPLIT
        ends = f"/{INDEX}"
        found = sorted(path.removesuffix(ends) for path in self._files if path.endswith(ends) and path.count("/") == 2)
        if found:
            return tuple(found)
        raise InputError(
            f"{self.path} ({self.volume}) holds no package repository: there is no {INDEX} in it, "
            f"nor in {' and '.join(SPLIT)}",
            hint="use the vendor's full DVD; a boot or network-installation ISO holds no packages",
        )

    def is_served(self, path: str) -> bool:
        """Whether a path is part of one of its repositories."""
        directory = next((name for name in self.directories if path.startswith(_below(name, ""))), None)
        return directory is not None and (path.endswith(".rpm") or path.startswith(_below(directory, "repodata/")))


def _below(directory: str, path: str) -> str:
    return f"{directory}/{path}" if directory else path


def _bare(path: str) -> str:
    """Return a path as ISO 9660 without extensions may have it."""
    return re.sub(r"[^a-z0-9/]", "_", path.lower())


def _check_size(path: Path) -> None:
    """Compare the size of the volume with that of the file (ECMA-119 §8.4.8)."""
    with path.open("rb") as stream:
        stream.seek(DESCRIPTORS)
        primary = stream.read(SECTOR)
    if len(primary) < SECTOR or primary[:6] != b"\x01CD001":
        raise InputError(f"{path} is not an ISO 9660 image", hint="--base iso takes a vendor's DVD as a .iso file")
    blocks, (block,) = struct.unpack("<I", primary[80:84])[0], struct.unpack("<H", primary[128:130])
    if (needed := blocks * block) > (size := path.stat().st_size):
        raise InputError(
            f"{path} is cut short: its volume has {needed} bytes, the file only {size}", hint="fetch it again"
        )


def _read(path: Path) -> tuple[str, bool, dict[str, Extent]]:
    """Return name, whether names are whole, and every file of an ISO."""
    import pycdlib  # here, as nearly every command imports this module
    from pycdlib.pycdlibexception import PyCdlibException

    iso = pycdlib.PyCdlib()
    try:
        iso.open(str(path))
        is_joliet = iso.has_joliet() and not iso.has_rock_ridge()
        volume = iso.joliet_vd if is_joliet and iso.joliet_vd is not None else iso.pvd
        block = iso.pvd.logical_block_size()
        has_names = is_joliet or iso.has_rock_ridge()
        files: dict[str, Extent] = {}
        for name, record in _walk(volume.root_directory_record(), "", is_joliet):
            files[name if has_names else _bare(name)] = Extent(record.extent_location() * block, record.data_length)
        title = iso.pvd.volume_identifier.decode("ascii", "replace").strip()
        iso.close()
    except (PyCdlibException, struct.error, LookupError, UnicodeError, OverflowError) as error:
        raise InputError(f"{path} cannot be read as an ISO: {error}", hint="it is damaged: fetch it again") from error
    return title, has_names, files


def _walk(directory: DirectoryRecord, path: str, is_joliet: bool) -> Iterator[tuple[str, DirectoryRecord]]:
    for record in directory.children:
        if record.is_dot() or record.is_dotdot():
            continue
        if record.rock_ridge is not None and not is_joliet:
            name = record.rock_ridge.name().decode("utf-8", "surrogateescape")
        else:
            encoding = "utf-16-be" if is_joliet else "ascii"
            name = re.sub(r"\.?;\d+$", "", record.file_identifier().decode(encoding))
        if record.is_dir():
            yield from _walk(record, f"{path}{name}/", is_joliet)
        elif not record.is_symlink():
            yield f"{path}{name}", record


class _Handler(http.server.BaseHTTPRequestHandler):
    """Answers for the repositories of a medium, and for nothing else of it."""

    protocol_version = "HTTP/1.1"
    source: Iso

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path).lstrip("/")
        extent = self.source.find(path) if self.source.is_served(path) else None
        if extent is None:
            self.send_error(404)
            return
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(match[1]), min(int(match[2] or extent.length), extent.length - 1)
            if first > last:
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {first}-{last}/{extent.length}")
            extent = Extent(extent.offset + first, last - first + 1)
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(extent.length))
        self.end_headers()
        if with_body:
            for piece in self.source.pieces(extent):
                self.wfile.write(piece)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  the base class calls it so
        progress.log(f"medium: {format % args}")


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # a client that has seen enough; what it lacks it says itself


def repositories(iso: Iso, proxy: str, digest: str, keys: Sequence[Path] = ()) -> tuple[Repository, ...]:
    """Return the repositories of a served ISO.

    Args:
        iso: the ISO.
        proxy: where it is served.
        digest: of the medium; part of the address, so that two media never share a cache.
        keys: its key files.
    """
    return tuple(
        Repository(
            id=f"medium-{name}" if name else "medium",  # a mirror may have one of the same name
            url=f"http://{digest[:16]}.{HOST}/{name}".rstrip("/"),
            keys=tuple(keys),
            proxy=proxy,
        )
        for name in iso.directories
    )


def digest(path: Path) -> str:
    """Return the digest of an ISO (see :meth:`Iso.digest`)."""
    with Iso(path) as iso:
        return iso.digest()


@contextlib.contextmanager
def opened(medium: Medium, request: Request, workspace: Path) -> Iterator[tuple[Repository, ...]]:
    """Open a medium, check that it holds what was asked for, and serve it.

    Args:
        medium: an ISO.
        request: what is asked of it.
        workspace: directory for intermediate files.

    Yields:
        Its repositories, which answer until the context ends.

    Raises:
        InputError: it is of another architecture or release, damaged, or holds no packages.
    """
    with Iso(medium.path) as iso, iso.served() as proxy:
        found = repositories(iso, proxy, medium.digest, iso.keys(workspace))
        packages = [
            (package, fetch)
            for fetch in (indexes.fetcher(item, workspace) for item in found)
            for package in indexes.packages(fetch)
        ]
        _check_arch(medium.path, request, [package for package, _ in packages])
        release = _release_package(iso, request, packages, workspace)
        product = (iso.read(".productinfo") or b"").decode("utf-8", "replace").strip()
        check_identity(request, medium.path, probe.os_release(release), product or probe.product(release))
        yield found


def _check_arch(path: Path, request: Request, packages: Sequence[indexes.Indexed]) -> None:
    known = collections.Counter(item.arch for item in packages if item.arch not in NEUTRAL)
    if known and (most := known.most_common(1)[0][0]) != request.arch.rpm:
        raise wrong_arch(path, most, request.arch)


def _release_package(
    iso: Iso, request: Request, packages: Sequence[tuple[indexes.Indexed, indexes.Fetch]], workspace: Path
) -> Path:
    """Unpack the medium's release package; returns the root of what it brings."""
    wanted = request.base.release_package
    releases = [pair for pair in packages if pair[0].name == wanted]
    if not releases:
        others = sorted({item.name for item, _ in packages if item.name.endswith("-release")})
        raise InputError(
            f"{iso.path} is {iso.title()}, not {request.name}: it has no package {wanted}"
            f"{', but ' + ', '.join(others[:5]) if others else ''}",
            hint="choose the medium of that operating system, or another one with --os",
        )
    newest, fetch = max(releases, key=lambda pair: pair[0].built)
    return rpmdb.unpacked([fetch(newest.path)], workspace / "release", workspace)


def make(medium: Medium, request: Request, target: Path, *, workspace: Path, package_cache: Path) -> None:
    """Make a tree from an ISO; see :func:`pipeline.image.bases.rpm.make`."""
    with opened(medium, request, workspace) as found:
        rpm.make(
            request.base, request.arch, request.packages, [*found, *request.repositories], target,
            workspace=workspace, package_cache=package_cache,
        )  # fmt: skip
