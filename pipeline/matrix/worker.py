"""One cell, built in a process of its own: ``main`` runs there, started by ``run``."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection

from pipeline import image, profile
from pipeline.core import progress
from pipeline.core.console import INTERRUPTED
from pipeline.core.errors import InputError, PipelineError
from pipeline.image import Step
from pipeline.matrix import collect, version
from pipeline.matrix.model import Order, Result, Status


def main(words: Sequence[str]) -> None:
    """Build a cell and answer through a pipe.

    Args:
        words: the pipe's descriptor, and the order as JSON.
    """
    # It may be ignored, if ./invoke runs in a shell's background; but it is how the matrix stops us.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Connection(int(words[0]), readable=False) as answers:

        def tell(moment: progress.Moment) -> None:
            with contextlib.suppress(OSError):  # nobody listens any more: we are about to be stopped
                answers.send(moment)

        try:
            answers.send(build_cell(Order.model_validate_json(words[1]), tell))
        except KeyboardInterrupt:
            raise SystemExit(INTERRUPTED) from None


def build_cell(order: Order, tell: Callable[[progress.Moment], None]) -> Result:
    """Build a cell.

    Args:
        order: which one, and where everything is.
        tell: called with every line of progress, possibly in a process that was forked from this one.

    Returns:
        What became of it; errors are in there.
    """
    began, clock = time.time(), time.monotonic()
    try:
        with progress.watched(tell):
            key, built = _build(order)
            artifact, collecting = _collect(order, key, built, tell)
    except Exception as error:  # noqa: BLE001 - one cell must not stop the others, whatever is wrong with it
        if not isinstance(error, PipelineError):
            traceback.print_exc()  # the log gets it
            error = PipelineError(f"unexpected {type(error).__name__}: {error}", hint="this is a defect; see the log")
        _log(order, error, began)
        return failure(order, error, time.monotonic() - clock)
    found = image.published(built.directory)
    return Result(
        **order.identity,
        status=Status.BUILT if built.times else Status.UP_TO_DATE,
        seconds=round(time.monotonic() - clock, 3),
        steps=tuple(Step.of(step) for step in (*built.times, *collecting)),
        size=built.size,
        packages=found.packages if found else None,
        artifact=artifact,
    )


def failure(order: Order, error: PipelineError, seconds: float) -> Result:
    """Return the result of a cell that failed."""
    return Result(
        **order.identity,
        status=Status.FAILED,
        seconds=round(seconds, 3),
        error=error.message,
        hint=error.hint,
        exit_code=error.exit_code,
    )


def _build(order: Order) -> tuple[str, image.Built]:
    """Return the plan's key and what was built of it."""
    where = order.workshop
    if order.version is not None and order.version != version.current():
        raise InputError(
            f"{order.name} was ordered from version {order.version} of this project, and {order.server} has by now "
            f"version {version.current()}",
            hint=f"{order.server} has changed since its './invoke worker' was started: start that again",
        )
    found = profile.find(order.os, where.profiles)
    path = image.lock_path(where.profiles, order.os, order.release, order.arch)
    plan = image.resolve(
        found, order.release, order.arch, overlays=where.overlays, mirror=where.mirror,
        lock=image.read_lock(path) if order.locked else None,
    )  # fmt: skip
    return plan.key, image.build(plan, where.build_dir)


def _collect(
    order: Order, key: str, built: image.Built, tell: Callable[[progress.Moment], None]
) -> tuple[str, tuple[progress.StepTime, ...]]:
    """Bring an image to where it was ordered to; returns where that is, and how long it took."""
    if order.artifacts is None:
        return "", ()
    began, title = time.monotonic(), "collect"
    before = (*built.times, progress.StepTime(title, 0, 0.0))

    def told(moment: progress.Moment) -> None:
        below = tuple(dataclasses.replace(step, depth=step.depth + 1) for step in moment.times)
        tell(progress.Moment(moment.line, (title, *moment.running), (*before, *below)))

    told(progress.Moment(f"{title} ...", (), ()))
    with progress.watched(told):
        artifact = collect.deliver(order, key)
    return artifact, (progress.StepTime(title, 0, time.monotonic() - began),)


def _log(order: Order, error: PipelineError, began: float) -> None:
    """End the log with the error; if the build did not come so far as to begin one, the last build's goes away."""
    with contextlib.suppress(OSError):
        is_ours = order.log.exists() and order.log.stat().st_mtime >= began
        with order.log.open("a" if is_ours else "w") as log:
            clock = datetime.datetime.now(datetime.UTC).strftime("%H:%M:%S")
            log.write(f"{clock} error: {error.message}\n{clock} hint: {error.hint}\n")
