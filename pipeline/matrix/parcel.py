"""What an order takes along to a build server: its profile, the lock of its packages, and its overlays.

So an edit counts at once, without a commit and without a visit to any server.
"""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

from pipeline import profile
from pipeline.core.errors import InputError
from pipeline.matrix.model import Order, Workshop

PROFILES, OVERLAYS = "osprofiles", "overlays"
LOCKS = "locks"
LARGEST = 64_000_000  # bytes; the scheduler has that of every cell that is not done in its memory


def pack(order: Order) -> bytes:
    """Return what an order needs as a tar archive.

    Args:
        order: the cell, and where its profile and overlays are.

    Raises:
        InputError: it is too large to travel, or an overlay is missing.
    """
    where = order.workshop
    release = profile.select(profile.find(order.os, where.profiles), order.release, order.arch)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz", compresslevel=6) as archive:
        archive.add(where.profiles / f"{order.os}.yaml", f"{PROFILES}/{order.os}.yaml")
        lock = Path(LOCKS) / f"{order.name}.json"
        if (where.profiles / lock).is_file():
            archive.add(where.profiles / lock, f"{PROFILES}/{lock}")
        for name in release.overlays:
            if not (where.overlays / name).is_dir():
                raise InputError(
                    f"the profile names the overlay {name!r}, but there is no directory {where.overlays / name}",
                    hint="make it, or leave it out of the profile",
                )
            archive.add(where.overlays / name, f"{OVERLAYS}/{name}")
    if packed.tell() > LARGEST:
        raise InputError(
            f"profile and overlays of {order.name} are {packed.tell() / 1e6:.0f} MB; "
            f"at most {LARGEST / 1e6:.0f} MB travel to a build server",
            hint="put large files into a package of a repository that the profile names",
        )
    return packed.getvalue()


def unpack(packed: bytes, target: Path, *, build_dir: Path, mirror: str | None) -> Workshop:
    """Lay out what an order brought, and return where everything is on this server.

    Args:
        packed: from :func:`pack`.
        target: empty directory.
        build_dir: directory of this server's images.
        mirror: archive in place of the profiles' own, or None.
    """
    with tarfile.open(fileobj=io.BytesIO(packed), mode="r:gz") as archive:
        # Modes and links stay; Python before 3.11.4 has no filters (the idiom is that of its documentation).
        archive.extraction_filter = getattr(tarfile, "tar_filter", lambda member, _: member)
        archive.extractall(target)  # noqa: S202  who may order may run any program here anyway
    (target / OVERLAYS).mkdir(exist_ok=True)
    return Workshop(profiles=target / PROFILES, overlays=target / OVERLAYS, build_dir=build_dir, mirror=mirror)
