"""Hosts made of namespaces: apart from each other and from this machine, and gone when the test is."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
import tarfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.core.arch import Architecture
from tests.cluster import cgroups, parts
from tests.cluster.host import Host
from tests.cluster.lan import Lan
from tests.integration.processes import find, mounts, wait_until_gone

pytestmark = [pytest.mark.root, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
PORT = 8123
GLOBAL = ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops", "fs/inotify/max_user_instances")
KILLED = """
import os, signal
from tests.cluster.lan import Lan
lan = Lan()
lan.open()
one = lan.host("one", "10.77.0.11")
one.popen(["sleep", "infinity"])
print(lan.mark, lan.pid, one.pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with Lan() as lan:
        yield lan


@pytest.fixture(scope="module")
def one(lan: Lan) -> Host:
    return lan.host("one", "10.77.0.11")


@pytest.fixture(scope="module")
def two(lan: Lan) -> Host:
    return lan.host("two", "10.77.0.12")


def groups(mark: str) -> list[Path]:
    """Return the cgroups of a network's hosts."""
    return [path for tree in cgroups.hierarchies() for path in tree.base.glob(f"{mark}-*")]


def names(lines: str) -> list[str]:
    return [line.split()[-1] for line in lines.splitlines()]


# --- apart


def test_each_has_its_own_names(one: Host, two: Host) -> None:
    for path in ("/etc/machine-id", "/etc/hostname", "/proc/sys/kernel/random/boot_id", "/proc/sys/kernel/hostname"):
        assert len({one.read(path), two.read(path), Path(path).read_text() if Path(path).exists() else ""}) == 3
    assert one.run(["hostname"]).stdout == "one\n"


def test_each_sees_its_own_processes_files_and_cgroups(one: Host, two: Host) -> None:
    with two.popen(["sleep", "4321"]) as child:
        seen = one.run(["sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]).stdout
        child.kill()
    assert "4321" not in seen
    assert "host_init.py" in seen
    for where in ("/var/lib", "/tmp", "/etc", "/usr/bin", "/run", "/dev/shm"):
        path = f"{where}/{uuid.uuid4()}"
        one.write(path, "x")
        assert two.run(["ls", path], check=False).returncode != 0
        assert not Path(path).exists()
    assert {line.rpartition(":")[2] for line in one.read("/proc/self/cgroup").splitlines()} == {"/init.scope"}
    one.run(["sh", "-c", "mkdir /sys/fs/cgroup/*/mine 2>/dev/null || mkdir /sys/fs/cgroup/mine"], check=False)
    assert (
        two.run(["sh", "-c", "ls -d /sys/fs/cgroup/mine /sys/fs/cgroup/*/mine 2>/dev/null"], check=False).stdout == ""
    )


@pytest.mark.parametrize("name", GLOBAL)
def test_settings_of_the_kernel_stay_with_the_host(one: Host, two: Host, name: str) -> None:
    path, before = f"/proc/sys/{name}", Path("/proc/sys", name).read_text()
    one.run(["sysctl", "--write", f"{name.replace('/', '.')}=77"])
    assert one.read(path).split() == ["77"]
    assert two.read(path) == Path(path).read_text() == before


@pytest.mark.parametrize("program", ["containerd", "ctr", "kubelet", "kubeadm", "etcd", "etcdctl"])
def test_nothing_is_installed(one: Host, program: str) -> None:
    assert one.run(["sh", "-c", f"command -v {program}"], check=False).stdout == ""


def test_hosts_reach_each_other_and_nothing_else(lan: Lan, one: Host, two: Host) -> None:
    two.write("/srv/www/name", "this is two\n")
    with two.popen(["python3", "-m", "http.server", "--directory=/srv/www", "8000"]) as server:
        assert one.wait(["curl", "--silent", f"http://{two.address}:8000/name"]) == "this is two\n"
        assert lan.run(["curl", "--silent", f"http://{two.address}:8000/name"]).stdout == "this is two\n"
        assert one.run(["curl", "--silent", "http://127.0.0.1:8000/name"], check=False).returncode == 7
        two.run(["pkill", "-f", "http.server"])
        server.wait()
    refused = one.run(["curl", "--silent", "--show-error", "--max-time", "20", "http://192.0.2.1/"], check=False)
    assert "No route to host" in refused.stderr or "unreachable" in refused.stderr or refused.returncode == 7


# --- use


def test_run(one: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOT_FOR_HOSTS", "1")
    done = one.run(["sh", "-c", "cat; env; exit 3"], check=False, env={"GIVEN": "a b"}, input="typed\n")
    assert done.returncode == 3
    assert done.stdout.startswith("typed\n")
    assert "GIVEN=a b\n" in done.stdout
    assert "NOT_FOR_HOSTS" not in done.stdout
    with pytest.raises(subprocess.CalledProcessError) as failed:
        one.run(["sh", "-c", "echo why >&2; exit 4"])
    assert "why" in failed.value.__notes__[0]


def test_a_run_that_takes_too_long_is_killed(one: Host) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        one.run(["sh", "-c", "sleep 5432 & sleep 5432"], timeout=0.5)
    one.wait(["sh", "-c", "! pgrep -f 'sleep 543[2]'"])


def test_files(one: Host, tmp_path: Path) -> None:
    one.write("/etc/deep/in/file", "text ü\n", 0o600)
    assert one.read("/etc/deep/in/file") == "text ü\n"
    assert one.run(["stat", "--format=%a", "/etc/deep/in/file"]).stdout == "600\n"
    (tmp_path / "tree/sub").mkdir(parents=True)
    (tmp_path / "tree/sub/program").write_text("#!/bin/sh\necho ran\n")
    (tmp_path / "tree/sub/program").chmod(0o755)
    (tmp_path / "tree/link").symlink_to("sub/program")
    one.copy(tmp_path / "tree", "/opt/renamed")
    assert one.run(["/opt/renamed/link"]).stdout == "ran\n"


def test_a_full_disk_and_a_limit_of_memory(lan: Lan) -> None:
    small = lan.host("small", "10.77.0.30", disk="32m", memory=96 << 20)
    full = small.run(["dd", "if=/dev/zero", "of=/var/lib/big", "bs=1M", "count=64"], check=False)
    assert "No space left" in full.stderr
    small.run(["rm", "/var/lib/big"])
    eat = small.run(["python3", "-c", "b = bytearray(256 << 20); print(len(b))"], check=False)
    assert eat.returncode != 0
    assert eat.stdout == ""
    small.close()


# --- life


def test_power_cut_and_start(lan: Lan) -> None:
    host = lan.host("cut", "10.77.0.20")
    unit = "[Service]\nExecStart=/bin/sleep infinity\n[Install]\nWantedBy=multi-user.target\n"
    for name in ("enabled", "started"):
        host.write(f"/etc/systemd/system/{name}.service", unit)
    host.run(["systemctl", "enable", "--now", "enabled"])
    host.run(["systemctl", "start", "started"])
    host.write("/run/gone", "")
    host.write("/etc/kept", "kept")
    host.write("/etc/sysctl.d/90-cluster-installer.conf", "net.ipv4.ip_forward = 1\n")
    host.run(["rm", "/etc/debian_version", "/etc/os-release"], check=False)
    boot, machine = host.read("/proc/sys/kernel/random/boot_id"), host.read("/etc/machine-id")
    with host.popen(["sleep", "infinity"]) as child:
        host.kill()
        child.wait()
    with pytest.raises(AssertionError):
        host.run(["true"])
    host.start()
    assert host.run(["systemctl", "is-system-running", "--wait"]).stdout == "running\n"
    states = [host.run(["systemctl", "is-active", name], check=False).stdout for name in ("enabled", "started")]
    assert states == ["active\n", "inactive\n"]
    assert host.run(["ls", "/run/gone"], check=False).returncode != 0
    assert host.run(["ls", "/etc/os-release"], check=False).returncode != 0
    assert host.read("/etc/kept") == "kept"
    assert host.read("/etc/machine-id") == machine
    assert host.read("/proc/sys/kernel/random/boot_id") != boot
    assert host.read("/proc/sys/net/ipv4/ip_forward") == "1\n"
    host.close()


def test_disks_in_a_directory(tmp_path: Path) -> None:
    with Lan("10.78.0.0/24", disks=tmp_path / "disks") as lan:
        try:
            host = lan.host("disky", "10.78.0.9")
        except AssertionError as error:
            pytest.skip(f"not on this file system: {error}")
        host.write("/var/lib/file", "on disk")
        host.kill()
        host.start()
        assert host.read("/var/lib/file") == "on disk"


def test_nothing_is_left() -> None:
    before, table = mounts(), Path("/proc/net/dev").read_text().count("\n")
    with Lan() as lan:
        hosts = [lan.host(name, f"10.77.0.{last}") for last, name in enumerate("ab", start=11)]
        children = [host.popen(["sleep", "infinity"]) for host in hosts]
        pids = [find(pid) for pid in (lan.pid, *(host.pid for host in hosts), *(child.pid for child in children))]
        assert groups(lan.mark)
        assert mounts() == before
    for child in children:
        child.wait()
    assert not groups(lan.mark)
    wait_until_gone([item for item in pids if item])
    assert mounts() == before
    assert Path("/proc/net/dev").read_text().count("\n") == table


def test_nothing_is_left_of_a_killed_test() -> None:
    before = mounts()
    words = [sys.executable, "-c", KILLED]
    done = subprocess.run(
        words, cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": "."}
    )
    assert done.returncode == -9, done.stderr
    mark, *pids = done.stdout.split()
    wait_until_gone([found for pid in pids if (found := find(int(pid)))])
    deadline = time.monotonic() + 30
    while groups(mark):
        assert time.monotonic() < deadline, groups(mark)
        time.sleep(0.05)
    assert mounts() == before


# --- containers

CONTAINERD = """version = 2
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "site.test/pause:1"
  restrict_oom_score_adj = true
"""
UNITS = {
    "containerd": "[Service]\nType=notify\nKillMode=process\nExecStart=/usr/local/bin/containerd\n",
    "kubelet": "[Unit]\nRequires=containerd.service\nAfter=containerd.service\nStartLimitIntervalSec=0\n[Service]\n"
    "Restart=always\nRestartSec=1\nExecStart=/usr/local/bin/kubelet --config=/etc/kubelet.yaml "
    "--container-runtime=remote --container-runtime-endpoint=unix:///run/containerd/containerd.sock\n",
}
KUBELET = """apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
staticPodPath: /etc/kubernetes/manifests
cgroupDriver: cgroupfs
failSwapOn: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
"""
POD = f"""apiVersion: v1
kind: Pod
metadata: {{name: web}}
spec:
  hostNetwork: true
  containers:
  - name: web
    image: site.test/http:1
    imagePullPolicy: Never
    args: ["{PORT}"]
    resources: {{limits: {{cpu: 200m, memory: 64Mi}}}}
"""


def archive(program: Path, name: str, target: Path) -> None:
    """Write an image of one program, as `docker save` does."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        add(tar, "program", program.read_bytes(), 0o755)
    digest = hashlib.sha256(layer.getvalue()).hexdigest()
    config = {
        "architecture": Architecture.host().oci,
        "os": "linux",
        "config": {"Entrypoint": ["/program"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{digest}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [f"site.test/{name}:1"], "Layers": ["layer.tar"]}]
    with tarfile.open(target, "w") as tar:
        add(tar, "config.json", json.dumps(config).encode())
        add(tar, "layer.tar", layer.getvalue())
        add(tar, "manifest.json", json.dumps(manifest).encode())


def add(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def install(host: Host, own: parts.Components, archives: Path) -> None:
    for name, file in own.files().items():
        host.copy(file, f"/usr/local/bin/{Path(name).name}")
    for name, unit in UNITS.items():
        host.write(f"/etc/systemd/system/{name}.service", f"{unit}[Install]\nWantedBy=multi-user.target\n")
    host.write("/etc/containerd/config.toml", CONTAINERD)
    host.write("/etc/kubelet.yaml", KUBELET)
    host.write("/etc/kubernetes/manifests/web.yaml", POD)
    host.copy(archives, "/root/archives")
    host.run(["systemctl", "enable", "--now", "containerd"])
    host.run(["sh", "-c", "for f in /root/archives/*; do ctr --namespace=k8s.io images import $f || exit; done"])


def test_two_kubelets_run_pods_side_by_side_and_after_a_power_cut(tmp_path: Path) -> None:
    own = parts.make().own
    for name in ("pause", "http"):
        archive(own.programs / name, name, tmp_path / f"{name}.tar")
    with Lan() as lan:
        hosts = [lan.host(name, f"10.77.0.{last}") for last, name in enumerate(("first", "second"), start=11)]
        for host in hosts:
            install(host, own, tmp_path)
            host.run(["systemctl", "enable", "--now", "kubelet"])
        for host in hosts:
            assert host.wait(["curl", "--silent", f"http://127.0.0.1:{PORT}/"], timeout=120) == f"{host.name}\n"
            assert names(host.run(["ctr", "--namespace=k8s.io", "tasks", "list", "--quiet"]).stdout)
            assert "overlay" in host.run(["sh", "-c", "grep k8s.io/.*/rootfs /proc/mounts"]).stdout
            pods = host.run(["sh", "-c", "find /sys/fs/cgroup -path '*/kubepods/*' -name 'pod*'"]).stdout
            assert pods
        hosts[0].kill()
        hosts[0].start()
        assert hosts[0].wait(["curl", "--silent", f"http://127.0.0.1:{PORT}/"], timeout=120) == "first\n"
        mark = lan.mark
    assert not groups(mark)
