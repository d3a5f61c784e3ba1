"""A bundle, opened: what it is, and every blob of it, wherever and however it is stored."""

from __future__ import annotations

import hashlib
import threading
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.bundle import signature, tar
from pipeline.bundle.model import LEAN, BlobSource, Bundle
from pipeline.bundle.volumes import HEADERS, Volumes, read_head
from pipeline.core.errors import VerificationError
from pipeline.oci import Descriptor, links, matches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from typing import Self

    from pipeline.bundle.lean import LeanStore

_AGAIN = "copy the bundle again from where it was packed; 'verify' says which of its files are right"


class Archive(BlobSource):
    """A bundle, opened; see :meth:`open`. Threads may share it; a context manager.

    Attributes:
        bundle: what ``bundle.json`` says.
        path: the directory of its volumes.
        volumes: its volumes.
        head: the files of its head, by path.
        is_signed: whether its signature was checked.
    """

    def __init__(self, volumes: Volumes, head: Mapping[str, bytes], bundle: Bundle, *, is_signed: bool) -> None:
        self.volumes, self.head, self.bundle, self.is_signed = volumes, head, bundle, is_signed
        self.path = volumes.directory
        self.id = bundle.id
        self._sizes = {blob.digest: blob.size for blob in bundle.blobs}
        self._lean_digests = frozenset(blob.digest for blob in bundle.blobs if blob.stored == LEAN)
        self._left_out = frozenset(digest for image in bundle.images for digest in image.left_out)
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, int]] | None = None
        self._store: LeanStore | None = None
        self._base: BlobSource | None = None
        self._scratch: Path | None = None

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        base: BlobSource | None = None,
        key: Path | None = None,
        scratch: Path | None = None,
    ) -> Archive:
        """Open a bundle; only its head is read.

        Args:
            path: the directory with its volumes, or one of them.
            base: where a patch finds layers that it was made against.
            key: public key that it must be signed with.
            scratch: directory for temporary files; the system's if not given.

        Raises:
            InputError: there is no bundle, or it is of a version that is not known.
            VerificationError: its head was altered, or is not signed with that key.
        """
        volumes = Volumes.find(path)
        head = read_head(volumes)
        data = head[tar.MANIFEST]
        if key is not None:
            if tar.SIGNATURE not in head:
                raise VerificationError(f"{volumes.head}: the bundle is not signed", hint="ask for a signed one")
            signature.check(data, head[tar.SIGNATURE], key)
        bundle = Bundle.from_bytes(data)
        _check_head(volumes, head, bundle)
        volumes.expect(bundle.volumes)
        archive = cls(volumes, head, bundle, is_signed=key is not None)
        archive._base, archive._scratch = base, scratch
        return archive

    @property
    def base(self) -> BlobSource | None:
        """Where a patch finds layers that it was made against; None if it was not given."""
        return self._base

    def based_on(self, base: BlobSource) -> Archive:
        """Return the same bundle with another base, as an archive of its own."""
        other = Archive(self.volumes, self.head, self.bundle, is_signed=self.is_signed)
        other._base, other._scratch, other._places = base, self._scratch, self._places
        return other

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Remove temporary files."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None

    # --- what is there

    def has(self, digest: str) -> bool:
        """Return whether a blob is carried."""
        return digest in self._sizes

    def size(self, digest: str) -> int:
        """Return a carried blob's bytes.

        Raises:
            VerificationError: it is not carried.
        """
        self._check_carried(digest)
        return self._sizes[digest]

    @property
    def members(self) -> Mapping[str, tuple[int, int]]:
        """Offset and size in bytes of everything in the volumes, by path.

        Raises:
            VerificationError: volumes are missing, or hold what no bundle has.
        """
        with self._lock:
            if self._places is None:
                problems = self.volumes.problems()
                if problems:
                    text = "\n  ".join(problems)
                    raise VerificationError(f"{self.path}: the bundle is not whole:\n  {text}", hint=_AGAIN)
                with self.volumes.open_range(0, self.volumes.size, ahead=HEADERS) as file:
                    self._places = tar.members(file, str(self.path))
            return self._places

    @property
    def lean(self) -> LeanStore | None:
        """What restores lean layers; None in a plain bundle."""
        if self.bundle.lean is None:
            return None
        members = self.members
        with self._lock:
            if self._store is None:
                from pipeline.bundle.codec import Codec
                from pipeline.bundle.lean import LeanStore

                names = [name for name in members if name.startswith((tar.RECIPES, tar.FRAMES))]
                self._store = LeanStore(self.open_member, names, Codec.find(), self._base, self._scratch)
            return self._store

    def open_member(self, path: str) -> IO[bytes]:
        """Open a member of the tar.

        Raises:
            VerificationError: there is none.
        """
        if path not in self.members:
            raise VerificationError(f"{self.path}: the bundle has no {path}", hint=_AGAIN)
        offset, size = self.members[path]
        return self.volumes.open_range(offset, size)

    def can_restore(self, digest: str) -> bool:
        """Return whether everything is at hand that a lean layer is made from."""
        assert self.lean is not None
        return self._base is not None or not self.lean.recipe(digest).sources

    # --- blobs

    def open_blob(self, digest: str, offset: int = 0) -> IO[bytes]:
        """Open a carried blob as registries have it; its hash is not checked.

        Raises:
            VerificationError: it is not carried, or cannot be restored.
        """
        self._check_carried(digest)
        if digest in self._lean_digests:
            assert self.lean is not None
            return self.lean.open_blob(digest, offset)
        path = tar.blob_path(digest)
        if path not in self.members:
            raise VerificationError(f"{self.path}: the bundle has no {path}", hint=_AGAIN)
        start, size = self.members[path]
        if size != self._sizes[digest]:
            raise VerificationError(f"{digest}: {size} bytes instead of {self._sizes[digest]}", hint=_AGAIN)
        return self.volumes.open_range(start + offset, max(0, size - offset))

    def open_raw(self, digest: str) -> IO[bytes]:
        """Open what a carried gzip layer holds, decompressed.

        Raises:
            VerificationError: it is not carried, or is no gzip.
        """
        self._check_carried(digest)
        if digest in self._lean_digests:
            assert self.lean is not None
            return self.lean.open_raw(digest)
        from pipeline.bundle.gunzip import gunzip

        return gunzip(self.open_blob(digest))

    def read(self, digest: str) -> bytes:
        """Return a manifest or a configuration, checked.

        Raises:
            VerificationError: it is not carried, or damaged.
        """
        with self.open_blob(digest) as file:
            data = file.read()
        if not matches(data, digest):
            raise VerificationError(f"{self.path}: {digest}: its content has another hash", hint=_AGAIN)
        return data

    def walk(self, root: Descriptor) -> Iterator[tuple[Descriptor, bytes | None]]:
        """Yield everything that can be reached, each once, children before the manifest that lists them.

        Args:
            root: a manifest that is carried.

        Yields:
            A descriptor, and the bytes of a manifest or None for a blob, which may lie in the base.

        Raises:
            VerificationError: a manifest is missing or damaged.
        """
        yield from self._walk(root, set())

    def _walk(self, root: Descriptor, seen: set[str]) -> Iterator[tuple[Descriptor, bytes | None]]:
        if root.digest in seen or root.digest in self._left_out:
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

    def _check_carried(self, digest: str) -> None:
        if digest not in self._sizes:
            raise VerificationError(f"{self.path}: the bundle does not carry {digest}", hint="name its base too")


def _check_head(volumes: Volumes, head: Mapping[str, bytes], bundle: Bundle) -> None:
    if volumes.name != bundle.name:
        raise VerificationError(
            f"{volumes.head}: is the head of {bundle.name}, not of {volumes.name}",
            hint="give the files the names they had when the bundle was packed",
        )
    listed = {file.path: file.sha256 for file in bundle.files}
    found = {path: hashlib.sha256(data).hexdigest() for path, data in head.items()}
    for own in (tar.MANIFEST, tar.SIGNATURE):
        found.pop(own, None)
    wrong = sorted(path for path in set(listed) | set(found) if listed.get(path) != found.get(path))
    if wrong:
        raise VerificationError(f"{volumes.head}: altered or damaged: {', '.join(wrong)}", hint=_AGAIN)
