"""A throw-away machine to look around in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.core import cache, process, progress
from pipeline.core.errors import InputError
from pipeline.lab import image as images
from pipeline.lab.firmware import Firmware
from pipeline.lab.machine import NAME, Machine, MachineSpec
from pipeline.lab.verify import REPORTS

if TYPE_CHECKING:
    from pathlib import Path


def shell(image_dir: Path, *, firmware: Firmware | None = None, network: bool = True) -> int:
    """Boot an image and log in as root; the machine and all that was done in it are gone afterwards.

    Args:
        image_dir: what ``invoke build`` made.
        firmware: what it starts with; None for UEFI.
        network: whether it may reach the outside.

    Returns:
        Exit status of the login: that of the last command, or 255 if the connection broke.

    Raises:
        InputError: there is no such image, or its architecture has no such firmware.
        VerificationError: it did not come up.
    """
    image = images.read(image_dir)
    kind = firmware or Firmware.UEFI
    if kind not in Firmware.of(image.arch):
        raise InputError(f"{image.name} is for {image.arch}, which has no {kind}", hint="use --firmware uefi")
    with cache.Cache(cache.cache_root()) as store, store.workspace() as directory:
        spec = MachineSpec(image.file, image.arch, kind, network=network)
        with Machine(spec, directory, image.directory / REPORTS / "shell.serial.log") as machine:
            with progress.step(f"boot {image.name} with {kind}"):
                machine.wait_for_ssh()
            progress.note("you are root on a throw-away machine; it is destroyed when you leave (exit, or Ctrl-D)")
            return process.attach(["ssh", "-t", "-F", machine.files.ssh_config, NAME])
