"""A real cluster, installed from nothing but rendered seeds: two masters and a worker, hosts made of namespaces."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.cluster import site as sites
from tests.cluster.host import Host
from tests.cluster.registry import PASSWORD
from tests.cluster.site import ADMIN, FIRST, NODES, SECOND, WORKER, Node, Site

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with sites.in_namespaces(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def seeds(site: Site) -> Path:
    assert site.lan is not None
    return site.render(site.spec(NODES, site.lan.address))


@pytest.fixture(scope="module")
def first(site: Site, seeds: Path) -> Host:
    """The first master, installed."""
    host = site.host(FIRST, seeds)
    sites.bootstrap(host)
    return host


@pytest.fixture(scope="module")
def second(site: Site, seeds: Path, first: Host) -> Host:
    """A further master, installed."""
    assert first.pid, "there is a cluster to join"
    host = site.host(SECOND, seeds)
    sites.bootstrap(host)
    return host


@pytest.fixture(scope="module")
def worker(site: Site, seeds: Path, first: Host) -> Host:
    """A worker, installed."""
    assert first.pid, "there is a cluster to join"
    host = site.host(WORKER, seeds)
    sites.bootstrap(host)
    return host


@pytest.mark.usefixtures("worker")
def test_every_node_gets_ready(first: Host, second: Host) -> None:
    assert sites.ready_nodes(first) == {"m1", "m2", "w1"}
    assert sites.ready_nodes(second) == {"m1", "m2", "w1"}


@pytest.mark.usefixtures("second")
def test_etcd_has_every_master(first: Host) -> None:
    members = first.run(["bash", "-c", ". /opt/cluster-installer/current/lib/utils.sh && etcd_here member list"]).stdout
    assert [line.split(", ")[1:3] for line in sorted(members.splitlines(), key=lambda line: line.split(", ")[2])] == [
        ["started", "m1"],
        ["started", "m2"],
    ]


@pytest.mark.parametrize("which", ["first", "second", "worker"])
def test_a_second_run_changes_nothing_and_says_so(which: str, request: pytest.FixtureRequest) -> None:
    host: Host = request.getfixturevalue(which)
    before = everything_written(host)
    log, _ = sites.bootstrap(host)
    assert "nothing to do: this node is installed and healthy, nothing was changed" in log
    assert everything_written(host) == before


def everything_written(host: Host) -> str:
    """Return sums of all that an installation writes."""
    places = (
        "/etc/kubernetes /etc/containerd /etc/systemd/system /etc/hosts /etc/cluster /etc/cni /opt/cluster-installer"
    )
    return host.run(["sh", "-c", f"find {places} -type f -exec sha256sum {{}} + | sort"]).stdout


def test_no_secret_is_in_a_log_or_left_in_memory(first: Host, second: Host, worker: Host) -> None:
    output = "jsonpath={range .items[*]}{.data.token-secret} {end}"
    words = [*ADMIN, "--namespace=kube-system", "get", "secrets", "--field-selector=type=bootstrap.kubernetes.io/token"]
    tokens = [base64.b64decode(one).decode() for one in first.run([*words, f"--output={output}"]).stdout.split()]
    secrets = [*tokens, first.read("/etc/cluster/join.secret").strip(), PASSWORD]
    assert len(secrets) >= 3
    for host in (first, second, worker):
        logs = host.run(["sh", "-c", "cat /var/log/cluster-installer/* /var/log/journal-standin/*"]).stdout
        assert [secret for secret in secrets if secret in logs] == []
        assert "certificateKey" not in logs
        assert host.run(["find", "/run/cluster-installer", "-name", "join.*", "-o", "-name", "token.*"]).stdout == ""


@pytest.mark.usefixtures("worker")
def test_a_pod_on_the_worker_answers_the_first_master(first: Host) -> None:
    image = f"{sites.REGISTRY}:{sites.PORT}/kubernetes/http:1"
    overrides = json.dumps({"apiVersion": "v1", "spec": {"nodeName": "w1"}})
    first.run([*ADMIN, "run", "web", f"--image={image}", "--restart=Never", f"--overrides={overrides}"])
    first.run([*ADMIN, "wait", "pod/web", "--for=condition=Ready", "--timeout=180s"])
    address = first.run([*ADMIN, "get", "pod", "web", "--output=jsonpath={.status.podIP}"]).stdout
    said = first.wait(["curl", "--silent", "--show-error", "--fail", "--max-time", "5", f"http://{address}:8080/"])
    assert "web" in said


def test_a_master_that_is_not_ready_is_left_out_by_every_node(first: Host, second: Host, worker: Host) -> None:
    """The balancer asks /readyz: a first master without its API server is no hole in the others' way."""
    manifest, parked = "/etc/kubernetes/manifests/kube-apiserver.yaml", "/root/kube-apiserver.yaml"
    first.run(["mv", manifest, parked])
    listed = ["sh", "-c", "! grep -q 10.77.0.11 /etc/cluster-installer/masters.conf"]
    worker.wait(listed, timeout=240)
    second.wait(listed, timeout=240)
    node = ["kubectl", "--kubeconfig=/etc/kubernetes/kubelet.conf", "get", "node", "w1"]
    assert "w1" in worker.wait(node, timeout=120)
    first.run(["mv", parked, manifest])
    worker.wait(["grep", "-q", "10.77.0.11", "/etc/cluster-installer/masters.conf"], timeout=300)


def test_a_fresh_token_is_made_on_any_master(first: Host, second: Host) -> None:
    asked = [*ADMIN, "--namespace=kube-public", "get", "configmap", "cluster-join", "--output=jsonpath={.data.tag}"]
    before = first.run(asked).stdout
    second.run(["cluster-installer", "token"])
    assert first.run(asked).stdout != before


def pulled(site: Site, since: int) -> int:
    """Return how many bytes of blobs the registry has sent since a place in its log."""
    sent = re.findall(r'"GET /v2/[^ ]+/blobs/[^ ]+ HTTP/1.1" 200 (\d+)', site.registry.log.read_text()[since:])
    return sum(map(int, sent))


def test_a_changed_script_is_one_small_layer_and_can_be_taken_back(site: Site, first: Host, worker: Host) -> None:
    before = site.image
    plan = sites.invoke("build", "--dry-run", root=site.checkout)
    (site.payload / "lib/zz-note.sh").write_text("# shellcheck shell=bash\n# A changed payload.\n")
    after = site.publish()
    assert after != before
    assert sites.invoke("build", "--dry-run", root=site.checkout) == plan  # no node image has to be built again

    kubelet = worker.run(["systemctl", "show", "-p", "MainPID", "kubelet.service"]).stdout
    mark = len(site.registry.log.read_text())
    worker.run(["cluster-installer", "upgrade", after])
    assert 0 < pulled(site, mark) < 1_000_000
    assert worker.read("/opt/cluster-installer/current/lib/zz-note.sh")
    assert f"INSTALLER_IMAGE={after}" in worker.read("/etc/cluster/cluster.env")
    assert worker.run(["systemctl", "show", "-p", "MainPID", "kubelet.service"]).stdout == kubelet  # not restarted

    worker.run(["cluster-installer", "rollback"])
    assert worker.run(["readlink", "/opt/cluster-installer/current"]).stdout.strip() == f"releases/{before[-64:]}"
    assert "w1" in sites.ready_nodes(first)


def test_a_payload_that_fails_is_taken_back_by_itself(site: Site, first: Host, worker: Host) -> None:
    before, good = worker.read("/etc/cluster/cluster.env"), site.image
    (site.payload / "lib/zz-broken.sh").write_text("# shellcheck shell=bash\nnode_sysctls() { die 1 'broken'; }\n")
    broken = site.publish()
    (site.payload / "lib/zz-broken.sh").unlink()
    site.image = good
    done = worker.run(["cluster-installer", "upgrade", broken], check=False)
    assert done.returncode == 1, done.stderr
    assert "going back to" in done.stderr
    assert worker.read("/etc/cluster/cluster.env") == before
    assert not worker.run(["readlink", "/opt/cluster-installer/current"]).stdout.strip().endswith(broken[-64:])
    log, _ = sites.bootstrap(worker)
    assert "nothing to do" in log
    assert "w1" in sites.ready_nodes(first)


def test_a_worker_that_was_reset_is_clean_and_joins_again(first: Host, worker: Host) -> None:
    worker.run(["cluster-installer", "reset", "--yes"])
    for path in (
        "/etc/kubernetes",
        "/var/lib/kubelet",
        "/var/lib/cluster-installer",
        "/etc/cni/net.d/10-cluster.conflist",
    ):
        assert worker.run(["test", "-e", path], check=False).returncode == 1, path
    assert worker.run(["pgrep", "-x", "kubelet|containerd"], check=False).stdout == ""
    assert "kubelet" not in worker.read("/proc/self/mounts")
    sites.bootstrap(worker)
    assert "w1" in sites.ready_nodes(first)


WORKER_CUTS = ("units", "kubeadm-kubelet-start", "network", "node-ready")


def test_a_worker_gets_ready_though_its_power_fails_in_every_phase(first: Host, worker: Host) -> None:
    worker.run(["cluster-installer", "reset", "--yes"])
    worker.run(["systemctl", "stop", sites.BOOTSTRAP])
    cut_at_every(worker, WORKER_CUTS)
    assert "w1" in sites.ready_nodes(first)


MASTER_CUTS = (
    "hosts",
    "containerd",
    "kubeadm-certs",
    "kubeadm-etcd",
    "wait-for-api",
    "kubeadm-mark",
    "network",
    "publish-join",
)


def test_a_first_master_with_a_moving_address_survives_cuts(site: Site, tmp_path: Path) -> None:
    """Another cluster, of one master, behind an address that keepalived holds."""
    assert site.lan is not None
    node = Node("v1", "first-master", "10.77.0.31")
    endpoint = {"host": "api.vip.example", "port": 6443, "balancer": "vip", "address": "10.77.0.100"}
    spec = site.spec([node], site.lan.address, name="vip", endpoint=endpoint)
    host = site.host(node, site.render(spec, tmp_path / "seeds"))
    cut_at_every(host, MASTER_CUTS)
    assert sites.ready_nodes(host) == {"v1"}
    assert "10.77.0.100/32" in host.run(["ip", "-4", "address"]).stdout
    host.close()


def cut_at_every(host: Host, steps: Sequence[str]) -> None:
    """Cut a host's power in each of these steps, and start it again: what is enabled goes on with the installation."""
    with host.popen(["systemctl", "start", sites.BOOTSTRAP]):
        for step in steps:
            begun = f"cat /var/log/cluster-installer/*.log | grep -q 'step {step}: begins'"
            try:
                host.wait(["sh", "-c", begun], timeout=300)
            except AssertionError as error:
                error.add_note(host.run(["sh", "-c", "cat /var/log/journal-standin/*"]).stdout)
                raise
            host.kill()
            host.start()
    host.run(["systemctl", "is-system-running", "--wait"], check=False, timeout=600)
    assert host.run(["systemctl", "is-active", sites.BOOTSTRAP], check=False).stdout.strip() == "active", sites.journal(
        host
    )


def test_certificates_are_renewed_and_the_control_plane_uses_them(second: Host) -> None:
    end = ["openssl", "x509", "-noout", "-serial", "-in", "/etc/kubernetes/pki/apiserver.crt"]
    before = second.run(end).stdout
    second.run(["cluster-installer", "renew-certificates"], timeout=600)
    after = second.run(end).stdout
    assert after != before
    served = "openssl s_client -connect 10.77.0.12:6443 </dev/null 2>/dev/null | openssl x509 -noout -serial"
    assert second.run(["sh", "-c", served]).stdout == after
    assert second.run([*ADMIN, "get", "--raw=/readyz"]).stdout == "ok"
