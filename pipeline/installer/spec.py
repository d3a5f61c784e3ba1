"""``cluster.yaml``: what a cluster is, as frozen models. What spans several keys is looked at in ``spec_checks``."""

from __future__ import annotations

import base64
import binascii
import enum
import re
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer, field_validator

from pipeline.core.arch import Architecture
from pipeline.core.document import Location, Model, load
from pipeline.core.errors import InputError
from pipeline.installer import spec_checks, spec_files
from pipeline.oci import Reference, is_repository

LABEL = r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?"
HOST = rf"{LABEL}(?:\.{LABEL})*"
LONGEST_LABEL, LONGEST_NAME, LONGEST_HOST = 63, 63, 253
HIGHEST_PORT = 65535
KEY_KINDS = (
    "ssh-ed25519", "ssh-rsa", "ecdsa-sha2-nistp256", "ecdsa-sha2-nistp384", "ecdsa-sha2-nistp521",
    "sk-ssh-ed25519@openssh.com", "sk-ecdsa-sha2-nistp256@openssh.com",
)  # fmt: skip
JOIN_SECRET = "join.secret"  # noqa: S105 - its file's name; no node may be called so, as its directory lies beside it


def _fits(pattern: str, text: str, longest: int) -> bool:
    return len(text) <= longest and re.fullmatch(pattern, text) is not None


def _label(text: str) -> str:
    if not _fits(LABEL, text, LONGEST_LABEL):
        raise ValueError(f"{text!r} is no name: lower-case letters, digits and hyphens, at most {LONGEST_LABEL}")
    return text


def _node_name(text: str) -> str:
    labels = text.split(".")
    if not _fits(HOST, text, LONGEST_NAME) or max(map(len, labels)) > LONGEST_LABEL or labels[-1].isdigit():
        raise ValueError(f"{text!r} is no host name: lower-case letters, digits, hyphens and dots, at most 63")
    if text in {"localhost", JOIN_SECRET}:
        raise ValueError(f"no node can be called {text!r}")
    return text


def _host(text: str) -> str:
    if not spec_checks.is_address(text) and (not _fits(HOST, text, LONGEST_HOST) or text.split(".")[-1].isdigit()):
        raise ValueError(f"{text!r} is neither a host name in lower case nor an IPv4 address")
    return text


def _host_port(text: str) -> str:
    host, colon, port = text.partition(":")
    _host(host)
    if colon and not (port.isascii() and port.isdigit() and 0 < int(port) <= HIGHEST_PORT):
        raise ValueError(f"{port!r} is no port")
    return text


def _repository(text: str) -> str:
    host, _, path = text.partition("/")
    _host_port(host)
    if not is_repository(path):
        raise ValueError(f"{text!r} must be HOST[:PORT]/PATH, the path in lower case")
    return text


def _mirror(text: str) -> str:
    return _repository(text) if "/" in text else _host_port(text)


def _image(text: str) -> str:
    try:
        image = Reference.parse(text)
    except InputError as error:
        raise ValueError(f"{error.message}; {error.hint}") from error
    if image.digest is None or not image.digest.startswith("sha256:"):
        raise ValueError(f"{text!r} must name its digest, @sha256:..., as ./invoke installer.push prints it")
    return text


def _address(value: object) -> IPv4Address:
    if not isinstance(value, str) or not spec_checks.is_address(value):
        raise ValueError(f"{value!r} is not an IPv4 address")
    return IPv4Address(value)


def _cidr(value: object) -> IPv4Network:
    if not isinstance(value, str) or "/" not in value:
        raise ValueError(f"{value!r} is not a network: write it as 10.244.0.0/16")
    try:
        return IPv4Network(value)
    except ValueError as error:
        near = spec_checks.network(value)
        raise ValueError(f"{value!r} is not a network{f'; did you mean {near}?' if near else ''}") from error


def _ssh_key(text: str) -> str:
    kind, _, rest = text.strip().partition(" ")
    try:
        data = base64.b64decode(rest.partition(" ")[0], validate=True)
    except (binascii.Error, ValueError):
        data = b""
    size = int.from_bytes(data[:4], "big")
    if kind not in KEY_KINDS or data[4 : 4 + size] != kind.encode() or not text.strip().isprintable():
        shown = text if len(text) < LONGEST_NAME else f"{text[:LONGEST_NAME]}…"
        raise ValueError(f"{shown!r} is not a public key of OpenSSH on one line (ssh-ed25519 AAAA... comment)")
    return text.strip()


_as_text = PlainSerializer(str, return_type=str)
Label = Annotated[str, AfterValidator(_label)]
Host = Annotated[str, AfterValidator(_host)]
Address = Annotated[IPv4Address, BeforeValidator(_address), _as_text]
Cidr = Annotated[IPv4Network, BeforeValidator(_cidr), _as_text]
Interface = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,14}$")]
SshKey = Annotated[str, AfterValidator(_ssh_key)]
Port = Annotated[int, Field(ge=1, le=HIGHEST_PORT)]


class Role(enum.StrEnum):
    """What a node is in its cluster."""

    FIRST_MASTER = "first-master"
    MASTER = "master"
    WORKER = "worker"


class Balancer(enum.StrEnum):
    """What stands in front of the API: nothing, the site's own, nginx on every node, or an address that moves."""

    NONE = "none"
    EXTERNAL = "external"
    NGINX = "nginx"
    VIP = "vip"


class Cni(enum.StrEnum):
    """The pod network: the payload's own, or one that the site applies."""

    BRIDGE = "bridge"
    NONE = "none"


class Registry(Model):
    """The site's registry.

    Attributes:
        host: ``host[:port]``.
        address: what its host is in ``/etc/hosts``; without it, DNS knows the host.
        ca: file with the PEM certificate of who signed the registry's own, relative to the spec.
        auth_file: ``config.json`` of docker or ``auth.json`` of podman, relative to the spec.
        mirror: ``host[:port][/path]`` that is asked before it.
        image_repository: where the images of Kubernetes are in it.
    """

    host: Annotated[str, AfterValidator(_host_port)]
    address: Address | None = None
    ca: str | None = None
    auth_file: str | None = None
    mirror: Annotated[str, AfterValidator(_mirror)] | None = None
    image_repository: Annotated[str, AfterValidator(_repository)]


class Endpoint(Model):
    """Where the API is found.

    Attributes:
        host: its name in certificates and kubeconfigs.
        port: its port.
        balancer: what stands in front of the masters.
        address: of the host, in ``/etc/hosts``; with a VIP, the address itself.
        interface: of the masters, that has the VIP; without it, that of the node's address.
    """

    host: Host
    port: Port
    balancer: Balancer
    address: Address | None = None
    interface: Interface | None = None


class Networks(Model):
    """The cluster's own networks.

    Attributes:
        pods: addresses of pods; every node gets a /24 of it.
        services: addresses of services.
        dns_domain: the cluster's domain.
    """

    pods: Cidr
    services: Cidr
    dns_domain: Annotated[str, Field(pattern=rf"^{HOST}$", max_length=LONGEST_HOST)] = "cluster.local"


class Addons(Model):
    """Which add-ons of kubeadm are installed.

    Attributes:
        coredns: the cluster's DNS.
        kube_proxy: the services' addresses.
    """

    coredns: bool = True
    kube_proxy: bool = True


class StaticNetwork(Model):
    """The settings of a node's interface, where no DHCP gives it its address.

    Attributes:
        mac: by which the interface is found.
        prefix: length of the network's prefix.
        gateway: the default route.
        nameservers: who is asked for names.
        interface: what the interface is called from then on.
    """

    mac: Annotated[str, Field(pattern=r"^[0-9a-f]{2}(:[0-9a-f]{2}){5}$")]
    prefix: Annotated[int, Field(ge=8, le=30)]
    gateway: Address | None = None
    nameservers: tuple[Address, ...] = ()
    interface: Interface = "eth0"


class Node(Model):
    """One node.

    Attributes:
        name: its host name.
        role: what it is in the cluster.
        address: by which the other nodes reach it.
        arch: its architecture.
        network: its static settings; without them, DHCP.
        ssh_authorized_keys: who may log in here, besides those who may everywhere.
    """

    name: Annotated[str, AfterValidator(_node_name)]
    role: Role
    address: Address
    arch: Architecture
    network: StaticNetwork | None = None
    ssh_authorized_keys: tuple[SshKey, ...] = ()


class ClusterSpec(Model):
    """``cluster.yaml``.

    Attributes:
        name: the cluster's name.
        kubernetes: its version, which must be the payload's.
        installer: the installer image, by digest.
        registry: the site's registry.
        endpoint: where the API is found.
        networks: the cluster's own networks.
        cni: the pod network.
        addons: which add-ons there are.
        nodes: all nodes.
        ssh_authorized_keys: OpenSSH public keys that may log in on every node.
        ntp: time servers; without them, those of DHCP.
        keep_releases: how many releases of the payload a node keeps.
    """

    name: Label
    kubernetes: Annotated[str, Field(pattern=r"^v1\.[0-9]+\.[0-9]+$")]
    installer: Annotated[str, AfterValidator(_image)]
    registry: Registry
    endpoint: Endpoint
    networks: Networks
    cni: Cni
    addons: Addons = Addons()
    nodes: Annotated[tuple[Node, ...], Field(min_length=1)]
    ssh_authorized_keys: tuple[SshKey, ...] = ()
    ntp: tuple[Host, ...] = ()
    keep_releases: Annotated[int, Field(ge=1, le=99)] = 3

    @field_validator("nodes")
    @classmethod
    def _first_master_first(cls, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        return tuple(sorted(nodes, key=lambda node: list(Role).index(node.role)))

    @property
    def masters(self) -> tuple[Node, ...]:
        """The nodes that run the API, the first one first."""
        return tuple(node for node in self.nodes if node.role is not Role.WORKER)


@dataclass(frozen=True)
class Site:
    """A cluster and the files that its spec names.

    Attributes:
        cluster: the spec.
        ca: certificates of the registry's authority, in PEM; empty without any.
        auth: credentials for the registry, as JSON; empty without any.
    """

    cluster: ClusterSpec
    ca: str = ""
    auth: str = field(default="", repr=False)


def read(path: Path) -> Site:
    """Read a spec and the files that it names, which are found relative to it.

    Args:
        path: the spec.

    Raises:
        InputError: with every problem in it, each with its line and key.
    """

    def also(data: object) -> list[tuple[Location, str]]:
        return [*spec_checks.problems(data), *spec_files.problems(data, path.parent)]

    cluster = load(path, ClusterSpec, missing="docs/site-guide.md says what stands in it", also=also)
    registry = cluster.registry
    hosts = {registry.host, (registry.mirror or registry.host).partition("/")[0]}
    return Site(
        cluster,
        ca=spec_files.certificates(path.parent / registry.ca) if registry.ca else "",
        auth=spec_files.credentials(path.parent / registry.auth_file, hosts) if registry.auth_file else "",
    )
