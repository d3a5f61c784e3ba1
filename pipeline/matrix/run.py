"""Many builds at a time: processes are started as others end, and their progress is gathered."""

from __future__ import annotations

import datetime
import signal
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path

from pipeline import image
from pipeline.core import progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, StorageError
from pipeline.matrix import capacity, cell
from pipeline.matrix.farm import Farm, prepare_dask
from pipeline.matrix.model import Order, Report, Result, Status, Workshop
from pipeline.matrix.show import Board
from pipeline.profile import Cell

TICK = 0.25  # seconds between two looks at the clock
REPORT = "matrix.json"


def build(
    cells: Sequence[Cell],
    workshop: Workshop,
    *,
    jobs: int = 0,
    only_missing: bool = False,
    locked: bool = False,
    farm: Farm | None = None,
) -> Report:
    """Build cells, many at a time, here or on a farm; the report is also written to ``matrix.json``.

    Args:
        cells: what to build.
        workshop: where everything is.
        jobs: how many at a time; 0 for as many as this machine can.
        only_missing: leave out those that have an image.
        locked: install exactly what each cell's lock names.
        farm: the servers that build; None for this machine.

    Raises:
        InputError: ``jobs`` is no number of builds, or the farm is of another version.
        DependencyError: the farm has no server for an architecture.
        NetworkError: the farm cannot be reached.
        StorageError: the directory of the images cannot be written to.
        KeyboardInterrupt: interrupted; every build has ended and cleaned up by then, and no report is written.
    """
    if jobs < 0:
        raise InputError(f"{jobs} builds at a time are not possible", hint="leave -j out, or give it 1 or more")
    if farm is not None and jobs:
        raise InputError("-j does not go with --scheduler", hint="each server has its own: ./invoke worker -j")
    started = datetime.datetime.now(datetime.UTC)
    _prepare(workshop.build_dir)
    orders = [
        Order(os=one.profile.name, release=one.release, arch=one.arch, workshop=workshop, locked=locked)
        for one in cells
    ]
    results = _present(orders, farm) if only_missing else {}
    waiting = [order for order in orders if order.name not in results]
    build_all = _on(farm) if farm is not None else _here(jobs or _jobs(len(waiting), workshop.build_dir))
    with Board(orders, results).shown() as board:
        results |= build_all(waiting, board)
    report = Report(
        started=started,
        finished=datetime.datetime.now(datetime.UTC),
        cells=tuple(results[order.name] for order in orders),
    )
    _write(report, workshop.build_dir / REPORT)
    _note_others(report, workshop.build_dir)
    return report


def _here(jobs: int) -> Callable[[Sequence[Order], Board], dict[str, Result]]:
    return lambda orders, board: _run(orders, jobs, board)


def _on(farm: Farm) -> Callable[[Sequence[Order], Board], dict[str, Result]]:
    farm.access.check()
    prepare_dask()
    from pipeline.matrix import remote

    return lambda orders, board: remote.run(orders, farm, board)


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


def _present(orders: Sequence[Order], farm: Farm | None) -> dict[str, Result]:
    """Return a result for every cell that has an image already, where a farm collects them if there is one."""
    collected = farm.artifacts if farm is not None else None
    if collected is not None and "://" in collected:
        raise InputError("--only-missing does not look into a registry", hint="leave it out: nothing is built twice")
    found = {
        order.name: (order, image.published((Path(collected) if collected else order.workshop.build_dir) / order.name))
        for order in orders
    }
    return {
        name: Result(**order.identity, status=Status.SKIPPED, seconds=0.0, size=present.size, packages=present.packages)
        for name, (order, present) in found.items()
        if present
    }


def _run(orders: Sequence[Order], jobs: int, board: Board) -> dict[str, Result]:
    """Build every cell; whatever happens, no process is left in the end."""
    # Emulated ones take longest: begun last, they would keep one processor busy when the others have no more to do.
    waiting = deque(sorted(orders, key=lambda order: order.arch is Architecture.host()))
    running: dict[Connection, cell.Running] = {}
    results: dict[str, Result] = {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                begun = cell.start(waiting.popleft())
                running[begun.answers] = begun
                board.begin(begun.order)
            for ready in wait(list(running), TICK):
                assert isinstance(ready, Connection)
                there_is_more, moment = running[ready].listen()
                if moment is not None:
                    board.told(running[ready].order, moment)
                if not there_is_more:
                    result = running.pop(ready).end()
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


def _interrupt(running: Sequence[cell.Running], board: Board) -> None:
    """Stop every build and wait until each has cleaned up; being asked twice must not cut that short."""
    former = signal.signal(signal.SIGINT, signal.SIG_IGN)
    board.say(f"interrupted; {len(running)} builds are stopping")
    cell.interrupt(running)
    signal.signal(signal.SIGINT, former)


def _note_others(report: Report, build_dir: Path) -> None:
    """Take what build servers have built into the history of this machine."""
    records = [
        image.Record(
            name=one.name,
            time=report.finished,
            size=one.size,
            packages=one.packages,
            seconds=one.seconds,
            steps=one.steps,
        )
        for one in report.cells
        if one.server and one.status is Status.BUILT and one.size is not None
    ]
    if records:
        image.keep_others(build_dir, records, report.started)


def _write(report: Report, path: Path) -> None:
    """Write the report: the old one is there, or the new one, whole."""
    part = path.with_name(f".{path.name}.part")
    try:
        part.write_text(report.model_dump_json(by_alias=True, indent=1) + "\n")
        part.replace(path)
    except OSError as error:
        raise StorageError(f"cannot write to {path}: {error}", hint="make space, or make it writable") from error
