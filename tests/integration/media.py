"""Media made of the tiny distribution, and how a tree is made from one."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.core import namespace, progress
from pipeline.core.arch import Architecture
from pipeline.core.cache import Cache
from pipeline.image.bases import media
from pipeline.image.bases.medium import Medium, Request
from pipeline.image.bases.repositories import Repository
from pipeline.profile import RpmBase
from tests.integration import rpms

ARCH = Architecture.host()
FOREIGN = next(arch for arch in Architecture if arch is not ARCH)
PACKAGES = ("greeter", "rpm")
FSTAB = """\
/dev/mapper/vg-root / xfs defaults 0 0
UUID={boot} /boot ext4 defaults 0 0
UUID={esp} /boot/efi vfat defaults 0 0
/dev/mapper/vg-var /var xfs defaults 0 0
/dev/mapper/vg-swap none swap defaults 0 0
/dev/vdz1 /data ext4 defaults,nofail 0 0
"""


def base(key: str, **changes: object) -> RpmBase:
    data = {
        "kind": "rpm", "lineage": "el9", "releasever": "1", "fingerprints": [key], "database": "var/lib/rpm",
        "release_package": "tiny-release", "repositories": [{"id": "tiny", "url": "http://127.0.0.1:1/$basearch"}],
    }  # fmt: skip
    return RpmBase.model_validate(data | changes)


def request(described: RpmBase, **changes: object) -> Request:
    data: dict[str, object] = {
        "name": "Tiny 1", "base": described, "arch": ARCH, "packages": PACKAGES,
        "os_release": {"ID": "tiny", "VERSION_ID": "1"},
    }  # fmt: skip
    return Request(**(data | changes))  # type: ignore[arg-type]


def iso(target: Path, source: Path, *options: str) -> Path:
    """Write a directory into an ISO."""
    rpms.run("xorriso", "-as", "mkisofs", "-quiet", *(options or ("-R",)), "-V", "TINY", "-o", target, source)
    return target


def make(place: Path, found: Medium, asked: Request, name: str = "made") -> Path:
    """Make a tree as a build does, by way of a cache; returns what the base step leaves."""
    cache = place / f"{name}-cache"

    def work() -> Path:
        with Cache(cache) as store, store.workspace() as workspace:

            def fill(target: Path) -> None:
                media.make(found, asked, target, workspace=workspace, package_cache=place / "packages")
                media.note_probe(target)

            return store.obtain("base", {"name": name}, fill).path

    with progress.session(place / f"{name}.log"):
        media.prepare(found)
        return namespace.run_private(work)


def left(place: Path, name: str = "made") -> list[Path]:
    """Return what a making that failed has left behind."""
    cache = place / f"{name}-cache"
    return [path for pattern in (".tmp/*", "base/*") for path in cache.glob(pattern)]


def split(tiny: rpms.Distribution, target: Path) -> Path:
    """Lay a distribution out as the EL8 lineage does; returns the directory."""
    for number, name in enumerate(("BaseOS", "AppStream")):
        packages = target / name / "Packages"
        packages.mkdir(parents=True)
        for file in sorted(tiny.repository.glob("*.rpm"))[number::2]:
            shutil.copy(file, packages)
        rpms.index(target / name)
    return target


def resolved(kind: str, path: Path) -> Medium:
    found = media.resolve(kind, path, family="rpm")
    assert found is not None
    return found


def repository(place: Path) -> Sequence[Repository]:
    return (Repository(id="tiny", url=place.as_uri()),)


def lay_out(handle: Any, disk: str, *, root: int = 700) -> None:  # noqa: ANN401  the bindings have no types
    """Make what an installer makes: an ESP, /boot, and a volume group with XFS; the root's size is in MiB."""
    handle.part_init(disk, "gpt")
    for number, (first, last) in enumerate(((2048, 264191), (264192, 526335), (526336, -2048)), start=1):
        handle.part_add(disk, "p", first, last)
        assert number
    handle.mkfs("vfat", f"{disk}1")
    handle.mkfs("ext4", f"{disk}2")
    handle.pvcreate(f"{disk}3")
    handle.vgcreate("vg", [f"{disk}3"])
    for name, size in (("root", root), ("var", 400), ("swap", 32)):
        handle.lvcreate(name, "vg", size)
    for name in ("root", "var"):
        handle.mkfs("xfs", f"/dev/vg/{name}")
    handle.mkswap("/dev/vg/swap")


def install(handle: Any, disk: str, archive: Path) -> None:  # noqa: ANN401  as above
    handle.mount("/dev/vg/root", "/")
    for place, device in (("/boot", f"{disk}2"), ("/boot/efi", f"{disk}1"), ("/var", "/dev/vg/var")):
        handle.mkdir_p(place)
        handle.mount(device, place)
    handle.tar_in(str(archive), "/", xattrs=True)
    handle.write("/etc/fstab", FSTAB.format(boot=handle.vfs_uuid(f"{disk}2"), esp=handle.vfs_uuid(f"{disk}1")).encode())
    handle.umount_all()
