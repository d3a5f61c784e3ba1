"""What a real cluster is made of: made once, kept by what it is made from, shared by all tests.

Each part is a directory ``<name>-<arch>-<key>``; its key is a hash of the code that makes it, of the package versions
that this machine's apt knows, and of the keys of the parts that it is made from.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from pipeline.core.arch import Architecture
from tests.cluster import images, kubernetes, mirror, nodes
from tests.cluster.packages import Apt, Tree, known_versions, unpack, upstream_version

HERE = Path(__file__).parent
OWN_PROGRAMS = ("crictl", "http", "pause")
CNI_PLUGINS = ("bridge", "host-local", "loopback", "portmap")
# What the installer carries. Only these are unpacked of an architecture that this machine is not of.
COMPONENT_PACKAGES = ("containerd", "containernetworking-plugins", "etcd-client", "runc")
# What the images, the registry and the nodes need beside.
MORE_PACKAGES = (
    "conntrack", "docker-registry", "ebtables", "etcd-server", "ethtool", "iproute2", "ipset", "iptables", "ipvsadm",
    "keepalived", "libnginx-mod-stream", "nftables", "nginx", "skopeo", "socat",
)  # fmt: skip


def default_directory() -> Path:
    """Return where the parts are kept if nothing else is said: they are dear to make."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "node-images-cluster"


@dataclass(frozen=True)
class Components:
    """Programs that the installer carries, of one architecture.

    Attributes:
        arch: the architecture.
        packages: tree of Debian packages.
        kubernetes: directory of kubeadm, kubelet and kubectl; on this machine's architecture also the servers.
        programs: directory of crictl, http and pause.
    """

    arch: Architecture
    packages: Path
    kubernetes: Path
    programs: Path

    def files(self) -> dict[str, Path]:
        """Return every file, by its path below the payload's ``components/``."""
        binaries = {
            "containerd": ("containerd", "containerd-shim-runc-v2", "ctr"),
            "etcdctl": ("etcdctl",),
        }
        found = {f"{name}/{file}": self.packages / "usr/bin" / file for name, all_ in binaries.items() for file in all_}
        found["runc/runc"] = self.packages / "usr/sbin/runc"
        found |= {f"cni-plugins/{name}": self.packages / "usr/lib/cni" / name for name in CNI_PLUGINS}
        found |= {f"{name}/{name}": self.kubernetes / name for name in kubernetes.NODE_PROGRAMS}
        return found | {"crictl/crictl": self.programs / "crictl"}

    def versions(self) -> dict[str, str]:
        """Return the version of every component; crictl has that of the CRI that it is built against."""
        packages = {"containerd": "containerd", "runc": "runc", "etcdctl": "etcd-client"}
        found = {name: upstream_version(self.packages, package) for name, package in packages.items()}
        found["cni-plugins"] = upstream_version(self.packages, "containernetworking-plugins")
        return found | dict.fromkeys((*kubernetes.NODE_PROGRAMS, "crictl"), kubernetes.VERSION.removeprefix("v"))


@dataclass(frozen=True)
class Parts:
    """Everything, made.

    Attributes:
        components: per architecture that was asked for.
        images: OCI layout of the cluster's images.
        node: what a node's operating system brings and this machine may lack: nginx, keepalived, iptables, conntrack …
            with their libraries. Copied over a namespace host's root with ``cp --archive --no-clobber``.
        mirror: what ``installer.lock --mirror`` takes, of those architectures, and a ``components.yaml`` for it, which
            is to be copied elsewhere first: the lock is written beside it.
    """

    components: dict[Architecture, Components]
    images: Path
    node: Path
    mirror: Path

    @property
    def own(self) -> Components:
        """The components of this machine's architecture."""
        return self.components[Architecture.host()]

    @property
    def tree(self) -> Tree:
        """Debian's packages with all that they need: docker-registry, etcd, etcdctl, skopeo, nginx, keepalived …"""
        return Tree(self.own.packages, self.own.arch)


def make(directory: Path | None = None, arches: Iterable[Architecture] = ()) -> Parts:
    """Make what is missing of the parts.

    Args:
        directory: where they are kept.
        arches: for which architectures beside this machine's.
    """
    place = (directory or default_directory()).absolute()
    place.mkdir(parents=True, exist_ok=True)
    own = Architecture.host()
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the process ends, however it ends
        maker = Maker(place)
        components = {arch: maker.components(arch) for arch in sorted({own, *arches})}
        mine = components[own]
        made = Parts(components, maker.images(mine), maker.node(mine), maker.mirror(list(components.values())))
        maker.tidy()
    return made


def _hash(paths: Iterable[Path], *words: str) -> str:
    total = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                total.update(file.read_bytes())
    total.update("\0".join(words).encode())
    return total.hexdigest()[:12]


@dataclass
class Maker:
    """Makes parts in a directory that it has for itself.

    Attributes:
        place: the directory.
        kept: parts of now, by their path; others of the same name are of the past.
    """

    place: Path
    kept: list[Path] = field(default_factory=list)

    @cached_property
    def apt(self) -> Apt:
        """Lists of packages, fetched when the first package is wanted."""
        return Apt.updated(self.place / ".apt")

    @property
    def go_cache(self) -> Path:
        return self.place / ".go-cache"

    def part(self, name: str, key: str, fill: Callable[[Path], None]) -> Path:
        """Return a part, made if it is not there. It appears whole or not at all."""
        target = self.place / f"{name}-{key}"
        self.kept.append(target)
        if not target.is_dir():
            half = self.place / f".{name}.half"
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            fill(half)
            half.rename(target)
        return target

    def components(self, arch: Architecture) -> Components:
        built, programs = self.built(arch), self.programs(arch)
        return Components(arch, self.packages(arch), built, programs)

    def packages(self, arch: Architecture) -> Path:
        is_own = arch is Architecture.host()
        wanted = (*COMPONENT_PACKAGES, *MORE_PACKAGES) if is_own else COMPONENT_PACKAGES

        def fill(target: Path) -> None:
            with _removed(self.place / ".debs") as debs:
                found = self.apt.closure(wanted, debs) if is_own else self.apt.download(wanted, arch, debs)
                unpack(found, target)

        key = _hash([HERE / "packages.py"], *wanted, *known_versions(wanted))
        return self.part(f"packages-{arch}", key, fill)

    @cached_property
    def workshop(self) -> kubernetes.Workshop:
        key = _hash([HERE / "kubernetes.py"], *_source_versions())
        path = self.part("workshop", key, lambda target: kubernetes.prepare(self.apt, target, self.go_cache))
        return kubernetes.Workshop(path)

    def built(self, arch: Architecture) -> Path:
        names = kubernetes.NODE_PROGRAMS + (kubernetes.SERVERS if arch is Architecture.host() else ())

        def fill(target: Path) -> None:
            kubernetes.build(self.workshop, names, arch, target, self.go_cache)

        key = _hash([HERE / "kubernetes.py"], *names, *_source_versions())
        return self.part(f"kubernetes-{arch}", key, fill)

    def programs(self, arch: Architecture) -> Path:
        sources = [HERE / "files" / name for name in OWN_PROGRAMS]

        def fill(target: Path) -> None:
            for source in sources:
                kubernetes.build_own(self.workshop, source, arch, target / source.name, self.go_cache)

        key = _hash([HERE / "kubernetes.py", *sources], *_source_versions())
        return self.part(f"programs-{arch}", key, fill)

    def images(self, own: Components) -> Path:
        def fill(target: Path) -> None:
            made = images.recipes(own.kubernetes, own.programs, Tree(own.packages, own.arch))
            images.write(list(made), own.arch, target)

        inputs = [own.packages.name, own.kubernetes.name, own.programs.name]
        return self.part(f"images-{own.arch}", _hash([HERE / "images.py"], *inputs), fill)

    def node(self, own: Components) -> Path:
        key = _hash([HERE / "nodes.py"], own.packages.name)
        return self.part(f"node-{own.arch}", key, lambda target: nodes.fill(Tree(own.packages, own.arch), target))

    def mirror(self, components: Sequence[Components]) -> Path:
        def fill(target: Path) -> None:
            mirror.write(target, {one.arch: one.files() for one in components}, components[0].versions())

        inputs = [path.name for one in components for path in (one.packages, one.kubernetes, one.programs)]
        arches = "+".join(one.arch for one in components)
        return self.part(f"mirror-{arches}", _hash([HERE / "mirror.py"], *inputs), fill)

    def tidy(self) -> None:
        """Remove what was made by other code or from other packages, and what only making needs."""
        for path in self.kept:
            for other in self.place.glob(f"{path.name.rpartition('-')[0]}-*"):
                if other not in self.kept:
                    shutil.rmtree(other)
        for path in (self.place / ".apt", self.go_cache):
            shutil.rmtree(path, ignore_errors=True)


def _source_versions() -> list[str]:
    return known_versions([kubernetes.SOURCE_WITNESS, *kubernetes.COMPILER])


@contextmanager
def _removed(path: Path) -> Iterator[Path]:
    """Yield a directory to be made that is gone before and after."""
    shutil.rmtree(path, ignore_errors=True)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
