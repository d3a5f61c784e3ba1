"""Options, the image under test and what it says of itself.

Every test looks at ``facts``, which are gathered with one command; only the update test talks to the machine itself.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import testinfra

from pipeline.core import namespace
from pipeline.lab import facts as gathering
from pipeline.lab import image as images
from pipeline.lab.machine import NAME

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pipeline.lab.facts import Fact
    from pipeline.lab.image import Image

SSH_SECONDS = 120
GATHER_SECONDS = 1800  # waits for the end of the boot; nothing here waits for ever


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("image", "image under test (./invoke verify sets these, and testinfra's --ssh-config)")
    group.addoption("--image", type=Path, help="directory of the image: the one with manifest.json")
    group.addoption("--tree", type=Path, help="its root file system as a directory: nothing is booted")
    group.addoption("--firmware", choices=["bios", "uefi"], help="what the machine started with")
    group.addoption("--facts", type=Path, help="file that takes what the system said of itself, as JSON")
    group.addoption(
        "--kernel-update", type=Path, action="append", default=[],
        help="kernel package to update to; several are installed together",
    )  # fmt: skip
    group.addoption("--reboot-seconds", type=float, default=900.0, help="how long a reboot may take")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("image", None) is None or not (config.getoption("tree") or config.getoption("ssh_config")):
        raise pytest.UsageError("this suite needs an image and a way to look at it; run it with: ./invoke verify")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    is_booted = config.getoption("tree") is None
    unfit, reason = ("offline", "the machine was booted") if is_booted else ("booted", "nothing is booted")
    for item in items:
        if item.get_closest_marker(unfit):
            item.add_marker(pytest.mark.skip(reason=reason))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make a test of its own out of every expectation."""
    expected = images.read(metafunc.config.getoption("image")).expectations
    lists: Mapping[str, tuple[str, ...]] = {
        "service": expected.services,
        "disabled_unit": expected.disabled,
        "package": expected.packages,
        "module": expected.modules,
        "os_release_key": tuple(expected.os_release),
        "sysctl": tuple(gathering.NODE_SYSCTLS),
    }
    for name, values in lists.items():
        if name in metafunc.fixturenames:
            metafunc.parametrize(name, values)


@pytest.fixture(scope="session")
def image(pytestconfig: pytest.Config) -> Image:
    return images.read(pytestconfig.getoption("image"))


@pytest.fixture(scope="session")
def host(pytestconfig: pytest.Config) -> Any:  # noqa: ANN401  testinfra comes without types
    """The booted machine, as testinfra sees it."""
    config = pytestconfig.getoption("ssh_config")
    # controlpersist=0: the shared connection is set up in ssh_config, not by testinfra.
    return testinfra.get_host(f"ssh://{NAME}", ssh_config=config, controlpersist=0, timeout=SSH_SECONDS)


@pytest.fixture(scope="session")
def facts(pytestconfig: pytest.Config, request: pytest.FixtureRequest, image: Image) -> dict[str, Fact]:
    """What the system says of itself; on a booted machine only after its boot is over."""
    tree = pytestconfig.getoption("tree")
    expected = image.expectations
    script = gathering.script(
        gathering.commands(
            (*expected.services, *expected.disabled),
            expected.modules,
            booted=tree is None,
            console=image.arch.serial,
        )
    )
    if tree is None:
        output = str(request.getfixturevalue("host").run("timeout %s sh -c %s", str(GATHER_SECONDS), script).stdout)
    else:
        output = namespace.in_tree(tree, ["sh", "-c", script], capture=True, what="looking at the image").stdout
    found = gathering.parse(output)
    if (path := pytestconfig.getoption("facts")) is not None:
        path.write_text(json.dumps({name: dataclasses.asdict(fact) for name, fact in found.items()}, indent=1))
    return found


@pytest.fixture
def reboot_seconds(pytestconfig: pytest.Config) -> float:
    return float(pytestconfig.getoption("reboot_seconds"))


@pytest.fixture
def copy_in(pytestconfig: pytest.Config) -> Any:  # noqa: ANN401  a function
    """Return a function that copies a file of this host to a path on the machine."""

    def copy(source: Path, target: str) -> None:
        command = ["scp", "-q", "-F", pytestconfig.getoption("ssh_config"), str(source), f"{NAME}:{target}"]
        subprocess.run(command, check=True, capture_output=True, timeout=600)

    return copy
