"""``invoke worker``: a build server. Dask brings it orders; each is built in a process of its own, as on one machine.

What a cell tells goes to the one who ordered it as Dask events, and so does its log. Dask cannot interrupt what a
worker runs, so we listen for the moment at which it is not wanted any more: because it was cancelled, because the one
who ordered it is gone, or because this server leaves. Then the cell's process is interrupted, and cleans up.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import secrets
import shutil
import signal
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

from distributed import Worker, WorkerPlugin, get_worker
from distributed.core import rpc

from pipeline.core import progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, NetworkError, PipelineError, StorageError
from pipeline.matrix import cell, farm, parcel, version
from pipeline.matrix.farm import Access, Address
from pipeline.matrix.model import Order, RegistryAccess, Result
from pipeline.matrix.worker import failure

TICK = 0.25  # seconds between two looks at whether a cell is still wanted
CHUNK = 256 * 1024  # bytes of a log that travel at once
PLUGIN = "node-images"
ORDERS = "orders"  # below the directory of the images


@dataclass(frozen=True)
class Post:
    """What a build server is started with.

    Attributes:
        name: what it calls itself.
        build_dir: directory of its images.
        cells: how many it builds at a time.
        arches: what it builds, and whether under emulation.
        listen: where other members of the farm reach it; None for any port.
        registry: how it reaches the registry that images go to.
    """

    name: str
    build_dir: Path
    cells: int
    arches: dict[Architecture, bool]
    listen: Address | None
    registry: RegistryAccess


def serve(access: Access, post: Post) -> None:
    """Build what is ordered until told to end.

    Args:
        access: how the scheduler is reached.
        post: what this server is.

    Raises:
        InputError: the scheduler has another version of the project, or the certificates are of no use.
        NetworkError: the scheduler cannot be reached, or is gone.
        StorageError: another server runs in this checkout, or it cannot be written to.
        KeyboardInterrupt: interrupted; every cell has cleaned up by then.
    """
    with _only_one(post.build_dir):
        asyncio.run(_serve(access, post))


@contextlib.contextmanager
def _only_one(build_dir: Path) -> Iterator[None]:
    """Hold this checkout for one server, and remove what a killed one has left."""
    try:
        (build_dir / "logs").mkdir(parents=True, exist_ok=True)
        stream = (build_dir / "logs/worker.lock").open("a")
    except OSError as error:
        raise StorageError(f"cannot write to {build_dir}: {error}", hint="make it writable for this user") from error
    with stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"another ./invoke worker runs in this checkout ({build_dir.parent})",
                hint="one is enough: -j says how many images it builds at a time",
            ) from error
        shutil.rmtree(build_dir / ORDERS, ignore_errors=True)
        (build_dir / ORDERS).mkdir(parents=True)
        yield


async def _serve(access: Access, post: Post) -> None:
    await _check_scheduler(access)
    crew = Crew(post)
    worker = await _joined(access, post, crew)
    leaving = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, leaving.set)
    ends = [asyncio.ensure_future(worker.finished()), asyncio.ensure_future(leaving.wait())]
    try:
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        is_lost = not leaving.is_set()
    finally:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # being asked twice must not cut the clean-up short
        if crew.count:
            progress.note(f"{crew.count} builds are stopping")
        await worker.close(executor_wait=False)
        await asyncio.to_thread(crew.wait_until_idle)
        for end in ends:
            end.cancel()
    if is_lost:
        raise NetworkError(
            f"the scheduler at {access.address} is gone", hint="start it, and then this again; systemd can do both"
        )


async def _joined(access: Access, post: Post, crew: Crew) -> Worker:
    """Join the farm."""
    offers = {
        farm.offer(arch, version.current(), emulated=emulated): float(post.cells)
        for arch, emulated in post.arches.items()
    }
    worker = Worker(
        str(access.address),
        nthreads=post.cells,
        name=post.name,
        resources=offers,
        security=access.security(),
        protocol=f"{access.address.protocol}://",
        memory_limit=0,  # the cells are processes of their own
        local_directory=str(post.build_dir / ORDERS),
        dashboard=False,
        death_timeout=farm.patience_to_connect(),
        plugins=(crew,),
        host=post.listen.host if post.listen and not post.listen.is_any else None,
        port=post.listen.port if post.listen else None,
    )
    try:
        await worker
    except (OSError, RuntimeError, ValueError, TimeoutError) as error:
        raise _refused(access, post, error) from error
    progress.note(f"{post.name} builds for {access.address}, {post.cells} at a time: {', '.join(sorted(offers))}")
    return worker


async def _check_scheduler(access: Access) -> None:
    """Ask the scheduler for its version, which also says early and clearly if it cannot be reached."""
    security = access.security()
    settings = security.get_connection_args("worker") if security else {}
    try:
        async with rpc(str(access.address), connection_args=settings, timeout=farm.patience_to_connect()) as scheduler:
            found = await scheduler.get_metadata(keys=[farm.METADATA], default=None)
    except (OSError, TimeoutError) as error:
        raise farm.unreachable(access, error) from error
    if found is not None:  # Dask's own command knows nothing of us
        farm.check_version(version.current(), str(found), f"the scheduler at {access.address}")


def _refused(access: Access, post: Post, error: BaseException) -> PipelineError:
    texts = [str(one) for one in (error, error.__cause__, error.__context__) if one is not None]
    if any("name taken" in text for text in texts):
        return InputError(
            f"the scheduler at {access.address} knows a server called {post.name} already",
            hint="give this one another --name; one that was cut off is forgotten after a while",
        )
    return farm.unreachable(access, error)


# ------------------------------------------------------------------------------------------ one order


def carry_out(ordered: str, packed: bytes, topic: str) -> None:
    """Build a cell; Dask calls this in a thread of the server's own.

    Args:
        ordered: the order as JSON; its paths are replaced by this server's.
        packed: profile and overlays, see :mod:`pipeline.matrix.parcel`.
        topic: Dask's name for the events that the one who ordered listens to. The result is the last of them.
    """
    worker = get_worker()
    crew = worker.plugins[PLUGIN]
    assert isinstance(crew, Crew)
    with crew.wanted(worker.get_current_task()) as unwanted:
        _carry_out(Order.model_validate_json(ordered), packed, unwanted, Teller(worker, topic), crew.post)


def _carry_out(order: Order, packed: bytes, unwanted: threading.Event, teller: Teller, post: Post) -> None:
    began = time.monotonic()
    teller.begin(order.name, post.build_dir / "logs")
    teller.tell("begins", server=post.name)
    with tempfile.TemporaryDirectory(dir=post.build_dir / ORDERS) as place:
        try:
            workshop = parcel.unpack(packed, Path(place), build_dir=post.build_dir, mirror=order.workshop.mirror)
            changes = {"workshop": workshop, "server": post.name, "registry": post.registry}
            result = _build(order.model_copy(update=changes), unwanted, teller)
        except (PipelineError, OSError) as error:
            known = (
                error if isinstance(error, PipelineError) else StorageError(f"{post.name}: {error}", hint="see there")
            )
            result = failure(order.model_copy(update={"server": post.name}), known, time.monotonic() - began)
    teller.tell_log()
    if result is None:
        teller.tell("stopped")
    else:
        teller.tell("ended", result=result.model_dump_json())


def _build(order: Order, unwanted: threading.Event, teller: Teller) -> Result | None:
    """Build a cell in a process of its own; None if it was not wanted any more."""
    running = cell.start(order)
    with running.undo:
        while not unwanted.is_set():
            there_is_more, moment = running.listen() if wait([running.answers], TICK) else (True, None)
            if moment is not None:
                times = [(step.title, step.depth, step.seconds, step.remark) for step in moment.times]
                teller.tell("moment", line=moment.line, running=list(moment.running), times=times)
            teller.tell_log()
            if not there_is_more:
                return running.end()
        cell.interrupt([running])
    return None


@dataclass
class Teller:
    """Tells the one who ordered what goes on.

    Attributes:
        worker: Dask's.
        topic: where to.
        name: the cell's.
        log: the build's log on this server.
        run: tells this run of the cell from others.
        is_shared: the one who ordered has the same directory of logs, so it has this log.
        known: size, time and inode of the log as it was looked at last.
        told: how much of it was told, in bytes.
    """

    worker: Worker
    topic: str
    name: str = ""
    log: Path = Path()
    run: str = field(default_factory=lambda: secrets.token_hex(4))
    is_shared: bool = False
    known: tuple[int, int, int] | None = None
    told: int = 0

    def begin(self, name: str, logs: Path) -> None:
        """Set out to tell of a cell, and take note of the log that an earlier build has left."""
        self.name, self.log = name, logs / f"{name}.log"
        self.is_shared = (logs / farm.mark(self.topic)).exists()
        with contextlib.suppress(OSError):
            status = self.log.stat()
            self.known = (status.st_size, status.st_mtime_ns, status.st_ino)

    def tell(self, what: str, **more: Any) -> None:  # noqa: ANN401  whatever msgpack takes
        """Send an event."""
        self.worker.log_event(self.topic, {"what": what, "cell": self.name, "run": self.run, **more})

    def tell_log(self) -> None:
        """Send what the log has grown by since the first call; one that was there by then is an earlier build's."""
        try:
            status = self.log.stat()
        except OSError:
            return
        seen = (status.st_size, status.st_mtime_ns, status.st_ino)
        if seen == self.known or self.is_shared:
            return
        self.known = seen
        self.told = self.told if self.told <= status.st_size else 0
        with self.log.open("rb") as stream:
            stream.seek(self.told)
            while content := stream.read(CHUNK):
                self.tell("log", content=zlib.compress(content), first=self.told == 0)
                self.told += len(content)


class Crew(WorkerPlugin):
    """The cells that are being built here, and which of them are wanted."""

    name = PLUGIN

    def __init__(self, post: Post) -> None:
        self.post = post
        self._unwanted: dict[object, threading.Event] = {}
        self._changed = threading.Condition()

    @property
    def count(self) -> int:
        """How many cells are being built."""
        return len(self._unwanted)

    @contextlib.contextmanager
    def wanted(self, key: object) -> Iterator[threading.Event]:
        """Know of a cell while the context lasts; the event is set when it is not wanted any more."""
        with self._changed:
            event = self._unwanted[key] = threading.Event()
        try:
            yield event
        finally:
            with self._changed:
                del self._unwanted[key]
                self._changed.notify_all()

    def transition(self, key: object, start: str, finish: str, **_: object) -> None:
        """Dask says that a task has another state: one that runs and is taken back is not wanted."""
        event = self._unwanted.get(key)
        if event is not None and start in {"executing", "long-running"} and finish not in {"memory", "error"}:
            event.set()

    def teardown(self, worker: Worker) -> None:  # noqa: ARG002  Dask's signature
        """The server leaves, or the scheduler is gone: nothing is wanted any more."""
        for event in list(self._unwanted.values()):
            event.set()

    def wait_until_idle(self) -> None:
        """Wait until every cell has cleaned up."""
        with self._changed:
            self._changed.wait_for(lambda: not self._unwanted, 2 * cell.STOPPING_SECONDS)
