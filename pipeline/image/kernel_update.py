"""Another kernel of the same kind, for the test that a kernel update inside a node leaves a machine that boots."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.core import process, progress
from pipeline.core.arch import Architecture
from pipeline.core.cache import Cache, cache_root
from pipeline.core.errors import PipelineError
from pipeline.image.bases import deb
from pipeline.image.bases.sources import Source
from pipeline.image.boot import newest_first
from pipeline.profile import DebBase, RpmBase


def other_kernel(base: DebBase | RpmBase, arch: Architecture, directory: Path) -> Path | None:
    """Fetch a kernel package that is not in an image, from where the image's own packages came.

    Args:
        base: the profile's base, for its signing keys.
        arch: the image's architecture.
        directory: the image's directory, with its manifest.

    Returns:
        The package, in the cache; None if the sources have no other one or cannot be reached (the user is told).
    """
    if isinstance(base, RpmBase):
        progress.note("no other kernel is fetched for RPM systems yet; name one with --kernel-update FILE")
        return None
    try:
        with (
            progress.step("fetch another kernel for the update test"),
            Cache(cache_root()) as cache,
            cache.workspace() as workspace,
        ):
            manifest = json.loads((directory / "manifest.json").read_text())
            sources = [Source.model_validate(source) for source in manifest["provenance"]["sources"]]
            settings = deb.private_apt(base, arch, sources, workspace)
            return _fetch(settings, arch, manifest["kernels"], workspace)
    except PipelineError as error:
        progress.note(f"no other kernel could be fetched: {error.message.splitlines()[0]}")
        return None


def _fetch(settings: Sequence[str], arch: Architecture, installed: Sequence[str], workspace: Path) -> Path | None:
    flavour = installed[0].split("-", 2)[2]  # 6.1.0-56-cloud-amd64: the rest of the name after version and ABI
    listed = process.run(["apt-cache", *settings, "pkgnames", "linux-image-"], capture=True).stdout.split()
    wanted = re.compile(rf"^linux-image-(\d[\d.]*-\d+-{re.escape(flavour)})$")
    others = {match[1] for name in listed if (match := wanted.match(name))} - set(installed)
    if not others:
        progress.note(f"the package sources offer no kernel besides {installed[0]}")
        return None
    target = cache_root() / "packages" / "kernel-updates"
    target.mkdir(parents=True, exist_ok=True)
    name = f"linux-image-{newest_first(others)[0]}"
    words = ["apt-get", *settings, "download", f"{name}:{arch.deb}"]
    process.run(words, cwd=workspace, network=True, what="fetching a kernel package")
    (package,) = workspace.glob("*.deb")
    return package.rename(target / package.name)
