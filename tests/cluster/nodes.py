"""What the packages of a node's operating system bring, for namespace hosts: they share the root of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.cluster.packages import TRIPLETS, Tree

PROGRAMS = (
    "conntrack", "ethtool", "ip", "ipset", "ipvsadm", "keepalived", "nft", "nginx", "socat", "ss",
    "xtables-nft-multi",
)  # fmt: skip
# Links that the packages' scripts would make.
LINKS = {
    **{f"{ip}tables{do}": "xtables-nft-multi" for ip in ("ip", "ip6") for do in ("", "-save", "-restore")},
    **{f"{ip}tables-nft{do}": "xtables-nft-multi" for ip in ("ip", "ip6") for do in ("", "-save", "-restore")},
    "ebtables": "xtables-nft-multi",
}
DIRECTORIES = ("usr/lib/nginx/modules", "usr/lib/{}/xtables", "etc/nginx", "usr/share/nginx")
EMPTY = ("var/lib/nginx", "var/log/nginx")


def fill(tree: Tree, target: Path) -> None:
    """Write those files into a directory that is to be copied over a root with merged ``/usr``."""
    programs = [tree.program(name) for name in PROGRAMS]
    modules = list(_modules(tree))
    (target / "usr/sbin").mkdir(parents=True)
    for program in programs:
        shutil.copy2(program, target / "usr/sbin" / program.name)
    for name, link in LINKS.items():
        (target / "usr/sbin" / name).symlink_to(link)
    for place in DIRECTORIES:
        name = place.format(TRIPLETS[tree.arch])
        shutil.copytree(tree.root / name, target / name, symlinks=True)
    for name in EMPTY:
        (target / name).mkdir(parents=True)
    for name, library in tree.libraries([*programs, *modules]).items():
        shutil.copy2(library, target / "usr/lib" / TRIPLETS[tree.arch] / name)


def _modules(tree: Tree) -> Iterator[Path]:
    for place in DIRECTORIES[:2]:
        yield from sorted((tree.root / place.format(TRIPLETS[tree.arch])).glob("*.so"))
