"""A private world for privileged work: it dies with its process and leaves no mount behind (decision D4).

As root: a new mount and PID namespace. As an ordinary user with subordinate ids: a user namespace first, in which
the caller is root. Because the worker is the first process of its own PID namespace, the kernel ends everything it
started when it ends, however it ends; because mounts are private, they vanish with it.

Sources: unshare(2), pid_namespaces(7), user_namespaces(7), newuidmap(1), prctl(2) PR_SET_PDEATHSIG, bwrap(1).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import pickle
import pwd
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, TypeVar

from pipeline.core import process
from pipeline.core.errors import DependencyError, PipelineError

T = TypeVar("T")

CLONE_NEWNS = 0x00020000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
MS_REC = 0x4000
MS_PRIVATE = 0x40000
MS_NOSUID_NODEV_NOEXEC = 0x2 | 0x4 | 0x8
PR_SET_PDEATHSIG = 1
BUSY_SECONDS = 10
NEEDED_IDS = 65535  # ids 1 to 65535: every id a distribution's packages may use, and nobody

_libc = ctypes.CDLL(None, use_errno=True)


def run_private(function: Callable[[], T]) -> T:
    """Run a function as root of a private namespace, in a process of its own.

    Args:
        function: called without arguments; what it returns, or the error it raises, must be picklable.

    Returns:
        What the function returned.

    Raises:
        DependencyError: this machine does not allow such a namespace, or the user has no subordinate ids.
        PipelineError: whatever the function raised.
        KeyboardInterrupt: interrupted; the function has cleaned up by then.
    """
    check_available()
    sys.stdout.flush()
    sys.stderr.flush()
    ready_read, ready_write = os.pipe()
    mapped_read, mapped_write = os.pipe()
    result_read, result_write = os.pipe()
    keeper = os.fork()
    if keeper == 0:
        os.close(ready_read)
        os.close(mapped_write)
        os.close(result_read)
        _keep(function, ready_write, mapped_read, result_write)
    for descriptor in (ready_write, mapped_read, result_write):
        os.close(descriptor)
    try:
        if os.read(ready_read, 1) and os.geteuid() != 0:
            _map_ids(keeper)
        os.write(mapped_write, b"m")
    except BrokenPipeError:
        pass  # the keeper died early; its message is in the result pipe
    finally:
        os.close(ready_read)
        os.close(mapped_write)
    with os.fdopen(result_read, "rb") as results:
        value: T = _collect(keeper, results)
        return value


def _collect(keeper: int, results: IO[bytes]) -> Any:  # noqa: ANN401  what comes out of pickle has no type
    """Wait for the worker's answer; on an interrupt let it clean up first."""
    try:
        answer = results.read()
        _, status = os.waitpid(keeper, 0)
    except KeyboardInterrupt:
        os.kill(keeper, signal.SIGTERM)
        os.waitpid(keeper, 0)
        raise
    if not answer:
        raise PipelineError(
            f"the private worker ended without an answer (wait status {status})",
            hint="somebody killed it; if that was the kernel, for lack of memory, 'dmesg' says so",
        )
    value, error = pickle.loads(answer)  # noqa: S301  our own child wrote it
    if error is not None:
        raise error
    return value


def check_available() -> None:
    """Raise DependencyError unless :func:`run_private` can work for this user.

    Raises:
        DependencyError: an ordinary user without subordinate ids or without newuidmap.
    """
    if os.geteuid() == 0:
        return
    for table in (Path("/etc/subuid"), Path("/etc/subgid")):
        _subordinate_range(table)
    for tool in ("newuidmap", "newgidmap"):
        process.require(tool, hint="install it: the package is 'uidmap' on Debian, 'shadow-utils' on the RHEL family")


def _subordinate_range(table: Path) -> tuple[int, int]:
    """Return first id and count of the user's range in /etc/subuid or /etc/subgid (subuid(5))."""
    user = _user()
    lines = table.read_text().splitlines() if table.exists() else []
    for line in lines:
        name, first, count = [*line.split(":"), "", ""][:3]
        if name in {user, str(os.geteuid())} and count.isdigit() and int(count) >= NEEDED_IDS:
            return int(first), NEEDED_IDS
    raise DependencyError(
        f"user {user!r} is not root and has no range of {NEEDED_IDS} subordinate ids in {table}",
        hint=f"as root, run: usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {user}",
    )


def _user() -> str:
    """Return the user's name, or the number where there is no name for it, as in many containers."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _map_ids(pid: int) -> None:
    """Make the user root of the keeper's user namespace, with the subordinate ids behind it."""
    for tool, table, own in (
        ("newuidmap", Path("/etc/subuid"), os.getuid()),
        ("newgidmap", Path("/etc/subgid"), os.getgid()),
    ):
        first, count = _subordinate_range(table)
        words = [tool, str(pid), "0", str(own), "1", "1", str(first), str(count)]
        process.run(words, what="mapping subordinate ids")


def _keep(function: Callable[[], T], ready: int, mapped: int, result: int) -> NoReturn:
    """Enter the namespaces, start the worker as their first process and end as it ends."""
    status = 1
    try:
        _die_with_caller(result)
        if os.geteuid() != 0:
            _unshare(CLONE_NEWUSER)
        os.write(ready, b"r")
        if not os.read(mapped, 1):
            os._exit(1)  # the caller gave up, and has an error of its own to show
        if os.geteuid() != 0:
            raise DependencyError("the user namespace could not be mapped", hint="see the message above")
        _unshare(CLONE_NEWNS | CLONE_NEWPID)
        worker = os.fork()
        if worker == 0:
            _work(function, result)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(worker, signal.SIGINT))
        _die_with_caller(result)
        os.close(result)
        _, status = os.waitpid(worker, 0)
    except BaseException as error:  # noqa: BLE001  everything must reach the parent through the pipe
        _answer(result, None, error)
    finally:
        os._exit(0 if status == 0 else 1)


def _work(function: Callable[[], T], result: int) -> NoReturn:
    """Be the first process of the namespace: private mounts, own /proc, then the function."""
    try:
        _die_with_caller(result)
        signal.signal(signal.SIGINT, _interrupt_once)
        os.umask(0o022)  # the same on every machine, like the environment of programs
        mount(None, Path("/"), flags=MS_REC | MS_PRIVATE)
        mount("proc", Path("/proc"), kind="proc", flags=MS_NOSUID_NODEV_NOEXEC)
        _answer(result, function(), None)
    except BaseException as error:  # noqa: BLE001  everything must reach the parent through the pipe
        _answer(result, None, error)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _interrupt_once(*_: object) -> NoReturn:
    """End whatever runs in the namespace and raise KeyboardInterrupt, at the first SIGINT only.

    A second one must not cut the clean-up short. The programs are ended here, as the signal may come when one has been
    started and whoever started it does not know of it yet: nobody else would end it, and trees would stay in use.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(ProcessLookupError):  # none runs
        os.kill(-1, signal.SIGKILL)  # from the first process of a namespace: all others in it (kill(2))
    raise KeyboardInterrupt


def _answer(descriptor: int, value: object, error: BaseException | None) -> None:
    if error is not None and not isinstance(error, PipelineError | KeyboardInterrupt):
        traceback.print_exception(error)
        error = PipelineError(f"unexpected {type(error).__name__}: {error}", hint="this is a defect; see the traceback")
    answer = pickle.dumps((value, error))  # whole before the first byte goes out: it may fail
    with os.fdopen(descriptor, "wb", closefd=False) as stream:
        stream.write(answer)


def _die_with_caller(result: int) -> None:
    """Be killed when the parent ends; set anew after every change of credentials, which clears it (prctl(2)).

    Args:
        result: the pipe that the caller reads. If nobody reads it any more, the caller's end came before this.
    """
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    watch = select.poll()
    watch.register(result, 0)
    if watch.poll(0):
        os._exit(1)


def _unshare(flags: int) -> None:
    if _libc.unshare(flags) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise DependencyError(
            f"this machine does not let {_user()!r} make a private namespace: {reason}",
            hint="as an ordinary user: sysctl kernel.unprivileged_userns_clone=1 "
            "(Ubuntu: kernel.apparmor_restrict_unprivileged_userns=0); in a container: run it with --privileged",
        )


def mount(source: str | None, target: Path, *, kind: str | None = None, flags: int = 0, options: str = "") -> None:
    """Attach a file system to a directory of the private namespace.

    The arguments are those of mount(2).

    Raises:
        DependencyError: the kernel refuses.
    """
    arguments = [None if text is None else os.fsencode(text) for text in (source, str(target), kind)]
    if _libc.mount(*arguments, ctypes.c_ulong(flags), os.fsencode(options) or None) != 0:
        reason = os.strerror(ctypes.get_errno())
        raise DependencyError(f"cannot mount {kind or 'mount'} on {target}: {reason} (options: {options or 'none'})")


def mount_layers(lower: Sequence[Path], target: Path, *, upper: Path, work: Path) -> None:
    """Mount directories as one writable tree with overlayfs.

    What is written is not synced: after a power cut it may be gone. Source: the kernel's ``overlayfs.rst``.

    Args:
        lower: read-only layers, the topmost first.
        target: existing directory on which the merged tree appears.
        upper: directory that takes every change.
        work: empty directory beside ``upper`` that overlayfs needs.

    Raises:
        DependencyError: the file system below cannot carry overlayfs.
    """
    options = ["lowerdir=" + ":".join(_escape(layer) for layer in lower), "index=off", "metacopy=off"]
    options += [f"upperdir={_escape(upper)}", f"workdir={_escape(work)}"]
    if not is_initial_user():
        options.append("userxattr")
    # Else unmounting waits until the whole file system below is on its disk, whoever has written to it.
    with contextlib.suppress(DependencyError):  # Linux before 5.10 does not know the option
        return mount("overlay", target, kind="overlay", options=",".join([*options, "volatile"]))
    try:
        return mount("overlay", target, kind="overlay", options=",".join(options))
    except DependencyError as error:
        raise DependencyError(
            error.message,
            hint="the cache must be on a file system that overlayfs can use (ext4, xfs, btrfs; not a container's "
            "own root): set XDG_CACHE_HOME to a directory on one; as an ordinary user Linux 5.11 or later is needed",
        ) from error


def _escape(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def is_initial_user() -> bool:
    """Whether root here is root of the whole machine, and not of a user namespace only."""
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def unmount(target: Path) -> None:
    """Unmount what is mounted on a directory, as umount(2) does.

    A program that was just killed keeps it busy for a moment longer: its end is waited for.

    Raises:
        DependencyError: the kernel refuses, or it is in use for longer than that.
    """
    last = time.monotonic() + BUSY_SECONDS
    while _libc.umount2(os.fsencode(target), 0) != 0:
        reason = ctypes.get_errno()
        if reason != errno.EBUSY or time.monotonic() > last:
            raise DependencyError(f"cannot unmount {target}: {os.strerror(reason)}")
        time.sleep(0.02)


def in_tree(
    tree: Path,
    argv: Sequence[process.Argument],
    *,
    env: Mapping[str, str] | None = None,
    binds: Sequence[tuple[Path, str]] = (),
    capture: bool = False,
    what: str = "",
) -> process.Completed:
    """Run a program inside a tree, as root, without network and without sight of the host.

    Args:
        tree: root directory the program sees.
        argv: program, as a path or name inside the tree, and its arguments.
        env: variables added to the clean environment.
        binds: (path on the host, path in the tree), shown read-only.
        capture: return its standard output.
        what: what the program does for the user, for the error message.

    Raises:
        ToolError: it failed.
    """
    words: list[process.Argument] = ["bwrap", "--bind", tree, "/", "--dev", "/dev", "--proc", "/proc"]
    words += ["--tmpfs", "/run", "--tmpfs", "/tmp"]  # noqa: S108  inside the sandbox
    for source, target in binds:
        words += ["--ro-bind", source, target]
    words += ["--unshare-net", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--hostname", "localhost"]
    words += ["--cap-add", "ALL", "--die-with-parent", "--chdir", "/", "--", *argv]
    return process.run(words, env={"HOME": "/root"} | dict(env or {}), capture=capture, what=what)
