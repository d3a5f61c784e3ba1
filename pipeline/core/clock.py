"""Whether this machine's clock can be right: signatures, keys and certificates are judged by it."""

from __future__ import annotations

import time

from pipeline.core.errors import DependencyError

EARLIEST = 1735689600  # 2025-01-01: this project is younger
LATEST = 2**31 - 1  # 2038-01-19: later than what mke2fs can write into a file system


def check(now: float | None = None) -> str:
    """Return the time of this machine's clock (UTC), to be shown.

    Args:
        now: seconds since 1970 in place of it.

    Raises:
        DependencyError: the clock is certainly wrong.
    """
    seconds = time.time() if now is None else now
    shown = time.strftime("%Y-%m-%d %H:%M", time.gmtime(seconds))
    if not EARLIEST <= seconds <= LATEST:
        raise DependencyError(
            f"this machine's clock says {shown} UTC: signatures and certificates cannot be checked by it",
            hint="set it: as root, run 'timedatectl set-ntp true', or: date --utc --set='2026-01-31 12:00'",
        )
    return shown
