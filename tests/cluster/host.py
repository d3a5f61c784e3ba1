"""A host made of namespaces: a node of a cluster where a virtual machine would be too slow.

It has its own mounts, processes, host name, IPC, network and cgroups. Its root is this machine's under an overlay, with
its own /var, /opt, /root, /home, /srv, /tmp, /run and /dev, without this machine's containerd, etcd and Kubernetes, and
with a stand-in for systemctl (files/systemd_standin/__main__.py says what that does). Its cgroup namespace makes its
own group look like the top: a kubelet in it needs no --cgroup-root, and `/kubepods` of two hosts are not the same.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

from tests.cluster import cgroups
from tests.cluster.files.lan_guard import kill, remove_group, start_of

if TYPE_CHECKING:
    from tests.cluster.lan import Lan

FILES = Path(__file__).resolve().parent / "files"
PYTHON = "/usr/bin/python3"  # not that of .venv, which a host may not see
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
DEADLINE = 60.0
# Enters every group before a `--`, then does the rest.
JOIN = 'while [ "$1" != -- ]; do echo 0 >"$1/cgroup.procs" || exit 125; shift; done; shift; exec "$@"'
NAMESPACES = {"mount": "mnt", "uts": "uts", "ipc": "ipc", "net": "net", "pid": "pid", "cgroup": "cgroup"}


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a login on a node."""
    return {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "HOME": "/root", "TERM": "dumb"} | dict(extra or {})


class Host:
    """A host; made by `Lan.host`.

    Attributes:
        name: its host name.
        address: its address in the LAN.
        pid: its first process, as this machine counts.
    """

    def __init__(
        self, lan: Lan, name: str, address: str, *, memory: int | None, hidden: tuple[str, ...], disk: Path
    ) -> None:
        self.lan = lan
        self.name = name
        self.address = address
        self.pid = 0
        self.disk = disk
        self._memory = memory
        self._hidden = hidden
        self._groups: list[Path] = []
        self._lifeline: int | None = None
        self._start = ""
        self._errors = contextlib.ExitStack()
        self._outer: subprocess.Popen[bytes] | None = None

    # --- life

    def start(self) -> None:
        """Start it, again on the same disks: what is enabled is started, /run is empty, it has another boot id.

        Returns when it has its network; `systemctl is-system-running --wait` says when all that is enabled is up.
        """
        assert self._outer is None, f"{self.name} runs"
        self._groups = cgroups.make(f"{self.lan.mark}-{self.name}", self._memory)
        for group in self._groups:
            self.lan.watch(f"group {group}")
        lifeline, self._lifeline = os.pipe()
        ready, write = os.pipe()
        try:
            words = self._command(lifeline, write)
            errors = self._errors.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - closed when it is dead
            self._outer = subprocess.Popen(
                words, pass_fds=(lifeline, write), env=clean_environment(), start_new_session=True,
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors, cwd=os.sep,
            )  # fmt: skip
        finally:
            os.close(lifeline)
            os.close(write)
        said = os.read(ready, 16)
        os.close(ready)
        if said != b"ready":
            errors.seek(0)
            raise AssertionError(f"{self.name} did not come up: {errors.read().decode('utf-8', 'replace')}")
        self.pid = _child_of(self._outer.pid)
        self._start = start_of(self.pid)
        self.lan.watch(f"host {self.pid} {self._start}")
        self.lan.plug(self)
        os.write(self._lifeline, b"go")

    def _command(self, lifeline: int, ready: int) -> list[str]:
        mounted = [[one.name, one.kind, one.options] for one in cgroups.hierarchies()]
        config = {
            "name": self.name, "disk": str(self.disk), "files": str(FILES), "gateway": self.lan.address,
            "lifeline": str(lifeline), "ready": str(ready), "hidden": json.dumps(self._hidden),
            "cgroups": json.dumps(mounted),
        }  # fmt: skip
        join = ["sh", "-c", JOIN, "sh"]
        # The group's namespace is made in the group itself; then we leave that, as version 2 wants it empty.
        return [
            *join, *map(str, self._groups), "--", "unshare", "--cgroup",
            *join, *(str(group / "init.scope") for group in self._groups), "--",
            "nsenter", f"--mount=/proc/{self.lan.pid}/ns/mnt", "--",
            "unshare", "--mount", "--uts", "--ipc", "--net", "--pid", "--fork", "--kill-child",
            PYTHON, "-I", "-S", str(FILES / "host_init.py"), json.dumps(config),
        ]  # fmt: skip

    def kill(self) -> None:
        """Cut its power: every process is killed at once, its disk stays."""
        if self._outer is None:
            return
        kill(self.pid, self._start)
        self._outer.wait()
        self.cut()
        for group in self._groups:
            remove_group(group)
        self.forget()

    close = kill

    def cut(self) -> None:
        """Let go of the life line."""
        if self._lifeline is not None:
            os.close(self._lifeline)
            self._lifeline = None

    def forget(self) -> None:
        """Take note that it is dead."""
        if self._outer is not None:
            self._outer.wait()
        self._errors.close()
        self._outer, self._groups, self.pid = None, [], 0

    def resize_disk(self, size: str) -> None:
        """Make a disk that is in memory larger, or so small that it is full."""
        self.lan.in_mounts(["mount", "-o", f"remount,size={size}", self.disk])

    # --- use

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return what runs a program on the host."""
        assert self._outer is not None, f"{self.name} does not run"
        enter = [f"--{option}=/proc/{self.pid}/ns/{file}" for option, file in NAMESPACES.items()]
        scopes = [str(group / "init.scope") for group in self._groups]
        return ["sh", "-c", JOIN, "sh", *scopes, "--", "nsenter", *enter, "--", *map(str, argv)]

    def run(
        self,
        argv: Sequence[str | Path],
        *,
        check: bool = True,
        env: Mapping[str, str] | None = None,
        input: str | None = None,  # noqa: A002 - as subprocess calls it
        timeout: float | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the host to its end.

        Raises:
            subprocess.CalledProcessError: it failed, with what it said as notes.
            subprocess.TimeoutExpired: it did not end in time, and was killed.
        """
        words = list(map(str, argv))
        child = subprocess.Popen(
            self.command(words), env=clean_environment(env), text=True, errors="replace", start_new_session=True,
            stdin=subprocess.DEVNULL if input is None else subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, cwd=os.sep,
        )  # fmt: skip
        with child:
            try:
                stdout, stderr = child.communicate(input, timeout)
            except BaseException:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGKILL)  # nsenter's child, too
                raise
        done = subprocess.CompletedProcess(words, child.returncode, stdout, stderr)
        if check and done.returncode != 0:
            error = subprocess.CalledProcessError(done.returncode, words, stdout, stderr)
            error.add_note(f"on {self.name}, it said:\n{stdout}{stderr}")
            raise error
        return done

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        stdout: IO[bytes] | int | None = subprocess.DEVNULL,
        stderr: IO[bytes] | int | None = subprocess.STDOUT,
    ) -> subprocess.Popen[bytes]:
        """Start a program on the host, in a session of its own; it does not outlive the host."""
        return subprocess.Popen(
            self.command(argv), env=clean_environment(env), stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
            start_new_session=True, cwd=os.sep,
        )  # fmt: skip

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file on the host, with its directories."""
        script = 'mkdir -p -- "${1%/*}" && cat >"$1" && chmod "$2" "$1"'
        self.run(["sh", "-c", script, "sh", path, f"{mode:o}"], input=text)

    def read(self, path: str) -> str:
        """Return what is in a file of the host."""
        return self.run(["cat", path]).stdout

    def copy(self, source: Path, target: str) -> None:
        """Copy a file or a tree of this machine to the host."""
        with subprocess.Popen(
            ["tar", "--create", f"--directory={source.parent}", source.name],
            stdout=subprocess.PIPE,
            env=clean_environment(),
        ) as packer:
            unpack = 'tar --extract --no-same-owner --transform="s,^[^/]*,${1##*/},S"'  # S: not what links point to
            script = f'mkdir -p -- "${{1%/*}}" && cd "${{1%/*}}" && {unpack}'
            subprocess.run(
                self.command(["sh", "-c", script, "sh", target]),
                stdin=packer.stdout,
                check=True,
                env=clean_environment(),
            )
        assert packer.returncode == 0

    def wait(self, argv: Sequence[str | Path], *, timeout: float = DEADLINE) -> str:
        """Run a program until it succeeds; return what it printed."""
        deadline = time.monotonic() + timeout
        while (done := self.run(argv, check=False)).returncode != 0:
            assert time.monotonic() < deadline, f"{self.name}: {argv}: {done.stdout}{done.stderr}"
            time.sleep(0.1)
        return done.stdout


def _child_of(pid: int) -> int:
    """Return the only child of a process."""
    deadline = time.monotonic() + DEADLINE
    while time.monotonic() < deadline:
        for name in os.listdir("/proc"):
            with contextlib.suppress(OSError):
                if name.isdigit() and Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1] == str(pid):
                    return int(name)
    raise AssertionError(f"process {pid} has no child")
