"""A built node image, in a virtual machine, becomes a first master with nothing given to it but its seed."""

from __future__ import annotations

import socket
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml

from pipeline import lab
from pipeline.core.arch import Architecture
from tests.cluster import parts, registry
from tests.cluster import site as sites
from tests.cluster.site import REGISTRY, ROOT, Node, Site
from tests.emulated import leave_out

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.network]

GIB = 1024**3
HOST = "10.0.2.2"  # how a machine on QEMU's user network calls the loopback of this one
NODE = Node("m1", "first-master", "10.0.2.15")
HOOK = "cluster-bootstrap"
JOURNAL = f"journalctl -u {HOOK} --no-pager -o cat"
INSTALLED = 1500  # seconds, emulated
OURS = ("ssh_authorized_keys", "disable_root")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def seed(path: Path) -> Mapping[str, object]:
    """Return what a rendered seed says, less what the lab says itself so that it can log in."""
    data = yaml.safe_load(path.read_text())
    return {key: value for key, value in data.items() if key not in OURS}


@pytest.mark.skipif(Architecture.host() is not Architecture.AMD64, reason="the cluster's parts are made for amd64")
def test_a_node_image_becomes_a_first_master(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    leave_out(request, Architecture.AMD64, "hosts made of namespaces are installed as well")
    sites.invoke("build", "--arch", "amd64")
    image = next((ROOT / "build/debian-12-amd64").glob("*.qcow2"))
    made = parts.make()
    port = free_port()
    with registry.running(made.tree, tmp_path / "registry", "127.0.0.1", port, ["localhost", REGISTRY, HOST]) as shop:
        shop.push_all(made.tree, made.images, "kubernetes")
        site = Site(tmp_path, made, shop, port=port, balancer={"balancer": "none", "port": 6443})
        site.copy_checkout()
        site.publish()
        spec = site.spec([NODE], HOST, addons={"coredns": False, "kube_proxy": True})
        seeds = site.render(spec)
        machine = lab.MachineSpec(
            image, Architecture.AMD64, lab.Firmware.BIOS, hostname=NODE.name, memory=4 * GIB, disk_size=20 * GIB,
            network=True, user_data=seed(seeds / NODE.name / "user-data"),
        )  # fmt: skip
        (tmp_path / "vm").mkdir()
        with lab.Machine(machine, tmp_path / "vm", tmp_path / "serial.log") as node:
            node.wait_for_ssh()
            ended = f"systemctl is-active --quiet {HOOK} || systemctl is-failed --quiet {HOOK}"
            node.run(f"timeout {INSTALLED} sh -c 'until {ended}; do sleep 2; done'", check=False)
            log = node.run(JOURNAL).stdout
            sys.stdout.write(log)
            assert node.run(f"systemctl is-active {HOOK}", check=False).stdout.strip() == "active", log
            admin = "kubectl --kubeconfig=/etc/kubernetes/admin.conf"
            path = '{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{end}'
            assert node.run(f"{admin} get nodes -o jsonpath='{path}'").stdout == "m1=True"
            assert "kube-proxy" in node.run(f"{admin} get pods -n kube-system").stdout
            again = node.run(f"systemctl restart {HOOK} && {JOURNAL}").stdout
            assert "nothing to do: this node is installed and healthy" in again
