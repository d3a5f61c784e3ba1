"""Downloaded packages that builds share, and what keeps them from each other's feet."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from pipeline.core import progress
from pipeline.image import tree


@contextlib.contextmanager
def _locked(directory: Path, operation: int) -> Iterator[None]:
    """Hold a lock on a directory; it ends with its process, however that ends (flock(2))."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, operation)
        yield
    finally:
        os.close(lock)


@contextlib.contextmanager
def in_use(package_cache: Path) -> Iterator[None]:
    """Keep :func:`clear` away for a while."""
    package_cache.mkdir(parents=True, exist_ok=True)
    with _locked(package_cache, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Be the only one that works in a directory, which is made if need be; whoever is there is waited for."""
    directory.mkdir(parents=True, exist_ok=True)
    with _locked(directory, fcntl.LOCK_EX):
        yield


def clear(package_cache: Path) -> int:
    """Remove downloaded packages, unless a build is using them.

    Returns:
        The bytes that were freed.
    """
    if not package_cache.is_dir():
        return 0
    try:
        with _locked(package_cache, fcntl.LOCK_EX | fcntl.LOCK_NB):
            freed = sum(status.st_blocks * 512 for _, status in tree.walk(package_cache))
            tree.remove_below(package_cache)  # the directory stays: the next build waits for its lock
            return freed
    except BlockingIOError:
        progress.note(f"a build is using the packages in {package_cache}; they stay")
        return 0
