"""An ext2, ext3 or ext4 file system in a raw disk, read by e2fsprogs without mounting it.

``dumpe2fs`` says which inodes are used, one run of ``debugfs`` describes them all, with the blocks of each; contents
are read from these blocks. Only numbers are ever put into debugfs's commands, and attribute names of a plain alphabet:
its language can also write files of this machine. Source: debugfs(8) and debugfs.c of e2fsprogs 1.47.
"""

from __future__ import annotations

import bisect
import functools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.core import process
from pipeline.core.errors import ToolError
from pipeline.image.compare.entries import Content, Entry, moment

ROOT_INODE = 2
INLINE_DATA = 0x10000000  # flag of an inode whose content lies in the inode itself (ext4.h)
PROMPT = b"debugfs: "
HEAD = re.compile(rb"Inode: (\d+) +Type: (.+?) +Mode: +(\d+) +Flags: 0x([0-9a-f]+)")
OWNER = re.compile(rb"^User: +(\d+) +Group: +(\d+) .*?Size: (\d+)$", re.MULTILINE)
TIME = re.compile(rb"^ ?(\w+): 0x([0-9a-f]{8})(?::([0-9a-f]{8}))? -- ", re.MULTILINE)
DEVICE = re.compile(rb"Device major/minor number: (\d+):(\d+)")
ATTRIBUTE = re.compile(rb"^  ([^ ]+) \((\d+)\)(?: = (.*))?$", re.MULTILINE)
FAST_LINK = b'Fast link dest: "'
PIECE = re.compile(rb"\((\d+)(?:-(\d+))?(\[u\])?\):(\d+)")
LISTED = re.compile(rb"/(\d+)/\d{6}/\d+/\d+/([^/]+)/\d*/\n")  # a name may hold anything but a slash
PLAIN_NAME = re.compile(rb"[\w.:+-]+")
KINDS = {
    b"regular": "file", b"directory": "directory", b"symlink": "link", b"FIFO": "fifo", b"socket": "socket",
    b"character special": "character device", b"block special": "block device",
}  # fmt: skip
# Of the superblock; all others that differ follow from what is in the file system.
FOLLOWS = {"Checksum", "Free blocks", "Free inodes", "Journal checksum", "Lifetime writes"}


@dataclass(frozen=True)
class FileSystem:
    """What was read.

    Attributes:
        entries: by path, without a slash in front; the root directory is the empty path.
        header: what the superblock says, by name.
        uses: (first block, last block, what it is used for), in order; blocks of ``block_size`` bytes.
        block_size: in bytes.
    """

    entries: dict[str, Entry]
    header: dict[str, str]
    uses: tuple[tuple[int, int, str], ...]
    block_size: int

    def use(self, offset: int) -> str:
        """Return what a place in the file system is used for."""
        block = offset // self.block_size
        at = bisect.bisect_right(self.uses, block, key=lambda use: use[0]) - 1
        if at >= 0 and block <= self.uses[at][1]:
            return self.uses[at][2]
        return "superblock, bitmaps, journal or free space"


@dataclass(frozen=True)
class _Reader:
    raw: Path
    start: int
    scratch: Path

    @property
    def device(self) -> str:
        return f"{self.raw}?offset={self.start}"

    def ask(self, commands: list[str]) -> Iterator[bytes]:
        """Have debugfs carry out commands; yields what each of them printed."""
        script = self.scratch / "debugfs"
        script.write_text("".join(f"{command}\n" for command in commands))
        answer, count = bytearray(), 0
        with process.piped(["debugfs", "-f", script, self.device], what="reading a file system") as child:
            assert child.stdin is not None
            assert child.stdout is not None
            child.stdin.close()
            for line in child.stdout:
                if line.startswith(PROMPT) and count < len(commands) and _is_echo(line, commands[count]):
                    if count:
                        yield bytes(answer)
                    answer.clear()
                    count += 1
                else:
                    answer += line
        if count != len(commands):
            raise ToolError(f"debugfs cannot read the file system at byte {self.start} of {self.raw.name}")
        if count:
            yield bytes(answer)


def _is_echo(line: bytes, command: str) -> bool:
    return line == PROMPT + command.encode() + b"\n"


def read(raw: Path, start: int, scratch: Path) -> FileSystem:
    """Read everything but contents.

    Args:
        raw: a raw disk; contents are read from it later.
        start: where in it the file system is, in bytes.
        scratch: directory for small files.

    Raises:
        ToolError: e2fsprogs cannot read it.
    """
    reader = _Reader(raw, start, scratch)
    words = ["dumpe2fs", reader.device]
    shown = process.run(words, capture=True, what="reading a file system").stdout
    header = _header(shown)
    block_size = int(header["Block size"])
    inodes, uses = {}, _inode_tables(shown)
    for answer in reader.ask([f"stat <{number}>" for number in _used_inodes(shown, header)]):
        number, entry = _entry(answer, reader, block_size)
        inodes[number] = replace(entry, content=None) if entry.kind == "directory" else entry
        what = {"file": "file contents", "link": "file contents", "directory": "directories"}.get(entry.kind)
        if what and entry.content is not None:
            pieces = entry.content.pieces
            uses += [
                ((at - start) // block_size, (at + size - start - 1) // block_size, what) for _, at, size in pieces
            ]
    _fill_attributes(reader, inodes)
    _fill_inline(reader, inodes)
    return FileSystem(_paths(reader, inodes), header, tuple(sorted(uses)), block_size)


def _header(shown: str) -> dict[str, str]:
    head = shown.partition("\n\n")[0]
    return {name: value.strip() for name, found, value in (line.partition(":") for line in head.splitlines()) if found}


def _inode_tables(shown: str) -> list[tuple[int, int, str]]:
    return [(int(first), int(last), "inode tables") for first, last in re.findall(r"Inode table at (\d+)-(\d+)", shown)]


def _used_inodes(shown: str, header: dict[str, str]) -> list[int]:
    free: set[int] = set()
    for line in re.findall(r"^  Free inodes: (.+)$", shown, re.MULTILINE):
        for piece in line.split(", "):
            first, _, last = piece.partition("-")
            free.update(range(int(first), int(last or first) + 1))
    usual = range(int(header.get("First inode", "11")), int(header["Inode count"]) + 1)
    return [ROOT_INODE, *(number for number in usual if number not in free)]


def _entry(answer: bytes, reader: _Reader, block_size: int) -> tuple[int, Entry]:
    head, owner = HEAD.search(answer), OWNER.search(answer)
    if head is None or owner is None:
        raise ToolError(f"debugfs says of an inode: {answer[:200].decode(errors='replace')!r}")
    kind, size, flags = KINDS.get(head[2], "unknown"), int(owner[3]), int(head[4], 16)
    device = DEVICE.search(answer)
    content, target = None, ""
    at = answer.find(FAST_LINK)
    if kind == "link" and at >= 0:
        target = _text(answer[at + len(FAST_LINK) :][:size])
    elif kind in {"file", "link", "directory"}:
        content = _content(answer, reader, block_size, size, is_inline=bool(flags & INLINE_DATA))
        target = _text(content.read()) if kind == "link" else ""
    entry = Entry(
        kind=kind,
        mode=int(head[3], 8),
        owner=int(owner[1]),
        group=int(owner[2]),
        size=size if kind == "file" else 0,
        target=target,
        device=f"{int(device[1])}:{int(device[2])}" if device else "",
        attributes=_attributes(answer),
        inode=int(head[1]),
        times=_times(tuple(TIME.findall(answer))),
        content=content,
    )
    return int(head[1]), entry


def _content(answer: bytes, reader: _Reader, block_size: int, size: int, *, is_inline: bool) -> Content:
    if is_inline:
        return Content(reader.scratch, size, ())  # fetched later
    at = max(answer.find(b"\nEXTENTS:\n"), answer.find(b"\nBLOCKS:\n"))
    pieces = []
    for first, last, unwritten, block in PIECE.findall(answer, at) if at >= 0 else ():
        place, count = int(first) * block_size, int(last or first) - int(first) + 1
        if not unwritten and place < size:
            length = min(count * block_size, size - place)
            pieces.append((place, reader.start + int(block) * block_size, length))
    return Content(reader.raw, size, tuple(pieces))


def _attributes(answer: bytes) -> tuple[tuple[str, str], ...]:
    at = answer.find(b"\nExtended attributes:\n")
    if at < 0:
        return ()
    found = []
    for name, size, value in ATTRIBUTE.findall(answer, at):
        if name != b"system.data":  # an inline file's content
            found.append((_text(name), _text(value) or f"({int(size)} bytes)"))
    return tuple(sorted(found))


@functools.lru_cache(maxsize=1 << 12)  # most entries share theirs, which is half of what they would take
def _times(found: tuple[tuple[bytes, bytes, bytes], ...]) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode(), _moment(low, high)) for name, low, high in found)


def _moment(low: bytes, high: bytes) -> str:
    """Return a time: 32 bits with a sign, then two bits more and nanoseconds (ext4's inode.rst, "Inode Timestamps")."""
    seconds, extra = int(low, 16), int(high or b"0", 16)
    seconds -= (seconds & 0x80000000) << 1
    return moment(seconds + ((extra & 3) << 32), extra >> 2)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _fill_attributes(reader: _Reader, inodes: dict[int, Entry]) -> None:
    """Ask for the values of attributes that ``stat`` leaves out for their length."""
    missing = [
        (number, name)
        for number, entry in inodes.items()
        for name, value in entry.attributes
        if re.fullmatch(r"\([1-9]\d* bytes\)", value) and PLAIN_NAME.fullmatch(name.encode("utf-8", "surrogateescape"))
    ]
    answers = reader.ask([f"ea_get -x <{number}> {name}" for number, name in missing]) if missing else ()
    for (number, name), answer in zip(missing, answers, strict=True):
        value = _text(answer.partition(b" = ")[2].strip())
        others = {**dict(inodes[number].attributes), name: value}
        inodes[number] = replace(inodes[number], attributes=tuple(sorted(others.items())))


def _fill_inline(reader: _Reader, inodes: dict[int, Entry]) -> None:
    """Have the contents that lie in inodes written to files."""
    inline = [n for n, entry in inodes.items() if entry.kind == "file" and _lies_in_inode(entry, reader)]
    if not inline:
        return
    place = reader.scratch / f"inline-{reader.start}"
    place.mkdir()
    # Below a directory that this class of names is sure of: debugfs splits its commands at spaces.
    for _ in reader.ask([f'dump <{number}> "{place / str(number)}"' for number in inline]):
        pass
    for number in inline:
        size = inodes[number].size
        inodes[number] = replace(inodes[number], content=Content(place / str(number), size, ((0, 0, size),)))


def _lies_in_inode(entry: Entry, reader: _Reader) -> bool:
    return entry.content is not None and entry.content.file == reader.scratch and entry.size > 0


def _paths(reader: _Reader, inodes: dict[int, Entry]) -> dict[str, Entry]:
    directories = [number for number, entry in inodes.items() if entry.kind == "directory"]
    answers = reader.ask([f"ls -p <{number}>" for number in directories])
    children = {
        number: [(_text(name), int(child)) for child, name in LISTED.findall(answer) if name not in (b".", b"..")]
        for number, answer in zip(directories, answers, strict=True)
    }
    found: dict[str, Entry] = {}
    _descend("", ROOT_INODE, children, lambda path, number: found.__setitem__(path, inodes[number]), set(inodes))
    return found


def _descend(
    path: str,
    number: int,
    children: dict[int, list[tuple[str, int]]],
    found: Callable[[str, int], None],
    known: set[int],
) -> None:
    pending, seen = [(path, number)], set()
    while pending:
        path, number = pending.pop()
        if number not in known:
            continue  # the file system is damaged: a name without an inode
        found(path, number)
        if number in children and number not in seen:
            seen.add(number)  # of a damaged one, too: a directory inside itself
            pending += [(f"{path}/{name}" if path else name, child) for name, child in children[number]]
