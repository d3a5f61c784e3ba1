"""What ``invoke scheduler`` and ``invoke worker`` begin with; Dask is imported here, when it is needed."""

from __future__ import annotations

import re
import socket
from pathlib import Path

from pipeline import image
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.matrix import capacity, farm
from pipeline.matrix.farm import Access, Address
from pipeline.matrix.model import RegistryAccess

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


def run_scheduler(access: Access, dashboard: str) -> None:
    """Run the scheduler of a farm until it is told to end.

    Args:
        access: where to listen, and with which certificate.
        dashboard: ``HOST:PORT`` or ``:PORT`` where Dask shows what goes on.

    Raises:
        PipelineError: see :func:`pipeline.matrix.scheduler.schedule`.
    """
    access.check()
    farm.prepare_dask()
    from pipeline.matrix import scheduler

    scheduler.schedule(access, dashboard)


def _check(name: str, jobs: int) -> None:
    if not NAME.fullmatch(name):
        raise InputError(f"{name!r} is no name of a server", hint="use letters, digits, dots and hyphens")
    if jobs < 0:
        raise InputError(f"{jobs} builds at a time are not possible", hint="leave -j out, or give it 1 or more")


def _arches(*, emulate: bool) -> dict[Architecture, bool]:
    """Return what can be built here, and whether under emulation."""
    host = Architecture.host()
    foreign = [arch for arch in Architecture if arch is not host] if emulate else []
    for arch in foreign:
        image.check_runnable(arch)
    return {host: False} | dict.fromkeys(foreign, True)


def run_worker(
    access: Access,
    build_dir: Path,
    *,
    name: str = "",
    jobs: int = 0,
    emulate: bool = False,
    listen: str = "",
    registry: RegistryAccess | None = None,
) -> None:
    """Be a build server until told to end.

    Args:
        access: how the scheduler is reached.
        build_dir: directory of this server's images.
        name: what it calls itself; empty for the machine's name.
        jobs: how many images at a time; 0 for as many as this machine can.
        emulate: also build for architectures whose programs run here under qemu-user.
        listen: address at which the scheduler reaches this server; empty for any port of the right interface.
        registry: how it reaches the registry that images go to.

    Raises:
        InputError: name or number are of no use.
        DependencyError: no program of another architecture runs here.
        PipelineError: see :func:`pipeline.matrix.server.serve`.
    """
    access.check()
    name = name or socket.gethostname()
    _check(name, jobs)
    arches = _arches(emulate=emulate)
    farm.prepare_dask()
    from pipeline.matrix import server

    server.serve(
        access,
        server.Post(
            name=name,
            build_dir=build_dir,
            cells=jobs or capacity.measure(build_dir).cells,
            arches=arches,
            listen=Address.parse(listen, option="--listen", port=0) if listen else None,
            registry=registry or RegistryAccess(),
        ),
    )
