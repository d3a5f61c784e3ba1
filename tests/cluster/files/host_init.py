"""The first process of a host that is made of namespaces: mounts its world, starts what is enabled, reaps.

It ends, and with it all of the host, when the other end of the life line closes: so it does not outlive the test,
however that ends. What it gets is one JSON object, see Host in tests/cluster/host.py.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import uuid
from pathlib import Path

MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_BIND, MS_REC, MS_PRIVATE, MS_SHARED = 2, 4, 8, 4096, 16384, 1 << 18, 1 << 20
MNT_DETACH = 2
LIBC = ctypes.CDLL(None, use_errno=True)

# Everything that changes lives here and not on the overlay, on which another overlay cannot have its upper directory.
OWN = {"var": 0o755, "opt": 0o755, "home": 0o755, "root": 0o700, "tmp": 0o1777, "srv": 0o755}
VAR = ("lib", "log", "cache", "spool", "lib/private", "lib/systemd", "lib/misc", "log/journal-standin")
DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "kmsg", "fuse", "net/tun")
# A node has none of these before it is installed, whatever the machine of the tests has.
PROGRAMS = (
    "containerd", "containerd-shim", "containerd-shim-runc-v1", "containerd-shim-runc-v2", "containerd-stress", "ctr",
    "crictl", "nerdctl", "etcd", "etcdctl", "etcdutl", "kubeadm", "kubelet", "kubectl", "kube-proxy", "kube-apiserver",
    "kube-scheduler",
)  # fmt: skip
HIDDEN = (
    "etc/systemd/system", "etc/kubernetes", "etc/cni", "etc/containerd", "etc/cluster", "etc/crictl.yaml", "etc/fstab",
    "etc/default/kubelet", "etc/default/etcd", "etc/sysconfig/kubelet", "etc/hosts", "etc/resolv.conf", "etc/hostname",
    "etc/machine-id", *(f"usr/{where}bin/{name}" for where in ("", "s", "local/", "local/s") for name in PROGRAMS),
    *(f"usr/lib/systemd/system/{name}.service" for name in ("containerd", "docker", "etcd", "kubelet", "podman")),
)  # fmt: skip
# Settings of the kernel that are not one namespace's: a host gets a copy, so that what it writes stays with it.
COPIED = ("vm", "fs")
COPIED_FILES = (
    "kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes",
    "kernel/keys/maxkeys", "kernel/pid_max", "kernel/threads-max", "kernel/softlockup_panic",
    "kernel/softlockup_all_cpu_backtrace",
    "kernel/watchdog_thresh", "kernel/hung_task_timeout_secs", "kernel/sysrq", "kernel/core_pattern", "kernel/printk",
    "net/netfilter/nf_conntrack_max", "net/nf_conntrack_max",
)  # fmt: skip
SETTINGS = "/etc/sysctl.d/90-cluster-installer.conf"
HASH_SIZE = "/sys/module/nf_conntrack/parameters/hashsize"


def mount(source: str, target: str, kind: str = "", flags: int = 0, data: str = "") -> None:
    words = [word.encode() for word in (source, target, kind)]
    if LIBC.mount(*words, ctypes.c_ulong(flags), data.encode() or None) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"mount {source} as {kind or 'bind'} ({data}): {os.strerror(number)}", target)


def bind(source: str, target: str) -> None:
    mount(source, target, flags=MS_BIND)


class Init:
    """The host as its first process sees it."""

    def __init__(self, config: dict[str, str]) -> None:
        self.config = config
        self.disk = Path(config["disk"])
        self.root = self.disk / "root"

    def make_root(self) -> None:
        """Lay the host's disk over the machine's root."""
        for name in ("upper", "work", "root"):
            (self.disk / name).mkdir(exist_ok=True)
        data = f"lowerdir=/,upperdir={self.disk}/upper,workdir={self.disk}/work"
        mount("overlay", str(self.root), "overlay", data=data)
        first = not (self.disk / "own").exists()
        if first:
            self._hide()
        for name, mode in OWN.items():
            own = self.disk / "own" / name
            if not own.exists():
                own.mkdir(parents=True)
                own.chmod(mode)
            (self.root / name).mkdir(exist_ok=True)
            bind(str(own), str(self.root / name))
        if first:
            self._furnish()

    def _hide(self) -> None:
        for name in (*HIDDEN, *json.loads(self.config["hidden"])):
            path = self.root / name.lstrip("/")
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for name in ("mnt", "media"):
            shutil.rmtree(self.root / name, ignore_errors=True)
            (self.root / name).mkdir(exist_ok=True)

    def _furnish(self) -> None:
        var = self.root / "var"
        for name in VAR:
            (var / name).mkdir(parents=True, exist_ok=True)
        (var / "tmp").mkdir()
        (var / "tmp").chmod(0o1777)
        (var / "run").symlink_to("/run")
        (var / "lock").symlink_to("/run/lock")
        etc = self.root / "etc"
        (etc / "systemd/system").mkdir(parents=True, exist_ok=True)
        (etc / "hostname").write_text(f"{self.config['name']}\n")
        (etc / "machine-id").write_text(f"{secrets.token_hex(16)}\n")
        (etc / "hosts").write_text("127.0.0.1 localhost\n::1 localhost ip6-localhost ip6-loopback\n")
        (etc / "resolv.conf").write_text(f"nameserver {self.config['gateway']}\n")
        (etc / "fstab").write_text("# nothing\n")
        self._install_standins()

    def _install_standins(self) -> None:
        standin = self.root / "usr/local/lib/host-standin"
        source = Path(self.config["files"])
        shutil.copytree(source / "systemd_standin", standin / "systemd_standin", dirs_exist_ok=True)
        text = (source / "launcher").read_text()
        for name in ("systemctl", "journalctl"):
            for where in ("usr/bin", "usr/local/sbin"):
                path = self.root / where / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                path.write_text(text)
                path.chmod(0o755)

    def mount_kernel(self) -> None:
        """Mount what the kernel and the boot give."""
        top = str(self.root)
        mount("proc", f"{top}/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        mount("sysfs", f"{top}/sys", "sysfs", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        self._mount_cgroups(Path(top, "sys/fs/cgroup"))
        (self.root / "run").mkdir(exist_ok=True)
        mount("tmpfs", f"{top}/run", "tmpfs", MS_NOSUID | MS_NODEV, "mode=755")
        for name in ("lock", "systemd/system", "systemd-standin/units", "systemd-standin/sys"):
            (self.root / "run" / name).mkdir(parents=True)
        self._mount_dev(self.root / "dev")
        self._mount_settings()

    def _mount_cgroups(self, target: Path) -> None:
        groups: list[list[str]] = json.loads(self.config["cgroups"])
        if groups[0][0] != ".":
            mount("tmpfs", str(target), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755")
        for name, kind, data in groups:
            (target / name).mkdir(exist_ok=True)
            mount(kind, str(target / name), kind, MS_NOSUID | MS_NODEV | MS_NOEXEC, data)
        for path in Path("/sys/fs/cgroup").iterdir():
            if path.is_symlink() and (target / path.readlink()).exists():
                (target / path.name).symlink_to(path.readlink())

    def _mount_dev(self, dev: Path) -> None:
        devices = [name for name in DEVICES if Path("/dev", name).exists()]
        held = {name: os.open(f"/dev/{name}", os.O_PATH) for name in devices}
        mount("tmpfs", str(dev), "tmpfs", MS_NOSUID, "mode=755")
        for name, handle in held.items():
            (dev / name).parent.mkdir(exist_ok=True)
            (dev / name).touch()
            bind(f"/proc/self/fd/{handle}", str(dev / name))
            os.close(handle)
        for name in ("pts", "shm", "mqueue"):
            (dev / name).mkdir()
        mount("devpts", str(dev / "pts"), "devpts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=620")
        mount("tmpfs", str(dev / "shm"), "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777")
        mount("mqueue", str(dev / "mqueue"), "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC)
        for name, goal in {"ptmx": "pts/ptmx", "fd": "/proc/self/fd", "stdin": "/proc/self/fd/0",
                           "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2"}.items():  # fmt: skip
            (dev / name).symlink_to(goal)

    def _mount_settings(self) -> None:
        settings = self.root / "proc/sys"
        for name in COPIED:
            values = {
                path.relative_to(settings / name): value(path)
                for path in (settings / name).rglob("*")
                if path.is_file()
            }
            mount("tmpfs", str(settings / name), "tmpfs", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=755")
            for path, text in values.items():
                (settings / name / path).parent.mkdir(parents=True, exist_ok=True)
                (settings / name / path).write_text(text)
        for path in (*(settings / name for name in COPIED_FILES), self.root / HASH_SIZE.lstrip("/")):
            if path.exists():
                self._cover(path, value(path))
        self._cover(settings / "kernel/random/boot_id", f"{uuid.uuid4()}\n")
        for product in self.root.glob("sys/class/dmi/id/product_uuid"):
            self._cover(product, f"{uuid.uuid5(uuid.NAMESPACE_DNS, self.config['name'])}\n")

    def _cover(self, path: Path, text: str) -> None:
        copy = self.root / "run/systemd-standin/sys" / str(path.relative_to(self.root)).replace("/", "-")
        copy.write_text(text)
        bind(str(copy), str(path))

    def enter(self) -> None:
        """Make it the root, with nothing of the old one left."""
        os.chdir(self.root)
        if LIBC.pivot_root(b".", b".") != 0 or LIBC.umount2(b".", MNT_DETACH) != 0:
            raise OSError(ctypes.get_errno(), "cannot pivot into the host's root")
        os.chdir("/")
        mount("", "/", flags=MS_REC | MS_SHARED)  # as systemd does; kubelet asks for it
        socket.sethostname(self.config["name"])

    def live(self, lifeline: int) -> None:
        """Reap until the life line is cut."""
        wake, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        while True:
            readable = select.select([wake, lifeline], [], [])[0]
            if lifeline in readable:
                if not os.read(lifeline, 16):
                    return
                apply_settings()
                subprocess.Popen(
                    ["/usr/bin/systemctl", "standin-boot"], env={}, stdin=subprocess.DEVNULL
                ).returncode = 0
            with contextlib.suppress(BlockingIOError):
                os.read(wake, 4096)
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def apply_settings() -> None:
    """Do what systemd-sysctl does before anything else starts; the build machine's own files are not for us."""
    if Path(SETTINGS).exists():
        subprocess.run(["/sbin/sysctl", "--quiet", f"--load={SETTINGS}"], env={}, stdin=subprocess.DEVNULL, check=False)


def value(path: Path) -> str:
    """Return a setting; some cannot be read."""
    try:
        return path.read_text()
    except OSError:
        return ""


def main() -> None:
    config: dict[str, str] = json.loads(sys.argv[1])
    mount("", "/", flags=MS_REC | MS_PRIVATE)
    os.umask(0o022)
    init = Init(config)
    init.make_root()
    init.mount_kernel()
    init.enter()
    ready, lifeline = int(config["ready"]), int(config["lifeline"])
    os.set_inheritable(lifeline, False)
    os.write(ready, b"ready")
    os.close(ready)
    init.live(lifeline)


if __name__ == "__main__":
    main()
