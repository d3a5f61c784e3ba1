"""bundle.pyz as the field has it: one file, run by interpreters that have nothing but themselves.

Run here: CPython of this machine without site packages, and Debian's PyPy, whose language is Python 3.9. No Python 3.6,
3.7 or 3.8 can be had here: for them there is only the look through what is packed (tests/unit/test_bundle_field.py).
"""

# ruff: noqa: RUF001 - Chinese has its own punctuation
from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.bundle import field, helper
from pipeline.bundle.assemble import Options
from pipeline.bundle.codec import Codec, Encoder
from pipeline.bundle.images import ImageList, Wanted
from pipeline.bundle.pack import pack
from pipeline.core.cache import cache_root
from pipeline.core.errors import DependencyError
from pipeline.oci import Descriptor, Reference, Registry, RegistryOptions
from tests.integration import registries
from tests.integration.packed import Maker, cosign_tag, noise
from tests.integration.registries import Served

PYPY = ("pypy3", "pypy3-lib", "libffi8", "libgdbm6")
CPYTHON = Path("/usr/bin/python3")
KIB = 1024
STORES = ("plain", "lean")
GO_HEADER = bytes.fromhex("1f8b08000000000000ff")  # of compress/gzip and pgzip: no name, no time, unknown system
pytestmark = [pytest.mark.network, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("field")


@dataclass(frozen=True)
class Interpreter:
    """A Python of the field: its words, and the environment it needs."""

    words: tuple[str, ...]
    environment: dict[str, str]

    def run(self, pyz: Path, *words: str | Path, code: int = 0, **environment: str) -> subprocess.CompletedProcess[str]:
        """Run bundle.pyz, and expect an exit code."""
        done = subprocess.run(
            [*self.words, pyz, *words],
            env={"PATH": "/usr/bin:/bin", "HOME": str(pyz.parent.parent), **self.environment, **environment},
            cwd="/",
            capture_output=True,
            encoding="utf-8",
            check=False,
            timeout=300,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return done


@pytest.fixture(scope="module", params=["cpython", "pypy"])
def python(request: pytest.FixtureRequest, folder: Path) -> Interpreter:
    if request.param == "cpython":
        return Interpreter((str(CPYTHON), "-I", "-S", "-W", "error"), {})
    path, environment = registries.program("pypy3", folder, *PYPY)
    return Interpreter((str(path), "-I", "-S"), environment)


@dataclass(frozen=True)
class Packed:
    """What was packed: bundles by store, every manifest by its digest, and the public key of who signed."""

    bundles: dict[str, Path]
    index: Descriptor
    manifests: dict[str, bytes]
    signature_tag: str
    key: Path


@pytest.fixture(scope="module")
def packed(folder: Path) -> Iterator[Packed]:
    """An image for two architectures, signed, its layers as podman writes them, packed plain and lean."""
    helper.build(cache_root())
    maker = Maker(folder / "made")
    shared = _podmans_layer(maker, 1, 3000 * KIB)
    own = {arch: _podmans_layer(maker, seed, 200 * KIB) for seed, arch in ((2, "amd64"), (3, "arm64"))}
    images = [maker.image(arch, shared, layer) for arch, layer in own.items()]
    index = maker.index(*images)
    signature = maker.signature(index)
    with registries.registry(folder / "headquarters", tls=False) as served:
        registry = Registry(served.host, RegistryOptions(plain_http=True))
        maker.push(registry, "platform/app", index, "v1")
        maker.push(registry, "platform/app", signature, cosign_tag(index, ".sig"))
        wanted = Wanted(Reference.parse(f"{served.host}/platform/app:v1"), "platform/app", ("v1",), None)
        (key, public), bundles = _key(folder, "ours"), {}
        for store in STORES:
            options = Options(folder / "bundles", store=store, volume_size=1000 * KIB, key=key)
            with pack(ImageList((wanted,)), f"v1-{store}", lambda _: registry, folder / "store", options) as archive:
                bundles[store] = archive.path
    manifests = {one.digest: maker.layout.read(one.digest) for one in (*images, index, signature)}
    yield Packed(bundles, index, manifests, cosign_tag(index, ".sig"), public)


def _key(folder: Path, name: str) -> tuple[Path, Path]:
    """Make a key to sign with; returns it and its public half."""
    private, public = folder / f"{name}.key", folder / f"{name}.pub"
    words = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", str(private)]
    subprocess.run(words, check=True, capture_output=True)
    subprocess.run(["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(public)], check=True)
    return private, public


def _podmans_layer(maker: Maker, seed: int, size: int) -> Descriptor:
    """Make a layer as podman and buildah compress it: pgzip in blocks of 1 MiB."""
    codec = Codec.find()
    assert codec is not None
    plain = maker.layer(f"opt/{seed}", noise(seed, size))
    path = maker.layout.path / "blobs/sha256" / plain.digest.partition(":")[2]
    raw = io.BytesIO(gzip.decompress(path.read_bytes()))
    with codec.encode(Encoder("pgzip", -1, 1024 * KIB, GO_HEADER), raw) as stream:
        return maker.layout.put_blob(stream.read(), plain.media_type)


@pytest.fixture(params=STORES)
def bundle(request: pytest.FixtureRequest, packed: Packed) -> Path:
    return packed.bundles[request.param]


@pytest.fixture(scope="module")
def site(folder: Path) -> Iterator[Served]:
    with registries.registry(folder / "site", password=True) as running:
        yield running


def test_it_lies_beside_the_volumes_with_a_page_and_hashes(packed: Packed) -> None:
    for path in packed.bundles.values():
        assert os.access(path / "bundle.pyz", os.X_OK)
        assert "校验" in (path / field.README_NAME).read_text(encoding="utf-8")
        subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=path, check=True)
        with zipfile.ZipFile(path / "bundle.pyz") as archive:
            names = set(archive.namelist())
        assert {"pipeline/bundle/field/helper-amd64", "pipeline/bundle/field/helper-arm64"} <= names
        assert {"vendor/requests/__init__.py", "backports/dataclasses.py"} <= names


def test_the_same_inputs_are_the_same_file(tmp_path: Path, packed: Packed) -> None:
    made = field.build(tmp_path / "new" / "bundle.pyz")
    assert made.read_bytes() == (packed.bundles["plain"] / "bundle.pyz").read_bytes()


def test_it_lists_and_verifies(python: Interpreter, bundle: Path) -> None:
    pyz = bundle / "bundle.pyz"
    assert "platform/app" in python.run(pyz, "list").stdout
    said = python.run(pyz, "verify")
    assert f"{bundle.name} is whole and unaltered: sha256:" in said.stdout
    assert "完整且未被改动" in python.run(pyz, "verify", "--lang", "zh").stdout


def test_it_checks_the_signature_without_any_package(python: Interpreter, packed: Packed, tmp_path: Path) -> None:
    path = packed.bundles["plain"]
    said = python.run(path / "bundle.pyz", "verify", "--key", packed.key).stdout
    assert "the signature is right" in said
    said = python.run(
        path / "bundle.pyz", "verify", "--key", _key(tmp_path, "others")[1], "--lang", "zh", code=7
    ).stderr
    assert "签名不符时请勿使用" in said


def test_it_expands(python: Interpreter, bundle: Path, packed: Packed, tmp_path: Path) -> None:
    python.run(bundle / "bundle.pyz", "expand", "--to", tmp_path / "layout", LANG="zh_CN.UTF-8")
    blobs = {path.name: path.read_bytes() for path in (tmp_path / "layout/blobs/sha256").iterdir()}
    assert all(hashlib.sha256(data).hexdigest() == name for name, data in blobs.items())
    assert {digest.partition(":")[2] for digest in packed.manifests} <= set(blobs)


def test_it_syncs(python: Interpreter, bundle: Path, packed: Packed, site: Served, tmp_path: Path) -> None:
    assert site.auth_file is not None
    prefix = hashlib.sha256(f"{python.words} {bundle}".encode()).hexdigest()[:8]
    words = ["sync", "--to", f"{site.host}/{prefix}", "--ca", str(site.ca), "--auth-file", str(site.auth_file)]
    words += ["--state", str(tmp_path / "state"), "--site-files", str(tmp_path / "files")]
    registry = Registry(site.host, RegistryOptions(ca=site.ca, auth_file=site.auth_file))
    python.run(bundle / "bundle.pyz", *words, "--dry-run")
    assert registry.head_manifest(f"{prefix}/platform/app", "v1") is None

    python.run(bundle / "bundle.pyz", *words)
    python.run(bundle / "bundle.pyz", *words)
    for ref in ("v1", packed.signature_tag, *packed.manifests):
        descriptor, data = registry.get_manifest(f"{prefix}/platform/app", ref)
        assert data == packed.manifests[descriptor.digest]
    for data in packed.manifests.values():
        content = json.loads(data)
        for blob in [content["config"], *content["layers"]] if "config" in content else ():
            assert registry.has_blob(f"{prefix}/platform/app", blob["digest"])
    assert any(path.name == "hosts.toml" for path in (tmp_path / "files").rglob("*"))


# --- what goes wrong


@pytest.fixture
def copied(packed: Packed, tmp_path: Path) -> Path:
    return Path(shutil.copytree(packed.bundles["plain"], tmp_path / "v1-plain"))


def test_damage_is_told_in_the_users_language(python: Interpreter, copied: Path) -> None:
    volume = copied / "v1-plain.bundle.002"
    data = bytearray(volume.read_bytes())
    data[1000] ^= 1
    volume.write_bytes(data)
    said = python.run(copied / "bundle.pyz", "verify", "--lang=zh", code=7).stderr
    assert "校验未通过：" in said
    assert "error: " in said
    assert volume.name in said
    said = python.run(copied / "bundle.pyz", "verify", code=7).stderr
    assert "校验" not in said


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        ((), 2, "error: no command is given"),
        (("verify", "/nowhere/at/all"), 2, "error: "),
        (("verify", "--no-such-option"), 2, "--no-such-option"),
        (("sync",), 2, "--to"),
        (("sync", "--to", "no host"), 2, "is not a registry"),
        (("sync", "--to", "localhost:1", "--parallel", "0"), 2, "--parallel 0"),
    ],
)
def test_bad_input_ends_with_a_hint(
    python: Interpreter, packed: Packed, words: tuple[str, ...], code: int, said: str
) -> None:
    done = python.run(packed.bundles["plain"] / "bundle.pyz", *words, code=code)
    assert said in done.stderr
    assert "\nhint: " in done.stderr
    assert "Traceback" not in done.stderr


def test_a_registry_that_is_not_trusted_or_does_not_trust_is_named(
    python: Interpreter, packed: Packed, site: Served, tmp_path: Path
) -> None:
    pyz, words = packed.bundles["plain"] / "bundle.pyz", ["sync", "--to", site.host, "--state", str(tmp_path)]
    said = python.run(pyz, *words, code=6, LANG="zh_CN.UTF-8").stderr
    assert "网络或镜像仓库故障：" in said
    assert "the registry's certificate is not trusted" in said
    wrong = registries.auth_file(tmp_path / "auth.json", site.host, password="wrong")
    said = python.run(pyz, *words, "--ca", str(site.ca), "--auth-file", str(wrong), code=6).stderr
    assert f"error: {site.host}" in said
    assert "401" in said


def test_a_machine_without_authorities_is_asked_for_one(packed: Packed, site: Served) -> None:
    python = Interpreter((str(CPYTHON), "-I", "-S"), {"SSL_CERT_FILE": "/nowhere", "SSL_CERT_DIR": "/nowhere"})
    pyz = packed.bundles["plain"] / "bundle.pyz"
    assert "\nhint: name the certificate" in python.run(pyz, "sync", "--to", site.host, code=2).stderr


def test_help_speaks_both_languages(python: Interpreter, packed: Packed) -> None:
    pyz = packed.bundles["plain"] / "bundle.pyz"
    for command in ("list", "verify", "expand", "sync"):
        assert f"python3 bundle.pyz {command}" in python.run(pyz, command, "--help").stdout
        assert "用法：" in python.run(pyz, command, "--help", "--lang", "zh").stdout


def test_a_locale_that_knows_only_ascii_is_no_reason_to_fail(packed: Packed) -> None:
    plain = Interpreter((str(CPYTHON), "-S"), {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"})
    assert "用法：" in plain.run(packed.bundles["plain"] / "bundle.pyz", "--lang", "zh", "--help").stdout


def test_a_reader_that_has_gone_is_no_defect(packed: Packed) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    words = [str(CPYTHON), "-I", "-S", str(packed.bundles["plain"] / "bundle.pyz"), "list"]
    done = subprocess.run(words, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_an_interrupt_ends_it_at_once(packed: Packed, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(60)
        words = ["sync", "--plain-http", "--to", f"localhost:{silent.getsockname()[1]}", "--state", str(tmp_path)]
        pyz = packed.bundles["plain"] / "bundle.pyz"
        command = [str(CPYTHON), "-I", "-S", str(pyz), "--lang", "zh", *words]
        with subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8") as child:
            try:
                connection, _ = silent.accept()
                with connection:
                    child.send_signal(signal.SIGINT)
                    _, said = child.communicate(timeout=30)
            finally:
                child.kill()
    assert child.returncode == 130
    assert "已中断。" in said
    assert "error: interrupted" in said


# --- what it is made of cannot be had


def test_packages_that_cannot_be_fetched_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))  # an empty cache
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setattr(helper, "build", _no_helper)
    with pytest.raises(DependencyError) as failed:
        field.build(tmp_path / "bundle.pyz")
    assert "No matching distribution found" in failed.value.message
    assert "vendor.txt" in failed.value.hint
    assert not (tmp_path / "bundle.pyz").exists()


def _no_helper(_cache: Path) -> dict[object, Path]:
    raise DependencyError("there is no Go on this machine", hint="install Go")


def test_without_go_it_is_made_without_the_helper(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, packed: Packed, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(helper, "build", _no_helper)
    pyz = field.build(tmp_path / "bundle.pyz")
    assert "bundle.pyz is made without the helper, so lean bundles cannot be made" in capfd.readouterr().err
    python = Interpreter((str(CPYTHON), "-I", "-S"), {})
    python.run(pyz, "verify", packed.bundles["plain"])
    assert "\nhint: " in python.run(pyz, "verify", packed.bundles["lean"], code=DependencyError.exit_code).stderr
