"""One throw-away virtual machine: an overlay over an image, booted in QEMU, reached by ssh on loopback.

The image is never written to. Everything of a machine but its serial log is in one directory, and QEMU is killed by the
kernel when we end, however we end.
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from pipeline.core import process, progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError, PipelineError, ToolError, VerificationError
from pipeline.lab import accelerator, seed
from pipeline.lab.accelerator import Accelerator
from pipeline.lab.console import ConsoleLog, dead_end
from pipeline.lab.firmware import Firmware, UefiFiles, find_uefi
from pipeline.lab.qmp import Qmp

GIB = 1024**3
NAME = "machine"  # how ssh_config calls it
POLL_SECONDS = 1.0
NOTE_SECONDS = 30.0
BANNER_SECONDS = 5.0
LONGEST_SOCKET_PATH = 85  # sun_path holds 108 bytes, and ssh adds a suffix of its own while it makes the socket


@dataclass(frozen=True)
class MachineSpec:
    """What a machine is.

    Attributes:
        image: disk image that it boots an overlay of, qcow2 or raw.
        arch: its architecture.
        firmware: what it starts with.
        hostname: its name.
        cpus: number of processors.
        memory: bytes of memory.
        disk_size: bytes its disk has; None for the image's own size.
        network: whether it may reach the outside; it is always reached by ssh.
        user_data: cloud-config besides the ssh key, by module.
    """

    image: Path
    arch: Architecture
    firmware: Firmware
    hostname: str = "node"
    cpus: int = 2
    memory: int = 2 * GIB
    disk_size: int | None = None
    network: bool = False
    user_data: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Files:
    """Where a machine keeps its files.

    Attributes:
        directory: private to the machine, and empty at first.
        serial_log: what the machine writes on its serial console.
    """

    directory: Path
    serial_log: Path

    @property
    def disk(self) -> Path:
        """Overlay over the image."""
        return self.directory / "disk.qcow2"

    @property
    def seed(self) -> Path:
        """Disk of cloud-init."""
        return self.directory / "seed.img"

    @property
    def variables(self) -> Path:
        """The machine's own UEFI variables."""
        return self.directory / "variables.fd"

    @property
    def firmware_log(self) -> Path:
        """What SeaBIOS says."""
        return self.directory / "firmware.log"

    @property
    def qemu_log(self) -> Path:
        """What QEMU itself says."""
        return self.directory / "qemu.log"

    @property
    def key(self) -> Path:
        """Private key that logs in."""
        return self.directory / "key"

    @property
    def ssh_config(self) -> Path:
        """Configuration for ssh."""
        return self.directory / "ssh_config"


def qemu_command(
    spec: MachineSpec, accel: Accelerator, files: Files, uefi: UefiFiles | None, monitor: int
) -> tuple[str, ...]:
    """Return the command line that runs a machine.

    Args:
        spec: what it is.
        accel: how it is run.
        files: where its files are.
        uefi: its firmware; None for BIOS.
        monitor: descriptor of QEMU's end of the control channel.
    """
    words = [accelerator.qemu_program(spec.arch), "-name", spec.hostname, *accel.options()]
    words += ["-smp", str(spec.cpus), "-m", str(spec.memory // 1024**2)]
    words += ["-nodefaults", "-no-user-config", "-display", "none"]
    words += ["-chardev", f"socket,id=monitor,fd={monitor}", "-mon", "chardev=monitor,mode=control"]
    words += ["-chardev", f"file,id=serial,path={_escape(files.serial_log)}", "-serial", "chardev:serial"]
    words += _firmware_options(spec, files, uefi)
    # The overlay is thrown away: nothing is gained by writing it out to the disk.
    words += ["-drive", f"if=none,id=root,format=qcow2,cache=unsafe,discard=unmap,file={_escape(files.disk)}"]
    words += ["-device", "virtio-blk-pci,drive=root,serial=root,bootindex=0"]
    words += ["-drive", f"if=none,id=seed,format=raw,readonly=on,file={_escape(files.seed)}"]
    words += ["-device", "virtio-blk-pci,drive=seed,serial=seed"]
    restrict = "" if spec.network else ",restrict=on"
    words += ["-netdev", f"user,id=net{restrict},hostfwd=tcp:127.0.0.1:0-:22"]  # port 0: one that is free
    words += ["-device", "virtio-net-pci,netdev=net,romfile="]  # no PXE
    words += ["-device", "virtio-rng-pci"]
    return tuple(words)


def _firmware_options(spec: MachineSpec, files: Files, uefi: UefiFiles | None) -> list[str]:
    if uefi is None:
        log = ["-chardev", f"file,id=firmware,path={_escape(files.firmware_log)}"]
        return [*log, "-device", "isa-debugcon,iobase=0x402,chardev=firmware"] if spec.arch.has_bios else []
    code, variables = uefi.code, uefi.variables
    return [
        "-drive", f"if=pflash,unit=0,readonly=on,format={code.format},file={_escape(code.path)}",
        "-drive", f"if=pflash,unit=1,format={variables.format},file={_escape(files.variables)}",
    ]  # fmt: skip


def _escape(path: Path) -> str:
    """Write a path as QEMU's option parser wants it."""
    return str(path).replace(",", ",,")


def ssh_config(port: int, files: Files) -> str:
    """Return an ssh_config that reaches a machine as NAME, as root, over one shared connection.

    A connection takes seconds to make under emulation, so it is kept; it ends with the machine.
    """
    socket_path = files.directory / "ssh.socket"
    control = f'"{socket_path}"' if len(str(socket_path)) <= LONGEST_SOCKET_PATH else "none"
    lines = {
        "HostName": "127.0.0.1",
        "Port": str(port),
        "User": "root",
        "IdentityFile": f'"{files.key}"',
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "PreferredAuthentications": "publickey",
        "BatchMode": "yes",
        "UserKnownHostsFile": f'"{files.directory / "known_hosts"}"',
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "accept-new",
        "LogLevel": "ERROR",
        "ConnectTimeout": "30",
        "ServerAliveInterval": "15",
        "ServerAliveCountMax": "8",
        "ControlMaster": "no" if control == "none" else "auto",
        "ControlPath": control,
        "ControlPersist": "no" if control == "none" else "600",
    }
    return f"Host {NAME}\n" + "".join(f"  {name} {value}\n" for name, value in lines.items())


def forwarded_port(usernet: str) -> int:
    """Return the port on loopback that leads to the machine's ssh, from QEMU's answer to ``info usernet``.

    Raises:
        ToolError: the answer does not name one.
    """
    match = re.search(r"TCP\[HOST_FORWARD\]\s+\d+\s+127\.0\.0\.1\s+(\d+)\s+\S+\s+22\b", usernet)
    if match is None:
        raise ToolError(f"QEMU forwards no port to the machine: {usernet!r}")
    return int(match[1])


class Machine:
    """A running machine: ``with Machine(spec, directory, serial_log) as machine: machine.wait_for_ssh()``.

    It ends with the context, and with this process. Enter the context in a thread that lives as long as the machine.

    Args:
        spec: what it is.
        directory: empty and private; holds its disk, keys and sockets.
        serial_log: file that keeps what it writes on its console, made anew.

    Raises:
        DependencyError: QEMU, its firmware or another program is not installed.
        InputError: the image cannot be used.
        ToolError: QEMU ended at once.
    """

    def __init__(self, spec: MachineSpec, directory: Path, serial_log: Path) -> None:
        self.spec = spec
        self.files = Files(directory.absolute(), serial_log.absolute())
        self.accelerator = accelerator.choose(spec.arch)
        self._undo = contextlib.ExitStack()
        self._serial = ConsoleLog(self.files.serial_log)
        self._firmware = ConsoleLog(self.files.firmware_log)

    def __enter__(self) -> Machine:
        with contextlib.ExitStack() as undo:
            uefi = find_uefi(self.spec.arch) if self.spec.firmware is Firmware.UEFI else None
            self._make_files(uefi)
            self._start(undo, uefi)
            self._undo = undo.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._undo.close()

    @property
    def pid(self) -> int:
        """Process id of its QEMU."""
        return self._qemu.pid

    def _make_files(self, uefi: UefiFiles | None) -> None:
        files, spec = self.files, self.spec
        files.serial_log.parent.mkdir(parents=True, exist_ok=True)
        files.serial_log.write_bytes(b"")
        self._make_overlay()
        words: list[process.Argument] = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f", files.key]
        process.run(words, what="making an ssh key")
        public_key = files.key.with_suffix(".pub").read_text(encoding="utf-8").strip()
        seed.write(seed.Seed(f"i-{uuid.uuid4().hex}", spec.hostname, [public_key], spec.user_data), files.seed)
        if uefi is not None:
            shutil.copyfile(uefi.variables.path, files.variables)

    def _make_overlay(self) -> None:
        image = self.spec.image.absolute()
        if not image.is_file():
            raise InputError(f"there is no image {image}", hint="build it: ./invoke build")
        shown = process.run(["qemu-img", "info", "--output=json", image], capture=True, what="reading the image")
        info = json.loads(shown.stdout)
        size = self.spec.disk_size
        if size is not None and size < info["virtual-size"]:
            raise InputError(f"a disk of {size} bytes cannot hold {image}, whose disk has {info['virtual-size']}")
        words: list[process.Argument] = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", info["format"]]
        words += ["-b", image, self.files.disk, *([] if size is None else [str(size)])]
        process.run(words, what="making the machine's disk")

    def _start(self, undo: contextlib.ExitStack, uefi: UefiFiles | None) -> None:
        ours, theirs = socket.socketpair()
        monitor = undo.enter_context(Qmp(ours))
        with theirs:
            command = qemu_command(self.spec, self.accelerator, self.files, uefi, theirs.fileno())
            self._qemu = undo.enter_context(
                process.background(command, output=self.files.qemu_log, pass_fds=[theirs.fileno()])
            )
        self._monitor = monitor
        self._started = time.monotonic()
        with self._blaming_qemu():
            monitor.greet()
            usernet = monitor.execute("human-monitor-command", {"command-line": "info usernet"})
        self.port = forwarded_port(str(usernet))
        self.files.ssh_config.write_text(ssh_config(self.port, self.files), encoding="utf-8")

    @contextlib.contextmanager
    def _blaming_qemu(self) -> Iterator[None]:
        """If QEMU is gone, say so with its own words."""
        try:
            yield
        except ToolError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._qemu.wait(BANNER_SECONDS)
            self._check_alive()
            raise

    def _check_alive(self) -> None:
        status = self._qemu.poll()
        if status is None:
            return
        ending = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"
        said = ConsoleLog(self.files.qemu_log).tail() or "  | (nothing)"
        raise ToolError(
            f"QEMU {ending}; it said:\n{said}\n"
            f"and the machine's console, {self.files.serial_log}:\n{self._serial.tail() or '  | (nothing)'}",
            hint="see docs/troubleshooting.md",
        )

    def wait_for_ssh(self, seconds: float | None = None) -> float:
        """Wait until a command can be run on the machine.

        Args:
            seconds: how long; by default what a boot may take here.

        Returns:
            Seconds since the machine was started.

        Raises:
            VerificationError: it did not come up, and will not or has had its time.
            ToolError: QEMU ended.
        """
        self._wait(self._answers, seconds, "ssh")
        return time.monotonic() - self._started

    def run(self, command: str, *, check: bool = True) -> process.Completed:
        """Run a command of the machine's shell as root.

        Args:
            command: as its shell reads it.
            check: raise if it fails.

        Raises:
            ToolError: it failed, or the connection did (exit status 255).
        """
        what = f"on the machine {self.spec.hostname}"
        return process.run(["ssh", "-F", self.files.ssh_config, NAME, command], capture=True, check=check, what=what)

    def reboot(self, seconds: float | None = None) -> float:
        """Have the machine reboot itself and wait until it is back.

        Returns:
            Seconds that took.

        Raises:
            VerificationError: it did not come back in time.
        """
        return self._come_back(lambda: self.run("systemctl reboot", check=False), seconds)

    def reset(self, seconds: float | None = None) -> float:
        """Press the reset button and wait until the machine is back.

        Returns:
            Seconds that took.

        Raises:
            VerificationError: it did not come back in time.
        """
        return self._come_back(lambda: self._monitor.execute("system_reset"), seconds)

    def shut_down(self, seconds: float = 120) -> None:
        """Press the power button and wait until the machine is off.

        Raises:
            VerificationError: it did not switch itself off in time.
        """
        self._monitor.execute("system_powerdown")
        try:
            self._qemu.wait(seconds)
        except subprocess.TimeoutExpired as error:
            raise self._late(f"did not switch off within {seconds:.0f} s") from error

    def _come_back(self, act: Callable[[], object], seconds: float | None) -> float:
        before, started = self._boot_id(), time.monotonic()
        act()
        self._disconnect()
        self._wait(lambda: self._answers() and self._boot_id() not in {"", before}, seconds, "ssh after a reboot")
        return time.monotonic() - started

    def _boot_id(self) -> str:
        return self.run("cat /proc/sys/kernel/random/boot_id", check=False).stdout.strip()

    def _disconnect(self) -> None:
        """Drop the shared connection: after a reset nobody tells ssh that the other side is gone."""
        process.run(["ssh", "-F", self.files.ssh_config, "-O", "exit", NAME], check=False)

    def _answers(self) -> bool:
        """Say whether ssh works; the banner is looked at first, because a connection costs the machine seconds."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), BANNER_SECONDS) as connection:
                connection.settimeout(BANNER_SECONDS)
                if connection.recv(4) != b"SSH-":
                    return False
        except OSError:
            return False
        return self.run("true", check=False).returncode == 0

    def _wait(self, is_up: Callable[[], bool], seconds: float | None, what: str) -> None:
        limit = self.accelerator.boot_seconds if seconds is None else seconds
        begun = noted = time.monotonic()
        while not is_up():
            self._check_alive()
            last = self._watch_console()
            now = time.monotonic()
            if now - begun > limit:
                raise self._late(f"did not answer to {what} within {limit:.0f} s")
            if last and now - noted > NOTE_SECONDS and not sys.stderr.isatty():
                noted = now
                progress.note(f"{self.spec.hostname}: {now - begun:.0f} s: {last}")
            time.sleep(POLL_SECONDS)

    def _watch_console(self) -> str:
        """Log what is new on the console and return the last line of it.

        Raises:
            VerificationError: it says that the machine will not come up.
        """
        lines = self._firmware.new_lines() + self._serial.new_lines()
        for line in lines:
            progress.log(f"{self.spec.hostname}| {line}")
            if dead_end(line):
                raise self._late(f"will not come up: {line.strip()!r}")
        return lines[-1] if lines else ""

    def _late(self, what: str) -> PipelineError:
        log = self.files.serial_log
        said = self._serial.tail() or self._firmware.tail() or "  | (nothing)"
        return VerificationError(
            f"the {self.spec.firmware} machine of {self.spec.image} {what}; the last lines of its console:\n{said}",
            hint=f"the whole console is in {log}; ./invoke shell boots the image for a look",
        )
