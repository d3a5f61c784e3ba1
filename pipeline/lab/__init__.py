"""The lab: virtual machines on this host, and the suite that an image has to pass on them.

The front door. ``verify`` judges an image, ``shell`` boots it for a look, ``Machine`` is one machine.
"""

from pipeline.lab.accelerator import Accelerator, Kind
from pipeline.lab.accelerator import choose as choose_accelerator
from pipeline.lab.firmware import Firmware
from pipeline.lab.machine import Machine, MachineSpec
from pipeline.lab.shell import shell
from pipeline.lab.verify import Run, VerifyResult, verify

__all__ = [
    "Accelerator",
    "Firmware",
    "Kind",
    "Machine",
    "MachineSpec",
    "Run",
    "VerifyResult",
    "choose_accelerator",
    "shell",
    "verify",
]
