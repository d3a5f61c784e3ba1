"""Unpack archives of strangers into a tree: nothing in them is followed out of it.

Every path is resolved within the tree, link by link, as chroot(2) would have it; nobody else changes the tree
meanwhile. Sources: the image layer specification of OCI (whiteouts), tar(5), what containerd does where that is silent.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

from pipeline.core.errors import InputError, PipelineError
from pipeline.image import tree
from pipeline.image.bases.indexes import unpacked

ATTRIBUTE = "SCHILY.xattr."  # how GNU tar and container tools write extended attributes (star(5))
WHITEOUT, OPAQUE, OTHER_MARK = ".wh.", ".wh..wh..opq", ".wh..wh."
ZSTD = b"\x28\xb5\x2f\xfd"


@contextlib.contextmanager
def opened(file: Path, scratch: Path) -> Iterator[tarfile.TarFile]:
    """Open an archive, whatever it is compressed with.

    Args:
        file: the archive.
        scratch: directory for what Python cannot decompress as it reads.

    Raises:
        InputError: it is no archive, or is damaged.
    """
    with file.open("rb") as stream:
        is_zstd = stream.read(len(ZSTD)) == ZSTD
    try:
        with tarfile.open(unpacked(file, scratch) if is_zstd else file, "r:*") as archive:
            yield archive
    except (tarfile.TarError, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # gzip's own complaints have no number
            raise
        raise InputError(
            f"{file} cannot be read as an archive: {error}", hint="it is damaged: fetch it again"
        ) from error


def apply(archive: tarfile.TarFile, root: Path, *, is_layer: bool = False) -> None:
    """Unpack an archive over what a tree holds.

    Devices, pipes and sockets are left out: a running system makes its own. So are SELinux labels: files that the build
    adds have none, and a tree is labelled as a whole or not at all.

    Args:
        archive: from :func:`opened`.
        root: the tree.
        is_layer: whether names that begin with ``.wh.`` take files of earlier layers away.

    Raises:
        InputError: it names a path outside of the tree, or cannot be unpacked.
    """
    layer, name = _Layer(root, archive), Path(str(archive.name)).name
    for member in archive:
        try:
            layer.add(member, is_layer=is_layer)
        except PipelineError as error:
            raise InputError(f"{name}: {member.name}: {error.message}", hint=error.hint) from error
        except (NotADirectoryError, IsADirectoryError, FileNotFoundError, FileExistsError) as error:
            raise InputError(
                f"{name}: {member.name} cannot be unpacked: {error.strerror}", hint="the image is damaged"
            ) from error


class _Layer:
    """One archive on its way into a tree."""

    def __init__(self, root: Path, archive: tarfile.TarFile) -> None:
        self._root, self._archive = root, archive
        self._mine: set[Path] = set()  # what this archive has brought: whiteouts mean earlier ones

    def add(self, member: tarfile.TarInfo, *, is_layer: bool) -> None:
        if member.ischr() or member.isblk() or member.isfifo():
            return
        target = self._place(member.name)
        if target is None:
            return
        if is_layer and target.name.startswith(WHITEOUT):
            self._white_out(target)
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        _make_room(target, for_directory=member.isdir())
        self._make(member, target)
        _set_attributes(member, target)
        while target not in self._mine and target != self._root:
            self._mine.add(target)
            target = target.parent

    def _place(self, name: str) -> Path | None:
        """Return where a path of the archive is; None if it is the root itself."""
        parts = [part for part in PurePosixPath(name).parts if part not in {"/", "."}]
        if ".." in parts:
            raise PipelineError("the path leads out of the tree", hint="do not use this image: it is made to do harm")
        return tree.inside(self._root, "/".join(parts[:-1])) / parts[-1] if parts else None

    def _make(self, member: tarfile.TarInfo, target: Path) -> None:
        if member.isdir():
            target.mkdir(exist_ok=True)
        elif member.issym():
            target.symlink_to(member.linkname)
        elif member.islnk():
            source = self._place(member.linkname)
            if source is None or (source.is_dir() and not source.is_symlink()):
                raise PipelineError(f"a hard link to {member.linkname}", hint="the image is damaged")
            os.link(source, target, follow_symlinks=False)
        else:
            content = self._archive.extractfile(member)
            assert content is not None
            with content, target.open("xb") as stream:
                shutil.copyfileobj(content, stream, tree.CHUNK)

    def _white_out(self, mark: Path) -> None:
        if mark.name == OPAQUE:
            self._clear(mark.parent)
        elif not mark.name.startswith(OTHER_MARK):
            target = mark.with_name(mark.name.removeprefix(WHITEOUT))
            if target.name not in {"", ".", ".."} and target not in self._mine:
                _remove(target)

    def _clear(self, directory: Path) -> None:
        if not directory.is_dir() or directory.is_symlink():
            return
        for path in list(directory.iterdir()):
            if path not in self._mine:
                _remove(path)
            elif path.is_dir() and not path.is_symlink():
                self._clear(path)


def _make_room(target: Path, *, for_directory: bool) -> None:
    """Remove what is in the way: only a directory that becomes one again stays."""
    is_directory = target.is_dir() and not target.is_symlink()
    if not (is_directory and for_directory):
        _remove(target)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        tree.remove_below(path)
        path.rmdir()
    else:
        path.unlink(missing_ok=True)


def _set_attributes(member: tarfile.TarInfo, target: Path) -> None:
    if member.islnk():
        return
    try:
        os.lchown(target, member.uid, member.gid)
    except OSError as error:
        raise PipelineError(
            f"its owner {member.uid}:{member.gid} cannot be set: {error.strerror}", hint="build as root"
        ) from error
    if not member.issym():
        target.chmod(member.mode & 0o7777)
        for name, value in member.pax_headers.items():
            attribute = name.removeprefix(ATTRIBUTE)
            if attribute != name and _is_kept(attribute):
                os.setxattr(target, attribute, value.encode("utf-8", "surrogateescape"))
    os.utime(target, (member.mtime, member.mtime), follow_symlinks=False)


def _is_kept(attribute: str) -> bool:
    """Whether an extended attribute means something in an image; ``overlay`` would mean something to the build."""
    return attribute == "security.capability" or (
        attribute.startswith("user.") and not attribute.startswith("user.overlay.")
    )
