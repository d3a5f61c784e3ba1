"""Programs of this machine's architecture for scripts in a foreign tree: they run natively, not emulated.

Maintainer scripts and initramfs generators are shell, perl and python; what they call works on files and does not care
for the architecture. The programs come from the same suites as the tree, so they are the same versions and do the
same; Debian's multiarch directories let both architectures live in one tree. What says or depends on the
architecture (``dpkg``, ``uname``, ``ldconfig``, all that is to be executed in the image) stays the tree's own.
Proof: trees made with and without are the same (tests/integration/test_native.py).
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline.core import process
from pipeline.core.arch import Architecture
from pipeline.image import tree
from pipeline.image.bases import deb_apt, downloads
from pipeline.image.bases.sources import Source
from pipeline.profile import DebBase

PACKAGES = (
    "bash", "coreutils", "cpio", "dash", "debianutils", "diffutils", "findutils", "grep", "gzip", "mawk", "openssl",
    "perl-base", "python3-minimal", "sed", "xz-utils", "zstd",
)  # fmt: skip
PROGRAMS = (
    "[", "base64", "basename", "bash", "cat", "chgrp", "chmod", "chown", "cksum", "cmp", "comm", "cp", "cpio", "cut",
    "dash", "date", "dd", "diff", "dirname", "echo", "env", "expand", "expr", "false", "find", "fold", "grep", "gzip",
    "head", "id", "install", "join", "link", "ln", "ls", "mawk", "md5sum", "mkdir", "mkfifo", "mknod", "mktemp", "mv",
    "nl", "od", "openssl", "paste", "perl", "pr", "printenv", "printf", "pwd", "readlink", "realpath", "rm", "rmdir",
    "run-parts", "sed", "seq", "sha1sum", "sha256sum", "sha512sum", "shuf", "sleep", "sort", "split", "stat", "sum",
    "sync", "tac", "tail", "tee", "test", "touch", "tr", "true", "truncate", "tsort", "unexpand", "uniq", "unlink",
    "wc", "xargs", "xz", "yes", "zstd",
)  # fmt: skip
PYTHON = re.compile(r"python3\.\d+")  # the tree's scripts and bytecode compiler are for just this version
BIN, LIB = "bin", "lib"
OWN_LOADER = {  # as programs of Debian name it
    Architecture.AMD64: "/lib64/ld-linux-x86-64.so.2",
    Architecture.ARM64: "/lib/ld-linux-aarch64.so.1",
}
LOADER = "/run/native-ld.so"  # no longer than any of these; a sandbox has a /run of its own


def make(
    base: DebBase, arch: Architecture, sources: Sequence[Source], target: Path, *, workspace: Path, package_cache: Path
) -> None:
    """Fetch the programs.

    Args:
        base: the profile's base.
        arch: that of this machine.
        sources: where the tree's packages come from too.
        target: directory that gets ``bin/`` and ``lib/``.
        workspace: empty directory for intermediate files.
        package_cache: downloaded packages, shared between builds.

    Raises:
        InputError: the sources lack one of the packages for this machine's architecture.
        NetworkError: they cannot be had.
    """
    env = deb_apt.private_apt(base, arch, sources, workspace)
    archives = workspace / "apt/var/cache/apt/archives"
    with downloads.in_use(package_cache):
        words: list[process.Argument] = ["apt-get", "--yes", "--download-only", "install", *PACKAGES]
        deb_apt.run(words, env, what="fetching programs of this machine's architecture")
    unpacked = workspace / "unpacked"
    for archive in sorted(archives.glob("*.deb")):
        process.run(["dpkg-deb", "--extract", archive, unpacked], what="unpacking programs")
    (target / BIN).mkdir()
    for folder in ("bin", "usr/bin"):
        for file in sorted((unpacked / folder).iterdir()):
            if (file.name in PROGRAMS or PYTHON.fullmatch(file.name)) and not file.is_symlink():
                _with_loader(file, target / BIN / file.name, arch)
    for folder in ("lib", "usr/lib"):
        libraries = unpacked / folder / Path(_libraries(arch)).name
        if libraries.is_dir():
            shutil.copytree(libraries, target / LIB, symlinks=True, dirs_exist_ok=True)


def _with_loader(program: Path, target: Path, arch: Architecture) -> None:
    """Copy a program so that it names another loader: what takes its own from the tree's root must not see this one."""
    theirs = OWN_LOADER[arch].encode() + b"\0"
    target.write_bytes(program.read_bytes().replace(theirs, LOADER.encode().ljust(len(theirs), b"\0"), 1))
    target.chmod(0o755)


def binds(programs: Path, arch: Architecture) -> tuple[tuple[Path, str], ...]:
    """Return what has to be shown where in a tree: (path on this machine, path in the tree).

    Args:
        programs: from :func:`make`.
        arch: that of the programs.
    """
    shown = [(programs / LIB, _libraries(arch)), (programs / LIB / Path(OWN_LOADER[arch]).name, LOADER)]
    shown += [(program, f"/usr/bin/{program.name}") for program in sorted((programs / BIN).iterdir())]
    return tuple(shown)


def _libraries(arch: Architecture) -> str:
    """Return an architecture's directory of libraries (Debian's multiarch)."""
    return f"/usr/lib/{arch.rpm}-linux-gnu"


@contextlib.contextmanager
def shown(programs: Path | None, root: Path, arch: Architecture) -> Iterator[list[tuple[Path, str]]]:
    """Yield what a sandbox on a tree has to show in it; at the end nothing of it is left in the tree.

    Args:
        programs: from :func:`make`; None for none.
        root: the tree; only programs that it has itself are shown, in their places.
        arch: that of the programs.
    """
    if programs is None:
        yield []
        return
    above = tree.inside(root, str(Path(_libraries(arch)).parent))
    before = above.stat()
    yield [(source, place) for source, place in binds(programs, arch) if _is_place(root, place)]
    with contextlib.suppress(FileNotFoundError):
        tree.inside(root, _libraries(arch)).rmdir()
    os.utime(above, ns=(before.st_atime_ns, before.st_mtime_ns))


def _is_place(root: Path, path: str) -> bool:
    place = root / path.lstrip("/")
    return not path.startswith("/usr/bin/") or (place.is_file() and not place.is_symlink())
