"""What everybody makes: one Debian node image, as its profile says it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from pipeline import image, profile
from pipeline.core.arch import Architecture
from pipeline.profile import DebBase

ROOT = Path(__file__).resolve().parents[2]
PROFILES, OVERLAYS = ROOT / "osprofiles", ROOT / "overlays"
DISK_GB = 4
SERVICES = ("systemd-networkd", "systemd-resolved", "ssh", "chrony")  # a node without them is not reached
PEERS_SUITE = "trixie"  # the first Debian with mkosi 25
PACKED = ("-c", "-O", "qcow2", "-o", "compression_type=zstd")  # how qemu-img packs a disk of whoever writes raw ones


@dataclass(frozen=True)
class Recipe:
    """What an image is made of.

    Attributes:
        os: the profile.
        codename: the release's name in the archive.
        arch: its architecture.
        packages: what is asked for.
        avoid: packages that are never taken.
        exclude: patterns of paths that are left out.
        keep: patterns of what is kept of these.
        components: of the archive.
        sources: archive and suite of each index; only in files that stay on this machine.
        keyring: the keys that signed them.
    """

    os: str
    codename: str
    arch: Architecture
    packages: tuple[str, ...]
    avoid: tuple[str, ...]
    exclude: tuple[str, ...]
    keep: tuple[str, ...]
    components: tuple[str, ...]
    sources: tuple[tuple[str, str], ...]
    keyring: str

    @property
    def archive(self) -> str:
        """Where the release itself lies; later releases lie there too."""
        return next(uri for uri, suite in self.sources if suite == self.codename)

    @property
    def security(self) -> str:
        """Where its security updates lie."""
        return next((uri for uri, suite in self.sources if suite.endswith("-security")), self.archive)

    def hosts(self) -> set[str]:
        """Return the names of the machines that packages come from, which belong into no report."""
        return {host for uri, _ in self.sources if (host := urlsplit(uri).hostname)}

    def source_list(self) -> str:
        """Return a ``.sources`` file of apt."""
        stanzas = [
            f"Types: deb\nURIs: {uri}\nSuites: {suite}\nComponents: {' '.join(self.components)}\n"
            f"Signed-By: {self.keyring}\n"
            for uri, suite in self.sources
        ]
        return "\n".join(stanzas)

    def path_filters(self, *, without: str = "") -> str:
        """Return what dpkg is to leave out, as a file of ``dpkg.cfg.d``.

        Args:
            without: a directory that a peer needs files of while it builds.
        """
        wanted = [pattern for pattern in self.exclude if not (without and pattern.startswith(f"{without}/"))]
        lines = [f"path-exclude={pattern}" for pattern in wanted]
        return "\n".join([*lines, *(f"path-include={pattern}" for pattern in self.keep)]) + "\n"

    def refusals(self, *, without: tuple[str, ...] = ()) -> str:
        """Return apt preferences under which the avoided packages cannot be taken.

        Args:
            without: those that a peer cannot do without.
        """
        names = [name for name in self.avoid if name not in without]
        return f"Package: {' '.join(names)}\nPin: release *\nPin-Priority: -1\n"


def read(os_name: str, mirror: str | None) -> Recipe:
    """Read a deb profile and find where its packages come from.

    Args:
        os_name: the profile.
        mirror: package archive, or None for this machine's apt sources.
    """
    found = profile.find(os_name, PROFILES)
    arch = Architecture.AMD64
    release = profile.select(found, None, arch)
    plan = image.resolve(found, None, arch, overlays=OVERLAYS, mirror=mirror)
    base = release.base
    assert isinstance(base, DebBase)
    return Recipe(
        os_name, release.codename, arch, (*release.packages, *release.arch[arch].packages),
        tuple(base.avoid), tuple(base.exclude), tuple(base.keep), tuple(base.components),
        tuple((source.uri, source.suite) for source in plan.sources), str(base.keyring),
    )  # fmt: skip
