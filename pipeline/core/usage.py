"""What a program took: time of the processors, memory and disk, as the kernel counted it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import events

if TYPE_CHECKING:
    import contextlib
    import subprocess
    from collections.abc import Sequence

BLOCK = 512  # bytes, of ru_inblock and ru_oublock
TOLD = ("user_s", "system_s", "max_rss", "read", "written")  # what wait4(2) tells
SHOWN_LETTERS = 1000
IN_TREE = "in the tree: "  # before the name of a program that bwrap runs
SHELLS = ("bash", "sh", "env")


def noted(argv: Sequence[str], *, beside: bool = False) -> contextlib.AbstractContextManager[dict[str, events.Fact]]:
    """Tell that a program runs while the context lasts; see :func:`pipeline.core.events.span`."""
    return events.span("program", label(argv), beside=beside, command=" ".join(argv)[:SHOWN_LETTERS])


def reap(child: subprocess.Popen[str] | subprocess.Popen[bytes], facts: dict[str, events.Fact]) -> int:
    """Wait for a program's end and note what it took, together with the programs that it started and waited for.

    Args:
        child: the program.
        facts: is given its pid, exit status, seconds of the processors, and bytes: read from disks, written to
            them, and the most memory that one of these processes had. The kernel counts that from the fork on, so it
            is not less than what we had then (getrusage(2)).

    Returns:
        Its exit status; negative for a signal.
    """
    facts["pid"] = child.pid
    if child.returncode is None:
        try:
            _, ending, took = os.wait4(child.pid, 0)
        except ChildProcessError:  # another thread has asked for its status meanwhile
            child.wait()
        else:
            child.returncode = -os.WTERMSIG(ending) if os.WIFSIGNALED(ending) else os.WEXITSTATUS(ending)
            facts["user_s"], facts["system_s"] = round(took.ru_utime, 3), round(took.ru_stime, 3)
            facts["max_rss"] = took.ru_maxrss * 1024
            facts["read"], facts["written"] = took.ru_inblock * BLOCK, took.ru_oublock * BLOCK
    status = child.wait()
    facts["exit_status"] = status
    return status


def label(argv: Sequence[str]) -> str:
    """Return a short name for a command: the program that does the work, and the script that it is given."""
    words = list(argv)
    if Path(words[0]).name == "setpriv":
        words = words[3:]
    prefix = ""
    if Path(words[0]).name == "bwrap" and "--" in words:
        words, prefix = words[words.index("--") + 1 :], IN_TREE
    name = Path(words[0]).name
    if name in SHELLS and len(words) > 1 and words[1].startswith("/"):
        name = Path(words[1]).name
    return prefix + name
