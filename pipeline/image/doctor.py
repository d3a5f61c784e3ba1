"""Would it build? Every URL, key and package of a profile, and this machine, without building anything.

What can be asked from outside is asked first. Then a private namespace is entered, as a build would, for what only the
package manager can tell; it fetches metadata and the packages that hold keys and the system's identity, no more.
"""

from __future__ import annotations

import contextlib
import difflib
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import clock, download, namespace, process, progress
from pipeline.core.arch import Architecture
from pipeline.core.cache import cache_root
from pipeline.core.errors import DependencyError, InputError, PipelineError, VerificationError
from pipeline.core.network import HASTY
from pipeline.image import plan as plans
from pipeline.image.bases import deb, deb_apt, dnf, downloads, iso, probe, repositories, rpm, rpm_keys
from pipeline.image.bases.medium import Request
from pipeline.image.bases.repositories import Repository
from pipeline.image.plan import Plan
from pipeline.profile import Cell, DebBase, Release, RpmBase

AT_A_TIME = 8  # URLs; a host that does not answer takes its time for each
PLAIN_WIDTH = 160  # columns where there is no terminal
NEAR = 3  # names that are suggested in place of one that does not exist


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        check: what was looked at.
        result: what was found.
        todo: what to do about it; empty if all is well.
        code: the exit code that a build, or the image's verification, would end with for it; 0 if neither would fail.
    """

    check: str
    result: str
    todo: str = ""
    code: int = 0


def doctor(
    cells: Sequence[Cell],
    *,
    overlays: Path,
    build_dir: Path,
    mirror: str | None,
    base_kind: str,
    medium: Path | None,
    machines: Callable[[Architecture], str],
) -> int:
    """Examine cells and print a table for each.

    Args:
        cells: what is examined.
        overlays: the directory that holds all overlays.
        build_dir: directory of the images.
        mirror: as for :func:`pipeline.image.plan.resolve`.
        base_kind: likewise.
        medium: likewise.
        machines: says how virtual machines of an architecture are run here.

    Returns:
        0 if all is well, else the highest exit code of what was found.
    """
    worst = 0
    for cell in cells:
        with progress.session(build_dir / "logs" / f"doctor-{cell.name}.log"):
            with progress.step(f"this machine, for {cell.name}"):
                found = [*_machine(cell, build_dir), _virtual_machines(cell.arch, machines)]
            found += _sources(cell, overlays, mirror, base_kind, medium)
        print_findings(cell.name, found)
        worst = max(worst, *(finding.code for finding in found))
    return worst


def _look(check: str, look: Callable[[], str]) -> Finding:
    """Make a check: what it returns is said, or the error that it raises."""
    try:
        return Finding(check, look())
    except PipelineError as error:
        return _bad(check, error)


def _bad(check: str, error: PipelineError) -> Finding:
    """Say what an error says at first; a tool's command and output are in the log."""
    return Finding(check, error.message.partition("\n")[0], error.hint, error.exit_code)


# --- this machine


def _machine(cell: Cell, build_dir: Path) -> list[Finding]:
    base = cell.profile.releases[cell.release].base
    tools = [*plans.TOOLS, *(deb.TOOLS if isinstance(base, DebBase) else rpm.TOOLS)]
    return [
        _look("tools", lambda: _tools(tools)),
        _look("privileges", _privileges),
        _look("clock", lambda: f"{clock.check()} UTC"),
        _look(f"programs for {cell.arch}", lambda: _programs(cell.arch)),
        _look("space for the cache", lambda: _space(cache_root(), plans.SPACE_COLD)),
        _look("space for images", lambda: _space(build_dir, plans.SPACE_WARM // 3)),
    ]


def _tools(names: Iterable[str]) -> str:
    missing = []
    for name in names:
        try:
            process.require(name, hint="")
        except DependencyError:
            missing.append(name)
    if missing:
        raise DependencyError(
            f"not installed: {', '.join(missing)}", hint="run ./invoke once: it installs what is missing"
        )
    return "all are installed"


def _privileges() -> str:
    namespace.run_private(lambda: None)
    return "a private namespace can be made"


def _programs(arch: Architecture) -> str:
    plans.check_runnable(arch)
    return "run natively" if arch is Architecture.host() else "run by qemu-user: scripts of packages are emulated"


def _space(directory: Path, needed: int) -> str:
    plans.check_space(directory, needed)
    return f"enough at {directory}"


def _virtual_machines(arch: Architecture, machines: Callable[[Architecture], str]) -> Finding:
    try:
        return Finding("virtual machines", machines(arch))
    except PipelineError as error:
        return Finding("virtual machines", error.message, error.hint)  # a build needs none


# --- where packages come from


def _sources(cell: Cell, overlays: Path, mirror: str | None, base_kind: str, medium: Path | None) -> list[Finding]:
    with progress.step("profile"):
        try:
            plan = plans.resolve(
                cell.profile, cell.release, cell.arch,
                overlays=overlays, mirror=mirror, base_kind=base_kind, medium=medium,
            )  # fmt: skip
        except PipelineError as error:
            return [_bad("profile", error)]
    known = [Finding("profile", "profile and overlays are sound")]
    if isinstance(plan.release.base, DebBase):
        return known + _deb(plan, plan.release.base)
    return known + _rpm(plan, plan.release.base)


def _deb(plan: Plan, base: DebBase) -> list[Finding]:
    def suites() -> str:
        deb.check(base, plan.sources)
        return f"{', '.join(source.suite for source in plan.sources)} at {plan.sources[0].uri}"

    with progress.step("suites and keyring"):
        known = _look("suites and keyring", suites)
    if known.code:
        return [known]
    with progress.step("packages"), tempfile.TemporaryDirectory() as name:
        try:
            env = deb_apt.private_apt(base, plan.arch, plan.sources, Path(name))
            names = process.run(
                ["apt-cache", "pkgnames"], env=env, capture=True, what="listing packages"
            ).stdout.split()
        except PipelineError as error:
            return [known, _bad("packages", error)]
    return [known, *_missing(plan.packages, names, plan.arch)]


def _missing(wanted: Sequence[str], names: Iterable[str], arch: Architecture) -> list[Finding]:
    """Say which packages do not exist, and which ones may be meant."""
    offered = sorted(set(names))
    missing = [name for name in wanted if name not in set(offered)]
    if not missing:
        return [Finding("packages", f"all {len(wanted)} exist for {arch}, of {len(offered)} on offer")]
    found = []
    for name in missing:
        near = difflib.get_close_matches(name, offered, n=NEAR)
        hint = f"did you mean {' or '.join(near)}?" if near else "correct it in the profile, or add a repository"
        found.append(Finding(f"package {name}", f"no repository has it for {arch}", hint, InputError.exit_code))
    return found


def _rpm(plan: Plan, base: RpmBase) -> list[Finding]:
    with progress.step("repositories and keys"), ThreadPoolExecutor(AT_A_TIME) as pool:
        indexes = pool.map(_repository, plan.repositories)
        with tempfile.TemporaryDirectory() as name:
            files = [(url, Path(name) / str(number)) for number, url in enumerate(base.keys)]
            keys = [*pool.map(lambda pair: _key(base, *pair), files)]
        found = [*indexes, *keys]
    if plan.medium is not None and plan.medium.kind != "iso":
        result = f"{plan.medium.path} is there; a {plan.medium.kind} is looked into only by a build"
        return [*found, Finding("medium", result, "./invoke build with the same options")]
    if any(finding.code for finding in found):
        return [*found, Finding("packages", "not looked at, as a repository is missing", "see above")]
    with progress.step("packages"):
        try:
            return found + namespace.run_private(lambda: _inside(plan, base))
        except PipelineError as error:
            return [*found, _bad("packages", error)]


def _repository(repository: Repository) -> Finding:
    def ask() -> str:
        if not download.exists(f"{repository.url}/{repositories.INDEX}"):
            raise InputError(
                f"there is no {repositories.INDEX} at {repository.url}",
                hint="correct the URL in the profile, or name a mirror with --mirror",
            )
        return repository.url

    return _look(f"repository {repository.id}", ask)


def _key(base: RpmBase, url: str, target: Path) -> Finding:
    """Look into one key file; that it lacks a key is no failure yet, as packages and mirrors may have it."""
    check = f"key file {url.rpartition('/')[2]}"
    try:
        download.fetch(url, target, patience=HASTY)
        keys = _keys_in(target)
    except PipelineError as error:
        return Finding(check, error.message, error.hint)
    if not keys.keys() & set(base.fingerprints):
        held = ", ".join(sorted(keys)) or "no key"
        return Finding(check, f"{url} holds {held}; none of these is pinned", "compare with the vendor's announcement")
    return Finding(check, "; ".join(_described(key) for key in keys.values()))


def _keys_in(file: Path) -> Mapping[str, rpm_keys.Key]:
    words = ["gpg", "--batch", "--no-autostart", "--with-colons", "--show-keys", str(file)]
    with tempfile.TemporaryDirectory() as home:
        return rpm_keys.parse(process.run(words, env={"GNUPGHOME": home}, capture=True, check=False).stdout)


def _described(key: rpm_keys.Key) -> str:
    if key.revoked:
        return f"{key.fingerprint}, revoked"
    if key.expires is None:
        return f"{key.fingerprint}, does not expire"
    verb = "expired" if key.expires < time.time() else "expires"
    return f"{key.fingerprint}, {verb} on {time.strftime('%Y-%m-%d', time.gmtime(key.expires))}"


# --- inside the private namespace


def _inside(plan: Plan, base: RpmBase) -> list[Finding]:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as undo:
        workspace = Path(name)
        try:
            places = undo.enter_context(_places(plan, base, workspace))
            keys = rpm_keys.trusted(base, places, workspace)
        except PipelineError as error:
            return [_bad("medium" if plan.medium else "signing keys", error)]
        found = [Finding("signing keys", f"pinned and found: {', '.join(base.fingerprints)}")]
        found += _packages(plan, base, places, keys, workspace)
        return found + _identity(plan.release, base, places, workspace)


@contextlib.contextmanager
def _places(plan: Plan, base: RpmBase, workspace: Path) -> Iterator[Sequence[Repository]]:
    """Give the repositories that a build would use, those on a medium first."""
    if plan.medium is None:
        yield plan.repositories
        return
    request = Request(
        name=f"{plan.title} {plan.release_name}",
        base=base,
        arch=plan.arch,
        packages=plan.packages,
        os_release=plan.release.verify.os_release,
        codename=plan.release.codename,
    )
    with iso.opened(plan.medium, request, workspace) as found:
        yield [*found, *plan.repositories]


def _packages(plan: Plan, base: RpmBase, places: Sequence[Repository], keys: Path, workspace: Path) -> list[Finding]:
    """Ask dnf, set up as for a build, which packages there are, and whether they can be installed together."""
    root, packages = workspace / "tree", cache_root() / "packages/rpm"
    for name in ("dev", "proc", "run"):
        (root / name).mkdir(parents=True)
    wanted = [base.release_package, *plan.packages]
    with downloads.in_use(packages):
        program = dnf.set_up(base, plan.arch, places, root, keys, workspace=workspace, package_cache=packages)
        try:
            names = program.names()
            provided = [name for name in wanted if name not in names and program.provides(name)]
            found = _missing([name for name in wanted if name not in provided], names, plan.arch)
            found += [Finding(f"package {name}", "another package provides it") for name in provided]
            if not any(finding.code for finding in found):
                found.append(_look("dependencies", lambda: program.would_install(wanted)))
        except PipelineError as error:
            return [_bad("packages", error)]
    return found


def _identity(release: Release, base: RpmBase, places: Sequence[Repository], workspace: Path) -> list[Finding]:
    """Ask the repositories what system they hold, and compare with the profile."""
    own = workspace / "identity"  # a medium has been asked already, and left its answer in the workspace
    own.mkdir()
    try:
        facts = probe.of_repositories(base, places, own)
    except PipelineError as error:
        return [_bad("identity", error)]
    name = facts.os_release.get("PRETTY_NAME", "a system without a name")
    found = [Finding("identity", f"{name}; rpm {facts.rpm_version or 'unknown'}, payload {facts.payload or 'unknown'}")]
    found.append(Finding("boot packages", ", ".join(facts.boot_packages) or "none"))
    for key, expected in release.verify.os_release.items():
        if (value := facts.os_release.get(key)) != expected:
            result = f"{key} is {value!r}; the profile's verify.os_release expects {expected!r}"
            hint = "correct the profile, or name another mirror"
            found.append(Finding("identity", result, hint, VerificationError.exit_code))  # as verify would
    said = probe.warn(facts, base, release.boot)
    return found + [Finding("profile and medium", line, "correct the profile") for line in said]


# --- what is shown


def print_findings(title: str, found: Sequence[Finding]) -> None:
    """Print a table."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold")
    for name in ("CHECK", "RESULT", "WHAT TO DO"):
        table.add_column(name, overflow="fold", min_width=10)
    for finding in found:
        style = "bold red" if finding.code else "yellow" if finding.todo else "green"
        table.add_row(Text(finding.check, style=style), Text(finding.result), Text(finding.todo))
    Console(width=None if sys.stdout.isatty() else PLAIN_WIDTH).print(table)
