"""A real registry with TLS and a password, as a site has one; in a network namespace if a prefix enters one."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster import images
from tests.cluster.packages import Tree, run

USER, PASSWORD = "node", "secret-of-the-registry"
DEADLINE = 30.0
KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
ENDS_WITH_US = ("setpriv", "--pdeathsig", "KILL")
LISTENS = "listening on "
CONFIG = """\
version: 0.1
log: {{level: info, formatter: text}}
storage:
  filesystem: {{rootdirectory: {storage}}}
  delete: {{enabled: true}}
http:
  addr: {address}:{port}
  secret: not-shared-with-anybody
  tls: {{certificate: {work}/server.crt, key: {work}/server.key}}
auth:
  htpasswd: {{realm: site, path: {work}/htpasswd}}
"""


@dataclass(frozen=True)
class Registry:
    """A registry that runs.

    Attributes:
        host: name and port that clients use; the first of its names.
        ca: the certificate that its own is signed with.
        auth_file: user and password as docker and podman keep them.
        log: what it prints.
        pid: its process.
        prefix: words before a command that is to reach it.
    """

    host: str
    ca: Path
    auth_file: Path
    log: Path
    pid: int
    prefix: tuple[str, ...]

    def push(self, tree: Tree, layout: Path, name: str, target: str) -> None:
        """Push an image, or all images of an index, with skopeo.

        Args:
            tree: where skopeo is.
            layout: OCI layout.
            name: of the image in the layout's index.
            target: repository and tag below the host.
        """
        words = [*self.prefix, *tree.command("skopeo"), "--insecure-policy", "copy", "--quiet", "--all"]
        words += ["--preserve-digests", "--authfile", str(self.auth_file), "--dest-cert-dir", str(self.ca.parent)]
        run(*words, f"oci:{layout}:{name}", f"docker://{self.host}/{target}")

    def push_all(self, tree: Tree, layout: Path, repository: str) -> None:
        """Push every image of a layout below a repository, which is kubeadm's imageRepository without the host."""
        for name in images.names(layout):
            self.push(tree, layout, name, f"{repository}/{name}")


@contextmanager
def running(
    tree: Tree,
    work: Path,
    address: str,
    port: int,
    names: Sequence[str] = (),
    *,
    prefix: Sequence[str] = (),
    storage: Path | None = None,
) -> Iterator[Registry]:
    """Run a registry until the context ends.

    Args:
        tree: where docker-registry is.
        work: directory for its keys, settings and log. What is there is used again, so that it may come back later
            as the same registry.
        address: it listens there.
        port: and on this port.
        names: host names that it is known by.
        prefix: words before its command, such as ``ip netns exec NS``; the command must replace them as a process.
        storage: where its blobs are; in ``work`` if not given.
    """
    work.mkdir(parents=True, exist_ok=True)
    make_keys(work, [*names, address])
    (work / "htpasswd").write_text(f"{USER}:{_bcrypt(PASSWORD)}\n")
    host = f"{[*names, address][0]}:{port}"
    auth = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (work / "auth.json").write_text(json.dumps({"auths": {h: {"auth": auth} for h in {host, f"{address}:{port}"}}}))
    (work / "auth.json").chmod(0o600)
    place = storage or work / "storage"
    (work / "config.yml").write_text(CONFIG.format(address=address, port=port, work=work, storage=place))
    log = work / "registry.log"
    # It ends with us, also if we are killed.
    words = [*ENDS_WITH_US, *prefix, *tree.command("docker-registry"), "serve", str(work / "config.yml")]
    with log.open("wb") as output:
        child = subprocess.Popen(words, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        _wait(child, log)
        yield Registry(host, work / "ca/ca.crt", work / "auth.json", log, child.pid, tuple(prefix))
    finally:
        child.terminate()
        child.wait()


def make_keys(work: Path, names: Sequence[str]) -> None:
    """Make a CA, once, and a certificate for names and addresses, anew.

    Args:
        work: ``ca/ca.crt`` lies alone in its directory, as skopeo and docker want it; ``ca.key``, ``server.*`` beside.
        names: host names and IPv4 addresses.
    """
    ca = work / "ca/ca.crt"
    if not ca.exists():
        ca.parent.mkdir()
        extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"]
        run(
            "openssl",
            "req",
            "-x509",
            *KEY,
            "-keyout",
            work / "ca.key",
            "-subj",
            "/CN=site CA",
            "-days",
            "3650",
            *extensions,
            "-out",
            ca,
        )
    kinds = [f"{'IP' if name.replace('.', '').isdigit() else 'DNS'}:{name}" for name in names]
    (work / "server.ext").write_text(f"subjectAltName={','.join(kinds)}\nextendedKeyUsage=serverAuth\n")
    key, request = ("-keyout", work / "server.key"), work / "server.csr"
    run("openssl", "req", "-new", *KEY, *key, "-subj", "/CN=registry", "-out", request)
    signed: list[str | Path] = [
        "-CA",
        ca,
        "-CAkey",
        work / "ca.key",
        "-CAcreateserial",
        "-days",
        "3650",
        "-extfile",
        work / "server.ext",
    ]
    run("openssl", "x509", "-req", "-in", request, *signed, "-out", work / "server.crt")


def _bcrypt(password: str) -> str:
    """Return the only kind of hash that the registry takes; Python's own module for it is on its way out."""
    return run("perl", "-e", r'print crypt($ARGV[0], "\$2b\$04\$abcdefghijklmnopqrstuu")', password)


def _wait(child: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until it says that it listens: it may be in a namespace that we cannot connect to."""
    end = time.monotonic() + DEADLINE
    while LISTENS not in (text := log.read_text(errors="replace")):
        if child.poll() is not None or time.monotonic() > end:
            raise RuntimeError(f"the registry did not start:\n{text[-2000:]}")
        time.sleep(0.05)
