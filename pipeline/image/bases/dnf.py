"""dnf of this machine, working on a tree: its configuration, how it is run, what its complaints mean.

Nothing of this machine's own dnf counts. Sources: dnf.conf(5), dnf(8); what dnf 4.14 does beyond them was seen in runs.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import shutil
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import process
from pipeline.core.arch import Architecture
from pipeline.core.errors import (
    DependencyError,
    InputError,
    NetworkError,
    PipelineError,
    StorageError,
    ToolError,
    VerificationError,
)
from pipeline.image.bases import downloads
from pipeline.image.bases.repositories import INDEX, Repository
from pipeline.profile import RpmBase

FIRMWARE = ("/usr/lib/firmware", "/lib/firmware")
MACROS = "etc/rpm/macros.image"  # in the tree
PLUGIN = Path(__file__).parent / "dnf_plugin/chosen.py"
IN_TREE = "run/dnf"  # dnf takes its directories for those of the tree, wherever they are set
# What dnf says, the error that it is, and the next action.
TROUBLES: tuple[tuple[re.Pattern[str], type[PipelineError], str], ...] = (
    (
        re.compile("is not signed|Public key for .* is not installed|not correct for this package|GPG check FAILED"),
        VerificationError,
        "every package must be signed by a key of the profile's 'fingerprints'; ask who made this repository",
    ),
    (
        re.compile("Status code: 40[13]"),
        NetworkError,
        "put the repository's user and password into ~/.netrc (see netrc(5)), and check them",
    ),
    (
        re.compile("needs .* on the .* filesystem|more space needed"),
        StorageError,
        "free some space ('./invoke clean --cache' empties the cache) and try again",
    ),
    (
        re.compile("Failed to download metadata|Cannot download|Error downloading|All mirrors were|checksum"),
        NetworkError,
        "if the repository is being updated right now, try again later; or name another one with --mirror",
    ),
    (
        re.compile("Unable to find a match|No match for argument|nothing provides|conflicts with|cannot install"),
        InputError,
        "correct the packages in the profile (those of one architecture are below 'arch'), or add the repository "
        "that has them",
    ),
)


@dataclass(frozen=True)
class Chosen:
    """A package that dnf has chosen to install.

    Attributes:
        name: its name.
        version: ``epoch:version-release``; the epoch is always there.
        architecture: its own.
        checksum: what its repository's index says: ``kind:hexadecimal``.
        size: of its file, in bytes.
        repository: the id of its repository.
        location: where it is below that.
        base: URL that its location is relative to, where the index names one; mostly empty.
        file: where its file is once it is downloaded.
    """

    name: str
    version: str
    architecture: str
    checksum: str
    size: int
    repository: str
    location: str
    base: str
    file: Path


@dataclass(frozen=True)
class Dnf:
    """dnf, set up for one tree.

    Attributes:
        base: the profile's base.
        arch: the tree's architecture.
        root: the tree.
        config: dnf's whole configuration.
        home: home directory, with rpm's macros.
        cache: downloaded packages and metadata.
    """

    base: RpmBase
    arch: Architecture
    root: Path
    config: Path
    home: Path
    cache: Path

    def choose(
        self, packages: Sequence[str], *options: str, download: bool, binds: Sequence[tuple[Path, str]] = ()
    ) -> list[Chosen]:
        """Resolve packages with their dependencies, and install nothing.

        Args:
            packages: their names.
            options: of dnf.
            download: fetch all of them, and check their signatures.
            binds: (path on this machine, path in the tree), shown writable.

        Returns:
            What would be installed.

        Raises:
            PipelineError: they cannot be installed together, or fetched.
        """
        plugins, listing = self.home / "plugins", self.home / "chosen.jsonl"
        plugins.mkdir(exist_ok=True)
        shutil.copyfile(PLUGIN, plugins / PLUGIN.name)
        listing.unlink(missing_ok=True)
        more = ["--setopt=plugins=1", f"--setopt=pluginpath={plugins}", "--downloadonly" if download else "--assumeno"]
        try:
            self._resolve(packages, *options, *more, binds=binds, env={"CHOSEN_PACKAGES": str(listing)})
        except ToolError:
            if download or not listing.exists():  # that nothing was installed counts as a failure
                raise
        if not listing.exists():
            raise DependencyError(
                "dnf did not load the plugin that tells what it has chosen",
                hint="this needs dnf 4 with its Python interface, as Debian and RHEL 8 to 10 have it; see the log",
            )
        rows = [json.loads(line) for line in listing.read_text().splitlines()]
        return [Chosen(**row | {"file": self._outside(Path(row["file"]))}) for row in rows]

    def _outside(self, file: Path) -> Path:
        """Return where a file is that lies in the cache as dnf sees it."""
        inside = self.root / IN_TREE / "cache"
        return self.cache / file.relative_to(inside) if file.is_relative_to(inside) else file

    def _resolve(
        self,
        packages: Sequence[str],
        *options: str,
        binds: Sequence[tuple[Path, str]] = (),
        env: Mapping[str, str] | None = None,
        on_line: Callable[[str], None] | None = None,
    ) -> None:
        """Run a transaction that an option ends before anything is installed.

        Args:
            packages: their names.
            options: of dnf.
            binds: (path on this machine, path in the tree), shown writable.
            env: variables that dnf gets besides.
            on_line: called with every line that dnf prints.

        Raises:
            PipelineError: of the kind that what dnf complains of is.
        """
        lines: list[str] = []

        def note(line: str) -> None:
            lines.append(line)
            if on_line is not None:
                on_line(line)

        words: list[process.Argument] = ["dnf", f"--config={self.config}", f"--installroot={self.root}"]
        words += [f"--forcearch={self.arch.rpm}", f"--releasever={self.base.releasever}", *options, "install"]
        environment = {"HOME": str(self.home), **(env or {})}
        sandbox = sandboxed(self.root, [(self.cache, f"{IN_TREE}/cache"), *binds])
        try:
            with self._alone():
                argv = [*sandbox, *words, *packages]
                process.run(argv, env=environment, network=True, what="installing packages", on_line=note)
        except ToolError as error:
            raise meant(error, lines, self.arch) from error

    def index(self, repository: str) -> Path:
        """Return the index of a repository, as it was fetched; dnf adds a number to the name of its directory."""
        places = (
            path for path in self.cache.iterdir() if re.fullmatch(f"{re.escape(repository)}-[0-9a-f]+", path.name)
        )
        return next(places) / INDEX

    def names(self) -> tuple[str, ...]:
        """Return the names of all packages on offer; only metadata is fetched."""
        return tuple(sorted(set(self._asked("repoquery", "--qf", "%{name}").split())))

    def provides(self, name: str) -> bool:
        """Say whether a package of another name provides this one, or has this file."""
        return bool(self._asked("repoquery", "--qf", "%{name}", "--whatprovides", name).split())

    def would_install(self, packages: Sequence[str]) -> str:
        """Resolve packages with their dependencies, and install nothing.

        Returns:
            How many there would be and how large they are, in dnf's words.

        Raises:
            PipelineError: they cannot be installed together.
        """
        lines: list[str] = []
        with contextlib.suppress(ToolError):  # that nothing was installed counts as a failure
            self._resolve(packages, "--assumeno", on_line=lines.append)
        said = [line.strip() for line in lines if re.match(r"Install +\d|(Total d|D)ownload size|Installed size", line)]
        if not said:
            raise ToolError("dnf resolved nothing", hint="see the log")
        return "; ".join(" ".join(line.split()) for line in said)

    def _asked(self, *words: str) -> str:
        command = ["dnf", f"--config={self.config}", f"--installroot={self.root}", f"--forcearch={self.arch.rpm}"]
        command += ["--quiet", f"--releasever={self.base.releasever}", *words]
        sandbox = sandboxed(self.root, [(self.cache, f"{IN_TREE}/cache")])
        lines: list[str] = []
        try:
            with self._alone():
                return process.run(
                    [*sandbox, *command], env={"HOME": str(self.home)}, network=True, capture=True,
                    on_line=lines.append, what="asking for packages",
                ).stdout  # fmt: skip
        except ToolError as error:
            raise meant(error, lines, self.arch) from error

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Have the cache for one dnf at a time.

        dnf's own locks are files with a process id, which means another process in the next build's PID namespace: one
        that a killed build left would be waited for without end.
        """
        with downloads.alone(self.cache):
            for left in self.cache.glob("*_lock.pid"):
                left.unlink()
            yield


def sandboxed(root: Path, binds: Sequence[tuple[Path, str]], *options: str) -> list[process.Argument]:
    """Return what runs a program of this machine that works on a tree, with devices and /proc in it.

    Args:
        root: the tree.
        binds: (path on this machine, path in the tree), shown writable.
        options: of bwrap, besides.
    """
    words: list[process.Argument] = ["bwrap", "--dev-bind", "/", "/"]
    words += ["--dev", root / "dev", "--proc", root / "proc", "--tmpfs", root / "run"]
    for source, target in binds:
        words += ["--bind", source, root / target]
    return [*words, *options, "--cap-add", "ALL", "--die-with-parent", "--"]


def meant(error: ToolError, lines: Sequence[str], arch: Architecture) -> PipelineError:
    """Return the error that a program's complaints mean."""
    for pattern, kind, hint in TROUBLES:
        if found := next((line for line in lines if pattern.search(line)), None):
            return kind(f"{found.strip()} (for {arch})\n{error.message}", hint=f"{hint}; {error.hint}")
    return error


def set_up(
    base: RpmBase,
    arch: Architecture,
    repositories: Sequence[Repository],
    root: Path,
    keys: Path,
    *,
    workspace: Path,
    package_cache: Path,
) -> Dnf:
    """Set dnf up for a tree.

    Args:
        base: the profile's base.
        arch: the tree's architecture.
        repositories: where packages come from.
        root: the tree.
        keys: file with the keys that are trusted.
        workspace: directory for its files.
        package_cache: downloaded packages and metadata, shared between builds.
    """
    config = _write_config(base, repositories, keys, workspace)
    cache = package_cache / _cache_name(repositories)
    return Dnf(base, arch, root, config, make_home(base, workspace), cache)


def make_home(base: RpmBase, workspace: Path) -> Path:
    """Make a home directory for this machine's rpm, which would else put the database below it (Debian's does)."""
    home = workspace / "home"
    home.mkdir(exist_ok=True)
    # Languages count before anything is unpacked.
    (home / ".rpmmacros").write_text(f"%_dbpath /{base.database}\n{macros(base)}")
    return home


def macros(base: RpmBase) -> str:
    """Return what rpm is told of a node, during the build and later in it: locales, and no files of firmware.

    Kernels of EL7 and openEuler require linux-firmware, 300 MB that no virtual machine has a device for. Files below a
    "net shared" path are never installed, now or by a later update (``%_netsharedpath``, rpm's macros file).
    """
    return f"%_install_langs {':'.join(base.languages)}\n%_netsharedpath {':'.join(FIRMWARE)}\n"


def _cache_name(repositories: Sequence[Repository]) -> str:
    return hashlib.sha256("\n".join(item.url for item in repositories).encode()).hexdigest()[:16]


def _write_config(base: RpmBase, repositories: Sequence[Repository], keys: Path, workspace: Path) -> Path:
    """Write dnf's whole configuration: nothing of this machine's own may count (dnf.conf(5))."""
    main = {f"{name}dir": f"/{IN_TREE}/{name}" for name in ("cache", "log", "persist")}
    main |= {
        "assumeyes": "1", "best": "1", "excludepkgs": ",".join(base.avoid), "gpgcheck": "1", "install_weak_deps": "0",
        "keepcache": "1", "localpkg_gpgcheck": "1", "max_parallel_downloads": "8", "metadata_expire": "0",
        "module_platform_id": base.module_platform_id or "", "pluginconfpath": "", "plugins": "0",
        "reposdir": str(workspace / "none"), "retries": "3", "tsflags": "nodocs", "varsdir": str(workspace / "none"),
    }  # fmt: skip
    common = {"gpgkey": keys.as_uri(), "gpgcheck": "1", "repo_gpgcheck": "0"}
    sections = [("main", main)]
    for item in repositories:
        place = {"name": item.id, "baseurl": item.url, "proxy": item.proxy}
        sections.append((item.id, place | common | ({} if item.proxy else _credentials(item.url))))
    lines = []
    for name, settings in sections:
        lines += [f"[{name}]", *(f"{key}={value}" for key, value in settings.items() if value != ""), ""]
    config = workspace / "dnf.conf"
    config.touch(mode=0o600)
    config.write_text("\n".join(lines))
    return config


def _credentials(url: str) -> dict[str, str]:
    """Return what netrc(5) knows of a repository's host, which dnf itself does not read."""
    import requests  # here, as nearly every command imports this module

    found = requests.utils.get_netrc_auth(url)
    return {"username": found[0], "password": found[1]} if found else {}


def newest_index(cache: Path) -> int:
    """Return the newest time in the repositories' indexes, in seconds since 1970: the same indexes, the same time."""
    times = [
        int(float(element.text or "0"))
        for index in sorted(cache.glob(f"*/{INDEX}"))
        for element in ElementTree.parse(index).getroot().iterfind("{*}data/{*}timestamp")  # noqa: S314  checked by dnf
    ]
    return max(times)


def version() -> str:
    """Return dnf's version."""
    # It opens a log below /var/log even for this, whatever its configuration says (seen with dnf 4.14).
    words = ["bwrap", "--ro-bind", "/", "/", "--tmpfs", "/var/log", "--", "dnf", "--version"]
    return process.run(words, capture=True, what="asking dnf for its version").stdout.splitlines()[0]
