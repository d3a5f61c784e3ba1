"""Small installer images, good and bad, in a registry; programs of this machine and of another one are real."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline import oci
from pipeline.core.arch import Architecture
from pipeline.oci import Descriptor, LayerEntry, Layout, Platform, Registry, RegistryOptions
from tests.integration.registries import Served

HERE = Architecture.host()
THERE = next(arch for arch in Architecture if arch is not HERE)
INSTALL = '#!/bin/bash\necho "installing $1 from $CLUSTER_RELEASE"\n"${0%/*}/../components/tool/tool" works\n'
LARGE = random.Random(4).randbytes(4 * 1024**2)  # noqa: S311 - just bytes
SUMS = "SHA256SUMS"
Payload = dict[str, bytes]


def foreign_program(folder: Path) -> bytes:
    """Return a program of the other architecture, out of its Debian package."""
    state = folder / "apt"
    (state / "lists/partial").mkdir(parents=True)
    (state / "cache/archives/partial").mkdir(parents=True)
    (state / "status").touch()
    settings = {
        "APT::Architecture": THERE.deb,
        "APT::Architectures": THERE.deb,
        "Dir::State::Lists": state / "lists",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
    }
    options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
    for words in (("update",), ("download", "busybox-static")):
        done = subprocess.run(["apt-get", *options, *words], cwd=state, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"busybox-static of {THERE} cannot be downloaded: {done.stderr.strip()}")
    (package,) = state.glob("*.deb")
    subprocess.run(["dpkg-deb", "--extract", package, state / "root"], check=True)
    return next((state / "root").glob("**/bin/busybox")).read_bytes()


def native_program() -> bytes:
    """Return a program of this machine, which prints its arguments."""
    found = shutil.which("echo")
    assert found
    return Path(found).read_bytes()


def payload(tool: bytes) -> Payload:
    """Return the files of a payload that is complete."""
    return with_sums({"bin/install": INSTALL.encode(), "components/tool/tool": tool, "lib/an elf": b"\x7fEL"})


def with_sums(files: Payload) -> Payload:
    lines = [f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items()) if name != SUMS]
    return files | {SUMS: "".join(lines).encode()}


@dataclass(frozen=True)
class Maker:
    """Makes images in a layout and pushes them.

    Attributes:
        folder: takes the layouts.
        served: the registry.
    """

    folder: Path
    served: Served

    def push(self, kind: str, images: dict[Architecture, Payload], *, index: bool) -> list[str]:
        """Push one image, or an index of images; returns names by digest: of what was pushed, then of each image."""
        folder = self.folder / kind
        layout = Layout.create(folder)
        made = [self._image(layout, arch, files) for arch, files in images.items()]
        top = made[0]
        if index:
            content = {"schemaVersion": 2, "mediaType": oci.OCI_INDEX, "manifests": [image.to_json() for image in made]}
            top = layout.put_manifest(content, oci.OCI_INDEX)
        layout.set_index([top])
        client = Registry(self.served.host, RegistryOptions(ca=self.served.ca, auth_file=self.served.auth_file))
        oci.push(layout, client, f"installer/{kind}", "v1")
        return [f"{self.served.host}/installer/{kind}@{one.digest}" for one in (top, *made)]

    def _image(self, layout: Layout, arch: Architecture, files: Payload) -> Descriptor:
        modes = {name: 0o755 if name.startswith(("bin/", "components/")) else 0o644 for name in files}
        entries = [LayerEntry(f"cluster-installer/{name}", data, modes[name]) for name, data in files.items()]
        blob = self.folder / f"{layout.path.name}-{arch}.tar.gz"
        layer = oci.write_layer([*entries, LayerEntry("other/file", b"not the payload's")], blob)
        config = {
            "os": "linux",
            "architecture": arch.oci,
            "config": {"Cmd": ["/payload"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.diff_id]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": oci.OCI_MANIFEST,
            "config": layout.put_blob(oci.canonical(config), oci.OCI_CONFIG).to_json(),
            "layers": [layout.put_file(blob, oci.OCI_LAYER).to_json()],
        }
        return layout.put_manifest(manifest, oci.OCI_MANIFEST, Platform("linux", arch.oci))

    def stored(self, digest: str) -> Path:
        """Return where the registry keeps a blob."""
        name = digest.partition(":")[2]
        return self.served.root / f"docker/registry/v2/blobs/sha256/{name[:2]}/{name}/data"

    def forge(self, name: str, *, layer: bool) -> None:
        """Change a byte of an image's manifest, or of its layer, inside the registry."""
        path = self.stored(name.partition("@")[2])
        if layer:
            path = self.stored(json.loads(path.read_bytes())["layers"][0]["digest"])
        data = bytearray(path.read_bytes())
        data[-20 if layer else data.index(b"layers")] ^= 1
        path.write_bytes(data)


def push_all(folder: Path, served: Served) -> dict[str, str]:
    """Push every kind of image there is; returns their names by digest."""
    maker, tool = Maker(folder, served), native_program()
    good, foreign = payload(tool), payload(foreign_program(folder))
    names = dict(
        zip(("good", "native", "foreign"), maker.push("good", {HERE: good, THERE: foreign}, index=True), strict=True)
    )
    single = {
        "damaged": good | {"bin/install": b"#!/bin/bash\necho forged\n"},
        "empty": {},
        "mixed": foreign,
        "large": with_sums(good | {"lib/large": LARGE}),
        "bad-manifest": with_sums(good | {"lib/manifest": b""}),
        "bad-layer": with_sums(good | {"lib/layer": b""}),
    }
    names |= {kind: maker.push(kind, {HERE: files}, index=False)[0] for kind, files in single.items()}
    names["elsewhere"] = maker.push("elsewhere", {THERE: foreign}, index=True)[0]
    maker.forge(names["bad-manifest"], layer=False)
    maker.forge(names["bad-layer"], layer=True)
    return names
