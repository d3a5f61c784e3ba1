"""A farm on this machine: a scheduler, build servers and one who orders, each in a network namespace of its own.

They meet on a bridge in the scheduler's namespace, from which nothing leads out; their addresses are of TEST-NET-2
(RFC 5737). Each server has a checkout of its own, without any profile or overlay: those travel with the orders.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from pipeline.core.arch import Architecture
from tests.integration import builds, processes
from tests.integration.builds import Project, Running
from tests.integration.registries import free_port

BRIDGE, HUB = "farm0", "198.51.100.1"
PORT, DASHBOARD = 8786, 8787
# Eleven seconds are the least that Dask can do: a line that was cut is noticed after these.
PATIENCE = {
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    "DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL": "12s",
}


def run(*words: str | Path) -> None:
    done = subprocess.run([*map(str, words)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{words}: {done.stderr}"


# ------------------------------------------------------------------------------------------ certificates


@dataclass(frozen=True)
class Papers:
    """An authority and what it signed, made as docs/scaling.md says."""

    ca: Path
    cert: Path
    key: Path

    @property
    def words(self) -> list[str]:
        return ["--ca", str(self.ca), "--cert", str(self.cert), "--key", str(self.key)]


def papers(folder: Path) -> Papers:
    """Make an authority, and one certificate for every member of a farm."""
    folder.mkdir()
    ca, cert, key = folder / "ca.pem", folder / "farm.pem", folder / "farm.key"
    new: list[str | Path] = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    run(*new, "-x509", "-days", "2", "-subj", "/CN=build farm", "-keyout", folder / "ca.key", "-out", ca)
    run(*new, "-subj", "/CN=member", "-keyout", key, "-out", folder / "farm.csr")
    signed: list[str | Path] = [
        "openssl",
        "x509",
        "-req",
        "-days",
        "2",
        "-CA",
        ca,
        "-CAkey",
        folder / "ca.key",
        "-CAcreateserial",
    ]
    run(*signed, "-in", folder / "farm.csr", "-out", cert)
    return Papers(ca, cert, key)


# ------------------------------------------------------------------------------------------ members


@dataclass
class Member:
    """A machine of the farm.

    Attributes:
        name: of the machine.
        address: its own.
        directory: its checkout.
        cache: its cache; all of them may share one.
        holder: the process that holds its network namespace; None for this machine itself.
        running: what was started on it.
    """

    name: str
    address: str
    directory: Path
    cache: Path
    holder: subprocess.Popen[bytes] | None = None
    running: list[Running] = field(default_factory=list)

    @property
    def build_dir(self) -> Path:
        return self.directory / "build"

    def enter(self) -> list[str]:
        """Return what runs a program there; it is replaced by the program, which dies with us."""
        inside = ["nsenter", f"--net=/proc/{self.holder.pid}/ns/net"] if self.holder else []
        return ["setpriv", "--pdeathsig", "KILL", *inside]

    def start(self, *words: str, log: Path | None = None) -> Running:
        """Start one of the commands there, in a session of its own."""
        env = dict(os.environ) | PATIENCE | {"XDG_CACHE_HOME": str(self.cache), "PYTHONDONTWRITEBYTECODE": "1"}
        env.pop("SOURCE_DATE_EPOCH", None)
        child = subprocess.Popen(
            [*self.enter(), *builds.command(*words)], cwd=self.directory, env=env, text=True, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        self.running.append(Running(child, log or self.build_dir / "logs/none.log"))
        return self.running[-1]

    def left(self) -> list[str]:
        """Return what builds should have removed."""
        orders = (self.build_dir / "orders").glob("tmp*")
        return [str(path) for path in [*orders, *self.build_dir.glob(".*"), *(self.build_dir / "logs").glob("*.out")]]

    def command(self, *words: str) -> tuple[int, str, str]:
        """Run one of the commands there to its end."""
        return self.start(*words).end()


class Farm:
    """The farm. Whatever is left of it ends with the context."""

    def __init__(
        self, place: Path, project: Project, papers: Papers | None = None, *, own_networks: bool = True
    ) -> None:
        self.place, self.project, self.papers, self.own_networks = place, project, papers, own_networks
        self.port = PORT if own_networks else free_port()
        self.members: dict[str, Member] = {}
        self.hub = self._member("scheduler", HUB if own_networks else "127.0.0.1")
        self.orderer = self._member("orderer", project=project)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for member in reversed(self.members.values()):
            for running in member.running:
                running.stop()
            if member.holder is not None:
                assert member.holder.stdin is not None
                member.holder.stdin.close()
                member.holder.wait()

    @property
    def url(self) -> str:
        return f"{'tls' if self.papers else 'tcp'}://{self.hub.address}:{self.port}"

    @property
    def words(self) -> list[str]:
        """Where the scheduler is, and the certificates."""
        return ["--scheduler", self.url, *(self.papers.words if self.papers else [])]

    def add(self, name: str) -> Member:
        """Add a machine on which nothing runs yet."""
        return self._member(name)

    def _member(self, name: str, address: str = "", project: Project | None = None) -> Member:
        directory = project.directory if project else self.place / name
        if project is None:
            ignored = shutil.ignore_patterns("build", "osprofiles", "overlays")
            shutil.copytree(self.project.directory, directory, ignore=ignored)
        address = address or (f"198.51.100.{10 + len(self.members)}" if self.own_networks else "127.0.0.1")
        member = self.members[name] = Member(name, address, directory, self.project.cache)
        if self.own_networks:
            self._connect(member)
        return member

    def _connect(self, member: Member) -> None:
        member.holder = subprocess.Popen(["unshare", "--net", "cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
        own, new = Path("/proc/self/ns/net"), Path(f"/proc/{member.holder.pid}/ns/net")
        while new.readlink() == own.readlink():
            time.sleep(0.01)
        run(*member.enter(), "ip", "link", "set", "lo", "up")
        if member.address == HUB:
            run(*member.enter(), "ip", "link", "add", BRIDGE, "type", "bridge")
            device = BRIDGE
        else:
            hub, device = self.hub, "eth0"
            peer = ["type", "veth", "peer", "name", "eth0", "netns", str(member.holder.pid)]
            run(*hub.enter(), "ip", "link", "add", f"to-{member.name}", *peer)
            run(*hub.enter(), "ip", "link", "set", f"to-{member.name}", "master", BRIDGE, "up")
        run(*member.enter(), "ip", "address", "add", f"{member.address}/24", "dev", device)
        run(*member.enter(), "ip", "link", "set", device, "up")

    def cut(self, member: Member) -> None:
        """Take a member's line away: no packet says so to anybody."""
        run(*self.hub.enter(), "ip", "link", "set", f"to-{member.name}", "nomaster")

    def schedule(self, *words: str) -> Running:
        """Start the scheduler; its dashboard is on every interface."""
        more = ["--dashboard", f":{DASHBOARD}" if self.own_networks else "127.0.0.1:0", *words]
        more += self.papers.words if self.papers else []
        everywhere = self.url.replace(HUB, "0.0.0.0")
        running = self.hub.start("scheduler", "--listen", everywhere, *more)
        wait_for(running, "the scheduler listens on")
        return running

    def serve(self, name: str, *words: str) -> Running:
        """Start a build server, on a new member or on one that is there."""
        member = self.members.get(name) or self.add(name)
        running = member.start("worker", *self.words, "--name", name, "-j", "1", *words)
        wait_for(running, f"{name} builds for {self.url}")
        return running

    def serve_here(self, *words: str) -> Running:
        """Start a build server in the checkout of the one who orders."""
        running = self.orderer.start("worker", *self.words, "--name", "here", "-j", "1", *words)
        wait_for(running, f"here builds for {self.url}")
        return running

    def order(self, *words: str, systems: str = "tiny") -> Running:
        """Start a matrix."""
        return self.orderer.start("matrix", *self.words, "--os", systems, "--arch", str(Architecture.host()), *words)

    def cells(self, name: str) -> list[processes.Process]:
        """Return every process that a server's cells consist of."""
        return [item for running in self.members[name].running for item in processes.descendants(running.process.pid)]

    def dashboard(self) -> str:
        """Return the first page of Dask's dashboard, as another machine sees it."""
        url = f"http://{self.hub.address}:{DASHBOARD}/status"
        words = [*self.orderer.enter(), "curl", "--silent", "--show-error", "--fail", "--max-time", "20", url]
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout


def wait_for(running: Running, text: str) -> str:
    """Wait for a line of progress that has a text in it; returns the line."""
    deadline = time.monotonic() + builds.SECONDS
    while not (found := [line for line in running.lines if text in line]):
        assert time.monotonic() < deadline, f"{text!r} did not come: {running.lines}"
        assert running.process.poll() is None, f"it ended before {text!r}: {running.lines}"
        time.sleep(0.02)
    return found[0]
