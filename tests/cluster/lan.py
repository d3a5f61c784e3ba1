"""A network of its own: a bridge in a namespace, to which hosts are joined, and from which nothing leads out.

    with Lan() as lan:
        first = lan.host("master-1", "10.77.0.11")
        first.run(["ping", "-c1", lan.address])

What listens for the hosts, a registry say, is started with `lan.popen` and listens on `lan.address`. All of it is gone
after the block, also if the test was killed: a guard holds the namespaces and waits for our end.
"""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import os
import secrets
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.cluster.host import FILES, PYTHON, Host, clean_environment

BRIDGE = "lan0"


class Lan:
    """A network and the hosts on it.

    Attributes:
        network: its addresses.
        address: the bridge's, the first of the network; the hosts' gateway.
        hosts: what was joined.
    """

    def __init__(self, network: str = "10.77.0.0/24", disks: Path | None = None) -> None:
        """Make a network.

        Args:
            network: its addresses; seen by its hosts only.
            disks: a directory for the hosts' disks, on a file system that may hold an overlay's upper directory
                (ext4, xfs, btrfs; not an overlay); else they are in memory, and gone with the network.
        """
        self.network = ipaddress.IPv4Network(network)
        self.address = str(self.network[1])
        self.disks = disks
        self.hosts: list[Host] = []
        self.mark = f"host-{secrets.token_hex(3)}"
        self._numbers = itertools.count(1)
        self._guard: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """The process that holds the namespaces."""
        assert self._guard is not None, "the network is not open"
        return self._guard.pid

    def open(self) -> None:
        words = [
            "unshare",
            "--mount",
            "--net",
            "--propagation=private",
            PYTHON,
            "-I",
            "-S",
            str(FILES / "lan_guard.py"),
        ]
        self._guard = subprocess.Popen(
            words,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
            env=clean_environment(),
        )
        assert self._guard.stdout is not None
        assert self._guard.stdout.readline() == "ready\n", "the guard did not start; is this root, and may it unshare?"
        try:
            self._furnish()
        except BaseException:
            self.close()
            raise

    def _furnish(self) -> None:
        self.run(["ip", "link", "set", "lo", "up"])
        self.run(["ip", "link", "add", BRIDGE, "type", "bridge", "stp_state", "0", "forward_delay", "0"])
        self.run(["ip", "address", "add", f"{self.address}/{self.network.prefixlen}", "dev", BRIDGE])
        self.run(["ip", "link", "set", BRIDGE, "up"])
        # Whatever is elsewhere cannot be reached, and says so at once: a kubelet looks for the metadata of clouds.
        self.run(["ip", "route", "add", "unreachable", "default"])
        self.run(["sh", "-c", "echo 0 >/proc/sys/net/ipv4/icmp_ratelimit; echo 1 >/proc/sys/net/ipv4/ip_forward"])
        # The hosts' own rules are for their own bridges; frames between hosts pass no filter.
        quiet = 'for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e "$f" ] || echo 0 >"$f"; done'
        self.run(["sh", "-c", quiet])
        if self.disks is None:
            self.in_mounts(["mount", "-t", "tmpfs", "-o", "mode=755,size=64k", "disks", "/mnt"])

    def close(self) -> None:
        """Kill every host and remove all of it."""
        guard, self._guard = self._guard, None
        if guard is None:
            return
        for host in self.hosts:
            with contextlib.suppress(OSError):
                host.cut()
        assert guard.stdin is not None
        assert guard.stdout is not None
        guard.stdin.close()
        status = guard.wait()
        guard.stdout.close()
        for host in self.hosts:
            host.forget()
        assert status == 0, "the guard could not remove all of the network; see its message"

    def host(
        self,
        name: str,
        address: str,
        *,
        memory: int | None = None,
        disk: str = "16g",
        hidden: Sequence[str] = (),
    ) -> Host:
        """Join a host to the network and start it.

        Args:
            name: its host name.
            address: its IPv4 address in this network.
            memory: bytes that all of it may use, without its disk; no limit if not given.
            disk: size of its disk if that is in memory; only what is written counts.
            hidden: files and directories of this machine that it lacks.
        """
        assert ipaddress.IPv4Address(address) in self.network, f"{address} is not in {self.network}"
        host = Host(self, name, address, memory=memory, hidden=tuple(hidden), disk=self._make_disk(name, disk))
        self.hosts.append(host)
        host.start()
        return host

    def _make_disk(self, name: str, size: str) -> Path:
        if self.disks is not None:
            directory = self.disks / name
            directory.mkdir(parents=True)
            return directory
        directory = Path("/mnt") / name
        self.in_mounts(["mkdir", directory])
        self.in_mounts(["mount", "-t", "tmpfs", "-o", f"mode=755,size={size}", f"disk-{name}", directory])
        return directory

    def watch(self, line: str) -> None:
        """Tell the guard of something that must not outlive us."""
        assert self._guard is not None
        assert self._guard.stdin is not None
        self._guard.stdin.write(f"{line}\n")
        self._guard.stdin.flush()

    def plug(self, host: Host) -> None:
        """Join a host that just started."""
        port = f"port{next(self._numbers)}"
        self.run(["ip", "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", str(host.pid)])
        self.run(["ip", "link", "set", port, "master", BRIDGE, "up"])
        inside = ["nsenter", f"--net=/proc/{host.pid}/ns/net", "ip"]
        for words in (
            ["link", "set", "lo", "up"],
            ["address", "add", f"{host.address}/{self.network.prefixlen}", "dev", "eth0"],
            ["link", "set", "eth0", "up"],
            ["route", "add", "default", "via", self.address],
        ):
            subprocess.run([*inside, *words], check=True, env=clean_environment())

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return what runs a program on the network, with this machine's files."""
        return ["nsenter", f"--net=/proc/{self.pid}/ns/net", *map(str, argv)]

    def in_mounts(self, argv: Sequence[str | Path]) -> None:
        """Run a program where the hosts' disks are."""
        words = ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", *map(str, argv)]
        subprocess.run(words, check=True, env=clean_environment())

    def run(
        self, argv: Sequence[str | Path], *, env: Mapping[str, str] | None = None, check: bool = True
    ) -> subprocess.CompletedProcess[str]:
        """Run a program on the network to its end."""
        return subprocess.run(
            self.command(argv),
            env=clean_environment(env),
            capture_output=True,
            text=True,
            check=check,
            stdin=subprocess.DEVNULL,
        )

    def popen(
        self, argv: Sequence[str | Path], *, output: Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a program on the network; it is killed with the thread that called."""
        with output.open("ab") as stream:
            words = ["setpriv", "--pdeathsig", "KILL", *self.command(argv)]
            return subprocess.Popen(
                words, env=clean_environment(env), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, cwd=os.sep
            )
