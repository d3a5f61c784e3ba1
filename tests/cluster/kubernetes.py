"""Kubernetes, built from Debian's source package: it brings all that it is made of, so nothing else is fetched.

Debian's own packages of it lack kubeadm, kubelet and the servers. The compiler is unpacked, too, not installed.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.arch import Architecture
from tests.cluster.packages import Apt, run, unpack

VERSION = "v1.20.2"
SOURCE = "kubernetes"
# A package of the same source, whose version this machine's apt knows without source lists.
SOURCE_WITNESS = "kubernetes-client"
COMPILER = ("golang-1.19-go", "golang-1.19-src", "golang-github-modern-go-reflect2-dev")
NODE_PROGRAMS = ("kubeadm", "kubelet", "kubectl")
SERVERS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kube-proxy")
TOP = "src/k8s.io/kubernetes"
OPENAPI = "k8s.io/kubernetes/pkg/generated/openapi"
# What `version` prints is set by the linker, in two packages.
VERSION_PACKAGES = ("component-base", "client-go/pkg")
NOT_DESCRIBED = re.compile("_examples|sample-|/testdata/|zz_generated")


@dataclass(frozen=True)
class Workshop:
    """A compiler and the sources, ready to build.

    Attributes:
        directory: where both are; not to be changed by builds.
    """

    directory: Path

    @property
    def gopath(self) -> Path:
        """Where Go looks for sources."""
        return self.directory / "go"

    @property
    def top(self) -> Path:
        """Top of Kubernetes' tree."""
        return self.gopath / TOP

    def go(self, *words: str | Path, cache: Path, arch: Architecture | None = None) -> None:
        """Run Go; what it compiled is kept in a cache, so that a build that was cut off goes on there."""
        root = self.directory / "compiler/usr/lib/go-1.19"
        settings = {
            "GOROOT": str(root), "GOPATH": str(self.gopath), "GOCACHE": str(cache), "GO111MODULE": "off",
            "CGO_ENABLED": "0", "GOFLAGS": "-trimpath", "GOOS": "linux", "GOARCH": (arch or Architecture.host()).oci,
        }  # fmt: skip
        run(root / "bin/go", *words, cwd=self.top, **settings)


def prepare(apt: Apt, directory: Path, cache: Path) -> None:
    """Unpack compiler and sources into a directory, and generate what the sources lack."""
    shop, work = Workshop(directory), directory / ".packages"
    unpack(apt.download(COMPILER, Architecture.host(), work / "compiler"), directory / "compiler")
    shop.top.mkdir(parents=True)
    # Upstream's own tarball, which apt has checked. Debian's patches of kubectl's tables are left out: they would need
    # dpkg-dev and all of perl on this machine.
    run(
        "tar",
        "--extract",
        "--strip-components=1",
        "--file",
        apt.source(SOURCE, work / "source"),
        "--directory",
        shop.top,
    )
    shutil.rmtree(work)
    # The vendored reflect2 reads Go's internals, which have changed since.
    vendored = shop.top / "vendor/github.com/modern-go/reflect2"
    shutil.rmtree(vendored)
    shutil.copytree(directory / "compiler/usr/share/gocode/src/github.com/modern-go/reflect2", vendored)
    _generate_openapi(shop, cache)


def _generate_openapi(shop: Workshop, cache: Path) -> None:
    """Generate the description of the API, which upstream's make does before it compiles."""
    generator, top = shop.directory / "openapi-gen", shop.top
    shop.go("build", "-o", generator, "k8s.io/kubernetes/vendor/k8s.io/kube-openapi/cmd/openapi-gen", cache=cache)
    described = ",".join(_described(top))
    (top / "pkg/generated/openapi").mkdir(parents=True, exist_ok=True)
    header, base = "hack/boilerplate/boilerplate.generatego.txt", shop.gopath / "src"
    words: list[str | Path] = [generator, "-i", described, "-p", OPENAPI, "-O", "zz_generated.openapi"]
    words.extend(["-h", header, "-r", shop.directory / "violations", "--output-base", base])
    root = shop.directory / "compiler/usr/lib/go-1.19"
    settings = {"GOPATH": str(shop.gopath), "GO111MODULE": "off", "GOROOT": str(root), "GOFLAGS": ""}
    run(*words, cwd=top, PATH=f"{root}/bin:/usr/sbin:/usr/bin:/sbin:/bin", GOCACHE=str(cache), **settings)
    generator.unlink()
    (shop.directory / "violations").unlink(missing_ok=True)


def _described(top: Path) -> Sequence[str]:
    """Return the packages that ask to be described, as Go names them."""
    found = set()
    for place, prefix in (("pkg", "pkg"), ("staging/src/k8s.io", "vendor/k8s.io"), ("plugin", "plugin")):
        for file in (top / place).rglob("*.go"):
            name = str(file.relative_to(top))
            if NOT_DESCRIBED.search(name) or not re.search(r"^// \+k8s:openapi-gen=", file.read_text(), re.MULTILINE):
                continue
            found.add(f"k8s.io/kubernetes/{prefix}/{file.parent.relative_to(top / place)}")
    return sorted(found)


def _linker_flags() -> str:
    major, minor, _ = VERSION.removeprefix("v").split(".")
    values = {"gitVersion": VERSION, "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    places = [f"k8s.io/kubernetes/vendor/k8s.io/{name}/version" for name in VERSION_PACKAGES]
    return " ".join(["-s", "-w", *(f"-X {place}.{key}={value}" for place in places for key, value in values.items())])


def build(shop: Workshop, names: Sequence[str], arch: Architecture, target: Path, cache: Path) -> None:
    """Build Kubernetes' programs, static, into a directory."""
    commands = [f"k8s.io/kubernetes/cmd/{name}" for name in names]
    shop.go("build", "-o", f"{target}/", "-ldflags", _linker_flags(), *commands, cache=cache, arch=arch)


def build_own(shop: Workshop, source: Path, arch: Architecture, target: Path, cache: Path) -> None:
    """Build a program of ours, which may use what Kubernetes brings: its directory is put beside Kubernetes' own."""
    place = shop.top / "cmd" / f"own-{source.name}"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(source, place)
    try:
        shop.go("build", "-o", target, "-ldflags", "-s -w", f"./cmd/{place.name}", cache=cache, arch=arch)
    finally:
        shutil.rmtree(place)
