"""Copies of this checkout with a small image to build, for tests that build, break and kill."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import yaml

from pipeline import quality
from pipeline.core import fingerprint
from pipeline.core.arch import Architecture
from tests.integration import processes
from tests.integration.ordinary import ID, OrdinaryUser

ROOT = quality.ROOT
NAME = f"tiny-1-{Architecture.host()}"
SECONDS = 600  # only a test that fails gets there
PART_OF_A_CHECKOUT = ("pipeline", "osprofiles", "overlays", "tasks.py")

# As few packages as a bootable image can have, from one suite: it changes with point releases only.
TINY: dict[str, Any] = {
    "name": "tiny",
    "title": "Tiny",
    "family": "deb",
    "default_release": "1",
    "releases": {
        "1": {
            "codename": "bookworm",
            "packages": ["grub2-common", "initramfs-tools", "shim-signed", "usr-is-merged", "zstd"],
            "arch": {
                "amd64": {"packages": ["grub-efi-amd64-signed", "grub-pc-bin", "linux-image-cloud-amd64"]},
                "arm64": {"packages": ["grub-efi-arm64-signed", "linux-image-cloud-arm64"]},
            },
            "overlays": ["tiny"],
            "disk": {"size": "1G", "esp_size": "64M"},
            "verify": {"os_release": {"ID": "debian"}, "services": [], "packages": ["zstd"], "modules": ["overlay"]},
        }
    },
}
# Slow enough to be interrupted.
SCRIPT = "#!/bin/bash\nset -Eeuo pipefail\nsleep 2\necho made by the script >/etc/tiny.done\n"


@dataclass
class Running:
    """A ./invoke build that runs in a session of its own, whose progress is read line by line."""

    process: subprocess.Popen[str]
    log: Path
    lines: list[str] = field(default_factory=list)
    _arrived: threading.Condition = field(default_factory=threading.Condition)
    _readers: list[threading.Thread] = field(default_factory=list)
    _output: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        for stream, lines in ((self.process.stderr, self.lines), (self.process.stdout, self._output)):
            self._readers.append(threading.Thread(target=self._read, args=(stream, lines)))
            self._readers[-1].start()

    def _read(self, stream: IO[str], lines: list[str]) -> None:
        with stream:
            for line in stream:
                with self._arrived:
                    lines.append(line.rstrip("\n"))
                    self._arrived.notify_all()

    def wait_for(self, text: str) -> None:
        """Wait for a line of progress that ends in this text."""
        with self._arrived:
            found = self._arrived.wait_for(
                lambda: any(line.endswith(text) for line in self.lines) or self.process.poll() is not None, SECONDS
            )
            assert found, f"{text!r} did not come: {self.lines}"
            assert any(line.endswith(text) for line in self.lines), f"it ended before {text!r}: {self.lines}"

    def wait_for_log(self, text: str) -> None:
        """Wait for a text in the log, where the output of every tool goes."""
        deadline = time.monotonic() + SECONDS
        while not (self.log.exists() and text in self.log.read_text(errors="replace")):
            assert time.monotonic() < deadline, f"{text!r} did not come"
            assert self.process.poll() is None, f"it ended before {text!r}: {self.lines}"
            time.sleep(0.02)

    def end(self) -> tuple[int, str, str]:
        """Wait for the end; returns exit status, standard output and standard error."""
        self.process.wait(SECONDS)
        for reader in self._readers:
            reader.join(SECONDS)
        return self.process.returncode, "\n".join(self._output), "\n".join(self.lines)

    def stop(self) -> None:
        """End it and everything in its session, whatever happened; for the end of a test."""
        for item in processes.in_session(self.process.pid):
            os.kill(item.pid, 9)
        self.end()


class Project:
    """A copy of the checkout that has the small image besides its own, with a cache."""

    def __init__(self, directory: Path, cache: Path, user: OrdinaryUser | None = None) -> None:
        self.directory, self.cache, self.user = directory, cache, user
        for path in quality.tracked_files():
            if path.parts[0] in PART_OF_A_CHECKOUT:
                (directory / path).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / path, directory / path)
        self.data: dict[str, Any] = json.loads(json.dumps(TINY))
        debian = yaml.safe_load((directory / "osprofiles/debian.yaml").read_text())["releases"]["12"]
        self.release["base"] = debian["base"] | {"suites": ["bookworm"]}
        self.release["boot"] = debian["boot"]
        self.release["disk"]["ext4_features"] = debian["disk"]["ext4_features"]
        self.write("overlays/tiny/root/etc/tiny.conf.j2", "{{ os }} {{ arch }}\n")
        self.write("overlays/tiny/scripts/10-tiny.sh", SCRIPT, mode=0o755)
        self.save()
        if user is not None:
            own(directory)

    @property
    def release(self) -> dict[str, Any]:
        """The image's release, to change; then :meth:`save`."""
        found: dict[str, Any] = self.data["releases"]["1"]
        return found

    @property
    def build_dir(self) -> Path:
        return self.directory / "build"

    @property
    def published(self) -> Path:
        return self.build_dir / NAME

    @property
    def log(self) -> Path:
        return self.build_dir / "logs" / f"{NAME}.log"

    def save(self) -> None:
        self.write("osprofiles/tiny.yaml", yaml.safe_dump(self.data))

    def write(self, path: str, text: str, mode: int = 0o644) -> Path:
        target = self.directory / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text)
        target.chmod(mode)
        return target

    def start(self, *words: str, wrapper: Sequence[str] = ()) -> Running:
        """Start ./invoke build for the small image; the wrapper is put before the command."""
        return self._started(command("build", *(words or ("--os", "tiny"))), wrapper)

    def _started(self, argv: list[str], wrapper: Sequence[str] = ()) -> Running:
        env = dict(os.environ)
        if self.user is not None:
            argv, env = self.user.command(argv), self.user.env()
        env |= {"XDG_CACHE_HOME": str(self.cache), "PYTHONDONTWRITEBYTECODE": "1"}
        env.pop("SOURCE_DATE_EPOCH", None)
        started = subprocess.Popen(
            [*wrapper, *argv],
            cwd=self.directory,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        return Running(started, self.log)

    def build(self, *words: str, wrapper: Sequence[str] = ()) -> tuple[int, str, str]:
        """Run ./invoke build to its end; returns exit status, standard output and standard error."""
        running = self.start(*words, wrapper=wrapper)
        status, out, err = running.end()
        sys.stdout.write(f"{out}\n{err}\n")  # for pytest to show
        return status, out, err

    def invoke(self, *words: str) -> tuple[int, str, str]:
        """Run any command to its end; returns exit status, standard output and standard error."""
        status, out, err = self._started(command(*words)).end()
        sys.stdout.write(f"{out}\n{err}\n")  # for pytest to show
        return status, out, err

    def in_the_way(self) -> list[str]:
        """Return what a build should have removed: intermediate files of the cache and of the build directory."""
        cached = list((self.cache / "node-images/.tmp").glob("*"))
        return [str(path) for path in [*cached, *self.build_dir.glob(".*")]]

    def manifest(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.published / "manifest.json").read_text())
        return found

    def image_sha256(self) -> str:
        found: str = self.manifest()["image"]["sha256"]
        return found

    def entry(self, kind: str) -> Path:
        """Return the cached step that the image was made from; the cache may hold those of other images as well."""
        data: Path = self.cache / "node-images" / kind / self.manifest()["steps"][kind] / "data"
        assert data.is_dir()
        return data


def command(*words: str) -> list[str]:
    """Return what runs one of the commands, in the directory of a project."""
    return [sys.executable, "-m", "invoke", *words]


def own(directory: Path) -> None:
    """Give a directory and what is below it to the ordinary user."""
    for path in [directory, *directory.rglob("*")]:
        os.lchown(path, ID, ID)


def check_published(directory: Path) -> None:
    """Check that an image is whole."""
    subprocess.run(
        ["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=directory, check=True, capture_output=True
    )
    names = {line.split()[1] for line in (directory / "SHA256SUMS").read_text().splitlines()}
    assert names == {file.name for file in directory.iterdir() if file.is_file()} - {"SHA256SUMS"}


def copy_packages(target: Path, *, link: bool = True) -> None:
    """Offer the packages that earlier builds of this user have downloaded, if there are any."""
    from pipeline.core.cache import cache_root

    source, place = cache_root() / "packages/deb", target / "node-images/packages/deb"
    place.mkdir(parents=True)
    (target / "node-images").chmod(0o700)
    for package in source.glob("*.deb"):
        copy_file(package, place / package.name, link=link)


def copy_file(source: Path, target: Path, *, link: bool) -> None:
    try:
        if link:
            os.link(source, target)
            return
    except OSError:  # another file system
        pass
    shutil.copy2(source, target)


def copy_entries(source: Path, target: Path, *kinds: str) -> None:
    """Copy cached steps from one cache to another, where they count as made."""
    for kind in kinds:
        (target / "node-images").mkdir(parents=True, exist_ok=True, mode=0o700)
        paths = [source / "node-images" / kind, target / "node-images" / kind]
        subprocess.run(["cp", "--archive", "--reflink=auto", *paths], check=True)
        for entry in paths[1].iterdir():
            meta = json.loads((entry / "meta.json").read_text())
            meta["fingerprint"] = fingerprint.of(entry / "data").digest
            (entry / "meta.json").write_text(json.dumps(meta))


def debugfs(raw: Path, offset: int, *commands: str) -> str:
    """Read an ext4 file system with e2fsprogs' own reader."""
    words = ["debugfs", "-f", "-", f"{raw}?offset={offset}"]
    return subprocess.run(words, input="\n".join(commands), capture_output=True, text=True, check=True).stdout


@dataclass(frozen=True)
class Unpacked:
    """An image's raw disk, to look into."""

    raw: Path

    def partition(self, name: str) -> tuple[int, int]:
        """Return first byte and length of a partition."""
        shown = subprocess.run(["sfdisk", "--json", self.raw], capture_output=True, text=True, check=True).stdout
        for part in json.loads(shown)["partitiontable"]["partitions"]:
            if part["name"] == name:
                return part["start"] * 512, part["size"] * 512
        raise AssertionError(f"no partition is called {name}")

    def read(self, path: str) -> str:
        return debugfs(self.raw, self.partition("root")[0], f'cat "{path}"').partition("\n")[2]

    def listing(self, path: str) -> set[str]:
        """Return the names in a directory."""
        shown = debugfs(self.raw, self.partition("root")[0], f'ls -p "{path}"')
        rows = [line.split("/") for line in shown.splitlines() if line.startswith("/")]
        return {row[5] for row in rows} - {".", ".."}


def unpack(image: Path, target: Path) -> Unpacked:
    subprocess.run(["qemu-img", "convert", "-O", "raw", image, target], check=True)
    return Unpacked(target)
