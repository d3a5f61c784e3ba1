"""Signatures of bundles: made, checked with cryptography and with openssl, refused."""

from __future__ import annotations

import base64
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.bundle import portal, signature
from pipeline.bundle.archive import Archive
from pipeline.bundle.tar import header, padding
from pipeline.bundle.verify import verify
from pipeline.core.errors import InputError, VerificationError
from tests.unit.bundles import Made, write

DATA = b'{"version": 1}'
P256 = ["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"]


def openssl(*words: str | Path) -> bytes:
    return subprocess.run(["openssl", *words], check=True, capture_output=True).stdout


def pair(folder: Path, name: str, *words: str) -> tuple[Path, Path]:
    key, public = folder / f"{name}.key", folder / f"{name}.pub"
    openssl("genpkey", *(words or P256), "-out", key)
    openssl("pkey", "-in", key, "-pubout", "-out", public)
    return key, public


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys")


@pytest.fixture(scope="module")
def keys(folder: Path) -> tuple[Path, Path]:
    return pair(folder, "good")


@pytest.fixture(params=["cryptography", "openssl"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "openssl":
        monkeypatch.setitem(sys.modules, "cryptography", None)  # as if it were not installed
    return str(request.param)


@pytest.mark.parametrize("form", ["pkcs8", "sec1", "encrypted"])
def test_keys_in_every_form(folder: Path, keys: tuple[Path, Path], form: str) -> None:
    key, password = folder / f"{form}.key", ""
    if form == "sec1":
        key.write_bytes(openssl("ecparam", "-name", "prime256v1", "-genkey"))
    elif form == "encrypted":
        password = "secret"
        openssl("pkcs8", "-topk8", "-in", keys[0], "-out", key, "-passout", f"pass:{password}")
    else:
        key = keys[0]
    public = folder / f"{form}.pub"
    openssl("pkey", "-in", key, "-passin", f"pass:{password}", "-pubout", "-out", public)
    signed = signature.sign(DATA, key, password)
    signature.check(DATA, signed, public)
    assert signed == signature.sign(DATA, key, password)


def test_what_is_right_and_what_is_not(folder: Path, keys: tuple[Path, Path], how: str) -> None:
    if how == "openssl":  # signing is headquarters' part, where cryptography is there
        signed = base64.b64encode(openssl("dgst", "-sha256", "-sign", keys[0], _file(folder / "data", DATA)))
    else:
        signed = signature.sign(DATA, keys[0])
    signature.check(DATA, signed, keys[1])
    _, other = pair(folder, f"other-{how}")
    for data, text, public in (
        (DATA + b" ", signed, keys[1]),
        (DATA, signed, other),
        (DATA, b"MEUCIQ==", keys[1]),
        (DATA, b"", keys[1]),
        (DATA, b"no base64!", keys[1]),
    ):
        with pytest.raises(VerificationError) as caught:
            signature.check(data, text, public)
        assert caught.value.hint


def _file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_public_keys_that_are_none(folder: Path, how: str) -> None:
    for data in (b"", b"not a key", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"):
        with pytest.raises(InputError, match="cannot be read as a public key"):
            signature.check(DATA, b"AAAA", _file(folder / f"none-{how}.pub", data))
    with pytest.raises(InputError, match="No such file"):
        signature.check(DATA, b"AAAA", folder / "gone.pub")


def test_private_keys_that_are_none(folder: Path, keys: tuple[Path, Path]) -> None:
    rsa, _ = pair(folder, "rsa", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")
    p384, _ = pair(folder, "p384", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384")
    for key in (rsa, p384):
        with pytest.raises(InputError, match="is not an EC key on P-256"):
            signature.sign(DATA, key)
    locked = folder / "locked.key"
    openssl("pkcs8", "-topk8", "-in", keys[0], "-out", locked, "-passout", "pass:secret")
    for password in ("", "wrong"):
        with pytest.raises(InputError, match="cannot be read as a private key"):
            signature.sign(DATA, locked, password)
    for title in ("SIGSTORE", "COSIGN"):
        text = f"-----BEGIN ENCRYPTED {title} PRIVATE KEY-----\neyJ=\n-----END ENCRYPTED {title} PRIVATE KEY-----\n"
        with pytest.raises(InputError, match="cosign's own encryption") as caught:
            signature.sign(DATA, _file(folder / "cosign.key", text.encode()))
        assert "PKCS#8" in caught.value.hint
    with pytest.raises(InputError, match="No such file"):
        signature.sign(DATA, folder / "gone.key")


def test_a_bundle_that_must_be_signed(tmp_path: Path, keys: tuple[Path, Path], how: str) -> None:
    made = Made(1)
    (tmp_path / "unsigned").mkdir()
    write(tmp_path / "unsigned", made)
    with pytest.raises(VerificationError, match="is not signed"):
        Archive.open(tmp_path / "unsigned", key=keys[1])
    if how == "openssl":
        return
    write(tmp_path / "signed", made, key=keys[0])
    with Archive.open(tmp_path / "signed", key=keys[1]) as archive:
        assert archive.is_signed
        assert "signature right" in verify(archive).text()
        head = dict(archive.head)
    with Archive.open(tmp_path / "signed") as archive:
        assert "not asked for" in verify(archive).text()
    _, other = pair(tmp_path, "other")
    with pytest.raises(VerificationError, match="is not by the key"):
        Archive.open(tmp_path / "signed", key=other)
    head["bundle.json"] = head["bundle.json"].replace(b"2026-11-25", b"2026-11-26")
    parts = [header(path, len(data)) + data + padding(len(data)) for path, data in head.items()]
    (tmp_path / "signed/v1.bundle.000").write_bytes(b"".join(parts))
    with pytest.raises(VerificationError, match="is not by the key"):
        Archive.open(tmp_path / "signed", key=keys[1])


def test_a_signed_bundle_has_the_same_bytes_again(tmp_path: Path, keys: tuple[Path, Path]) -> None:
    for name in ("one", "two"):
        write(tmp_path / name, Made(1), key=keys[0])
    assert (tmp_path / "one/v1.bundle.000").read_bytes() == (tmp_path / "two/v1.bundle.000").read_bytes()


def test_parts_that_are_too_small() -> None:
    with pytest.raises(InputError, match="too small"):
        portal.check(1000)
