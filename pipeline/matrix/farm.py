"""A farm of build servers: how it is reached, what its servers offer, and who may work with whom.

Dask's resources say what a server offers: ``amd64@VERSION`` is a cell that it builds natively,
``arm64-emulated@VERSION`` one that it builds under qemu-user. The version of the project is a part of the name, so Dask
itself never sends a cell to a server of another version.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.core import progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import DependencyError, InputError, NetworkError

if TYPE_CHECKING:
    from distributed import Security

ADDRESS = re.compile(r"(?P<protocol>tcp|tls)://(?P<host>\[[0-9a-fA-F:.]+\]|[^:/\[\]]+)(:(?P<port>[0-9]{1,5}))?/?")
PORT = 8786  # Dask's own default
METADATA = "node-images-version"  # where a scheduler says which version it is
EMULATED = "-emulated"
SETTINGS: dict[str, object] = {
    "logging": dict.fromkeys(("distributed", "distributed.client", "tornado", "bokeh"), "critical"),
    "distributed.scheduler.worker-ttl": "60 seconds",  # a server that was not heard of for so long is gone
    "distributed.comm.timeouts.connect": "20 seconds",
    "distributed.admin.large-graph-warning-threshold": "1 GB",  # overlays travel with the orders
}
VERSION_HINT = "bring both checkouts to one commit, without local changes below pipeline/; then start it again"


@dataclass(frozen=True)
class Address:
    """Where a scheduler is, or where something listens.

    Attributes:
        protocol: ``tcp`` or ``tls``.
        host: name or address.
        port: its port.
    """

    protocol: str
    host: str
    port: int

    @classmethod
    def parse(cls, text: str, *, option: str = "--scheduler", port: int = PORT) -> Address:
        """Read ``tls://HOST[:PORT]``.

        Args:
            text: what the user gave.
            option: where, for the error.
            port: the port if none is given.

        Raises:
            InputError: it is no such address.
        """
        found = ADDRESS.fullmatch(text)
        if found is None or int(found["port"] or port) > 65535:
            raise InputError(f"{option} {text!r} is no address", hint=f"write {option} tls://HOST:{PORT}, or tcp://...")
        return cls(found["protocol"], found["host"].strip("[]"), int(found["port"] or port))

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}"

    @property
    def is_any(self) -> bool:
        """Whether it stands for every interface."""
        return self.host in {"0.0.0.0", "::"}  # noqa: S104  compared with, not listened on

    @property
    def is_loopback(self) -> bool:
        """Whether nobody else can listen in."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"


@dataclass(frozen=True)
class Access:
    """How a farm is reached.

    Attributes:
        address: of its scheduler.
        ca: certificate of the authority that signed for everybody in the farm.
        cert: our own certificate.
        key: its private key.
    """

    address: Address
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None

    def check(self) -> None:
        """Refuse what cannot work, and warn of what anybody on the network could use.

        Raises:
            InputError: TLS without its files, a file that is not there, or files without TLS.
        """
        files = {"--ca": self.ca, "--cert": self.cert, "--key": self.key}
        if self.address.protocol == "tcp":
            if any(files.values()):
                raise InputError(f"certificates do not go with {self.address}", hint="write tls:// in place of tcp://")
            if not self.address.is_loopback:
                progress.note(
                    f"warning: {self.address} is without TLS: whoever reaches it can run programs on every server"
                )
            return
        for option, path in files.items():
            if path is None or not path.is_file():
                raise InputError(
                    f"{self.address} needs {option}" + (f", but there is no file {path}" if path else ""),
                    hint="docs/scaling.md says how to make an authority, certificates and keys with openssl",
                )

    def security(self) -> Security | None:
        """Return what Dask needs for TLS; None without it.

        Raises:
            InputError: the files are no certificates and key, or do not fit each other.
        """
        if self.address.protocol == "tcp":
            return None
        import ssl

        from distributed import Security

        roles = {f"tls_{role}_{what}": str(path) for role in ("client", "scheduler", "worker") for what, path in (
            ("cert", self.cert), ("key", self.key))}  # fmt: skip
        found = Security(tls_ca_file=str(self.ca), require_encryption=True, **roles)
        try:
            found.get_connection_args("client")
            found.get_listen_args("scheduler")
        except (ssl.SSLError, OSError) as error:
            raise InputError(
                f"{self.ca}, {self.cert} and {self.key} are no authority, certificate and key: {error}",
                hint="docs/scaling.md says how to make them with openssl",
            ) from error
        return found


@dataclass(frozen=True)
class Farm:
    """A farm that a matrix is built on.

    Attributes:
        access: how its scheduler is reached.
        artifacts: where images go: a directory that is the same on every server, or ``oci://REGISTRY/REPOSITORY``;
            None if they stay on the servers.
        emulation: whether a cell may be built under emulation where no server is of its architecture.
        patience: seconds to wait for another server when the last one of an architecture is gone.
    """

    access: Access
    artifacts: str | None = None
    emulation: bool = False
    patience: float = 60.0


def prepare_dask() -> None:
    """Set Dask up for builds, which take minutes, before it is imported; it prints nothing.

    What the user has set in Dask's own way, such as DASK_DISTRIBUTED__SCHEDULER__WORKER_TTL, stays.
    """
    import dask

    given = dask.config.collect()
    for key, value in SETTINGS.items():
        if dask.config.get(key, None, config=given) is None:
            dask.config.set({key: value})


def patience_to_connect() -> float:
    """Return for how many seconds a connection is tried."""
    import dask
    from dask.utils import parse_timedelta

    return float(parse_timedelta(dask.config.get("distributed.comm.timeouts.connect")))


def unreachable(access: Access, error: BaseException) -> NetworkError:
    """Return the error of one who cannot reach a scheduler."""
    causes = [str(one) for one in _causes(error) if str(one)]
    tls = [text for text in causes if "SSL" in text or "TLS" in text]
    hint = "is it running ('./invoke scheduler'), is the way to it free, and does it speak tcp, not tls?"
    if access.address.protocol == "tls":
        hint = (
            "is it running, and were its certificate and yours signed by the same authority (--ca)? does it speak tls?"
        )
    said = (tls or causes or [type(error).__name__])[-1]  # the innermost says most
    return NetworkError(f"the scheduler at {access.address} cannot be reached: {said[:500]}", hint=hint)


def mark(topic: str) -> str:
    """Return the name of a file that shows a build server that its logs are where those of the orders go."""
    return f".{topic}"


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


# ------------------------------------------------------------------------------------- what servers offer


@dataclass(frozen=True)
class Server:
    """A build server, as the scheduler knows it.

    Attributes:
        name: what it calls itself.
        version: of the project; empty if it is no server of this project.
        offers: names of what it can build.
    """

    name: str
    version: str
    offers: frozenset[str]


def offer(arch: Architecture, version: str, *, emulated: bool) -> str:
    """Return the name of what a server offers or a cell needs."""
    return f"{arch}{EMULATED if emulated else ''}@{version}"


def servers(info: Mapping[str, Any]) -> tuple[Server, ...]:
    """Return the servers that a scheduler knows.

    Args:
        info: Dask's ``scheduler_info``.
    """
    found = []
    for address, worker in info["workers"].items():
        offers = frozenset(name for name in worker["resources"] if "@" in name)
        version = next((name.partition("@")[2] for name in sorted(offers)), "")
        found.append(Server(str(worker.get("name") or address), version, offers))
    return tuple(sorted(found, key=lambda server: server.name))


def check_version(ours: str, theirs: str, who: str) -> None:
    """Refuse to work with another version of the project.

    Raises:
        InputError: it is another one; both are named.
    """
    if theirs != ours:
        raise InputError(f"{who} has version {theirs} of this project, and here is version {ours}", hint=VERSION_HINT)


def choose(
    arches: Iterable[Architecture], found: Sequence[Server], version: str, *, emulation: bool
) -> dict[Architecture, str]:
    """Choose for each architecture what a cell of it needs of a server: native if anybody is.

    Args:
        arches: those of the cells.
        found: the servers.
        version: ours.
        emulation: whether cells may be built under emulation.

    Raises:
        InputError: there are servers, all of another version.
        DependencyError: nobody offers one of the architectures.
    """
    ours = [server for server in found if server.version == version]
    others = [server for server in found if server.version not in ("", version)]
    for other in others:
        progress.note(
            f"server {other.name} is refused: it has version {other.version} of this project, and here is {version}"
        )
    if others and not ours:
        check_version(version, others[0].version, f"every server is of another version: {others[0].name}")
    wanted = sorted(set(arches))
    needs = {arch: _need(arch, ours, version, emulation=emulation) for arch in wanted}
    missing = [arch for arch, need in needs.items() if need is None]
    if missing:
        raise nobody_offers(missing, ours, version, emulation=emulation)
    return {arch: need for arch, need in needs.items() if need is not None}


def _need(arch: Architecture, found: Sequence[Server], version: str, *, emulation: bool) -> str | None:
    for emulated in (False, True) if emulation else (False,):
        name = offer(arch, version, emulated=emulated)
        if any(name in server.offers for server in found):
            return name
    return None


def nobody_offers(
    missing: Sequence[Architecture], found: Sequence[Server], version: str, *, emulation: bool
) -> DependencyError:
    """Return the error of cells that no server builds."""
    emulators = [
        server.name for server in found if all(offer(arch, version, emulated=True) in server.offers for arch in missing)
    ]
    words = " and ".join(missing)
    hint = f"start './invoke worker' on a machine of {words}, or choose others with --arch"
    if emulators and not emulation:
        hint += f"; with --allow-emulation {', '.join(emulators)} would build them under qemu-user, much slower"
    elif not emulators:
        hint += "; a server that may emulate is started with --emulate, and asked with --allow-emulation"
    return DependencyError(f"none of {len(found)} servers of this version builds images of {words}", hint=hint)
