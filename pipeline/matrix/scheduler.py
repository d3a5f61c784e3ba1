"""``invoke scheduler``: Dask's own scheduler and dashboard, set up for builds, which take minutes."""

from __future__ import annotations

import asyncio
import signal

from distributed import Scheduler

from pipeline.core import progress
from pipeline.core.errors import NetworkError
from pipeline.matrix import farm, version
from pipeline.matrix.farm import Access


def schedule(access: Access, dashboard: str) -> None:
    """Run a scheduler until it is told to end.

    Args:
        access: where to listen, and with which certificate.
        dashboard: ``HOST:PORT`` or ``:PORT`` where Dask shows what goes on.

    Raises:
        InputError: the certificates are of no use.
        NetworkError: nothing can listen there.
        KeyboardInterrupt: interrupted.
    """
    asyncio.run(_schedule(access, dashboard))


async def _schedule(access: Access, dashboard: str) -> None:
    where = access.address
    scheduler = Scheduler(
        host=where.host,
        port=where.port,
        protocol=f"{where.protocol}://",
        security=access.security(),
        dashboard=True,
        dashboard_address=dashboard,
    )
    try:
        await scheduler
    except (OSError, RuntimeError) as error:
        raise NetworkError(
            f"cannot listen on {where}: {error.__cause__ or error}",
            hint="is another scheduler running there? see --listen",
        ) from error
    scheduler.task_metadata[farm.METADATA] = version.current()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(scheduler.close()))
    progress.note(f"the scheduler listens on {where}, version {version.current()} of this project")
    host, port = (getattr(scheduler.http_server, name) for name in ("address", "port"))
    progress.note(f"its dashboard: http://{host}:{port}/status")
    try:
        await scheduler.finished()
    finally:
        await scheduler.close()
