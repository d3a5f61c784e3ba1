"""A registry, spoken to by the OCI distribution specification: what goes in and what comes out is checked by hash."""

from __future__ import annotations

import urllib.parse
from typing import IO, TYPE_CHECKING

from pipeline.core.errors import InputError, NetworkError
from pipeline.oci import model
from pipeline.oci.auth import Scope
from pipeline.oci.model import Descriptor, digest_of, is_digest, matches
from pipeline.oci.options import RegistryOptions
from pipeline.oci.reference import is_host, is_repository, is_tag

if TYPE_CHECKING:
    from pathlib import Path

    import requests

OK, CREATED, ACCEPTED, NOT_FOUND = 200, 201, 202, 404
ACCEPT = ", ".join((model.OCI_INDEX, model.OCI_MANIFEST, model.DOCKER_LIST, model.DOCKER_MANIFEST))
LARGEST_MANIFEST = 8 * 1024**2  # registries refuse above 4 MiB
REFUSALS = (400, 401, 403, 404, 405)
PAGE = 1000
MISMATCH = "somebody between here and the registry changes what is sent, or the registry's storage is damaged"


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

    def put_blob(self, repo: str, descriptor: Descriptor, path: Path) -> None:
        """Send a blob: at once, and if that fails in chunks, from where the registry has got to.

        Args:
            repo: where to.
            descriptor: its digest and size; the registry checks them.
            path: the file.

        Raises:
            InputError: the file is not the blob.
            NetworkError: the registry does not take it.
        """
        from pipeline.oci import blobs

        _repository(repo)
        begun = self._begun.pop((repo, descriptor.digest), None)
        blobs.Upload(self.wire, repo, descriptor, path, self.options.chunk_size, begun).run()

    def tags(self, repo: str) -> tuple[str, ...]:
        """Return the tags of a repository, sorted; none if there is no such repository.

        Raises:
            NetworkError: the registry cannot be asked, or refuses.
        """
        found: set[str] = set()
        url: str | None = self.wire.url(f"{_repository(repo)}/tags/list?n={PAGE}")
        seen: set[str] = set()
        while url is not None and url not in seen:
            seen.add(url)
            response = self.wire.asked(lambda page=url: self.wire.send("GET", page, Scope(repo)))  # type: ignore[misc]
            if response.status_code == NOT_FOUND:
                break
            self._expect(response, f"{self.host}/{repo}: its tags", OK)
            found |= _names(response, f"{self.host}/{repo}")
            following = response.links.get("next", {}).get("url")
            url = urllib.parse.urljoin(response.url, following) if following else None
        return tuple(sorted(found))

    # --- asking

    def _ask(self, method: str, path: str, repo: str) -> requests.Response:
        headers = {"Accept": ACCEPT} if "/manifests/" in path else {}
        return self.wire.asked(lambda: self.wire.send(method, self.wire.url(path), Scope(repo), headers=headers))

    def _expect(self, response: requests.Response, what: str, *wanted: int) -> None:
        from pipeline.oci.wire import refuse

        if response.status_code not in wanted:
            self.wire.asked(lambda: refuse(response, what))


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


def _names(response: requests.Response, what: str) -> set[str]:
    try:
        return {str(tag) for tag in response.json()["tags"] or ()}
    except (ValueError, LookupError, TypeError) as error:
        raise NetworkError(f"{what}: its list of tags cannot be read", hint="check that this is a registry") from error
