"""Seal: what identifies a machine goes, and nothing outside of the tree is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.image import seal, tree

EPOCH = 1_000_000_000


def put(root: Path, *paths: str) -> None:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    found = tmp_path / "root"
    put(found, "etc/machine-id", "var/log/journal/abc/system.journal", "var/log/dpkg.log", "var/lib/dpkg/status")
    return found


def files(root: Path) -> set[str]:
    return {path for path, _ in tree.walk(root) if not (root / path).is_dir() or (root / path).is_symlink()}


def test_identity_logs_and_caches_go(root: Path) -> None:
    put(
        root,
        "etc/hostname", "etc/passwd-", "etc/ssh/ssh_host_rsa_key", "etc/ssh/ssh_host_ed25519_key.pub",
        "etc/udev/hwdb.bin", "root/.bash_history", "root/.ssh/authorized_keys", "root/.cache/x/y", "run/x", "tmp/x",
        "var/cache/apt/archives/x.deb", "var/cache/apt/pkgcache.bin", "var/cache/debconf/config.dat-old",
        "var/lib/apt/lists/x", "var/lib/cloud/instance/x", "var/lib/dbus/machine-id", "var/lib/dpkg/status-old",
        "var/lib/dhcp/dhclient.leases", "var/lib/systemd/random-seed", "var/lib/chrony/drift", "var/tmp/x",
    )  # fmt: skip
    put(root, "etc/ssh/sshd_config", "etc/passwd", "var/cache/debconf/config.dat", "root/.profile")
    seal.seal(root, EPOCH, root)
    assert files(root) == {
        "etc/machine-id", "etc/passwd", "etc/ssh/sshd_config", "root/.profile", "var/cache/debconf/config.dat",
        "var/lib/dpkg/status",
    }  # fmt: skip
    assert (root / "etc/machine-id").read_text() == ""
    assert (root / "var/log/journal/abc").is_dir()  # services expect their directories


def test_what_an_rpm_system_leaves_goes(root: Path) -> None:
    put(
        root,
        "etc/NetworkManager/system-connections/eth0.nmconnection", "etc/lvm/devices/system.devices",
        "etc/lvm/devices/backup/system.devices-1", "etc/pki/consumer/cert.pem", "etc/pki/entitlement/1-key.pem",
        "etc/sysconfig/network-scripts/ifcfg-eth0", "etc/sysconfig/network-scripts/ifcfg-lan0",
        "etc/udev/rules.d/70-persistent-net.rules", "root/anaconda-ks.cfg", "root/anaconda-screenshots/1.png",
        "root/initial-setup-ks.cfg", "root/original-ks.cfg", "var/cache/dnf/baseos-1/repodata/repomd.xml",
        "var/cache/yum/x86_64/7/base/cachecookie", "var/lib/NetworkManager/internal-1-eth0.lease",
        "var/lib/NetworkManager/secret_key", "var/lib/dhclient/dhclient--eth0.lease", "var/lib/rhsm/facts/facts.json",
        "var/lib/rpm/.dbenv.lock", "var/lib/rpm/.rpm.lock", "var/lib/rpm/__db.001", "var/lib/yum/uuid",
        "usr/lib/sysimage/rpm/.rpm.lock",
    )  # fmt: skip
    kept = (
        "etc/NetworkManager/conf.d/10-node.conf", "etc/lvm/lvm.conf", "etc/pki/rpm-gpg/RPM-GPG-KEY-x",
        "etc/sysconfig/network-scripts/ifcfg-lo", "etc/sysconfig/network-scripts/ifup",
        "etc/udev/rules.d/70-snap.rules", "etc/yum.repos.d/x.repo", "usr/lib/sysimage/rpm/rpmdb.sqlite",
        "var/lib/rpm/Packages", "var/lib/rpm/rpmdb.sqlite-wal", "var/lib/yum/history/x",
    )  # fmt: skip
    put(root, *kept)
    seal.seal(root, EPOCH, root)
    assert files(root) == {*kept, "etc/machine-id", "var/lib/dpkg/status"}
    for name in ("etc/NetworkManager/system-connections", "etc/lvm/devices", "var/cache/dnf", "var/lib/rhsm/facts"):
        assert (root / name).is_dir()


def test_a_network_script_that_is_a_link_goes_and_its_target_stays(root: Path) -> None:
    put(root, "etc/sysconfig/network-scripts/ifcfg-x", "srv/ifcfg-eth0", "srv/ifcfg-lo")
    (root / "etc/sysconfig/network-scripts/ifcfg-lo").symlink_to("/srv/ifcfg-lo")
    (root / "etc/sysconfig/network-scripts/ifcfg-eth0").symlink_to("/srv/ifcfg-eth0")
    seal.seal(root, EPOCH, root)
    assert {"etc/sysconfig/network-scripts/ifcfg-lo", "srv/ifcfg-eth0", "srv/ifcfg-lo"} <= files(root)
    assert list((root / "etc/sysconfig/network-scripts").iterdir()) == [root / "etc/sysconfig/network-scripts/ifcfg-lo"]


def test_times_are_clamped(root: Path) -> None:
    seal.seal(root, EPOCH, root)
    assert {int(status.st_mtime) for _, status in tree.walk(root)} == {EPOCH}


def test_a_tree_that_lacks_most_things(tmp_path: Path) -> None:
    (tmp_path / "root/etc").mkdir(parents=True)
    seal.seal(tmp_path / "root", EPOCH, tmp_path / "root")
    assert files(tmp_path / "root") == {"etc/machine-id"}


@pytest.mark.parametrize("absolute", [True, False])
@pytest.mark.parametrize(
    "name",
    [
        "var", "var/log", "var/lib", "run", "root", "etc/ssh", "etc/NetworkManager", "etc/lvm/devices",
        "etc/sysconfig/network-scripts", "var/cache/dnf", "var/lib/rpm",
    ],
)  # fmt: skip
def test_a_link_out_of_the_tree_leads_nowhere(root: Path, tmp_path: Path, name: str, absolute: bool) -> None:
    """A tree may be a stranger's, and its absolute links point at the host."""
    host = tmp_path / "host"
    put(
        host, "x", "log/x", "tmp/x", "cache/apt/archives/x", "lib/dpkg/status-old", "lib/cloud/x", "cloud/x",
        "systemd/random-seed", "ssh_host_rsa_key", ".ssh/id", ".bash_history", "chrony/x",
        "anaconda-ks.cfg", "cache/dnf/x", "lib/NetworkManager/secret_key", "NetworkManager/secret_key", "__db.001",
        ".rpm.lock", "lib/rpm/__db.001", "rpm/__db.001", "system.devices", "ifcfg-eth0", "system-connections/x",
    )  # fmt: skip
    before = files(host)
    if (root / name).exists():
        (root / name).rename(tmp_path / "moved")
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).symlink_to(host if absolute else "../" * (name.count("/") + 1) + "host")
    seal.seal(root, EPOCH, root)
    assert files(host) == before


def test_a_machine_id_that_is_a_link_is_replaced(root: Path, tmp_path: Path) -> None:
    put(tmp_path, "host-id")
    (root / "etc/machine-id").unlink()
    (root / "etc/machine-id").symlink_to(tmp_path / "host-id")
    seal.seal(root, EPOCH, root)
    assert (tmp_path / "host-id").read_text() == "x"
    assert not (root / "etc/machine-id").is_symlink()
