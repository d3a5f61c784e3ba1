"""What all tests share."""

from __future__ import annotations

import os
import signal

import pytest

# A shell starts background jobs with SIGINT ignored, and everything below inherits it; tests of Ctrl-C need it back.
signal.signal(signal.SIGINT, signal.default_int_handler)


# What takes minutes, the longest first: begun first, none of it is left for the end, when other processors are idle.
LONGEST = ("test_standin", "test_reproducible", "test_nodes", "test_native", "test_cluster", "test_build_faults")


@pytest.hookimpl(tryfirst=True)  # before xdist reads the groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep a file's tests in one process, as they share what its fixtures made, and begin with the longest."""
    _skip_what_needs_root(items)
    if not hasattr(config, "workerinput"):
        return  # one process runs all of them, and what fails soon shall come soon
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(str(item.path.relative_to(config.rootpath))))
    items.sort(key=_rank)


def _rank(item: pytest.Item) -> int:
    return LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST)


def _skip_what_needs_root(items: list[pytest.Item]) -> None:
    """Skip what needs root for an ordinary user; it is said in pytest's summary."""
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root"))
