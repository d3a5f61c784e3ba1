"""What an operating system is, as data: the models behind ``osprofiles/*.yaml``.

Every model is frozen and refuses keys it does not know. Loading, and errors with file and line, are in ``load``.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator, model_validator

from pipeline.core.arch import Architecture

MIB = 1024**2
SIZE_UNITS = {"M": MIB, "G": 1024**3}

Word = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9.+_:~-]*$")]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9A-F]{40}$")]
Size = Annotated[int, Field(gt=0, description="bytes; written as '64M' or '4G'")]


class Model(BaseModel):
    """Base of all profile models: frozen, strict about keys."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DebBase(Model):
    """A root tree from Debian package repositories.

    Attributes:
        suites: suites that are installed from; each must be offered by the machine's apt sources or the mirror.
        components: archive components.
        keyring: file of the host's keyring package that holds the signing keys.
        fingerprints: the only keys of that file that are trusted.
        exclude: dpkg path patterns that are never unpacked.
        keep: exceptions to ``exclude``.
    """

    kind: Literal["deb"]
    suites: tuple[Word, ...] = Field(min_length=1)
    components: tuple[Word, ...] = Field(min_length=1)
    keyring: str
    fingerprints: tuple[Fingerprint, ...] = Field(min_length=1)
    exclude: tuple[str, ...] = ()
    keep: tuple[str, ...] = ()


class Disk(Model):
    """How the image's disk is laid out.

    Attributes:
        size: virtual size in bytes; the root file system fills it, and grows with a larger disk.
        esp_size: size of the EFI system partition in bytes.
        ext4_features: exactly the ext4 features of the root file system, as ``mke2fs -O`` names them, limited to
            what the target's kernel, fsck and GRUB know.
    """

    size: Size
    esp_size: Size
    ext4_features: tuple[Word, ...] = Field(min_length=1)

    @field_validator("size", "esp_size", mode="before")
    @classmethod
    def _bytes(cls, value: object) -> object:
        match = re.fullmatch(r"(\d+)([MG])", str(value))
        if match is None:
            raise ValueError(f"{value!r} is not a size: write a whole number and M or G, as in '64M' or '4G'")
        return int(match[1]) * SIZE_UNITS[match[2]]


class Boot(Model):
    """How the image boots.

    Attributes:
        initramfs: the program that makes the initramfs inside the tree.
        efi_vendor: directory below ``EFI/`` that the signed GRUB reads its configuration from.
        grub_directory: where GRUB keeps its files, relative to the root.
        kernel_arguments: arguments besides ``root=`` and the consoles.
    """

    initramfs: Literal["initramfs-tools", "dracut"]
    efi_vendor: Word
    grub_directory: Word
    kernel_arguments: tuple[str, ...] = ()


class Expectations(Model):
    """What ``invoke verify`` expects of a booted image, beyond what every node must have.

    Attributes:
        os_release: keys of ``/etc/os-release`` and their values.
        services: units that must be enabled and active.
        disabled: units that must not run.
        packages: packages that must be installed.
        modules: kernel modules that must be loadable.
    """

    os_release: dict[str, str]
    services: tuple[Word, ...]
    disabled: tuple[Word, ...] = ()
    packages: tuple[Word, ...]
    modules: tuple[Word, ...]


class ArchSpec(Model):
    """What one architecture adds to a release.

    Attributes:
        packages: packages installed on this architecture only (kernel, boot loaders).
    """

    packages: tuple[Word, ...]


class Release(Model):
    """One release of an operating system.

    Attributes:
        codename: the distributor's name for it.
        base: where its root tree comes from.
        packages: packages of every architecture; dependencies follow by themselves.
        arch: the architectures it is built for.
        overlays: directories below ``overlays/``, applied in this order.
        boot: how it boots.
        disk: its disk.
        verify: what a booted image must show.
    """

    codename: Word
    base: DebBase
    packages: tuple[Word, ...] = Field(min_length=1)
    arch: dict[Architecture, ArchSpec] = Field(min_length=1)
    overlays: tuple[Word, ...]
    boot: Boot
    disk: Disk
    verify: Expectations


class Profile(Model):
    """An operating system and its releases.

    Attributes:
        name: what users type after ``--os``; also the file's name.
        title: what people call it.
        family: which package system it uses; stated, never inferred.
        default_release: the release that is built when none is named.
        releases: by the name that users type after ``--release``.
    """

    name: Word
    title: str
    family: Literal["deb", "rpm"]
    default_release: str
    releases: dict[str, Release] = Field(min_length=1)

    @model_validator(mode="after")
    def _default_exists(self) -> Profile:
        if self.default_release not in self.releases:
            raise ValueError(f"default_release {self.default_release!r} is not among the releases")
        return self
