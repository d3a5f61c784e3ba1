"""The bootstrap hook pulls from a real registry: with real podman, and with a real docker daemon.

Both run the cases of ``cluster-bootstrap-pull.bats``, in private namespaces: what the hook writes below /etc goes away
with that of mounts, and every process, of a killed test too, with that of processes. The network is private because
docker believes any certificate of a registry on 127.0.0.0/8.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import installers, registries
from tests.integration.registries import Served

BATS = Path(__file__).resolve().parent / "cluster-bootstrap-pull.bats"
LINE = BATS.with_name("stand_still.py")
# What docker.io needs of what a machine may not have; containerd and runc are started by the daemon.
DOCKER = ("docker.io", "containerd", "runc", "libdevmapper1.02.1", "libseccomp2")
NAME, ADDRESS = "registry.test", "192.0.2.1"
REGISTRY, MIRROR = f"{NAME}:5000", f"{NAME}:5001"
ENTER = ("unshare", "--mount", "--propagation", "private", "--net", "--pid", "--fork", "--kill-child", "--mount-proc")
# All of /etc is an overlay there: the docker daemon reads certificates below it and nowhere else.
PREPARE = """
set -e
mkdir -p "$WORK/etc"
mount -t tmpfs etc "$WORK/etc"
mkdir "$WORK/etc/upper" "$WORK/etc/work"
mount -t overlay -o "lowerdir=/etc,upperdir=$WORK/etc/upper,workdir=$WORK/etc/work" overlay /etc
printf '127.0.0.1 localhost\\n%s %s\\n' "$ADDRESS" "$NAME" >/etc/hosts
ip link set lo up
ip address add "$ADDRESS/32" dev lo
"$REGISTRY_PROGRAM" serve "$REGISTRY_CONFIG" >"$WORK/registry.log" 2>&1 &
"$PYTHON" "$LINE" "$ADDRESS" 5001 5000 "$WORK/stands-still" >"$WORK/line.log" 2>&1 &
exec bats "$0"
"""

pytestmark = [pytest.mark.root, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bootstrap")


@pytest.fixture(scope="module")
def served(folder: Path) -> Iterator[Served]:
    with registries.registry(folder / "registry", password=True) as running:
        yield running


@pytest.fixture(scope="module")
def images(folder: Path, served: Served) -> dict[str, str]:
    return installers.push_all(folder, served)


def registry_inside(folder: Path) -> dict[str, str]:
    """Return the environment that starts a registry over the same storage in the namespaces, as NAME."""
    program, _ = registries.program("docker-registry", folder, "docker-registry")
    cert, key = registries.certificate(folder, NAME)
    return {
        "REGISTRY_PROGRAM": str(program),
        "REGISTRY_CONFIG": str(folder / "registry/registry.yml"),
        "REGISTRY_HTTP_ADDR": f"{ADDRESS}:5000",
        "REGISTRY_HTTP_TLS_CERTIFICATE": str(cert),
        "REGISTRY_HTTP_TLS_KEY": str(key),
    }


def docker(folder: Path) -> dict[str, str]:
    """Return the environment that finds docker's programs, all of one version."""
    found, settings = registries.program("dockerd", folder, *DOCKER)
    root = found.parents[2]
    places = [str(root / place) for place in ("usr/bin", "usr/sbin")]
    return settings | {"DOCKER": str(root / "usr/bin/docker"), "PATH": ":".join((*places, os.environ["PATH"]))}


def auth_file(path: Path, *hosts: str) -> Path:
    """Write credentials for several hosts."""
    auths = [json.loads(registries.auth_file(path, host).read_text())["auths"] for host in hosts]
    path.write_text(json.dumps({"auths": {host: entry for one in auths for host, entry in one.items()}}))
    return path


@pytest.mark.parametrize("engine", ["podman", "docker"])
def test_the_hook(engine: str, folder: Path, served: Served, images: dict[str, str]) -> None:
    work = folder / engine
    work.mkdir()
    for kind, name in images.items():
        (work / kind).write_text(name.replace(served.host, REGISTRY))
    registries.certificate(work, "other")
    registries.auth_file(work / "wrong.json", REGISTRY, password="another")
    environment = os.environ | registry_inside(folder) | (docker(folder) if engine == "docker" else {})
    given = {
        "ENGINE": engine,
        "WORK": work,
        "NAME": NAME,
        "ADDRESS": ADDRESS,
        "REGISTRY": REGISTRY,
        "MIRROR": MIRROR,
        "CA": folder / f"{NAME}.crt",
        "AUTH": auth_file(work / "auth.json", REGISTRY, MIRROR),
        "HERE": installers.HERE.rpm,
        "THERE": installers.THERE.rpm,
        "PYTHON": sys.executable,
        "LINE": LINE,
    }
    done = subprocess.run(
        [*ENTER, "bash", "-c", PREPARE, BATS],
        env=environment | {key: str(value) for key, value in given.items()},
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "# skip" not in done.stdout
