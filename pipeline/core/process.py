"""The one door to other programs.

Argument lists, never a shell; a clean environment; output streamed line by line to the session's log; a failure
shown with its command ready to paste, its last lines and the log's path.
"""

from __future__ import annotations

import collections
import contextlib
import errno
import os
import select
import shlex
import shutil
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING

from pipeline.core import events, progress, usage
from pipeline.core.errors import DependencyError, StorageError, ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from pipeline.core.events import Fact

    Argument = str | Path

UNSYNCED = Path(__file__).with_name("unsynced.py")
TAIL_LINES = 15
LONGEST_LINE = 4096  # bytes of a line that is kept
ANNOUNCEMENT = "I: "  # how mmdebstrap says what it begins with
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
NETWORK_VARIABLES = (
    "http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy",
    "HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY",
    "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE",
)  # fmt: skip


@dataclass(frozen=True)
class Completed:
    """A program that ended.

    Attributes:
        argv: what was run.
        returncode: its exit status; negative for a signal.
        stdout: what it printed, if that was captured, else empty.
        tail: the last lines that went to the log.
    """

    argv: tuple[str, ...]
    returncode: int
    stdout: str
    tail: tuple[str, ...] = ()


def clean_environment(extra: Mapping[str, str] | None = None, *, network: bool = False) -> dict[str, str]:
    """Return the environment that programs get: the same on every machine.

    Args:
        extra: variables added to it.
        network: pass on the user's proxy and certificate settings.
    """
    env = {"PATH": SYSTEM_PATH, "LANG": "C.UTF-8", "LC_ALL": "C.UTF-8", "TZ": "UTC", "HOME": "/nonexistent"}
    if network:
        env.update({name: os.environ[name] for name in NETWORK_VARIABLES if name in os.environ})
    return {**env, **(extra or {})}


def require(tool: str, *, hint: str) -> str:
    """Return the path of a program.

    Raises:
        DependencyError: it is not installed; the hint says how to get it.
    """
    found = shutil.which(tool, path=SYSTEM_PATH)
    if found is None:
        raise DependencyError(f"program {tool!r} is not installed", hint=hint)
    return found


def run(
    argv: Sequence[Argument],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    capture: bool = False,
    check: bool = True,
    network: bool = False,
    sync: bool = True,
    what: str = "",
    on_line: Callable[[str], None] | None = None,
) -> Completed:
    """Run a program to its end.

    Args:
        argv: program and arguments.
        env: variables added to the clean environment.
        cwd: directory to run in.
        stdin: text for its standard input; empty input if not given.
        capture: return its standard output instead of logging it; standard error is logged all the same.
        check: raise if it fails.
        network: pass on proxy and certificate settings.
        sync: let it wait for the disk; without it (only root can) what it wrote may be gone after a power cut.
        what: what the program does for the user, for the error message.
        on_line: called with every line of output that is logged, after it is logged.

    Raises:
        ToolError: it exited with a status other than 0 (only with ``check``), or cannot be started.
        DependencyError: there is no such program.
        StorageError: it failed and its last lines speak of a full disk.
    """
    words = tuple(str(word) for word in argv)
    progress.log(f"$ {_pasted(words)}")
    tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
    begun = words if sync else (sys.executable, "-I", "-S", str(UNSYNCED), *words)
    with usage.noted(words) as facts, _started(begun, env, cwd, network, stdin is not None, capture) as child:
        stdout = _pump(child, stdin, capture, tail, on_line)
        status = usage.reap(child, facts)
    if check and status != 0:
        raise _failure(words, status, tail, what)
    return Completed(words, status, stdout, tuple(tail))


@contextlib.contextmanager
def background(
    argv: Sequence[Argument],
    *,
    output: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program beside us until the context ends; then it is killed if it still runs.

    The kernel kills it as well if we are killed: more exactly, if the thread ends that called this function.
    It is the leader of a session of its own, so Ctrl-C on the terminal reaches us only.

    Args:
        argv: program and arguments.
        output: file that takes its standard output and standard error, made anew.
        env: variables added to the clean environment.
        cwd: directory to run in.
        pass_fds: descriptors that it inherits.

    Raises:
        DependencyError: there is no such program.
    """
    setpriv = require("setpriv", hint="install util-linux 2.33 or later")
    require(str(argv[0]), hint="run ./invoke once: it installs what is missing")
    words = (setpriv, "--pdeathsig", "KILL", *(str(word) for word in argv))
    progress.log(f"$ {_pasted(words)} >{shlex.quote(str(output))} 2>&1 &")
    with output.open("wb") as stream:
        child = subprocess.Popen(
            words,
            env=clean_environment(env),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
        )
    with usage.noted(words, beside=True) as facts:
        try:
            yield child
        finally:
            child.kill()  # does nothing to one that has ended
            usage.reap(child, facts)


@contextlib.contextmanager
def piped(
    argv: Sequence[Argument], *, env: Mapping[str, str] | None = None, cwd: Path | None = None, what: str = ""
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program that reads its standard input and writes its standard output, both in our hands.

    Whoever feeds it more than a few kilobytes does so in a thread of its own, and closes ``stdin``. If its output was
    read to the end, or closed, its exit status is checked when the context ends; else it is not wanted any more, and
    is killed. If we are killed, it finds its input at an end and nobody to take its output.
    It is the leader of a session of its own, so Ctrl-C on the terminal reaches us only.

    Args:
        argv: program and arguments.
        env: variables added to the clean environment.
        cwd: directory to run in.
        what: what the program does for the user, for the error message.

    Raises:
        ToolError: it exited with a status other than 0, or cannot be started. Also in the place of the
            BrokenPipeError that comes of this.
        DependencyError: there is no such program.
        StorageError: it failed and its last lines speak of a full disk.
    """
    words = tuple(str(word) for word in argv)
    progress.log(f"$ {_pasted(words)} <... |")
    tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
    try:
        pipe = subprocess.PIPE
        child = subprocess.Popen(
            words, env=clean_environment(env), cwd=cwd, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
        )
    except OSError as error:
        raise _cannot_start(words, error) from error
    reader = threading.Thread(target=_collect, args=(child.stderr, tail, progress.current()), daemon=True)
    reader.start()
    is_wanted = False
    with usage.noted(words, beside=True) as facts:
        try:
            yield child
            is_wanted = _is_read_out(child)
        except BrokenPipeError as error:
            if _ended(child, reader, facts) > 0:
                raise _failure(words, child.returncode, tail, what) from error
            raise
        finally:
            if not is_wanted:
                child.kill()
            status = _ended(child, reader, facts)
    if is_wanted and status != 0:
        raise _failure(words, status, tail, what)


def _is_read_out(child: subprocess.Popen[bytes]) -> bool:
    """Whether nothing is left to read of a program's output, and nobody is there to write more."""
    assert child.stdout is not None
    if child.stdout.closed:
        return True
    waiting = select.poll()
    waiting.register(child.stdout, select.POLLIN)
    events = [event for _, event in waiting.poll(0)]
    return events == [select.POLLHUP]


def _ended(child: subprocess.Popen[bytes], reader: threading.Thread, facts: dict[str, Fact]) -> int:
    """Close the pipes of a program and wait for its end; returns its exit status."""
    for stream in (child.stdin, child.stdout):
        with contextlib.suppress(OSError):  # what was not sent yet finds nobody to read it
            if stream is not None:
                stream.close()
    status = usage.reap(child, facts)
    reader.join()
    return status


def _collect(stream: IO[bytes], tail: collections.deque[str], session: progress.Session) -> None:
    with stream:
        for line in iter(lambda: stream.readline(LONGEST_LINE), b""):
            text = line.decode(errors="replace").rstrip("\n")
            tail.append(text)
            session.write(text)


def attach(argv: Sequence[Argument], *, env: Mapping[str, str] | None = None) -> int:
    """Hand the user's terminal to a program until it ends.

    Args:
        argv: program and arguments.
        env: variables added to the clean environment and the terminal's type.

    Returns:
        Its exit status; negative for a signal.

    Raises:
        DependencyError: there is no such program.
        ToolError: it cannot be started.
    """
    words = [str(word) for word in argv]
    progress.log(f"$ {_pasted(words)}")
    terminal = {"TERM": os.environ["TERM"]} if "TERM" in os.environ else {}
    with progress.paused():
        try:
            return subprocess.run(words, env=clean_environment({**terminal, **(env or {})}), check=False).returncode
        except OSError as error:
            raise _cannot_start(words, error) from error


@contextlib.contextmanager
def _started(
    words: tuple[str, ...],
    env: Mapping[str, str] | None,
    cwd: Path | None,
    network: bool,
    has_input: bool,
    capture: bool,
) -> Iterator[subprocess.Popen[str]]:
    try:
        child = subprocess.Popen(
            words,
            env=clean_environment(env, network=network),
            cwd=cwd,
            stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if capture else subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
    except OSError as error:
        raise _cannot_start(words, error) from error
    try:
        yield child
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _pasted(words: Sequence[str]) -> str:
    """Return a command as it may be pasted into a shell."""
    return " ".join(map(shlex.quote, words))


def _cannot_start(words: Sequence[str], error: OSError) -> DependencyError | ToolError:
    if isinstance(error, FileNotFoundError) and error.filename == words[0]:
        hint = "run ./invoke once: it installs what is missing"
        return DependencyError(f"program {words[0]!r} is not installed", hint=hint)
    place = f": {error.filename}" if error.filename not in (None, words[0]) else ""  # the working directory
    return ToolError(
        f"{words[0]} cannot be started: {error.strerror}{place}\n  $ {_pasted(words)}",
        hint="check that the program is executable, for this machine's architecture, and that its directory exists",
    )


def _pump(
    child: subprocess.Popen[str],
    stdin: str | None,
    capture: bool,
    tail: collections.deque[str],
    on_line: Callable[[str], None] | None,
) -> str:
    """Feed the input and read every output to its end; returns the captured standard output."""
    if not capture:
        if stdin is not None:
            threading.Thread(target=_feed, args=(child, stdin), daemon=True).start()
        _log_lines(child.stdout, tail, on_line=on_line)
        return ""
    session = progress.current()
    reader = threading.Thread(target=lambda: _log_lines(child.stderr, tail, session, on_line), daemon=True)
    reader.start()
    if stdin is not None:
        threading.Thread(target=_feed, args=(child, stdin), daemon=True).start()
    assert child.stdout is not None
    with child.stdout:
        stdout = child.stdout.read()
    reader.join()
    return stdout


def _feed(child: subprocess.Popen[str], text: str) -> None:
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin:  # its exit status tells more than our broken pipe
        child.stdin.write(text)


def _log_lines(
    stream: IO[str] | None,
    tail: collections.deque[str],
    session: progress.Session | None = None,
    on_line: Callable[[str], None] | None = None,
) -> None:
    assert stream is not None
    writer = session or progress.current()
    with stream:
        for line in stream:
            tail.append(line.rstrip("\n"))
            writer.write(line.rstrip("\n"))
            if line.startswith(ANNOUNCEMENT):
                events.moment("program", line.rstrip("\n"))
            if on_line is not None:
                on_line(line.rstrip("\n"))


def _failure(words: tuple[str, ...], status: int, tail: collections.deque[str], what: str) -> ToolError | StorageError:
    ending = f"was ended by signal {-status}" if status < 0 else f"failed with exit status {status}"
    lines = "\n".join(f"  | {line}" for line in tail)
    message = f"{what + ': ' if what else ''}{words[0]} {ending}\n  $ {_pasted(words)}\n{lines}".rstrip()
    log_path = progress.current().log_path
    if os.strerror(errno.ENOSPC) in lines:
        return StorageError(message, hint="free some space ('./invoke clean --cache' empties the cache) and try again")
    return ToolError(message, hint=f"the full log is {log_path}" if log_path else "")
