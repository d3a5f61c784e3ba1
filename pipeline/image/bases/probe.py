"""What a tree or a medium says of itself: tables and profiles are only the fallback.

A build asks the finished tree; ``doctor`` asks repositories and media without building.
"""

from __future__ import annotations

import collections
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from pipeline.core import namespace, process, progress
from pipeline.core.errors import InputError
from pipeline.image import tree
from pipeline.image.bases import dnf, indexes, rpmdb
from pipeline.image.bases.medium import parse_os_release
from pipeline.image.bases.repositories import Repository
from pipeline.profile import Boot, RpmBase

OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
BOOT_PACKAGES = re.compile(
    r"kernel(-core|-modules(-core)?|-64k(-core)?)?|grub2(-pc|-common|-tools(-minimal)?|-efi(-x64|-aa64)?(-modules)?)?|"
    r"grub2-pc-modules|shim(-x64|-aa64)?|efibootmgr|dracut(-config-generic|-config-rescue|-norescue)?|grubby"
)
EFI = "boot/efi/EFI"
EFI_FILE = re.compile(rf"^/{EFI}/([^/]+)/")
FALLBACK = "BOOT"  # the directory that every firmware looks into; no vendor's own
BACKENDS = {"Packages": "bdb", "Packages.db": "ndb", "rpmdb.sqlite": "sqlite"}


class Probe(BaseModel):
    """What was found; what could not be told is empty.

    Attributes:
        os_release: keys and values of os-release.
        rpm_version: version of the target's rpm.
        database: directory of its database, relative to the root.
        backend: what the database is: ``bdb``, ``ndb`` or ``sqlite``.
        payload: how its packages are compressed.
        boot_packages: kernel and boot packages, with their versions: installed ones of a tree, else those on offer.
        efi_vendors: directories below ``EFI/`` but for the fallback.
    """

    model_config = ConfigDict(frozen=True)

    os_release: dict[str, str] = {}
    rpm_version: str = ""
    database: str = ""
    backend: str = ""
    payload: str = ""
    boot_packages: tuple[str, ...] = ()
    efi_vendors: tuple[str, ...] = ()


def os_release(root: Path) -> dict[str, str]:
    """Read a tree's os-release; empty if it has none."""
    for name in OS_RELEASE:
        if (file := tree.inside(root, name)).is_file():
            return parse_os_release(file.read_text(errors="replace"))
    return {}


def product(root: Path) -> str:
    """Read what Kylin says of a release and its service pack; empty elsewhere."""
    file = tree.inside(root, "etc/.productinfo")
    return file.read_text(errors="replace").strip() if file.is_file() else ""


def of_tree(root: Path) -> Probe:
    """Ask a tree; to be called in the private namespace.

    Raises:
        ToolError: its rpm does not run.
    """
    form = r"%{NAME}\t%{VERSION}-%{RELEASE}\t%{PAYLOADCOMPRESSOR}\n"
    script = f"rpm -E %_dbpath; rpm -E %_db_backend; rpm -qa --qf '{form}'"
    asked = namespace.in_tree(root, ["/bin/sh", "-c", script], capture=True, what="asking the tree's rpm")
    path, backend, *listing = asked.stdout.splitlines()
    rows = [line.split("\t") for line in listing]
    database = path.strip("/") if path.startswith("/") else ""
    vendors = tree.inside(root, EFI)
    rpmdb.tidy(root, database)
    return Probe(
        os_release=os_release(root),
        rpm_version=next((version for name, version, _ in rows if name == "rpm"), ""),
        database=database,
        backend=_backend(tree.inside(root, database)) or (backend if "%" not in backend else ""),
        payload=_most(payload for _, _, payload in rows),
        boot_packages=tuple(sorted(f"{name}-{version}" for name, version, _ in rows if BOOT_PACKAGES.fullmatch(name))),
        efi_vendors=_vendors(entry.name for entry in vendors.iterdir()) if vendors.is_dir() else (),
    )


def of_repositories(base: RpmBase, repositories: Sequence[Repository], workspace: Path) -> Probe:
    """Ask repositories by their indexes and their release package; to be called in the private namespace.

    Args:
        base: names the release package.
        repositories: of a mirror, or of a medium that is being served.
        workspace: directory for intermediate files.

    Raises:
        NetworkError: an index or the release package cannot be had.
        InputError: there is no release package.
    """
    fetchers = [indexes.fetcher(item, workspace) for item in repositories]
    known = [(package, fetch) for fetch in fetchers for package in indexes.packages(fetch)]
    releases = [pair for pair in known if pair[0].name == base.release_package]
    if not releases:
        where = ", ".join(item.url for item in repositories)
        raise InputError(f"there is no package {base.release_package} at {where}", hint="correct 'release_package'")
    newest, fetch = max(releases, key=lambda pair: pair[0].built)
    file = fetch(newest.path)
    root = rpmdb.unpacked([file], workspace / "release", workspace)
    words: list[process.Argument] = ["rpm", "-qp", "--nosignature", "--qf", "%{PAYLOADCOMPRESSOR}", file]
    home = {"HOME": str(dnf.make_home(base, workspace))}
    payload = process.run(words, env=home, capture=True, what="reading the release package").stdout
    versions = {package.name: package.version for package, _ in sorted(known, key=lambda pair: pair[0].built)}
    boot = [name for name in versions if BOOT_PACKAGES.fullmatch(name)]
    paths = [
        path for fetch in fetchers for path in indexes.files(fetch, lambda name: name.startswith(("grub2", "shim")))
    ]
    return Probe(
        os_release=os_release(root),
        rpm_version=versions.get("rpm", ""),
        payload=payload.strip(),
        boot_packages=tuple(sorted(f"{name}-{versions[name]}" for name in boot)),
        efi_vendors=_vendors(match[1] for path in paths if (match := EFI_FILE.match(path))),
    )


def warn(found: Probe, base: RpmBase, boot: Boot) -> tuple[str, ...]:
    """Log what was found, and tell the user where a profile says something else.

    Args:
        found: from a probe.
        base: what the profile says of packages.
        boot: what it says of booting.

    Returns:
        What was told.
    """
    for name, value in found.model_dump().items():
        progress.log(f"probe: {name}: {value}")
    said = []
    if found.database and found.database != base.database:
        said.append(f"the profile's base.database is {base.database}; the medium's rpm says {found.database}")
    if found.efi_vendors and boot.efi_vendor.lower() not in map(str.lower, found.efi_vendors):
        said.append(
            f"the profile's boot.efi_vendor is {boot.efi_vendor}; the medium has {', '.join(found.efi_vendors)}"
        )
    for line in said:
        progress.note(line)
    return tuple(said)


def _backend(database: Path) -> str:
    return next((kind for name, kind in BACKENDS.items() if (database / name).is_file()), "")


def _vendors(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(sorted({name for name in names if name.upper() != FALLBACK}))


def _most(values: Iterable[str]) -> str:
    return next((value for value, _ in collections.Counter(sorted(values)).most_common(1)), "")
