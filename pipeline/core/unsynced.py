"""Programs that do not wait for the disk: what they write is thrown away if the machine goes down, so why should they.

This file is a program of its own, ``unsynced.py PROGRAM ARGUMENT...``, which becomes the one that it is given. (Between
a fork and an exec of ours, Python code could wait for a lock that a thread held, or be interrupted unseen.)

A seccomp filter answers fsync(2) and its like with success. It is inherited by everything that a program starts, in
chroots and under emulation too, and needs no library there, as an LD_PRELOAD would. Sources: seccomp(2),
``linux/filter.h``, ``linux/audit.h``; the numbers are those of ``asm/unistd.h``.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
RETURN_ALLOW, RETURN_SUCCESS = 0x7FFF0000, 0x00050000  # the second is SECCOMP_RET_ERRNO with an errno of 0
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06  # BPF_LD|BPF_W|BPF_ABS, BPF_JMP|BPF_JEQ|BPF_K, BPF_RET|BPF_K
NUMBER, ARCHITECTURE = 0, 4  # offsets in struct seccomp_data
# Of each machine: its AUDIT_ARCH, and msync, fsync, fdatasync, sync, sync_file_range, syncfs.
CALLS = {
    "x86_64": (0xC000003E, (26, 74, 75, 162, 277, 306)),
    "aarch64": (0xC00000B7, (227, 82, 83, 81, 84, 267)),
}

_libc = ctypes.CDLL(None)


class _Program(ctypes.Structure):
    """``struct sock_fprog``."""

    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _filter(machine: str) -> bytes:
    architecture, calls = CALLS[machine]
    allow = len(calls) + 1  # instructions from the first comparison's to the last but one
    code = _instruction(LOAD, ARCHITECTURE) + _instruction(JUMP_IF_EQUAL, architecture, 0, allow)
    code += _instruction(LOAD, NUMBER)
    for index, call in enumerate(calls):
        code += _instruction(JUMP_IF_EQUAL, call, len(calls) - index)
    return code + _instruction(RETURN, RETURN_ALLOW) + _instruction(RETURN, RETURN_SUCCESS)


def install() -> None:
    """Have this process and all it will start never wait for the disk; only root can.

    Where the kernel has no such filter, everything is as it was.
    """
    if platform.machine() in CALLS:
        code = _filter(platform.machine())
        program = _Program(len(code) // 8, code)
        _libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program), 0, 0)


if __name__ == "__main__":
    install()
    try:
        os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606  our caller is pipeline.core.process
    except OSError as error:
        sys.exit(f"{sys.argv[1]}: {error.strerror}")
