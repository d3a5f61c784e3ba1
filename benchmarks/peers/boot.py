"""How long an image takes from power on until sshd listens, on the machine that verify and the lab use."""

from __future__ import annotations

import contextlib
import shutil
import socket
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.core.arch import Architecture
from pipeline.core.errors import VerificationError
from pipeline.lab import Firmware, Machine, MachineSpec

POLL_SECONDS, CONNECT_SECONDS = 0.1, 2.0
LONGEST_SECONDS = 900.0
FACTS = "dpkg-query --show --showformat '.\\n' | wc -l; df --output=used -B1 / | tail -n 1"


@dataclass(frozen=True)
class Booted:
    """A boot.

    Attributes:
        seconds: from power on until sshd sent its banner.
        packages: number of installed packages.
        used: bytes that are used on the root file system.
    """

    seconds: float
    packages: int
    used: int


def boot(image: Path, directory: Path) -> Booted:
    """Boot an image with BIOS and the lab's cloud-init seed, log in, and throw the machine away.

    BIOS, as every image here has it. Nothing but the image differs: QEMU, machine, seed, and a disk of the same size.

    Args:
        image: the qcow2.
        directory: for the machine's files, made anew; its serial log stays.

    Raises:
        VerificationError: sshd did not listen in time, or does not let us in.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    files = directory / "m"
    files.mkdir()
    with Machine(MachineSpec(image, Architecture.AMD64, Firmware.BIOS), files, directory / "serial.log") as machine:
        started = time.monotonic()
        while not _listens(machine.port):
            if time.monotonic() - started > LONGEST_SECONDS:
                raise VerificationError(
                    f"sshd of {image.name} did not listen within {LONGEST_SECONDS:.0f} s",
                    hint=f"read {directory / 'serial.log'}",
                )
            time.sleep(POLL_SECONDS)
        seconds = time.monotonic() - started
        machine.wait_for_ssh()
        packages, used = read_facts(machine.run(FACTS).stdout)
    shutil.rmtree(files, ignore_errors=True)
    return Booted(seconds, packages, used)


def read_facts(text: str) -> tuple[int, int]:
    """Return the numbers that FACTS prints."""
    packages, used = text.split()
    return int(packages), int(used)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), CONNECT_SECONDS) as connection:
        connection.settimeout(CONNECT_SECONDS)
        return connection.recv(4) == b"SSH-"
    return False
