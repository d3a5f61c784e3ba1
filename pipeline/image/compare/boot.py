"""Boot: kernel command lines as GRUB and the boot loader specification write them; which files have a part in it.

Sources: GRUB's manual (linux), the UAPI group's boot loader specification (options).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.image.compare.entries import Tree
from pipeline.image.compare.model import Aspect
from pipeline.image.compare.packages import read_text

PLACES = re.compile(r"ESP:|boot/|etc/(fstab|default/grub|grub\.d/|kernel/|cmdline|dracut|initramfs-tools/|crypttab)")
CONFIGURATIONS = re.compile(r"(boot/(grub2?|efi/EFI/[^/]+)|ESP:EFI/[^/]+)/grub\.cfg$")
ENTRIES = re.compile(r"boot/loader/entries/[^/]+\.conf$")
INITRAMFS = re.compile(r"boot/(initrd|initramfs)[^/]*$")
LINUX = re.compile(r"^\s*linux(?:16|efi)?\s+(\S+)[ \t]*(.*)$", re.MULTILINE)
OPTIONS = re.compile(r"^options\s+(.*)$", re.MULTILINE)


def has_part(path: str) -> bool:
    """Whether a file has a part in booting."""
    return PLACES.match(path) is not None


def command_lines(tree: Tree) -> dict[str, str]:
    """Return every kernel command line, by where it is written: file, and the how-manieth in it."""
    found = {}
    for path in sorted(tree):
        pattern = LINUX if CONFIGURATIONS.match(path) else OPTIONS if ENTRIES.match(path) else None
        if pattern is None:
            continue
        for number, line in enumerate(pattern.findall(read_text(tree, path) or ""), start=1):
            found[f"{path}, kernel {number}"] = line if isinstance(line, str) else " ".join(line)
    return found


def compare(a: Tree, b: Tree) -> Iterator[Aspect]:
    """Yield what differs in command lines: words that only one of them has, or both lines if only the order does."""
    old, new = command_lines(a), command_lines(b)
    for place in sorted({*old, *new}):
        before, after = old.get(place, "").split(), new.get(place, "").split()
        if before == after:
            continue
        only = [word for word in before if word not in after], [word for word in after if word not in before]
        if not any(only):
            only = before, after
        yield Aspect(f"kernel command line ({place})", " ".join(only[0]), " ".join(only[1]))
