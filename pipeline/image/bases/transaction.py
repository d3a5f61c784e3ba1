"""Packages that lie on this machine, installed into a tree by this machine's rpm: these, and no others.

dnf would do it as well, but refuses packages of modules where it has no repository that describes these.
Sources: rpm(8); dnf.modularity(7); the files that dnf 4.14 leaves.
"""

from __future__ import annotations

import re
from pathlib import Path

from pipeline.core import process, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import ToolError
from pipeline.image import tree
from pipeline.image.bases import dnf, kernels

MODULES = "etc/dnf/modules.d"  # in the tree
LABEL = re.compile(r"([\w.+-]+):([\w.+-]+):", re.ASCII)  # of a package: module and stream; version and context follow


def install(root: Path, files: Path, home: Path, arch: Architecture) -> None:
    """Install exactly these packages into a tree, by this machine's rpm; their signatures were checked before.

    The order of the names decides the order of what does not depend on each other: the same packages, the same tree.

    Args:
        root: the tree.
        files: directory that holds them.
        home: home directory for rpm.
        arch: the tree's architecture.

    Raises:
        PipelineError: of the kind that what rpm complains of is.
    """
    lines: list[str] = []

    def note(line: str) -> None:
        lines.append(line)
        if "scriptlet failed" in line:  # rpm goes on, and exits with 0
            progress.note(line.strip())

    words: list[process.Argument] = ["rpm", f"--root={root}", "--install", "--verbose", "--excludedocs"]
    words += ["--nosignature", "--ignorearch", *sorted(files.glob("*.rpm"))]
    env = {"HOME": str(home)} | kernels.BYPASS
    sandbox = dnf.sandboxed(root, (), "--unshare-net", "--unshare-uts", "--hostname", "localhost")
    try:
        process.run([*sandbox, *words], env=env, what="installing packages", on_line=note)
    except ToolError as error:
        raise dnf.meant(error, lines, arch) from error


def enable_modules(root: Path, files: Path, home: Path) -> None:
    """Note in a tree which modules its packages are of, as dnf does: a later update must stay in their streams.

    Args:
        root: the tree.
        files: directory with the packages that are installed.
        home: home directory for rpm.
    """
    words: list[process.Argument] = ["rpm", "-qp", "--nosignature", "--nodigest", "--qf", r"%{MODULARITYLABEL}\n"]
    words += sorted(files.glob("*.rpm"))
    labels = process.run(words, env={"HOME": str(home)}, capture=True, what="asking packages for modules").stdout
    for name, stream in sorted({found.groups() for line in labels.splitlines() if (found := LABEL.match(line))}):
        tree.inside(root, MODULES).mkdir(parents=True, exist_ok=True)
        tree.write(
            root, f"{MODULES}/{name}.module", f"[{name}]\nname={name}\nstream={stream}\nprofiles=\nstate=enabled\n"
        )
