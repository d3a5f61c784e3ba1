"""The installer image: an OCI index with one image for each architecture, written without a daemon.

Each component is a layer of its own, so that a node pulls again only what changed; the last layer has the scripts, what
they are called with, and the sums of all files. A layer is kept in the cache by what it is made from.
"""

from __future__ import annotations

import contextvars
import datetime
import json
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipeline import oci
from pipeline.core import progress, publish
from pipeline.core.arch import Architecture
from pipeline.core.cache import Cache, Json, cache_root, difference
from pipeline.core.errors import InputError, VerificationError
from pipeline.core.progress import StepTime
from pipeline.installer import payload
from pipeline.installer.components import extract, fetch_artifact, sha256_of
from pipeline.installer.payload import PROGRAM, ROOT
from pipeline.installer.plan import LAYER_CODE, Plan, code_digest

NAME = "cluster-installer"  # directory below build/
COMMAND = [f"/{ROOT}/{payload.ENTRY}"]
SCRIPTS = "payload"  # name of the last layer
SHOWN_CHANGES = 5
MB = 1_000_000


@dataclass(frozen=True)
class Layer:
    """A layer of an image.

    Attributes:
        name: the component, or ``payload``.
        version: of the component, or of the installer.
        info: of its blob.
        blob: the file.
        files: its files below the payload's directory, with sha256 and size.
    """

    name: str
    version: str
    info: oci.LayerInfo
    blob: Path
    files: Mapping[str, tuple[str, int]]


@dataclass(frozen=True)
class Built:
    """The outcome of a build.

    Attributes:
        directory: where the layout is, with ``digest`` and ``manifest.json``.
        digest: of the index: what a node is told to pull.
        times: how long each step took; empty if the image was up to date.
    """

    directory: Path
    digest: str
    times: tuple[StepTime, ...]


def push(
    build_dir: Path, to: str, *, tag: str | None = None, options: oci.RegistryOptions | None = None
) -> tuple[oci.Reference, oci.PushSummary]:
    """Push the built image with the images of all its architectures; what the registry has is not sent again.

    Args:
        build_dir: directory that holds everything that is built.
        to: ``host[:port]/path``.
        tag: its name beside the digest; the image's version if not given.
        options: how the registry is reached.

    Returns:
        Where it is now, by digest, and what was sent.

    Raises:
        InputError: there is no image, or ``to`` is no name for one.
        NetworkError: the registry does not take it.
        VerificationError: the image is damaged.
    """
    if not to:
        raise InputError("it is not said where to push", hint="add --to HOST[:PORT]/PATH")
    target = oci.Reference.parse(to)
    if target.digest or (target.tag and tag):
        raise InputError(f"{to!r} says more than where to push", hint="write host[:port]/path, and --tag TAG")
    known = built_manifest(build_dir)
    layout = oci.Layout.open(build_dir / NAME / "oci")
    registry = oci.Registry(target.host, options)
    with progress.session(build_dir / "logs" / f"{NAME}-push.log"), progress.step(f"push to {target.host}"):
        done = oci.push(layout, registry, target.repository, tag or target.tag or known["version"])
        progress.remark(f"{done.uploaded_bytes / MB:.1f} MB sent, {done.skipped_bytes / MB:.1f} MB were there")
    return oci.Reference(target.host, target.repository, digest=done.digest), done


def built_manifest(build_dir: Path) -> dict[str, Any]:
    """Return what is known of the built image.

    Args:
        build_dir: directory that holds everything that is built.

    Raises:
        InputError: there is none.
        VerificationError: something of it is missing.
    """
    directory = build_dir / NAME
    known = read_manifest(directory)
    if known is None:
        raise InputError(f"there is no installer image in {directory}", hint="run ./invoke installer.build")
    if not is_whole(directory, known):
        raise VerificationError(f"{directory} is not whole", hint="run ./invoke installer.build")
    return known


def build(plan: Plan, build_dir: Path) -> Built:
    """Build the installer image, unless what is there was built from the same plan.

    Args:
        plan: from :func:`pipeline.installer.plan.resolve`.
        build_dir: directory that holds everything that is built.

    Raises:
        PipelineError: with the cause and the next action; nothing half written is left.
    """
    directory = build_dir / NAME
    with publish.only_one(build_dir, NAME):
        known = read_manifest(directory)
        if known and known["key"] == plan.key and is_whole(directory, known):
            return Built(directory, known["digest"], ())
        with (
            progress.session(build_dir / "logs" / f"{NAME}.log") as session,
            Cache(cache_root()) as cache,
            cache.workspace() as workspace,
            publish.staging(build_dir, NAME) as staging,
        ):
            _explain(known, plan)
            digest = _build(plan, cache, workspace, staging)
            with progress.step("publish"):
                publish.publish(staging, directory)
            return Built(directory, digest, session.times)


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """Return what ``manifest.json`` says of a built image; None if there is none."""
    try:
        known: dict[str, Any] = json.loads((directory / "manifest.json").read_text())
        complete = {"key", "digest", "inputs", "platforms", "blobs"} <= known.keys()
    except (OSError, ValueError, AttributeError):
        return None
    return known if complete else None


def is_whole(directory: Path, known: Mapping[str, Any]) -> bool:
    """Return whether every blob that a manifest tells of is there with its size; contents are not read."""
    try:
        listed = oci.Layout.open(directory / "oci").index()
        blobs = directory / "oci/blobs/sha256"
        sizes = all((blobs / name).stat().st_size == size for name, size in known["blobs"].items())
        return sizes and [one.digest for one in listed] == [known["digest"]]
    except (OSError, InputError):
        return False


def _explain(known: Mapping[str, Any] | None, plan: Plan) -> None:
    """Say why what is there is not good enough."""
    if known is None:
        progress.note("not built yet")
        return
    texts = [text for _, text in difference(known["inputs"], plan.inputs)]
    more = [f"and {len(texts) - SHOWN_CHANGES} more"] if len(texts) > SHOWN_CHANGES else []
    progress.note(f"changed since the last build: {'; '.join([*texts[:SHOWN_CHANGES], *more]) or 'the image itself'}")


def _build(plan: Plan, cache: Cache, workspace: Path, staging: Path) -> str:
    with progress.step("layers"):
        images = _layers(plan, cache, workspace)
    for arch in plan.architectures:
        if absent := sorted(set(plan.components.components) - set(plan.components_of(arch))):
            progress.note(f"the image for {arch} is without {', '.join(absent)}: components.yaml has none for it")
    with progress.step("image"):
        layout = oci.Layout.create(staging / "oci")
        platforms = {arch: _put_image(plan, layout, arch, layers) for arch, layers in images.items()}
        index = {
            "schemaVersion": 2,
            "mediaType": oci.OCI_INDEX,
            "manifests": [platforms[arch].to_json() for arch in plan.architectures],
            "annotations": _labels(plan),
        }
        top = layout.put_manifest(index, oci.OCI_INDEX, annotations={oci.REF_NAME: plan.spec.version})
        layout.set_index([top])
        _describe(plan, layout, top.digest, images, platforms, staging)
    return top.digest


def _layers(plan: Plan, cache: Cache, workspace: Path) -> dict[Architecture, list[Layer]]:
    """Make every layer that is not in the cache; as many at a time as there are processors, as most of it is gzip."""
    wanted = [(arch, name) for arch in plan.architectures for name in plan.components_of(arch)]
    images: dict[Architecture, list[Layer]] = {arch: [] for arch in plan.architectures}
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        running = [
            pool.submit(contextvars.copy_context().run, _component_layer, plan, cache, workspace, name, arch)
            for arch, name in wanted
        ]
        try:
            for (arch, _), one in zip(wanted, running, strict=True):
                images[arch].append(one.result())
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)  # what has begun ends; nothing else begins
            raise
    for arch, below in images.items():
        below.append(_payload_layer(plan, arch, below, workspace))
    return images


def _component_layer(plan: Plan, cache: Cache, workspace: Path, name: str, arch: Architecture) -> Layer:
    component, pin = plan.components.components[name], plan.pin(name, arch)
    what = f"{name} {component.version} for {arch}"
    files = component.files(name, arch)
    inputs: dict[str, Json] = {
        "component": name,
        "arch": arch.value,
        "sha256": pin.sha256,
        "files": files,
        "code": code_digest(*LAYER_CODE),
    }

    def make(target: Path) -> None:
        artifact = fetch_artifact(cache, what, pin.url, pin.sha256, pin.size, plan.mirror)
        source = workspace / arch.value / name
        extract(artifact, files, arch, source, what)
        paths = {f"{payload.COMPONENTS}/{name}/{file}": source / file for file in files}
        _write_layer({path: (file, PROGRAM) for path, file in paths.items()}, target)

    entry = cache.obtain("installer-layer", inputs, make, linked=True)
    layer = _read_layer(entry.path, name, component.version)
    if entry.hit and f"sha256:{sha256_of(layer.blob)}" != layer.info.digest:
        progress.note(f"{what}: the cached layer is damaged; it is made again")
        entry = cache.obtain("installer-layer", inputs, make, linked=True, fresh=True)
        layer = _read_layer(entry.path, name, component.version)
    return layer


def _write_layer(files: Mapping[str, tuple[Path, int]], target: Path) -> None:
    """Write a layer and what is known of it into a directory."""
    entries = [oci.LayerEntry(f"{ROOT}/{path}", source, mode) for path, (source, mode) in files.items()]
    info = oci.write_layer(entries, target / "layer")
    known = {path: [sha256_of(source), source.stat().st_size] for path, (source, _) in files.items()}
    (target / "layer.json").write_text(json.dumps({"info": asdict(info), "files": known}))


def _read_layer(directory: Path, name: str, version: str) -> Layer:
    known = json.loads((directory / "layer.json").read_text())
    files = {path: (sha256, size) for path, (sha256, size) in known["files"].items()}
    return Layer(name, version, oci.LayerInfo(**known["info"]), directory / "layer", files)


def _payload_layer(plan: Plan, arch: Architecture, below: list[Layer], workspace: Path) -> Layer:
    directory = workspace / arch.value / SCRIPTS
    directory.mkdir(parents=True)
    sums = {path: sha256 for layer in below for path, (sha256, _) in layer.files.items()}
    files = {file.path: (_copied(file, directory), file.mode) for file in plan.payload}
    sums |= {file.path: file.sha256 for file in plan.payload}
    values = payload.environment(plan.spec.version, plan.revision, arch, plan.components_of(arch))
    environment = directory / payload.ENVIRONMENT
    environment.write_text(payload.environment_text(values))
    sums[payload.ENVIRONMENT] = sha256_of(environment)
    listing = directory / payload.SUMS
    listing.write_text(payload.sums_text(sums.items()))
    files |= {path.name: (path, payload.PLAIN) for path in (environment, listing)}
    target = directory.with_name(f"{SCRIPTS}.layer")
    target.mkdir()
    _write_layer(files, target)
    return _read_layer(target, SCRIPTS, plan.spec.version)


def _copied(file: payload.File, directory: Path) -> Path:
    """Take a copy of a payload's file, which somebody may be editing."""
    copy = directory / file.path
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_bytes(file.source.read_bytes())
    if sha256_of(copy) != file.sha256:
        raise InputError(f"{file.source} has changed since the build began", hint="run the same command again")
    return copy


def _put_image(plan: Plan, layout: oci.Layout, arch: Architecture, layers: list[Layer]) -> oci.Descriptor:
    created = _labels(plan)["org.opencontainers.image.created"]
    config = {
        "architecture": arch.oci,
        "os": "linux",
        "created": created,
        "config": {"Cmd": COMMAND, "Labels": _labels(plan)},
        "rootfs": {"type": "layers", "diff_ids": [layer.info.diff_id for layer in layers]},
        "history": [{"created": created, "created_by": f"{layer.name} {layer.version}"} for layer in layers],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": oci.OCI_MANIFEST,
        "config": layout.put_blob(oci.canonical(config), oci.OCI_CONFIG).to_json(),
        "layers": [layout.put_file(layer.blob, layer.info.media_type).to_json() for layer in layers],
        "annotations": _labels(plan),
    }
    found = layout.put_manifest(manifest, oci.OCI_MANIFEST)
    return replace(found, platform=oci.Platform("linux", arch.oci))


def _labels(plan: Plan) -> dict[str, str]:
    created = datetime.datetime.fromtimestamp(plan.epoch, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    values = {"title": plan.spec.title, "version": plan.spec.version, "revision": plan.revision, "created": created}
    return {f"org.opencontainers.image.{key}": value for key, value in values.items()}


def _describe(
    plan: Plan,
    layout: oci.Layout,
    digest: str,
    images: Mapping[Architecture, list[Layer]],
    platforms: Mapping[Architecture, oci.Descriptor],
    staging: Path,
) -> None:
    """Write ``digest`` and ``manifest.json`` beside the layout."""
    blobs = {path.name: path.stat().st_size for path in (layout.path / "blobs/sha256").iterdir()}
    document = {
        "schema": 1,
        "title": plan.spec.title,
        "version": plan.spec.version,
        "revision": plan.revision,
        "epoch": plan.epoch,
        "key": plan.key,
        "digest": digest,
        "platforms": {
            arch.value: {"digest": platforms[arch].digest, "layers": list(map(_row, layers))}
            for arch, layers in images.items()
        },
        "inputs": plan.inputs,
        "blobs": blobs,
    }
    (staging / "manifest.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    (staging / "digest").write_text(f"{digest}\n")


def _row(layer: Layer) -> dict[str, Any]:
    return {
        "name": layer.name,
        "version": layer.version,
        "digest": layer.info.digest,
        "diff_id": layer.info.diff_id,
        "size": layer.info.size,
        "files": {path: {"sha256": sha256, "size": size} for path, (sha256, size) in sorted(layer.files.items())},
    }
