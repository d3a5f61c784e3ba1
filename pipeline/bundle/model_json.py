"""Reads ``bundle.json`` strictly: a key too much, too few, or of another type is an error that names it."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pipeline.bundle.model import (
    KINDS,
    LEAN,
    STORES,
    VERSION,
    Attachment,
    Base,
    Blob,
    Bundle,
    BundleName,
    HeadFile,
    Image,
    LeanInfo,
    Needed,
    Volume,
    is_name,
)
from pipeline.core.errors import InputError
from pipeline.oci import Descriptor, Platform, is_digest, is_repository, is_tag

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_HEX = re.compile(r"[0-9a-f]{64}")
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_DAMAGED = "the file is damaged or was altered: copy the bundle again from where it was packed"
_NEWER = "use the bundle.pyz that lies beside the bundle, or a newer version of this program"


def read(data: bytes) -> Bundle:
    """Read ``bundle.json``; see :meth:`Bundle.from_bytes`.

    Raises:
        InputError: it is none, or of a version that is not known.
    """
    try:
        value = json.loads(data.decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f"bundle.json is not JSON: {error}", hint=_DAMAGED) from error
    version = value.get("version") if isinstance(value, dict) else None
    if version != VERSION:
        raise InputError(f"bundle.json is of version {version!r}; known is {VERSION}", hint=_NEWER)
    bundle = _Reader().bundle(value)
    if bundle.to_bytes() != data:  # else its identity would not be the sha256 of the file
        raise InputError("bundle.json is not written in its canonical form", hint=_DAMAGED)
    return bundle


class _Reader:
    def bundle(self, value: Any) -> Bundle:  # noqa: ANN401
        where = "bundle.json"
        keys = ["version", "kind", "name", "created", "store", "images", "blobs", "base", "volumes", "files", "lean"]
        found = self.keys(value, where, keys)
        base = self.keys(found["base"], "base", ["bundles", "digests"])
        bundle = Bundle(
            kind=self.one_of(found["kind"], "kind", KINDS),
            name=self.name(found["name"], "name"),
            created=self.time(found["created"], "created"),
            store=self.one_of(found["store"], "store", STORES),
            images=self.each(found["images"], "images", self.image),
            blobs=self.each(found["blobs"], "blobs", self.blob),
            base=Base(
                self.each(base["bundles"], "base.bundles", self.bundle_name),
                self.each(base["digests"], "base.digests", self.needed),
            ),
            volumes=self.each(found["volumes"], "volumes", self.volume),
            files=self.each(found["files"], "files", self.head_file),
            lean=None if found["lean"] is None else self.lean(found["lean"], "lean"),
        )
        _check_tags(bundle.images)
        _check_unique("blobs", [blob.digest for blob in bundle.blobs])
        _check_unique("volumes", [volume.name for volume in bundle.volumes])
        if bundle.lean is None and any(blob.stored == LEAN for blob in bundle.blobs):
            raise _wrong("lean", "is null, but blobs are stored lean")
        return bundle

    # --- parts

    def image(self, value: Any, where: str) -> Image:  # noqa: ANN401
        keys = ["source", "repository", "tags", "root", "platforms", "manifests", "left_out", "attachments"]
        found = self.keys(value, where, keys)
        return Image(
            source=self.text(found["source"], f"{where}.source"),
            repository=self.repository(found["repository"], f"{where}.repository"),
            tags=self.each(found["tags"], f"{where}.tags", self.tag),
            root=self.descriptor(found["root"], f"{where}.root"),
            platforms=self.each(found["platforms"], f"{where}.platforms", self.platform),
            manifests=self.each(found["manifests"], f"{where}.manifests", self.digest),
            left_out=self.each(found["left_out"], f"{where}.left_out", self.digest),
            attachments=self.each(found["attachments"], f"{where}.attachments", self.attachment),
        )

    def attachment(self, value: Any, where: str) -> Attachment:  # noqa: ANN401
        found = self.keys(value, where, ["subject", "tag", "root"])
        tag = None if found["tag"] is None else self.tag(found["tag"], f"{where}.tag")
        subject = self.digest(found["subject"], f"{where}.subject")
        return Attachment(subject, self.descriptor(found["root"], f"{where}.root"), tag)

    def blob(self, value: Any, where: str) -> Blob:  # noqa: ANN401
        found = self.keys(value, where, ["digest", "size", "stored"])
        stored = self.one_of(found["stored"], f"{where}.stored", STORES)
        return Blob(self.digest(found["digest"], f"{where}.digest"), self.size(found["size"], f"{where}.size"), stored)

    def needed(self, value: Any, where: str) -> Needed:  # noqa: ANN401
        found = self.keys(value, where, ["digest", "size", "repositories"])
        digest, size = self.digest(found["digest"], f"{where}.digest"), self.size(found["size"], f"{where}.size")
        return Needed(digest, size, self.each(found["repositories"], f"{where}.repositories", self.repository))

    def bundle_name(self, value: Any, where: str) -> BundleName:  # noqa: ANN401
        found = self.keys(value, where, ["id", "name"])
        return BundleName(self.digest(found["id"], f"{where}.id"), self.name(found["name"], f"{where}.name"))

    def volume(self, value: Any, where: str) -> Volume:  # noqa: ANN401
        found = self.keys(value, where, ["name", "size", "sha256"])
        name = self.text(found["name"], f"{where}.name")
        if "/" in name or name.startswith("."):
            raise _wrong(f"{where}.name", f"{name!r} is not a file's name")
        return Volume(name, self.size(found["size"], f"{where}.size"), self.sha256(found["sha256"], f"{where}.sha256"))

    def head_file(self, value: Any, where: str) -> HeadFile:  # noqa: ANN401
        found = self.keys(value, where, ["path", "size", "sha256"])
        path, size = self.text(found["path"], f"{where}.path"), self.size(found["size"], f"{where}.size")
        return HeadFile(path, size, self.sha256(found["sha256"], f"{where}.sha256"))

    def lean(self, value: Any, where: str) -> LeanInfo:  # noqa: ANN401
        found = self.keys(value, where, ["helper", "encoders", "chunker", "frame"])
        return LeanInfo(
            self.text(found["helper"], f"{where}.helper"),
            self.each(found["encoders"], f"{where}.encoders", self.mapping),
            self.mapping(found["chunker"], f"{where}.chunker"),
            self.mapping(found["frame"], f"{where}.frame"),
        )

    def descriptor(self, value: Any, where: str) -> Descriptor:  # noqa: ANN401
        try:
            return Descriptor.from_json(value)
        except InputError as error:
            raise _wrong(where, error.message) from error

    # --- values

    def keys(self, value: Any, where: str, wanted: Sequence[str]) -> Mapping[str, Any]:  # noqa: ANN401
        found = self.mapping(value, where)
        missing, unknown = sorted(set(wanted) - set(found)), sorted(set(found) - set(wanted))
        if missing or unknown:
            what = f"key {missing[0]!r} is missing" if missing else f"key {unknown[0]!r} is not known"
            raise _wrong(where, what)
        return found

    def mapping(self, value: Any, where: str) -> Mapping[str, Any]:  # noqa: ANN401
        if not isinstance(value, dict):
            raise _wrong(where, "is not an object")
        return value

    def each(self, value: Any, where: str, read: Any) -> tuple[Any, ...]:  # noqa: ANN401
        if not isinstance(value, list):
            raise _wrong(where, "is not a list")
        return tuple(read(one, f"{where}[{number}]") for number, one in enumerate(value))

    def text(self, value: Any, where: str) -> str:  # noqa: ANN401
        if not isinstance(value, str):
            raise _wrong(where, "is not a text")
        if not value.isprintable():  # it is shown on terminals
            raise _wrong(where, f"{value!r} has characters that cannot be shown")
        return value

    def time(self, value: Any, where: str) -> str:  # noqa: ANN401
        text = self.text(value, where)
        if not _TIME.fullmatch(text):
            raise _wrong(where, f"{text!r} is not a time as 2026-11-25T03:00:00Z")
        return text

    def repository(self, value: Any, where: str) -> str:  # noqa: ANN401
        text = self.text(value, where)
        if not is_repository(text):
            raise _wrong(where, f"{text!r} is not a repository")
        return text

    def size(self, value: Any, where: str) -> int:  # noqa: ANN401
        if type(value) is not int or value < 0:
            raise _wrong(where, "is not a size in bytes")
        return value

    def digest(self, value: Any, where: str) -> str:  # noqa: ANN401
        text = self.text(value, where)
        if not is_digest(text):
            raise _wrong(where, f"{text!r} is not a digest")
        return text

    def sha256(self, value: Any, where: str) -> str:  # noqa: ANN401
        text = self.text(value, where)
        if not _HEX.fullmatch(text):
            raise _wrong(where, f"{text!r} is not a sha256 in hexadecimal")
        return text

    def tag(self, value: Any, where: str) -> str:  # noqa: ANN401
        text = self.text(value, where)
        if not is_tag(text):
            raise _wrong(where, f"{text!r} is not a tag")
        return text

    def name(self, value: Any, where: str) -> str:  # noqa: ANN401
        text = self.text(value, where)
        if not is_name(text):
            raise _wrong(where, f"{text!r} is not a name of a bundle")
        return text

    def one_of(self, value: Any, where: str, known: Sequence[str]) -> str:  # noqa: ANN401
        text = self.text(value, where)
        if text not in known:
            raise _wrong(where, f"{text!r} is none of {', '.join(known)}")
        return text

    def platform(self, value: Any, where: str) -> Platform:  # noqa: ANN401
        words = self.text(value, where).split("/")
        if not 2 <= len(words) <= 3:
            raise _wrong(where, f"{value!r} is not a platform")
        return Platform(*words)


def _wrong(where: str, what: str) -> InputError:
    return InputError(f"bundle.json: {where}: {what}", hint=_DAMAGED)


def _check_tags(images: Sequence[Image]) -> None:
    seen: dict[str, str] = {}
    for image in images:
        for tag in image.tags:
            name = f"{image.repository}:{tag}"
            if seen.setdefault(name, image.root.digest) != image.root.digest:
                raise _wrong("images", f"two images are called {name}")


def _check_unique(where: str, names: Sequence[str]) -> None:
    twice = {name for name in names if names.count(name) > 1} if len(set(names)) != len(names) else set()
    if twice:
        raise _wrong(where, f"{min(twice)} is there twice")
