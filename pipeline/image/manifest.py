"""The manifest: what is in an image, where it came from and what it weighs.

``manifest.json`` is for programs and people, ``packages.json`` lists packages, ``sbom.cdx.json`` is a CycloneDX bill of
materials, ``SHA256SUMS`` covers every file.
"""

from __future__ import annotations

import datetime
import json
import os
import stat
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import namespace, process
from pipeline.image import qcow2, tree
from pipeline.image.bases.deb import Package
from pipeline.image.bases.medium import Medium
from pipeline.image.bases.probe import Probe
from pipeline.image.boot import ESP
from pipeline.image.plan import Plan

LARGEST = 10
BLOCK = 4096  # of the image's root file system
TOOLS = {
    "mke2fs": ["mke2fs", "-V"],
    "sfdisk": ["sfdisk", "--version"],
}


@dataclass(frozen=True)
class Facts:
    """What the steps of a build know about an image.

    Attributes:
        packages: installed packages.
        kernels: versions of the kernels, the newest first.
        epoch: time of the newest input, in seconds since 1970.
        keys: key of every step.
        identifiers: UUIDs of the disk.
        maker: program and version that made the base tree.
        probe: what the base tree said of itself; None if it was not asked.
    """

    packages: Sequence[Package]
    kernels: Sequence[str]
    epoch: int
    keys: Mapping[str, str]
    identifiers: Mapping[str, str]
    maker: str
    probe: Probe | None = None


@dataclass(frozen=True)
class Description:
    """What can be said of an image before it is there.

    Attributes:
        manifest: all of ``manifest.json`` but what the file itself is.
        packages: rows of ``packages.json``.
        sbom: text of ``sbom.cdx.json``.
    """

    manifest: dict[str, object]
    packages: Sequence[Mapping[str, object]]
    sbom: str


def package_files(root: Path, family: str, packages: Sequence[Package]) -> dict[str, list[str]]:
    """Return the paths that each package brought; not all need be in the tree.

    To be called before the tree is sealed: rpm leaves files of its own beside its database, even of a query.
    """
    return _deb_files(root, packages) if family == "deb" else _rpm_files(root)


def describe(plan: Plan, root: Path, facts: Facts, files: Mapping[str, Sequence[str]]) -> Description:
    """Describe what goes into an image; only reads the tree, which may be written to its disk meanwhile.

    Args:
        plan: what is built.
        root: the sealed tree; that the files of the EFI system partition are taken out of it does not matter.
        facts: what else is known.
        files: from :func:`package_files`.
    """
    sizes = {path: _space(status) for path, status in tree.walk(root) if not path.startswith(f"{ESP}/")}
    per_package = {
        package.name: sum(sizes.get(path, 0) for path in files[package.name] if not (root / path).is_dir())
        for package in facts.packages
    }
    manifest = _names(plan) | {
        "epoch": facts.epoch,
        "kernels": list(facts.kernels),
        "page_size": plan.release.arch[plan.arch].page_size,
        "identifiers": dict(facts.identifiers),
        "steps": dict(facts.keys),
        "expectations": plan.release.verify.model_dump(mode="json"),
        "tree": {"size": sum(sizes.values()), "directories": _directory_sizes(sizes)},
        "largest_packages": dict(sorted(per_package.items(), key=lambda item: (-item[1], item[0]))[:LARGEST]),
        "provenance": _provenance(plan, facts),
    }
    rows = [package.model_dump() | {"size": per_package[package.name]} for package in facts.packages]
    return Description(manifest, rows, _sbom(plan, facts.packages, facts.epoch))


def write(target: Path, plan: Plan, image: Path, description: Description) -> None:
    """Write an image's manifest and what belongs to it.

    Args:
        target: directory that holds the image.
        plan: what was built.
        image: the finished qcow2.
        description: from :func:`describe`.
    """
    checksum = tree.file_sha256(image)
    file = {
        "file": image.name,
        "size": image.stat().st_size,
        "virtual_size": plan.release.disk.size,
        "sha256": checksum,
    }
    _write_json(target / "manifest.json", description.manifest | {"image": file})
    _write_json(target / "plan.json", plan.inputs)
    _write_json(target / "packages.json", description.packages)
    (target / "sbom.cdx.json").write_text(description.sbom)
    _write_checksums(target, {image.name: checksum})


def _space(status: os.stat_result) -> int:
    """Return the bytes that an entry takes in the image's file system.

    Not what it takes on this machine: there a file in many pieces needs blocks for their list, and a directory keeps
    the size it once had.
    """
    if stat.S_ISREG(status.st_mode):
        return -(-status.st_size // BLOCK) * BLOCK
    return BLOCK if stat.S_ISDIR(status.st_mode) else 0


def _names(plan: Plan) -> dict[str, object]:
    return {
        "schema": 1,
        "name": plan.name,
        "os": plan.os,
        "title": plan.title,
        "family": plan.family,
        "release": plan.release_name,
        "codename": plan.release.codename,
        "arch": plan.arch.value,
        "key": plan.key,
        "created": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
    }


def _write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def _deb_files(root: Path, packages: Sequence[Package]) -> dict[str, list[str]]:
    """Return the paths that each package brought, as dpkg notes them; not all need be in the tree."""
    info = root / "var/lib/dpkg/info"
    found = {}
    for package in packages:
        listing = info / f"{package.name}.list"
        if not listing.exists():  # packages that may be installed for several architectures
            listing = info / f"{package.name}:{package.architecture}.list"
        found[package.name] = [_merged(line.lstrip("/")) for line in listing.read_text().splitlines()]
    return found


def _rpm_files(root: Path) -> dict[str, list[str]]:
    """Return the paths that each package brought, as the target's own rpm says; not all need be in the tree."""
    words = ["rpm", "-qa", "--qf", "[%{=NAME}\\t%{FILENAMES}\\n]"]
    listed = namespace.in_tree(root, words, capture=True, what="listing the files of packages").stdout
    found: defaultdict[str, list[str]] = defaultdict(list)
    for line in listed.splitlines():
        name, path = line.split("\t", 1)
        found[name].append(_merged(path.lstrip("/")))
    return found


def _merged(path: str) -> str:
    """Return the real path of a file that its package puts below /bin, /lib or /sbin (merged /usr)."""
    return f"usr/{path}" if path.split("/")[0] in {"bin", "lib", "lib64", "sbin"} else path


def _directory_sizes(sizes: Mapping[str, int]) -> dict[str, int]:
    """Return bytes per directory, two levels deep, the largest first; each file counts once."""
    totals: Counter[str] = Counter()
    for path, size in sizes.items():
        totals["/".join(path.split("/")[:-1][:2]) or "."] += size
    return {path: size for path, size in totals.most_common() if size >= 1024**2}


def _provenance(plan: Plan, facts: Facts) -> dict[str, object]:
    words = ["git", "-c", "safe.directory=*", "-C", str(Path(__file__).parent)]  # another user's checkout will do
    words += ["describe", "--always", "--dirty", "--abbrev=12"]
    revision = process.run(words, env={"HOME": os.environ.get("HOME", "/")}, capture=True, check=False).stdout.strip()
    tools = {"base": facts.maker} | {name: _first_line(words) for name, words in TOOLS.items()}
    tools["zstd"] = qcow2.compressor()
    sources = [source.model_dump() for source in plan.sources]
    sources += [item.model_dump(include={"id", "url", "index"}) for item in plan.repositories]
    return {
        "revision": revision or "unknown",
        "sources": sources,
        "lock": plan.lock.digest if plan.lock else None,
        "tools": tools,
        "medium": _medium(plan.medium),
        "probe": facts.probe.model_dump(mode="json") if facts.probe else None,
    }


def _medium(medium: Medium | None) -> dict[str, str] | None:
    """Say what a tree was made from; in which directory that lay is this machine's business."""
    return {"kind": medium.kind, "digest": medium.digest, "file": medium.path.name} if medium else None


def _first_line(words: list[str]) -> str:
    completed = process.run(words, capture=True, check=False)  # some print their version as an error
    return next(iter([*completed.stdout.splitlines(), *completed.tail]), "").strip()


def _sbom(plan: Plan, packages: Sequence[Package], epoch: int) -> str:
    """Return a CycloneDX 1.5 bill of materials with one component for each package."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.bom import Bom
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.output.json import JsonV1Dot5
    from packageurl import PackageURL

    subject = Component(
        type=ComponentType.OPERATING_SYSTEM, name=plan.name, version=plan.release_name, bom_ref=plan.name
    )
    bom = Bom(serial_number=uuid.UUID(plan.key[:32]))
    bom.metadata.component = subject
    bom.metadata.timestamp = datetime.datetime.fromtimestamp(epoch, datetime.UTC)
    for package in packages:
        qualifiers = {"arch": package.architecture, "distro": f"{plan.os}-{plan.release_name}"}
        url = PackageURL(plan.family, plan.os, package.name, package.version, qualifiers)
        bom.components.add(
            Component(
                type=ComponentType.LIBRARY,
                name=package.name,
                version=package.version,
                purl=url,
                bom_ref=url.to_string(),
                publisher=package.maintainer,
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=package.sha256)],
            )
        )
    bom.register_dependency(subject, bom.components)
    return JsonV1Dot5(bom).output_as_string(indent=1) + "\n"


def _write_checksums(target: Path, known: Mapping[str, str]) -> None:
    """Write SHA256SUMS over every file; what is known already is not read again."""
    files = sorted(file for file in target.iterdir() if file.is_file() and file.name != "SHA256SUMS")
    lines = [f"{known.get(file.name) or tree.file_sha256(file)}  {file.name}\n" for file in files]
    (target / "SHA256SUMS").write_text("".join(lines))
