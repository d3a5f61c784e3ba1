"""Which encoder made a layer, proven by making it again; what was found out once is kept in the store.

Attributes of what is kept: one JSON file for each layer and version of the helper, ``{"encoder": {...} or null}``.
"""

from __future__ import annotations

import contextlib
import contextvars
import json
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from pipeline.bundle.codec import CARRIED, Encoder
from pipeline.bundle.identify import plausible, prove
from pipeline.bundle.store import check
from pipeline.core import progress
from pipeline.core.errors import InputError

if TYPE_CHECKING:
    from pipeline.bundle.codec import Codec
    from pipeline.bundle.model import BlobSource
    from pipeline.oci import Descriptor

GZIP = b"\x1f\x8b"  # RFC 1952, 2.3.1


def is_gzip(source: BlobSource, blob: Descriptor) -> bool:
    """Return whether a blob is gzip: by its first bytes, whatever is said of it."""
    if blob.size < len(GZIP):
        return False
    with source.open_blob(blob.digest) as file:
        return file.read(len(GZIP)) == GZIP


class Proofs:
    """Finds the encoders of layers; threads may share it.

    Args:
        folder: where findings are kept.
        codec: makes layers again.
    """

    def __init__(self, folder: Path, codec: Codec) -> None:
        self._folder, self._codec = folder / codec.id.rpartition(":")[2], codec

    def each(self, source: BlobSource, blobs: Sequence[Descriptor], threads: int) -> Iterator[Encoder | None]:
        """Yield the encoder of each gzip layer, in their order; None for one that nobody can make again.

        Args:
            source: where the layers are.
            blobs: the layers.
            threads: how many are looked at at once.

        Raises:
            ToolError: the helper failed.
        """
        with ThreadPoolExecutor(max(1, threads)) as pool:
            running = [pool.submit(contextvars.copy_context().run, self.encoder, source, blob) for blob in blobs]
            try:
                for one in running:
                    yield one.result()
            finally:
                pool.shutdown(cancel_futures=True)

    def encoder(self, source: BlobSource, blob: Descriptor) -> Encoder | None:
        """Return the encoder that makes a gzip layer again, byte for byte; None if there is none.

        Raises:
            ToolError: the helper failed.
            VerificationError: the layer is damaged.
        """
        path = self._folder / f"{blob.digest.rpartition(':')[2]}.json"
        is_kept, found = self._kept(path)
        if not is_kept:
            found = self._found(lambda: source.open_blob(blob.digest), blob)
        if is_kept or found is None:  # a damaged layer is made by nobody; and the proof of a good one is no proof of it
            check(source, blob.digest)
        if not is_kept:
            self._keep(path, {"encoder": found.to_json() if found else None})
        return found

    def _kept(self, path: Path) -> tuple[bool, Encoder | None]:
        """Return whether there is a finding, and what it is."""
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError, InputError):
            value = json.loads(path.read_bytes())["encoder"]
            return True, None if value is None else Encoder.from_json(value)
        return False, None

    def _found(self, open_blob: Callable[[], IO[bytes]], blob: Descriptor) -> Encoder | None:
        """Try those that make its beginning; the whole of it is the second trial, so a longer one is of no use."""
        for encoder in plausible(open_blob, blob.size, self._codec):
            if encoder.name not in CARRIED:
                progress.log(f"{blob.digest}: made by {encoder}; stored as it is")
                return None
            if prove(encoder, open_blob, blob.digest, self._codec):
                progress.log(f"{blob.digest}: made by {encoder}, proven")
                return encoder
            progress.log(f"{blob.digest}: begins as {encoder} makes it, but goes on otherwise")
        progress.log(f"{blob.digest}: made by no known encoder; stored as it is")
        return None

    def _keep(self, path: Path, value: dict[str, Any]) -> None:
        """Keep a finding; without room for it, it is found out again the next time."""
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                temporary.write_text(json.dumps(value, sort_keys=True))
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
