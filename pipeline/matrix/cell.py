"""One cell's process as the one who started it sees it: begun, listened to, interrupted, ended."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from pipeline.core import process
from pipeline.core.errors import PipelineError
from pipeline.core.progress import Moment
from pipeline.image import Step
from pipeline.matrix.model import Order, Result
from pipeline.matrix.worker import failure

CHECKOUT = Path(__file__).parents[2]
START = "import sys; sys.path.insert(0, sys.argv[1]); from pipeline.matrix.worker import main; main(sys.argv[2:])"
STOPPING_SECONDS = 60  # a build that was interrupted unmounts and removes its trees


@dataclass
class Running:
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

    def listen(self) -> tuple[bool, Moment | None]:
        """Take in what it tells: whether there may be more, and where it is if it said so."""
        try:
            told = self.answers.recv()
        except (EOFError, OSError):
            return False, None
        if isinstance(told, Result):
            self.result = told
            return True, None
        assert isinstance(told, Moment)
        self.steps = tuple(Step.of(step) for step in told.times)
        return True, told

    def end(self) -> Result:
        """Say what became of it once its process has ended, and keep what it printed."""
        order, status = self.order, self.child.wait()
        printed = self.output.read_text(errors="replace")
        if printed:
            with order.log.open("a") as log:
                log.write(printed)
        self.undo.close()
        result = self.result or self._lost(status)
        log_path = str(order.log.relative_to(order.workshop.build_dir)) if order.log.exists() else None
        return result.model_copy(update={"steps": result.steps or self.steps, "log": log_path})

    def _lost(self, status: int) -> Result:
        ending = f"signal {-status}" if status < 0 else f"exit status {status}"
        error = PipelineError(
            f"the build of {self.order.name} ended without an answer ({ending})",
            hint="somebody killed it; if that was the kernel, for lack of memory, 'dmesg' says so: use fewer with -j",
        )
        return failure(self.order, error, time.monotonic() - self.began)


def start(order: Order) -> Running:
    """Start a cell's process: in a session of its own, as Ctrl-C is for us to pass on; it dies with us."""
    output = order.log.with_suffix(f".{os.getpid()}.out")  # another matrix may build the same
    answers, theirs = multiprocessing.Pipe(duplex=False)
    with theirs, contextlib.ExitStack() as undo:
        undo.enter_context(answers)
        undo.callback(output.unlink, missing_ok=True)
        env = dict(os.environ)
        if order.version is not None:  # from another machine: that one's word counts, not ours
            env.pop("SOURCE_DATE_EPOCH", None)
            env |= {} if order.epoch is None else {"SOURCE_DATE_EPOCH": order.epoch}
        words = [sys.executable, "-I", "-c", START, str(CHECKOUT), str(theirs.fileno()), order.model_dump_json()]
        child = undo.enter_context(process.background(words, output=output, env=env, pass_fds=[theirs.fileno()]))
        return Running(order, child, answers, output, undo.pop_all())


def interrupt(running: Sequence[Running]) -> None:
    """Stop builds and wait until each has cleaned up."""
    for one in running:
        one.answers.close()  # nobody listens any more: it must not wait for us
        one.child.send_signal(signal.SIGINT)
    deadline = time.monotonic() + STOPPING_SECONDS
    for one in running:
        with contextlib.suppress(subprocess.TimeoutExpired):
            one.child.wait(max(0.0, deadline - time.monotonic()))
