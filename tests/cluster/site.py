"""A site: a network, its registry with all images, the installer image, and nodes that get nothing but a rendered seed.

Everything is done with the commands that a field engineer has, see docs/site-guide.md: build, push, render, start.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.cluster import parts, registry
from tests.cluster.host import Host
from tests.cluster.lan import Lan

ROOT = Path(__file__).resolve().parents[2]
HOOK = ROOT / "overlays/common/root/usr/lib"
REGISTRY, PORT = "registry.site.example", 5000
REPOSITORY = "cluster/cluster-installer"
KUBERNETES = "v1.20.2"
ADMIN = ["kubectl", "--kubeconfig=/etc/kubernetes/admin.conf"]
BOOTSTRAP = "cluster-bootstrap.service"
PART_OF_A_CHECKOUT = ("tasks.py", "pipeline", "installer-image", "osprofiles", "overlays")
# Of a copy, without its front door, which would set up a .venv there.
INVOKE = (sys.executable, "-I", "-m", "invoke", "--search-root")


@dataclass(frozen=True)
class Node:
    """A node, as cluster.yaml has it."""

    name: str
    role: str
    address: str
    arch: str = "amd64"


FIRST = Node("m1", "first-master", "10.77.0.11")
SECOND = Node("m2", "master", "10.77.0.12")
THIRD = Node("m3", "master", "10.77.0.13")
WORKER = Node("w1", "worker", "10.77.0.21")
NODES = (FIRST, SECOND, THIRD, WORKER)


def invoke(*words: str | Path, root: Path = ROOT) -> str:
    """Run the front door as a user does; return what it printed, which also goes to pytest's output."""
    front = [root / "invoke"] if root == ROOT else [*INVOKE, root]
    done = subprocess.run([*front, *words], capture_output=True, text=True, check=False)
    sys.stdout.write(done.stdout + done.stderr)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass
class Site:
    """A site that runs.

    Attributes:
        work: a directory of its own, with a copy of the checkout: its payload may be changed.
        made: what the cluster is made of.
        registry: the site's registry.
        image: the installer image that was pushed last, by digest.
        lan: the network that hosts are joined to; None where nodes are virtual machines.
        port: the registry's.
        balancer: what stands in front of the API, and its port.
    """

    work: Path
    made: parts.Parts
    registry: registry.Registry
    image: str = ""
    lan: Lan | None = None
    port: int = PORT
    balancer: dict[str, Any] = field(default_factory=lambda: {"balancer": "nginx", "port": 8443})

    @property
    def name(self) -> str:
        """How nodes call the registry."""
        return f"{REGISTRY}:{self.port}"

    @property
    def checkout(self) -> Path:
        """A copy of the checkout."""
        return self.work / "checkout"

    @property
    def payload(self) -> Path:
        """The sources of the payload in that copy."""
        return self.checkout / "installer-image/payload"

    def copy_checkout(self) -> None:
        """Copy what the installer's commands need."""
        self.checkout.mkdir()
        for name in PART_OF_A_CHECKOUT:
            source = ROOT / name
            if source.is_dir():
                shutil.copytree(source, self.checkout / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(source, self.checkout / name)
        shutil.copy(self.made.mirror / "components.yaml", self.work / "components.yaml")
        invoke("installer.lock", "--components", self.components, "--mirror", self.made.mirror, root=self.checkout)

    @property
    def components(self) -> Path:
        """The components and, beside them, their lock."""
        return self.work / "components.yaml"

    def publish(self) -> str:
        """Build the installer image and push it; return its name by digest, which new seeds will carry."""
        mirror = ["--mirror", str(self.made.mirror)]
        invoke("installer.build", "--components", self.components, "--arch", "amd64", *mirror, root=self.checkout)
        words: list[str | Path] = [*self.registry.prefix, *INVOKE, self.checkout, "installer.push"]
        words += ["--to", f"{self.registry.host}/{REPOSITORY}", "--ca", self.registry.ca]
        words += ["--auth-file", self.registry.auth_file]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        match = re.search(r"^INSTALLER_IMAGE=(\S+@sha256:[0-9a-f]{64})$", done.stdout, re.MULTILINE)
        assert match, done.stdout
        self.image = match[1].replace(self.registry.host, self.name)
        return self.image

    def spec(self, nodes: Sequence[Node], address: str, **changes: object) -> dict[str, object]:
        """Return a cluster.yaml.

        Args:
            nodes: the cluster's nodes.
            address: of the registry, as the nodes see it.
            changes: keys that differ.
        """
        host = self.name
        return {
            "name": "demo",
            "kubernetes": KUBERNETES,
            "installer": self.image,
            "registry": {
                "host": host,
                "address": address,
                "ca": str(self.registry.ca),
                "auth_file": str(self.work / "auth.json"),
                "image_repository": f"{host}/kubernetes",
            },
            "endpoint": {"host": "api.demo.example", **self.balancer},
            "networks": {"pods": "10.244.0.0/16", "services": "10.96.0.0/16"},
            "cni": "bridge",
            "addons": {"coredns": False, "kube_proxy": False},
            "nodes": [vars(node) for node in nodes],
        } | changes

    def render(self, spec: dict[str, object], seeds: Path | None = None) -> Path:
        """Render the seeds of a cluster; return their directory."""
        auth = json.loads(self.registry.auth_file.read_text())
        entry = next(iter(auth["auths"].values()))
        (self.work / "auth.json").write_text(json.dumps({"auths": {self.name: entry}}))
        (self.work / "cluster.yaml").write_text(yaml.safe_dump(spec))
        seeds = seeds or self.work / "seeds"
        invoke("cluster.render", "--spec", self.work / "cluster.yaml", "--out", seeds, root=self.checkout)
        return seeds

    def host(self, node: Node, seeds: Path) -> Host:
        """Join a host to the network that has what a node image has: packages, the hook and its seed."""
        assert self.lan is not None
        host = self.lan.host(node.name, node.address)
        host.copy(self.made.node, "/root/node")
        host.run(["sh", "-c", "cp -an /root/node/. / && rm -rf /root/node"])
        host.copy(HOOK / "cluster", "/usr/lib/cluster")
        host.write(f"/etc/systemd/system/{BOOTSTRAP}", (HOOK / f"systemd/system/{BOOTSTRAP}").read_text())
        sow(host, seeds / node.name)
        host.run(["systemctl", "enable", BOOTSTRAP])
        return host


def sow(host: Host, seed: Path) -> None:
    """Do with a seed what cloud-init does at first boot, as far as our seeds go."""
    data = yaml.safe_load((seed / "user-data").read_text())
    assert set(data) <= {"hostname", "fqdn", "preserve_hostname", "manage_etc_hosts", "bootcmd", "write_files"}
    for script in data["bootcmd"]:
        host.run(["sh", "-c", script])
    for file in data["write_files"]:
        host.write(file["path"], file["content"], int(file["permissions"], 8))


def bootstrap(host: Host, *, check: bool = True) -> tuple[str, float]:
    """Run the hook, as a boot does, until it has ended.

    Returns:
        What it logged, and the seconds that it took.
    """
    began = time.monotonic()
    done = host.run(["systemctl", "restart", BOOTSTRAP], check=False, timeout=600)
    took = time.monotonic() - began
    log = journal(host)
    sys.stdout.write(f"--- {host.name}: {took:.1f} s\n{log}\n")
    if check:
        assert done.returncode == 0, log
    return log, took


def journal(host: Host) -> str:
    """Return what the hook's last run logged."""
    whole = host.run(["journalctl", "-u", BOOTSTRAP, "--no-pager"], check=False).stdout
    return whole[whole.rfind("cluster-bootstrap: running role") :] if "running role" in whole else whole


def ready_nodes(host: Host) -> set[str]:
    """Return the nodes that the cluster says are Ready, as a master sees it."""
    path = '{range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status}{"\\n"}{end}'
    lines = host.run([*ADMIN, "get", "nodes", f"--output=jsonpath={path}"]).stdout.split()
    return {line.removesuffix("=True") for line in lines if line.endswith("=True")}


@contextmanager
def in_namespaces(work: Path) -> Iterator[Site]:
    """Run a site whose nodes are namespaces of this machine."""
    made = parts.make()
    with Lan() as lan:
        prefix = lan.command([])
        with registry.running(
            made.tree, work / "registry", lan.address, PORT, [lan.address, REGISTRY], prefix=prefix
        ) as shop:
            shop.push_all(made.tree, made.images, "kubernetes")
            site = Site(work, made, shop, lan=lan)
            site.copy_checkout()
            site.publish()
            yield site
