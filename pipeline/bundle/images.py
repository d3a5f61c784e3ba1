"""``images.yaml``: which images go into a bundle, and what they are called at the site."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field, ValidationError, model_validator

from pipeline.core.document import Location, Model
from pipeline.core.document import load as load_document
from pipeline.core.errors import InputError
from pipeline.oci import Platform, Reference, is_repository, is_tag

_HINT = "check the path; the file lists images: ['registry.hq:5000/platform/app:v1', ...]"


@dataclass(frozen=True)
class Wanted:
    """An image that is to be carried.

    Attributes:
        reference: what it is called at headquarters, with a tag, a digest or both; a digest decides.
        repository: what its repository is called at the site.
        tags: what it is called there; none if only its digest names it.
        platforms: what is taken of an index; None for all that it has.
        is_exact: whether each of the platforms has to be there; else one of them is enough.
        fetched_from: where it is read, if that is not where its name says.
    """

    reference: Reference
    repository: str
    tags: tuple[str, ...] = ()
    platforms: tuple[Platform, ...] | None = None
    is_exact: bool = False
    fetched_from: Reference | None = None

    @property
    def place(self) -> Reference:
        """Where it is read."""
        return self.fetched_from or self.reference

    @property
    def names(self) -> tuple[str, ...]:
        """What it is called at the site, below the registry's host."""
        by_tag = tuple(f"{self.repository}:{tag}" for tag in self.tags)
        return by_tag or (f"{self.repository}@{self.reference.digest or self.reference}",)


@dataclass(frozen=True)
class ImageList:
    """Everything that a bundle shall carry.

    Attributes:
        images: the images.
        release_signatures: a directory or URL with ``sha256=<hex>/signature-<N>``; None if there are none to keep.
        payload: the release payload that named the images, whose signature is kept; None without one.
    """

    images: tuple[Wanted, ...]
    release_signatures: str | None = None
    payload: Reference | None = None

    def merged(self, other: ImageList) -> ImageList:
        """Return this list with another one after it.

        Raises:
            InputError: two different images would have one name at the site.
        """
        ours = {(wanted.reference, wanted.names) for wanted in self.images}
        added = [wanted for wanted in other.images if (wanted.reference, wanted.names) not in ours]
        both = (*self.images, *added)
        if problems := [what for _, what in clashes(enumerate(both))]:
            raise InputError("\n".join(problems), hint="give one of them another repository or other tags")
        signatures = self.release_signatures or other.release_signatures
        return ImageList(both, signatures, self.payload or other.payload)


def _reference(text: str) -> str:
    reference = _plain(Reference.parse, text)
    if reference.tag is None and reference.digest is None:
        raise ValueError(f"{text!r} has neither a tag nor a digest; write {text}:v1.2.0 or {text}@sha256:...")
    return text


def _platform(text: str) -> str:
    _plain(Platform.parse, text)
    return text


def _repository(text: str) -> str:
    if not is_repository(text):
        raise ValueError(f"{text!r} is not a repository; write it in lower case, such as platform/app")
    return text


def _tag(text: str) -> str:
    if not is_tag(text):
        raise ValueError(f"{text!r} is not a tag; write letters, digits, '.', '_' and '-', at most 128")
    return text


def _plain(parse: Any, text: str) -> Any:  # noqa: ANN401 - what the parser returns
    """Parse a text; pydantic shows a ValueError with the key that it belongs to."""
    try:
        return parse(text)
    except InputError as error:
        raise ValueError(f"{error.message}; {error.hint}") from error


Platforms = Annotated[
    tuple[Annotated[str, AfterValidator(_platform)], ...] | None,
    Field(min_length=1),
]


class _Entry(Model):
    """One image: its name, or a mapping that says more of it."""

    image: Annotated[str, AfterValidator(_reference)]
    repository: Annotated[str, AfterValidator(_repository)] | None = None
    tags: tuple[Annotated[str, AfterValidator(_tag)], ...] | None = None
    platforms: Platforms = None

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: object) -> object:
        return {"image": value} if isinstance(value, str) else value

    def wanted(self, platforms: tuple[str, ...] | None) -> Wanted:
        """Return what is meant; platforms are the file's, for an image that has none of its own."""
        reference = Reference.parse(self.image)
        own = (reference.tag,) if reference.tag else ()
        chosen = platforms if self.platforms is None else self.platforms
        return Wanted(
            reference=reference,
            repository=self.repository or reference.repository,
            tags=own if self.tags is None else self.tags,
            platforms=None if chosen is None else tuple(map(Platform.parse, chosen)),
            is_exact=self.platforms is not None,
        )


class _File(Model):
    images: Annotated[tuple[_Entry, ...], Field(min_length=1)]
    platforms: Platforms = None
    release_signatures: str | None = None


def load(path: Path) -> ImageList:
    """Read ``images.yaml``.

    Args:
        path: the file. A directory of release signatures that it names is looked for beside it.

    Raises:
        InputError: it cannot be read, or something in it is wrong; every problem is named with its line.
    """
    file = load_document(path, _File, missing=_HINT, also=_problems)
    signatures = file.release_signatures
    if signatures is not None and "://" not in signatures:
        signatures = str(path.parent / signatures)
    return ImageList(tuple(entry.wanted(file.platforms) for entry in file.images), signatures)


def _problems(data: object) -> Iterator[tuple[Location, str]]:
    """Find what is only wrong beside another entry; what is wrong in itself is told by its model."""
    entries = data.get("images") if isinstance(data, dict) else None
    right: list[tuple[int, Wanted]] = []
    for number, entry in enumerate(entries if isinstance(entries, list) else ()):
        try:
            right.append((number, _Entry.model_validate(entry).wanted(None)))
        except ValidationError:
            continue
    for number, what in clashes(right):
        yield ("images", number), what


def clashes(numbered: Iterable[tuple[int, Wanted]]) -> Iterator[tuple[int, str]]:
    """Find images that are listed twice, and names at the site that are given twice.

    Yields:
        The number of the later one, and what is wrong with it.
    """
    by_reference: set[Reference] = set()
    by_name: dict[str, Wanted] = {}
    for number, wanted in numbered:
        if wanted.reference in by_reference:
            yield number, f"{wanted.reference} is listed twice; give it all its tags in one entry"
        else:
            for name in wanted.names:
                if name in by_name and by_name[name] is not wanted:
                    yield number, f"{by_name[name].reference} and {wanted.reference} would both be {name} at the site"
        by_reference.add(wanted.reference)
        for name in wanted.names:
            by_name.setdefault(name, wanted)
        for tag in sorted({tag for tag in wanted.tags if wanted.tags.count(tag) > 1}):
            yield number, f"{wanted.reference}: the tag {tag} is there twice"
