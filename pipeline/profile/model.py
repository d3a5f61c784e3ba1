"""What an operating system is, as data: the models behind ``osprofiles/*.yaml``.

Every model is frozen and refuses keys it does not know. Loading, and errors with file and line, are in ``load``.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from pipeline.core.arch import Architecture

MIB = 1024**2
SIZE_UNITS = {"M": MIB, "G": 1024**3}

WORD = r"^[A-Za-z0-9][A-Za-z0-9.+_:~-]*$"
FINGERPRINT = r"^[0-9A-F]{40}$"
ABSOLUTE_PATH = r"^/\S*$"
RELATIVE_PATH = r"^[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*$"
ARGUMENT = r"^\S+$"
URL = r"^(https?|file)://[^\s?#]+$"
PATTERN_MEANINGS = {
    WORD: "a word that begins with a letter or digit, followed by letters, digits or any of . + _ : ~ -",
    FINGERPRINT: "a key's full fingerprint: 40 hexadecimal digits, capitals, no spaces",
    ABSOLUTE_PATH: "an absolute path without spaces, beginning with /",
    RELATIVE_PATH: "a path below the root, without a leading / and without ..",
    ARGUMENT: "one argument, without spaces",
    URL: "a URL that begins with https://, http:// or file://, without spaces and query",
}

Word = Annotated[str, StringConstraints(pattern=WORD)]
Fingerprint = Annotated[str, StringConstraints(pattern=FINGERPRINT)]
AbsolutePath = Annotated[str, StringConstraints(pattern=ABSOLUTE_PATH)]
RelativePath = Annotated[str, StringConstraints(pattern=RELATIVE_PATH)]
Argument = Annotated[str, StringConstraints(pattern=ARGUMENT)]
Url = Annotated[str, StringConstraints(pattern=URL)]
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
        avoid: packages that are never installed; where one is an alternative, the other one is taken.
    """

    kind: Literal["deb"]
    suites: tuple[Word, ...] = Field(min_length=1)
    components: tuple[Word, ...] = Field(min_length=1)
    keyring: AbsolutePath
    fingerprints: tuple[Fingerprint, ...] = Field(min_length=1)
    exclude: tuple[AbsolutePath, ...] = ()
    keep: tuple[AbsolutePath, ...] = ()
    avoid: tuple[Word, ...] = ()


class RpmRepository(Model):
    """A package repository of an RPM distribution.

    Attributes:
        id: its name in messages, and of its directory on a mirror and on a medium.
        url: where it is; dnf's ``$basearch`` and ``$releasever`` are filled in.
        arch: architectures that have it; all of them if empty.
    """

    id: Word
    url: Url
    arch: tuple[Architecture, ...] = ()

    @field_validator("id")
    @classmethod
    def _is_no_section(cls, value: str) -> str:
        if value == "main":
            raise ValueError("'main' is the name of dnf's own settings (dnf.conf(5)): call the repository otherwise")
        return value


class RpmBase(Model):
    """A root tree from RPM packages: from repositories, or from a medium that holds them.

    Attributes:
        lineage: whose packaging it follows; decides names and tools, and is stated, never inferred from ``ID``.
        releasever: dnf's ``$releasever``.
        module_platform_id: dnf's setting of that name; an empty tree cannot tell it.
        repositories: where packages come from.
        keys: URLs of files with the signing keys; a medium's own key files and release package are looked into as well.
        fingerprints: the only keys that are accepted, wherever they were found.
        database: the target's rpm database directory.
        release_package: package that carries the distribution's identity; the first that is installed.
        avoid: packages that are never installed.
        languages: locales that are installed.
    """

    kind: Literal["rpm"]
    lineage: Literal["el7", "el8", "el9", "el10", "openeuler"]
    releasever: Word
    module_platform_id: Argument | None = None
    repositories: tuple[RpmRepository, ...] = Field(min_length=1)
    keys: tuple[Url, ...] = ()
    fingerprints: tuple[Fingerprint, ...] = Field(min_length=1)
    database: RelativePath
    release_package: Word
    avoid: tuple[Word, ...] = ()
    languages: tuple[Word, ...] = ("C", "C.UTF-8", "en_US.UTF-8")


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

    @field_validator("esp_size", mode="after")
    @classmethod
    def _fits(cls, esp_size: int, info: ValidationInfo) -> int:
        size = info.data.get("size")
        if size is not None and esp_size >= size:
            raise ValueError("must be smaller than the disk's size")
        return esp_size


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
    grub_directory: RelativePath
    kernel_arguments: tuple[Argument, ...] = ()


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
        page_size: bytes of a memory page of its kernel; programs that were built for smaller ones die on 65536.
    """

    packages: tuple[Word, ...]
    page_size: Literal[4096, 65536] = 4096


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
    base: Annotated[DebBase | RpmBase, Field(discriminator="kind")]
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
        releases: by the name that users type after ``--release``; it is part of file names.
        default_release: the release that is built when none is named.
    """

    name: Word
    title: str
    family: Literal["deb", "rpm"]
    releases: dict[Word, Release] = Field(min_length=1)
    default_release: str

    # A field's validator, not the model's: it runs, and names its line, even when other keys are wrong too.
    @field_validator("default_release", mode="after")
    @classmethod
    def _default_exists(cls, default_release: str, info: ValidationInfo) -> str:
        releases = info.data.get("releases")
        if releases is not None and default_release not in releases:
            raise ValueError(f"{default_release!r} is not among the releases: {', '.join(releases)}")
        return default_release
