"""cluster.yaml: what is accepted, what is refused and how it is said, all of it at once."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline import installer
from pipeline.core.errors import InputError
from pipeline.installer.spec import ClusterSpec
from pipeline.quality import ROOT
from tests.unit.test_docs import keys, table

HOST = "registry.site.example:5000"
IMAGE = f"{HOST}/cluster/cluster-installer@sha256:{'0' * 64}"
GOOD: dict[str, Any] = {
    "name": "demo",
    "kubernetes": "v1.20.2",
    "installer": IMAGE,
    "registry": {"host": HOST, "image_repository": f"{HOST}/kubernetes"},
    "endpoint": {"host": "api.demo.example", "port": 6443, "balancer": "none"},
    "networks": {"pods": "10.244.0.0/16", "services": "10.96.0.0/16"},
    "cni": "bridge",
    "nodes": [
        {"name": "w1", "role": "worker", "address": "10.0.0.21", "arch": "arm64"},
        {"name": "m1", "role": "first-master", "address": "10.0.0.11", "arch": "amd64"},
    ],
}
STATIC = {"mac": "52:54:00:00:00:01", "prefix": 24}
Change = Callable[[dict[str, Any]], object]


def node(name: str, role: str, address: str, **more: object) -> dict[str, object]:
    return {"name": name, "role": role, "address": address, "arch": "amd64", **more}


def good(change: Change = lambda _spec: None) -> dict[str, Any]:
    data = copy.deepcopy(GOOD)
    change(data)
    return data


def write(directory: Path, data: object) -> Path:
    path = directory / "cluster.yaml"
    path.write_text(data if isinstance(data, str) else yaml.safe_dump(data, sort_keys=False))
    return path


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        installer.read(path)
    assert caught.value.hint
    return caught.value.message.replace(f"{path.parent}/", "")


def balancer(kind: str, **more: object) -> Change:
    return lambda spec: spec["endpoint"].update(balancer=kind, **more)


ACCEPTED: dict[str, Change] = {
    "as it is": lambda _: None,
    "external, known to DNS": balancer("external", port=443),
    "external, an address": balancer("external", host="10.0.0.9"),
    "nginx": balancer("nginx", port=8443),
    "vip": balancer("vip", address="10.0.0.9", interface="eth1"),
    "vip, host is it": balancer("vip", host="10.0.0.9", address="10.0.0.9"),
    "none, host is the first master": balancer("none", host="10.0.0.11"),
    "three masters": lambda s: s["nodes"].extend(
        [node("m2", "master", "10.0.0.12"), node("m3", "master", "10.0.0.13")]
    ),
    "dotted names": lambda s: s["nodes"][0].update(name="w1.site.example"),
    "other networks without our cni": lambda s: s.update(
        cni="none", networks={"pods": "10.1.0.0/25", "services": "10.2.0.0/28"}
    ),
    "a registry with an address": lambda s: s["registry"].update(address="10.0.0.5", mirror="10.0.0.6:5000/mirror"),
    "static": lambda s: [
        one.update(network={**STATIC, "mac": f"52:54:00:00:00:0{i}", "gateway": "10.0.0.1"})
        for i, one in enumerate(s["nodes"])
    ],
}


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED)
def test_accepted(tmp_path: Path, change: Change) -> None:
    spec = installer.read(write(tmp_path, good(change))).cluster
    assert spec.nodes[0].role == "first-master"


REFUSED: dict[str, tuple[Change, str]] = {
    "unknown key": (
        lambda s: s["registry"].update(adress="10.0.0.5"),
        "registry.adress: unknown key; did you mean 'address'?",
    ),
    "missing key": (lambda s: s.pop("cni"), "cni: this key is missing"),
    "a name": (lambda s: s.update(name="Demo"), "name: 'Demo' is no name"),
    "a version": (lambda s: s.update(kubernetes="1.20"), "kubernetes: "),
    "a tag only": (lambda s: s.update(installer=f"{HOST}/cluster/cluster-installer:1"), "installer: "),
    "sha512": (lambda s: s.update(installer=f"{HOST}/a@sha512:{'0' * 128}"), "must name its digest, @sha256:"),
    "a short digest": (lambda s: s.update(installer=f"{HOST}/a@sha256:0"), "is not a digest"),
    "another registry": (
        lambda s: s.update(installer=f"other.example/a@sha256:{'0' * 64}"),
        f"installer: other.example is not the site's registry, which is {HOST}",
    ),
    "images of another registry": (
        lambda s: s["registry"].update(image_repository="other.example/k"),
        "registry.image_repository: other.example is not",
    ),
    "a registry's port": (lambda s: s["registry"].update(host="a.example:99999"), "registry.host: '99999' is no port"),
    "an address of an address": (
        lambda s: s["registry"].update(host="10.0.0.5:5000", address="10.0.0.5"),
        "registry.address: leave it out",
    ),
    "unknown role": (lambda s: s["nodes"][0].update(role="slave"), "nodes.0.role: "),
    "unknown arch": (lambda s: s["nodes"][0].update(arch="riscv64"), "nodes.0.arch: "),
    "node name": (lambda s: s["nodes"][0].update(name="w_1"), "nodes.0.name: 'w_1' is no host name"),
    "the secret's name": (
        lambda s: s["nodes"][0].update(name="join.secret"),
        "nodes.0.name: no node can be called 'join.secret'",
    ),
    "not an address": (
        lambda s: s["nodes"][0].update(address="10.0.0.256"),
        "nodes.0.address: '10.0.0.256' is not an IPv4 address",
    ),
    "a number as address": (lambda s: s["nodes"][0].update(address=10), "nodes.0.address: 10 is not an IPv4 address"),
    "loopback": (
        lambda s: s["nodes"][0].update(address="127.0.0.1"),
        "nodes.0.address: 127.0.0.1 is no machine's address",
    ),
    "same name": (lambda s: s["nodes"][1].update(name="w1"), "nodes.1.name: w1 is also that of nodes.0 (w1)"),
    "same address": (
        lambda s: s["nodes"][1].update(address="10.0.0.21"),
        "nodes.1.address: 10.0.0.21 is also that of nodes.0 (w1)",
    ),
    "same mac": (
        lambda s: [one.update(network=STATIC) for one in s["nodes"]],
        "nodes.1.network.mac: 52:54:00:00:00:01 is also that of",
    ),
    "two masters": (
        lambda s: s["nodes"].append(node("m2", "master", "10.0.0.12")),
        "nodes: 2 masters (first-master and master)",
    ),
    "no first master": (
        lambda s: s["nodes"][1].update(role="master"),
        "nodes: one node must have the role first-master",
    ),
    "two first masters": (
        lambda s: s["nodes"][0].update(role="first-master"),
        "nodes.1.role: nodes.0 (w1) is the first-master already",
    ),
    "no nodes": (lambda s: s.update(nodes=[]), "nodes: "),
    "pods and services": (
        lambda s: s["networks"].update(services="10.244.128.0/20"),
        "networks.services: 10.244.128.0/20 overlaps networks.pods 10.244.0.0/16",
    ),
    "host bits": (
        lambda s: s["networks"].update(pods="10.244.0.1/16"),
        "networks.pods: '10.244.0.1/16' is not a network; did you mean 10.244.0.0/16?",
    ),
    "no network": (lambda s: s["networks"].update(pods="10.244.0.0"), "networks.pods: '10.244.0.0' is not a network"),
    "large services": (
        lambda s: s["networks"].update(services="11.0.0.0/8"),
        "networks.services: 11.0.0.0/8 must be between /12 and /28",
    ),
    "few pods": (
        lambda s: s["networks"].update(pods="10.244.0.0/24"),
        "networks.pods: 10.244.0.0/24 is too small: each of the 2 nodes needs a /24",
    ),
    "a node among pods": (
        lambda s: s["nodes"][0].update(address="10.244.1.1"),
        "nodes.0.address: 10.244.1.1 lies in networks.pods 10.244.0.0/16",
    ),
    "a node among services": (
        lambda s: s["nodes"][0].update(address="10.96.1.1"),
        "nodes.0.address: 10.96.1.1 lies in networks.services",
    ),
    "the VIP among pods": (balancer("vip", address="10.244.1.1"), "endpoint.address: 10.244.1.1 lies in networks.pods"),
    "the registry among pods": (
        lambda s: s["registry"].update(address="10.244.1.1"),
        "registry.address: 10.244.1.1 lies in networks.pods",
    ),
    "unknown balancer": (balancer("haproxy"), "endpoint.balancer: "),
    "none, another port": (balancer("none", port=443), "endpoint.port: with the balancer none it must be 6443"),
    "none, another address": (
        balancer("none", address="10.0.0.21"),
        "endpoint.address: with the balancer none it is the first master's address, 10.0.0.11",
    ),
    "none, another host": (
        balancer("none", host="10.0.0.21"),
        "endpoint.host: with the balancer none it is the first master's address",
    ),
    "external, two addresses": (
        balancer("external", host="10.0.0.8", address="10.0.0.9"),
        "endpoint.address: endpoint.host is 10.0.0.8",
    ),
    "nginx, the API's port": (balancer("nginx"), "endpoint.port: 6443 is taken on the masters"),
    "nginx, an address": (balancer("nginx", port=8443, address="10.0.0.9"), "endpoint.address: leave it out"),
    "nginx, host is an address": (
        balancer("nginx", port=8443, host="10.0.0.9"),
        "endpoint.host: with the balancer nginx it must be a name",
    ),
    "vip without one": (balancer("vip"), "endpoint.address: this key is missing: it is the VIP"),
    "vip of a node": (
        balancer("vip", address="10.0.0.21"),
        "endpoint.address: 10.0.0.21 is the address of nodes.0 (w1)",
    ),
    "vip, another host": (
        balancer("vip", address="10.0.0.9", host="10.0.0.8"),
        "endpoint.host: it is an address other than the VIP",
    ),
    "vip, another port": (
        balancer("vip", address="10.0.0.9", port=443),
        "endpoint.port: with the balancer vip it must be 6443",
    ),
    "interface without vip": (balancer("none", interface="eth0"), "endpoint.interface: only a VIP has an interface"),
    "the API has a node's name": (balancer("none", host="w1"), "endpoint.host: w1 is the name of nodes.0 (w1)"),
    "gateway elsewhere": (
        lambda s: s["nodes"][0].update(network={**STATIC, "gateway": "10.0.1.1"}),
        "nodes.0.network.gateway: 10.0.1.1 is not in 10.0.0.0/24",
    ),
    "gateway is the node": (
        lambda s: s["nodes"][0].update(network={**STATIC, "gateway": "10.0.0.21"}),
        "nodes.0.network.gateway: 10.0.0.21 is the node's own",
    ),
    "broadcast": (
        lambda s: s["nodes"][0].update(address="10.0.0.255", network=STATIC),
        "nodes.0.address: 10.0.0.255 is no machine's address in 10.0.0.0/24",
    ),
    "another link": (
        lambda s: (s["nodes"][0].update(network=STATIC), s["nodes"][1].update(address="10.0.1.11")),
        "nodes.1.address: 10.0.1.11 is not in 10.0.0.0/24 with nodes.0 (w1)",
    ),
    "the link overlaps": (
        lambda s: s["nodes"][0].update(network={**STATIC, "prefix": 8}),
        "nodes.0.network.prefix: the node's network 10.0.0.0/8 overlaps networks.pods",
    ),
    "static without mac": (
        lambda s: s["nodes"][0].update(network={"prefix": 24}),
        "nodes.0.network.mac: this key is missing",
    ),
    "a private key": (
        lambda s: s.update(ssh_authorized_keys=["-----BEGIN OPENSSH PRIVATE KEY-----"]),
        "ssh_authorized_keys.0: ",
    ),
    "a cut key": (lambda s: s.update(ssh_authorized_keys=["ssh-ed25519 AAAAC3Nz me"]), "ssh_authorized_keys.0: "),
    "a time server": (lambda s: s.update(ntp=["no_host"]), "ntp.0: 'no_host' is neither"),
    "releases": (lambda s: s.update(keep_releases=0), "keep_releases: "),
    "no mapping": (lambda s: s.update(registry=[1]), "registry: "),
    "nodes as text": (lambda s: s.update(nodes="m1"), "nodes: "),
}


@pytest.mark.parametrize(("change", "said"), REFUSED.values(), ids=REFUSED)
def test_refused(tmp_path: Path, change: Change, said: str) -> None:
    message = refusal(write(tmp_path, good(change)))
    assert said in message
    assert all(line.startswith("cluster.yaml:") for line in message.splitlines())


@pytest.mark.parametrize("data", ["", "[]", "a: [", "1", "name: x\nname: y\n", "nodes: {a: 1}", "registry:\n"])
def test_no_spec_at_all(tmp_path: Path, data: str) -> None:
    assert "cluster.yaml" in refusal(write(tmp_path, data))


def test_a_spec_that_is_not_there(tmp_path: Path) -> None:
    assert refusal(tmp_path / "cluster.yaml") == "cluster.yaml is not there"


def test_everything_is_told_at_once_with_its_line(tmp_path: Path) -> None:
    data = good(lambda s: s["nodes"].append(node("m1", "slave", "10.0.0.21")))
    data["registry"]["ca"] = "missing.pem"
    data["networks"]["pods"] = "10.96.0.0/12"
    data["addons"] = {"coredns": True, "kubeproxy": False}
    path = write(tmp_path, data)
    lines = path.read_text().splitlines()
    told = refusal(path).splitlines()
    for key, text in (
        ("ca: missing.pem", "registry.ca: missing.pem cannot be read: No such file or directory"),
        ("services:", "networks.services: 10.96.0.0/16 overlaps"),
        ("kubeproxy:", "addons.kubeproxy: unknown key; did you mean 'kube_proxy'?"),
        ("role: slave", "nodes.2.role: "),
    ):
        number = next(i for i, line in enumerate(lines, 1) if key in line)
        assert any(line.startswith(f"cluster.yaml:{number}: {text}") for line in told), (text, told)
    assert any("nodes.2.name: m1 is also" in line for line in told)
    assert any("nodes.2.address: 10.0.0.21 is also" in line for line in told)
    assert len(told) == 6


# ---------------------------------------------------------------------------------------------------- files


def certificate(directory: Path, *options: str, name: str = "ca.pem") -> Path:
    """Make a certificate with openssl; its key is beside it."""
    key, made = directory / f"{name}.key", directory / name
    base: list[str | Path] = ["-keyout", key, "-out", made, "-subj", "/CN=site"]
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", *base]
    subprocess.run([*words, *(options or ("-days", "2"))], check=True, capture_output=True)
    return made


def expired(directory: Path) -> Path:
    """Make the certificate of an authority that ended yesterday."""
    key, request, made, extensions = (directory / f"old.{kind}" for kind in ("key", "csr", "pem", "ext"))
    words = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=old"]
    subprocess.run([*words, "-keyout", key, "-out", request], check=True, capture_output=True)
    extensions.write_text("basicConstraints=CA:TRUE\n")
    subprocess.run(
        [
            "openssl",
            "x509",
            "-req",
            "-in",
            request,
            "-signkey",
            key,
            "-days",
            "-1",
            "-extfile",
            extensions,
            "-out",
            made,
        ],
        check=True,
        capture_output=True,
    )
    return made


def with_ca(directory: Path, text: str) -> Path:
    (directory / "site.pem").write_text(text)
    return write(directory, good(lambda s: s["registry"].update(ca="site.pem")))


def test_a_ca_is_taken_without_what_stands_around_it(tmp_path: Path) -> None:
    pem = certificate(tmp_path).read_text()
    site = installer.read(with_ca(tmp_path, f"# our own\r\n{pem}".replace("\n", "\r\n")))
    assert site.ca == pem


def test_a_bad_ca_is_refused(tmp_path: Path) -> None:
    pem = certificate(tmp_path)
    leaf = certificate(tmp_path, "-days", "2", "-addext", "basicConstraints=critical,CA:FALSE", name="leaf.pem")
    old = expired(tmp_path).read_text()
    cut = "\n".join(pem.read_text().splitlines()[:3]) + "\n-----END CERTIFICATE-----\n"
    bad = (
        ("", "it holds no PEM certificate"),
        (cut, "the PEM certificate is damaged"),
        (leaf.read_text(), "not of an authority"),
        (old, "the certificate has expired"),
        (pem.read_text() + old, "certificate 2 of 2: the certificate has expired"),
        (pem.read_text() + pem.with_name("ca.pem.key").read_text(), "it holds a private key"),
    )
    for text, said in bad:
        told = refusal(with_ca(tmp_path, text))
        assert "registry.ca: site.pem: " in told
        assert said in told


def with_auth(directory: Path, text: str) -> Path:
    (directory / "auth.json").write_text(text)
    return write(directory, good(lambda s: s["registry"].update(auth_file="auth.json", mirror="mirror.example/m")))


def test_nodes_get_the_credentials_of_their_registries_only(tmp_path: Path) -> None:
    entries = {HOST: {"auth": "c2VjcmV0"}, "https://mirror.example": {"auth": "YQ=="}, "hub.example": {"auth": "Yg=="}}
    site = installer.read(with_auth(tmp_path, json.dumps({"auths": entries, "credsStore": "pass"})))
    assert json.loads(site.auth) == {"auths": {key: entries[key] for key in (HOST, "https://mirror.example")}}
    assert "c2VjcmV0" not in repr(site)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"auths": {\n"c2VjcmV0"', "it is not JSON (line 2)"),
        ("[]", 'it has no "auths"'),
        ('{"auths": {}}', f"it has no credentials for {HOST}; it has some for: none"),
        ('{"auths": {"other.example": {"auth": "c2VjcmV0"}}}', "it has some for: other.example"),
        (f'{{"auths": {{"{HOST}": {{}}}}, "credsStore": "pass"}}', "holds no credentials: a helper"),
    ],
)
def test_bad_credentials_are_refused_and_never_shown(tmp_path: Path, text: str, said: str) -> None:
    message = refusal(with_auth(tmp_path, text))
    assert said in message
    assert "c2VjcmV0" not in message


# ----------------------------------------------------------------------------------------------------- docs


def test_every_key_is_in_the_guide_and_no_other() -> None:
    rows = table((ROOT / "docs/site-guide.md").read_text(), "key", "required")
    described = [(row[0].strip("`"), row[1] == "yes") for row in rows]
    assert sorted(described) == sorted(set(keys(ClusterSpec)))
