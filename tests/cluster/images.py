"""Container images of a cluster: a scratch image with one program and the libraries that it needs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.arch import Architecture
from pipeline.oci import (
    OCI_CONFIG,
    OCI_LAYER,
    OCI_MANIFEST,
    REF_NAME,
    Descriptor,
    LayerEntry,
    Layout,
    Platform,
    canonical,
    write_layer,
)
from tests.cluster import kubernetes
from tests.cluster.packages import LOADERS, TRIPLETS, Tree

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Names and tags as kubeadm 1.20.2 asks for them; test_parts.py compares. CoreDNS is in no Debian package.
PAUSE, ETCD, HTTP = "pause:3.2", "etcd:3.4.13-0", "http:1"
LOCAL = "usr/local/bin"
# What kube-proxy starts. nft as on Debian's nodes: portmap and kubelet of the host have to see the same rules.
NFT_PROGRAM = "xtables-nft-multi"
NFT_NAMES = ("iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore")
PROXY_PROGRAMS = ("conntrack", "ipset")
FASTEST = 1  # they travel over loopback


@dataclass(frozen=True)
class Recipe:
    """An image to make.

    Attributes:
        name: with its tag.
        files: path in the image -> file; all are executable.
        command: what is run if nothing else is said.
    """

    name: str
    files: Mapping[str, Path]
    command: Sequence[str]


def recipes(built: Path, programs: Path, tree: Tree) -> Iterator[Recipe]:
    """Yield all images.

    Args:
        built: directory of Kubernetes' programs.
        programs: directory of our own.
        tree: Debian's packages.
    """
    for name in kubernetes.SERVERS:
        files = {f"{LOCAL}/{name}": built / name}
        if name == "kube-proxy":
            files |= _proxy_files(tree)
        yield Recipe(f"{name}:{kubernetes.VERSION}", files, [name])
    etcd = {f"{LOCAL}/{name}": tree.program(name) for name in ("etcd", "etcdctl")}
    yield Recipe(ETCD, etcd | _libraries(tree, list(etcd.values())), ["etcd"])
    yield Recipe(PAUSE, {"pause": programs / "pause"}, ["/pause"])
    yield Recipe(HTTP, {f"{LOCAL}/http": programs / "http"}, ["http"])


def _proxy_files(tree: Tree) -> dict[str, Path]:
    multi = tree.program(NFT_PROGRAM)
    programs = {f"usr/sbin/{name}": multi for name in NFT_NAMES}
    programs |= {f"usr/sbin/{name}": tree.program(name) for name in PROXY_PROGRAMS}
    place = f"usr/lib/{TRIPLETS[tree.arch]}/xtables"
    modules = {f"{place}/{path.name}": path.resolve() for path in sorted((tree.root / place).glob("*.so"))}
    return programs | modules | _libraries(tree, [*programs.values(), *modules.values()])


def _libraries(tree: Tree, files: Sequence[Path]) -> dict[str, Path]:
    """Return the libraries of some programs as they go into an image; a layer has no links, so under their sonames."""
    found = tree.libraries(sorted(set(files)))
    placed = {f"lib/{TRIPLETS[tree.arch]}/{name}": path for name, path in found.items()}
    return placed | {LOADERS[tree.arch]: tree.loader.resolve()}


def write(images: Sequence[Recipe], arch: Architecture, target: Path) -> None:
    """Write images into an OCI layout, each an entry of its index under name and tag."""
    layout = Layout.create(target)
    layout.set_index([_write_one(layout, image, arch) for image in images])


def _write_one(layout: Layout, image: Recipe, arch: Architecture) -> Descriptor:
    entries = [LayerEntry(path, source, 0o755) for path, source in image.files.items()]
    entries += [LayerEntry("tmp", None, 0o1777), LayerEntry("etc/nsswitch.conf", b"hosts: files dns\n")]
    scratch = layout.path / "layer"
    layer = write_layer(entries, scratch, level=FASTEST)
    layout.put_file(scratch, OCI_LAYER)
    scratch.unlink()
    platform = Platform("linux", arch.oci)
    config = platform.to_json() | {
        "config": {"Env": [f"PATH={PATH}"], "Cmd": list(image.command)},
        "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
    }
    described = layout.put_blob(canonical(config), OCI_CONFIG)
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": described.to_json(),
        "layers": [layer.descriptor.to_json()],
    }
    return layout.put_manifest(manifest, OCI_MANIFEST, platform, {REF_NAME: image.name})


def names(layout: Path) -> list[str]:
    """Return names and tags of the images of a layout."""
    return [image.annotations[REF_NAME] for image in Layout.open(layout).index()]
