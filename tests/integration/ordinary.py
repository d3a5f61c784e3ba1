"""An ordinary user for tests that run as root: with entries in a private copy of the user tables, not in the host's."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

NAME = "node-image-tester"
ID = 64321
SUBORDINATE = f"{NAME}:1000000:65536\n"
TABLES = ("passwd", "group", "subuid", "subgid")


@dataclass(frozen=True)
class OrdinaryUser:
    """A user that exists in a private mount namespace only.

    Attributes:
        directory: owned by the user: home and scratch.
        hidden: programs that this user's world lacks.
        known: whether it has an entry in /etc/passwd.
        subordinate: what /etc/subuid and /etc/subgid say.
    """

    directory: Path
    hidden: tuple[str, ...] = ()
    known: bool = True
    subordinate: str = SUBORDINATE
    environment: dict[str, str] = field(default_factory=dict)

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return what runs a program as this user."""
        tables = self.directory.parent / f"{self.directory.name}.tables"
        tables.mkdir(exist_ok=True)
        for name, line in (
            ("passwd", f"{NAME}:x:{ID}:{ID}::{self.directory}:/bin/sh\n" if self.known else ""),
            ("group", f"{NAME}:x:{ID}:\n" if self.known else ""),
        ):
            (tables / name).write_text(Path("/etc", name).read_text() + line)
        for name in ("subuid", "subgid"):
            (tables / name).write_text(self.subordinate)
        lines = [f"mount --bind {shlex.quote(str(tables / name))} /etc/{name}" for name in TABLES]
        lines += [f"mount --bind /dev/null {shlex.quote(path)}" for path in self.hidden]
        lines.append(f'exec setpriv --reuid={ID} --regid={ID} --clear-groups "$@"')
        for name in ("subuid", "subgid"):
            if not Path("/etc", name).exists():
                Path("/etc", name).touch()  # what is mounted needs a place
        script = "set -e\n" + "\n".join(lines)
        return ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", *map(str, argv)]

    def env(self) -> dict[str, str]:
        """Return the user's environment."""
        base = {"HOME": str(self.directory), "PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
        return base | {"LANG": "C.UTF-8", "TMPDIR": str(self.directory)} | self.environment

    def run(self, argv: Sequence[str | Path], cwd: Path | str = "/") -> subprocess.CompletedProcess[str]:
        """Run a program to its end; its standard error is mixed into its output."""
        return subprocess.run(
            self.command(argv),
            env=self.env(),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )

    def can_read(self, path: Path) -> bool:
        return self.run(["test", "-r", path]).returncode == 0
