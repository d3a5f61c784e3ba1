"""Writes a bundle: what it carries, plain or lean, as volumes that appear whole in the build directory."""

from __future__ import annotations

import contextlib
import datetime
import errno
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.bundle import field as site
from pipeline.bundle import portal, signature
from pipeline.bundle.archive import Archive
from pipeline.bundle.model import LEAN, PLAIN, Base, Blob, BlobSource, Bundle, Image, is_name
from pipeline.bundle.store import FULL, check_space, damaged
from pipeline.bundle.write import Writer
from pipeline.core import progress, publish
from pipeline.core.errors import InputError, StorageError, VerificationError
from pipeline.oci import Descriptor, links

if TYPE_CHECKING:
    from pipeline.bundle.lean_layers import LeanLayers

MB = 1e6
LOCKS = "logs"  # a directory beside the bundles; see publish.only_one


@dataclass(frozen=True)
class Contents:
    """What a bundle holds.

    Attributes:
        kind: ``full``, ``patch`` or ``upgrade``.
        name: what it is called.
        created: when, as ``2026-11-25T03:00:00Z``; see :func:`created`.
        images: the images that it lists.
        carried: every manifest, configuration and layer that it carries; layers that are alike stand near each other.
        base: what the site must have already.
        head_files: what is kept beside, by its path.
    """

    kind: str
    name: str
    created: str
    images: tuple[Image, ...]
    carried: tuple[Descriptor, ...]
    base: Base = field(default_factory=Base)
    head_files: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Options:
    """How a bundle is written.

    Attributes:
        out: the directory of bundles; this one becomes ``<out>/<name>``.
        store: ``plain`` or ``lean``.
        volume_size: bytes of a volume; None for one volume.
        chunk_size: bytes of the parts that ``chunks.json`` lists; None for no such list.
        key: private key that signs it; None for no signature.
        password: of the key.
        threads: layers that are looked at at once.
        work: directory of the store; ``<out>/.store`` if not given.
    """

    out: Path
    store: str = PLAIN
    volume_size: int | None = None
    chunk_size: int | None = None
    key: Path | None = None
    password: str = field(default="", repr=False)
    threads: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    work: Path | None = None


def created() -> str:
    """Return the time of a bundle: that of SOURCE_DATE_EPOCH if it is set (reproducible-builds.org), else now.

    Raises:
        InputError: the variable holds no time.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        seconds = int(text) if text else int(time.time())
        moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (ValueError, OverflowError, OSError) as error:
        raise InputError(f"SOURCE_DATE_EPOCH is {text!r}: no time", hint="set it to seconds since 1970") from error
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def everything(images: Iterable[Image], source: BlobSource) -> tuple[Descriptor, ...]:
    """Return every manifest, configuration and layer of some images, each once: what a full bundle carries.

    Args:
        images: the images; what they have left out is left out here.
        source: where their manifests are.

    Raises:
        VerificationError: a manifest is missing.
        InputError: one is none.
    """
    found: dict[str, Descriptor] = {}
    for image in images:
        listed = set(image.manifests)
        waiting = list(image.roots)
        while waiting:
            one = waiting.pop(0)
            if one.digest in found or one.digest not in listed:
                continue
            found[one.digest] = Descriptor(one.media_type, one.digest, one.size)
            with source.open_blob(one.digest) as file:
                inner = links(file.read(), one.media_type)
            waiting += inner.manifests
            for blob in inner.blobs:
                if not blob.is_foreign:
                    found.setdefault(blob.digest, Descriptor(blob.media_type, blob.digest, blob.size))
    return tuple(found.values())


def assemble(contents: Contents, source: BlobSource, options: Options, *, bases: Sequence[Archive] = ()) -> Archive:
    """Write a bundle and put it in place at once; an interrupted process leaves nothing that the next one minds.

    Args:
        contents: what it holds.
        source: where the blobs are.
        options: how it is written.
        bases: the bundles that a patch builds on; a lean one takes content from their layers.

    Returns:
        The bundle that was written.

    Raises:
        InputError: its name is none, or something else has its place.
        StorageError: it cannot be written.
        VerificationError: a blob is not what its digest says; it is named.
        ToolError: the helper failed.
    """
    target = _check(contents, options)
    with (
        _storage(options.out),
        publish.only_one(options.out, contents.name),
        # No name of a bundle has a tilde: what is left of v1 is told apart from what v1.2 is written to.
        publish.staging(options.out, f"{contents.name}~") as staged,
    ):
        (staged / "bundle").mkdir()
        (staged / "scratch").mkdir()
        with progress.step(f"bundle {contents.name}"):
            _write(contents, source, options, bases, staged)
        publish.publish(staged / "bundle", target)
    return Archive.open(target)


def _check(contents: Contents, options: Options) -> Path:
    target = options.out / contents.name
    if not is_name(contents.name) or contents.name == LOCKS:
        raise InputError(f"{contents.name!r} is not a bundle's name", hint="write letters, digits, '.', '_' and '-'")
    if options.store not in (PLAIN, LEAN):
        raise InputError(f"{options.store!r} is no way to store a bundle", hint=f"write {PLAIN} or {LEAN}")
    if options.key is not None:  # at once, not after everything was written
        signature.load_key(options.key, options.password)
    if options.chunk_size is not None:
        portal.check(options.chunk_size)
    if target.exists() and not (target / f"{contents.name}.bundle.000").is_file():
        raise InputError(f"{target}: is there, and is no bundle", hint="give the bundle another name, or remove it")
    return target


@contextlib.contextmanager
def _storage(path: Path) -> Iterator[None]:
    """Turn a failure of the file system into an error for the user."""
    try:
        yield
    except OSError as error:
        hint = FULL if error.errno in (errno.ENOSPC, errno.EDQUOT) else "check that it is writable for this user"
        raise StorageError(f"{error.filename or path}: {error.strerror}", hint=hint) from error


def _write(contents: Contents, source: BlobSource, options: Options, bases: Sequence[Archive], staged: Path) -> Bundle:
    pyz = site.build(staged / "scratch" / "bundle.pyz")  # at once: it may not be possible
    first, layers = _ordered(contents, source)
    lean = None
    if options.store == LEAN:
        from pipeline.bundle import lean_layers  # with the chunker, which plain bundles do not need

        lean = lean_layers.make(contents, source, layers, bases, options, staged / "scratch")
    stored_lean = lean.digests if lean else frozenset()
    plain = [*first, *sorted((one for one in layers if one.digest not in stored_lean), key=lambda one: one.digest)]
    check_space(options.out, sum(one.size for one in plain), "the bundle")
    blobs = [Blob(one.digest, one.size, LEAN if one.digest in stored_lean else PLAIN) for one in (*first, *layers)]
    bundle = Bundle(
        kind=contents.kind,
        name=contents.name,
        created=contents.created,
        store=LEAN if lean else PLAIN,
        images=contents.images,
        blobs=tuple(sorted(blobs, key=lambda one: one.digest)),
        base=replace(contents.base, digests=lean.needed) if lean else contents.base,
        volumes=(),
        files=(),
        lean=lean.info if lean else None,
    )
    with Writer(staged / "bundle", contents.name, options.volume_size) as writer:
        _add_plain(writer, plain, source)
        if lean:
            _add_lean(writer, lean)
        return writer.finish(
            bundle,
            head_files=contents.head_files,
            key=options.key,
            password=options.password,
            pyz=pyz,
            readme=site.readme,
            chunk_size=options.chunk_size,
        )


def _ordered(contents: Contents, source: BlobSource) -> tuple[list[Descriptor], list[Descriptor]]:
    """Return manifests and configurations by digest, and the rest in the order in which they are carried."""
    manifests = {digest for image in contents.images for digest in image.manifests}
    configs = set[str]()
    carried = {one.digest: one for one in contents.carried}
    for one in carried.values():
        if one.digest in manifests:
            with source.open_blob(one.digest) as file:
                data = file.read()
            if "config" in json.loads(data):
                configs.add(links(data, one.media_type).blobs[0].digest)
    first = manifests | configs
    head = sorted((one for one in carried.values() if one.digest in first), key=lambda one: one.digest)
    return head, [one for one in carried.values() if one.digest not in first]


def _add_plain(writer: Writer, blobs: Sequence[Descriptor], source: BlobSource) -> None:
    total, written = sum(one.size for one in blobs), 0
    for number, blob in enumerate(blobs, 1):
        progress.log(f"writing blob {number} of {len(blobs)}, {written / MB:.1f} of {total / MB:.1f} MB are written")
        try:
            with source.open_blob(blob.digest) as stream:
                writer.add(f"blobs/{blob.digest.replace(':', '/')}", blob.size, stream, digest=blob.digest)
        except VerificationError as error:
            raise damaged(source, blob.digest, error) from error
        written += blob.size


def _add_lean(writer: Writer, lean: LeanLayers) -> None:
    for digest, recipe in sorted(lean.recipes.items()):
        writer.add(f"lean/recipes/{digest.rpartition(':')[2]}", len(recipe), recipe)
    for number, frame in enumerate(lean.frames):
        with frame.open("rb") as stream:
            writer.add(f"lean/frames/{number:06d}.zst", frame.stat().st_size, stream)
        frame.unlink()  # its bytes are in the volume: the disk has to hold them once
