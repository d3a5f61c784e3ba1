"""What the commands at headquarters share: registries by host, bundles opened together, what to say at the end."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

from pipeline.bundle.archive import Archive
from pipeline.bundle.sources import FirstSource
from pipeline.oci import Registry

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from pipeline.oci import RegistryOptions

MB = 1e6


def registries(options: RegistryOptions) -> Callable[[str], Registry]:
    """Return what gives the registry of a host: one client for each, all reached in the same way."""
    return functools.cache(lambda host: Registry(host, options))


@contextlib.contextmanager
def opened(paths: Iterable[Path]) -> Iterator[tuple[Archive, ...]]:
    """Open bundles, each on those before it: a lean patch is made from layers of its base.

    Args:
        paths: their directories, the oldest first.

    Raises:
        InputError: one is none.
        VerificationError: one was altered.
    """
    with contextlib.ExitStack() as stack:
        archives: list[Archive] = []
        for path in paths:
            base = FirstSource(list(archives)) if archives else None
            archives.append(stack.enter_context(Archive.open(path, base=base)))
        yield tuple(archives)


def outcome(archive: Archive) -> str:
    """Return what is said of a bundle that was made."""
    bundle = archive.bundle
    size = sum(path.stat().st_size for path in archive.path.iterdir()) / MB
    base = f" on {', '.join(one.name for one in bundle.base.bundles)}" if bundle.base.bundles else ""
    return (
        f"{archive.path}: {bundle.kind} bundle{base}, {bundle.store}, {len(bundle.images)} images\n"
        f"{bundle.total / MB:.1f} MB of blobs in {len(bundle.volumes) + 1} volumes; with all that lies beside, "
        f"{size:.1f} MB\n{archive.id}\n"
        f"next: ./invoke bundle.verify {bundle.name}, and copy the whole directory to the site"
    )
