"""A tree's package database: what this machine's rpm wrote there is replaced by the target's own (decision D3).

Sources: rpm(8), rpm-queryformat(7); what newer hosts do to older databases was seen in runs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from pipeline.core import namespace, process
from pipeline.core.errors import VerificationError
from pipeline.image import tree
from pipeline.image.bases.deb import Package
from pipeline.profile import RpmBase

RPMS_IN_TREE = "/run/rpms"
# What identifies an installed package beyond its name: the MD5 sum of its header and payload, which every rpm knows.
IDENTITY = "%{NAME}-%{VERSION}-%{RELEASE}.%{ARCH} %{SIGMD5}\\n"
ROW = "%{NAME}\\t%{EPOCHNUM}:%{VERSION}-%{RELEASE}\\t%{ARCH}\\t%{SIGMD5}\\t%{SOURCERPM}\\t%{VENDOR}\\n"


def rows(listing: str) -> dict[str, list[str]]:
    """Read what ``rpm -qa`` lists in the form ``ROW``: rows of fields, by identity."""
    found = [line.split("\t") for line in listing.splitlines() if not line.startswith("gpg-pubkey\t")]
    return {_identity(row): row for row in found}


def installed(root: Path, home: Path) -> dict[str, list[str]]:
    """Return what this machine's rpm has installed: rows of fields, by identity."""
    words = ["rpm", f"--root={root}", "-qa", "--qf", ROW]
    env = {"HOME": str(home)}
    return rows(process.run(words, env=env, capture=True, what="listing what was installed").stdout)


def _identity(row: Sequence[str]) -> str:
    return f"{row[0]}-{row[1].partition(':')[2]}.{row[2]} {row[3]}"


def identified(files: Sequence[Path], home: Path) -> dict[str, Path]:
    """Return package files by identity."""
    if not files:
        return {}
    words: list[process.Argument] = ["rpm", "-qp", "--nosignature", "--nodigest", "--qf", IDENTITY, *files]
    known = process.run(words, env={"HOME": str(home)}, capture=True, what="reading packages").stdout.splitlines()
    return dict(zip(known, files, strict=True))


def gathered(files: Mapping[str, Path], target: Path) -> Path:
    """Put packages into one directory, which rpm is shown.

    Args:
        files: by what they are called there.
        target: the directory; it is made.
    """
    target.mkdir()
    for name, file in files.items():
        place_beside(file, target / name)
    return target


def place_beside(file: Path, target: Path) -> None:
    """Give a file that nobody changes another name, or make a copy of it on another file system."""
    try:
        target.hardlink_to(file)
    except OSError:
        shutil.copyfile(file, target)


def file_name(name: str, version: str, architecture: str) -> str:
    """Return what rpm itself would call the file of a package, wherever it came from.

    Args:
        name: the package's name.
        version: ``[epoch:]version-release``.
        architecture: its own.
    """
    return f"{name}-{version.rpartition(':')[2]}.{architecture}.rpm"


def rewrite(root: Path, base: RpmBase, files: Path, epoch: int) -> None:
    """Have the target's own rpm write the database over the same files.

    From rpm 4.17 the time of installation follows SOURCE_DATE_EPOCH; what an older one writes is for
    :mod:`pipeline.image.bases.settle`.
    """
    tree.remove_below(tree.inside(root, base.database))
    script = (
        f"set -e; rpm --initdb; rpm -i --justdb --nodeps --noscripts --notriggers --nosignature --nodigest "
        f"--ignorearch --ignoreos --excludedocs {RPMS_IN_TREE}/*.rpm"
    )
    words = ["/bin/sh", "-c", script]
    env = {"SOURCE_DATE_EPOCH": str(epoch)}
    namespace.in_tree(root, words, env=env, binds=[(files, RPMS_IN_TREE)], what="writing the package database anew")


def seen(root: Path) -> dict[str, list[str]]:
    """Return what the target's own rpm sees: rows of fields, by identity."""
    words = ["/bin/sh", "-c", f"rpm -qa --qf '{ROW}'"]
    return rows(namespace.in_tree(root, words, capture=True, what="reading the package database").stdout)


def check(root: Path, expected: set[str]) -> None:
    """Ask the target's own rpm what it sees.

    Raises:
        VerificationError: it is not what was installed.
    """
    hint = "see the log of the base step; 'database' in the profile must be where the target's rpm looks"
    compare(expected, set(seen(root)), "the target's rpm does not see what was installed", hint=hint)


def compare(expected: set[str], found: set[str], what: str, *, hint: str) -> None:
    """Compare two sets of packages.

    Raises:
        VerificationError: they differ.
    """
    if found != expected:
        lost, strange = sorted(expected - found), sorted(found - expected)
        raise VerificationError(
            f"{what}: {len(lost)} packages are missing ({', '.join(lost[:3])}), {len(strange)} are unknown "
            f"({', '.join(strange[:3])})",
            hint=hint,
        )


def unpacked(files: Sequence[Path], target: Path, workspace: Path) -> Path:
    """Unpack a few packages for a look into them; nothing of theirs is run, and nothing is checked.

    Args:
        files: the packages.
        target: root of the directories that they make; it is made.
        workspace: directory for rpm's own.
    """
    home = workspace / f"home-{target.name}"
    home.mkdir(exist_ok=True)
    (home / ".rpmmacros").write_text("%_dbpath /var/lib/rpm\n")
    (target / "var/lib/rpm").mkdir(parents=True)
    words: list[process.Argument] = ["rpm", f"--root={target}", "--install", "--nodeps", "--noscripts", "--notriggers"]
    words += ["--nosignature", "--nodigest", "--ignorearch", "--ignoreos", "--excludedocs", "--replacefiles"]
    process.run([*words, *files], env={"HOME": str(home)}, what="unpacking packages for a look")
    return target


def tidy(root: Path, database: str) -> None:
    """Remove what a look into a Berkeley database leaves beside it, which differs from run to run."""
    for pattern in ("__db.*", ".*.lock"):
        for path in tree.inside(root, database).glob(pattern):
            path.unlink()


def write_packages(target: Path, found: Mapping[str, Sequence[str]], files: Mapping[str, Path]) -> None:
    """Write ``packages.json``.

    Args:
        target: directory that gets it.
        found: rows of the installed packages, by identity.
        files: what they were installed from, by identity; the sha256 of one that is not here stays empty.
    """
    packages = [_package(found[identity], files.get(identity)) for identity in sorted(found)]
    (target / "packages.json").write_text(json.dumps([item.model_dump() for item in packages], indent=1) + "\n")


def _package(row: Sequence[str], file: Path | None) -> Package:
    name, version, architecture, _, source, vendor = row
    return Package(
        name=name,
        version=version.removeprefix("0:"),
        architecture=architecture,
        sha256=tree.file_sha256(file) if file is not None else "",
        source=source,
        maintainer=vendor,
    )
