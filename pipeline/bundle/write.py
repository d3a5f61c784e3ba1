"""Writes a bundle's volumes: one tar, cut by bytes; the head comes last, as it says what the others are."""

from __future__ import annotations

import contextlib
import hashlib
import shutil
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.bundle import portal, signature, tar
from pipeline.bundle.model import HeadFile, Volume
from pipeline.bundle.volumes import volume_name
from pipeline.core.errors import InputError, StorageError, VerificationError
from pipeline.oci import OCI_INDEX, REF_NAME, Descriptor, canonical

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import Self

    from pipeline.bundle.model import Bundle

CHUNK = 1024**2
SMALLEST_VOLUME = 64 * 1024
MOST_VOLUMES = 999  # more would not sort by name, and ``cat NAME.bundle.*`` would join them wrongly
SUMS, CHUNKS, PROGRAM, README = "SHA256SUMS", "chunks.json", "bundle.pyz", "README-现场.md"
LAYOUT_VERSION = {"imageLayoutVersion": "1.0.0"}


class Writer:
    """Writes one bundle into a directory, which nobody else uses; a context manager.

    Args:
        directory: is made; what is in it after a failure is of no use.
        name: the bundle's name.
        volume_size: bytes of a volume; None for one volume.

    Raises:
        InputError: volumes of that size are too small.
        StorageError: it cannot be written.
    """

    def __init__(self, directory: Path, name: str, volume_size: int | None) -> None:
        if volume_size is not None and volume_size < SMALLEST_VOLUME:
            hint = "2G suits most portals and file systems"
            raise InputError(f"volumes of {volume_size} bytes are too small: at least {SMALLEST_VOLUME}", hint=hint)
        self._directory, self._name = directory, name
        with _storage(directory):
            directory.mkdir(parents=True, exist_ok=True)
        self._cutter = _Cutter(directory, name, volume_size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._cutter.abandon()

    def add(self, path: str, size: int, stream: IO[bytes] | bytes, *, digest: str | None = None) -> None:
        """Write a member.

        Args:
            path: its path.
            size: its bytes.
            stream: its content.
            digest: what its content must hash to.

        Raises:
            VerificationError: the content has another size or hash.
            StorageError: it cannot be written.
        """
        _check_path(path, is_head=False)
        algorithm = digest.partition(":")[0] if digest else "sha256"
        total, count = hashlib.new(algorithm), 0
        self._cutter.write(tar.header(path, size))
        for data in _pieces(stream):
            count += len(data)
            if count > size:
                break
            total.update(data)
            self._cutter.write(data)
        if count != size:
            many = "more" if count > size else str(count)
            raise VerificationError(f"{path}: {many} bytes came instead of {size}", hint="fetch it again")
        if digest and f"{algorithm}:{total.hexdigest()}" != digest:
            found = f"{algorithm}:{total.hexdigest()}"
            raise VerificationError(f"{path}: its content has another hash: {found}", hint="fetch it again")
        self._cutter.write(tar.padding(size))

    def finish(
        self,
        bundle: Bundle,
        *,
        head_files: Mapping[str, bytes],
        key: Path | None = None,
        password: str = "",
        pyz: Path | None = None,
        readme: bytes | Callable[[Bundle], bytes] | None = None,
        chunk_size: int | None = None,
    ) -> Bundle:
        """Write the end of the tar, the head, and what lies beside the volumes.

        Args:
            bundle: what it is; its volumes and files are filled in.
            head_files: files for the head, by path.
            key: private key that signs it.
            password: of the key.
            pyz: the program for the site.
            readme: the page for the site, or what makes it of the finished bundle.
            chunk_size: bytes of the parts that ``chunks.json`` lists; None for no such list.

        Returns:
            The bundle as it was written.

        Raises:
            InputError: the key cannot be used, or a file cannot be in a head.
            StorageError: it cannot be written.
        """
        for path in head_files:
            _check_path(path, is_head=True)
        self._cutter.write(tar.TRAILER)
        volumes = self._cutter.close()
        files = {tar.LAYOUT: canonical(LAYOUT_VERSION), tar.INDEX: index(bundle), **dict(sorted(head_files.items()))}
        listed = [HeadFile(path, len(data), hashlib.sha256(data).hexdigest()) for path, data in sorted(files.items())]
        done = bundle.with_volumes(volumes, listed)
        head = {tar.MANIFEST: done.to_bytes()}
        if key is not None:
            head[tar.SIGNATURE] = signature.sign(head[tar.MANIFEST], key, password)
        self._write_head({**head, **files})
        if pyz is not None:
            with _storage(self._directory):
                shutil.copyfile(pyz, self._directory / PROGRAM)
                (self._directory / PROGRAM).chmod(0o755)
        if readme is not None:
            self._write(README, readme(done) if callable(readme) else readme)
        if chunk_size is not None:
            names = [volume_name(self._name, 0), *(volume.name for volume in volumes)]
            with _storage(self._directory):
                listed_parts = portal.chunk_list([self._directory / name for name in names], chunk_size)
            self._write(CHUNKS, listed_parts)
        self._write_sums({volume.name: volume.sha256 for volume in volumes})
        return done

    def _write_head(self, files: Mapping[str, bytes]) -> None:
        parts = [tar.header(path, len(data)) + data + tar.padding(len(data)) for path, data in files.items()]
        self._write(volume_name(self._name, 0), b"".join(parts))

    def _write_sums(self, known: Mapping[str, str]) -> None:
        lines = []
        with _storage(self._directory):
            for path in sorted(set(self._directory.iterdir()) - {self._directory / SUMS}):
                found = known.get(path.name)
                if found is None:
                    with path.open("rb") as file:
                        found = hashlib.file_digest(file, "sha256").hexdigest()
                lines.append(f"{found}  {path.name}\n")
        self._write(SUMS, "".join(lines).encode())

    def _write(self, name: str, data: bytes) -> None:
        with _storage(self._directory / name):
            (self._directory / name).write_bytes(data)


def index(bundle: Bundle) -> bytes:
    """Return ``index.json`` of a bundle: every image by its name at its source, every attachment by its digest."""
    listed: dict[tuple[str, str], Descriptor] = {}
    for image in bundle.images:
        for name in _names(image.source, image.tags):
            root = image.root
            descriptor = Descriptor(root.media_type, root.digest, root.size, annotations={REF_NAME: name})
            listed[name, root.digest] = descriptor
        for attachment in image.attachments:
            root = attachment.root
            listed["", root.digest] = Descriptor(root.media_type, root.digest, root.size)
    manifests = [descriptor.to_json() for _, descriptor in sorted(listed.items())]
    return canonical({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests})


def _names(source: str, tags: tuple[str, ...]) -> list[str]:
    place, _, last = source.partition("@")[0].rpartition("/")
    return [f"{place}/{last.partition(':')[0]}:{tag}" for tag in tags] or [source]


def _check_path(path: str, *, is_head: bool) -> None:
    if not tar.is_known(path, is_head=is_head):
        raise InputError(f"{path!r} cannot be in a bundle", hint="a bundle holds what its format knows, no other files")


class _Cutter:
    """A stream that is cut into volumes."""

    def __init__(self, directory: Path, name: str, volume_size: int | None) -> None:
        self._directory, self._name, self._limit = directory, name, volume_size
        self._done: list[Volume] = []
        self._file: IO[bytes] | None = None
        self._hash, self._size = hashlib.sha256(), 0

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            if self._file is None:
                self._begin()
            room = len(view) if self._limit is None else min(len(view), self._limit - self._size)
            assert self._file is not None
            with _storage(Path(self._file.name)):
                self._file.write(view[:room])
            self._hash.update(view[:room])
            self._size += room
            view = view[room:]
            if self._size == self._limit:
                self._end()

    def _begin(self) -> None:
        if len(self._done) == MOST_VOLUMES:
            raise InputError(
                f"{self._name} has more than {MOST_VOLUMES} volumes", hint="make them larger: --volume-size"
            )
        path = self._directory / volume_name(self._name, len(self._done) + 1)
        with _storage(path):
            self._file = path.open("wb")
        self._hash, self._size = hashlib.sha256(), 0

    def _end(self) -> None:
        assert self._file is not None
        path = Path(self._file.name)
        with _storage(path):
            self._file.close()
        self._file = None
        self._done.append(Volume(path.name, self._size, self._hash.hexdigest()))

    def close(self) -> tuple[Volume, ...]:
        if self._file is not None:
            self._end()
        return tuple(self._done)

    def abandon(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # the failure that leads here was said
                self._file.close()


def _pieces(stream: IO[bytes] | bytes) -> Iterator[bytes]:
    if isinstance(stream, bytes):
        yield stream
        return
    while data := stream.read(CHUNK):
        yield data


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        hint = "free some space, or name another directory, and pack again: what was fetched stays"
        raise StorageError(f"{path}: cannot be written: {error.strerror}", hint=hint) from error
