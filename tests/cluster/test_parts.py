"""The parts are what they say, and making them again touches nothing."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.core.arch import Architecture
from pipeline.oci import Layout
from tests.cluster import images, kubernetes, parts, registry
from tests.cluster.packages import TRIPLETS, run
from tests.cluster.parts import Parts

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.network]

REPOSITORY = "site.example:5000/kubernetes"
CONTAINERD = """\
version = 2
root = "{place}/root"
state = "{place}/state"
[grpc]
address = "{place}/socket"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{host}/kubernetes/pause:3.2"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{place}/certs.d"
[plugins."io.containerd.grpc.v1.cri".registry.configs."{host}".auth]
username = "{user}"
password = "{password}"
"""
HOSTS = """\
server = "https://{host}"
[host."https://{host}"]
ca = "{ca}"
"""


@pytest.fixture(scope="module")
def made() -> Parts:
    return parts.make()


@pytest.fixture(scope="module")
def site(made: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[registry.Registry]:
    with registry.running(made.tree, tmp_path_factory.mktemp("registry"), "127.0.0.1", free_port()) as running:
        running.push_all(made.tree, made.images, "kubernetes")
        yield running


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.mark.parametrize(
    ("name", "words", "shown"),
    [
        ("kubeadm", ["version", "-o", "short"], "v1.20.2"),
        ("kubelet", ["--version"], "Kubernetes v1.20.2"),
        ("kubectl", ["version", "--client", "--short"], "Client Version: v1.20.2"),
        *((name, ["--version"], "Kubernetes v1.20.2") for name in kubernetes.SERVERS),
    ],
)
def test_kubernetes_says_its_version(made: Parts, name: str, words: list[str], shown: str) -> None:
    assert run(made.own.kubernetes / name, *words).strip() == shown


def test_kubectl_tells_major_and_minor(made: Parts) -> None:
    told = json.loads(run(made.own.kubernetes / "kubectl", "version", "--client", "-o", "json"))["clientVersion"]
    assert (told["major"], told["minor"], told["gitTreeState"]) == ("1", "20", "clean")


@pytest.mark.parametrize("name", ["containerd/containerd", "containerd/ctr", "runc/runc", "etcdctl/etcdctl"])
def test_packaged_components_run_on_this_machine(made: Parts, name: str) -> None:
    words = ["version"] if name.startswith("etcdctl") else ["--version"]
    version = made.own.versions()[name.partition("/")[0]]
    assert version in run(made.own.files()[name], *words)


@pytest.mark.parametrize("name", ["docker-registry", "skopeo", "etcd"])
def test_tools_run_with_their_own_libraries(made: Parts, name: str) -> None:
    assert run(*made.tree.command(name), "--version")


def test_images_are_those_that_kubeadm_asks_for(made: Parts) -> None:
    words = ["--image-repository", REPOSITORY, "--kubernetes-version", kubernetes.VERSION]
    listed = run(made.own.kubernetes / "kubeadm", "config", "images", "list", *words).split()
    wanted = [name.removeprefix(f"{REPOSITORY}/") for name in listed if "/coredns:" not in name]
    assert sorted([*wanted, images.HTTP]) == sorted(images.names(made.images))


def test_images_are_whole_and_skopeo_reads_them(made: Parts) -> None:
    Layout.open(made.images).verify()
    for name in images.names(made.images):
        words = ["--insecure-policy", "inspect", "--config", f"oci:{made.images}:{name}"]
        told = json.loads(run(*made.tree.command("skopeo"), *words))
        assert (told["os"], told["architecture"]) == ("linux", str(Architecture.host()))


@dataclass(frozen=True)
class Inside:
    """A program of an image."""

    image: str
    words: tuple[str, ...]
    shown: str


@pytest.mark.parametrize(
    "inside",
    [
        Inside("kube-apiserver:v1.20.2", ("/usr/local/bin/kube-apiserver", "--version"), "Kubernetes v1.20.2"),
        Inside("kube-proxy:v1.20.2", ("/usr/local/bin/kube-proxy", "--version"), "Kubernetes v1.20.2"),
        Inside("kube-proxy:v1.20.2", ("/usr/sbin/iptables-save", "-t", "nat"), ""),
        Inside("kube-proxy:v1.20.2", ("/usr/sbin/ip6tables", "--version"), "(nf_tables)"),
        Inside("kube-proxy:v1.20.2", ("/usr/sbin/conntrack", "--version"), "conntrack v"),
        Inside("kube-proxy:v1.20.2", ("/usr/sbin/ipset", "--version"), "ipset v"),
        Inside("etcd:3.4.13-0", ("/usr/local/bin/etcd", "--version"), "etcd Version: 3.4"),
        Inside("etcd:3.4.13-0", ("/usr/local/bin/etcdctl", "version"), "etcdctl version: 3.4"),
    ],
    ids=lambda inside: Path(inside.words[0]).name,
)
def test_programs_run_with_nothing_but_their_image(made: Parts, tmp_path: Path, inside: Inside) -> None:
    unpack_image(made.images, inside.image, tmp_path)
    assert inside.shown in run("unshare", "--net", "chroot", tmp_path, *inside.words)


def test_matches_of_iptables_are_in_the_image(made: Parts, tmp_path: Path) -> None:
    unpack_image(made.images, "kube-proxy:v1.20.2", tmp_path)
    match = "-m comment --comment x -m statistic --mode random --probability 0.5 -m conntrack --ctstate NEW"
    words = ["/usr/sbin/iptables", "-A", "OUTPUT", "-p", "tcp", *match.split(), "-j", "MARK", "--set-xmark", "1/1"]
    run("unshare", "--net", "chroot", tmp_path, *words)


def unpack_image(layout: Path, name: str, target: Path) -> None:
    opened = Layout.open(layout)
    (found,) = [image for image in opened.index() if name in image.annotations.values()]
    (layer,) = json.loads(opened.read(found.digest))["layers"]
    run("tar", "--extract", "--gzip", "--file", opened.blob_path(layer["digest"]), "--directory", target)


def test_pause_ends_when_told_to(made: Parts) -> None:
    with subprocess.Popen([made.own.programs / "pause"]) as child:
        time.sleep(0.3)  # until it listens to signals
        child.terminate()
        assert child.wait(10) == 0


def test_http_answers_with_its_host(made: Parts) -> None:
    port = free_port()
    with subprocess.Popen([made.own.programs / "http", str(port)]) as child:
        try:
            assert answer(f"http://127.0.0.1:{port}/").decode().strip() == socket.gethostname()
        finally:
            child.terminate()


def answer(url: str) -> bytes:
    for _ in range(100):
        try:
            with urllib.request.urlopen(url) as response:  # noqa: S310 - it is http
                return bytes(response.read())
        except urllib.error.URLError:
            time.sleep(0.1)
    raise AssertionError(f"{url} did not answer")


def test_the_registry_wants_its_password_and_shows_its_certificate(site: registry.Registry) -> None:
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"https://{site.host}/v2/", context=ssl.create_default_context(cafile=site.ca))
    with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
        urllib.request.urlopen(f"https://{site.host}/v2/", context=ssl.create_default_context())


def test_a_registry_comes_back_with_what_it_had(made: Parts, tmp_path: Path) -> None:
    port, seen = free_port(), []
    for _ in range(2):
        with registry.running(made.tree, tmp_path, "127.0.0.1", port, ["localhost"]) as running:
            seen.append((running.host, running.ca.read_bytes()))
            process = Path(f"/proc/{running.pid}")
            assert process.exists()
        assert not process.exists()
    assert seen[0] == seen[1]


@contextmanager
def containerd(made: Parts, site: registry.Registry, place: Path) -> Iterator[str]:
    config, socket_path = place / "config.toml", place / "socket"
    config.write_text(CONTAINERD.format(place=place, host=site.host, user=registry.USER, password=registry.PASSWORD))
    (place / "certs.d" / site.host).mkdir(parents=True)
    (place / "certs.d" / site.host / "hosts.toml").write_text(HOSTS.format(host=site.host, ca=site.ca))
    path = f"{made.own.packages}/usr/bin:{made.own.packages}/usr/sbin:{os.environ['PATH']}"
    # Its mounts are its own, so that they go with it.
    words: list[str | Path] = ["unshare", "--mount", made.own.files()["containerd/containerd"], "--config", config]
    with (place / "log").open("wb") as log:
        child = subprocess.Popen(words, stdout=log, stderr=log, env=os.environ | {"PATH": path})
    try:
        for _ in range(300):
            if socket_path.exists() or child.poll() is not None:
                break
            time.sleep(0.1)
        yield f"unix://{socket_path}"
    finally:
        child.terminate()
        child.wait(30)


def test_crictl_speaks_to_containerd_as_kubeadm_calls_it(made: Parts, site: registry.Registry, tmp_path: Path) -> None:
    image, crictl = f"{site.host}/kubernetes/pause:3.2", made.own.programs / "crictl"
    with containerd(made, site, tmp_path) as endpoint:
        assert "RuntimeReady" in run(crictl, "-r", endpoint, "info")
        with pytest.raises(RuntimeError, match="no such image"):
            run(crictl, "-r", endpoint, "inspecti", image)
        run(crictl, "-r", endpoint, "pull", image)
        assert image in run(crictl, "-r", endpoint, "inspecti", image)
        assert run(crictl, "-r", endpoint, "pods", "-q") == ""
        assert "RuntimeName:  containerd" in run(crictl, "-r", endpoint, "version")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "usage"),
        (["-r"], "-r needs a socket"),
        (["--frobnicate"], "unknown option"),
        (["-r", "/nowhere/socket", "info"], "no answer on unix:///nowhere/socket"),
    ],
)
def test_crictl_says_what_is_wrong(made: Parts, words: list[str], message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        run(made.own.programs / "crictl", *words)


def test_the_mirror_has_every_file_with_its_sum(made: Parts) -> None:
    sums = sorted(made.mirror.rglob("*.sha256"))
    assert len(sums) == len(made.own.versions())
    for file in sums:
        digest = run("sha256sum", file.with_suffix("")).split()[0]
        assert file.read_text().strip() == digest


def test_node_packages_are_whole(made: Parts) -> None:
    assert (made.node / "usr/lib/nginx/modules/ngx_stream_module.so").is_file()
    libraries = made.node / "usr/lib" / TRIPLETS[Architecture.host()]
    for name in ("nginx", "keepalived", "conntrack", "ipset", "iptables"):
        program = made.node / "usr/sbin" / name
        assert "not found" not in run(made.tree.loader, "--library-path", libraries, "--list", program)


def test_making_again_touches_nothing(made: Parts) -> None:
    def state() -> dict[str, tuple[int, int]]:
        found = {path: path.stat() for path in parts.default_directory().iterdir() if path.name != "lock"}
        return {path.name: (status.st_mtime_ns, status.st_ino) for path, status in found.items()}

    before = state()
    assert parts.make() == made
    assert state() == before


def test_a_part_that_was_cut_off_is_made_again(tmp_path: Path) -> None:
    maker = parts.Maker(tmp_path)
    (tmp_path / ".part.half").mkdir()
    (tmp_path / ".part.half/of the past").touch()

    def cut_off(target: Path) -> None:
        (target / "begun").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        maker.part("part", "key", cut_off)
    assert not (tmp_path / "part-key").exists()
    made = maker.part("part", "key", lambda target: (target / "whole").touch())
    assert [path.name for path in made.iterdir()] == ["whole"]


def test_parts_of_the_past_are_removed(tmp_path: Path) -> None:
    maker = parts.Maker(tmp_path)
    for name in ("part-old", "other-old"):
        (tmp_path / name).mkdir()
    maker.part("part", "new", lambda target: (target / "whole").touch())
    maker.tidy()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other-old", "part-new"]
