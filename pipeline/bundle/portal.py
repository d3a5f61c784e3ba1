"""A list of parts for upload portals that take a file in parts: where each begins, and its hash."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from pipeline.core.errors import InputError
from pipeline.oci import canonical

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

SMALLEST = 64 * 1024
BLOCK = 1024**2


def check(chunk_size: int) -> None:
    """Look whether parts of a size (bytes) make sense, before anything is written.

    Raises:
        InputError: they are too small.
    """
    if chunk_size < SMALLEST:
        hint = "most portals take parts of some MiB: look into the portal's manual"
        raise InputError(f"parts of {chunk_size} bytes are too small: at least {SMALLEST}", hint=hint)


def chunk_list(paths: Sequence[Path], chunk_size: int) -> bytes:
    """Return ``chunks.json``: of every file, its parts with offset, size (bytes) and sha256.

    Raises:
        InputError: the parts are too small.
    """
    check(chunk_size)
    files = [
        {"name": path.name, "size": path.stat().st_size, "chunks": list(_parts(path, chunk_size))} for path in paths
    ]
    return canonical({"version": 1, "chunk_size": chunk_size, "files": files})


def _parts(path: Path, chunk_size: int) -> Iterator[dict[str, object]]:
    offset = 0
    with path.open("rb") as file:
        while True:
            total, size = hashlib.sha256(), 0
            while size < chunk_size and (data := file.read(min(BLOCK, chunk_size - size))):
                total.update(data)
                size += len(data)
            if size == 0:
                return
            yield {"offset": offset, "size": size, "sha256": total.hexdigest()}
            offset += size
