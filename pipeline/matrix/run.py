"""Many builds at a time: processes are started as others end, and their progress is gathered."""

from __future__ import annotations

import contextlib
import datetime
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from pathlib import Path

from pipeline import image
from pipeline.core import process, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, PipelineError, StorageError
from pipeline.image import Step
from pipeline.matrix import capacity
from pipeline.matrix.model import Order, Report, Result, Status, Workshop
from pipeline.matrix.show import Board
from pipeline.matrix.worker import failure
from pipeline.profile import Cell

CHECKOUT = Path(__file__).parents[2]
START = "import sys; sys.path.insert(0, sys.argv[1]); from pipeline.matrix.worker import main; main(sys.argv[2:])"
TICK = 0.25  # seconds between two looks at the clock
STOPPING_SECONDS = 60  # a build that was interrupted unmounts and removes its trees
REPORT = "matrix.json"


@dataclass
class _Running:
    """A cell that is being built.

    Attributes:
        order: which one.
        child: its process.
        answers: the pipe that it tells its progress and its result through.
        output: file that takes what it prints, which is little: tools print to the log.
        undo: ends the process, and removes what is left of it here.
        began: when it was started, by the monotonic clock.
        steps: those it has begun.
        result: what it said at last.
    """

    order: Order
    child: subprocess.Popen[bytes]
    answers: Connection
    output: Path
    undo: contextlib.ExitStack
    began: float = field(default_factory=time.monotonic)
    steps: tuple[Step, ...] = ()
    result: Result | None = None


def build(cells: Sequence[Cell], workshop: Workshop, *, jobs: int = 0, only_missing: bool = False) -> Report:
    """Build cells, many at a time; the report is also written to ``matrix.json``.

    Args:
        cells: what to build.
        workshop: where everything is.
        jobs: how many at a time; 0 for as many as this machine can.
        only_missing: leave out those that have an image.

    Raises:
        InputError: ``jobs`` is no number of builds.
        StorageError: the directory of the images cannot be written to.
        KeyboardInterrupt: interrupted; every build has ended and cleaned up by then, and no report is written.
    """
    if jobs < 0:
        raise InputError(f"{jobs} builds at a time are not possible", hint="leave -j out, or give it 1 or more")
    started = datetime.datetime.now(datetime.UTC)
    _prepare(workshop.build_dir)
    orders = [Order(os=cell.profile.name, release=cell.release, arch=cell.arch, workshop=workshop) for cell in cells]
    results = _present(orders) if only_missing else {}
    waiting = [order for order in orders if order.name not in results]
    at_a_time = jobs or _jobs(len(waiting), workshop.build_dir)
    with Board(orders, results).shown() as board:
        results |= _run(waiting, at_a_time, board)
    report = Report(
        started=started,
        finished=datetime.datetime.now(datetime.UTC),
        cells=tuple(results[order.name] for order in orders),
    )
    _write(report, workshop.build_dir / REPORT)
    return report


def _prepare(build_dir: Path) -> None:
    try:
        (build_dir / "logs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot write to {build_dir}: {error}", hint="make it writable for this user") from error


def _jobs(cells: int, build_dir: Path) -> int:
    found = capacity.measure(build_dir)
    if cells > found.cells:
        progress.note(f"{found.cells} of {cells} images at a time; this machine has {found.limit}")
    return found.cells


def _present(orders: Sequence[Order]) -> dict[str, Result]:
    """Return a result for every cell that has an image already."""
    found = {order.name: (order, image.published(order.workshop.build_dir / order.name)) for order in orders}
    return {
        name: Result(**order.identity, status=Status.SKIPPED, seconds=0.0, size=present.size, packages=present.packages)
        for name, (order, present) in found.items()
        if present
    }


def _run(orders: Sequence[Order], jobs: int, board: Board) -> dict[str, Result]:
    """Build every cell; whatever happens, no process is left in the end."""
    # Emulated ones take longest: begun last, they would keep one processor busy when the others have no more to do.
    waiting = deque(sorted(orders, key=lambda order: order.arch is Architecture.host()))
    running: dict[Connection, _Running] = {}
    results: dict[str, Result] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                begun = _start(waiting.popleft())
                running[begun.answers] = begun
                board.begin(begun.order)
            for ready in wait(list(running), TICK):
                assert isinstance(ready, Connection)
                if not _listen(running[ready], board):
                    result = _end(running.pop(ready))
                    results[result.name] = result
                    board.end(result)
            board.tick()
    except KeyboardInterrupt:
        _interrupt(list(running.values()), board)
        raise
    finally:
        for left in running.values():
            left.undo.close()
    return results


def _start(order: Order) -> _Running:
    """Start a cell's process: in a session of its own, as Ctrl-C is for us to pass on; it dies with us."""
    output = order.log.with_suffix(".out")
    answers, theirs = multiprocessing.Pipe(duplex=False)
    with theirs, contextlib.ExitStack() as undo:
        undo.enter_context(answers)
        undo.callback(output.unlink, missing_ok=True)
        words = [sys.executable, "-I", "-c", START, str(CHECKOUT), str(theirs.fileno()), order.model_dump_json()]
        child = undo.enter_context(process.background(words, output=output, env=os.environ, pass_fds=[theirs.fileno()]))
        return _Running(order, child, answers, output, undo.pop_all())


def _listen(running: _Running, board: Board) -> bool:
    """Take in what a cell tells; False when there is no more."""
    try:
        told = running.answers.recv()
    except (EOFError, OSError):
        return False
    if isinstance(told, Result):
        running.result = told
    else:
        running.steps = tuple(Step.of(step) for step in told.times)
        board.told(running.order, told)
    return True


def _end(running: _Running) -> Result:
    """Say what became of a cell whose process has ended, and keep what it printed."""
    order, status = running.order, running.child.wait()
    printed = running.output.read_text(errors="replace")
    if printed:
        with order.log.open("a") as log:
            log.write(printed)
    running.undo.close()
    result = running.result or _lost(running, status)
    log_path = str(order.log.relative_to(order.workshop.build_dir)) if order.log.exists() else None
    return result.model_copy(update={"steps": result.steps or running.steps, "log": log_path})


def _lost(running: _Running, status: int) -> Result:
    ending = f"signal {-status}" if status < 0 else f"exit status {status}"
    error = PipelineError(
        f"the build of {running.order.name} ended without an answer ({ending})",
        hint="somebody killed it; if that was the kernel, for lack of memory, 'dmesg' says so: use fewer with -j",
    )
    return failure(running.order, error, time.monotonic() - running.began)


def _interrupt(running: Sequence[_Running], board: Board) -> None:
    """Stop every build and wait until each has cleaned up; being asked twice must not cut that short."""
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    board.say(f"interrupted; {len(running)} builds are stopping")
    for one in running:
        one.answers.close()  # nobody listens any more: it must not wait for us
        one.child.send_signal(signal.SIGINT)
    deadline = time.monotonic() + STOPPING_SECONDS
    for one in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.child.wait(max(0.0, deadline - time.monotonic()))
    signal.signal(signal.SIGINT, former)


def _write(report: Report, path: Path) -> None:
    """Write the report: the old one is there, or the new one, whole."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(report.model_dump_json(by_alias=True, indent=1) + "\n")
        part.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write to {path}: {error}", hint="make space, or make it writable") from error
