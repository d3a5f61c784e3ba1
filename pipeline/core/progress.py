"""What a user sees while work goes on, and the log that holds everything.

On a terminal the running steps are drawn live, if Python has ``rich``; elsewhere each step is a timestamped line at
its start and at its end. Every line that a tool prints goes to the log file, and the latest one is shown beside the
step, so that long work never looks frozen.

The current session travels in a context variable: any floor may call :func:`step`, :func:`note` and :func:`log`
without passing it around. Who runs several commands at once and has the terminal for itself wraps each of them in
:func:`watched`: what they would show is told to a function, also across a fork.
"""

from __future__ import annotations

import contextlib
import contextvars
import re
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pipeline.core import events

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO
    from pathlib import Path

    from rich.console import RenderableType
    from rich.live import Live
    from rich.spinner import Spinner

SLOWEST_REDRAWS_PER_SECOND = 8
# What tools print for a terminal of their own: escape sequences (ECMA-48) and control characters.
TERMINAL_CODES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(\x07|\x1b\\)?|\x1b.?|[\x00-\x08\x0b-\x1f\x7f]")


@dataclass(frozen=True)
class StepTime:
    """How long one finished step took.

    Attributes:
        title: the step's name.
        depth: 0 for a top-level step, 1 for one inside it, and so on.
        seconds: wall clock time.
        remark: what the step had to say of itself ("cached"), or empty.
    """

    title: str
    depth: int
    seconds: float
    remark: str = ""


@dataclass(frozen=True)
class Moment:
    """Where a session is, told to the one who watches it.

    Attributes:
        line: what it would show now.
        running: titles of the running steps, the outermost first.
        times: steps so far, in the order they were begun; those that run have no seconds yet.
    """

    line: str
    running: tuple[str, ...]
    times: tuple[StepTime, ...]


@dataclass
class _Running:
    title: str
    started: float
    remark: str = ""


@dataclass
class Session:
    """One command's progress: its running steps, finished times and log file."""

    log_path: Path | None
    _log: FileIO | None = None
    _stack: list[_Running] = field(default_factory=list)
    _times: list[StepTime] = field(default_factory=list)
    _last_line: str = ""
    _live: Live | None = None
    _spinner: Spinner | None = None

    @property
    def times(self) -> tuple[StepTime, ...]:
        """Finished steps, in the order they were begun."""
        return tuple(self._times)

    def write(self, line: str) -> None:
        """Append a line to the log and make it the one that is shown beside the running step."""
        if self._log is not None:
            # A full disk must not stop the reading of a tool's output: the tool will say what it lacks.
            with contextlib.suppress(OSError):
                self._log.write(f"{_clock()} {line}\n".encode(errors="replace"))
        self._last_line = line

    def say(self, line: str) -> None:
        """Show a line to the user and log it."""
        self.write(line)
        self._show(line)

    def _show(self, line: str) -> None:
        tell = _watcher.get()
        if tell is not None:
            tell(Moment(line, tuple(running.title for running in self._stack), self.times))
        elif self._live is not None:
            from rich.text import Text

            self._live.console.print(Text(line))
        else:
            print(f"{_clock()} {line}", file=sys.stderr, flush=True)

    @contextlib.contextmanager
    def step(self, title: str) -> Iterator[None]:
        """Time and show a step; steps nest."""
        running = _Running(title, time.monotonic())
        slot, depth = len(self._times), len(self._stack)
        self._times.append(StepTime(title, depth, 0.0))
        self._stack.append(running)
        self.write(f"== {title}")
        if self._live is None:
            self._show(f"{'  ' * depth}{title} ...")
        ending = "failed"
        try:
            with events.span("step", title) as facts:
                yield
                facts["remark"] = running.remark or None
            ending = "done"
        finally:
            self._stack.pop()
            seconds = time.monotonic() - running.started
            self._times[slot] = StepTime(title, depth, seconds, running.remark)
            remark = f" ({running.remark})" if running.remark else ""
            line = f"{'  ' * depth}{title}: {ending} in {seconds:.1f} s{remark}"
            self.write(f"== {line.strip()}")
            self._last_line = ""
            self._show(line)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Draw nothing for a while: another program has the terminal."""
        if self._live is None:
            yield
            return
        self._live.stop()
        try:
            yield
        finally:
            self._live.start(refresh=True)

    def remark(self, text: str) -> None:
        """Add a word to the running step's last line."""
        if self._stack:
            self._stack[-1].remark = text

    def render(self) -> RenderableType:
        """Draw the running steps for the terminal."""
        from rich.console import Group
        from rich.spinner import Spinner
        from rich.text import Text

        if self._spinner is None:  # one for the session: a new one would begin with its first frame each time
            self._spinner = Spinner("dots")
        now = time.monotonic()
        stack = tuple(self._stack)  # drawn by another thread than the one that runs the steps
        lines: list[RenderableType] = []
        for depth, running in enumerate(stack):
            text = Text(f"{running.title}  {now - running.started:.0f} s", style="bold" if depth == 0 else "")
            if running is stack[-1]:
                self._spinner.update(text=text)
            lines.append(self._spinner if running is stack[-1] else text)
        if stack and self._last_line:
            last_line = TERMINAL_CODES.sub("", self._last_line).strip()
            lines.append(Text(f"  {last_line}", style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*lines)


_current: contextvars.ContextVar[Session] = contextvars.ContextVar("session")
_watcher: contextvars.ContextVar[Callable[[Moment], None] | None] = contextvars.ContextVar("watcher", default=None)


def _clock() -> str:
    return time.strftime("%H:%M:%S", time.gmtime())


def current() -> Session:
    """Return the running session; outside of one, a session that only prints."""
    return _current.get(Session(log_path=None))


@contextlib.contextmanager
def session(log_path: Path | None = None) -> Iterator[Session]:
    """Open a session for one command.

    Args:
        log_path: file for the full log, replaced if it exists; its directory is made.
    """
    running = Session(log_path)
    with contextlib.ExitStack() as stack:
        if log_path is not None:
            log_path.parent.mkdir(parents=True, exist_ok=True)
            # Without a buffer: what could not be written is not tried again when the file is closed.
            running._log = stack.enter_context(log_path.open("wb", buffering=0))
        live = _live_display(running) if sys.stderr.isatty() and _watcher.get() is None else None
        if live is not None:
            running._live = stack.enter_context(live)
        token = _current.set(running)
        stack.callback(_current.reset, token)
        yield running


@contextlib.contextmanager
def watched(tell: Callable[[Moment], None]) -> Iterator[None]:
    """Show nothing while the context lasts; tell a function instead.

    Args:
        tell: called for every line that would be shown. A failure of its own is the session's.
    """
    token = _watcher.set(tell)
    try:
        yield
    finally:
        _watcher.reset(token)


def _live_display(running: Session) -> Live | None:
    """Return what draws on the terminal; None where Python has no rich, as at a site."""
    try:
        from rich.console import Console
        from rich.live import Live
    except ImportError:
        return None

    return Live(
        console=Console(stderr=True),
        get_renderable=running.render,
        refresh_per_second=SLOWEST_REDRAWS_PER_SECOND,
        transient=True,
        redirect_stdout=False,
        redirect_stderr=False,
    )


def step(title: str) -> contextlib.AbstractContextManager[None]:
    """Time and show a step of the current session: ``with progress.step("base"): ...``."""
    return current().step(title)


def remark(text: str) -> None:
    """Add a word to the running step's last line, for example "cached"."""
    current().remark(text)


def paused() -> contextlib.AbstractContextManager[None]:
    """Draw nothing for a while: another program has the terminal."""
    return current().paused()


def note(line: str) -> None:
    """Show one line to the user and log it."""
    current().say(line)


def log(line: str) -> None:
    """Write one line to the log file only."""
    current().write(line)
