"""A medium that a tree is made from: what it is, whether it is whole, and whether it holds what was asked for."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict

from pipeline.core import cache, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.image import tree
from pipeline.image.bases.repositories import Repository
from pipeline.profile import RpmBase

Kind = Literal["iso", "qcow2", "rootfs"]
MEMORY = ".digests"  # in the cache's directory; with a dot it is no kind of entry
SUMS = (
    "{}.sha256",
    "{}.sha256sum",
    "{}.SHA256",
    "{}.SHA256SUM",
    "SHA256SUMS",
    "SHA256SUM",
    "CHECKSUM",
    "sha256sum.txt",
)
# "sum  name", "sum *name" and the sum alone (sha256sum(1)), and what BSD's tool and Fedora write.
SUM = re.compile(r"^([0-9a-f]{64})(?:\s+\*?(\S.*))?$|^SHA256 \((.+)\) = ([0-9a-f]{64})$", re.IGNORECASE)
LARGEST_SUMS = 1 << 20


class Medium(BaseModel):
    """A medium, resolved.

    Attributes:
        kind: what it is.
        path: where it is.
        digest: sha256 of what counts of it: its indexes if it is an ISO, else all of it.
        size: bytes; 0 if it is a directory.
    """

    model_config = ConfigDict(frozen=True)

    kind: Kind
    path: Path
    digest: str
    size: int


@dataclass(frozen=True)
class Request:
    """What is asked of a medium.

    Attributes:
        name: operating system and release, for messages.
        base: the profile's base.
        arch: the architecture.
        packages: what must be installed in the end, besides dependencies.
        repositories: where packages come from that the medium lacks.
        os_release: keys of os-release and the values that the medium must have.
        codename: the release's own name.
        accelerated: whether virtual machines of this machine's kind are known to run under KVM.
    """

    name: str
    base: RpmBase
    arch: Architecture
    packages: Sequence[str]
    repositories: Sequence[Repository] = ()
    os_release: Mapping[str, str] = field(default_factory=dict)
    codename: str = ""
    accelerated: bool = False


def remembered(path: Path, compute: Callable[[], str]) -> str:
    """Return the digest of a file, computed once for what it is now: its path, size, time and inode.

    Args:
        path: the file.
        compute: computes it.
    """
    status = path.stat()
    known = {"path": str(path.resolve()), "size": status.st_size, "time": status.st_mtime_ns, "inode": status.st_ino}
    memory = cache.cache_root() / MEMORY / f"{hashlib.sha256(known['path'].encode()).hexdigest()[:32]}.json"  # type: ignore[attr-defined]
    with contextlib.suppress(OSError, ValueError):
        noted = json.loads(memory.read_text())
        if isinstance(noted, dict) and {name: noted.get(name) for name in known} == known:
            return str(noted["digest"])
    digest = compute()
    with contextlib.suppress(OSError):  # it is only computed again
        memory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        temporary = memory.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(known | {"digest": digest}) + "\n")
        temporary.rename(memory)
    return digest


def whole_file(path: Path) -> str:
    """Return the sha256 of a file, remembered."""

    def compute() -> str:
        progress.note(f"reading {path} once, to know it again")
        return tree.file_sha256(path)

    return remembered(path, compute)


def check_sums(medium: Medium) -> None:
    """Compare a medium with the checksum file beside it, if there is one.

    Raises:
        InputError: it is not what that says.
    """
    if not medium.path.is_file():
        return
    for form in SUMS:
        sums = medium.path.parent / form.format(medium.path.name)
        if expected := _sum_of(medium.path.name, sums):
            progress.log(f"checking {medium.path} against {sums}")
            found = tree.file_sha256(medium.path) if medium.kind == "iso" else medium.digest
            if found != expected:
                raise InputError(
                    f"{medium.path} is not what {sums.name} says: its sha256 is {found}, not {expected}",
                    hint="fetch it again, and compare the sum with the one that the vendor names",
                )
            return


def _sum_of(name: str, sums: Path) -> str:
    """Return what a checksum file says of a name; empty if nothing."""
    if not sums.is_file() or sums.stat().st_size > LARGEST_SUMS:
        return ""
    found = [match for line in sums.read_text(errors="replace").splitlines() if (match := SUM.match(line.strip()))]
    alone = sums.name.startswith(name) and len(found) == 1
    for match in found:
        said = match[2] or match[3] or ""
        if Path(said).name == name or (alone and not said):
            return (match[1] or match[4]).lower()
    return ""


def parse_os_release(text: str) -> dict[str, str]:
    """Read os-release(5): values may be quoted as in a shell."""
    found = {}
    for line in text.splitlines():
        name, sign, value = line.strip().partition("=")
        if sign and not name.startswith("#"):
            with contextlib.suppress(ValueError):
                found[name] = "".join(shlex.split(value))
    return found


def check_identity(request: Request, path: Path, os_release: Mapping[str, str], product: str = "") -> None:
    """Compare what a medium holds with what was asked for.

    Args:
        request: what was asked for.
        path: the medium.
        os_release: what its os-release says.
        product: Kylin's ``.productinfo``, which alone tells service packs apart; empty if there is none.

    Raises:
        InputError: it is another operating system or release.
    """
    title = os_release.get("PRETTY_NAME") or os_release.get("NAME") or "an unknown system"
    hint = "choose the medium of that release, or the release with --os and --release"
    for name, wanted in request.os_release.items():
        found = os_release.get(name, "")
        if found.lower() != wanted.lower():
            raise InputError(
                f"{path} holds {title}, not {request.name}: {name} is {found!r} and should be {wanted!r}", hint=hint
            )
    codename = re.search(r"\((\w+)\)\s*-", product)
    if codename and request.codename and codename[1].lower() != request.codename.lower():
        raise InputError(
            f"{path} holds {product.split(chr(10))[-1].strip()}, not {request.name}: its name is {codename[1]}, "
            f"not {request.codename}",
            hint=hint,
        )


def wrong_arch(path: Path, found: str, asked: Architecture) -> InputError:
    """Return the error for a medium of another architecture."""
    with contextlib.suppress(InputError):
        found = f"{Architecture.parse(found)} ({found})"
    return InputError(
        f"{path} is for {found}; {asked} ({asked.rpm}) was asked for", hint="choose the other medium, or --arch"
    )
