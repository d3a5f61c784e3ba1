"""Builds the helper: the small Go program that re-creates gzip streams as the container tools' libraries write them.

Its sources are in ``helper-go/``. What Go and klauspost's libraries write has stayed the same over the versions named
here; a stream that another version made is found out when it is compared (decision D13). No module of Go's is fetched:
the libraries come from Debian's packages, compiled the old way (``GO111MODULE=off``, ``go help gopath``).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import process, progress
from pipeline.core.arch import Architecture
from pipeline.core.cache import Cache, key_of
from pipeline.core.errors import DependencyError, ToolError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipeline.core.cache import Json

SOURCES = Path(__file__).with_name("helper-go")  # a name that is no module
KIND = "bundle-helper"
RECIPE = 1  # raised when this module builds in another way

OLDEST_GO, NEWEST_GO = (1, 19), (1, 26)  # from 1.27 on, compress/flate writes other bytes
SYSTEM_GO, SYSTEM_LIBRARIES = Path("/usr/lib"), Path("/usr/share/gocode")
COMPRESS, PGZIP, XXHASH = "github.com/klauspost/compress", "github.com/klauspost/pgzip", "github.com/cespare/xxhash"
PACKAGES = {
    COMPRESS: "golang-github-klauspost-compress-dev",
    PGZIP: "golang-github-klauspost-pgzip-dev",
    XXHASH: "golang-github-cespare-xxhash-dev",
}
HINT = (
    "install Go 1.19 to 1.26 and the Debian packages golang-github-klauspost-compress-dev and "
    "golang-github-klauspost-pgzip-dev, or let apt fetch them ('apt-get update'); "
    "bundles that are stored plain need no helper"
)


@dataclass(frozen=True)
class Toolchain:
    """What the helper is compiled with.

    Attributes:
        root: Go's own directory (``GOROOT``).
        libraries: directory with ``src/github.com/...`` (``GOPATH``).
        versions: of klauspost's libraries, by import path, for the helper to tell.
    """

    root: Path
    libraries: Path
    versions: Mapping[str, str]


def built(cache: Path) -> dict[Architecture, Path]:
    """Return the helper's programs if these sources have been built; else an empty dictionary."""
    folder = cache / KIND / key_of(KIND, _inputs()) / "data"
    found = {arch: folder / f"helper-{arch}" for arch in Architecture}
    return found if all(path.is_file() for path in found.values()) else {}


def build(cache: Path) -> dict[Architecture, Path]:
    """Return the helper's static programs, compiled if the cache does not have them.

    Args:
        cache: the cache's root, as :func:`pipeline.core.cache.cache_root` finds it.

    Raises:
        DependencyError: there is no Go or no library, and none can be fetched.
        ToolError: it does not compile.
        StorageError: the cache cannot be written.
    """
    with Cache(cache) as store:

        def make(target: Path) -> None:
            with store.workspace() as work:
                _compile(_toolchain(work), work, target)

        folder = store.obtain(KIND, _inputs(), make).path
        return {arch: folder / f"helper-{arch}" for arch in Architecture}


def _inputs() -> dict[str, Json]:
    sources = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(SOURCES.glob("*.go"))}
    return {"sources": sources, "recipe": RECIPE}


def _compile(tools: Toolchain, work: Path, target: Path) -> None:
    own = work / "own/src/helper"
    own.mkdir(parents=True)
    for path in SOURCES.glob("*.go"):
        shutil.copy(path, own)
    values = f"-X main.klauspost={tools.versions[COMPRESS]} -X main.pgzipVersion={tools.versions[PGZIP]}"
    for arch in Architecture:
        env = {
            "GOROOT": str(tools.root),
            "GOPATH": f"{work / 'own'}:{tools.libraries}",
            "GOCACHE": str(work / "go-cache"),
            "GO111MODULE": "off",
            "GOTOOLCHAIN": "local",  # never one that Go fetches by itself
            "GOENV": "off",
            "GOOS": "linux",
            "GOARCH": arch.oci,
            "CGO_ENABLED": "0",
        }
        words: list[str | Path] = [tools.root / "bin/go", "build", "-trimpath", "-ldflags", f"-s -w -buildid= {values}"]
        words += ["-o", target / f"helper-{arch}", "helper"]
        with progress.step(f"helper for {arch}"):
            process.run(words, env=env, cwd=own, what="compiling the helper of bundles")


# --- Go and its libraries


def _toolchain(work: Path) -> Toolchain:
    root = _installed_go() or _unpacked_go(work)
    versions = _installed_libraries()
    if versions:
        return Toolchain(root, SYSTEM_LIBRARIES, versions)
    tree, versions = _unpacked(list(PACKAGES.values()), work / "libraries")
    return Toolchain(root, tree / "usr/share/gocode", {path: versions[name] for path, name in PACKAGES.items()})


def _installed_go() -> Path | None:
    """Return the oldest Go that is installed and writes the bytes we know."""
    on_path = shutil.which("go", path=f"{os.environ.get('PATH', '')}:{process.SYSTEM_PATH}")
    roots = [*SYSTEM_GO.glob("go-1.*"), *([Path(on_path).resolve().parent.parent] if on_path else [])]
    usable = {version: root for root in roots if (version := _go_version(root)) and (root / "src/fmt").is_dir()}
    return usable[min(usable)] if usable else None


def _go_version(root: Path) -> tuple[int, ...] | None:
    """Return a Go's version if it is a known one; ``VERSION`` says ``go1.19.8``, later with a second line."""
    try:
        text = (root / "VERSION").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.match(r"go(\d+)\.(\d+)", text)
    version = tuple(map(int, found.groups())) if found and (root / "bin/go").is_file() else ()
    return version if OLDEST_GO <= version <= NEWEST_GO else None


def _unpacked_go(work: Path) -> Path:
    process.require("apt-get", hint=HINT)
    names = process.run(["apt-cache", "pkgnames", "golang-1."], capture=True, what="asking apt for Go").stdout.split()
    for minor in range(OLDEST_GO[1], NEWEST_GO[1] + 1):
        if f"golang-1.{minor}-go" in names:
            tree, _ = _unpacked([f"golang-1.{minor}-go", f"golang-1.{minor}-src"], work / "go")
            return tree / f"usr/lib/go-1.{minor}"
    raise DependencyError("there is no Go on this machine, and apt knows no golang-1.19-go or later", hint=HINT)


def _installed_libraries() -> dict[str, str]:
    """Return the versions of the libraries' packages; empty if one is not installed."""
    if not all((SYSTEM_LIBRARIES / "src" / path).is_dir() for path in PACKAGES) or not shutil.which("dpkg-query"):
        return {}
    words = ["dpkg-query", "--show", "--showformat", "${Package} ${Version}\\n", *PACKAGES.values()]
    found = dict(line.split(" ", 1) for line in process.run(words, capture=True).stdout.splitlines())
    return {path: _upstream(found[name]) for path, name in PACKAGES.items()}


def _unpacked(packages: Sequence[str], folder: Path) -> tuple[Path, dict[str, str]]:
    """Fetch packages with apt, which checks them, and unpack them without installing.

    Returns:
        The tree, and their upstream versions by name.
    """
    process.require("apt-get", hint=HINT)
    debs, tree = folder / "packages", folder / "tree"
    debs.mkdir(parents=True)
    words = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download", *packages]
    try:
        process.run(words, cwd=debs, network=True, what="fetching Go for the helper of bundles")
    except ToolError as error:
        raise DependencyError(error.message, hint=HINT) from error
    versions = {}
    for path in sorted(debs.glob("*.deb")):
        process.run(["dpkg-deb", "--extract", path, tree], what=f"unpacking {path.name}")
        name, version, _ = path.name.split("_")
        versions[name] = _upstream(version)
    return tree, versions


def _upstream(version: str) -> str:
    """Return a Debian version without its epoch, repackaging and revision: ``1.15.12+ds1-3`` is 1.15.12."""
    return re.sub(r"^\d+(:|%3a)|[+~-].*$", "", version)
