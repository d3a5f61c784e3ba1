"""What callers tell apart among a registry's faults."""

from __future__ import annotations

from pipeline.core.errors import NetworkError


class NotThereError(NetworkError):
    """The registry says that there is no such thing."""
