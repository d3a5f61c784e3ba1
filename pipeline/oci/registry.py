"""A registry, spoken to by the OCI distribution specification: what goes in and what comes out is checked by hash."""

from __future__ import annotations

import functools
import urllib.parse
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from pipeline.core.errors import InputError, NetworkError
from pipeline.oci import model
from pipeline.oci.auth import Scope
from pipeline.oci.faults import NotThereError
from pipeline.oci.model import Descriptor, digest_of, is_digest, matches
from pipeline.oci.options import RegistryOptions
from pipeline.oci.reference import is_host, is_repository, is_tag

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    import requests

    from pipeline.oci.upload import BlobContent

OK, CREATED, ACCEPTED, NO_CONTENT, BAD_REQUEST, NOT_FOUND = 200, 201, 202, 204, 400, 404
ACCEPT = ", ".join((model.OCI_INDEX, model.OCI_MANIFEST, model.DOCKER_LIST, model.DOCKER_MANIFEST))
LARGEST_MANIFEST = 8 * 1024**2  # registries refuse above 4 MiB
REFUSALS = (400, 401, 403, 404, 405)
UNKNOWN_PATH = (400, 404, 405, 406, 501)  # what registries answer that have no referrers API
UNSUPPORTED = (405, 501)
PAGE = 1000
ENABLE_DELETION = "enable deletion in the registry; docker-registry: storage.delete.enabled: true in its configuration"
MISMATCH = "somebody between here and the registry changes what is sent, or the registry's storage is damaged"


@dataclass(frozen=True)
class Referrers:
    """What refers to a manifest: signatures, attestations, bills of materials.

    Attributes:
        found: their manifests, as the registry lists them.
        has_api: whether the registry has the referrers API; if not, they stand in the index of the fallback tag.
    """

    found: tuple[Descriptor, ...]
    has_api: bool


class Registry:
    """A client of one registry; threads may share it. ``ref`` is a tag or a digest everywhere.

    What is asked for and is not there raises :class:`NotThereError`, every other fault a plain :class:`NetworkError`;
    both name the registry's answer and the next action.

    Args:
        host: ``host`` or ``host:port``.
        options: how to reach it.

    Raises:
        InputError: the host is none, or the authority's certificate is not there.
    """

    def __init__(self, host: str, options: RegistryOptions | None = None) -> None:
        from pipeline.oci.wire import Wire  # takes its time; a build needs none of it

        if not is_host(host):
            raise InputError(f"{host!r} is not a registry's host", hint="write host or host:port, without https://")
        self.host, self.options = host, options or RegistryOptions()
        self.wire = Wire(host, self.options)
        self._begun: dict[tuple[str, str], str] = {}

    # --- manifests

    def head_manifest(self, repo: str, ref: str) -> Descriptor | None:
        """Return what a tag or digest stands for; None if it is not there.

        Raises:
            NetworkError: the registry cannot be asked, or refuses.
        """
        response = self._ask("HEAD", f"{_repository(repo)}/manifests/{_ref(ref)}", repo)
        if response.status_code == NOT_FOUND:
            return None
        self._expect(response, f"{self.host}/{repo}: {ref}", OK)
        digest, size = response.headers.get("Docker-Content-Digest", ""), response.headers.get("Content-Length", "")
        media_type = response.headers.get("Content-Type", "").partition(";")[0]
        if not is_digest(digest) or not size.isdigit() or "/" not in media_type:
            return self.get_manifest(repo, ref)[0]
        if is_digest(ref) and digest != ref:
            raise NetworkError(f"{self.host}/{repo}: {ref}: the registry answers with {digest}", hint=MISMATCH)
        return Descriptor(media_type, digest, int(size))

    def get_manifest(self, repo: str, ref: str) -> tuple[Descriptor, bytes]:
        """Return a manifest and its bytes, checked against the digest that was asked for, or is announced.

        Raises:
            NotThereError: there is none.
            NetworkError: it cannot be had, or is not what it should be.
        """
        what = f"{self.host}/{repo}: {ref}"
        url = self.wire.url(f"{_repository(repo)}/manifests/{_ref(ref)}")
        response, data = self.wire.persist(lambda: self._read(url, Scope(repo), what))
        announced = response.headers.get("Docker-Content-Digest", "")
        for digest in (ref, announced):
            if is_digest(digest) and not matches(data, digest):
                raise NetworkError(f"{what}: its content has another hash: {digest_of(data)}", hint=MISMATCH)
        digest = ref if is_digest(ref) else announced if is_digest(announced) else digest_of(data)
        try:
            return Descriptor(_media_type(response, data), digest, len(data)), data
        except InputError as error:
            raise NetworkError(f"{what}: {error.message}", hint="check that this is a registry") from error

    def _read(self, url: str, scope: Scope, what: str) -> tuple[requests.Response, bytes]:
        """Ask once for a manifest, and take no more than a manifest may have."""
        from pipeline.oci.blobs import body
        from pipeline.oci.wire import refuse

        headers, data = {"Accept": ACCEPT}, bytearray()
        with self.wire.send("GET", url, scope, headers=headers, stream=True, once=True) as response:
            if response.status_code != OK:
                refuse(response, what)
            for chunk in body(response, what):
                data += chunk
                if len(data) > LARGEST_MANIFEST:
                    raise NetworkError(f"{what}: is larger than {LARGEST_MANIFEST} bytes: no manifest", hint=MISMATCH)
        return response, bytes(data)

    def put_manifest(self, repo: str, ref: str, data: bytes, media_type: str) -> Descriptor:
        """Write a manifest under a tag or its digest, read it back and compare every byte.

        Raises:
            NetworkError: the registry does not take it, or gives back something else.
        """
        wanted = Descriptor(media_type, ref if is_digest(ref) else digest_of(data), len(data))
        what = f"{self.host}/{repo}: {ref}"
        if not matches(data, wanted.digest):
            raise InputError(f"{what}: the manifest to be sent has another hash", hint="read the source again")
        path, scope = f"{_repository(repo)}/manifests/{_ref(ref)}", Scope(repo, push=True)
        headers = {"Content-Type": media_type}
        response = self.wire.asked(
            lambda: self.wire.send("PUT", self.wire.url(path), scope, headers=headers, body=data)
        )
        self._expect(response, what, CREATED, OK, ACCEPTED)
        found, back = self.get_manifest(repo, ref)
        if back != data or found.media_type != media_type:
            raise NetworkError(f"{what}: what was read back is not what was written", hint=MISMATCH)
        return wanted

    def delete_manifest(self, repo: str, ref: str) -> None:
        """Delete a manifest, with every tag that it has; or a tag alone, where the registry can do that.

        Raises:
            NotThereError: there is none, or no more: a request whose answer was lost is sent again.
            NetworkError: the registry cannot be asked, or does not delete.
        """
        what, path = f"{self.host}/{repo}: {ref}", f"{_repository(repo)}/manifests/{_ref(ref)}"
        response = self.wire.asked(lambda: self.wire.send("DELETE", self.wire.url(path), Scope(repo, delete=True)))
        said = f"HTTP status {response.status_code}"
        if response.status_code in UNSUPPORTED or "UNSUPPORTED" in response.text:
            raise NetworkError(f"{what}: the registry does not delete manifests: {said}", hint=ENABLE_DELETION)
        if not is_digest(ref) and response.status_code == BAD_REQUEST:
            hint = "name the manifest by its digest: this registry deletes no tags"
            raise NetworkError(f"{what}: the tag is not deleted: {said}", hint=hint)
        self._expect(response, what, ACCEPTED, OK, NO_CONTENT)

    # --- blobs

    def has_blob(self, repo: str, digest: str) -> bool:
        """Return whether a blob is in a repository.

        Raises:
            NetworkError: the registry cannot be asked, or refuses.
        """
        response = self._ask("HEAD", f"{_repository(repo)}/blobs/{_digest(digest)}", repo)
        if response.status_code == NOT_FOUND:
            return False
        self._expect(response, f"{self.host}/{repo}: {digest}", OK)
        return True

    def get_blob(self, repo: str, digest: str, target: Path | IO[bytes], *, size: int | None = None) -> int:
        """Fetch a blob; a broken connection is taken up again where it broke.

        Args:
            repo: where it is.
            digest: its name, which its content is checked against.
            target: a file, which appears when it is whole: until then it is ``.<name>.part`` beside it, which an
                interrupted process leaves for the next one. Or a stream, which is written to as bytes arrive: it is
                right only if this returns.
            size: its bytes, if known; no more than these are taken.

        Returns:
            Its bytes.

        Raises:
            NotThereError: there is none.
            NetworkError: it cannot be had, or is not what it should be.
            StorageError: it cannot be written.
        """
        from pipeline.oci import blobs

        url = self.wire.url(f"{_repository(repo)}/blobs/{_digest(digest)}")
        return blobs.fetch(self.wire, blobs.Source(repo, url, digest, size), target)

    def mount_blob(self, repo: str, digest: str, from_repo: str) -> bool:
        """Make a blob of another repository one of this one, without sending it.

        Returns:
            Whether the registry did it; if not, the blob has to be sent.

        Raises:
            NetworkError: the registry cannot be asked, or refuses.
        """
        query = urllib.parse.urlencode({"mount": _digest(digest), "from": _repository(from_repo)})
        url, scope = self.wire.url(f"{_repository(repo)}/blobs/uploads/?{query}"), Scope(repo, True, from_repo)
        response = self.wire.asked(lambda: self.wire.send("POST", url, scope))
        if response.status_code == CREATED:
            return True
        if response.status_code in REFUSALS:  # of the mount: whether we may write, the upload will tell
            return False
        self._expect(response, f"{self.host}/{repo}: {digest}", ACCEPTED)
        self._begun[repo, digest] = self.wire.location(response)  # it began an upload instead: the one to come
        return False

    def put_blob(
        self,
        repo: str,
        descriptor: Descriptor,
        source: BlobContent,
        *,
        begun: str | None = None,
        on_begun: Callable[[str], None] | None = None,
    ) -> None:
        """Send a blob: at once, and if that fails in chunks, from where the registry has got to.

        Args:
            repo: where to.
            descriptor: its digest and size; the registry checks them.
            source: the file, or what opens a stream of the blob's bytes from an offset on. It may be called again:
                after a fault, for what the registry has not got yet. What it raises comes out of here as it is.
            begun: where an earlier process had begun to send this blob, as ``on_begun`` was told; it is gone on with
                if the registry still knows it, and begun anew if not.
            on_begun: told a location that a later process may go on with, whenever the registry names another one.

        Raises:
            InputError: the source cannot be read, or is not the blob.
            NetworkError: the registry does not take it.
        """
        from pipeline.oci.upload import Content, Upload

        _repository(repo)
        fresh = self._begun.pop((repo, descriptor.digest), None)
        content = Content(descriptor, source)
        Upload(self.wire, repo, content, self.options.chunk_size, fresh=fresh, begun=begun, on_begun=on_begun).run()

    # --- lists

    def tags(self, repo: str) -> tuple[str, ...]:
        """Return the tags of a repository, sorted; none if there is no such repository.

        Raises:
            NetworkError: the registry cannot be asked, or refuses.
        """
        what = f"{self.host}/{_repository(repo)}: its tags"
        pages = self._pages(f"{repo}/tags/list?n={PAGE}", Scope(repo), what, (NOT_FOUND,))
        return tuple(sorted({name for page in pages for name in _names(page, "tags", what)}))

    def has_repository(self, repo: str) -> bool:
        """Return whether there may be something in a repository: not if the registry says that it knows none.

        Raises:
            NetworkError: the registry cannot be asked, or refuses.
        """
        what = f"{self.host}/{_repository(repo)}: its tags"
        return any(True for _ in self._pages(f"{repo}/tags/list?n=1", Scope(repo), what, (NOT_FOUND,)))

    def catalog(self) -> tuple[str, ...]:
        """Return the repositories of the registry, sorted.

        Raises:
            NetworkError: the registry cannot be asked, or does not tell: many tell only who may see everything.
        """
        what = f"{self.host}: the list of its repositories"
        pages = self._pages(f"_catalog?n={PAGE}", Scope(""), what)
        return tuple(sorted({name for page in pages for name in _names(page, "repositories", what)}))

    def referrers(self, repo: str, digest: str) -> Referrers:
        """Return what refers to a manifest, whether or not that is there itself.

        The referrers API is asked, and where there is none the fallback tag (OCI distribution specification 1.1,
        "Listing Referrers" and "Referrers Tag Schema").

        Raises:
            NetworkError: the registry cannot be asked, refuses, or gives something else.
        """
        what = f"{self.host}/{_repository(repo)}: what refers to {_digest(digest)}"
        pages = list(self._pages(f"{repo}/referrers/{digest}", Scope(repo), what, UNKNOWN_PATH))
        # Some answer with a web page whatever is asked.
        has_api = bool(pages) and all(_media_type(page, b"{}") == model.OCI_INDEX for page in pages)
        indexes = [page.content for page in pages] if has_api else self._fallback(repo, digest)
        try:
            listed = [one for data in indexes for one in model.links(data, model.OCI_INDEX).manifests]
        except InputError as error:
            raise NetworkError(f"{what}: {error.message}", hint="check that this is a registry") from error
        return Referrers(tuple({one.digest: one for one in listed}.values()), has_api)

    def _fallback(self, repo: str, digest: str) -> list[bytes]:
        try:
            return [self.get_manifest(repo, fallback_tag(digest))[1]]
        except NotThereError:
            return []

    def _pages(self, path: str, scope: Scope, what: str, missing: tuple[int, ...] = ()) -> Iterator[requests.Response]:
        """Yield the pages of a list; none if the first one is answered with a status that means that there is none."""
        url: str | None = self.wire.url(path)
        seen: set[str] = set()
        while url is not None and url not in seen:
            response = self.wire.asked(functools.partial(self.wire.send, "GET", url, scope))
            if not seen and response.status_code in missing:
                return
            self._expect(response, what, OK)
            yield response
            seen.add(url)
            following = response.links.get("next", {}).get("url")
            url = urllib.parse.urljoin(response.url, following) if following else None

    # --- asking

    def _ask(self, method: str, path: str, repo: str) -> requests.Response:
        headers = {"Accept": ACCEPT} if "/manifests/" in path else {}
        return self.wire.asked(lambda: self.wire.send(method, self.wire.url(path), Scope(repo), headers=headers))

    def _expect(self, response: requests.Response, what: str, *wanted: int) -> None:
        from pipeline.oci.wire import refuse

        if response.status_code not in wanted:
            self.wire.asked(lambda: refuse(response, what))


def fallback_tag(digest: str) -> str:
    """Return the tag of the index that lists what refers to a manifest, in a registry without the referrers API.

    Args:
        digest: the manifest's (OCI distribution specification 1.1, "Referrers Tag Schema").
    """
    algorithm, _, hexadecimal = _digest(digest).partition(":")
    return f"{algorithm}-{hexadecimal[:64]}"


def _repository(repo: str) -> str:
    if not is_repository(repo):
        raise InputError(f"{repo!r} is not a repository", hint="write it in lower case, such as platform/installer")
    return repo


def _ref(ref: str) -> str:
    if not is_tag(ref) and not is_digest(ref):
        raise InputError(f"{ref!r} is neither a tag nor a digest", hint="write v1.2.0 or sha256:<64 hex digits>")
    return ref


def _digest(digest: str) -> str:
    if not is_digest(digest):
        raise InputError(f"{digest!r} is not a digest", hint="write sha256:<64 hex digits>")
    return digest


def _media_type(response: requests.Response, data: bytes) -> str:
    """Return what a manifest says that it is; else what the registry says."""
    said = model.parse_manifest(data).get("mediaType")
    return said if isinstance(said, str) else response.headers.get("Content-Type", "").partition(";")[0]


def _names(response: requests.Response, key: str, what: str) -> set[str]:
    try:
        return {str(name) for name in response.json()[key] or ()}
    except (ValueError, LookupError, TypeError) as error:
        raise NetworkError(f"{what}: cannot be read", hint="check that this is a registry") from error
