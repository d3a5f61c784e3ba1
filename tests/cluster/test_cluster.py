"""A real cluster, installed from nothing but rendered seeds: two masters and a worker, in namespaces of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster import site as sites
from tests.cluster.host import Host
from tests.cluster.site import ADMIN, FIRST, NODES, SECOND, WORKER, Site

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with sites.in_namespaces(tmp_path_factory.mktemp("site")) as running:
        yield running


@pytest.fixture(scope="module")
def seeds(site: Site) -> Path:
    assert site.lan is not None
    return site.render(site.spec(NODES, site.lan.address))


@pytest.fixture(scope="module")
def first(site: Site, seeds: Path) -> Host:
    """The first master, installed."""
    host = site.host(FIRST, seeds)
    sites.bootstrap(host)
    return host


@pytest.fixture(scope="module")
def second(site: Site, seeds: Path, first: Host) -> Host:
    """A further master, installed."""
    host = site.host(SECOND, seeds)
    sites.bootstrap(host)
    return host


@pytest.fixture(scope="module")
def worker(site: Site, seeds: Path, first: Host) -> Host:
    """A worker, installed."""
    host = site.host(WORKER, seeds)
    sites.bootstrap(host)
    return host


def test_every_node_gets_ready(first: Host, second: Host, worker: Host) -> None:
    assert sites.ready_nodes(first) == {"m1", "m2", "w1"}
    assert sites.ready_nodes(second) == {"m1", "m2", "w1"}
