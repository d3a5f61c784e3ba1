"""Makes gzip streams again, byte for byte, with the helper; and reads zstd with whatever is there.

The helper is a program of ours in Go (``helper-go/``). Headquarters have it in their cache, where the set-up built it;
at the site it comes out of ``bundle.pyz``.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import functools
import hashlib
import io
import json
import pkgutil
import platform
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipeline.core import process, progress
from pipeline.core.errors import DependencyError, InputError, ToolError, VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from subprocess import Popen

CARRIED = frozenset({"pgzip", "go-gzip", "klauspost-gzip"})  # the helper makes them, so they can be made anywhere
REPORTED = frozenset({"zlib", "gzip", "pigz"})  # known by name only: their layers stay as they are
LOWEST_LEVEL, HIGHEST_LEVEL = -2, 9  # compress/flate: HuffmanOnly to BestCompression
LARGEST_BLOCK = 64 * 1024**2  # bytes
SMALLEST_HEADER, LARGEST_HEADER = 10, 4096  # bytes; RFC 1952, 2.3; it has to fit among a program's arguments
LARGEST_WINDOW = 1 << 27  # bytes that a frame of a bundle may look back; zstd(1), --long=27
CHUNK = 1024**2
FIELD = "pipeline.bundle.field"  # the package that bundle.pyz holds the helper in, as helper-amd64 and helper-arm64
PLACES = ("~/.cache", "/var/tmp", "/run")  # noqa: S108 - a directory of our own is made there
MACHINES = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}

_DAMAGED = "the bundle is damaged, or made by a newer version of this program: fetch it again"


@dataclass(frozen=True)
class Encoder:
    """What made a gzip stream.

    Attributes:
        name: one of ``CARRIED`` or ``REPORTED``.
        level: as its library counts; -1 is the library's own choice.
        block: bytes of raw data in each block that is compressed by itself; 0 if the encoder has no blocks.
        header: the stream's header verbatim: time, system, and name, comment or extra field if it has them.
    """

    name: str
    level: int
    block: int = 0
    header: bytes = b""

    def __str__(self) -> str:
        blocks = f" in blocks of {self.block // 1024} KiB" if self.block else ""
        return f"{self.name} at {'the default level' if self.level == -1 else f'level {self.level}'}{blocks}"

    def to_json(self) -> dict[str, Any]:
        """Return the object for a recipe."""
        return {"name": self.name, "level": self.level, "block": self.block, "header": self.header.hex()}

    @classmethod
    def from_json(cls, value: object) -> Encoder:
        """Read the object of a recipe.

        Raises:
            InputError: it is none, or names an encoder that nobody here knows.
        """
        if not isinstance(value, dict) or set(value) != {"name", "level", "block", "header"}:
            raise InputError("an encoder has no name, level, block and header, or more than these", hint=_DAMAGED)
        name, level, block, header = value["name"], value["level"], value["block"], value["header"]
        if not isinstance(name, str) or name not in CARRIED | REPORTED:
            raise InputError(f"{name!r} is no encoder that is known here", hint=_DAMAGED)
        if type(level) is not int or type(block) is not int or not LOWEST_LEVEL <= level <= HIGHEST_LEVEL:
            raise InputError(f"{name}: level {level!r} or block {block!r} cannot be", hint=_DAMAGED)
        if not 0 <= block <= LARGEST_BLOCK:  # as many are in memory as there are cores
            raise InputError(f"{name}: a block of {block} bytes cannot be", hint=_DAMAGED)
        try:
            return cls(name, level, block, bytes.fromhex(header))
        except (TypeError, ValueError) as error:
            raise InputError(f"{name}: its header is no hexadecimal text", hint=_DAMAGED) from error


class Codec:
    """The helper's program; threads may share it.

    Args:
        program: where it is; it must not change.

    Attributes:
        id: sha256 of the program, in hex.
    """

    def __init__(self, program: Path) -> None:
        self.program = program
        self.id = hashlib.sha256(program.read_bytes()).hexdigest()

    @classmethod
    def find(cls) -> Codec | None:
        """Return the helper for this machine: out of ``bundle.pyz``, or the one in the cache; None if there is none."""
        program = _carried_program() or _built_program()
        return cls(program) if program else None

    def describe(self) -> Mapping[str, Any]:
        """Return what the helper says of itself: ``go``, its version; ``encoders`` with name, library and version.

        Raises:
            ToolError: it does not run.
        """
        printed = process.run([self.program, "version"], capture=True, what="asking the helper of bundles").stdout
        try:
            value = json.loads(printed)
        except ValueError as error:
            raise ToolError(f"{self.program} is not the helper of bundles: {printed[:80]!r}") from error
        return dict(value)

    def encode(self, encoder: Encoder, raw: IO[bytes]) -> IO[bytes]:
        """Return a gzip stream as an encoder makes it.

        A thread of its own reads ``raw`` until the stream ends or is closed; then it may be closed, not before.
        What goes wrong is raised where the stream would end, so it is whole only if its end was reached.

        Args:
            encoder: one that is carried.
            raw: what is compressed.

        Raises:
            InputError: the helper has no such encoder.
            ToolError: the helper cannot be started; while reading, it failed. What reading ``raw`` raises comes so too.
        """
        if encoder.name not in CARRIED or not SMALLEST_HEADER <= len(encoder.header) <= LARGEST_HEADER:
            raise InputError(f"{encoder}: the helper cannot make that", hint=_DAMAGED)
        words = ["encode", "--name", encoder.name, "--level", str(encoder.level), "--block", str(encoder.block)]
        return piped([self.program, *words, "--header", encoder.header.hex()], raw, what="making gzip again")

    def unzstd(self, data: bytes) -> IO[bytes]:
        """Return the content of a zstd frame; errors come as with :meth:`encode`."""
        return piped([self.program, "unzstd"], io.BytesIO(data), what="reading zstd")


def unzstd(data: bytes, size: int, codec: Codec | None) -> bytes:
    """Return the content of a zstd frame.

    Args:
        data: the frame; it may look back 128 MiB.
        size: bytes of its content; no more are held in memory.
        codec: reads it where Python has no ``zstandard``.

    Raises:
        VerificationError: it is damaged, or its content is not of that size.
        DependencyError: nothing here can read it.
    """
    try:
        content = _unzstd(data, size, codec)
    except ToolError as error:
        raise VerificationError(f"a zstd frame cannot be read: {error.message}", hint=_DAMAGED) from error
    if len(content) != size:
        raise VerificationError(f"a zstd frame does not hold the {size} bytes that it should", hint=_DAMAGED)
    return content


def _unzstd(data: bytes, size: int, codec: Codec | None) -> bytes:
    try:
        import zstandard
    except ImportError:
        if codec is None:
            hint = "run bundle.pyz, which brings what is needed, or install Python's zstandard"
            raise DependencyError("nothing here can read zstd", hint=hint) from None
        with codec.unzstd(data) as stream:
            content = stream.read(size + 1)
            stream.read(1)  # the end, where errors show
            return content
    try:
        with zstandard.ZstdDecompressor(max_window_size=LARGEST_WINDOW).stream_reader(data) as reader:
            return reader.read(size + 1)
    except zstandard.ZstdError as error:
        raise VerificationError(f"a zstd frame cannot be read: {error}", hint=_DAMAGED) from error


# --- streams through a program


def piped(argv: Sequence[str | Path], raw: IO[bytes], *, what: str) -> IO[bytes]:
    """Return what a program writes while it is fed; :meth:`Codec.encode` tells about errors and threads.

    Args:
        argv: program and arguments.
        raw: what it is fed.
        what: what that does for the user, for the error message.
    """
    with contextlib.ExitStack() as undo:
        child = undo.enter_context(process.piped(argv, what=what))
        threads = undo.enter_context(concurrent.futures.ThreadPoolExecutor(1))
        stream = _Piped(child, threads.submit(_feed, child, raw), undo.pop_all())
    return io.BufferedReader(stream, CHUNK)


class _Piped(io.RawIOBase):
    """The output of a program that a thread feeds; both end with ``undo``."""

    def __init__(self, child: Popen[bytes], fed: concurrent.futures.Future[None], undo: contextlib.ExitStack) -> None:
        super().__init__()
        self._child, self._fed, self._undo = child, fed, undo

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:  # noqa: ANN401 - as io declares it
        assert self._child.stdout is not None
        count = 0 if self._child.stdout.closed else self._child.stdout.readinto1(buffer)  # type: ignore[attr-defined]
        if not count:
            self._end()
        return int(count)

    def _end(self) -> None:
        """Wait for the feeding thread and the program; raises what went wrong with either."""
        self._fed.result()
        status = self._child.wait()
        self._undo.close()
        if status:
            raise ToolError(f"{self._child.args!r} ended with status {status}")

    def close(self) -> None:
        if not self.closed:
            self._child.kill()  # no-op if it has ended; then the thread's pipe breaks
            concurrent.futures.wait([self._fed])
            with contextlib.suppress(ToolError):  # who closes before the end wants to know nothing
                self._undo.close()
        super().close()


def _feed(child: Popen[bytes], raw: IO[bytes]) -> None:
    """Copy everything into a program; if that fails, the program must not take it for the end."""
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin, contextlib.ExitStack() as undo:
        undo.callback(child.kill)
        for chunk in iter(lambda: raw.read(CHUNK), b""):
            child.stdin.write(chunk)
        child.stdin.flush()
        undo.pop_all()


# --- where the helper is


def _built_program() -> Path | None:
    """Return the helper that the set-up built; bundle.pyz has no module for that."""
    try:
        from pipeline.bundle import helper
        from pipeline.core import arch, cache
    except ImportError:
        return None
    return helper.built(cache.cache_root()).get(arch.Architecture.host())


@functools.lru_cache(maxsize=1)
def _carried_program() -> Path | None:
    """Return the helper out of ``bundle.pyz``, written where it can be run until this process ends."""
    machine = MACHINES.get(platform.machine(), "")
    try:
        data = pkgutil.get_data(FIELD, f"helper-{machine}")
    except (ImportError, OSError):
        return None
    if not data:
        return None
    for place in _places():
        program = _written(place, data)
        if program:
            return program
    progress.note("the helper of bundles cannot be run from any directory: set TMPDIR to one that allows programs")
    return None


def _places() -> Iterator[Path]:
    yield Path(tempfile.gettempdir())  # TMPDIR, if it is usable
    for place in PLACES:
        with contextlib.suppress(RuntimeError):  # nobody knows where ~ is
            yield Path(place).expanduser()


def _written(place: Path, data: bytes) -> Path | None:
    """Write the helper below a directory; None if it cannot be written or run there."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="bundle-helper-", dir=str(place)))
    except OSError:
        return None
    program = folder / "helper"
    try:
        program.write_bytes(data)
        program.chmod(0o700)
        process.run([program, "version"], capture=True)
    except (OSError, ToolError, DependencyError):
        shutil.rmtree(str(folder), ignore_errors=True)
        return None
    atexit.register(shutil.rmtree, str(folder), ignore_errors=True)
    return program
