"""How a registry is reached."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.core.network import MIB, PATIENT


@dataclass(frozen=True)
class RegistryOptions:
    """How a registry is reached.

    Attributes:
        ca: certificate of the authority that signed for it, and for its token server; else the system's are used.
        insecure_tls: believe any certificate; only when the user asks for it.
        plain_http: no TLS at all; only when the user asks for it.
        auth_file: a docker ``config.json`` or podman ``auth.json``; without it there are no credentials.
        retries: attempts after the first one.
        backoff: seconds; the second attempt is made at once, the third after twice this, and the pause doubles on.
        timeout: seconds to wait for the next bytes.
        deadline: seconds that the attempts at one request, or at getting a blob further, may take in all.
        parallel: blobs that :func:`push` and :func:`pull` move at once.
        chunk_size: bytes of a blob that are sent at once when sending it whole has failed.
    """

    ca: Path | None = None
    insecure_tls: bool = False
    plain_http: bool = False
    auth_file: Path | None = None
    retries: int = PATIENT.retries
    backoff: float = PATIENT.backoff
    timeout: float = PATIENT.read_timeout
    deadline: float = 600.0
    parallel: int = 4
    chunk_size: int = 16 * MIB
