"""What all tests share."""

from __future__ import annotations

import os
import signal

import pytest

# A shell starts background jobs with SIGINT ignored, and everything below inherits it; tests of Ctrl-C need it back.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What takes minutes, the longest first: begun first, none of it is left for the end, when other processors are idle.
LONGEST = (
    "test_standin", "test_nodes", "test_cluster", "test_native", "test_node_image", "test_rpm_qcow2", "test_farm",
    "test_reproducible", "test_front_door", "test_build_faults",
)  # fmt: skip


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Begin with the longest where several processes share the tests, file by file."""
    _skip_what_needs_root(items)
    if hasattr(config, "workerinput"):  # in one process, what fails soon shall come soon
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
