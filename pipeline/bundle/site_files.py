"""What nodes need to pull a bundle's images from the site's registry by the names that they have at headquarters.

Written below one directory, laid out as below ``/etc`` of a node::

    containerd/certs.d/<source host>/hosts.toml       containerd (containerd/docs/hosts.md)
    containers/registries.conf.d/50-<bundle>.conf     podman, CRI-O (containers-registries.conf(5), .d(5))
    containers/certs.d/<site>/ca.crt                  the same (containers-certs.d(5))
    openshift/<bundle>-idms.yaml, -itms.yaml          OpenShift (config.openshift.io/v1)
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.core import files
from pipeline.core.errors import InputError
from pipeline.oci import DOCKER_HUB, Reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from pipeline.bundle.model import Bundle

CA = "ca.crt"


@dataclass(frozen=True)
class Site:
    """The site's registry, as nodes reach it.

    Attributes:
        host: the registry, with its port.
        prefix: path below which the images are; empty for none.
        is_plain: whether it speaks HTTP without TLS.
        is_insecure: whether nodes are to believe any certificate.
        has_ca: whether nodes need the certificate of its authority.
    """

    host: str
    prefix: str = ""
    is_plain: bool = False
    is_insecure: bool = False
    has_ca: bool = False

    @property
    def location(self) -> str:
        """Where the images are."""
        return f"{self.host}/{self.prefix}" if self.prefix else self.host

    @property
    def url(self) -> str:
        """The same, as a URL."""
        return f"{'http' if self.is_plain else 'https'}://{self.host}"


@dataclass(frozen=True)
class Mirror:
    """Where something is that is called otherwise at headquarters.

    Attributes:
        source: a host, or an image's repository with its host.
        location: the same at the site.
    """

    source: str
    location: str


def write(
    bundle: Bundle,
    registry_host: str,
    prefix: str,
    out: Path,
    ca: Path | None = None,
    *,
    plain_http: bool = False,
    insecure: bool = False,
) -> tuple[Path, ...]:
    """Write the files that nodes need.

    Args:
        bundle: whose images are to be found.
        registry_host: the site's registry, with its port.
        prefix: path below which the images are there; empty for none.
        out: directory, taken for ``/etc`` of a node.
        ca: certificate of the authority that signed for the registry, which nodes are given too.
        plain_http: the registry speaks HTTP without TLS.
        insecure: nodes are to believe any certificate.

    Returns:
        The files, sorted.

    Raises:
        InputError: the certificate cannot be read.
        StorageError: the files cannot be written.
    """
    site = Site(registry_host, prefix, plain_http, insecure, ca is not None)
    texts = {path: text.encode() for path, text in _texts(bundle, site).items()}
    if ca is not None:
        certificate = _read(ca)
        hosts = {*_hosts(bundle), registry_host}
        texts.update({f"containerd/certs.d/{host}/{CA}": certificate for host in hosts})
        texts[f"containers/certs.d/{registry_host}/{CA}"] = certificate
    for name, data in texts.items():
        with files.storage(out / name):
            (out / name).parent.mkdir(parents=True, exist_ok=True)
        files.write(out / name, data)
    return tuple(sorted(out / name for name in texts))


def _texts(bundle: Bundle, site: Site) -> dict[str, str]:
    mirrors = list(_mirrors(bundle, site))
    found = {f"containerd/certs.d/{host}/hosts.toml": hosts_toml(bundle, host, site) for host in _hosts(bundle)}
    if site.host not in found:
        found[f"containerd/certs.d/{site.host}/hosts.toml"] = _own_hosts_toml(bundle, site)
    found[f"containers/registries.conf.d/50-{bundle.name}.conf"] = registries_conf(bundle, mirrors, site)
    if mirrors:
        name = re.sub(r"[^a-z0-9]+", "-", bundle.name.lower()).strip("-")  # RFC 1123, as Kubernetes wants names
        for kind, key, suffix in (
            ("ImageDigestMirrorSet", "imageDigestMirrors", "idms"),
            ("ImageTagMirrorSet", "imageTagMirrors", "itms"),
        ):
            found[f"openshift/{bundle.name}-{suffix}.yaml"] = _mirror_set(bundle, mirrors, kind, key, name)
    return found


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}", hint="check the path of the CA file") from error


# --- what is where


def _hosts(bundle: Bundle) -> tuple[str, ...]:
    return tuple(sorted({Reference.parse(image.source).host for image in bundle.images}))


def _renamed(bundle: Bundle) -> dict[str, str]:
    """Return the repositories that have another path at the site, by their names at headquarters."""
    found = {}
    for image in bundle.images:
        source = Reference.parse(image.source)
        if source.repository != image.repository:
            found[f"{source.host}/{source.repository}"] = image.repository
    return dict(sorted(found.items()))


def _mirrors(bundle: Bundle, site: Site) -> Iterator[Mirror]:
    """Yield what is where: hosts, then repositories that have another path; nothing that is where it was."""
    for host in _hosts(bundle):
        if host != site.location:
            yield Mirror(host, site.location)
    for source, repository in _renamed(bundle).items():
        yield Mirror(source, f"{site.location}/{repository}")


# --- containerd


def hosts_toml(bundle: Bundle, host: str, site: Site) -> str:
    """Return ``hosts.toml`` for a host of headquarters.

    A prefix is a part of the mirror's URL, behind the ``/v2`` that containerd would put at its end otherwise.

    Args:
        bundle: for what is said in it.
        host: the host in the names of images.
        site: where the images are.
    """
    server = "https://registry-1.docker.io" if host in DOCKER_HUB else f"https://{host}"
    lines = [*_said(bundle)]
    for source, repository in _renamed(bundle).items():
        if source.startswith(f"{host}/"):
            lines.append(f"# not found this way, as its path is another one: {source} is {site.location}/{repository}")
    lines += [f"server = {_quoted(server)}", "", *_host_table(site, f"/v2/{site.prefix}" if site.prefix else "")]
    return _text(lines)


def _own_hosts_toml(bundle: Bundle, site: Site) -> str:
    """Return ``hosts.toml`` for images that are called by their names at the site."""
    return _text([*_said(bundle), f"server = {_quoted(site.url)}", "", *_host_table(site, "")])


def _host_table(site: Site, path: str) -> Iterator[str]:
    yield f"[host.{_quoted(site.url + path)}]"
    yield '  capabilities = ["pull", "resolve"]'
    if path:
        yield "  override_path = true"
    if site.has_ca:
        yield f'  ca = "{CA}"'  # beside this file
    if site.is_insecure:
        yield "  skip_verify = true"


# --- podman, CRI-O


def registries_conf(bundle: Bundle, mirrors: Sequence[Mirror], site: Site) -> str:
    """Return the drop-in for ``registries.conf``: names without a host stand for nothing.

    A digest is looked for at the mirror and then at the source, and so is a tag: as two mirrors, as what is set from
    ImageDigestMirrorSet and ImageTagMirrorSet is, so that each of them can be taken out by itself.

    Args:
        bundle: for what is said in it.
        mirrors: what is where.
        site: the registry.
    """
    lines = [*_said(bundle), "unqualified-search-registries = []"]
    insecure = ["insecure = true"] if site.is_plain or site.is_insecure else []
    for mirror in mirrors:
        lines += ["", "[[registry]]", f"prefix = {_quoted(mirror.source)}", f"location = {_quoted(mirror.source)}"]
        for which in ("digest-only", "tag-only"):
            lines += ["", "[[registry.mirror]]", f"location = {_quoted(mirror.location)}"]
            lines += [f"pull-from-mirror = {_quoted(which)}", *insecure]
    if insecure:
        lines += ["", "[[registry]]", f"prefix = {_quoted(site.host)}", f"location = {_quoted(site.host)}", *insecure]
    return _text(lines)


# --- OpenShift


def _mirror_set(bundle: Bundle, mirrors: Iterable[Mirror], kind: str, key: str, name: str) -> str:
    lines = [*_said(bundle), "apiVersion: config.openshift.io/v1", f"kind: {kind}", "metadata:"]
    lines += [f"  name: {_quoted(name)}", "spec:", f"  {key}:"]
    for mirror in mirrors:
        lines += [f"  - source: {_quoted(mirror.source)}", "    mirrors:", f"    - {_quoted(mirror.location)}"]
    return _text(lines)


# --- texts


def _said(bundle: Bundle) -> Iterator[str]:
    yield f"# for the images of {bundle.name} ({bundle.id})"


def _quoted(text: str) -> str:
    """Return a text as TOML and YAML both write it: what JSON writes of ASCII is understood by both."""
    return json.dumps(text)


def _text(lines: Iterable[str]) -> str:
    return "\n".join(lines) + "\n"
