"""How guests are run: by KVM where it really works, by emulation elsewhere.

That ``/dev/kvm`` opens, or even that QEMU starts with it, proves nothing: there are machines where guests then hang,
or run a thousand times slower than under emulation. So KVM is used only after a small guest has come to its end under
it. The probe guests end in a quarter of a second under emulation, as a test shows: one that does not means a bad KVM.
"""

from __future__ import annotations

import enum
import functools
import os
import struct
import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import process, progress
from pipeline.core.arch import Architecture

KVM_DEVICE = Path("/dev/kvm")
PROBE_SECONDS = 5
TIMED_OUT = 128 + 9  # timeout(1), when it had to kill
QEMU_PATHS = ("/usr/libexec/qemu-kvm",)  # the RHEL family's own, which is on nobody's PATH

# A boot sector. It waits for two timer interrupts in real mode, enters long mode with paging, stores to memory 16
# million times, and powers off through ACPI (q35's port 0x604, as SeaBIOS sets it up). No other end is clean.
#
#       ljmp $0,$1f; 1: xor %ax,%ax; mov %ax,%ds; mov %ax,%es; mov %ax,%ss; mov $0x7c00,%sp
#       sti; mov 0x46c,%bx; 2: hlt; mov 0x46c,%ax; sub %bx,%ax; cmp $2,%ax; jb 2b; cli
#       cld; xor %eax,%eax; mov $0x1000,%edi; mov %edi,%cr3; mov $0xc00,%ecx; rep stosl
#       movw $0x2003,0x1000; movw $0x3003,0x2000; movw $0x83,0x3000; lgdt gdtr
#       mov %cr4,%eax; or $0x20,%al; mov %eax,%cr4; mov $0xc0000080,%ecx; rdmsr; or $1,%ah; wrmsr
#       mov $0x80000001,%eax; mov %eax,%cr0; ljmp $8,$3f
#       .code64; 3: mov $0x1000000,%ecx; 4: add %rcx,%rax; mov %rax,0x4000; dec %ecx; jnz 4b
#       mov $0x2000,%eax; mov $0x604,%edx; out %ax,%dx; 5: hlt; jmp 5b
#       gdt: .quad 0, 0x00209a0000000000; gdtr: .word 15; .long gdt
_AMD64_SECTOR = bytes.fromhex(
    "ea057c000031c08ed88ec08ed0bc007cfb8b1e6c04f4a16c0429d883f80272f5fafc6631c066bf001000000f22df66b9000c000066f3"
    "abc70600100320c70600200330c706003083000f0116a47c0f20e00c200f22e066b9800000c00f3280cc010f3066b8010000800f22c0"
    "ea717c0800b9000000014801c84889042500400000ffc975f1b800200000ba0406000066eff4ebfd000000000000000000000000009a"
    "20000f00947c0000"
)
_DISK_SIZE = 1024**2  # SeaBIOS refuses a disk of a single sector

# For arm64: the same loop, a wait for the virtual counter to move on by 1/64 s, then PSCI SYSTEM_OFF by hvc.
_ARM64_WORDS = (
    0xD2800001,  # movz x1, #0
    0xD2A02000,  # movz x0, #0x100, lsl #16
    0x10008004,  # adr x4, .+0x1000
    0x8B000021,  # 1: add x1, x1, x0
    0xF9000081,  # str x1, [x4]
    0xF1000400,  # subs x0, x0, #1
    0x54FFFFA1,  # b.ne 1b
    0xD53BE042,  # mrs x2, cntvct_el0
    0xD53BE003,  # mrs x3, cntfrq_el0
    0x8B431843,  # add x3, x2, x3, lsr #6
    0xD53BE042,  # 2: mrs x2, cntvct_el0
    0xEB03005F,  # cmp x2, x3
    0x54FFFFC3,  # b.lo 2b
    0x52800100,  # movz w0, #0x0008
    0x72B08000,  # movk w0, #0x8400, lsl #16
    0xD4000002,  # hvc #0
    0x14000000,  # b .
)


class Kind(enum.StrEnum):
    """What runs a guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True)
class Accelerator:
    """How guests of one architecture are run here.

    Attributes:
        kind: KVM or emulation.
        arch: the guests' architecture.
        reason: why, as the user is told.
    """

    kind: Kind
    arch: Architecture
    reason: str

    @property
    def boot_seconds(self) -> float:
        """How long a boot may take, in seconds, before it counts as hung."""
        return 180 if self.kind is Kind.KVM else 900

    def options(self) -> tuple[str, ...]:
        """Return QEMU's options for machine, accelerator and processor."""
        machine = {Architecture.AMD64: "q35", Architecture.ARM64: "virt"}[self.arch]
        if self.kind is Kind.KVM:
            if self.arch is Architecture.ARM64:
                return ("-machine", f"{machine},gic-version=host", "-accel", "kvm", "-cpu", "host")
            # On virtual hosts QEMU may die setting the MSR behind this feature, which tells of mitigations only.
            return ("-machine", machine, "-accel", "kvm", "-cpu", "host,arch-capabilities=off")
        # QEMU does not run amd64 guests with a thread per processor on hosts that order memory more weakly.
        is_weak = self.arch is Architecture.AMD64 and Architecture.host() is not Architecture.AMD64
        thread = "single" if is_weak else "multi"
        return ("-machine", machine, "-accel", f"tcg,thread={thread}", "-cpu", emulated_cpu(self.arch))


@dataclass(frozen=True)
class Probe:
    """What became of a probe guest.

    Attributes:
        works: it came to its end by itself.
        detail: what it did, in words.
    """

    works: bool
    detail: str


def emulated_cpu(arch: Architecture) -> str:
    """Return the processor model that boots fastest under emulation and still runs the last ten years' distributions.

    Seconds to the login prompt and to the end of cloud-init, Debian 12 under QEMU 7.2 on two cores: amd64: max 61
    and 77, Nehalem 43 and 55, qemu64 40 and 46, qemu64 with x86-64-v2 37 and 43. arm64: max 95 and 127,
    max,pauth-impdef=on 53 and 71, cortex-a72 58 and 89, cortex-a57 54 and 67.
    """
    if arch is Architecture.ARM64:
        return "cortex-a57"
    # x86-64-v2, which RHEL 9 needs, on a processor without Meltdown: page table isolation is dear under emulation.
    return "qemu64,+ssse3,+sse4.1,+sse4.2,+popcnt"


def qemu_program(arch: Architecture) -> str:
    """Return the path of the QEMU that emulates a whole machine of this architecture.

    Raises:
        DependencyError: it is not installed.
    """
    if arch is Architecture.host():
        for path in QEMU_PATHS:
            if os.access(path, os.X_OK):
                return path
    package = {Architecture.AMD64: "qemu-system-x86", Architecture.ARM64: "qemu-system-arm"}[arch]
    hint = f"run ./invoke once, or install {package} (Debian, Ubuntu) or qemu-kvm (RHEL family)"
    return process.require(f"qemu-system-{arch.qemu}", hint=hint)


@functools.cache
def choose(arch: Architecture) -> Accelerator:
    """Return how guests of this architecture are run here; asked once per process, and the user is told.

    Raises:
        DependencyError: QEMU is not installed.
    """
    qemu_program(arch)
    obstacle = _obstacle(arch)
    if not obstacle:
        result = probe(arch, Kind.KVM)
        obstacle = "" if result.works else f"/dev/kvm opens, but {result.detail}"
    kind = Kind.TCG if obstacle else Kind.KVM
    chosen = Accelerator(kind, arch, obstacle or "a probe guest ran under it")
    name = "emulation (TCG)" if chosen.kind is Kind.TCG else "KVM"
    progress.note(f"{arch} machines run by {name}: {chosen.reason}")
    return chosen


def _obstacle(arch: Architecture) -> str:
    """Say what rules KVM out without trying; empty if nothing does."""
    if arch is not Architecture.host():
        return f"this machine is {Architecture.host()}"
    if not KVM_DEVICE.exists():
        return f"there is no {KVM_DEVICE}"
    if not os.access(KVM_DEVICE, os.R_OK | os.W_OK):
        return f"{KVM_DEVICE} may not be opened by this user (group kvm may)"
    return ""


def probe(arch: Architecture, kind: Kind) -> Probe:
    """Run the probe guest of an architecture to its end, or for PROBE_SECONDS.

    Raises:
        DependencyError: QEMU is not installed.
    """
    with tempfile.TemporaryDirectory(prefix="lab-probe-") as directory:
        image = Path(directory) / "probe.img"
        image.write_bytes(probe_image(arch))
        die_with_us = ("setpriv", "--pdeathsig", "KILL")
        bounded = (*die_with_us, "timeout", "--signal=KILL", str(PROBE_SECONDS), *die_with_us)
        options = Accelerator(kind, arch, "probe").options()
        base = (qemu_program(arch), *options, "-m", "64", "-nodefaults", "-display", "none")
        said: list[str] = []
        done = process.run((*bounded, *base, *_probe_media(arch, image)), check=False, on_line=said.append)
    if done.returncode == 0:
        return Probe(True, "a guest ran to its end")
    if done.returncode in {TIMED_OUT, -9}:
        return Probe(False, f"a guest that should end in a fraction of a second did not in {PROBE_SECONDS} s")
    return Probe(False, f"QEMU ended with status {done.returncode}, saying {said[-1] if said else 'nothing'!r}")


def probe_image(arch: Architecture) -> bytes:
    """Return the probe guest: a disk with a boot sector (amd64), or a flat kernel (arm64)."""
    if arch is Architecture.ARM64:
        return struct.pack(f"<{len(_ARM64_WORDS)}I", *_ARM64_WORDS)
    return (_AMD64_SECTOR.ljust(510, b"\0") + b"\x55\xaa").ljust(_DISK_SIZE, b"\0")


def _probe_media(arch: Architecture, image: Path) -> tuple[str, ...]:
    if arch is Architecture.ARM64:
        return ("-kernel", str(image))
    return ("-drive", f"file={image},format=raw,if=virtio,readonly=on")
