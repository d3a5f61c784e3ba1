"""Signatures over ``bundle.json``: ECDSA on P-256 with SHA-256, in base64, as ``cosign sign-blob`` writes them.

Made with ``cryptography``; checked with it, or where it is not installed with the ``openssl`` program.
"""

from __future__ import annotations

import base64
import binascii
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.core import process
from pipeline.core.errors import InputError, VerificationError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import ec

_MAKE = "make one: openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out bundle.key"
_PUBLIC = "name the public key: openssl pkey -in bundle.key -pubout -out bundle.pub"
_COSIGN = (b"ENCRYPTED SIGSTORE PRIVATE KEY", b"ENCRYPTED COSIGN PRIVATE KEY")


def sign(data: bytes, key: Path, password: str = "") -> bytes:
    """Sign.

    Args:
        data: what is signed.
        key: private key, EC P-256, PEM (PKCS#8 or SEC 1).
        password: of the key, if it has one.

    Returns:
        The signature in base64.

    Raises:
        InputError: the key cannot be read or is of another kind.
    """
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    private = load_key(key, password)
    # RFC 6979: the same bundle has the same signature, so that packing it again gives the same files.
    method = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
    return base64.b64encode(private.sign(data, method)) + b"\n"


def load_key(key: Path, password: str = "") -> ec.EllipticCurvePrivateKey:
    """Read a private key; see :func:`sign`.

    Raises:
        InputError: the key cannot be read or is of another kind.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    text = _read(key)
    if any(title in text for title in _COSIGN):
        # scrypt and NaCl's secretbox: the latter is in no library that we have.
        hint = f"it must be PKCS#8 PEM; {_MAKE}; 'cosign import-key-pair --key bundle.key' lets cosign use it too"
        raise InputError(f"{key}: is a key in cosign's own encryption, which cannot be read here", hint=hint)
    try:
        private = serialization.load_pem_private_key(text, password.encode() or None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{key}: cannot be read as a private key: {error}", hint=_MAKE) from error
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.curve.name != "secp256r1":
        raise InputError(f"{key}: is not an EC key on P-256", hint=_MAKE)
    return private


def check(data: bytes, signature: bytes, public_key: Path) -> None:
    """Check a signature.

    Args:
        data: what was signed.
        signature: in base64.
        public_key: PEM, as ``cosign.pub``.

    Raises:
        InputError: the public key cannot be read.
        VerificationError: the signature is not by that key over these bytes.
    """
    key = _read(public_key)
    try:
        raw = base64.b64decode(signature.strip(), validate=True)
    except binascii.Error as error:
        raise VerificationError(f"the signature is no base64: {error}", hint="copy the bundle again") from error
    try:
        import cryptography  # noqa: F401 - is it there?
    except ImportError:
        is_good = _check_by_openssl(data, raw, key, public_key)
    else:
        is_good = _check_here(data, raw, key, public_key)
    if not is_good:
        hint = "the bundle was altered, or signed by somebody else: ask who sent it, and compare its id"
        raise VerificationError(f"the signature is not by the key {public_key}", hint=hint)


def _check_here(data: bytes, raw: bytes, key: bytes, path: Path) -> bool:
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        public = serialization.load_pem_public_key(key)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"{path}: cannot be read as a public key: {error}", hint=_PUBLIC) from error
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise InputError(f"{path}: is not an EC key", hint=_PUBLIC)
    try:
        public.verify(raw, data, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        return False
    return True


def _check_by_openssl(data: bytes, raw: bytes, key: bytes, path: Path) -> bool:
    process.require("openssl", hint="install openssl: it checks the signature")
    with tempfile.TemporaryDirectory() as name:
        files = {"data": data, "signature": raw, "key": key}
        for file, content in files.items():
            (Path(name) / file).write_bytes(content)
        readable = process.run(["openssl", "pkey", "-pubin", "-in", "key", "-noout"], cwd=Path(name), check=False)
        if readable.returncode != 0:
            raise InputError(f"{path}: cannot be read as a public key", hint=_PUBLIC)
        words = ["openssl", "dgst", "-sha256", "-verify", "key", "-signature", "signature", "data"]
        return process.run(words, cwd=Path(name), check=False).returncode == 0


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint="check the path of the key") from error
