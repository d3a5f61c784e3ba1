"""Other sources of blobs than bundles: what a patch is made against, read back from a registry or a layout."""

from __future__ import annotations

import tempfile
from typing import IO, TYPE_CHECKING

from pipeline.bundle.model import BlobSource
from pipeline.core.errors import VerificationError
from pipeline.oci import NotThereError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from pipeline.oci import Layout, Registry


class RegistrySource(BlobSource):
    """Blobs of a registry.

    Args:
        registry: the registry.
        repositories: where each blob may be, by its digest.
        scratch: directory for temporary files; the system's if not given.
    """

    def __init__(
        self, registry: Registry, repositories: Mapping[str, tuple[str, ...]], scratch: Path | None = None
    ) -> None:
        self._registry, self._repositories, self._scratch = registry, repositories, scratch

    def open_blob(self, digest: str, offset: int = 0) -> IO[bytes]:
        """Fetch a blob into a temporary file, which is checked, and open it.

        Raises:
            VerificationError: it is in none of the repositories.
            NetworkError: it cannot be had.
        """
        for repository in self._repositories.get(digest, ()):
            file = tempfile.TemporaryFile(dir=self._scratch)  # noqa: SIM115 - the caller closes it
            try:
                self._registry.get_blob(repository, digest, file)
            except NotThereError:
                file.close()
                continue
            except BaseException:
                file.close()
                raise
            file.seek(offset)
            return file
        raise VerificationError(f"{self._registry.host} lacks {digest}", hint="sync the base of this bundle first")


class FolderSource(BlobSource):
    """Blobs of an image layout.

    Args:
        layout: the layout.
    """

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def open_blob(self, digest: str, offset: int = 0) -> IO[bytes]:
        """Open a blob at an offset in bytes; its hash is not checked.

        Raises:
            VerificationError: it is not there.
        """
        path = self._layout.blob_path(digest)
        try:
            file = path.open("rb")
        except OSError as error:
            hint = "expand the base of this bundle first, into the same directory"
            raise VerificationError(f"{path}: {error.strerror}", hint=hint) from error
        file.seek(offset)
        return file


class FirstSource(BlobSource):
    """Several sources: a blob comes from the first one that has it.

    Args:
        sources: one at least.
    """

    def __init__(self, sources: Sequence[BlobSource]) -> None:
        self._sources = tuple(sources)

    def open_blob(self, digest: str, offset: int = 0) -> IO[bytes]:
        """Open a blob at an offset in bytes.

        Raises:
            VerificationError: none has it.
        """
        for source in self._sources[:-1]:
            try:
                return source.open_blob(digest, offset)
            except VerificationError:
                continue
        return self._sources[-1].open_blob(digest, offset)
