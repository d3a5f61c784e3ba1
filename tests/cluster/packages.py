"""Debian packages, downloaded and unpacked, not installed: some would start services, some are of another arch."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import urllib.parse
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.arch import Architecture
from tests.standin import debian

RELEASE = "12"
TRIPLETS = debian.TRIPLETS
LOADERS = {Architecture.AMD64: "lib64/ld-linux-x86-64.so.2", Architecture.ARM64: "lib/ld-linux-aarch64.so.1"}
LIBRARY_PLACES = ("lib/{}", "usr/lib/{}", "usr/lib/{}/perl-base")
VERSIONS = "packages.json"
TEXT_TAIL = 3000


def run(*words: str | Path, cwd: Path | None = None, **settings: str) -> str:
    """Run a program to its end; the error holds its last words."""
    env = dict(os.environ) | {"LC_ALL": "C.UTF-8"} | settings
    argv = [str(word) for word in words]
    done = subprocess.run(argv, capture_output=True, text=True, env=env, cwd=cwd, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(argv[:6])} … failed:\n{(done.stdout + done.stderr)[-TEXT_TAIL:]}")
    return done.stdout


def known_versions(names: Iterable[str]) -> list[str]:
    """Return what this machine's own apt would install; nothing is fetched for that."""
    printed = run("apt-cache", "policy", *names)
    found = re.findall(r"^(\S+):\n.*\n {2}Candidate: (\S+)$", printed, re.MULTILINE)
    return sorted(" ".join(words) for words in found)


@dataclass(frozen=True)
class Apt:
    """An apt of our own: this machine's archives with their sources and both architectures, and nothing installed.

    Attributes:
        directory: where its lists and settings are.
    """

    directory: Path

    @classmethod
    def updated(cls, directory: Path) -> Apt:
        """Make one anew, with lists of now."""
        shutil.rmtree(directory, ignore_errors=True)
        (directory / "lists/partial").mkdir(parents=True)
        (directory / "status").touch()
        signed = f"[signed-by={debian.ARCHIVE_KEYS}]"
        lines = [line.removeprefix("deb ") for line in debian.archive(RELEASE)]
        text = "".join(f"{kind} {signed} {line}\n" for line in lines for kind in ("deb", "deb-src"))
        (directory / "sources.list").write_text(text)
        apt = cls(directory)
        apt._run("update")
        return apt

    def closure(self, names: Sequence[str], target: Path) -> list[Path]:
        """Download packages and all that they need, from libc up."""
        (target / "partial").mkdir(parents=True)
        options = ("--yes", "--download-only", "--no-install-recommends", "-o", f"Dir::Cache::Archives={target}")
        self._run(*options, "install", *names)
        return sorted(target.glob("*.deb"))

    def download(self, names: Sequence[str], arch: Architecture, target: Path) -> list[Path]:
        """Download just these packages."""
        target.mkdir(parents=True)
        self._run("download", *(f"{name}:{arch.deb}" for name in names), cwd=target)
        return sorted(target.glob("*.deb"))

    def source(self, name: str, target: Path) -> Path:
        """Download a source package, which apt checks against the signed index, and return upstream's tarball."""
        target.mkdir(parents=True)
        self._run("source", "--download-only", "--tar-only", name, cwd=target)
        (tarball,) = target.glob("*.orig.tar.*")
        return tarball

    def _run(self, *words: str, cwd: Path | None = None) -> None:
        place, own = self.directory, Architecture.host().deb
        settings = {
            "Dir::Etc::SourceList": place / "sources.list",
            "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State": place,
            "Dir::State::Lists": place / "lists",
            "Dir::State::status": place / "status",
            "Dir::Cache": place,
            "APT::Architecture": own,
            "Acquire::Languages": "none",
            "APT::Sandbox::User": "root",  # the cache belongs to us, not to _apt
            "Debug::NoLocking": "1",
        }
        options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        options += [word for arch in Architecture for word in ("-o", f"APT::Architectures::={arch.deb}")]
        run("apt-get", "-qq", *options, *words, cwd=cwd)


def unpack(debs: Iterable[Path], target: Path) -> None:
    """Unpack packages into one tree; no script of theirs is run. ``packages.json`` tells their versions."""
    target.mkdir(parents=True, exist_ok=True)
    versions = {}
    for deb in debs:
        run("dpkg-deb", "--extract", deb, target)
        name, version, _ = deb.name.split("_")
        versions[name] = urllib.parse.unquote(version)
    (target / VERSIONS).write_text(json.dumps(versions, indent=1))


def upstream_version(tree: Path, name: str) -> str:
    """Return the version of a package in a tree without what Debian adds to it."""
    version = json.loads((tree / VERSIONS).read_text())[name]
    found = re.match(r"(?:\d+:)?([0-9.]+)", version)
    assert found, version
    return found[1]


@dataclass(frozen=True)
class Tree:
    """Packages of this machine's architecture with all that they need, so that their programs run wherever it is.

    Attributes:
        root: the directory.
        arch: what they are built for.
    """

    root: Path
    arch: Architecture

    @property
    def loader(self) -> Path:
        """The dynamic loader, which belongs to the tree's libc."""
        return self.root / LOADERS[self.arch]

    @property
    def library_path(self) -> str:
        """Directories of its libraries."""
        return ":".join(str(self.root / place.format(TRIPLETS[self.arch])) for place in LIBRARY_PLACES)

    def program(self, name: str) -> Path:
        """Return where a program is."""
        places = [self.root / place / name for place in ("usr/bin", "usr/sbin", "bin", "sbin")]
        return next(path for path in places if path.exists())

    def command(self, name: str) -> list[str]:
        """Return the words that start a program with the tree's own libraries, whatever the machine has."""
        return [str(self.loader), "--library-path", self.library_path, str(self.program(name))]

    def libraries(self, files: Iterable[Path]) -> dict[str, Path]:
        """Return the libraries that programs need, by name; what a file is a link to stands for it."""
        found: dict[str, Path] = {}
        for file in files:
            found.update(self._needed(file))
        return found

    def _needed(self, file: Path) -> Iterator[tuple[str, Path]]:
        printed = run(self.loader, "--library-path", self.library_path, "--list", file)
        for name, path in re.findall(r"^\s*(\S+) => (\S+) \(", printed, re.MULTILINE):
            if not Path(path).is_relative_to(self.root):
                raise RuntimeError(f"{file} needs {name}, which the tree has not")
            yield Path(name).name, Path(path).resolve()
