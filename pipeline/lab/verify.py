"""Whether an image keeps its promises: the suite in ``tests/image`` against it, booted or as it lies.

Booted, it is the suite over ssh, once per kind of firmware. The first kind (UEFI, where the image has both) gets all of
it. The second gets everything but the update of kernel and initramfs with its reboot: those files and the grub.cfg are
the same for both, only the way to them differs, and that is proven by the boot itself.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.core import cache, namespace, process, progress
from pipeline.core.errors import DependencyError, InputError, StorageError, ToolError, VerificationError
from pipeline.lab import image as images
from pipeline.lab import offline as unbooted
from pipeline.lab.accelerator import Kind
from pipeline.lab.firmware import Firmware
from pipeline.lab.machine import GIB, Machine, MachineSpec

SUITE = Path(__file__).parents[2] / "tests" / "image"
REPORTS = "verify"
GROWTH = 2 * GIB  # the machine's disk is larger than the image, so that the root has somewhere to grow
TESTS_FAILED = 1  # pytest's exit status
SHOWN_FAILURES = 10


@dataclass(frozen=True)
class Run:
    """The suite, once.

    Attributes:
        kind: ``uefi``, ``bios`` or ``offline``.
        passed: number of tests that passed.
        failed: names of those that did not, with the first line of the reason.
        skipped: number of tests that do not apply.
        seconds: how long the tests took.
        boot_seconds: from power on until ssh answered; None for ``offline``.
        report: the HTML page; the JUnit file lies beside it.
        facts: JSON file with everything the system said of itself.
    """

    kind: str
    passed: int
    failed: tuple[str, ...]
    skipped: int
    seconds: float
    boot_seconds: float | None
    report: Path
    facts: Path


@dataclass(frozen=True)
class VerifyResult:
    """A verified image.

    Attributes:
        image: its name.
        runs: the suite's runs, in order.
    """

    image: str
    runs: tuple[Run, ...]

    def __str__(self) -> str:
        lines = [f"{self.image} keeps its promises"]
        for run in self.runs:
            boot = "" if run.boot_seconds is None else f"; ssh answered after {run.boot_seconds:.0f} s"
            lines.append(f"  {run.kind}: {run.passed} passed, {run.skipped} skipped in {run.seconds:.0f} s{boot}")
            lines.append(f"    {run.report}")
        return "\n".join(lines)


@dataclass(frozen=True)
class Reports:
    """Where one run leaves its papers.

    Attributes:
        directory: beside the image.
        kind: ``uefi``, ``bios`` or ``offline``.
    """

    directory: Path
    kind: str

    def path(self, suffix: str) -> Path:
        """Return the file with this suffix."""
        return self.directory / f"{self.kind}.{suffix}"


def verify(
    image_dir: Path,
    *,
    firmware: Firmware | None = None,
    offline: bool = False,
    kernel_update: Sequence[Path] = (),
    update: bool = True,
    suite: Path = SUITE,
) -> VerifyResult:
    """Run the suite against an image.

    Reports go to ``<image_dir>/verify``: ``<kind>.html``, ``.xml`` (JUnit), ``.serial.log``, ``.boot.json`` and
    ``.facts.json``.

    Args:
        image_dir: what ``invoke build`` made.
        firmware: boot with this only; None for every kind that the architecture has.
        offline: do not boot it; what needs a running system is skipped.
        kernel_update: packages of a kernel (.deb or .rpm) that are installed together in the update test; none to
            regenerate the initramfs and grub.cfg of the kernel that is there.
        update: whether there is an update test; it reboots, and takes minutes where machines are emulated.
        suite: directory of the tests.

    Returns:
        What was run; every test passed.

    Raises:
        VerificationError: a test failed, or the machine did not come up.
        InputError: there is no such image, or an option does not fit it.
        DependencyError: something is missing on this machine.
        StorageError: the reports cannot be written.
    """
    image = images.read(image_dir)
    _check_options(image, firmware, offline, kernel_update)
    with progress.step(f"check {image.file.name}"):
        images.check_unchanged(image)
    reports = _report_directory(image)
    with cache.Cache(cache.cache_root()) as store:
        if offline:
            with store.workspace() as directory:
                return judge(image, (_run_offline(image, directory, suite, Reports(reports, "offline")),))
        runs: list[Run] = []
        for kind in (firmware,) if firmware else Firmware.of(image.arch):
            with store.workspace() as directory:
                runs.append(
                    _run_booted(
                        image, kind, directory, suite, Reports(reports, kind), kernel_update, full=update and not runs
                    )
                )
    return judge(image, tuple(runs))


def _report_directory(image: images.Image) -> Path:
    path = image.directory / REPORTS
    try:
        path.mkdir(exist_ok=True)
        if not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    except OSError as error:
        hint = "verify as the user who built it, or free some space"
        raise StorageError(f"reports cannot be written beside the image: {error}", hint=hint) from error
    return path


def _check_options(
    image: images.Image, firmware: Firmware | None, offline: bool, kernel_update: Sequence[Path]
) -> None:
    if firmware is not None and firmware not in Firmware.of(image.arch):
        raise InputError(f"{image.name} is for {image.arch}, which has no {firmware}", hint="use --firmware uefi")
    if offline and (firmware is not None or kernel_update):
        raise InputError("an image that is not booted has no firmware and no kernel update", hint="leave --offline out")
    if missing := [str(package) for package in kernel_update if not package.is_file()]:
        raise InputError(f"there is no kernel package {missing[0]}", hint="give the path of a .deb or .rpm file")


def _run_booted(
    image: images.Image,
    firmware: Firmware,
    directory: Path,
    suite: Path,
    reports: Reports,
    kernel_update: Sequence[Path],
    *,
    full: bool,
) -> Run:
    spec = MachineSpec(image.file, image.arch, firmware, disk_size=image.virtual_size + GROWTH)
    with Machine(spec, directory, reports.path("serial.log")) as machine:
        with progress.step(f"boot {image.name} with {firmware}"):
            boot_seconds = machine.wait_for_ssh()
        options = [f"--ssh-config={machine.files.ssh_config}", f"--firmware={firmware}"]
        options += [f"--reboot-seconds={machine.accelerator.boot_seconds:.0f}"]
        options += [] if full else ["-m", "not update"]
        options += [f"--kernel-update={package.absolute()}" for package in kernel_update]
        with progress.step(f"tests over ssh, {'all' if full else 'all but the update'}"):
            run = _run_suite(image, suite, reports, options, boot_seconds)
    _write_boot_times(run, reports, machine.accelerator.kind)
    return run


def _write_boot_times(run: Run, reports: Reports, accelerator: Kind) -> None:
    facts = json.loads(run.facts.read_text(encoding="utf-8")) if run.facts.exists() else {}
    times = {
        "firmware": run.kind,
        "accelerator": accelerator,
        "seconds_until_ssh": round(run.boot_seconds or 0, 1),
        "systemd_analyze": facts.get("boot-time", {}).get("text", ""),
    }
    reports.path("boot.json").write_text(json.dumps(times, indent=2) + "\n", encoding="utf-8")


def _run_offline(image: images.Image, directory: Path, suite: Path, reports: Reports) -> Run:
    raw = directory / "disk.raw"
    with progress.step("unpack the image"):
        unbooted.to_raw(image.file, raw)
    return namespace.run_private(functools.partial(_look_inside, image, raw, directory / "tree", suite, reports))


def _look_inside(image: images.Image, raw: Path, tree: Path, suite: Path, reports: Reports) -> Run:
    """Run in the private namespace: there an ordinary user may own files of every id, and may remove them again."""
    tree.mkdir()
    try:
        with progress.step("read its root file system"):
            unbooted.extract(raw, tree)
            _check_runnable(image, tree)
        with progress.step("tests that need no boot"):
            return _run_suite(image, suite, reports, [f"--tree={tree}"], None)
    finally:
        process.run(["rm", "-rf", "--one-file-system", tree], check=False)


def _check_runnable(image: images.Image, tree: Path) -> None:
    try:
        namespace.in_tree(tree, ["true"], what=f"running {image.arch} programs")
    except ToolError as error:
        raise DependencyError(
            f"programs of {image.name} do not run on this machine\n{error.message}",
            hint="for a foreign architecture install qemu-user-static with its binfmt entries, or leave --offline out",
        ) from error


def _run_suite(
    image: images.Image, suite: Path, reports: Reports, options: list[str], boot_seconds: float | None
) -> Run:
    """Run pytest, which is to die with us like everything else."""
    junit, page, facts = reports.path("xml"), reports.path("html"), reports.path("facts.json")
    for old in (junit, page, facts):
        old.unlink(missing_ok=True)
    words: list[process.Argument] = ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "pytest", suite]
    words += [
        "-c",
        suite / "pytest.ini",
        "-v",
        "--color=no",
        f"--image={image.directory}",
        f"--facts={facts}",
        *options,
    ]
    words += [f"--junitxml={junit}", f"--html={page}", "--self-contained-html"]
    env = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
    status = process.run(words, env=env, check=False, on_line=_show_failure).returncode
    if status not in {0, TESTS_FAILED} or not junit.exists():
        hint = f"the full log is {progress.current().log_path}" if progress.current().log_path else ""
        raise ToolError(f"the suite {suite} could not run: pytest ended with exit status {status}", hint=hint)
    run = read_junit(junit, reports, boot_seconds)
    progress.note(f"{run.kind}: {run.passed} passed, {len(run.failed)} failed, {run.skipped} skipped: {page}")
    return run


def _show_failure(line: str) -> None:
    if " FAILED " in line or " ERROR " in line:
        progress.note(line)


def read_junit(junit: Path, reports: Reports, boot_seconds: float | None) -> Run:
    """Return what pytest wrote into a JUnit file."""
    suite = ET.parse(junit).getroot().find("testsuite")  # noqa: S314  pytest wrote it a moment ago
    assert suite is not None
    failed, skipped, cases = [], 0, suite.findall("testcase")
    for case in cases:
        bad = next((child for child in case if child.tag in {"failure", "error"}), None)
        if bad is not None:
            reason = (bad.get("message") or "").strip().splitlines()
            failed.append(f"{case.get('classname')}::{case.get('name')}: {reason[0] if reason else 'no message'}")
        elif case.find("skipped") is not None:
            skipped += 1
    passed = len(cases) - len(failed) - skipped
    seconds = float(suite.get("time", "0"))
    page, facts = reports.path("html"), reports.path("facts.json")
    return Run(reports.kind, passed, tuple(failed), skipped, seconds, boot_seconds, page, facts)


def judge(image: images.Image, runs: tuple[Run, ...]) -> VerifyResult:
    """Return the result.

    Raises:
        VerificationError: a test failed, or two first boots made the same identity.
    """
    failed = [f"  {run.kind}: {name}" for run in runs for name in run.failed] + _shared_identity(runs)
    if not failed:
        return VerifyResult(image.name, runs)
    shown = failed[:SHOWN_FAILURES] + (
        [f"  … and {len(failed) - SHOWN_FAILURES} more"] * (len(failed) > SHOWN_FAILURES)
    )
    papers = ", ".join(str(run.report) for run in runs if run.failed) or str(runs[0].report)
    raise VerificationError(
        f"{image.name} does not keep {len(failed)} of its promises:\n" + "\n".join(shown),
        hint=f"see {papers}; the consoles are beside it (*.serial.log), the full log is {progress.current().log_path}",
    )


def _shared_identity(runs: tuple[Run, ...]) -> list[str]:
    """Name what should differ between two machines of one image, and does not."""
    booted = [
        json.loads(run.facts.read_text(encoding="utf-8")) for run in runs if run.boot_seconds and run.facts.exists()
    ]
    problems = []
    for name in ("machine-id", "host-key-prints"):
        values = [facts[name]["text"] for facts in booted]
        if len(set(values)) < len(values):
            problems.append(f"  two machines of this image have the same {name}")
    return problems
