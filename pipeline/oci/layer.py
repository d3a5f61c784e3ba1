"""Layers: a tar of files that is the same, byte for byte, whenever and wherever it is made from the same input."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import re
import stat
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING

from pipeline.core import files
from pipeline.core.errors import InputError
from pipeline.oci.model import OCI_LAYER, Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

LEVEL = 6
DIRECTORY_MODE = 0o755
WHITEOUT = ".wh."  # a file of such a name removes another one from the layers below
CHUNK = 1024**2


@dataclass(frozen=True)
class LayerEntry:
    """A file or directory of a layer.

    Attributes:
        path: relative to the image's root.
        source: a file to read, or content; None for a directory.
        mode: permissions.
    """

    path: str
    source: Path | bytes | None
    mode: int = 0o644


@dataclass(frozen=True)
class LayerInfo:
    """A layer that was written.

    Attributes:
        diff_id: digest of the tar, for the image's configuration.
        digest: digest of the compressed file.
        size: bytes of the compressed file.
        media_type: what it is.
    """

    diff_id: str
    digest: str
    size: int
    media_type: str = OCI_LAYER

    @property
    def descriptor(self) -> Descriptor:
        """For the image's manifest."""
        return Descriptor(self.media_type, self.digest, self.size)


def write_layer(
    entries: Iterable[LayerEntry], target: Path, *, mtime: int = 0, level: int = LEVEL, media_type: str = OCI_LAYER
) -> LayerInfo:
    """Write a gzip-compressed layer.

    Its entries are sorted, belong to 0:0 without names, and are files and directories only; directories above them
    are added. The same zlib makes the same bytes; the tar, and so ``diff_id``, is the same everywhere.

    Args:
        entries: what it holds, in any order.
        target: the file to write; it appears whole or not at all.
        mtime: time of everything in it, in seconds since 1970.
        level: how hard gzip tries, 1 to 9.
        media_type: what to call it.

    Raises:
        InputError: a path leads outside, is there twice or is a whiteout; a source cannot be read or is no file.
        StorageError: the layer cannot be written.
    """
    listed = _arranged(entries)
    with files.appearing(target) as temporary, files.storage(target), temporary.open("xb") as file:
        outer = _Hashing(file)
        # The header has no name and no time.
        with gzip.GzipFile("", "wb", compresslevel=level, fileobj=outer, mtime=0) as packed:
            inner = _Hashing(packed)
            with tarfile.open(fileobj=inner, mode="w", format=tarfile.GNU_FORMAT, bufsize=CHUNK) as archive:
                for entry in listed:
                    _add(archive, entry, mtime)
    return LayerInfo(inner.digest, outer.digest, outer.size, media_type)


class _Hashing(io.RawIOBase):
    """Passes on what is written, and hashes it."""

    def __init__(self, file: IO[bytes] | gzip.GzipFile) -> None:
        self.size = 0
        self._file = file
        self._hash = hashlib.sha256()

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.size

    def write(self, data: bytes | memoryview) -> int:  # type: ignore[override]  # no buffer but these
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)
        return len(data)


def _arranged(entries: Iterable[LayerEntry]) -> list[LayerEntry]:
    """Return entries and the directories above them, parents first, sorted."""
    found: dict[PurePosixPath, LayerEntry] = {}
    for entry in entries:
        path = _checked(entry.path)
        if path in found:
            raise InputError(f"{entry.path!r} is twice in a layer", hint="name every file once")
        found[path] = LayerEntry(str(path), entry.source, entry.mode)
    for path in list(found):
        for parent in path.parents[:-1]:
            above = found.setdefault(parent, LayerEntry(str(parent), None, DIRECTORY_MODE))
            if above.source is not None:
                raise InputError(f"{str(path)!r} lies below {above.path!r}, which is a file", hint="rename one of them")
    return [found[path] for path in sorted(found, key=lambda path: path.parts)]


def _checked(text: str) -> PurePosixPath:
    parts = re.sub(r"/$", "", text).split("/")
    if "\0" in text or {"", ".", ".."} & set(parts):
        raise InputError(
            f"{text!r} is not a path inside an image", hint="write it relative to the root, without . or .."
        )
    if any(part.startswith(WHITEOUT) for part in parts):
        raise InputError(
            f"{text!r} would remove a file from the layers below", hint=f"no name may begin with {WHITEOUT}"
        )
    return PurePosixPath(text)


def _add(archive: tarfile.TarFile, entry: LayerEntry, mtime: int) -> None:
    info = tarfile.TarInfo(entry.path)
    info.mode, info.mtime = stat.S_IMODE(entry.mode), mtime
    if entry.source is None:
        info.type = tarfile.DIRTYPE
        archive.addfile(info)
        return
    with _opened(entry.source) as (file, size):
        info.size = size
        archive.addfile(info, file)


@contextlib.contextmanager
def _opened(source: Path | bytes) -> Iterator[tuple[IO[bytes], int]]:
    if isinstance(source, bytes):
        yield io.BytesIO(source), len(source)
        return
    try:
        file = source.open("rb")
    except OSError as error:
        raise InputError(f"{source}: cannot be read: {error.strerror}", hint="check the path") from error
    with file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{source}: is not a file", hint="a layer takes files and directories only")
        yield file, status.st_size
