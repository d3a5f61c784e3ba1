"""The files that ``cluster.yaml`` names: the certificate of the registry's authority, and credentials.

Nothing of the credentials is ever part of a message.
"""

from __future__ import annotations

import json
import re
import ssl
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from pipeline.core.document import Location

PEM = re.compile(r"-----BEGIN CERTIFICATE-----\n.+?\n-----END CERTIFICATE-----", re.DOTALL)
PRIVATE = "PRIVATE KEY-----"


def problems(data: object, directory: Path) -> Iterator[tuple[Location, str]]:
    """Yield what is wrong with the files that a spec names.

    Args:
        data: the spec as it was written, right or wrong.
        directory: where relative paths begin.
    """
    registry = data.get("registry") if isinstance(data, Mapping) else None
    if not isinstance(registry, Mapping):
        return
    for key in ("ca", "auth_file"):
        name = registry.get(key)
        if not isinstance(name, str):
            continue
        try:
            text = (directory / name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not text"
            yield ("registry", key), f"{directory / name} cannot be read: {reason}"
            continue
        found = _wrong_authority(text) if key == "ca" else _wrong_credentials(text, str(registry.get("host")))
        for what in found:
            yield ("registry", key), f"{directory / name}: {what}"


def certificates(path: Path) -> str:
    """Return the certificates of a file that was found to be right, and nothing else that may stand in it."""
    return "".join(f"{block}\n" for block in _blocks(path.read_text(encoding="utf-8")))


def credentials(path: Path, hosts: Collection[str]) -> str:
    """Return the credentials of some registries from a file that was found to be right; nodes get no others.

    Args:
        path: the file.
        hosts: ``host[:port]`` of each registry.
    """
    entries = json.loads(path.read_text(encoding="utf-8"))["auths"]
    return json.dumps({"auths": {key: entry for key, entry in entries.items() if _host(key) in hosts}}, indent=1) + "\n"


def _host(key: str) -> str:
    return key.rpartition("://")[2].partition("/")[0]


def _blocks(text: str) -> list[str]:
    return PEM.findall(text.replace("\r\n", "\n"))


def _wrong_authority(text: str) -> Iterator[str]:
    blocks = _blocks(text)
    if PRIVATE in text:
        yield "it holds a private key, which no node may get; name a file with the certificate alone"
    if not blocks:
        yield "it holds no PEM certificate"
    for number, block in enumerate(blocks, 1):
        if what := _wrong_certificate(block):
            yield what if len(blocks) == 1 else f"certificate {number} of {len(blocks)}: {what}"


def _wrong_certificate(block: str) -> str:
    """Say why a certificate is not one of an authority that is valid now; empty if it is."""
    store = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        store.load_verify_locations(cadata=block)
    except (ssl.SSLError, ValueError):
        return "the PEM certificate is damaged"
    known = store.get_ca_certs()
    if not known:
        return "the certificate is not of an authority (CA:TRUE): it must be the one that signed the registry's own"
    begins, ends = str(known[0]["notBefore"]), str(known[0]["notAfter"])
    if ssl.cert_time_to_seconds(ends) <= time.time():
        return f"the certificate has expired: {ends}"
    if ssl.cert_time_to_seconds(begins) > time.time():
        return f"the certificate is not valid before {begins}; is this machine's clock right?"
    return ""


def _wrong_credentials(text: str, host: str) -> Iterator[str]:
    try:
        data = json.loads(text)
    except ValueError as error:
        line = getattr(error, "lineno", 0)
        yield f"it is not JSON (line {line})"
        return
    entries = data.get("auths") if isinstance(data, dict) else None
    if not isinstance(entries, dict):
        yield "it has no \"auths\": it must be docker's config.json or podman's auth.json"
        return
    hosts = {_host(key): entry for key, entry in entries.items()}
    entry = hosts.get(host)
    if entry is None:
        yield f"it has no credentials for {host}; it has some for: {', '.join(sorted(hosts)) or 'none'}"
    elif not isinstance(entry, dict) or not (entry.get("auth") or (entry.get("username") and entry.get("password"))):
        yield f"its entry of {host} holds no credentials: a helper of this machine keeps them, which nodes do not have"
