"""One image, from plan to published directory: a flat list of steps (see DESIGN, data flow)."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.core import namespace, parallel, progress, publish
from pipeline.core.arch import Architecture
from pipeline.core.cache import Cache, Entry, Json, cache_root
from pipeline.core.errors import InputError, NetworkError
from pipeline.core.progress import StepTime
from pipeline.image import boot, disk, former, history, layers, manifest, overlay, seal, tree
from pipeline.image.bases import deb, downloads, media, native, probe, rpm
from pipeline.image.bases.medium import Request
from pipeline.image.bases.probe import Probe
from pipeline.image.former import Former
from pipeline.image.plan import Plan, check_machine, check_sources, code_digest
from pipeline.profile import DebBase, RpmBase


@dataclass(frozen=True)
class Built:
    """The outcome of a build.

    Attributes:
        directory: where the image and everything about it is.
        image: the qcow2.
        size: its size in bytes.
        times: how long each step took; empty if the image was up to date.
    """

    directory: Path
    image: Path
    size: int
    times: tuple[StepTime, ...]


def build(
    plan: Plan, build_dir: Path, *, refresh: bool = False, accelerated: Callable[[], bool] = lambda: False
) -> Built:
    """Build an image, unless what is there was built from the same plan.

    Args:
        plan: from :func:`pipeline.image.plan.resolve`.
        build_dir: directory that holds all images.
        refresh: ask the package sources again, even if nothing else has changed.
        accelerated: finds out whether KVM works; asked only for a cloud image, which is read faster then.

    Raises:
        PipelineError: with the cause and the next action; nothing half written is left.
    """
    directory = build_dir / plan.name
    with publish.only_one(build_dir, plan.name):
        if not refresh and (existing := up_to_date(plan, directory)):
            return existing
        log = build_dir / "logs" / f"{plan.name}.log"
        check_machine(plan, cache_root=cache_root(), build_dir=build_dir)
        media.prepare(plan.medium)
        fast = plan.medium is not None and plan.medium.kind == "qcow2" and accelerated()
        times = namespace.run_private(lambda: _build(plan, build_dir, log, refresh=refresh, accelerated=fast))
        history.keep(build_dir, directory, times)
    image = directory / f"{plan.name}.qcow2"
    return Built(directory, image, image.stat().st_size, times)


def up_to_date(plan: Plan, directory: Path) -> Built | None:
    """Return what is there if it was built from this plan, else None."""
    image = directory / f"{plan.name}.qcow2"
    try:
        known = json.loads((directory / "manifest.json").read_text())
        if known["key"] == plan.key and known["image"]["size"] == image.stat().st_size:
            return Built(directory, image, known["image"]["size"], ())
    except (OSError, ValueError, KeyError, TypeError):
        return None  # whatever is there, it is not an image of ours
    return None


def _build(plan: Plan, build_dir: Path, log: Path, *, refresh: bool, accelerated: bool) -> tuple[StepTime, ...]:
    with (
        progress.session(log) as session,
        Cache(cache_root()) as cache,
        cache.workspace() as workspace,
    ):
        progress.log(json.dumps(plan.inputs, indent=1))
        with progress.step("base"):
            base = _base(plan, cache, workspace, refresh=refresh, accelerated=accelerated)
        epoch = _origin(base)["epoch"]
        _warn(plan, base)
        with progress.step("overlay"):
            overlays = _overlays(plan, cache, workspace, base, epoch)
        with progress.step("boot"):
            initramfs = _initramfs(plan, cache, workspace, base, overlays, epoch)
        layout = disk.plan_layout(plan.release.disk, plan.arch, plan.key)
        stack = [initramfs.path / "delta", overlays.path / "delta", base.path / "tree"]
        with layers.writable(stack, workspace / "final", workspace) as root:
            with progress.step("boot loader"):
                boot.install(root, plan.arch, plan.release, plan.title, layout.identity)
            kernels = boot.kernels(root)
            with progress.step("seal"):
                files = manifest.package_files(root, plan.family, _packages(base))
                seal.seal(root, epoch, workspace / "final/delta")
            facts = _facts(plan, base, [base, overlays, initramfs], layout, kernels)
            with (
                parallel.beside(lambda: manifest.describe(plan, root, facts, files)) as described,
                parallel.beside(lambda: former.find(build_dir / plan.name)) as last,
                progress.step("disk"),
            ):
                raw = disk.write_raw(
                    root, plan.release.disk, layout, epoch, workspace, plan.release.boot.grub_directory
                )
            _finish(plan, build_dir, raw, last.result(), described.result())
        return session.times


def _finish(plan: Plan, build_dir: Path, raw: Path, last: Former | None, description: manifest.Description) -> None:
    """Make of a raw disk, which goes, the published image."""
    with publish.staging(build_dir, plan.name) as staging:
        image = staging / f"{plan.name}.qcow2"
        with progress.step("compress"):
            disk.convert(raw, image, last)
        with parallel.beside(raw.unlink):  # hundreds of megabytes, while the others wait for the disk
            with progress.step("manifest"):
                manifest.write(staging, plan, image, description)
            with progress.step("publish"):
                publish.publish(staging, build_dir / plan.name)


def _base(plan: Plan, cache: Cache, workspace: Path, *, refresh: bool, accelerated: bool) -> Entry:
    def make(target: Path) -> None:
        check_sources(plan, cache_root=cache_root())
        scratch = workspace / "base"
        scratch.mkdir()
        if isinstance(plan.release.base, DebBase):
            deb.make(
                plan.release.base, plan.arch, plan.packages, plan.sources, target,
                workspace=scratch, package_cache=_package_cache("deb"), locked=plan.archives,
                programs=_programs(plan, cache, workspace),
            )  # fmt: skip
        else:
            _make_rpm(plan, plan.release.base, target, scratch, accelerated=accelerated)
        origin = json.loads((target / "origin.json").read_text())
        origin["epoch"] = plan.epoch if plan.epoch is not None else origin["epoch"]
        tree.clamp_times(target / "tree", origin["epoch"])
        origin["digest"] = tree.digest(target / "tree")
        (target / "origin.json").write_text(json.dumps(origin, indent=1) + "\n")

    return _remarked(cache.obtain("base", plan.base_inputs, make, fresh=refresh))


def _programs(plan: Plan, cache: Cache, workspace: Path) -> Path | None:
    """Return programs of this machine's architecture for scripts in a foreign tree; None if there are none.

    A locked build has none: it uses nothing but what the lock names.
    """
    base, host = plan.release.base, Architecture.host()
    if not isinstance(base, DebBase) or plan.arch is host or plan.lock is not None:
        return None

    def make(target: Path) -> None:
        scratch = Path(tempfile.mkdtemp(dir=workspace))  # the other step may have tried, and failed
        native.make(base, host, plan.sources, target, workspace=scratch, package_cache=_package_cache("deb"))

    inputs: dict[str, Json] = {
        "arch": host.value,
        "sources": [source.model_dump() for source in plan.sources],
        "code": code_digest("bases/native.py"),
    }
    try:
        with progress.step(f"programs for {host}"):
            return _remarked(cache.obtain("native", inputs, make)).path
    except (InputError, NetworkError) as error:
        progress.note(f"every script is emulated, as there are no programs for {host}: {error.message}")
        return None


def _make_rpm(plan: Plan, base: RpmBase, target: Path, workspace: Path, *, accelerated: bool) -> None:
    request = Request(
        name=f"{plan.title} {plan.release_name}",
        base=base,
        arch=plan.arch,
        packages=plan.packages,
        repositories=plan.repositories,
        os_release=plan.release.verify.os_release,
        codename=plan.release.codename,
        accelerated=accelerated,
    )
    packages = _package_cache("rpm")
    if plan.medium is not None:
        media.make(plan.medium, request, target, workspace=workspace, package_cache=packages)
    else:
        rpm.make(
            base, plan.arch, plan.packages, plan.repositories, target, workspace=workspace, package_cache=packages,
            locked=plan.archives, epoch=plan.lock.epoch if plan.lock is not None else None,
        )  # fmt: skip
    media.note_probe(target)


def _remarked(entry: Entry) -> Entry:
    if entry.hit:
        progress.remark("cached")
    return entry


def _origin(base: Entry) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((base.path / "origin.json").read_text())
    return found


def _base_digest(base: Entry) -> str:
    digest: str = _origin(base)["digest"]
    return digest


def _probe(base: Entry) -> Probe | None:
    """Return what a base tree said of itself; a deb tree is not asked."""
    said = _origin(base).get("probe")
    return None if said is None else Probe.model_validate(said)


def _warn(plan: Plan, base: Entry) -> None:
    """Tell the user where the profile says something else than the tree, also of one from the cache."""
    if isinstance(plan.release.base, RpmBase) and (found := _probe(base)):
        probe.warn(found, plan.release.base, plan.release.boot)


def _facts(
    plan: Plan, base: Entry, steps: Sequence[Entry], layout: disk.Layout, kernels: Sequence[str]
) -> manifest.Facts:
    origin = _origin(base)
    return manifest.Facts(
        packages=_packages(base),
        kernels=kernels,
        epoch=origin["epoch"],
        keys={entry.kind: entry.key for entry in steps} | {"image": plan.key},
        identifiers={"disk": layout.uuid, "root": layout.identity.root, "esp": layout.identity.esp},
        maker=origin["tool"],
        probe=_probe(base),
    )


def _packages(base: Entry) -> list[deb.Package]:
    return [deb.Package.model_validate(row) for row in json.loads((base.path / "packages.json").read_text())]


def _overlays(plan: Plan, cache: Cache, workspace: Path, base: Entry, epoch: int) -> Entry:
    names = {
        "os": plan.os,
        "release": plan.release_name,
        "codename": plan.release.codename,
        "arch": plan.arch.value,
        "family": plan.family,
    }
    variables = overlay.variables_of(names, plan.arch.serial, plan.release.boot.kernel_arguments)
    inputs: dict[str, Json] = {
        "base": _base_digest(base),
        "overlays": [{"name": entry.name, "digest": entry.digest} for entry in plan.overlays],  # their order counts
        "variables": variables,
        "epoch": epoch,
        "code": code_digest("overlay.py", "layers.py", "tree.py"),
    }

    def make(target: Path) -> None:
        with layers.writable([base.path / "tree"], target, workspace) as root:
            for entry in plan.overlays:
                environment = overlay.environment_of(names) | {"SOURCE_DATE_EPOCH": str(epoch)}
                overlay.apply(root, entry.path, variables, environment)
                if overlay.digest(entry.path) != entry.digest:  # or it would be found again for what it was
                    raise InputError(
                        f"the overlay {entry.path} has changed since the build began", hint="run the same command again"
                    )
        tree.clamp_times(target / "delta", epoch)

    return _remarked(cache.obtain("overlay", inputs, make))


def _initramfs(plan: Plan, cache: Cache, workspace: Path, base: Entry, overlays: Entry, epoch: int) -> Entry:
    inputs: dict[str, Json] = {
        "base": _base_digest(base),
        "overlays": boot.initramfs_inputs(overlays.path / "delta"),
        "program": plan.release.boot.initramfs,
        "epoch": epoch,
        "code": code_digest("boot.py", "layers.py", "bases/native.py"),
    }

    def make(target: Path) -> None:
        programs, host = _programs(plan, cache, workspace), Architecture.host()
        with (
            layers.writable([overlays.path / "delta", base.path / "tree"], target, workspace) as root,
            native.shown(programs, root, host) as binds,
        ):
            boot.make_initramfs(root, plan.release.boot, epoch, binds)
        tree.clamp_times(target / "delta", epoch)

    return _remarked(cache.obtain("initramfs", inputs, make))


def clean(build_dir: Path, *, names: tuple[str, ...] = (), with_cache: bool = False) -> int:
    """Remove built images, and the cache if asked; what another process uses stays.

    Args:
        build_dir: directory that holds all images.
        names: images to remove; all of them if empty.
        with_cache: also remove cached steps and downloaded packages.

    Returns:
        The bytes that were freed.

    Raises:
        InputError: there is no image of such a name.
    """
    found = _images(build_dir)
    if unknown := set(names) - found:
        raise InputError(f"there is no image {', '.join(sorted(unknown))} in {build_dir}", hint="see ./invoke list")
    freed = 0
    for name in sorted(set(names) or found):
        with publish.only_one(build_dir, name):
            for path in [build_dir / name, *build_dir.glob(f".{name}.*")]:
                freed += sum(status.st_blocks * 512 for _, status in tree.walk(path)) if path.is_dir() else 0
                shutil.rmtree(path, ignore_errors=True)
    if with_cache:
        freed += namespace.run_private(_clear_cache)
    return freed


def _images(build_dir: Path) -> set[str]:
    """Return the names of all images, and of those that a killed build has left in part (see core/publish.py)."""
    whole = {path.parent.name for path in build_dir.glob("[!.]*/manifest.json")}
    return whole | {path.name[1:].rpartition(".")[0] for path in build_dir.glob(".*.*") if path.is_dir()}


def _clear_cache() -> int:
    with Cache(cache_root()) as cache:
        freed = cache.clear()
    media.forget()
    return freed + sum(downloads.clear(_package_cache(family)) for family in ("deb", "rpm"))


def _package_cache(family: str) -> Path:
    return cache_root() / "packages" / family
