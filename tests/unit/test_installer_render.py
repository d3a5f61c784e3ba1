"""Seeds: what is in them, who may read them, and what a second render does."""

from __future__ import annotations

import io
import os
import subprocess
from pathlib import Path
from typing import Any

import pycdlib
import pytest
import yaml

from pipeline import installer
from pipeline.core.errors import InputError, PipelineError, StorageError
from pipeline.installer import seed
from tests.unit.test_installer_spec import HOST, Change, balancer, certificate, good, node, write

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIPo9ncwF8Fnv2RbUxpwfpBVu9ywa5oj/FhOqtvhV7l7d"


def site(directory: Path, change: Change = lambda _spec: None) -> installer.Site:
    return installer.read(write(directory, good(change)))


def user_data(directory: Path, name: str) -> dict[str, Any]:
    text = (directory / name / "user-data").read_text()
    assert text.startswith("#cloud-config\n")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def env(directory: Path, name: str = "m1") -> dict[str, str]:
    lines = (directory / name / "cluster.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines)


def changes(rendered: installer.Rendered) -> dict[str, str]:
    return {name: str(change) for name, change in rendered.nodes.items()}


def test_a_seed_is_complete(tmp_path: Path) -> None:
    certificate(tmp_path)
    (tmp_path / "auth.json").write_text(f'{{"auths": {{"{HOST}": {{"auth": "YQ=="}}}}}}')

    def all_of_it(spec: dict[str, Any]) -> None:
        spec["registry"].update(ca="ca.pem", auth_file="auth.json", address="10.0.0.5")
        spec.update(ssh_authorized_keys=[f"{KEY} a"], ntp=["10.0.0.1"])
        spec["nodes"][1]["ssh_authorized_keys"] = [f"{KEY} a", f"{KEY} b\n"]

    installer.render(site(tmp_path, all_of_it), tmp_path / "out")
    data = user_data(tmp_path / "out", "m1")
    files = {file["path"]: file for file in data["write_files"]}
    assert list(files)[-1] == "/etc/cluster/cluster.env"
    assert {path: file["permissions"] for path, file in files.items()} == {
        "/etc/cluster/join.secret": "0600",
        "/etc/cluster/registry-ca.pem": "0644",
        "/etc/cluster/registry-auth.json": "0600",
        "/etc/cluster/cluster.env": "0600",
    }
    assert files["/etc/cluster/registry-ca.pem"]["content"] == (tmp_path / "ca.pem").read_text()
    assert files["/etc/cluster/cluster.env"]["content"] == (tmp_path / "out/m1/cluster.env").read_text()
    assert files["/etc/cluster/join.secret"]["content"] == (tmp_path / "out/join.secret").read_text()
    assert data["ssh_authorized_keys"] == [f"{KEY} a", f"{KEY} b"]
    assert data["ntp"] == {"enabled": True, "ntp_client": "chrony", "servers": ["10.0.0.1"]}
    assert (data["hostname"], data["fqdn"], data["manage_etc_hosts"]) == ("m1", "m1", False)
    assert "password" not in (tmp_path / "out/m1/user-data").read_text()


def test_what_is_not_asked_for_is_left_out(tmp_path: Path) -> None:
    installer.render(site(tmp_path), tmp_path / "out")
    assert set(user_data(tmp_path / "out", "m1")) == {
        "hostname", "fqdn", "preserve_hostname", "manage_etc_hosts", "write_files",
    }  # fmt: skip
    assert not (tmp_path / "out/m1/network-config").exists()


def test_the_settings_of_a_node(tmp_path: Path) -> None:
    installer.render(site(tmp_path), tmp_path / "out")
    worker = env(tmp_path / "out", "w1")
    assert (worker["ROLE"], worker["CLUSTER_NODE_NAME"], worker["CLUSTER_NODE_IP"]) == ("worker", "w1", "10.0.0.21")
    assert worker["CLUSTER_NODES"] == "m1=10.0.0.11=first-master=amd64 w1=10.0.0.21=worker=arm64"
    assert (worker["CLUSTER_COREDNS"], worker["CLUSTER_KEEP_RELEASES"]) == ("yes", "3")
    assert worker["REGISTRY_CA"] == worker["REGISTRY_AUTH_FILE"] == worker["CLUSTER_REGISTRY_IP"] == ""


@pytest.mark.parametrize(
    ("change", "endpoint", "address", "vip"),
    [
        (balancer("none"), "api.demo.example:6443", "10.0.0.11", ""),
        (balancer("none", host="10.0.0.11"), "10.0.0.11:6443", "", ""),
        (balancer("external", port=443), "api.demo.example:443", "", ""),
        (balancer("external", address="10.0.0.9"), "api.demo.example:6443", "10.0.0.9", ""),
        (balancer("nginx", port=8443), "api.demo.example:8443", "127.0.0.1", ""),
        (balancer("vip", address="10.0.0.9"), "api.demo.example:6443", "10.0.0.9", "10.0.0.9"),
        (balancer("vip", host="10.0.0.9", address="10.0.0.9"), "10.0.0.9:6443", "10.0.0.9", "10.0.0.9"),
    ],
)
def test_the_endpoint(tmp_path: Path, change: Change, endpoint: str, address: str, vip: str) -> None:
    installer.render(site(tmp_path, change), tmp_path / "out")
    found = env(tmp_path / "out")
    assert (found["CLUSTER_ENDPOINT"], found["CLUSTER_ENDPOINT_IP"], found["CLUSTER_VIP"]) == (endpoint, address, vip)


def test_nobody_else_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0o000)
    try:
        installer.render(site(tmp_path), tmp_path / "out")
    finally:
        os.umask(before)
    everything = [tmp_path / "out", *(tmp_path / "out").rglob("*")]
    assert {(path.is_dir(), path.stat().st_mode & 0o777) for path in everything} == {(True, 0o700), (False, 0o600)}


def test_the_disk_holds_what_cloud_init_reads(tmp_path: Path) -> None:
    static = {"mac": "52:54:00:00:00:01", "prefix": 24, "gateway": "10.0.0.1", "nameservers": ["10.0.0.2"]}
    installer.render(site(tmp_path, lambda s: s["nodes"][1].update(network=static)), tmp_path / "out")
    iso = pycdlib.PyCdlib()
    iso.open(str(tmp_path / "out/m1/seed.iso"))
    assert iso.pvd.volume_identifier.strip() == b"cidata"
    for name in ("user-data", "meta-data", "network-config"):
        for path in ("rr_path", "joliet_path"):
            read = io.BytesIO()
            iso.get_file_from_iso_fp(read, **{path: f"/{name}"})
            assert read.getvalue() == (tmp_path / "out/m1" / name).read_bytes()
    assert [one.file_identifier() for one in iso.list_children(rr_path="/")][2:] == [
        b"META_DATA.;1", b"NETWORK_CONFIG.;1", b"USER_DATA.;1",
    ]  # fmt: skip
    iso.close()


# ----------------------------------------------------------------------------------------------- second time


def test_a_second_render_writes_what_has_changed(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert changes(installer.render(site(tmp_path), out)) == {"m1": "new", "w1": "new"}
    before = {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.rglob("*")}
    assert changes(installer.render(site(tmp_path), out)) == {"m1": "unchanged", "w1": "unchanged"}
    assert {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in out.rglob("*")} == before
    rendered = installer.render(site(tmp_path, lambda s: s["nodes"][0].update(ssh_authorized_keys=[KEY])), out)
    assert changes(rendered) == {"m1": "unchanged", "w1": "changed"}
    assert not list(out.glob(".*"))


@pytest.mark.parametrize("damage", ["remove", "open", "add"])
def test_a_damaged_seed_is_written_again(tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    installer.render(site(tmp_path), out)
    if damage == "remove":
        (out / "m1/seed.iso").unlink()
    elif damage == "open":
        (out / "m1/user-data").chmod(0o644)
    else:
        (out / "m1/network-config").write_text("version: 2\n")
    assert changes(installer.render(site(tmp_path), out)) == {"m1": "changed", "w1": "unchanged"}
    assert changes(installer.render(site(tmp_path), out)) == {"m1": "unchanged", "w1": "unchanged"}


def test_later_nodes_fit_and_nodes_that_left_are_told(tmp_path: Path) -> None:
    out = tmp_path / "out"
    installer.render(site(tmp_path), out)
    secret = (out / "join.secret").read_text()
    assert len(secret) == 65
    later = lambda s: s["nodes"].append(node("w2", "worker", "10.0.0.22"))  # noqa: E731
    rendered = installer.render(site(tmp_path, later), out)
    assert changes(rendered) == {"m1": "changed", "w1": "changed", "w2": "new"}
    assert secret in (out / "w2/user-data").read_text()
    rendered = installer.render(site(tmp_path), out)
    assert rendered.left == ("w2",)
    assert f"w2 is not in the spec any more; its seed is still there: {out / 'w2'}" in rendered.text()
    assert (out / "w2/user-data").exists()


def test_each_cluster_has_its_own_secret(tmp_path: Path) -> None:
    for name in ("a", "b"):
        installer.render(site(tmp_path), tmp_path / name)
    assert (tmp_path / "a/join.secret").read_text() != (tmp_path / "b/join.secret").read_text()


def test_a_secret_that_is_none_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/join.secret").write_text("abc\n")
    with pytest.raises(InputError, match="does not hold 64 hexadecimal digits"):
        installer.render(site(tmp_path), tmp_path / "out")
    assert (tmp_path / "out/join.secret").read_text() == "abc\n"


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(StorageError, match="cannot write the seeds to") as caught:
        installer.render(site(tmp_path), tmp_path / "out")
    assert isinstance(caught.value, PipelineError)
    assert "--out" in caught.value.hint


def test_what_is_said(tmp_path: Path) -> None:
    said = installer.render(site(tmp_path), tmp_path / "out").text()
    assert "m1  first-master  10.0.0.11  amd64  new" in said
    assert "nobody can log in on m1, w1" in said
    assert "next: attach m1/seed.iso" in said


# --------------------------------------------------------------------------------------------- /etc/hosts


BLOCK = f"{seed.BEGIN}\n10.0.0.5 registry.site.example\n{seed.END}\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("127.0.0.1 localhost\n", f"127.0.0.1 localhost\n{BLOCK}"),
        ("127.0.0.1 localhost", f"127.0.0.1 localhost\n{BLOCK}"),
        ("", BLOCK),
        (f"127.0.0.1 localhost\n{BLOCK}", f"127.0.0.1 localhost\n{BLOCK}"),
        (f"{seed.BEGIN}\n10.0.0.7 other\n{seed.END}\n", f"{seed.BEGIN}\n10.0.0.7 other\n{seed.END}\n"),
        (f"{seed.BEGIN}\n10.0.0.5", f"{seed.BEGIN}\n10.0.0.5\n{BLOCK}"),
    ],
    ids=["plain", "no newline", "empty", "there", "the payload's", "half"],
)
def test_the_registry_gets_into_the_hosts_file_once(tmp_path: Path, before: str, after: str) -> None:
    installer.render(site(tmp_path, lambda s: s["registry"].update(address="10.0.0.5")), tmp_path / "out")
    hosts = tmp_path / "hosts"
    hosts.write_text(before)
    script = "".join(user_data(tmp_path / "out", "m1")["bootcmd"]).replace("/etc/hosts", str(hosts))
    for _boot in range(2):
        subprocess.run(["sh", "-euc", script], check=True)
        assert hosts.read_text() == after
