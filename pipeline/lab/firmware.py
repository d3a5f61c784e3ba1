"""Firmware for guests: SeaBIOS, which QEMU brings along, or UEFI, whose files have to be found.

Distributions describe their UEFI builds in ``/usr/share/qemu/firmware/*.json``; sites may add to them or hide them with
files in ``/etc/qemu/firmware``. Where no description fits, the paths that are in use are tried.

Source: QEMU, docs/interop/firmware.json.
"""

from __future__ import annotations

import enum
import fnmatch
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import progress
from pipeline.core.arch import Architecture
from pipeline.core.errors import DependencyError, InputError

DESCRIPTION_DIRECTORIES = (Path("/etc/qemu/firmware"), Path("/usr/share/qemu/firmware"))  # the first has priority
# Enrolled keys or System Management Mode: such builds refuse an unsigned boot loader, or need a special machine.
UNWANTED_FEATURES = {"enrolled-keys", "requires-smm", "secure-boot"}
MACHINES = {Architecture.AMD64: "pc-q35-0", Architecture.ARM64: "virt-0"}
PACKAGES = {  # Debian and Ubuntu, RHEL family
    Architecture.AMD64: ("ovmf", "edk2-ovmf"),
    Architecture.ARM64: ("qemu-efi-aarch64", "edk2-aarch64"),
}
KNOWN_PATHS = {
    Architecture.AMD64: (
        ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"),
        ("/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"),
        ("/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"),
    ),
    Architecture.ARM64: (
        ("/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"),
        ("/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"),
        ("/usr/share/edk2/aarch64/QEMU_EFI-silent-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"),
    ),
}


class Firmware(enum.StrEnum):
    """What a machine starts with."""

    BIOS = "bios"
    UEFI = "uefi"

    @classmethod
    def parse(cls, name: str) -> Firmware:
        """Return the firmware of that name.

        Raises:
            InputError: there is none.
        """
        for firmware in cls:
            if name.lower() == firmware.value:
                return firmware
        raise InputError(f"unknown firmware {name!r}", hint=f"use one of: {', '.join(cls)}")

    @classmethod
    def of(cls, arch: Architecture) -> tuple[Firmware, ...]:
        """Return every firmware that machines of this architecture have, UEFI first."""
        return (cls.UEFI, cls.BIOS) if arch.has_bios else (cls.UEFI,)


@dataclass(frozen=True)
class FlashFile:
    """One flash chip's content.

    Attributes:
        path: the file, of the host's distribution: never written to.
        format: as QEMU names it.
    """

    path: Path
    format: str = "raw"


@dataclass(frozen=True)
class UefiFiles:
    """A UEFI build.

    Attributes:
        code: the firmware itself.
        variables: template of its variables; every machine gets a copy.
    """

    code: FlashFile
    variables: FlashFile


def find_uefi(arch: Architecture, directories: tuple[Path, ...] = DESCRIPTION_DIRECTORIES) -> UefiFiles:
    """Return this host's UEFI files for guests of an architecture: no Secure Boot, an empty variable store.

    Args:
        arch: the guests' architecture.
        directories: where descriptions are, the one with the highest priority first.

    Raises:
        DependencyError: none is installed.
    """
    for path in _descriptions(directories):
        found = _read(path, arch)
        if found is not None:
            return found
    for code, variables in KNOWN_PATHS[arch]:
        if Path(code).exists() and Path(variables).exists():
            return UefiFiles(FlashFile(Path(code)), FlashFile(Path(variables)))
    deb, rpm = PACKAGES[arch]
    raise DependencyError(
        f"no UEFI firmware for {arch} machines is installed",
        hint=f"run ./invoke once, or install {deb} (Debian, Ubuntu) or {rpm} (RHEL family)",
    )


def _descriptions(directories: tuple[Path, ...]) -> list[Path]:
    """Return the descriptions in order of preference; of two with one name, that of the first directory counts."""
    by_name: dict[str, Path] = {}
    for directory in reversed(directories):
        by_name |= {path.name: path for path in directory.glob("*.json")}
    return [by_name[name] for name in sorted(by_name)]


def _read(path: Path, arch: Architecture) -> UefiFiles | None:
    """Return the files of a description, or None if it is not for us or its files are not there."""
    text = path.read_text(encoding="utf-8")
    if not text.strip():
        return None  # an empty file is the standard's way to hide the description of that name
    try:
        return _files_of(json.loads(text), arch)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        progress.log(f"firmware description {path} is not understood: {type(error).__name__}: {error}")
        return None


def _files_of(description: Mapping[str, object], arch: Architecture) -> UefiFiles | None:
    if not _is_wanted(description, arch):
        return None
    mapping = description["mapping"]
    if not isinstance(mapping, dict):
        raise TypeError("mapping has to be an object")
    if mapping["device"] != "flash" or "nvram-template" not in mapping:
        return None
    code, variables = (_flash_file(mapping[name]) for name in ("executable", "nvram-template"))
    return UefiFiles(code, variables) if code.path.exists() and variables.path.exists() else None


def _flash_file(entry: Mapping[str, str]) -> FlashFile:
    return FlashFile(Path(entry["filename"]), entry.get("format", "raw"))


def _is_wanted(description: Mapping[str, object], arch: Architecture) -> bool:
    features, interfaces, targets = (description[name] for name in ("features", "interface-types", "targets"))
    if not isinstance(features, list) or not isinstance(interfaces, list) or not isinstance(targets, list):
        raise TypeError("features, interface-types and targets have to be lists")
    fits = any(
        target["architecture"] == arch.qemu
        and any(fnmatch.fnmatchcase(MACHINES[arch], pattern) for pattern in target["machines"])
        for target in targets
    )
    return fits and "uefi" in interfaces and not UNWANTED_FEATURES & set(features)
