"""An OCI image layout: a directory with ``oci-layout``, ``index.json`` and blobs named by their hash.

What is written is a function of what is put in: no time, no order of directories. A blob appears whole or not at all,
so an interrupted process leaves a layout that can be gone on with. Several processes or threads may put blobs into one
layout at once; ``index.json`` has one writer.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import files
from pipeline.core.errors import InputError, VerificationError
from pipeline.oci.model import (
    OCI_INDEX,
    Descriptor,
    canonical,
    digest_of,
    digest_of_file,
    is_digest,
    links,
    matches,
    parse_manifest,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from pipeline.oci.model import Platform

VERSION = {"imageLayoutVersion": "1.0.0"}
CHUNK = 1024**2
LINK_REFUSED = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP, errno.ENOSYS)
_NOT_A_LAYOUT = "name a directory with oci-layout, index.json and blobs, as skopeo copy ... oci:DIRECTORY makes it"
_FETCH_AGAIN = "copy or fetch it again: what is still right is not fetched twice"


class Layout:
    """An OCI image layout on disk; see :meth:`create` and :meth:`open`.

    Attributes:
        path: its directory.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path) -> Layout:
        """Make an empty layout, or open the one that is there.

        Raises:
            StorageError: it cannot be written.
            InputError: there is something else.
        """
        layout = cls(path)
        with files.storage(path):
            (path / "blobs" / "sha256").mkdir(parents=True, exist_ok=True)
        if not (path / "oci-layout").exists():
            files.write(path / "oci-layout", canonical(VERSION))
        if not (path / "index.json").exists():
            layout.set_index([])
        return cls.open(path)

    @classmethod
    def open(cls, path: Path) -> Layout:
        """Open a layout, whoever made it.

        Raises:
            InputError: there is none.
        """
        try:
            version = parse_manifest((path / "oci-layout").read_bytes()).get("imageLayoutVersion")
        except OSError as error:
            raise InputError(f"{path} is not an OCI layout: {error.strerror}", hint=_NOT_A_LAYOUT) from error
        if not isinstance(version, str) or not version.startswith("1."):
            raise InputError(f"{path} is an OCI layout of version {version!r}, not 1", hint=_NOT_A_LAYOUT)
        return cls(path)

    # --- blobs

    def blob_path(self, digest: str) -> Path:
        """Return where a blob is, or would be.

        Raises:
            InputError: that is no digest.
        """
        if not is_digest(digest):
            raise InputError(f"{digest!r} is not a sha256 or sha512 digest", hint="write sha256:<64 hex digits>")
        algorithm, _, hexadecimal = digest.partition(":")
        return self.path / "blobs" / algorithm / hexadecimal

    def has(self, descriptor: Descriptor) -> bool:
        """Return whether a blob is there and is what its digest says; its content is read."""
        path = self.blob_path(descriptor.digest)
        try:
            is_whole = path.stat().st_size == descriptor.size
            return is_whole and digest_of_file(path, descriptor.digest.partition(":")[0]) == descriptor.digest
        except FileNotFoundError:
            return False

    def read(self, digest: str) -> bytes:
        """Return a blob's content, checked; for manifests and configurations, as it is held in memory.

        Raises:
            VerificationError: it is missing or damaged.
        """
        try:
            data = self.blob_path(digest).read_bytes()
        except OSError as error:
            raise VerificationError(f"{self.path}: {digest}: {error.strerror}", hint=_FETCH_AGAIN) from error
        if not matches(data, digest):
            raise VerificationError(f"{self.path}: {digest}: its content has another hash", hint=_FETCH_AGAIN)
        return data

    def put_blob(self, data: bytes, media_type: str) -> Descriptor:
        """Put bytes into the layout.

        Raises:
            StorageError: they cannot be written.
        """
        descriptor = Descriptor(media_type, digest_of(data), len(data))
        self.put_bytes(descriptor.digest, data)
        return descriptor

    def put_file(self, path: Path, media_type: str) -> Descriptor:
        """Put a file into the layout: as another name for it where that is possible, else copied.

        Args:
            path: the file; it must not be written to afterwards, only replaced.
            media_type: what it is.

        Raises:
            InputError: it cannot be read.
            StorageError: it cannot be written.
        """
        try:
            size, digest = path.stat().st_size, digest_of_file(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}", hint="check the path") from error
        target = self.blob_path(digest)
        with files.appearing(target) as temporary, files.storage(target):
            try:
                os.link(path.resolve(), temporary)
            except OSError as error:
                if error.errno not in LINK_REFUSED:
                    raise
                copied = _copy(path, temporary)
                if copied != digest:
                    raise InputError(f"{path}: changed while it was copied", hint="wait until it is written") from error
        return Descriptor(media_type, digest, size)

    def put_manifest(
        self,
        manifest: Mapping[str, Any] | bytes,
        media_type: str,
        platform: Platform | None = None,
        annotations: Mapping[str, str] | None = None,
    ) -> Descriptor:
        """Put a manifest into the layout.

        Args:
            manifest: an object, written as canonical JSON; or bytes, which stay as they are.
            media_type: what it is.
            platform: for its descriptor.
            annotations: for its descriptor.

        Raises:
            StorageError: it cannot be written.
        """
        data = manifest if isinstance(manifest, bytes) else canonical(manifest)
        descriptor = Descriptor(media_type, digest_of(data), len(data), platform, dict(annotations or {}))
        self.put_bytes(descriptor.digest, data)
        return descriptor

    def put_bytes(self, digest: str, data: bytes) -> None:
        """Put bytes into the layout under a digest that was given to them elsewhere.

        Raises:
            VerificationError: they are not what it stands for.
            StorageError: they cannot be written.
        """
        target = self.blob_path(digest)
        if not matches(data, digest):
            raise VerificationError(f"{digest}: its content has another hash", hint=_FETCH_AGAIN)
        with files.storage(target):
            target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.stat().st_size != len(data) or target.read_bytes() != data:
            files.write(target, data)

    # --- index.json

    def index(self) -> tuple[Descriptor, ...]:
        """Return what ``index.json`` lists.

        Raises:
            InputError: it is missing or is no index.
        """
        try:
            data = (self.path / "index.json").read_bytes()
        except OSError as error:
            raise InputError(f"{self.path}: index.json: {error.strerror}", hint=_NOT_A_LAYOUT) from error
        return links(data, OCI_INDEX).manifests

    def set_index(self, descriptors: Iterable[Descriptor]) -> None:
        """Write ``index.json``, in the given order.

        Raises:
            StorageError: it cannot be written.
        """
        listed = [descriptor.to_json() for descriptor in descriptors]
        value = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": listed}
        files.write(self.path / "index.json", canonical(value))

    # --- all of it

    def walk(self, root: Descriptor) -> Iterator[tuple[Descriptor, bytes | None]]:
        """Yield everything that can be reached, each once, children before the manifest that lists them.

        Args:
            root: a manifest of this layout.

        Yields:
            A descriptor, and the bytes of a manifest or None for a blob. Blobs are not read, nor looked for.

        Raises:
            VerificationError: a manifest is missing or damaged.
        """
        yield from self._walk(root, set())

    def _walk(self, root: Descriptor, seen: set[str]) -> Iterator[tuple[Descriptor, bytes | None]]:
        if root.digest in seen:
            return
        seen.add(root.digest)
        data = self.read(root.digest)
        found = links(data, root.media_type)
        for child in found.manifests:
            yield from self._walk(child, seen)
        for blob in found.blobs:
            if blob.digest not in seen:
                seen.add(blob.digest)
                yield blob, None
        yield root, data

    def verify(self) -> tuple[Descriptor, ...]:
        """Read everything that ``index.json`` leads to and check size and hash.

        Returns:
            What there is. Layers that may not be passed on need not be there, and are not listed.

        Raises:
            VerificationError: something is missing or damaged; all of it is named.
        """
        found: list[Descriptor] = []
        problems: list[str] = []
        seen: set[str] = set()
        for root in self.index():
            try:
                for descriptor, data in self._walk(root, seen):
                    if data is not None and len(data) != descriptor.size:
                        problems.append(f"{descriptor.digest}: {len(data)} bytes instead of {descriptor.size}")
                    elif data is None and not descriptor.is_foreign and not self.has(descriptor):
                        is_there = self.blob_path(descriptor.digest).exists()
                        problems.append(f"{descriptor.digest}: {'damaged' if is_there else 'missing'}")
                    elif not descriptor.is_foreign or self.has(descriptor):
                        found.append(descriptor)
            except VerificationError as error:
                problems.append(error.message.replace(f"{self.path}: ", "", 1))
        if problems:
            raise VerificationError(f"{self.path} is not whole:\n  " + "\n  ".join(problems), hint=_FETCH_AGAIN)
        return tuple(found)


def _copy(source: Path, target: Path) -> str:
    """Copy a file and return the digest of what was written."""
    hasher = hashlib.sha256()
    with source.open("rb") as reader, target.open("xb") as writer:
        for chunk in iter(lambda: reader.read(CHUNK), b""):
            hasher.update(chunk)
            writer.write(chunk)
    shutil.copymode(source, target)
    return f"sha256:{hasher.hexdigest()}"
