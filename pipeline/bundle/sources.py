"""The site's registry as a source of blobs: what a patch is made against is read back from there."""

from __future__ import annotations

import tempfile
from typing import IO, TYPE_CHECKING

from pipeline.bundle.model import BlobSource
from pipeline.core.errors import VerificationError
from pipeline.oci.faults import NotThereError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pipeline.oci.registry import Registry


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
