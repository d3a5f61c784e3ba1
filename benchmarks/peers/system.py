"""The system that the peers run on: a Debian tree of its own in the user's cache, entered with bubblewrap.

mkosi 25 needs a newer systemd-repart than Debian 12 has, and diskimage-builder wants programs that nothing else here
needs; so neither is installed on this machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from benchmarks import measure
from benchmarks.measure import Sample
from benchmarks.peers.recipe import PEERS_SUITE, Recipe
from pipeline.core import cache, process, progress
from pipeline.core.errors import DependencyError

PACKAGES = (
    "mkosi", "systemd", "systemd-repart", "python3-diskimage-builder", "debian-archive-keyring", "mmdebstrap",
    "debootstrap", "sudo", "kpartx", "e2fsprogs", "dosfstools", "mtools", "fdisk", "gdisk", "kmod", "cpio",
    "zstd", "xz-utils", "qemu-utils", "grub-common", "grub-pc-bin", "procps", "uidmap", "ca-certificates",
)  # fmt: skip
INSIDE = "/peer"  # where a peer's own directory is seen inside the sandbox
LONGEST_SECONDS = 3600
DISK = "image0.raw"  # what diskimage-builder calls its disk


def place() -> Path:
    """Return the directory of all that peers need, in the user's cache."""
    return cache.cache_root().parent / "node-images-peers"


@dataclass(frozen=True)
class System:
    """The tree that the peers run in.

    Attributes:
        tree: its root directory.
    """

    tree: Path

    def version(self, package: str) -> str:
        """Return the version of an installed package; empty if it is not installed."""
        words = ["dpkg-query", f"--admindir={self.tree}/var/lib/dpkg", "--show", "--showformat=${Version}", package]
        return process.run(words, capture=True, check=False).stdout.strip()

    def command(
        self, directory: Path, words: Sequence[str], *, env: Mapping[str, str], binds: Sequence[tuple[Path, str]] = ()
    ) -> list[str]:
        """Return the command that runs a program in the tree, in mount and PID namespaces of its own.

        Args:
            directory: what it sees as INSIDE.
            words: program and arguments.
            env: its environment, besides PATH.
            binds: (path on the host, path inside), shown read-only.
        """
        sandbox = ["timeout", "--kill-after=60", str(LONGEST_SECONDS), "bwrap", "--bind", str(self.tree), "/"]
        sandbox += [
            "--dev-bind",
            "/dev",
            "/dev",
            "--tmpfs",
            "/dev/mapper",
            "--proc",
            "/proc",
            "--ro-bind",
            "/sys",
            "/sys",
        ]
        for name in ("/run", "/tmp", "/var/tmp"):  # noqa: S108  inside the sandbox
            sandbox += ["--tmpfs", name]
        sandbox += ["--bind", str(directory), INSIDE, "--ro-bind", "/etc/resolv.conf", "/etc/resolv.conf"]
        for source, target in binds:
            sandbox += ["--ro-bind", str(source), target]
        sandbox += ["--unshare-pid", "--unshare-uts", "--hostname", "localhost", "--cap-add", "ALL"]
        sandbox += ["--die-with-parent", "--chdir", INSIDE, "--clearenv", "--setenv", "PATH", process.SYSTEM_PATH]
        for name, value in (process.clean_environment(network=True) | {"HOME": "/root"} | dict(env)).items():
            sandbox += ["--setenv", name, value]
        return [*sandbox, "--", *words]

    def run(
        self,
        directory: Path,
        words: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        binds: Sequence[tuple[Path, str]] = (),
    ) -> Sample:
        """Run a program in the tree to its end and time it; whatever loop devices it leaves are removed.

        Args:
            directory: what it sees as INSIDE; its output goes to the file ``output`` there.
            words: program and arguments.
            env: its environment, besides PATH.
            binds: (path on the host, path inside), shown read-only.

        Raises:
            ToolError: it failed.
        """
        with loops_removed():
            command = self.command(directory, words, env=env or {}, binds=binds)
            return measure.run(command, output=directory / "output")


@dataclass(frozen=True)
class Peer:
    """A peer and its directory.

    Attributes:
        system: what it runs on.
        recipe: what it makes.
        root: its own directory.
        package: that of the system that it is.
    """

    system: System
    recipe: Recipe
    root: Path
    package: ClassVar[str]

    def version(self) -> str:
        """Return its version."""
        return self.system.version(self.package)


def obtain(recipe: Recipe) -> System:
    """Return the peers' system; on first use it is made.

    Raises:
        DependencyError: the user is not root.
        ToolError: it cannot be made.
    """
    if os.geteuid() != 0:
        raise DependencyError("peers are measured as root only: diskimage-builder mounts loop devices", hint="use sudo")
    tree = place() / PEERS_SUITE
    stamp = tree / "made-of.json"
    wanted = json.dumps({"suite": PEERS_SUITE, "packages": PACKAGES})
    if not (stamp.is_file() and stamp.read_text() == wanted):
        with progress.step("the system that the peers run on"):
            _make(recipe, tree)
        stamp.write_text(wanted)
    return System(tree)


def _make(recipe: Recipe, tree: Path) -> None:
    if tree.exists():
        shutil.rmtree(tree)
    tree.parent.mkdir(parents=True, exist_ok=True)
    words = ["mmdebstrap", "--mode=root", "--variant=apt", f"--architectures={recipe.arch.deb}"]
    words += [
        "--dpkgopt=force-unsafe-io",
        f"--include={','.join(PACKAGES)}",
        '--aptopt=APT::Install-Recommends "false"',
    ]
    words += [PEERS_SUITE, str(tree), f"deb [signed-by={recipe.keyring}] {recipe.archive} {PEERS_SUITE} main"]
    process.run(words, network=True, what="making the system that the peers run on")
    (tree / "etc/hosts").write_text("127.0.0.1 localhost\n")  # sudo complains of a host name that it cannot resolve
    # Mount points that bubblewrap would else make in the tree at each use.
    for name in (INSIDE.lstrip("/"), "run", "tmp"):
        (tree / name).mkdir(exist_ok=True)


@contextlib.contextmanager
def loops_removed() -> Iterator[None]:
    """Detach the loop devices that a program left behind when it failed."""
    before = set(_loops())
    try:
        yield
    finally:
        for device in left_over(before, _loops()):
            process.run(["losetup", "--detach", device], check=False)


def _loops() -> dict[str, str]:
    shown = process.run(["losetup", "--json", "--list", "--output=NAME,BACK-FILE"], capture=True, check=False).stdout
    if not shown.strip():
        return {}
    return {row["name"]: row["back-file"] or "" for row in json.loads(shown)["loopdevices"]}


def left_over(before: set[str], now: Mapping[str, str]) -> list[str]:
    """Return the loop devices of diskimage-builder's disk and its partitions that were not there before.

    Args:
        before: names of the devices that were there.
        now: backing file of each that is there.
    """
    fresh = {name: Path(file.removesuffix(" (deleted)")).name for name, file in now.items() if name not in before}
    return [name for name, file in fresh.items() if file == DISK]
