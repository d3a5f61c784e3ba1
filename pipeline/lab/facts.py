"""What a system says about itself, gathered with one command.

Under emulation every ssh command costs a second, so one script prints all facts, each behind a line of its own, and
tests look at the result. The same script runs on a booted machine and, with fewer facts, in an image's unbooted tree.
"""

from __future__ import annotations

import fnmatch
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

BEGIN = "@@fact "
END = "@@end "

# What every node must be able to rely on, whatever its profile says.
NODE_SYSCTLS: Mapping[str, str] = {
    "net.ipv4.ip_forward": "1",
    "net.bridge.bridge-nf-call-iptables": "1",
    "net.bridge.bridge-nf-call-ip6tables": "1",
    "vm.overcommit_memory": "1",
    "vm.panic_on_oom": "0",
    "kernel.panic": "10",
    "kernel.panic_on_oops": "1",
}
# Where systemd-sysctl(8) and sysctl(8) read settings; of two files with one name, that of the first directory counts.
SYSCTL_DIRECTORIES = ("/etc/sysctl.d", "/run/sysctl.d", "/usr/local/lib/sysctl.d", "/usr/lib/sysctl.d", "/lib/sysctl.d")
KUBERNETES_BINARIES = (
    "kube*", "etcd", "etcdctl", "etcdutl", "containerd*", "crictl", "critest", "nerdctl", "calicoctl", "flanneld",
    "cilium*", "helm", "k3s*", "rke2*", "oc", "openshift*",
)  # fmt: skip
REGISTRIES = (
    r"docker\.io|quay\.io|gcr\.io|ghcr\.io|registry\.k8s\.io|registry\.[a-z0-9.-]+\.(com|io|org|cn)|mcr\.microsoft\.com"
    r"|\.azurecr\.io|aliyuncs\.com|hub\.docker\.com"
)
# Directories whose files can make a program pull from somewhere.
REGISTRY_PLACES = ("/etc", "/usr/share/containers", "/usr/lib/cluster", "/usr/local", "/opt", "/srv", "/root", "/home")


@dataclass(frozen=True)
class Fact:
    """What one command said.

    Attributes:
        text: its output, standard error included, without the last line break.
        status: its exit status.
    """

    text: str
    status: int

    @property
    def lines(self) -> list[str]:
        """Lines that are not empty."""
        return [line for line in self.text.splitlines() if line.strip()]

    def pairs(self, separator: str | None = None) -> dict[str, str]:
        """Return lines of a key and a value as a mapping."""
        split = [line.split(separator, 1) for line in self.lines]
        return {words[0].strip(): words[1].strip() if len(words) > 1 else "" for words in split}


def script(wanted: Mapping[str, str]) -> str:
    """Return a shell script that prints what :func:`parse` reads.

    Args:
        wanted: by fact, a command of a POSIX shell; run in a shell of its own.
    """
    lines = ["export LC_ALL=C PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    for name, command in wanted.items():
        lines.append(f"echo {shlex.quote(BEGIN + name)}")
        lines.append(f"( {command}\n) </dev/null 2>&1")
        lines.append(f'printf "\\n{END}%s\\n" "$?"')
    return "\n".join(lines) + "\n"


def parse(output: str) -> dict[str, Fact]:
    """Return the facts that a script printed.

    Raises:
        ValueError: the output ends within a fact.
    """
    found: dict[str, Fact] = {}
    name, lines = "", list[str]()
    for line in output.splitlines():
        if line.startswith(BEGIN) and not name:
            name, lines = line.removeprefix(BEGIN), []
        elif line.startswith(END) and name:
            found[name] = Fact("\n".join(lines).rstrip("\n"), int(line.removeprefix(END)))
            name = ""
        else:
            lines.append(line)
    if name:
        raise ValueError(f"the output ends within the fact {name!r}")
    return found


def commands(services: Sequence[str], modules: Sequence[str], *, booted: bool, console: str) -> dict[str, str]:
    """Return the commands for every fact of a system.

    Args:
        services: units whose state is wanted.
        modules: kernel modules that are tried.
        booted: whether the system runs; otherwise it is a tree that one can only look at.
        console: its serial console.
    """
    running = _running_facts(services, modules, console) if booted else {}
    return running | _static_facts(services, modules)


def _static_facts(services: Sequence[str], modules: Sequence[str]) -> dict[str, str]:
    units, wanted = shlex.join(services), shlex.join(modules)
    dpkg = "dpkg-query -W -f '${Package}\\t${db:Status-Status} ${Version}\\n'"
    rpm = "rpm -qa --qf '%{NAME}\\tinstalled %{VERSION}-%{RELEASE}\\n'"
    binaries = " -o ".join(f"-name {shlex.quote(name)}" for name in KUBERNETES_BINARIES)
    sysctl_files = " ".join(f"{directory}/*.conf" for directory in SYSCTL_DIRECTORIES)
    return {
        "os-release": "cat /etc/os-release",
        "packages": f"if command -v dpkg-query >/dev/null; then {dpkg}; else {rpm}; fi",
        "enabled": f'for u in {units}; do echo "$u $(systemctl is-enabled "$u" 2>/dev/null)"; done',
        "bootstrap-enabled": "systemctl is-enabled cluster-bootstrap.service",
        "sysctl-files": f'for f in {sysctl_files} /etc/sysctl.conf; do [ ! -e "$f" ] || grep -H "" "$f"; done',
        "modules-known": "for k in /lib/modules/*; do for m in "
        f'{wanted}; do echo "$m $(modprobe -n -q -S "${{k##*/}}" "$m" && echo yes || echo no)"; done; done',
        "kernels": "ls /lib/modules",
        "machine-id": "cat /etc/machine-id",
        "dbus-machine-id": "[ ! -e /var/lib/dbus/machine-id ] || cat /var/lib/dbus/machine-id",
        "host-keys": "ls /etc/ssh/ssh_host_*_key 2>/dev/null; true",
        "sshd-files": "cat /etc/ssh/sshd_config.d/*.conf /etc/ssh/sshd_config",
        "passwords": "awk -F: '$2 !~ /^[!*]/ {print $1}' /etc/shadow",
        "fstab": "grep -vE '^[[:space:]]*(#|$)' /etc/fstab",
        "grub-cfg": "cat /boot/grub/grub.cfg /boot/grub2/grub.cfg 2>/dev/null; true",
        # As grub-mkconfig reads them; a slip in one breaks every later kernel update.
        "grub-settings": "set -e; for f in /etc/default/grub /etc/default/grub.d/*.cfg; do"
        ' [ ! -e "$f" ] || . "$f"; done; echo "cmdline $GRUB_CMDLINE_LINUX"',
        "swap-units": "find /etc/systemd /usr/lib/systemd /lib/systemd -name '*.swap' 2>/dev/null; true",
        # What a daemon has set up for images that may come is none.
        "image-layers": "{ find /var/lib/containers/storage/overlay-images -mindepth 1 -type d;"
        " find /var/lib/docker/image/*/imagedb/content /var/lib/containerd/*.content/blobs -type f; } 2>/dev/null"
        " | head -5",
        "registries": f"grep -rIEin {shlex.quote(REGISTRIES)} {shlex.join(REGISTRY_PLACES)} 2>/dev/null"
        " | grep -vE '^[^:]+:[0-9]+:[[:space:]]*#' | head -20",
        "kubernetes": f"find / -xdev -type f -perm /111 \\( {binaries} \\) ! -path '/proc/*' 2>/dev/null; true",
        "journald": "cat /etc/systemd/journald.conf /etc/systemd/journald.conf.d/*.conf"
        " /usr/lib/systemd/journald.conf.d/*.conf 2>/dev/null; true",
        "links": "cat /etc/systemd/network/*.link 2>/dev/null; true",
        "cloud-config": "cat /etc/cloud/cloud.cfg /etc/cloud/cloud.cfg.d/*.cfg",
        "leftovers": "find /var/lib/apt/lists /var/cache/apt/archives /var/cache/dnf /var/cache/yum /var/log/journal"
        " /var/lib/cloud/instances -type f 2>/dev/null | head -5",
    }


def _running_facts(services: Sequence[str], modules: Sequence[str], console: str) -> dict[str, str]:
    units, wanted = shlex.join(services), shlex.join(modules)
    return {
        # First: nothing else is meaningful before the boot is over. systemd 219 has no `--wait`.
        "cloud-init": "timeout 600 cloud-init status --wait --long",
        "state": "for i in $(seq 300); do s=$(systemctl is-system-running); "
        'case $s in starting|initializing) sleep 1;; *) break;; esac; done; echo "$s"',
        "failed": "systemctl --failed --no-legend --plain",
        "jobs": "systemctl list-jobs --no-legend",
        "active": f'for u in {units}; do echo "$u $(systemctl is-active "$u")"; done',
        "cloud-id": "cloud-id || cat /run/cloud-init/cloud-id",
        "cloud-errors": "cat /run/cloud-init/result.json",
        "cmdline": "cat /proc/cmdline",
        "root": "findmnt -no SOURCE,UUID,FSTYPE /",
        "mounts": "findmnt -rno TARGET,FSTYPE",
        "root-bytes": "df -B1 --output=size / | tail -1",
        "growth": 'p=/sys/class/block/$(basename "$(readlink -f "$(findmnt -no SOURCE /)")"); d=$(readlink -f "$p")/..;'
        ' echo "start $(cat "$p/start")"; echo "size $(cat "$p/size")"; echo "disk $(cat "$d/size")"',
        "swaps": "tail -n +2 /proc/swaps",
        "modules-loaded": "cut -d' ' -f1 /proc/modules",
        "modprobe": f'for m in {wanted}; do echo "$m $(modprobe "$m" 2>&1 && echo yes)"; done',
        "sysctl-boot": _sysctl_values(),
        "sysctl-again": f"sysctl --system >/dev/null 2>&1; {_sysctl_values()}",
        "sshd": "sshd -T -C user=root,host=example,addr=192.0.2.1",
        "host-key-prints": "for k in /etc/ssh/ssh_host_*_key.pub; do ssh-keygen -lf $k; done",
        "bootstrap": "systemctl show cluster-bootstrap -p LoadState -p ActiveState -p Result -p ConditionResult",
        "bootstrap-env": "ls -d /etc/cluster/cluster.env",
        "tracking": "chronyc -n tracking",
        "images": "if command -v podman >/dev/null; then podman images --quiet --all 2>/dev/null;"
        " else docker images --quiet --all; fi",
        "efi": "[ -d /sys/firmware/efi ]",
        "getty": f"systemctl is-active serial-getty@{console}.service",
        "boot-time": "systemd-analyze time",
        "slowest": "systemd-analyze blame --no-pager | head -15",
        "kernel": "uname -r",
        "journal-size": "journalctl --disk-usage",
        "hostname": "hostname",
        "memory": "free -m",
    }


def _sysctl_values() -> str:
    return f'for k in {shlex.join(NODE_SYSCTLS)}; do echo "$k = $(sysctl -n "$k")"; done'


def sysctl_assignments(
    files: str, keys: Iterable[str], *, etc_sysctl_conf_last: bool
) -> dict[str, list[tuple[str, str]]]:
    """Return for each key the assignments that are made to it, in order: the last one wins.

    Args:
        files: lines of ``path:line``, as ``grep -H`` prints them.
        keys: keys that are of interest; a line may set them by a pattern.
        etc_sysctl_conf_last: as ``sysctl --system`` does; systemd-sysctl does not read that file unless linked.

    Returns:
        By key, pairs of file and value.
    """
    by_path: dict[str, list[str]] = {}
    for line in files.splitlines():
        path, _, text = line.partition(":")
        by_path.setdefault(path, []).append(text)
    chosen: dict[str, str] = {}
    for directory in reversed(SYSCTL_DIRECTORIES):
        chosen |= {path.rpartition("/")[2]: path for path in by_path if path.rpartition("/")[0] == directory}
    order = [chosen[name] for name in sorted(chosen)]
    if etc_sysctl_conf_last and "/etc/sysctl.conf" in by_path:
        order.append("/etc/sysctl.conf")
    made: dict[str, list[tuple[str, str]]] = {key: [] for key in keys}
    for path in order:
        for pattern, value in _assignments(by_path[path]):
            for key in made:
                if fnmatch.fnmatchcase(key, pattern):
                    made[key].append((path, value))
    return made


def _assignments(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield key and value of each line; ``net/ipv4/x`` is another way to write ``net.ipv4.x`` (sysctl.d(5))."""
    for line in lines:
        match = re.fullmatch(r"\s*-?\s*([^#;=\s][^=\s]*)\s*=\s*(.*?)\s*", line)
        if match is not None:
            key = match[1]
            first = re.search(r"[./]", key)
            yield (key.translate(str.maketrans("/.", "./")) if first and first[0] == "/" else key), match[2]
