"""What is wrong with ``cluster.yaml`` between its keys: names, addresses and networks that do not go together.

It looks at the data as it was written, before or beside the models: a spec with an unknown role and two equal addresses
is told of both. A value that is wrong by itself is the model's to tell, and is passed over here.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv4Network

from pipeline.core.document import Location

Problem = tuple[Location, str]
MASTERS = ("first-master", "master")
API_PORT = 6443  # on which every API server listens, at all addresses
TAKEN = {2379, 2380, API_PORT, 10248, 10249, 10250, 10256, 10257, 10259}  # by Kubernetes, on a node
POD_PREFIX = 24  # every node's part of the pods' network
SERVICE_PREFIXES = range(12, 29)  # API servers take no larger network; the tenth address is DNS


def is_address(text: str) -> bool:
    """Return whether a text is an IPv4 address."""
    return address(text) is not None


def address(value: object) -> IPv4Address | None:
    """Return the IPv4 address that a value is; None if it is none."""
    try:
        return IPv4Address(value) if isinstance(value, str) else None
    except AddressValueError:
        return None


def network(value: object) -> IPv4Network | None:
    """Return the IPv4 network that a value is in; None if it is none."""
    try:
        return IPv4Network(value, strict=False) if isinstance(value, str) and "/" in value else None
    except ValueError:
        return None


@dataclass(frozen=True)
class _Part:
    """A mapping of the spec, or what stands in its place.

    Attributes:
        data: what was written.
        key: where.
    """

    data: object
    key: Location = ()

    def __getitem__(self, name: str) -> object:
        return self.data.get(name) if isinstance(self.data, Mapping) else None

    def part(self, name: str) -> _Part:
        return _Part(self[name], (*self.key, name))

    def text(self, name: str) -> str:
        value = self[name]
        return value if isinstance(value, str) else ""

    def parts(self, name: str) -> list[_Part]:
        value = self[name]
        items = value if isinstance(value, Sequence) and not isinstance(value, str) else []
        return [_Part(item, (*self.key, name, index)) for index, item in enumerate(items)]


def problems(data: object) -> Iterator[Problem]:
    """Yield what is wrong between the keys of a spec.

    Args:
        data: the spec as it was written, right or wrong.
    """
    spec = _Part(data)
    nodes = spec.parts("nodes")
    yield from _repeated(nodes)
    yield from _roles(nodes)
    yield from _registry(spec)
    yield from _endpoint(spec, nodes)
    yield from _networks(spec, nodes)
    yield from _inside(spec, nodes)
    for node in nodes:
        yield from _static(node)
    yield from _one_link(spec, nodes)


def _repeated(nodes: Sequence[_Part]) -> Iterator[Problem]:
    for place in (("name",), ("address",), ("network", "mac")):
        first: dict[str, _Part] = {}
        for node in nodes:
            part = node.part(place[0]) if place[1:] else node
            value = part.text(place[-1])
            if value and value in first:
                yield (*node.key, *place), f"{value} is also that of {_called(first[value])}"
            elif value:
                first[value] = node


def _called(node: _Part) -> str:
    return f"nodes.{node.key[-1]} ({node.text('name') or 'without a name'})"


def _roles(nodes: Sequence[_Part]) -> Iterator[Problem]:
    firsts = [node for node in nodes if node["role"] == MASTERS[0]]
    masters = [node for node in nodes if node["role"] in MASTERS]
    if nodes and not firsts:
        yield ("nodes",), "one node must have the role first-master: it makes the cluster that the others join"
    for node in firsts[1:]:
        yield (*node.key, "role"), f"{_called(firsts[0])} is the first-master already; make this one a master"
    if masters and len(masters) % 2 == 0:
        what = f"{len(masters)} masters (first-master and master) tolerate no more failures than {len(masters) - 1}"
        yield ("nodes",), f"{what}: make it an odd number"


def _registry(spec: _Part) -> Iterator[Problem]:
    registry = spec.part("registry")
    host = registry.text("host")
    for part, name in ((spec, "installer"), (registry, "image_repository")):
        value = part.text(name)
        if host and "/" in value and value.partition("/")[0] != host:
            yield (*part.key, name), f"{value.partition('/')[0]} is not the site's registry, which is {host}"
    if registry["address"] is not None and is_address(host.partition(":")[0]):
        yield ("registry", "address"), f"leave it out: registry.host {host} is an address already"


def _endpoint(spec: _Part, nodes: Sequence[_Part]) -> Iterator[Problem]:
    endpoint = spec.part("endpoint")
    rule = {"none": _endpoint_none, "external": _endpoint_external, "nginx": _endpoint_nginx, "vip": _endpoint_vip}
    balancer = endpoint.text("balancer")
    if balancer in rule:
        yield from rule[balancer](endpoint, nodes)
    if endpoint["interface"] is not None and balancer in rule and balancer != "vip":
        yield ("endpoint", "interface"), f"only a VIP has an interface; the balancer is {balancer}"
    host = endpoint.text("host")
    for node in nodes:
        if host and node.text("name") == host and not (balancer == "none" and node["role"] == MASTERS[0]):
            yield ("endpoint", "host"), f"{host} is the name of {_called(node)}; the API needs a name of its own"


def _port_of_the_api(endpoint: _Part) -> Iterator[Problem]:
    if isinstance(endpoint["port"], int) and endpoint["port"] != API_PORT:
        what = f"with the balancer {endpoint.text('balancer')} it must be {API_PORT}, where the API servers listen"
        yield ("endpoint", "port"), what


def _endpoint_none(endpoint: _Part, nodes: Sequence[_Part]) -> Iterator[Problem]:
    yield from _port_of_the_api(endpoint)
    firsts = [one for node in nodes if node["role"] == MASTERS[0] and (one := address(node["address"]))]
    for name in ("host", "address"):
        given = address(endpoint[name])
        if given and firsts and given != firsts[0]:
            yield ("endpoint", name), f"with the balancer none it is the first master's address, {firsts[0]}"


def _endpoint_external(endpoint: _Part, _nodes: Sequence[_Part]) -> Iterator[Problem]:
    host, given = address(endpoint["host"]), address(endpoint["address"])
    if host and given and host != given:
        yield ("endpoint", "address"), f"endpoint.host is {host}: leave this out"


def _endpoint_nginx(endpoint: _Part, _nodes: Sequence[_Part]) -> Iterator[Problem]:
    if endpoint["address"] is not None:
        yield ("endpoint", "address"), "leave it out: nginx listens on every node's own 127.0.0.1"
    if is_address(endpoint.text("host")):
        yield ("endpoint", "host"), "with the balancer nginx it must be a name, which is 127.0.0.1 on every node"
    if endpoint["port"] in TAKEN:
        yield ("endpoint", "port"), f"{endpoint['port']} is taken on the masters by Kubernetes itself; use 16443"


def _endpoint_vip(endpoint: _Part, nodes: Sequence[_Part]) -> Iterator[Problem]:
    yield from _port_of_the_api(endpoint)
    host, given = address(endpoint["host"]), address(endpoint["address"])
    if endpoint["address"] is None:
        yield ("endpoint", "address"), "this key is missing: it is the VIP"
    if host and given and host != given:
        yield ("endpoint", "host"), f"it is an address other than the VIP {given}; use a name, or the VIP"
    for node in nodes:
        if given and given == address(node["address"]):
            yield ("endpoint", "address"), f"{given} is the address of {_called(node)}; a VIP must be free"


def _cluster_networks(spec: _Part) -> list[tuple[str, IPv4Network]]:
    part = spec.part("networks")
    return [(name, found) for name in ("pods", "services") if (found := network(part[name]))]


def _networks(spec: _Part, nodes: Sequence[_Part]) -> Iterator[Problem]:
    for (one, left), (other, right) in itertools.combinations(_cluster_networks(spec), 2):
        if left.overlaps(right):
            yield ("networks", other), f"{right} overlaps networks.{one} {left}"
    for name, found in _cluster_networks(spec):
        if name == "services" and found.prefixlen not in SERVICE_PREFIXES:
            yield ("networks", name), f"{found} must be between /{SERVICE_PREFIXES[0]} and /{SERVICE_PREFIXES[-1]}"
        bridge = spec["cni"] == "bridge" and name == "pods"
        if bridge and (found.prefixlen > POD_PREFIX or 2 ** (POD_PREFIX - found.prefixlen) < len(nodes)):
            what = f"{found} is too small: each of the {len(nodes)} nodes needs a /{POD_PREFIX} of it"
            yield ("networks", name), what


def _inside(spec: _Part, nodes: Sequence[_Part]) -> Iterator[Problem]:
    """Machines have no address that pods or services have, and none that no machine can have."""
    for part in (*nodes, spec.part("endpoint"), spec.part("registry")):
        given = address(part["address"])
        if given is None:
            continue
        key = (*part.key, "address")
        if given.is_loopback or given.is_multicast or given.is_unspecified or given == IPv4Address("255.255.255.255"):
            yield key, f"{given} is no machine's address"
        for name, found in _cluster_networks(spec):
            if given in found:
                yield key, f"{given} lies in networks.{name} {found}"


def _link(node: _Part) -> IPv4Network | None:
    """Return the network that a node's static settings put it in."""
    prefix = node.part("network")["prefix"]
    return network(f"{node.text('address')}/{prefix}") if isinstance(prefix, int) else None


def _static(node: _Part) -> Iterator[Problem]:
    link, own = _link(node), address(node["address"])
    if link is None or own is None:
        return
    settings = node.part("network")
    gateway = address(settings["gateway"])
    if own in {link.network_address, link.broadcast_address}:
        yield (*node.key, "address"), f"{own} is no machine's address in {link}"
    if gateway == own:
        yield (*settings.key, "gateway"), f"{gateway} is the node's own address"
    elif gateway and gateway not in link:
        yield (*settings.key, "gateway"), f"{gateway} is not in {link}, which the node is in"


def _one_link(spec: _Part, nodes: Sequence[_Part]) -> Iterator[Problem]:
    links = [(node, link) for node in nodes if (link := _link(node))]
    for node, link in links:
        for name, found in _cluster_networks(spec):
            if link.overlaps(found):
                yield (*node.key, "network", "prefix"), f"the node's network {link} overlaps networks.{name} {found}"
    if spec["cni"] != "bridge" or not links:
        return
    first, common = links[0]
    for node in nodes:
        given = address(node["address"])
        if given and given not in common:
            what = f"{given} is not in {common} with {_called(first)}: cni bridge needs all nodes on one network"
            yield (*node.key, "address"), what
