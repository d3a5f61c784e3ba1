"""What one node is told at its first boot: a seed of cloud-init's datasource NoCloud, as texts and as a disk.

Written for cloud-init 18.5 (CentOS 7, Kylin V10) to 24. The host name stands in ``fqdn``, too: without it, 18.5 makes
a name without dots to NAME.localdomain on RPM systems. No password is set anywhere.

Source: cloud-init, doc/rtd/reference/datasources/nocloud.rst and network-config-format-v2.rst.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import yaml

from pipeline.installer.spec import Balancer, Node, Role, Site
from pipeline.installer.spec_checks import is_address

DIRECTORY = "/etc/cluster"
ENV, CA = f"{DIRECTORY}/cluster.env", f"{DIRECTORY}/registry-ca.pem"
AUTH, SECRET = f"{DIRECTORY}/registry-auth.json", f"{DIRECTORY}/join.secret"
LABEL = "cidata"
LOOPBACK = "127.0.0.1"
BEGIN, END = "# BEGIN cluster-installer registry", "# END cluster-installer registry"


class _Dumper(yaml.SafeDumper):
    """Texts of several lines as blocks, so that a person can read a seed."""


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = "|" if "\n" in text else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _text)


def settings(site: Site, node: Node) -> dict[str, str]:
    """Return what stands in a node's ``cluster.env``; every key is there, also the empty ones.

    Args:
        site: the cluster.
        node: one of its nodes.
    """
    cluster = site.cluster
    registry, endpoint = cluster.registry, cluster.endpoint
    vip = endpoint.balancer is Balancer.VIP
    return {
        "INSTALLER_IMAGE": cluster.installer,
        "ROLE": node.role,
        "REGISTRY_CA": CA if site.ca else "",
        "REGISTRY_AUTH_FILE": AUTH if site.auth else "",
        "REGISTRY_MIRROR": registry.mirror or "",
        "CLUSTER_NAME": cluster.name,
        "CLUSTER_NODE_NAME": node.name,
        "CLUSTER_NODE_IP": str(node.address),
        "CLUSTER_NODES": " ".join(f"{one.name}={one.address}={one.role}={one.arch}" for one in cluster.nodes),
        "CLUSTER_ENDPOINT": f"{endpoint.host}:{endpoint.port}",
        "CLUSTER_ENDPOINT_IP": _endpoint_address(site),
        "CLUSTER_LB": endpoint.balancer,
        "CLUSTER_VIP": str(endpoint.address) if vip else "",
        "CLUSTER_VIP_INTERFACE": endpoint.interface or "",
        "CLUSTER_POD_CIDR": str(cluster.networks.pods),
        "CLUSTER_SERVICE_CIDR": str(cluster.networks.services),
        "CLUSTER_DNS_DOMAIN": cluster.networks.dns_domain,
        "CLUSTER_CNI": cluster.cni,
        "CLUSTER_KUBERNETES_VERSION": cluster.kubernetes,
        "CLUSTER_REGISTRY": registry.host,
        "CLUSTER_REGISTRY_IP": str(registry.address or ""),
        "CLUSTER_IMAGE_REPOSITORY": registry.image_repository,
        "CLUSTER_COREDNS": _yes(cluster.addons.coredns),
        "CLUSTER_KUBE_PROXY": _yes(cluster.addons.kube_proxy),
        "CLUSTER_JOIN_SECRET_FILE": SECRET,
        "CLUSTER_KEEP_RELEASES": str(cluster.keep_releases),
    }


def _endpoint_address(site: Site) -> str:
    """Return what the API's name is in ``/etc/hosts``; empty if DNS knows it, or if it is an address itself."""
    endpoint = site.cluster.endpoint
    match endpoint.balancer:
        case Balancer.NONE | Balancer.EXTERNAL if is_address(endpoint.host):
            return ""
        case Balancer.NGINX:
            return LOOPBACK
        case Balancer.NONE:
            return next(str(node.address) for node in site.cluster.nodes if node.role is Role.FIRST_MASTER)
        case _:
            return str(endpoint.address or "")


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def texts(site: Site, node: Node, secret: str) -> dict[str, str]:
    """Return the files of a node's seed, by name.

    Args:
        site: the cluster.
        node: one of its nodes.
        secret: the cluster's join secret.
    """
    env = "".join(f"{key}={value}\n" for key, value in settings(site, node).items())
    meta = {"instance-id": f"{site.cluster.name}-{node.name}", "local-hostname": node.name}
    found = {
        "user-data": "#cloud-config\n" + _yaml(_user_data(site, node, env, secret)),
        "meta-data": _yaml(meta),
        "cluster.env": env,
    }
    return found | ({"network-config": _yaml(_network(node))} if node.network else {})


def _yaml(data: Mapping[str, object]) -> str:
    return yaml.dump(dict(data), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=1000)


def _user_data(site: Site, node: Node, env: str, secret: str) -> dict[str, object]:
    files = [_file(SECRET, f"{secret}\n", "0600")]
    files += [_file(CA, site.ca, "0644")] if site.ca else []
    files += [_file(AUTH, site.auth, "0600")] if site.auth else []
    files += [_file(ENV, env, "0600")]  # the last one: with it the hook begins
    keys = dict.fromkeys((*site.cluster.ssh_authorized_keys, *node.ssh_authorized_keys))
    data: dict[str, object] = {
        "hostname": node.name,
        "fqdn": node.name,
        "preserve_hostname": False,
        "manage_etc_hosts": False,
        "ssh_authorized_keys": list(keys),
        "ntp": {"enabled": True, "ntp_client": "chrony", "servers": list(site.cluster.ntp)},
        "bootcmd": [hosts_script(site)],
        "write_files": files,
    }
    for name, wanted in (("ssh_authorized_keys", keys), ("ntp", site.cluster.ntp), ("bootcmd", hosts_script(site))):
        if not wanted:
            del data[name]
    return data


def _file(path: str, content: str, mode: str) -> dict[str, str]:
    return {"path": path, "owner": "root:root", "permissions": mode, "content": content}


def hosts_script(site: Site) -> str:
    """Return the commands that tell a node where the registry is before its first pull; empty if DNS does.

    ``bootcmd`` runs at every boot and in every version of cloud-init. A block that ends is complete, by whomever it was
    written: the payload keeps it from then on. One that a power cut left half is repaired by the payload.
    """
    registry = site.cluster.registry
    if registry.address is None:
        return ""
    lines = [BEGIN, f"{registry.address} {registry.host.partition(':')[0]}", END]
    quoted = " ".join(f"'{line}'" for line in lines)
    return (
        f"if ! grep -qxF '{END}' /etc/hosts; then\n"
        '  [ -z "$(tail -c 1 /etc/hosts)" ] || echo >>/etc/hosts\n'
        f"  printf '%s\\n' {quoted} >>/etc/hosts\n"
        "fi\n"
    )


def _network(node: Node) -> dict[str, object]:
    """Return the static settings; ``gateway4``, as 18.5 does not know ``to: default``."""
    assert node.network is not None
    static = node.network
    device: dict[str, object] = {
        "match": {"macaddress": static.mac},
        "set-name": static.interface,
        "dhcp4": False,
        "addresses": [f"{node.address}/{static.prefix}"],
    }
    if static.gateway:
        device["gateway4"] = str(static.gateway)
    if static.nameservers:
        device["nameservers"] = {"addresses": [str(one) for one in static.nameservers]}
    return {"version": 2, "ethernets": {static.interface: device}}


def write_disk(files: Mapping[str, str], target: BinaryIO) -> None:
    """Write a seed as an ISO 9660 file system labelled ``cidata``, which machines and management boards attach.

    Args:
        files: the seed's files.
        target: where it is written.
    """
    import pycdlib  # here, as nearly every command imports this room

    iso = pycdlib.PyCdlib()
    iso.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=LABEL)
    for name, text in files.items():
        data = text.encode()
        plain = name.upper().replace("-", "_")
        iso.add_fp(io.BytesIO(data), len(data), f"/{plain}.;1", rr_name=name, joliet_path=f"/{name}")
    iso.write_fp(target)
    iso.close()


def names(files: Mapping[str, str]) -> list[str]:
    """Return which of a node's files cloud-init reads."""
    return [name for name in files if name != Path(ENV).name]
