"""Where the packages of an RPM tree come from: the profile's repositories, or a mirror in their place."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from pydantic import BaseModel, ConfigDict

from pipeline.core import download
from pipeline.core.arch import Architecture
from pipeline.core.errors import InputError
from pipeline.core.network import redact
from pipeline.image import tree
from pipeline.profile import RpmBase

INDEX = "repodata/repomd.xml"
KEY_FILES = "RPM-GPG-KEY*"
SPLIT = ("BaseOS", "AppStream")  # how the EL8 lineage divides a mirror or a medium


class Repository(BaseModel):
    """One package repository, resolved.

    Attributes:
        id: its name in messages and in dnf's configuration.
        url: where it is, without credentials.
        index: sha256 of its index if it lies on this machine, where asking costs nothing; else empty.
        keys: files on this machine that may hold its signing keys.
        proxy: URL of what answers for the whole of it in place of its host, such as a medium; empty if nothing does.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    url: str
    index: str = ""
    keys: tuple[Path, ...] = ()
    proxy: str = ""

    @property
    def directory(self) -> Path | None:
        """Where it lies on this machine; None if it does not."""
        parts = urlsplit(self.url)
        return Path(unquote(parts.path)) if parts.scheme == "file" else None


def resolve(base: RpmBase, arch: Architecture, mirror: str | None) -> tuple[Repository, ...]:
    """Find where the packages of a profile come from.

    Args:
        base: the profile's base.
        arch: the architecture.
        mirror: URL or directory in place of the profile's repositories, or None. It may hold a directory for each
            repository's id, or BaseOS and AppStream, or be one repository itself.

    Raises:
        InputError: the mirror holds no repository, or its URL carries a password; or the profile has none for this
            architecture.
        NetworkError: the mirror does not answer.
    """
    wanted = [entry for entry in base.repositories if not entry.arch or arch in entry.arch]
    if not wanted:
        raise InputError(f"the profile has no repository for {arch}", hint="add one, or name a mirror with --mirror")
    if mirror is not None:
        return _on_mirror(_as_url(mirror), [entry.id for entry in wanted])
    urls = [(entry.id, entry.url) for entry in wanted]
    names = {"$basearch": arch.rpm, "$releasever": base.releasever}
    return tuple(_repository(name, _filled(url, names), ()) for name, url in urls)


def _filled(url: str, names: dict[str, str]) -> str:
    for name, value in names.items():
        url = url.replace(name, value)
    return url.rstrip("/")


def _as_url(mirror: str) -> str:
    if "://" not in mirror:
        path = Path(mirror).absolute()
        if not path.is_dir():
            raise InputError(f"there is no directory {mirror}", hint="--mirror takes a URL or a directory")
        return f"file://{quote(str(path))}"
    if redact(mirror) != mirror:
        raise InputError(
            "--mirror must not carry a password or a query", hint="put the credentials in ~/.netrc (see netrc(5))"
        )
    return mirror.rstrip("/")


def _on_mirror(mirror: str, ids: Sequence[str]) -> tuple[Repository, ...]:
    directory = Repository(id="mirror", url=mirror).directory
    keys = tuple(sorted(directory.glob(KEY_FILES))) if directory else ()
    for layout in (tuple(ids), SPLIT, ("",)):
        places = [(name or "mirror", f"{mirror}/{name}".rstrip("/")) for name in layout]
        if all(download.exists(f"{url}/{INDEX}") for _, url in places):
            return tuple(_repository(name, url, keys) for name, url in places)
    raise InputError(
        f"{mirror} holds no package repository: there is no {INDEX} in it, nor in {', '.join([*ids, *SPLIT])}",
        hint="name the directory that has repodata/, or the one above BaseOS/ and AppStream/",
    )


def known(name: str, url: str) -> Repository:
    """Return a repository that was used before, which may be gone; one on this machine with its key files.

    Args:
        name: its id.
        url: where it was.
    """
    found = Repository(id=name, url=url)
    places = (found.directory, found.directory.parent) if found.directory else ()
    return found.model_copy(update={"keys": tuple(key for place in places for key in sorted(place.glob(KEY_FILES)))})


def _repository(name: str, url: str, keys: tuple[Path, ...]) -> Repository:
    found = Repository(id=name, url=url, keys=keys)
    if found.directory is None:
        return found
    index = found.directory / INDEX
    if not index.is_file():
        raise InputError(f"{found.directory} is no package repository: it has no {INDEX}", hint="make it: createrepo_c")
    return found.model_copy(update={"index": tree.file_sha256(index)})
