"""The lab with the real QEMU: the probe, machines that cannot boot, and that nothing outlives its owner."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, ToolError, VerificationError
from pipeline.lab import Firmware, Kind, Machine, MachineSpec, accelerator
from pipeline.lab.accelerator import PROBE_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.vm

AMD64, ARM64 = Architecture.AMD64, Architecture.ARM64
# Of a foreign architecture KVM need not be probed: that saves its five seconds where it hangs.
FOREIGN = ARM64 if Architecture.host() is AMD64 else AMD64
ROOT = Path(__file__).parents[2]
OWNER = """
import sys, time
from pathlib import Path
from pipeline.core.arch import Architecture
from pipeline.lab import Firmware, Machine, MachineSpec

directory = Path(sys.argv[1])
spec = MachineSpec(directory / "blank.raw", Architecture(sys.argv[2]), Firmware.UEFI)
(directory / "machine").mkdir()
with Machine(spec, directory / "machine", directory / "serial.log") as machine:
    print(machine.pid, flush=True)
    machine.wait_for_ssh(300)
"""


@pytest.fixture
def blank(tmp_path: Path) -> Path:
    """A disk with nothing on it."""
    disk = tmp_path / "blank.raw"
    disk.write_bytes(bytes(1024**2))
    return disk


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    path = tmp_path / "machine"
    path.mkdir()
    return path


def is_running(pid: int) -> bool:
    """Whether a process is there and is more than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def is_gone(pid: int, seconds: float = 10) -> bool:
    deadline = time.monotonic() + seconds
    while is_running(pid):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


# ------------------------------------------------------------------------------------------ the probe


@pytest.mark.parametrize("arch", list(Architecture))
def test_probe_guest_ends_under_emulation(arch: Architecture) -> None:
    begun = time.monotonic()
    result = accelerator.probe(arch, Kind.TCG)
    assert result.works, result.detail
    assert time.monotonic() - begun < PROBE_SECONDS


def test_choice_for_this_machine_is_proven() -> None:
    begun = time.monotonic()
    chosen = accelerator.choose(Architecture.host())
    assert time.monotonic() - begun < PROBE_SECONDS + 5
    assert chosen.reason
    # A second look comes to the same end, whichever it is.
    assert accelerator.probe(Architecture.host(), Kind.KVM).works is (chosen.kind is Kind.KVM)


def test_probe_that_does_not_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "PROBE_SECONDS", 1)
    monkeypatch.setattr(accelerator, "_ARM64_WORDS", (0x14000000,))  # b .
    result = accelerator.probe(ARM64, Kind.TCG)
    assert not result.works
    assert "did not in 1 s" in result.detail


def test_probe_that_qemu_refuses_quotes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator, "emulated_cpu", lambda _: "no-such-cpu")
    result = accelerator.probe(ARM64, Kind.TCG)
    assert not result.works
    assert "no-such-cpu" in result.detail


# ----------------------------------------------------------------------------- machines that do not come up


@pytest.mark.parametrize(
    ("arch", "kind"), [(AMD64, Firmware.BIOS), (AMD64, Firmware.UEFI), (ARM64, Firmware.UEFI)], ids=str
)
def test_nothing_to_boot(blank: Path, directory: Path, arch: Architecture, kind: Firmware) -> None:
    before = blank.read_bytes()
    serial_log = directory.parent / "serial.log"
    with (
        pytest.raises(VerificationError, match=rf"the {kind} machine of {blank} will not come up") as caught,
        Machine(MachineSpec(blank, arch, kind, disk_size=8 * 1024**2), directory, serial_log) as machine,
    ):
        assert is_running(machine.pid)
        machine.wait_for_ssh(120)
    assert not is_running(machine.pid)
    assert str(serial_log) in caught.value.hint
    assert serial_log.exists()
    assert blank.read_bytes() == before


def test_deadline(blank: Path, directory: Path) -> None:
    serial_log = directory.parent / "serial.log"
    with (
        pytest.raises(
            VerificationError, match="did not answer to ssh within 1 s; the last lines of its console"
        ) as caught,
        Machine(MachineSpec(blank, FOREIGN, Firmware.UEFI), directory, serial_log) as machine,
    ):
        machine.wait_for_ssh(1)
    assert not is_running(machine.pid)
    assert str(serial_log) in caught.value.hint


def test_qemu_that_ends_at_once_is_quoted(blank: Path, directory: Path) -> None:
    spec = MachineSpec(blank, FOREIGN, Firmware.UEFI, cpus=100_000)
    with (
        pytest.raises(ToolError, match=r"QEMU ended with exit status 1; it said:\n(.*\n)*.*CPUs"),
        Machine(spec, directory, directory / "serial.log"),
    ):
        pass


def test_qemu_that_is_killed_is_missed(blank: Path, directory: Path) -> None:
    with (
        pytest.raises(ToolError, match="QEMU was ended by signal 9"),
        Machine(MachineSpec(blank, FOREIGN, Firmware.UEFI), directory, directory / "serial.log") as machine,
    ):
        os.kill(machine.pid, signal.SIGKILL)
        machine.wait_for_ssh(60)


def test_two_machines_at_once_get_different_ports(blank: Path, tmp_path: Path) -> None:
    spec = MachineSpec(blank, FOREIGN, Firmware.UEFI)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with (
        Machine(spec, tmp_path / "a", tmp_path / "a.log") as one,
        Machine(spec, tmp_path / "b", tmp_path / "b.log") as other,
    ):
        assert one.port != other.port


def test_image_that_is_not_there(tmp_path: Path, directory: Path) -> None:
    spec = MachineSpec(tmp_path / "no.qcow2", FOREIGN, Firmware.UEFI)
    with (
        pytest.raises(InputError, match="there is no image"),
        Machine(spec, directory, directory / "serial.log"),
    ):
        pass


def test_disk_smaller_than_the_image(blank: Path, directory: Path) -> None:
    spec = MachineSpec(blank, FOREIGN, Firmware.UEFI, disk_size=4096)
    with (
        pytest.raises(InputError, match="a disk of 4096 bytes cannot hold"),
        Machine(spec, directory, directory / "serial.log"),
    ):
        pass


# ------------------------------------------------------------------------------------------ the owner's end


def stopped(owner: subprocess.Popen[str]) -> None:
    owner.send_signal(signal.SIGINT)


def killed(owner: subprocess.Popen[str]) -> None:
    owner.kill()


@pytest.mark.parametrize("end", [killed, stopped])
def test_no_qemu_outlives_its_owner(blank: Path, tmp_path: Path, end: Callable[[subprocess.Popen[str]], None]) -> None:
    assert blank.exists()
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path), FOREIGN.value],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with owner:
        assert owner.stdout is not None
        pid = int(owner.stdout.readline())
        assert is_running(pid)
        end(owner)
        assert is_gone(pid)
        assert is_gone(owner.pid)
