"""The one tar file that a bundle's volumes are in a row: headers that are always the same, and a strict look inside.

It is uncompressed, in GNU's format (which has sizes above 8 GiB), as ``tarfile`` writes and reads it.
"""

from __future__ import annotations

import re
import tarfile
from typing import IO, TYPE_CHECKING

from pipeline.core.errors import VerificationError

if TYPE_CHECKING:
    from collections.abc import Iterator

BLOCK = 512
TRAILER = bytes(2 * BLOCK)
MANIFEST, SIGNATURE, LAYOUT, INDEX = "bundle.json", "bundle.json.sig", "oci-layout", "index.json"
RECIPES, FRAMES = "lean/recipes/", "lean/frames/"
_BLOB = re.compile(r"blobs/(?:sha256/[0-9a-f]{64}|sha512/[0-9a-f]{128})")
_HEAD = re.compile(
    r"bundle\.json|bundle\.json\.sig|oci-layout|index\.json|signatures/[A-Za-z0-9=._-]+/signature-[0-9]+"
)
_LEAN = re.compile(r"lean/recipes/[0-9a-f]{64}|lean/frames/[0-9]{6,}\.zst")
_ALTERED = "the volumes are damaged, or somebody else made them: copy the bundle again from where it was packed"


def header(path: str, size: int) -> bytes:
    """Return what stands before a member's content: owner, mode and time are always the same."""
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "strict")


def padding(size: int) -> bytes:
    """Return what stands behind a member's content."""
    return bytes(-size % BLOCK)


def blob_path(digest: str) -> str:
    """Return the path of a blob in an image layout."""
    return f"blobs/{digest.replace(':', '/')}"


def members(file: IO[bytes], where: str, *, is_head: bool = False) -> dict[str, tuple[int, int]]:
    """Return where each member's content lies.

    Args:
        file: the tar, seekable; contents are not read.
        where: what it is called in errors.
        is_head: it is the first volume only.

    Returns:
        Offset and size in bytes, by path.

    Raises:
        VerificationError: it is no tar, ends too early, or has a member that no bundle has.
    """
    found: dict[str, tuple[int, int]] = {}
    end = 0
    try:
        for member in _each(file):
            if member.type != tarfile.REGTYPE or not is_known(member.name, is_head=is_head):
                kind = "" if member.isreg() else " (a link, directory or device)"
                raise VerificationError(f"{where}: holds {member.name!r}{kind}, which no bundle has", hint=_ALTERED)
            if member.name in found:
                raise VerificationError(f"{where}: holds {member.name} twice", hint=_ALTERED)
            found[member.name] = (member.offset_data, member.size)
            end = member.offset_data + member.size
    except (tarfile.TarError, ValueError, OverflowError) as error:  # the latter two: numbers that cannot be ones
        raise VerificationError(f"{where}: is no tar file, or is cut off: {error}", hint=_ALTERED) from error
    if file.seek(0, 2) < end:
        raise VerificationError(f"{where}: ends {end - file.tell()} bytes too early", hint=_ALTERED)
    return found


def _each(file: IO[bytes]) -> Iterator[tarfile.TarInfo]:
    with tarfile.open(fileobj=file, mode="r:") as archive:
        yield from archive


def is_known(name: str, *, is_head: bool) -> bool:
    """Return whether a bundle, or its head, may have a member of that path."""
    if _HEAD.fullmatch(name):
        return True
    return not is_head and bool(_BLOB.fullmatch(name) or _LEAN.fullmatch(name))
