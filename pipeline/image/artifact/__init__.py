"""Node images in an OCI registry: disks that KubeVirt, podman, skopeo and oras can pull, with all that belongs to them.

The names here import the rest when they are called: a build needs none of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.core.arch import Architecture
    from pipeline.oci import RegistryOptions

__all__ = ["Pushed", "fetch", "publish", "pull", "push"]


@dataclass(frozen=True)
class Pushed:
    """An image that is in a registry.

    Attributes:
        reference: its name there, ``host/path:<os>-<release>-<arch>@<digest>``: what :func:`pull` takes.
        digest: of the image's manifest.
        index: digest of the index of all architectures, whose tag is ``<os>-<release>``.
        sent: bytes that were sent; 0 if everything was there.
    """

    reference: str
    digest: str
    index: str
    sent: int


def push(directory: Path, reference: str, options: RegistryOptions | None = None) -> Pushed:
    """Push a built image; what the registry has is not sent again.

    Args:
        directory: ``build/<os>-<release>-<arch>/``.
        reference: where to, ``host[:port]/path``; the tags follow from what the image is.
        options: how the registry is reached.

    Raises:
        InputError: the image is not there or not whole, changes meanwhile, or ``reference`` is no such name.
        VerificationError: the image is not what its checksums say.
        NetworkError: the registry does not take it. Pushing again goes on from there.
    """
    from pipeline.image.artifact import sending

    return sending.push(directory, reference, options)


def pull(
    reference: str, target: Path, options: RegistryOptions | None = None, *, arch: Architecture | None = None
) -> Path:
    """Pull an image that :func:`push` has pushed; it appears in ``target`` whole and verified, or not at all.

    Args:
        reference: ``host[:port]/path:tag`` or ``...@digest``.
        target: directory that gets a directory of the image's name; one that is there is replaced, and one that has
            the very same image is left as it is.
        options: how the registry is reached.
        arch: which image, if the reference is that of several architectures.

    Returns:
        The image's directory.

    Raises:
        InputError: what is there is not a node image, or one of several architectures is not chosen.
        NetworkError: it cannot be had.
        VerificationError: its parts are not what its checksums say.
        StorageError: it cannot be written.
    """
    from pipeline.image.artifact import fetching

    return fetching.pull(reference, target, options, arch)


def publish(
    names: Sequence[str], build_dir: Path, to: str, options: RegistryOptions | None = None, *, only_built: bool = False
) -> tuple[Pushed, ...]:
    """Push images one after the other; the first that cannot be pushed ends it.

    Args:
        names: of the images, ``<os>-<release>-<arch>``.
        build_dir: directory that holds all images.
        to: ``host[:port]/path``.
        options: how the registry is reached.
        only_built: leave out those that are not built.

    Raises:
        InputError: there is none to push; and as :func:`push`.
    """
    from pipeline.image.artifact import sending

    return sending.publish(names, build_dir, to, options, only_built=only_built)


def fetch(
    names: Sequence[str], build_dir: Path, repository: str, options: RegistryOptions | None = None
) -> tuple[Path, ...]:
    """Pull images one after the other; the first that cannot be pulled ends it.

    Args:
        names: of the images, ``<os>-<release>-<arch>``.
        build_dir: directory that gets them.
        repository: ``host[:port]/path``.
        options: how the registry is reached.

    Returns:
        Their directories.

    Raises:
        InputError: ``repository`` is no such name; and as :func:`pull`.
    """
    from pipeline.image.artifact import fetching

    return fetching.fetch(names, build_dir, repository, options)
