"""A matrix on a farm: Dask brings each cell to a server of its architecture; what they tell is gathered here.

The result of a cell comes with the last event that its server sends, so a server that ends just afterwards does not
cost a build. Dask runs a cell again whose server is gone. How often that may happen is counted here, by the servers on
which it really was begun: Dask also counts cells that were only waiting on a server that died.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import signal
import time
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from distributed import Client, Future, KilledWorker

from pipeline.core.errors import NetworkError, PipelineError
from pipeline.core.progress import Moment, StepTime
from pipeline.image import Step
from pipeline.matrix import cell, farm, parcel, server, version
from pipeline.matrix.farm import Farm
from pipeline.matrix.model import Order, Result
from pipeline.matrix.show import Board
from pipeline.matrix.worker import failure

TICK = 0.25  # seconds between two looks at the clock
LOOK_SECONDS = 3.0  # so often the scheduler is asked which servers there are
MOST_SERVERS = 3  # a cell that was begun so often, and whose servers all went away, is not begun again


@dataclass
class _Ordered:
    """A cell that is on the farm.

    Attributes:
        order: which one.
        need: what it needs of a server.
        packed: what travels with it.
        future: Dask's.
        run: of its latest run, from the events.
        servers: where it was begun, the latest last.
        is_running: whether it is being built, as far as is known.
        began: when it was begun, by the monotonic clock.
        steps: those it has begun.
        unserved: since when nobody offers what it needs.
    """

    order: Order
    need: str
    packed: bytes
    future: Future[None] | None = None
    run: str = ""
    servers: list[str] = field(default_factory=list)
    is_running: bool = False
    began: float = field(default_factory=time.monotonic)
    steps: tuple[Step, ...] = ()
    unserved: float | None = None


def run(orders: Sequence[Order], where: Farm, board: Board) -> dict[str, Result]:
    """Build every cell on the farm.

    Args:
        orders: the cells.
        where: the farm.
        board: shows what goes on.

    Raises:
        InputError: the farm is of another version, or the certificates are of no use.
        DependencyError: an architecture is offered by nobody.
        NetworkError: the scheduler cannot be reached. If it goes away later, the cells that are not done have failed.
        KeyboardInterrupt: interrupted; every cell has been stopped by then, and has cleaned up.
    """
    with _connected(where) as client:
        ours = version.current()
        theirs = client.get_metadata([farm.METADATA], None)
        if theirs is not None:
            farm.check_version(ours, str(theirs), f"the scheduler at {where.access.address}")
        found = farm.servers(client.scheduler_info())
        needs = farm.choose((order.arch for order in orders), found, ours, emulation=where.emulation)
        more = {"version": ours, "artifacts": where.artifacts, "epoch": os.environ.get("SOURCE_DATE_EPOCH")}
        told = [order.model_copy(update=more) for order in orders]
        ordered = {order.name: _Ordered(order, needs[order.arch], parcel.pack(order)) for order in told}
        return _Gathering(client, where, board, ordered).results()


@contextlib.contextmanager
def _connected(where: Farm) -> Iterator[Client]:
    security = where.access.security()
    try:
        client = Client(
            str(where.access.address), security=security, timeout=farm.patience_to_connect(), set_as_default=False
        )
    except (OSError, TimeoutError) as error:
        raise farm.unreachable(where.access, error) from error
    try:
        yield client
    finally:
        client.close(timeout=2)


class _Gathering:
    """Cells that are on their way, and the results of those that are done."""

    def __init__(self, client: Client, where: Farm, board: Board, ordered: dict[str, _Ordered]) -> None:
        self._client, self._where, self._board, self._ordered = client, where, board, ordered
        self._topic = f"node-images-{secrets.token_hex(8)}"
        self._told: queue.SimpleQueue[dict[str, Any] | Future[None]] = queue.SimpleQueue()
        self._results: dict[str, Result] = {}
        self._looked = time.monotonic()

    def results(self) -> dict[str, Result]:
        """Wait for every cell."""
        first = next(iter(self._ordered.values()), None)
        if first is None:
            return {}
        mark = first.order.workshop.build_dir / "logs" / farm.mark(self._topic)
        mark.touch()
        try:
            self._client.subscribe_topic(self._topic, lambda event: self._told.put(event[1]))
            for one in self._ordered.values():
                self._submit(one)
            while self._ordered.keys() - self._results.keys():
                self._take_in()
                self._look_around()
                self._board.tick()
        except KeyboardInterrupt:
            self._interrupt()
            raise
        finally:
            mark.unlink(missing_ok=True)
        return self._results

    def _submit(self, one: _Ordered) -> None:
        one.future = self._client.submit(
            server.carry_out, one.order.model_dump_json(), one.packed, self._topic,
            key=f"{one.order.name}-{secrets.token_hex(4)}", resources={one.need: 1}, pure=False,
        )  # fmt: skip
        one.future.add_done_callback(self._told.put)

    def _take_in(self) -> None:
        """Wait a moment for news, and take in all that there is."""
        try:
            news = self._told.get(timeout=TICK)
            while True:
                if isinstance(news, dict):
                    self._hear(news)
                else:
                    self._done(news)
                news = self._told.get_nowait()
        except queue.Empty:
            return

    # ------------------------------------------------------------------------ what servers tell

    def _hear(self, news: dict[str, Any]) -> None:
        one = self._ordered[news["cell"]]
        if one.order.name in self._results:
            return
        if news["what"] == "begins":
            self._begins(one, news)
        elif news["run"] == one.run:
            {"moment": self._moment, "log": self._log, "ended": self._ended, "stopped": self._stopped}[news["what"]](
                one, news
            )

    def _begins(self, one: _Ordered, news: dict[str, Any]) -> None:
        if one.is_running:  # nobody has looked in the meantime
            self._lose(one)
        if len(one.servers) == MOST_SERVERS:
            self._give_up(one)
            return
        one.run, one.is_running, one.began, one.steps = news["run"], True, time.monotonic(), ()
        one.servers.append(news["server"])
        self._board.begin(one.order, news["server"])

    def _moment(self, one: _Ordered, news: dict[str, Any]) -> None:
        times = tuple(StepTime(*step) for step in news["times"])
        one.steps = tuple(Step.of(step) for step in times)
        self._board.told(one.order, Moment(news["line"], tuple(news["running"]), times))

    def _log(self, one: _Ordered, news: dict[str, Any]) -> None:
        with one.order.log.open("wb" if news["first"] else "ab") as log:
            log.write(zlib.decompress(news["content"]))

    def _ended(self, one: _Ordered, news: dict[str, Any]) -> None:
        result = Result.model_validate_json(news["result"])
        log = f"logs/{one.order.log.name}" if one.order.log.exists() else None
        self._finish(one, result.model_copy(update={"log": log}))

    def _stopped(self, one: _Ordered, _news: dict[str, Any]) -> None:
        one.is_running = False

    def _finish(self, one: _Ordered, result: Result) -> None:
        self._results[one.order.name] = result
        one.is_running = False
        if one.future is not None:
            one.future.release()  # or Dask would build it again if that server went away now
        self._board.end(result)

    def _fail(self, one: _Ordered, error: PipelineError) -> None:
        if one.future is not None:
            one.future.cancel()
        order = one.order.model_copy(update={"server": one.servers[-1] if one.servers else ""})
        result = failure(order, error, time.monotonic() - one.began)
        self._finish(one, result.model_copy(update={"steps": one.steps}))

    def _give_up(self, one: _Ordered) -> None:
        names = ", ".join(one.servers)
        self._fail(one, PipelineError(
            f"{one.order.name} was begun on {len(one.servers)} servers ({names}), and each went away",
            hint="if the kernel ended them for lack of memory, 'dmesg' there says so: start them with a smaller -j",
        ))  # fmt: skip

    # ------------------------------------------------------------------------ what Dask says

    def _done(self, future: Future[None]) -> None:
        """A future has changed its state; of one that finished, the event has brought the result."""
        one = next((one for one in self._ordered.values() if one.future is future), None)
        if one is None or one.order.name in self._results:
            return
        if future.cancelled():  # not by us: its cell would have a result
            self._lose_scheduler()
        elif future.status == "error":
            error = future.exception(timeout=farm.patience_to_connect())
            if isinstance(error, KilledWorker) and len(one.servers) < MOST_SERVERS:
                self._submit(one)
            elif isinstance(error, KilledWorker):
                self._give_up(one)
            else:
                self._fail(
                    one, PipelineError(f"unexpected {type(error).__name__} on a server: {error}", hint="a defect")
                )

    def _lose_scheduler(self) -> None:
        error = NetworkError(
            f"the scheduler at {self._where.access.address} went away before this was done",
            hint="the servers have stopped it; when it runs again, order again: what is built is not built anew",
        )
        for one in self._ordered.values():
            if one.order.name not in self._results:
                self._fail(one, error)

    def _look_around(self) -> None:
        """See now and then which servers there are: one may be gone, or the last one of an architecture."""
        if time.monotonic() - self._looked < LOOK_SECONDS or self._client.status != "running":
            return
        self._looked = time.monotonic()
        there = farm.servers(self._client.scheduler_info())
        names = {one.name for one in there}
        offers = {name for one in there for name in one.offers}
        for one in self._ordered.values():
            if one.order.name in self._results:
                continue
            if one.is_running and one.servers[-1] not in names:
                self._lose(one)
            if one.need in offers:
                one.unserved = None
            elif not one.is_running:
                self._rescue(one, there)

    def _lose(self, one: _Ordered) -> None:
        one.is_running = False
        self._board.lose(one.order, f"server {one.servers[-1]} is gone; it is built again elsewhere")

    def _rescue(self, one: _Ordered, there: Sequence[farm.Server]) -> None:
        """Nobody offers any more what a cell needs: wait for a while, then emulate it if that is allowed."""
        one.unserved = one.unserved or time.monotonic()
        if time.monotonic() - one.unserved < self._where.patience:
            return
        ours = [server for server in there if server.version == version.current()]
        emulated = farm.offer(one.order.arch, version.current(), emulated=True)
        if self._where.emulation and any(emulated in server.offers for server in ours):
            former, one.need, one.unserved = one.future, emulated, None
            self._board.say(f"{one.order.name}: no server builds {one.order.arch} natively any more; it is emulated")
            self._submit(one)
            if former is not None:
                former.cancel()
            return
        self._fail(one, farm.nobody_offers([one.order.arch], ours, version.current(), emulation=self._where.emulation))

    def _interrupt(self) -> None:
        """Take every order back, and wait until each server has cleaned up; being asked twice must not shorten that."""
        former = signal.signal(signal.SIGINT, signal.SIG_IGN)
        running = [one for one in self._ordered.values() if one.is_running]
        self._board.say(f"interrupted; {len(running)} builds are stopping")
        left = [one.future for one in self._ordered.values() if one.future and one.order.name not in self._results]
        with contextlib.suppress(OSError, TimeoutError):
            self._client.cancel(left)
        deadline = time.monotonic() + cell.STOPPING_SECONDS
        while any(one.is_running for one in running) and time.monotonic() < deadline:
            with contextlib.suppress(queue.Empty):
                news = self._told.get(timeout=TICK)
                if isinstance(news, dict):
                    self._hear(news)
            if self._client.status != "running":
                break
        signal.signal(signal.SIGINT, former)
