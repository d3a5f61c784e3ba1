"""Another kernel of the same kind, for the test that a kernel update inside a node leaves a machine that boots."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.core import namespace, process, progress
from pipeline.core.arch import Architecture
from pipeline.core.cache import Cache, cache_root
from pipeline.core.errors import PipelineError, VerificationError
from pipeline.image.bases import deb_apt, indexes, rpm_keys
from pipeline.image.bases.indexes import Indexed
from pipeline.image.bases.repositories import Repository, known
from pipeline.image.bases.sources import Source
from pipeline.image.boot import newest_first
from pipeline.profile import DebBase, RpmBase

# Packages of a kernel that can be installed in several versions; its tools and headers cannot.
SIDE_BY_SIDE = re.compile(r"kernel|kernel-core|kernel-modules(-\w+)?")


def other_kernel(base: DebBase | RpmBase, arch: Architecture, directory: Path) -> tuple[Path, ...]:
    """Fetch the packages of a kernel that is not in an image, from where the image's own packages came.

    Args:
        base: the profile's base, for its signing keys.
        arch: the image's architecture.
        directory: the image's directory, with its manifest.

    Returns:
        The packages, in the cache, to be installed together; none if there is no such image, or if the sources have no
        other kernel or cannot be reached (the user is told).

    Raises:
        VerificationError: an RPM package is not signed by a pinned key.
    """
    try:
        manifest = json.loads((directory / "manifest.json").read_text())
        packages = json.loads((directory / "packages.json").read_text())
    except (OSError, ValueError):
        return ()  # what is wrong with the image, its verification says
    try:
        with progress.step("fetch another kernel for the update test"):
            if isinstance(base, DebBase):
                return _of_deb(base, arch, manifest)
            return namespace.run_private(lambda: _of_rpm(base, arch, manifest, packages))
    except VerificationError:
        raise  # a forged package is no reason to go on without one
    except PipelineError as error:
        progress.note(f"no other kernel could be fetched: {error.message.splitlines()[0]}")
        return ()


def _kept(package: Path, name: str) -> Path:
    """Move a package to where fetched kernels are kept."""
    target = cache_root() / "packages" / "kernel-updates"
    target.mkdir(parents=True, exist_ok=True)
    return package.rename(target / name)


def _tell_of_none(installed: str) -> None:
    progress.note(f"the package sources offer no kernel besides {installed}")


def _of_deb(base: DebBase, arch: Architecture, manifest: Mapping[str, Any]) -> tuple[Path, ...]:
    with Cache(cache_root()) as cache, cache.workspace() as workspace:
        sources = [Source.model_validate(source) for source in manifest["provenance"]["sources"]]
        env = deb_apt.private_apt(base, arch, sources, workspace)
        return _fetch_deb(env, arch, manifest["kernels"], workspace)


def _fetch_deb(
    env: Mapping[str, str], arch: Architecture, installed: Sequence[str], workspace: Path
) -> tuple[Path, ...]:
    flavour = installed[0].split("-", 2)[2]  # 6.1.0-56-cloud-amd64: the rest of the name after version and ABI
    listed = process.run(["apt-cache", "pkgnames", "linux-image-"], env=env, capture=True).stdout.split()
    wanted = re.compile(rf"^linux-image-(\d[\d.]*-\d+-{re.escape(flavour)})$")
    others = {match[1] for name in listed if (match := wanted.match(name))} - set(installed)
    if not others:
        _tell_of_none(installed[0])
        return ()
    name = f"linux-image-{newest_first(others)[0]}"
    words = ["apt-get", "download", f"{name}:{arch.deb}"]
    process.run(words, env=env, cwd=workspace, network=True, what="fetching a kernel package")
    (package,) = workspace.glob("*.deb")
    return (_kept(package, package.name),)


def _of_rpm(
    base: RpmBase, arch: Architecture, manifest: Mapping[str, Any], packages: Sequence[Mapping[str, str]]
) -> tuple[Path, ...]:
    """Fetch and check; in the private namespace, as looking for keys unpacks packages."""
    with Cache(cache_root()) as cache, cache.workspace() as workspace:
        repositories = [_repository(source) for source in manifest["provenance"]["sources"]]
        offered = {
            item: fetch
            for fetch in [indexes.fetcher(repository, workspace) for repository in repositories]
            for item in indexes.packages(fetch)
            if item.arch == arch.rpm and SIDE_BY_SIDE.fullmatch(item.name)
        }
        chosen = choose(offered, [(row["name"], row["version"]) for row in packages])
        if not chosen:
            _tell_of_none(manifest["kernels"][0])
            return ()
        files = [offered[item](item.path) for item in chosen]
        rpm_keys.check_signatures(files, rpm_keys.trusted(base, repositories, workspace), workspace)
        return tuple(_kept(file, Path(item.path).name) for file, item in zip(files, chosen, strict=True))


def _repository(source: Mapping[str, str]) -> Repository:
    """Return a repository of a manifest; one on this machine with the key files that a mirror has beside it."""
    return known(source["id"], source["url"])


def choose(offered: Iterable[Indexed], installed: Sequence[tuple[str, str]]) -> tuple[Indexed, ...]:
    """Choose the newest kernel that is not installed, as the packages that an image has its own from.

    Args:
        offered: packages of kernels.
        installed: names and versions of an image's packages.

    Returns:
        The packages, of one version; none if there is no other kernel.
    """
    main = "kernel-core" if any(name == "kernel-core" for name, _ in installed) else "kernel"
    known = {version for name, version in installed if name == main}
    names = {name for name, version in installed if SIDE_BY_SIDE.fullmatch(name) and version in known} | {main}
    versions: defaultdict[str, dict[str, Indexed]] = defaultdict(dict)
    for item in offered:
        if item.name in names and item.version not in known:
            versions[item.version][item.name] = item
    candidates = [versions[other] for other in newest_first(versions) if main in versions[other]]
    # A repository may keep one part of a kernel longer than the others.
    whole = [parts for parts in candidates if parts.keys() == names]
    chosen = next(iter([*whole, *candidates]), {})
    return tuple(chosen[name] for name in sorted(chosen))
