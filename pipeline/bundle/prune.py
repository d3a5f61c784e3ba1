"""Removes from the site's registry what only older bundles brought: planned first, by digest, kept in doubt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.bundle.listing import table
from pipeline.bundle.model import PATCH
from pipeline.core import progress
from pipeline.core.errors import InputError
from pipeline.core.parallel import each
from pipeline.oci import OCI_INDEX, NotThereError, digest_of, fallback_entries, fallback_index, fallback_tag, links

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from pipeline.bundle.model import Bundle, Image
    from pipeline.oci import Registry

TITLES = ("repository", "tags removed", "manifests removed", "kept")
COLLECT = (
    "the bytes are freed by the registry's own garbage collection: 'registry garbage-collect CONFIG' for "
    "docker-registry, while nobody writes to it"
)


@dataclass(frozen=True)
class RepositoryPlan:
    """What is to be done in one repository.

    Attributes:
        repository: its path at the site.
        tags: tags that go with what they stand for.
        manifests: digests that are deleted, those that list others before these.
        kept: what an old bundle brought and stays, and why.
        rewritten: fallback tags whose index loses entries, and that index.
    """

    repository: str
    tags: tuple[str, ...]
    manifests: tuple[str, ...]
    kept: tuple[tuple[str, str], ...]
    rewritten: tuple[tuple[str, bytes], ...] = ()


@dataclass(frozen=True)
class PrunePlan:
    """What is to be removed.

    Attributes:
        host: from which registry.
        repositories: what is to be done in each repository.
    """

    host: str
    repositories: tuple[RepositoryPlan, ...]

    @property
    def count(self) -> int:
        """How many manifests are removed."""
        return sum(len(one.manifests) for one in self.repositories)

    def text(self) -> str:
        """Return it for the user."""
        if not self.count:
            return f"{self.host}: nothing to remove"
        lines = table([TITLES, *(_row(one) for one in self.repositories)])
        for one in self.repositories:
            lines += ["", *(f"{one.repository}:{tag} is removed" for tag in one.tags)]
            lines += [f"{one.repository}@{digest} is removed" for digest in one.manifests]
            lines += [f"{one.repository}:{tag} lists less" for tag, _ in one.rewritten]
            lines += [f"{one.repository}@{digest} is kept: {why}" for digest, why in one.kept]
        return "\n".join([*lines, "", COLLECT])


def _row(plan: RepositoryPlan) -> tuple[str, ...]:
    return plan.repository, str(len(plan.tags)), str(len(plan.manifests)), str(len(plan.kept))


@dataclass(frozen=True)
class PruneSummary:
    """What was removed.

    Attributes:
        host: from which registry.
        manifests: how many manifests.
        tags: how many tags.
        gone: how many manifests somebody else had removed meanwhile.
    """

    host: str
    manifests: int
    tags: int
    gone: int

    def text(self) -> str:
        """Return it for the user."""
        gone = f", {self.gone} were gone already" if self.gone else ""
        return f"{self.host}: {self.manifests} manifests and {self.tags} tags removed{gone}; {COLLECT}"


def plan_prune(old: Sequence[Bundle], kept: Sequence[Bundle], registry: Registry, prefix: str = "") -> PrunePlan:
    """Find out what only older bundles brought; nothing is changed.

    Kept is every manifest that a kept bundle lists, whatever its repository; and every manifest that a tag leads to
    which stands for something else than an old bundle gave it, or which no old bundle brought.

    Args:
        old: the bundles that are no longer needed.
        kept: the bundles that are in use.
        registry: the site's.
        prefix: path below which everything is there; empty for none.

    Raises:
        InputError: a bundle is to be kept and to be removed, or a kept patch builds on one that is to be removed.
        NetworkError: the registry cannot be asked.
    """
    _check(old, kept)
    if not kept:
        progress.note("no bundle is kept: everything that the old bundles brought is removed")
    needed = {digest: bundle.name for bundle in kept for image in bundle.images for digest in _listed(image)}
    images: dict[str, list[Image]] = {}
    for bundle in old:
        for image in bundle.images:
            path = f"{prefix}/{image.repository}" if prefix else image.repository
            images.setdefault(path, []).append(image)
    plans = each(
        registry.options.parallel, sorted(images), lambda path: _Repository(registry, path, images[path], needed).plan()
    )
    return PrunePlan(registry.host, tuple(plans))


def _check(old: Sequence[Bundle], kept: Sequence[Bundle]) -> None:
    going = {bundle.id: bundle.name for bundle in old}
    for bundle in kept:
        if bundle.id in going:
            raise InputError(f"{bundle.name} is to be kept and to be removed", hint="name each bundle once")
        based = [going[one.id] for one in bundle.base.bundles if one.id in going]
        if bundle.kind == PATCH and based:
            raise InputError(
                f"{bundle.name} is a patch on {based[0]}, whose images it does not list if they are the same",
                hint=f"keep {based[0]} too; or compose both into one bundle, and keep that",
            )


def _listed(image: Image) -> Iterator[str]:
    yield from image.manifests
    yield from image.left_out  # a kept index names them, whoever brought them
    yield from (root.digest for root in image.roots)


class _Repository:
    """One repository: its tags, what old bundles brought there, and why some of it stays."""

    def __init__(self, registry: Registry, path: str, images: Sequence[Image], needed: dict[str, str]) -> None:
        self._registry, self._path, self._images, self._needed = registry, path, images, needed
        self._why: dict[str, str] = {}
        self._gone: set[str] = set()

    def plan(self) -> RepositoryPlan:
        brought = list(dict.fromkeys(digest for image in self._images for digest in image.manifests))
        tags = self._tags()
        own = {(tag, root) for image in self._images for tag, root in _tagged(image)}
        fallback = {fallback_tag(digest) for digest in brought}
        for tag, digest in tags.items():
            if (tag, digest) not in own and tag not in fallback:
                self._keep(digest, f"{tag} leads to it")
        for digest in brought:
            if digest in self._needed:
                self._keep(digest, f"{self._needed[digest]} has it")
        doomed = [digest for digest in brought if digest not in self._why and self._is_there(digest)]
        indexes, rewritten = self._indexes({tag: tags[tag] for tag in sorted(fallback & set(tags))}, set(doomed))
        manifests = tuple(dict.fromkeys([*indexes, *doomed]))
        lost = tuple(tag for tag, digest in tags.items() if digest in manifests and tag not in dict(rewritten))
        kept = tuple((digest, self._why[digest]) for digest in brought if digest in self._why)
        return RepositoryPlan(self._path, lost, manifests, kept, rewritten)

    def _tags(self) -> dict[str, str]:
        found = {}
        for tag in self._registry.tags(self._path):
            there = self._registry.head_manifest(self._path, tag)
            if there is not None:
                found[tag] = there.digest
        return found

    def _is_there(self, digest: str) -> bool:
        return self._registry.head_manifest(self._path, digest) is not None

    def _keep(self, digest: str, why: str) -> None:
        """Keep a manifest and what it lists."""
        waiting = [digest]
        while waiting:
            one = waiting.pop()
            if one in self._why:
                continue
            self._why[one] = why
            try:
                found, data = self._registry.get_manifest(self._path, one)
                waiting += [child.digest for child in links(data, found.media_type).manifests]
            except (NotThereError, InputError):  # it lists nothing that could be kept
                continue

    def _indexes(self, tags: dict[str, str], doomed: set[str]) -> tuple[list[str], tuple[tuple[str, bytes], ...]]:
        """Return the indexes of fallback tags that go, and those that are to list less."""
        gone, rewritten = [], []
        for tag, digest in tags.items():
            if digest in self._needed or digest in self._why:
                continue
            try:
                listed = fallback_entries(self._registry.get_manifest(self._path, digest)[1])
            except NotThereError:
                continue
            left = [one for key, one in listed.items() if key not in doomed]
            if len(left) == len(listed):
                continue
            if left:
                rewritten.append((tag, fallback_index(left)))
            gone.append(digest)
        return gone, tuple(rewritten)


def _tagged(image: Image) -> Iterator[tuple[str, str]]:
    yield from ((tag, image.root.digest) for tag in image.tags)
    yield from ((one.tag, one.root.digest) for one in image.attachments if one.tag is not None)


def prune(plan: PrunePlan, registry: Registry) -> PruneSummary:
    """Remove what was planned; what a tag stands for is looked at once more before it goes.

    Args:
        plan: what :func:`plan_prune` found.
        registry: the same registry.

    Raises:
        NetworkError: the registry does not delete, or refuses. Planned and run again, it goes on from there.
    """
    removed = tags = gone = 0
    for one in plan.repositories:
        with progress.step(f"prune {one.repository}: {len(one.manifests)} manifests"):
            _check_tags(one, registry)
            for tag, data in one.rewritten:
                registry.put_manifest(one.repository, tag, data, OCI_INDEX)
            done = [_delete(registry, one.repository, digest) for digest in _order(one)]
        removed += sum(done)
        gone += len(done) - sum(done)
        tags += len(one.tags)
    return PruneSummary(plan.host, removed, tags, gone)


def _order(plan: RepositoryPlan) -> Iterable[str]:
    written = {digest_of(data) for _, data in plan.rewritten}
    return [digest for digest in plan.manifests if digest not in written]


def _check_tags(plan: RepositoryPlan, registry: Registry) -> None:
    """Refuse if somebody tagged what is about to go since it was planned."""
    doomed = set(plan.manifests)
    for tag in registry.tags(plan.repository):
        if tag in plan.tags or tag in dict(plan.rewritten):
            continue
        there = registry.head_manifest(plan.repository, tag)
        if there is not None and there.digest in doomed:
            what = f"{registry.host}/{plan.repository}:{tag} came to stand for {there.digest} just now"
            raise InputError(what, hint="plan again")


def _delete(registry: Registry, repository: str, digest: str) -> bool:
    try:
        registry.delete_manifest(repository, digest)
    except NotThereError:
        return False
    progress.log(f"{repository}: removed {digest}")
    return True
