"""Where two images differ: the qcow2 are unpacked and read, without mounting anything (see docs/decisions.md)."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.core import parallel, process, progress
from pipeline.core.cache import Cache, cache_root
from pipeline.core.errors import InputError
from pipeline.image import tree
from pipeline.image.bases import qcow2
from pipeline.image.compare import boot, cpio, disk, ext4, packages
from pipeline.image.compare.entries import Content, Entry, of_directory
from pipeline.image.compare.model import Aspect, Blocks, Change, Difference, How, Side
from pipeline.image.compare.trees import Comparer, bounded, differing

DIFFOSCOPE = "diffoscope"
DIFFOSCOPE_FILES = 20  # files that are handed to it
DIFFOSCOPE_BYTES = 64 << 20  # of the largest file that is
DIFFOSCOPE_SECONDS = 120  # that one file may take


@dataclass(frozen=True)
class _Opened:
    """An image that was unpacked and read.

    Attributes:
        raw: its disk.
        trees: entries by partition.
        systems: what ext4 file systems say of themselves, by partition.
        system: the partition with the operating system; empty if none has it.
    """

    side: Side
    raw: disk.Raw
    trees: dict[str, dict[str, Entry]]
    systems: dict[str, ext4.FileSystem]
    system: str

    @property
    def root(self) -> dict[str, Entry]:
        return self.trees.get(self.system, {})


def locate(word: str, build_dir: Path) -> Path:
    """Return the qcow2 that a user means: a file, a directory that holds one, or the name of a built image.

    Raises:
        InputError: there is none.
    """
    path = Path(word)
    if path.is_file():
        return path
    for directory in (path, build_dir / word):
        found = sorted(directory.glob("*.qcow2")) if directory.is_dir() else []
        if len(found) > 1:
            raise InputError(f"{directory} holds {len(found)} qcow2 files", hint="name one of them")
        if found:
            return found[0]
    hint = "name a qcow2 file, a directory that holds one, or an image in build/, such as debian-12-amd64"
    raise InputError(f"{word} is no image", hint=hint)


def compare(a: Path, b: Path, *, deep: bool = False) -> Difference:
    """Compare two images.

    Args:
        a: a qcow2; packages.json is read if it lies beside it.
        b: another.
        deep: hand files that differ, and are no text, to diffoscope.

    Raises:
        InputError: one of them is no whole qcow2.
        DependencyError: diffoscope is asked for and not installed.
        ToolError: one of them is damaged.
        StorageError: the cache's disk is full.
    """
    if deep:
        process.require(DIFFOSCOPE, hint="install diffoscope or diffoscope-minimal, or leave out --deep")
    sides = parallel.each(2, (a, b), _side)
    if sides[0].sha256 == sides[1].sha256:
        return Difference(sides[0], sides[1])
    with Cache(cache_root()) as cache, cache.workspace() as workspace:
        with progress.step("unpack"):
            raws = parallel.each(2, ("a", "b"), lambda name: _unpack(a if name == "a" else b, workspace / name))
        with progress.step("read"):
            opened = [_open(side, raw) for side, raw in zip(sides, raws, strict=True)]
        with progress.step("compare"):
            return _compare(opened[0], opened[1], workspace, deep=deep)


def _side(image: Path) -> Side:
    qcow2.check(image)
    return Side(image, tree.file_sha256(image), image.stat().st_size)


def _unpack(image: Path, place: Path) -> disk.Raw:
    place.mkdir()
    return disk.unpack(image, place / "disk.raw")


def _open(side: Side, raw: disk.Raw) -> _Opened:
    trees: dict[str, dict[str, Entry]] = {}
    systems = {}
    for part in raw.parts:
        if part.kind == "ext4":
            systems[part.name] = ext4.read(raw.file, part.start, raw.file.parent)
            trees[part.name] = systems[part.name].entries
        elif part.kind == "fat32":
            copied = raw.file.parent / f"esp-{part.start}"
            disk.read_esp(raw, part, copied)
            trees[part.name] = of_directory(copied)
    root = next((name for name in systems if "etc" in trees[name] and "usr" in trees[name]), "")
    return _Opened(side, raw, trees, systems, root)


def _compare(a: _Opened, b: _Opened, workspace: Path, *, deep: bool) -> Difference:
    comparer = Comparer()
    files = list(_files(a, b, comparer, workspace))
    if deep:
        files = list(_deepened(files, a, b, workspace))
    owners = packages.owners(a.root, b.root)
    files = [replace(change, group=owners.get(change.path) or _directory(change.path)) for change in files]
    old, new = (packages.known(one.side.image, one.root) for one in (a, b))
    notes = [*_unread(a), *_unread(b)]
    if old is None or new is None:
        notes.append("packages were not compared: there is no packages.json beside both images")
    return Difference(
        a=a.side,
        b=b.side,
        packages=packages.compare(old, new) if old is not None and new is not None else (),
        boot=(*boot.compare(a.root, b.root), *_boot_code(a, b)),
        boot_files=tuple(change for change in files if boot.has_part(change.path)),
        disk=(*disk.compare(a.raw, b.raw), *_systems(a, b)),
        files=tuple(change for change in files if not boot.has_part(change.path)),
        times=comparer.times(),
        blocks=tuple(_blocks(a, b)),
        notes=tuple(notes),
    )


def _directory(path: str) -> str:
    """Return what a file is listed under that no package has: its first two directories."""
    above = path.split("/")[:-1][:2]
    return f"/{'/'.join(above)}" if not path.startswith("ESP:") else "EFI system partition"


def _unread(opened: _Opened) -> Iterator[str]:
    for part in opened.raw.parts:
        if not part.kind and part.name != "bios":
            yield f"{opened.side.image}: {part.name} holds no ext4 and no FAT32: it was compared byte for byte only"


# --- files -----------------------------------------------------------------------------------------------------------


def _files(a: _Opened, b: _Opened, comparer: Comparer, workspace: Path) -> Iterator[Change]:
    # The system's partition may have another name.
    names = {name if name != one.system else "": None for one in (a, b) for name in one.trees}
    for name in names:
        old, new = (one.trees.get(name or one.system, {}) for one in (a, b))
        prefix = f"{name}:" if name else ""
        for change in comparer.compare(old, new, prefix):
            members = None if name else _initramfs(change, old, new, comparer, workspace)
            yield members or change


def _initramfs(
    change: Change, old: dict[str, Entry], new: dict[str, Entry], comparer: Comparer, workspace: Path
) -> Change | None:
    """Return an initramfs with what differs inside; None for anything else."""
    if not boot.INITRAMFS.match(change.path):
        return None
    before, after = (_partner(change.path, tree) for tree in (old, new))
    contents = [tree[path].content for tree, path in ((old, before), (new, after)) if path]
    # Of two with different names it is said once.
    if len(contents) < 2 or None in contents or (change.how is How.REMOVED and before != after):
        return None
    places = [workspace / f"initramfs-{side}" for side in "ab"]
    try:
        trees = []
        for place, content in zip(places, contents, strict=True):
            assert content is not None
            place.mkdir()
            trees.append(cpio.members(content, place))
        members = tuple(Comparer(comparer.left).compare(trees[0], trees[1]))
    except cpio.NotUnderstoodError as error:
        return replace(change, diff=(f"not compared by its members: {error}",))
    finally:
        for place in places:
            _forget(place)
    said = () if members else ("its members are the same: their order or times, or the compression differ",)
    return replace(change, members=members, diff=said)


def _partner(path: str, tree: dict[str, Entry]) -> str:
    """Return the path itself if a tree has it, else its only initramfs; empty if there is none, or more."""
    if path in tree:
        return path
    found = [name for name, entry in tree.items() if boot.INITRAMFS.match(name) and entry.kind == "file"]
    return found[0] if len(found) == 1 else ""


def _forget(place: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        for file in place.iterdir():
            file.unlink()
        place.rmdir()


def _deepened(files: list[Change], a: _Opened, b: _Opened, workspace: Path) -> Iterator[Change]:
    """Yield all changes; those of files that are no text with what diffoscope says of them."""
    left = DIFFOSCOPE_FILES
    for change in files:
        contents = [one.root[change.path].content for one in (a, b) if change.path in one.root]
        is_asked = change.how is How.CHANGED and not change.diff and not change.members and left > 0
        if not is_asked or len(contents) < 2 or not any(aspect.name == "content" for aspect in change.aspects):
            yield change
            continue
        left -= 1
        yield replace(change, diff=_diffoscope(contents, Path(change.path).name, workspace))


def _diffoscope(contents: list[Content | None], name: str, workspace: Path) -> tuple[str, ...]:
    paths = []
    for side, content in zip("ab", contents, strict=True):
        assert content is not None
        if content.size > DIFFOSCOPE_BYTES:
            return (f"too large for {DIFFOSCOPE}",)
        place = workspace / DIFFOSCOPE / side
        place.mkdir(parents=True, exist_ok=True)
        paths.append(place / name)  # it goes by names, too
        content.copy(paths[-1])
    words = [DIFFOSCOPE, "--text=-", f"--timeout={DIFFOSCOPE_SECONDS}", "--no-progress"]
    env = {"TMPDIR": str(workspace), "HOME": str(workspace)}
    done = process.run([*words, *paths], capture=True, check=False, env=env)
    for path in paths:
        path.unlink()
    if done.returncode not in (0, 1):
        return (f"{DIFFOSCOPE} failed with exit status {done.returncode}: {' '.join(done.tail[-1:])}",)
    return bounded(done.stdout.splitlines()[2:])  # behind the names of the two files


# --- the rest --------------------------------------------------------------------------------------------------------


def _boot_code(a: _Opened, b: _Opened) -> Iterator[Aspect]:
    """Yield what differs in the boot sector's program and in the core image, which is a partition of its own."""
    old, new = disk.boot_code(a.raw), disk.boot_code(b.raw)
    if old != new:
        first = next(at for at, pair in enumerate(zip(old, new, strict=True)) if pair[0] != pair[1])
        yield Aspect("boot sector's program", "", f"differs from byte {first}")
    parts = [next((part for part in one.raw.parts if part.name == "bios"), None) for one in (a, b)]
    before, after = parts
    if before is None or after is None or before.size != after.size:
        return  # said where the partition table is
    contents = [
        Content(one.raw.file, part.size, ((0, part.start, part.size),)) for one, part in ((a, before), (b, after))
    ]
    place, count = differing(*contents)
    if place is not None:
        yield Aspect("BIOS core image", "", f"differs in {count} blocks of 4096 bytes, the first at byte {place}")


def _systems(a: _Opened, b: _Opened) -> Iterator[Aspect]:
    """Yield what differs in the identifiers and features of file systems."""
    for part in a.raw.parts:
        other = next((candidate for candidate in b.raw.parts if candidate.name == part.name), None)
        if other is None or other.kind != part.kind:
            continue
        if part.kind == "fat32":
            names = disk.fat_names(a.raw, part), disk.fat_names(b.raw, other)
            yield from disk.dictionaries(*names, f"{part.name} (FAT32): ")
        elif part.kind == "ext4":
            headers = [
                {name: value for name, value in one.systems[part.name].header.items() if name not in ext4.FOLLOWS}
                for one in (a, b)
            ]
            yield from disk.dictionaries(headers[0], headers[1], f"{part.name} (ext4): ")


def _blocks(a: _Opened, b: _Opened) -> Iterator[Blocks]:
    """Yield how many blocks of each part of the disk differ, and what they are used for in A."""
    new = {part.name: (part.start, part.size) for part in b.raw.parts} | {
        name: (start, size) for name, start, size in disk.gaps(b.raw)
    }
    old = [(part.name, part.start, part.size) for part in a.raw.parts] + list(disk.gaps(a.raw))
    for name, start, size in sorted(old, key=lambda item: item[1]):
        if name not in new:
            continue
        system = a.systems.get(name)
        counts: Counter[str] = Counter()
        first: dict[str, int] = {}
        for place in disk.differing_blocks(a.raw.file, b.raw.file, start, new[name][0], min(size, new[name][1])):
            what = system.use(place) if system is not None else ""
            counts[what] += 1
            first.setdefault(what, place)
        yield from (Blocks(name, what, count, first[what]) for what, count in counts.most_common())
