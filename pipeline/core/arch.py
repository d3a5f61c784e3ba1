"""Every name an architecture goes by, in one place."""

from __future__ import annotations

import enum
import platform

from pipeline.core.errors import InputError


class Architecture(enum.StrEnum):
    """A machine architecture; its value is the name that users type and that dpkg and OCI use."""

    AMD64 = "amd64"
    ARM64 = "arm64"

    @classmethod
    def parse(cls, name: str) -> Architecture:
        """Return the architecture that any of its names stands for.

        Raises:
            InputError: nothing here is called so.
        """
        for arch in cls:
            if name.lower() in {arch.value, arch.rpm, arch.kernel}:
                return arch
        raise InputError(f"unknown architecture {name!r}", hint=f"use one of: {', '.join(cls)}")

    @classmethod
    def host(cls) -> Architecture:
        """Return the architecture of the machine this runs on."""
        return cls.parse(platform.machine())

    @property
    def deb(self) -> str:
        """Name in dpkg and apt."""
        return self.value

    @property
    def oci(self) -> str:
        """Name in an OCI image (``GOARCH``)."""
        return self.value

    @property
    def rpm(self) -> str:
        """Name in rpm and dnf (``$basearch``); ``uname -m`` says the same."""
        return {"amd64": "x86_64", "arm64": "aarch64"}[self]

    @property
    def qemu(self) -> str:
        """Suffix of ``qemu-system-*`` and of the binfmt entry ``qemu-*``."""
        return self.rpm

    @property
    def efi(self) -> str:
        """Suffix of EFI binaries (``shimx64.efi``); upper case in the fallback path (``BOOTX64.EFI``)."""
        return {"amd64": "x64", "arm64": "aa64"}[self]

    @property
    def grub_efi(self) -> str:
        """Name of the UEFI platform in GRUB (directory of its modules)."""
        return {"amd64": "x86_64-efi", "arm64": "arm64-efi"}[self]

    @property
    def kernel(self) -> str:
        """Name in the kernel's source tree (``ARCH=``)."""
        return {"amd64": "x86", "arm64": "arm64"}[self]

    @property
    def serial(self) -> str:
        """First serial console, as the kernel names it on virtual machines."""
        return {"amd64": "ttyS0", "arm64": "ttyAMA0"}[self]

    @property
    def has_bios(self) -> bool:
        """Whether machines of this kind may boot without UEFI."""
        return self is Architecture.AMD64
