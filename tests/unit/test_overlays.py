"""The overlays as they stand in the repository: scripts, templates, units, settings. Nothing here needs privileges."""

from __future__ import annotations

import fnmatch
import os
import re
import shutil
import stat
import subprocess
from pathlib import Path

import pytest
import yaml

from pipeline.image.overlay import render as render_as_the_build_does

ROOT = Path(__file__).resolve().parents[2]
OVERLAYS = ROOT / "overlays"
COMMON = OVERLAYS / "common"
DEB = OVERLAYS / "deb"
RPM = OVERLAYS / "rpm"
BATS = ROOT / "tests" / "unit" / "bats"

# Of shellcheck's optional checks, these two cost more than they give: braces around every plain variable, and a remark
# at every command substitution inside a command, where the scripts' own checks of the result say more.
SHELLCHECK_LESS = "SC2250,SC2312"
# bats gives a test $status and $output, runs each test in a subshell, and single quotes are for a later shell.
SHELLCHECK_LESS_BATS = f"{SHELLCHECK_LESS},SC2016,SC2030,SC2031,SC2034,SC2154"

FILES = sorted(path for path in OVERLAYS.rglob("*") if path.is_file())
SCRIPTS = sorted(OVERLAYS.glob("*/scripts/*"))
TEMPLATES = [path for path in FILES if path.suffix == ".j2"]


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def has_shebang(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"#!"


SHELL = [path for path in FILES if has_shebang(path)]


def tool(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed")
    return found


def run(*argv: str | Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(word) for word in argv],
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, **(env or {})},
        check=False,
    )


def render(template: Path, arch: str, kernel_arguments: list[str]) -> str:
    """Render a template as the build does."""
    variables = {
        "os": "debian",
        "release": "12",
        "codename": "bookworm",
        "arch": arch,
        "family": "deb",
        "serial": {"amd64": "ttyS0", "arm64": "ttyAMA0"}[arch],
        "kernel_arguments": kernel_arguments,
    }
    return render_as_the_build_does(template, variables)


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_script_is_one_that_the_build_runs(path: Path) -> None:
    text = path.read_text()
    assert re.fullmatch(r"[0-9]{2}-[a-z-]+\.sh", path.name)
    assert path.stat().st_mode & 0o111 == 0o111
    assert text.startswith("#!/usr/bin/env bash\n# ")
    assert "\nset -Eeuo pipefail\n" in text


@pytest.mark.parametrize("path", SHELL, ids=name)
def test_shell_is_clean(path: Path) -> None:
    done = run(tool("shellcheck"), "--enable=all", f"--exclude={SHELLCHECK_LESS}", path)
    assert done.returncode == 0, done.stdout
    done = run(tool("shfmt"), "-i", "2", "-ci", "-d", path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", sorted(BATS.glob("*.bats")), ids=name)
def test_bats_files_are_clean(path: Path) -> None:
    done = run(tool("shellcheck"), "--shell=bats", "--enable=all", f"--exclude={SHELLCHECK_LESS_BATS}", path)
    assert done.returncode == 0, done.stdout
    done = run(tool("shfmt"), "-ln", "bats", "-i", "2", "-ci", "-d", path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", FILES, ids=name)
def test_modes_are_sane(path: Path) -> None:
    mode = path.lstat().st_mode
    assert stat.S_ISREG(mode), "a symlink would be copied as whatever it points to: make it in a script"
    assert not mode & (stat.S_ISUID | stat.S_ISGID | stat.S_ISVTX | stat.S_IWOTH)
    assert bool(mode & stat.S_IXUSR) == has_shebang(path), "executable and with a shebang, or neither"


@pytest.mark.parametrize("path", FILES, ids=name)
def test_nothing_is_in_there_that_must_not_be_in_an_image(path: Path) -> None:
    text = path.read_text()
    assert not re.search(r"BEGIN [A-Z ]*PRIVATE KEY|ssh-(rsa|ed25519) AAAA|\$6\$|\$y\$", text), "a secret"
    if path.name != "50-registries.sh":  # it names what it looks for
        assert not re.search(r"docker\.io|quay\.io|gcr\.io|ghcr\.io|registry\.k8s", text), "a registry's address"
    assert not re.search(r"\bpool\.ntp\.org|https?://(?!169\.254\.169\.254)", text), "an address outside of the site"


# ------------------------------------------------------------------------------------------ templates


@pytest.mark.parametrize("arch", ["amd64", "arm64"])
@pytest.mark.parametrize("path", TEMPLATES, ids=name)
def test_template_renders(path: Path, arch: str) -> None:
    text = render(path, arch, [])
    assert "{{" not in text
    assert "{%" not in text


@pytest.mark.parametrize(
    ("arch", "arguments", "line", "terminal"),
    [
        ("amd64", [], "console=tty0 console=ttyS0,115200", "console serial"),
        ("amd64", ["a=b", "quiet"], "console=tty0 console=ttyS0,115200 a=b quiet", "console serial"),
        ("arm64", [], "console=tty0 console=ttyAMA0,115200", "console"),
    ],
)
def test_grub_settings_as_a_shell_reads_them(
    tmp_path: Path, arch: str, arguments: list[str], line: str, terminal: str
) -> None:
    settings = tmp_path / "10-node.cfg"
    settings.write_text(render(DEB / "root/etc/default/grub.d/10-node.cfg.j2", arch, arguments))
    values = ("CMDLINE_LINUX", "CMDLINE_LINUX_DEFAULT", "TERMINAL", "TIMEOUT", "DISABLE_LINUX_UUID")
    show = '. "$1"; printf "%s\\n" ' + " ".join(f'"${{GRUB_{value}-unset}}"' for value in values)
    assert run("sh", "-euc", show, "sh", settings).stdout.splitlines() == [line, "", terminal, "1", "unset"]


# ---------------------------------------------------------------------------------------------- units


def presets(*overlays: Path) -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for path in [path for overlay in overlays for path in overlay.glob("root/etc/systemd/system-preset/*.preset")]:
        for line in path.read_text().splitlines():
            if line and not line.startswith("#"):
                verb, unit = line.split()
                lines.append((verb, unit))
    return lines


def own_units(*overlays: Path) -> set[str]:
    return {path.name for overlay in overlays for path in overlay.glob("root/usr/lib/systemd/system/*")}


@pytest.mark.parametrize("family", [DEB, RPM], ids=name)
def test_presets_are_well_formed_and_enable_what_we_ship(family: Path) -> None:
    lines = presets(COMMON, family)
    units = [unit for _, unit in lines]
    assert {verb for verb, _ in lines} == {"enable", "disable"}
    assert len(units) == len(set(units))
    assert own_units(COMMON, family) <= {unit for verb, unit in lines if verb == "enable"}
    assert {"podman.socket", "podman-auto-update.timer"} <= {unit for verb, unit in lines if verb == "disable"}


CLOUD_INIT_UNITS = {
    "cloud-init.service": "[Unit]\nDefaultDependencies=no\nBefore=sysinit.target network-online.target\n",
    "cloud-config.service": "[Unit]\nAfter=network-online.target\n",
    "cloud-final.service": "[Unit]\nAfter=multi-user.target cloud-config.service\n",  # Debian's and Ubuntu's order
    "cloud-init.target": "[Unit]\nAfter=multi-user.target\nWants=cloud-init.service cloud-final.service\n",
}


@pytest.fixture
def unit_tree(tmp_path: Path) -> Path:
    """A tree with the host's units, ours, and cloud-init's in the order that Debian gives them."""
    analyze = tool("systemd-analyze")
    version = int(re.findall(r"systemd (\d+)", run(analyze, "--version").stdout)[0])
    if version < 250:
        pytest.skip("systemd-analyze verify knows no --root before 250")
    units = tmp_path / "usr/lib/systemd/system"
    shutil.copytree("/lib/systemd/system", units, symlinks=True)
    for overlay in (COMMON, DEB):
        shutil.copytree(overlay / "root", tmp_path, dirs_exist_ok=True)
    for unit, text in CLOUD_INIT_UNITS.items():
        service = "[Service]\nType=oneshot\nExecStart=/bin/true\n" if unit.endswith(".service") else ""
        (units / unit).write_text(text + service)
    for program in ("bin/true", "usr/bin/ssh-keygen"):
        (tmp_path / program).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / program).write_text("#!/bin/sh\n")
        (tmp_path / program).chmod(0o755)
    wants = tmp_path / "etc/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    for unit in ("cluster-bootstrap.service", "node-ssh-host-keys.service", "cloud-init.target"):
        (wants / unit).symlink_to(f"/usr/lib/systemd/system/{unit}")
    return tmp_path


def verify_units(tree: Path, *units: str) -> str:
    """What systemd-analyze says about units, less what concerns the host's own."""
    output = run(tool("systemd-analyze"), "verify", "--man=no", f"--root={tree}", *units).stdout
    ours = (*own_units(COMMON, DEB), "ordering cycle", "deleted to break")
    return "\n".join(line for line in output.splitlines() if any(word in line for word in ours))


def test_units_are_valid(unit_tree: Path) -> None:
    assert verify_units(unit_tree, *sorted(own_units(COMMON, DEB))) == ""


def test_hook_may_wait_for_cloud_final_without_an_ordering_cycle(unit_tree: Path) -> None:
    assert verify_units(unit_tree, "multi-user.target") == ""


def test_the_cycle_is_found_if_the_hook_had_default_dependencies(unit_tree: Path) -> None:
    unit = unit_tree / "usr/lib/systemd/system/cluster-bootstrap.service"
    unit.write_text(unit.read_text().replace("DefaultDependencies=no\n", ""))
    assert "ordering cycle" in verify_units(unit_tree, "multi-user.target")


def test_hook_is_inert_without_its_file() -> None:
    text = (COMMON / "root/usr/lib/systemd/system/cluster-bootstrap.service").read_text()
    assert "\nConditionPathExists=/etc/cluster/cluster.env\n" in text
    assert not list(OVERLAYS.glob("*/root/etc/cluster/**"))


def test_cni_link_matches_no_network_card() -> None:
    text = (COMMON / "root/etc/systemd/network/10-cni.link").read_text()
    [line] = [line for line in text.splitlines() if line.startswith("OriginalName=")]
    patterns = line.removeprefix("OriginalName=").split()

    def matches(interface: str) -> bool:
        return any(fnmatch.fnmatchcase(interface, pattern) for pattern in patterns)

    for interface in ("flannel.1", "cni0", "cali12ab", "vxlan.calico", "veth0", "lxc_health", "cilium_net", "tunl0"):
        assert matches(interface), interface
    for interface in ("eth0", "ens3", "enp1s0", "eno1", "ib0", "wlan0", "bond0", "br0", "team0", "lo"):
        assert not matches(interface), interface


# ------------------------------------------------------------------------------------------- settings


def test_cloud_init_settings() -> None:
    settings: dict[str, object] = {}
    for path in sorted(OVERLAYS.glob("*/root/etc/cloud/cloud.cfg.d/*.cfg")):
        loaded = yaml.safe_load(path.read_text())
        assert isinstance(loaded, dict), name(path)
        settings.update(loaded)
    assert settings["datasource_list"] == ["NoCloud", "OpenStack", "Ec2", "None"]
    assert settings["ssh_pwauth"] is False
    assert settings["preserve_hostname"] is False
    assert settings["apt"] == {"preserve_sources_list": True}


def test_modules_and_sysctls_agree_with_the_profile() -> None:
    profile = yaml.safe_load((ROOT / "osprofiles/debian.yaml").read_text())
    wanted = set(profile["releases"]["12"]["verify"]["modules"])
    listed = (COMMON / "root/etc/modules-load.d/node.conf").read_text().splitlines()
    assert wanted == {line for line in listed if not line.startswith("#")}


SYSCTL_CHECK = COMMON / "scripts/40-sysctl.sh"


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({}, ""),
        ({"etc/sysctl.conf": "# net.ipv4.ip_forward = 0\n;net.ipv4.ip_forward=0\n\nkernel.sysrq = 1\n"}, ""),
        ({"etc/sysctl.conf": "net.ipv4.ip_forward = 1\n"}, ""),  # the same value is no conflict
        ({"etc/sysctl.conf": "net.ipv4.ip_forward=0\n"}, "/etc/sysctl.conf sets net.ipv4.ip_forward to 0"),
        ({"etc/sysctl.conf": " net.ipv4.ip_forward\t=\t0 \n"}, "/etc/sysctl.conf sets net.ipv4.ip_forward to 0"),
        ({"etc/sysctl.conf": "net/ipv4/ip_forward = 0"}, "/etc/sysctl.conf sets net.ipv4.ip_forward to 0"),
        ({"etc/sysctl.conf": "-kernel.panic = 0\r\n"}, "/etc/sysctl.conf sets kernel.panic to 0"),
        ({"etc/sysctl.d/99-sysctl.conf": "@../sysctl.conf", "etc/sysctl.conf": "vm.panic_on_oom=2"}, "_on_oom to 2"),
        ({"etc/sysctl.d/99-other.conf": "net.ipv4.ip_forward=0\n"}, ""),  # read before ours
        ({"etc/sysctl.d/zz-node-site.conf": "net.ipv4.ip_forward=0\n"}, ""),  # "-" sorts before "."
        ({"etc/sysctl.d/zzz.conf": "net.ipv4.ip_forward=0\n"}, "/etc/sysctl.d/zzz.conf sets net.ipv4.ip_forward to 0"),
        ({"usr/lib/sysctl.d/zzz.conf": "kernel.panic=0\n"}, "/usr/lib/sysctl.d/zzz.conf sets kernel.panic to 0"),
        ({"usr/local/lib/sysctl.d/zzz.conf": "kernel.panic=0\n"}, "kernel.panic to 0"),
        ({"usr/lib/sysctl.d/zzz.conf": "kernel.panic=0\n", "etc/sysctl.d/zzz.conf": ""}, ""),  # masked by /etc
        ({"usr/lib/sysctl.d/zz-node.conf": "kernel.panic=0\n"}, ""),  # masked by ours
        ({"etc/sysctl.d/zzz.conf": "net.ipv4.conf.*.rp_filter=1\n"}, "sets net.ipv4.conf.*.rp_filter to 1"),
        ({"etc/sysctl.d/zzz.conf": "net.ipv4.conf.eth0/1.rp_filter=1\n"}, ""),  # another key
        ({"etc/sysctl.d/zzz.disabled": "net.ipv4.ip_forward=0\n"}, ""),
        ({"etc/sysctl.d/zz-node.conf": ""}, "is missing or empty"),
    ],
)  # fmt: skip
def test_no_file_may_override_our_sysctls(tmp_path: Path, files: dict[str, str], complaint: str) -> None:
    target = tmp_path / "etc/sysctl.d/zz-node.conf"
    target.parent.mkdir(parents=True)
    shutil.copy(COMMON / "root/etc/sysctl.d/zz-node.conf", target)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        if text.startswith("@"):
            (tmp_path / path).symlink_to(text[1:])
        else:
            (tmp_path / path).write_text(text)
    done = run("bash", SYSCTL_CHECK, tmp_path)
    assert done.returncode == (1 if complaint else 0), done.stdout
    assert complaint in done.stdout
    assert str(tmp_path) not in done.stdout


def test_time_sources_from_dhcp_reach_chrony(tmp_path: Path) -> None:
    program = DEB / "root/usr/lib/cluster/time-sources"
    state = tmp_path / "state"
    target = tmp_path / "chrony"
    file = target / "networkd.sources"
    for text, wanted in [
        ("OPER_STATE=routable\nNTP=10.0.0.1 time.site fd00::1\n", "10.0.0.1 time.site fd00::1"),
        ("NTP=10.0.0.2 bad$(name)\nDNS=10.0.0.9\n", "10.0.0.2"),
        ("OPER_STATE=off\n", ""),
    ]:
        state.write_text(text)
        done = run(program, state, target)
        assert done.returncode == 0, done.stdout
        assert file.read_text().strip().splitlines() == [f"server {server} iburst" for server in wanted.split()]
    state.unlink()
    assert run(program, state, target).returncode == 0


# ------------------------------------------------------------------------- scripts inside a small tree


def in_sandbox(script: Path, directory: Path, at: str) -> subprocess.CompletedProcess[str]:
    """Runs an overlay's script with one directory of the host replaced and everything else read-only."""
    bwrap = tool("bwrap")
    base = (bwrap, "--ro-bind", "/", "/", "--dev", "/dev")
    if run(*base, "true").returncode != 0:
        pytest.skip("bwrap cannot make a sandbox here")
    return run(*base, "--bind", directory, at, "bash", script)


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    directory = tmp_path / "etc"
    (directory / "containers/registries.conf.d").mkdir(parents=True)
    (directory / "chrony").mkdir()
    return directory


def test_registries_are_emptied_twice_with_the_same_result(etc: Path) -> None:
    containers = etc / "containers"
    ours = COMMON / "root/etc/containers/registries.conf.d/00-node.conf"
    shutil.copy(ours, containers / "registries.conf.d")
    (containers / "registries.conf").write_text('unqualified-search-registries = ["docker.io"]\n')
    (containers / "registries.conf.d/shortnames.conf").write_text('[aliases]\n"debian" = "docker.io/library/debian"\n')
    (containers / "policy.json").write_text("{}\n")
    for _ in range(2):
        done = in_sandbox(COMMON / "scripts/50-registries.sh", etc, "/etc")
        assert done.returncode == 0, done.stdout
        texts = {path.name: path.read_text() for path in containers.rglob("*") if path.is_file()}
        assert set(texts) == {"registries.conf", "shortnames.conf", "00-node.conf", "policy.json"}
        assert texts["00-node.conf"] == ours.read_text()
        assert all(line.startswith("#") for line in texts["registries.conf"].splitlines())
        assert "docker.io" not in "".join(texts.values())


def test_a_registry_in_a_file_nobody_thought_of_fails_the_build(etc: Path) -> None:
    (etc / "containers/mounts.conf").write_text("location = docker.io\n")
    done = in_sandbox(COMMON / "scripts/50-registries.sh", etc, "/etc")
    assert done.returncode == 1
    assert "mounts.conf" in done.stdout


@pytest.mark.parametrize("file", ["chrony/chrony.conf", "chrony.conf"])
def test_public_time_pools_go(etc: Path, file: str) -> None:
    config = etc / file
    config.write_text("pool 2.debian.pool.ntp.org iburst\nserver 0.centos.example\nsourcedir /etc/chrony/sources.d\n")
    for _ in range(2):
        done = in_sandbox(COMMON / "scripts/60-chrony.sh", etc, "/etc")
        assert done.returncode == 0, done.stdout
    lines = [line for line in config.read_text().splitlines() if not line.startswith("#")]
    assert lines == ["sourcedir /etc/chrony/sources.d", "makestep 1.0 3"]


def test_missing_chrony_is_an_error(etc: Path) -> None:
    done = in_sandbox(COMMON / "scripts/60-chrony.sh", etc, "/etc")
    assert done.returncode == 1
    assert "chrony is not installed" in done.stdout


# --------------------------------------------------------------------------- scripts of RPM systems


def put(root: Path, files: dict[str, str]) -> None:
    for path, text in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)


def twice(script: Path, root: Path) -> str:
    """Run a script on a small tree twice: the second time nothing may change."""
    first = run("bash", script, root)
    assert first.returncode == 0, first.stdout
    state = {path: path.read_text() for path in root.rglob("*") if path.is_file()}
    again = run("bash", script, root)
    assert again.returncode == 0, again.stdout
    assert state == {path: path.read_text() for path in root.rglob("*") if path.is_file()}
    return first.stdout


RPM_SCRIPTS = sorted((OVERLAYS / "rpm/scripts").glob("[2-9]*")) + sorted(
    path for name in ("anolis", "centos", "kylin", "uos") for path in (OVERLAYS / name / "scripts").iterdir()
)


@pytest.mark.parametrize("script", RPM_SCRIPTS, ids=name)
def test_script_passes_over_what_is_missing(tmp_path: Path, script: Path) -> None:
    assert twice(script, tmp_path) == ""
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


@pytest.mark.parametrize(
    ("arch", "line", "terminal"),
    [
        ("amd64", "console=tty0 console=ttyS0,115200 selinux=0", "console serial"),
        ("arm64", "console=tty0 console=ttyAMA0,115200 selinux=0", "console"),
    ],
)
def test_grub_settings_of_rpm_systems(tmp_path: Path, arch: str, line: str, terminal: str) -> None:
    settings = tmp_path / "grub"
    settings.write_text(render(RPM / "root/etc/default/grub.j2", arch, ["selinux=0"]))
    values = ("CMDLINE_LINUX", "TERMINAL", "DEFAULT", "ENABLE_BLSCFG", "DISABLE_SUBMENU", "DISABLE_LINUX_UUID")
    show = '. "$1"; printf "%s\\n" ' + " ".join(f'"${{GRUB_{value}-unset}}"' for value in values)
    assert run("sh", "-euc", show, "sh", settings).stdout.splitlines() == [
        line,
        terminal,
        "0",
        "false",
        "true",
        "unset",
    ]


def test_dracut_finds_every_word_of_its_settings() -> None:
    settings = RPM / "root/etc/dracut.conf.d/50-node.conf"
    names = ("drivers", "omit_dracutmodules", "fscks")
    show = '. "$1"; printf "%s\\n" ' + " ".join(f'"${value}"' for value in names) + ' "$hostonly" "$reproducible"'
    *lists, hostonly, reproducible = run(
        "bash", "-euc", f"unset {' '.join(names)}; set +u; {show}", "bash", settings
    ).stdout.splitlines()
    assert (hostonly, reproducible) == ("no", "yes")
    assert len(lists) == len(names), "a line break within a value: dracut looks for a word between spaces"
    for text in lists:
        words = text.split()
        assert text[0] == text[-1] == " "
        assert len(words) == len(set(words))
    drivers, omitted = lists[0].split(), lists[1].split()
    disks = {
        "virtio_blk",
        "virtio_scsi",
        "nvme",
        "ahci",
        "ata_piix",
        "xen_blkfront",
        "hv_storvsc",
        "vmw_pvscsi",
        "mptspi",
    }
    assert disks | {"ext4", "xfs", "sd_mod", "virtio_pci"} <= set(drivers)
    assert {"lvm", "network", "nfs", "plymouth", "i18n", "multipath"} <= set(omitted)
    needed = {
        "base",
        "bash",
        "systemd",
        "systemd-initrd",
        "dracut-systemd",
        "kernel-modules",
        "rootfs-block",
        "udev-rules",
        "fs-lib",
    }
    assert not needed & set(omitted)


def test_networkmanager_leaves_alone_what_udev_leaves_alone() -> None:
    link = (COMMON / "root/etc/systemd/network/10-cni.link").read_text()
    [names] = re.findall(r"^OriginalName=(.*)$", link, re.MULTILINE)
    settings = (RPM / "root/etc/NetworkManager/conf.d/10-node.conf").read_text()
    [listed] = re.findall(r"^unmanaged-devices=(.*)$", settings, re.MULTILINE)
    patterns = [item.removeprefix("interface-name:") for item in listed.split(";")]
    assert set(names.split()) <= set(patterns)
    for interface in ("eth0", "ens3", "enp1s0", "bond0", "br0", "team0"):
        assert not any(fnmatch.fnmatchcase(interface, pattern) for pattern in patterns), interface


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("[base]\nname=Base\n", "[base]\n{note}\nenabled=0\nname=Base\n"),
        ("[base]\nenabled = 1\ngpgcheck=1\n", "[base]\n{note}\nenabled=0\ngpgcheck=1\n"),
        ("[a]\nenabled=0\n\n[b]\nmetalink=x\n", "[a]\n{note}\nenabled=0\n\n[b]\n{note}\nenabled=0\nmetalink=x\n"),
        ("[a]\nusername=me\npassword = secret\nproxy_password=secret\n", "[a]\n{note}\nenabled=0\n"),
        ("[a]\nusername=$auth_u\npassword=$auth_p\n", "[a]\n{note}\nenabled=0\nusername=$auth_u\npassword=$auth_p\n"),
        ("[a]\nbaseurl=file://me:secret@host/x\n", "[a]\n{note}\nenabled=0\nbaseurl=file://host/x\n"),
        ("[a]\nbaseurl=file:///x/$basearch/@y\n", "[a]\n{note}\nenabled=0\nbaseurl=file:///x/$basearch/@y\n"),
    ],
)  # fmt: skip
def test_repositories_are_switched_off_and_hold_no_credentials(tmp_path: Path, before: str, after: str) -> None:
    script = RPM / "scripts/30-repositories.sh"
    [note] = re.findall(r"^readonly NOTE='(.*)'$", script.read_text(), re.MULTILINE)
    put(tmp_path, {"etc/yum.repos.d/vendor.repo": before, "etc/yum.repos.d/readme": before})
    twice(script, tmp_path)
    assert (tmp_path / "etc/yum.repos.d/vendor.repo").read_text() == after.format(note=note)
    assert (tmp_path / "etc/yum.repos.d/readme").read_text() == before


@pytest.mark.parametrize(
    "text",
    [
        "TMOUT=300\n",
        "export TMOUT=300\n",
        "TMOUT=300; export TMOUT\n",
        "readonly TMOUT=900\n",
        "if true; then\n  TMOUT=300\nfi\n",
        "typeset -r TMOUT=60\nexport TMOUT\nreadonly TMOUT\n",
    ],
)
def test_no_shell_ends_by_itself(tmp_path: Path, text: str) -> None:
    files = ("etc/profile", "etc/bashrc", "etc/profile.d/harden.sh")
    put(tmp_path, dict.fromkeys(files, f"BEFORE=1\n{text}MY_TMOUT_OTHER=1\n"))
    twice(RPM / "scripts/20-hardening.sh", tmp_path)
    for path in files:
        show = f'. "{tmp_path / path}"; echo "$BEFORE ${{TMOUT-none}} $MY_TMOUT_OTHER"'
        assert run("bash", "-euc", show).stdout == "1 none 1\n"


def test_selinux_is_off_and_says_how_it_is_turned_on(tmp_path: Path) -> None:
    put(tmp_path, {"etc/selinux/config": "SELINUX=enforcing\nSELINUXTYPE=targeted\n"})
    twice(RPM / "scripts/20-hardening.sh", tmp_path)
    text = (tmp_path / "etc/selinux/config").read_text()
    assert "\nSELINUX=disabled\n" in text
    assert "/.autorelabel" in text


def test_first_boot_hardening_is_masked_whatever_its_unit_is_called(tmp_path: Path) -> None:
    units = "usr/lib/systemd/system"
    tool = "[Service]\nExecStart=/usr/sbin/security-tool.sh -d -c /etc/security.conf\n"
    put(tmp_path, {f"{units}/vendor-security.service": tool, f"{units}/sshd.service": "ExecStart=/usr/sbin/sshd\n"})
    twice(RPM / "scripts/20-hardening.sh", tmp_path)
    assert [(path.name, str(path.readlink())) for path in (tmp_path / "etc/systemd/system").iterdir()] == [
        ("vendor-security.service", "/dev/null")
    ]


@pytest.mark.parametrize(
    ("module", "renderers"),
    [
        ("", ["sysconfig"]),  # older versions stop at a renderer that they do not know
        ("usr/lib/python3.6/site-packages/cloudinit/net/network_manager.py", ["sysconfig", "network-manager"]),
        ("usr/lib/python3/dist-packages/cloudinit/net/network_manager.py", ["sysconfig", "network-manager"]),
    ],
)
def test_cloud_init_is_told_of_an_rpm_system(tmp_path: Path, module: str, renderers: list[str]) -> None:
    put(tmp_path, {"etc/cloud/cloud.cfg": ""} | ({module: ""} if module else {}))
    twice(RPM / "scripts/40-cloud-init.sh", tmp_path)
    settings = yaml.safe_load((tmp_path / "etc/cloud/cloud.cfg.d/91-node-network.cfg").read_text())
    assert settings == {"system_info": {"distro": "rhel", "network": {"renderers": renderers}}}


def test_networkmanager_alone_configures_the_network(tmp_path: Path) -> None:
    put(tmp_path, {"etc/rc.d/rc3.d/S10network": "", "etc/rc.d/rc3.d/S11other": "", "etc/sysconfig/sshd": ""})
    (tmp_path / "etc/resolv.conf").symlink_to("../run/systemd/resolve/stub-resolv.conf")
    twice(RPM / "scripts/50-network.sh", tmp_path)
    assert [path.name for path in (tmp_path / "etc/rc.d/rc3.d").iterdir()] == ["S11other"]
    assert "NETWORKING=yes" in (tmp_path / "etc/sysconfig/network").read_text()
    assert not (tmp_path / "etc/resolv.conf").is_symlink()


def test_kylins_sysctl_conf_loses_what_would_override_ours_and_nothing_else(tmp_path: Path) -> None:
    kept = "# Kylin\nkernel.sysrq=0\n\nnet.ipv4.icmp_echo_ignore_broadcasts = 1\n-net/ipv4/tcp_syncookies=1\n"
    gone = "net.ipv4.ip_forward=0\n net/ipv4/conf/all/rp_filter = 1\n-kernel.panic=0\nvm.panic_on_oom\t=\t1\n"
    ours = (COMMON / "root/etc/sysctl.d/zz-node.conf").read_text()
    put(tmp_path, {"etc/sysctl.conf": kept + gone, "etc/sysctl.d/zz-node.conf": ours})
    assert run("bash", SYSCTL_CHECK, tmp_path).returncode == 1
    twice(COMMON / "scripts/35-sysctl-conf.sh", tmp_path)
    assert run("bash", SYSCTL_CHECK, tmp_path).returncode == 0
    lines = (tmp_path / "etc/sysctl.conf").read_text().splitlines(keepends=True)
    assert "".join(line for line in lines if "removed by" not in line) == kept


def test_what_el7_needs_is_for_el7_alone(tmp_path: Path) -> None:
    script = OVERLAYS / "centos/scripts/10-old-kernel.sh"
    (tmp_path / "lib/modules/5.14.0-1.el9").mkdir(parents=True)
    twice(script, tmp_path)
    assert not (tmp_path / "etc").exists()
    (tmp_path / "lib/modules/3.10.0-1160.el7").mkdir()
    twice(script, tmp_path)
    assert "fs.may_detach_mounts = 1" in (tmp_path / "etc/sysctl.d/50-node-el7.conf").read_text()
    assert (tmp_path / "etc/sudoers.d/10-node").stat().st_mode & 0o777 == 0o440


@pytest.mark.parametrize(("before", "added"), [('ID="anolis"\n', True), ('ID="anolis"\nID_LIKE="rhel"\n', False)])
def test_anolis_says_that_it_is_of_red_hats_kind(tmp_path: Path, before: str, added: bool) -> None:
    put(tmp_path, {"usr/lib/os-release": before})
    twice(OVERLAYS / "anolis/scripts/10-os-release.sh", tmp_path)
    after = 'ID_LIKE="rhel fedora centos"\n' if added else ""
    assert (tmp_path / "usr/lib/os-release").read_text() == before + after


def test_uos_keeps_its_channel_and_no_credentials(tmp_path: Path) -> None:
    secrets = ("etc/yum/vars/auth_u", "etc/yum/vars/auth_p", "etc/dnf/vars/auth_p")
    put(tmp_path, dict.fromkeys(secrets, "secret\n") | {"etc/yum/vars/StateMode": "ufu\n"})
    twice(OVERLAYS / "uos/scripts/10-activation.sh", tmp_path)
    assert [(tmp_path / path).read_text() for path in secrets] == ["", "", ""]
    assert (tmp_path / "etc/yum/vars/StateMode").read_text() == "ufu\n"


def test_kysec_is_told_of_and_left(tmp_path: Path) -> None:
    put(tmp_path, {"usr/sbin/getstatus": "", "etc/.kyinfo": ""})
    assert "KYSEC is installed (/usr/sbin/getstatus)" in twice(OVERLAYS / "kylin/scripts/10-kysec.sh", tmp_path)
    assert (tmp_path / "usr/sbin/getstatus").exists()


def test_presets_are_applied_to_what_is_installed(tmp_path: Path) -> None:
    program = COMMON / "root/usr/lib/cluster/node-units"
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin/systemctl"
    fake.write_text('#!/bin/sh\nshift 2\necho "$*"\n')
    fake.chmod(0o755)
    preset = tmp_path / "a.preset"
    installed = next(path.name for path in sorted(Path("/lib/systemd/system").glob("*.service")))
    preset.write_text(
        f"# text\n\nenable {installed}\nenable missing.service\ndisable missing.service\ndisable {installed}\n"
    )
    path = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = run(program, "preset", preset, installed, env=path)
    assert (done.returncode, done.stdout.splitlines()) == (0, [f"enable {installed}", f"disable {installed}"])
    done = run(program, "preset", preset, "missing.service", env=path)
    assert done.returncode == 1
    assert "missing.service is not installed" in done.stdout
    assert run(program, "mask", "a.service", env=path).stdout == "mask a.service\n"
    assert run(program, "other", env=path).returncode == 2


def test_update_boot() -> None:
    done = run(tool("bats"), BATS / "update-boot.bats")
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("hook", "words", "called"),
    [
        ("install.d/95-node-boot.install", ["add", "6.1", "/boot/x", "/lib/modules/6.1/vmlinuz"], "add 6.1"),
        ("install.d/95-node-boot.install", ["remove", "6.1", "/boot/x"], "remove 6.1"),
        ("install.d/95-node-boot.install", ["inspect"], ""),
        ("postinst.d/95-node-boot", ["6.1", "/boot/vmlinuz-6.1"], "add 6.1"),
        ("prerm.d/95-node-boot", ["6.1", "/boot/vmlinuz-6.1"], "remove 6.1"),
    ],
)
def test_kernel_hooks_lead_to_update_boot(tmp_path: Path, hook: str, words: list[str], called: str) -> None:
    text = (RPM / "root/etc/kernel" / hook).read_text()
    assert "exec /usr/lib/cluster/update-boot" in text
    copy = tmp_path / "hook"
    copy.write_text(text.replace("exec /usr/lib/cluster/update-boot", "echo"))
    done = run("bash", copy, *words)
    assert (done.returncode, done.stdout.strip()) == (0, called)


# ------------------------------------------------------------------------------------- bootstrap hook


def test_bootstrap_hook() -> None:
    done = run(tool("bats"), BATS / "cluster-bootstrap.bats")
    assert done.returncode == 0, done.stdout


def test_hook_documents_every_key_and_exit_code() -> None:
    hook = (COMMON / "root/usr/lib/cluster/cluster-bootstrap").read_text()
    page = (ROOT / "docs/bootstrap-hook.md").read_text()
    [keys] = re.findall(r"^ *(INSTALLER_IMAGE \| .*)\) ;;$", hook, re.MULTILINE)
    for key in keys.split(" | "):
        assert f"| `{key}` |" in page
    for code in set(re.findall(r"\bdie (\d+)", hook)):
        assert f"\n| {code} |" in page
