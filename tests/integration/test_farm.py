"""Build servers in network namespaces: what they build, and what happens when servers, lines or the scheduler go."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.core.arch import Architecture
from tests.integration import builds, farms, processes, sites
from tests.integration.builds import Project
from tests.integration.farms import Farm, wait_for

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.network]
ARCH = Architecture.host()
OTHER = next(arch for arch in Architecture if arch is not ARCH)
BROKEN = f"broken-1-{ARCH}"
FAILS = "#!/bin/bash\necho this one is broken\nexit 1\n"
SLOW = "#!/bin/bash\nset -Eeuo pipefail\necho it began for {}\nsleep {}\n"


def add_profile(project: Project, name: str, **changes: object) -> None:
    """Add a profile that is the small image's, but for some keys of its release."""
    data: dict[str, Any] = json.loads(json.dumps(project.data)) | {"name": name}
    data["releases"]["1"] |= changes
    project.write(f"osprofiles/{name}.yaml", yaml.safe_dump(data))


def slow(farm: Farm, seconds: int) -> None:
    """Have an overlay of the small image take so long; it was never built before."""
    farm.project.write("overlays/tiny/scripts/10-tiny.sh", SLOW.format(farm.place, seconds), mode=0o755)


def report(farm: Farm) -> dict[str, Any]:
    """Return the cells of matrix.json by name."""
    found = json.loads((farm.orderer.build_dir / "matrix.json").read_text())
    return {cell["name"]: cell for cell in found["cells"]}


@pytest.fixture
def farm(project: Project, tmp_path: Path) -> Iterator[Farm]:
    """A farm whose scheduler runs, without servers."""
    with Farm(tmp_path / "members", project) as made:
        made.schedule()
        yield made


# ------------------------------------------------------------------------------------------ all is well


def test_a_farm_with_tls(project: Project, tmp_path: Path) -> None:
    for name in ("tiny2", "tiny3"):
        add_profile(project, name)
    add_profile(project, "broken", overlays=["tiny", "broken"])
    project.write("overlays/broken/scripts/10-fail.sh", FAILS, mode=0o755)
    project.write("overlays/tiny/root/etc/motd", f"never committed: {tmp_path}\n")
    store = tmp_path / "store"
    store.mkdir()
    with Farm(tmp_path / "members", project, farms.papers(tmp_path / "papers")) as farm:
        farm.schedule()
        nobody = farm.order("--artifacts", str(store)).end()
        assert nobody[0] == 3
        assert f"none of 0 servers of this version builds images of {ARCH}" in nobody[2]
        one, two = farm.serve("one"), farm.serve("two", "--listen", "tls://0.0.0.0:9000")
        status, out, err = farm.order("--artifacts", str(store), systems="tiny,tiny2,tiny3,broken").end()
        cells = report(farm)
        assert {name: cell["status"] for name, cell in cells.items()} == {
            builds.NAME: "built", f"tiny2-1-{ARCH}": "built", f"tiny3-1-{ARCH}": "built", BROKEN: "failed",
        }, err  # fmt: skip
        assert status == 4 == cells[BROKEN]["exit_code"]
        assert {cell["server"] for cell in cells.values()} == {"one", "two"}
        assert "1 failed" in out
        for name, cell in cells.items():
            server = farm.members[cell["server"]]
            assert err.count(f"{name}: begins on {cell['server']}") == 1  # its own error is no reason to try again
            log = farm.orderer.build_dir / cell["log"]
            assert log.read_bytes() == (server.build_dir / cell["log"]).read_bytes()
            if name != BROKEN:
                assert cell["artifact"] == str(store / name)
                builds.check_published(store / name)
                assert [step["title"] for step in cell["steps"]][-2:] == ["publish", "collect"]
        assert "this one is broken" in (farm.orderer.build_dir / cells[BROKEN]["log"]).read_text()
        assert {path.name for path in store.iterdir()} == set(cells) - {BROKEN}
        assert not list((farm.orderer.build_dir / "logs").glob(".*"))
        _the_dashboard_is_there(farm)
        _what_is_there_is_left_out(farm, store)
        _nobody_builds_for_another_architecture(farm)
        _strangers_are_refused(farm, tmp_path)
        _other_versions_are_refused(farm)
        for running in (one, two):
            assert running.process.poll() is None
            running.process.send_signal(signal.SIGTERM)
            assert running.end()[0] == 0
        assert farm.members["one"].left() == farm.members["two"].left() == []


def _the_dashboard_is_there(farm: Farm) -> None:
    assert "Dask" in farm.dashboard()
    assert farm.papers is not None
    status, _, err = farm.hub.command("scheduler", "--listen", farm.url, *farm.papers.words)
    assert (status, "Traceback" in err) == (6, False), err
    assert f"cannot listen on {farm.url}" in err


def _what_is_there_is_left_out(farm: Farm, store: Path) -> None:
    status, _, err = farm.order("--artifacts", str(store), "--only-missing").end()
    assert (status, report(farm)[builds.NAME]["status"]) == (0, "skipped"), err


def _nobody_builds_for_another_architecture(farm: Farm) -> None:
    add_profile(farm.project, "both")
    status, _, err = farm.orderer.command("matrix", *farm.words, "--os", "both", "--arch", "all")
    assert status == 3
    assert f"none of 2 servers of this version builds images of {OTHER}" in err
    assert f"start './invoke worker' on a machine of {OTHER}" in err
    assert "begins" not in err


def _strangers_are_refused(farm: Farm, tmp_path: Path) -> None:
    assert farm.papers is not None
    others = farms.papers(tmp_path / "other papers")
    plain = farm.url.replace("tls", "tcp")
    tries = {
        ("--scheduler", farm.url, *others.words): 6,
        ("--scheduler", farm.url, *others.words[2:], "--ca", str(farm.papers.ca)): 6,
        ("--scheduler", farm.url, "--ca", str(farm.papers.ca)): 2,
        ("--scheduler", plain): 6,
    }
    for words, expected in tries.items():
        for command in (("matrix", "--os", "tiny"), ("worker",)):
            status, _, err = farm.orderer.command(*command, *words)
            assert (status, "Traceback" in err) == (expected, False), (command, words, err)
            assert farm.url.removeprefix("tls") in err


def _other_versions_are_refused(farm: Farm) -> None:
    """Whose checkout was edited may not work with the farm, and both versions are named."""
    odd = farm.add("odd")
    with (odd.directory / "pipeline/core/units.py").open("a") as code:
        code.write("# an edit that nobody has committed\n")
    shutil.copytree(farm.project.directory / "osprofiles", odd.directory / "osprofiles")
    shutil.copytree(farm.project.directory / "overlays", odd.directory / "overlays")
    said = set()
    for words in (["worker", "--name", "odd"], ["matrix", "--os", "tiny"]):
        status, _, err = odd.command(*words, *farm.words)
        assert status == 2
        said.add(err.splitlines()[-2])
    (message,) = said
    versions = [word for word in message.replace("\n", " ").split() if len(word.strip(",")) == 12 and word.isalnum()]
    assert len(set(versions)) == 2, message


# ------------------------------------------------------------------------------------------ servers go


def test_a_cell_whose_server_is_killed_is_built_by_another(farm: Farm) -> None:
    slow(farm, 3)
    farm.serve("one")
    order = farm.order()
    wait_for(order, "begins on one")
    farm.serve("two")
    wait_for_log(farm, "it began")
    cells = farm.cells("one")
    assert cells
    farm.members["one"].running[0].process.kill()
    processes.wait_until_gone(cells)
    status, _, err = order.end()
    cell = report(farm)[builds.NAME]
    assert (status, cell["status"], cell["server"]) == (0, "built", "two"), err
    assert "begins on two" in err
    builds.check_published(farm.members["two"].build_dir / builds.NAME)
    farm.serve("one")  # what the killed one has left is no obstacle
    assert not list((farm.members["one"].build_dir / "orders").glob("tmp*"))


def wait_for_log(farm: Farm, text: str) -> None:
    """Wait for a text in the log that comes back to the one who ordered."""
    running = farm.orderer.running[-1]
    running.log = farm.orderer.build_dir / "logs" / f"{builds.NAME}.log"
    running.wait_for_log(text)


def test_a_cell_that_takes_its_servers_with_it_is_given_up(farm: Farm) -> None:
    slow(farm, 60)
    farm.serve("server-0")
    order = farm.order("--patience", "30")
    for number in range(4):
        wait_for(order, f"begins on server-{number}") if number < 3 else None
        if number < 3:
            farm.serve(f"server-{number + 1}")
            farm.members[f"server-{number}"].running[0].process.kill()
    status, out, _ = order.end()
    assert status == 70
    assert "was begun on 3 servers (server-0, server-1, server-2), and each went away" in out
    processes.wait_until_gone([item for item in farm.cells("server-3") if item.name == "sleep"])


def test_a_cell_whose_server_is_cut_off_is_built_by_another(farm: Farm) -> None:
    slow(farm, 3)
    cut_off = farm.serve("one")
    order = farm.order()
    wait_for_log(farm, "it began")
    cells = farm.cells("one")
    farm.cut(farm.members["one"])
    farm.serve("two")
    status, _, err = order.end()
    assert (status, report(farm)[builds.NAME]["server"]) == (0, "two"), err
    assert "server one is gone; it is built again elsewhere" in err
    status, _, err = cut_off.end()
    assert status == 6
    assert f"the scheduler at {farm.url} is gone" in err
    processes.wait_until_gone(cells)


def test_servers_that_are_told_to_end_hand_their_cells_over(farm: Farm) -> None:
    slow(farm, 3)
    leaving = farm.serve("one")
    order = farm.order()
    wait_for_log(farm, "it began")
    farm.serve("two")
    cells = farm.cells("one")
    leaving.process.send_signal(signal.SIGTERM)
    status, _, err = leaving.end()
    assert status == 0, err
    processes.wait_until_gone(cells)
    assert farm.members["one"].left() == []
    status, _, err = order.end()
    assert (status, report(farm)[builds.NAME]["server"]) == (0, "two"), err


def test_the_last_server_of_an_architecture_is_waited_for_only_so_long(farm: Farm) -> None:
    slow(farm, 60)
    server = farm.serve("one")
    order = farm.order("--patience", "1")
    wait_for(order, "begins on one")
    server.process.kill()
    status, out, err = order.end()
    assert status == 3
    assert f"none of 0 servers of this version builds images of {ARCH}" in out
    assert "server one is gone" in err


# ------------------------------------------------------------------------------------------ the rest goes


def test_the_scheduler_goes(farm: Farm) -> None:
    slow(farm, 60)
    server = farm.serve("one")
    order = farm.order()
    wait_for_log(farm, "it began")
    cells = farm.cells("one")
    farm.hub.running[0].process.kill()
    status, out, err = order.end()
    assert (status, "Traceback" in err) == (6, False), err
    assert f"the scheduler at {farm.url} went away before this was done" in out
    assert report(farm)[builds.NAME]["status"] == "failed"
    status, _, err = server.end()
    assert (status, "Traceback" in err) == (6, False), err
    processes.wait_until_gone(cells)
    assert farm.members["one"].left() == []
    for words in (["matrix", "--os", "tiny"], ["worker"]):
        status, _, err = farm.orderer.command(*words, *farm.words)
        assert (status, "Traceback" in err) == (6, False), err
        assert f"the scheduler at {farm.url} cannot be reached" in err


@pytest.mark.parametrize("how", ["Ctrl-C", "kill -9"])
def test_nothing_goes_on_when_the_one_who_ordered_stops(farm: Farm, how: str) -> None:
    add_profile(farm.project, "tiny2")
    slow(farm, 60)
    server = farm.serve("one")
    order = farm.order(systems="tiny,tiny2")
    wait_for_log(farm, "it began")
    cells = farm.cells("one")
    if how == "Ctrl-C":
        os.killpg(order.process.pid, signal.SIGINT)
        status, out, err = order.end()
        assert (status, out, err.splitlines()[-1]) == (130, "", "error: interrupted"), err
        assert farm.members["one"].left() == []  # it has waited for that
    else:
        order.process.kill()
    processes.wait_until_gone(cells)
    assert not (farm.orderer.build_dir / "matrix.json").exists()
    assert server.process.poll() is None
    farm.project.write("overlays/tiny/scripts/10-tiny.sh", FAILS, mode=0o755)
    assert farm.order(systems="tiny").end()[0] == 4  # the server takes the next order
    assert farm.members["one"].left() == []


# ------------------------------------------------------------------------------------------ a registry


def test_images_go_to_a_registry_that_may_refuse_them(project: Project, tmp_path: Path) -> None:
    with sites.site() as registry, Farm(tmp_path / "members", project, own_networks=False) as farm:
        farm.schedule()
        farm.serve_here("--registry-plain-http", "--emulate")
        _only_who_allows_it_gets_emulation(farm)
        where = f"oci://{registry.served.host}/node-images"
        registry.faults += [("POST", "/blobs/uploads", _denied)] * 20
        status, out, err = farm.order("--artifacts", where).end()
        refused = report(farm)[builds.NAME]
        assert (status, refused["status"], refused["artifact"]) == (6, "failed", ""), err
        assert registry.served.host in out
        assert "begins on here" in err
        log = (farm.orderer.build_dir / refused["log"]).read_text()  # of the server and of the one who ordered
        assert (log.count("== publish\n"), log.count("this user may not push")) == (1, 1)
        assert "collect" in [step["title"] for step in refused["steps"]]
        registry.faults.clear()
        status, _, err = farm.order("--artifacts", where).end()
        cell = report(farm)[builds.NAME]
        assert (status, cell["status"]) == (0, "up to date"), err
        reference, _, digest = cell["artifact"].partition("@")
        assert reference.startswith(f"{registry.served.host}/node-images:")
        assert digest in registry.repositories["node-images"].manifests
        status, _, err = farm.order("--artifacts", where, "--only-missing").end()
        assert (status, "does not look into a registry" in err) == (2, True)


def _only_who_allows_it_gets_emulation(farm: Farm) -> None:
    """The cell fails in its plan, wherever it is sent: emulating would take long."""
    add_profile(farm.project, "nowhere", base=farm.project.release["base"] | {"suites": ["no-such-suite"]})
    words = ["matrix", *farm.words, "--os", "nowhere", "--arch", str(OTHER)]
    status, _, err = farm.orderer.command(*words)
    assert (status, "with --allow-emulation here would build them" in err, "begins" in err) == (3, True, False)
    _, _, err = farm.orderer.command(*words, "--allow-emulation")
    assert f"nowhere-1-{OTHER}: begins on here" in err
    assert "no-such-suite" in report(farm)[f"nowhere-1-{OTHER}"]["error"]


def _denied(handler: sites.Handler) -> None:
    handler.take(bytearray())
    handler.say(403, b'{"errors":[{"code":"DENIED","message":"this user may not push"}]}')
