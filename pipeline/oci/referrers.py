"""What refers to a manifest: how it is pushed, and how it is listed where the registry does not list it itself.

OCI distribution specification 1.1, "Pushing Manifests with Subject" and "Referrers Tag Schema": in a registry without
the referrers API, whoever pushes a manifest that names a subject keeps an index of all such, under a tag made of the
subject's digest.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import InputError, NetworkError
from pipeline.oci.faults import NotThereError
from pipeline.oci.model import OCI_INDEX, OCI_MANIFEST, Descriptor, canonical, digest_of, parse_manifest
from pipeline.oci.registry import fallback_tag

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from pipeline.oci.registry import Registry


def attach(registry: Registry, repo: str, subject: str, manifests: Sequence[bytes]) -> int:
    """Push manifests that name a subject, and see to it that they are found by it.

    Args:
        registry: where to.
        repo: the repository there, with the subject and with what the manifests list.
        subject: the digest that they name.
        manifests: image manifests, as they are to be written.

    Returns:
        Bytes that were sent; 0 if everything was there.

    Raises:
        NetworkError: the registry does not take them, or does not list them although it has the referrers API.
    """
    wanted = {digest_of(data): data for data in manifests}
    new = {digest: data for digest, data in wanted.items() if registry.head_manifest(repo, digest) is None}
    sent = _put(registry, repo, new)
    listed = registry.referrers(repo, subject)
    if not listed.has_api:
        return sent + _list(registry, repo, subject, wanted)
    absent = wanted.keys() - {one.digest for one in listed.found}
    if absent:  # it may have taken them before it learnt to list them
        sent += _put(registry, repo, {digest: wanted[digest] for digest in sorted(absent)})
        absent -= {one.digest for one in registry.referrers(repo, subject).found}
    if absent:
        hint = "the registry has the referrers API, but does not keep it up: its own log may say why"
        raise NetworkError(f"{registry.host}/{repo}: {min(absent)} is not listed with {subject}", hint=hint)
    return sent


def _put(registry: Registry, repo: str, manifests: Mapping[str, bytes]) -> int:
    for digest, data in manifests.items():
        registry.put_manifest(repo, digest, data, OCI_MANIFEST)
    return sum(map(len, manifests.values()))


def _list(registry: Registry, repo: str, subject: str, manifests: Mapping[str, bytes]) -> int:
    """Write the index of the fallback tag, unless it lists everything; what others listed there stays."""
    wanted = {
        digest: fallback_entry(Descriptor(OCI_MANIFEST, digest, len(data)), data) for digest, data in manifests.items()
    }
    tag = fallback_tag(subject)
    try:
        there = fallback_entries(registry.get_manifest(repo, tag)[1])
    except (NotThereError, InputError):  # whatever else it is, it lists nothing
        there = {}
    if wanted.keys() <= there.keys():
        return 0
    others = {digest: one for digest, one in there.items() if digest not in wanted}
    kept = [one for digest, one in others.items() if registry.head_manifest(repo, digest) is not None]
    data = fallback_index([*kept, *wanted.values()])
    registry.put_manifest(repo, tag, data, OCI_INDEX)
    return len(data)


def fallback_entries(data: bytes) -> dict[str, Any]:
    """Return what an index lists, as it stands there, by digest; nothing if it is none.

    Raises:
        InputError: it is no JSON object.
    """
    listed = parse_manifest(data).get("manifests")
    if not isinstance(listed, list):
        return {}
    return {one["digest"]: one for one in listed if isinstance(one, dict) and isinstance(one.get("digest"), str)}


def fallback_index(listed: Iterable[Any]) -> bytes:
    """Return the index of a fallback tag: the same for the same things, in whatever order they came."""
    ordered = sorted(listed, key=lambda one: str(one["digest"]))
    return canonical({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": ordered})


def fallback_entry(root: Descriptor, data: bytes) -> dict[str, Any]:
    """Return how something stands in the index of a fallback tag: with its type and its annotations.

    Args:
        root: what refers to a manifest.
        data: its own manifest. Its type is its ``artifactType``; of an image without one, that of its configuration.
    """
    manifest = json.loads(data.decode())
    found: dict[str, Any] = {"mediaType": root.media_type, "digest": root.digest, "size": root.size}
    kind = manifest.get("artifactType") or (manifest.get("config") or {}).get("mediaType")
    if kind:
        found["artifactType"] = kind
    if manifest.get("annotations"):
        found["annotations"] = manifest["annotations"]
    return found
