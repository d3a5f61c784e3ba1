"""The volumes of a bundle, read as one stream where they lie: nothing is joined, changed or removed."""

from __future__ import annotations

import bisect
import hashlib
import io
import re
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.bundle import tar
from pipeline.core.errors import InputError, StorageError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from pipeline.bundle.model import Bundle, Volume

    Tell = Callable[[str, int, int], None]
    Watch = Callable[[bytes, int], None]

CHUNK = 1024**2
HEADERS = 4096  # bytes read at once where only the headers of a tar are looked at, with gaps between them
_FILE = re.compile(r"(.+)\.bundle\.([0-9]{3,})")
_COPY = "copy the file again, and compare with SHA256SUMS: what is right already stays as it is"


def volume_name(name: str, number: int) -> str:
    """Return the file name of a bundle's volume; 0 is the head."""
    return f"{name}.bundle.{number:03d}"


class Volumes:
    """The volumes of one bundle; see :meth:`find`. Threads may share it.

    Attributes:
        directory: where they lie.
        name: the bundle's name, from the names of the files.
        size: bytes of all of them in a row; of the head alone until :meth:`expect` was called.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self.directory, self.name = directory, name
        self.head = directory / volume_name(name, 0)
        try:
            self.size = self.head.stat().st_size
        except OSError as error:
            hint = "copy it too: it holds the list of all the others"
            raise InputError(f"{self.head}: the first volume cannot be read: {error.strerror}", hint=hint) from error
        self._pieces: list[tuple[Path, int]] = [(self.head, self.size)]
        self._starts = [0]

    @classmethod
    def find(cls, path: Path) -> Volumes:
        """Find the volumes of a bundle.

        Args:
            path: the directory where they lie, or one of them.

        Raises:
            InputError: there are none, or those of several bundles.
        """
        match = _FILE.fullmatch(path.name)
        if match is not None and path.is_file():
            return cls(path.parent, match.group(1))
        try:
            found = [_FILE.fullmatch(entry.name) for entry in path.iterdir()]
        except OSError as error:
            hint = "name the directory with the volumes, or one of them: NAME.bundle.000"
            raise InputError(f"{path}: no bundle: {error.strerror}", hint=hint) from error
        names = sorted({one.group(1) for one in found if one is not None})
        if not names:
            raise InputError(f"{path}: no bundle lies there", hint="name the directory with NAME.bundle.000")
        if len(names) > 1:
            first = path / volume_name(names[0], 0)
            raise InputError(
                f"{path}: several bundles lie there: {', '.join(names)}", hint=f"name one of them: {first}"
            )
        return cls(path, names[0])

    def expect(self, volumes: Sequence[Volume]) -> None:
        """Say which volumes follow the head, and how large they are."""
        self._pieces[1:] = [(self.directory / volume.name, volume.size) for volume in volumes]
        self._starts = []
        self.size = 0
        for _, size in self._pieces:
            self._starts.append(self.size)
            self.size += size

    def open_head(self) -> IO[bytes]:
        """Open the first volume."""
        return self.head.open("rb")

    def open_range(self, offset: int, size: int, *, ahead: int = CHUNK) -> IO[bytes]:
        """Open a part of the row, as a stream of its own.

        Args:
            offset: bytes from the row's beginning.
            size: bytes.
            ahead: bytes that are read at once.

        Raises:
            VerificationError: while reading, if a volume is missing or too short.
        """
        part = _Part(self._pieces, self._starts, offset, size)
        return io.BufferedReader(part, max(1, min(ahead, size)))

    def problems(self) -> tuple[str, ...]:
        """Return which volumes are missing or have another size than they should; none is read."""
        return tuple(filter(None, (_size_problem(path, size) for path, size in self._pieces[1:])))

    def check(self, bundle: Bundle, tell: Tell | None = None, watch: Watch | None = None) -> tuple[str, ...]:
        """Read every volume after the head and compare it with its hash.

        Args:
            bundle: what they should be.
            tell: called with a volume's name, the bytes read so far, and those of all volumes.
            watch: called with each piece that is read, and the bytes before it in the row of all volumes.

        Returns:
            What is wrong, a line each.
        """
        known = {volume.sha256: volume.name for volume in bundle.volumes}
        total = sum(volume.size for volume in bundle.volumes)
        problems, done = [], 0
        before = self._pieces[0][1]
        for volume in bundle.volumes:
            path = self.directory / volume.name
            problem = _size_problem(path, volume.size)
            if path.exists():
                problem = _content_problem(path, volume, problem, known, _Pass(tell, watch, done, total, before + done))
            if problem:
                problems.append(problem)
            done += volume.size
        return (*problems, *self._strangers(bundle))

    def _strangers(self, bundle: Bundle) -> list[str]:
        own = {self.head.name, *(volume.name for volume in bundle.volumes)}
        found = (_FILE.fullmatch(entry.name) for entry in self.directory.iterdir())
        names = sorted(one.group(0) for one in found if one is not None and one.group(1) == self.name)
        return [f"{name} is none of its volumes: is it left of another bundle?" for name in names if name not in own]


def _size_problem(path: Path, wanted: int) -> str:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return f"{path.name} is missing ({wanted} bytes)"
    except OSError as error:
        raise StorageError(f"{path}: cannot be read: {error.strerror}", hint=_COPY) from error
    if size == wanted:
        return ""
    how = "is cut off, or still being copied" if size < wanted else "is too long"
    return f"{path.name} {how}: {size} bytes instead of {wanted}"


def _content_problem(path: Path, volume: Volume, problem: str, known: Mapping[str, str], one: _Pass) -> str:
    begun = path.stat().st_mtime
    found = one.read(path)
    if found == volume.sha256:
        return ""
    if found in known:
        return f"{volume.name} has the content of {known[found]}: were the two swapped?"
    if path.stat().st_mtime != begun:
        return f"{volume.name} is still being copied: it changed while it was read"
    return problem or f"{volume.name} is damaged, or belongs to another bundle: its sha256 is {found}"


class _Pass:
    """One volume, read and hashed once, for all who want to see its bytes."""

    def __init__(self, tell: Tell | None, watch: Watch | None, done: int, total: int, offset: int) -> None:
        self._tell, self._watch, self._done, self._total, self._offset = tell, watch, done, total, offset

    def read(self, path: Path) -> str:
        total, count = hashlib.sha256(), 0
        try:
            with path.open("rb") as file:
                while True:
                    data = file.read(CHUNK)
                    if not data:
                        return total.hexdigest()
                    total.update(data)
                    if self._watch is not None:
                        self._watch(data, self._offset + count)
                    count += len(data)
                    if self._tell is not None:
                        self._tell(path.name, self._done + count, self._total)
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}", hint=_COPY) from error


class _Part(io.RawIOBase):
    """A part of all volumes in a row; files are opened one after the other."""

    def __init__(self, pieces: Sequence[tuple[Path, int]], starts: Sequence[int], offset: int, size: int) -> None:
        super().__init__()
        self._pieces, self._starts, self._offset, self._size = pieces, starts, offset, size
        self._at = 0
        self._open: tuple[int, IO[bytes]] | None = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        place = self._offset + self._at
        number = bisect.bisect_right(self._starts, place) - 1
        path, size = self._pieces[number]
        inside = place - self._starts[number]
        data = self._read(number, path, inside, min(wanted, size - inside))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def _read(self, number: int, path: Path, offset: int, size: int) -> bytes:
        try:
            if self._open is None or self._open[0] != number:
                self._close()
                self._open = (number, path.open("rb", buffering=0))
            file = self._open[1]
            file.seek(offset)
            data = file.read(size)
        except FileNotFoundError as error:
            raise VerificationError(f"{path}: this volume is missing", hint=_COPY) from error
        except OSError as error:
            raise StorageError(f"{path}: cannot be read: {error.strerror}", hint=_COPY) from error
        if not data:
            raise VerificationError(f"{path}: this volume is cut off after {offset} bytes", hint=_COPY)
        return data

    def _close(self) -> None:
        if self._open is not None:
            self._open[1].close()
            self._open = None

    def close(self) -> None:
        self._close()
        super().close()


def read_head(volumes: Volumes) -> dict[str, bytes]:
    """Return the files of the first volume.

    Raises:
        VerificationError: it is no head of a bundle.
    """
    with volumes.open_head() as file:
        places = tar.members(file, str(volumes.head), is_head=True)
        found = {}
        for path, (offset, size) in places.items():
            file.seek(offset)
            found[path] = file.read(size)
    if tar.MANIFEST not in found:
        raise VerificationError(f"{volumes.head}: holds no {tar.MANIFEST}", hint=_COPY)
    return found
