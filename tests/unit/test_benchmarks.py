"""The benchmark reads, computes and shows its numbers rightly; the numbers themselves are no test's business."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import machine, measure, packages, report, scenarios
from benchmarks.report import Number, Package, Report
from pipeline.core.errors import ToolError
from pipeline.core.progress import StepTime

STATUS = """\
Package: libc6
Status: install ok installed
Description: GNU C Library
 runs on every system
 .
 Depends: not a field, a description

Package: podman
Depends: conmon (>= 2.0.18~), default-runtime | runc (>= 1.0), netavark:any

Package: conmon
Pre-Depends: libc6

Package: crun
Provides: default-runtime (= 1), oci-runtime

Package: netavark
Depends: libc6

Package: base-files
Essential: yes
Depends: awk

Package: mawk
Provides: awk

Package: forgotten
"""


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    ("values", "expected"), [((3.0,), 3.0), ((9.0, 1.0, 2.0), 2.0), ((1.0, 4.0), 2.5), ((2.0, 2.0, 2.0), 2.0)]
)
def test_the_median_is_the_middle(values: tuple[float, ...], expected: float) -> None:
    assert measure.median(values) == expected


def test_no_measurement_has_no_median() -> None:
    with pytest.raises(ValueError, match="no measurement"):
        measure.median(())


@pytest.mark.parametrize(
    ("samples", "target", "met"),
    [((1.0, 2.0, 30.0), 2.0, True), ((1.0, 2.1, 30.0), 2.0, False), ((5.0,), None, None), ((20.0,), 20.0, True)],
)
def test_the_median_is_held_against_the_target(
    samples: tuple[float, ...], target: float | None, met: bool | None
) -> None:
    assert Number("n", "s", samples, target).met is met


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(0.1234, "s", "0.12 s"), (56.3732, "s", "56.4 s"), (200.605, "MB", "200.6 MB"), (0.0951, "share", "9.5 %")],
)
def test_values_have_as_many_digits_as_mean_something(value: float, unit: str, text: str) -> None:
    assert report.show(value, unit) == text


# ---------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("log", "seconds"),
    [("20:32:39 I: success in 56.3732 seconds\n20:32:41 == base: done in 59.1 s\n", 56.3732), ("== base\n", 0.0)],
)
def test_the_package_managers_time_is_in_the_log(log: str, seconds: float) -> None:
    assert scenarios.manager_seconds(log) == seconds


@pytest.mark.parametrize(
    ("status", "size"), [("Name:\tx\nVmPeak:\t9 kB\nVmHWM:\t  2048 kB\nVmRSS:\t1 kB\n", 2 * 2**20), ("Name:\tx\n", 0)]
)
def test_the_high_water_mark_is_read(status: str, size: int) -> None:
    assert measure.high_water(status) == size


def test_an_edit_is_one_more_line_and_the_rest_stays() -> None:
    assert scenarios.edited("#!/bin/bash\ntrue", "echo 1") == "#!/bin/bash\ntrue\necho 1\n"
    assert scenarios.edited("true\n\n", "echo 2") == "true\necho 2\n"


def test_the_machine_is_described_from_what_the_kernel_says(tmp_path: Path) -> None:
    assert machine.memory("MemTotal:       24683520 kB\nMemFree: 1 kB\n") == 24683520 * 1024
    assert machine.processor("processor\t: 0\nmodel name\t: Some CPU: fast\nmodel name\t: Other\n") == "Some CPU: fast"
    assert machine.processor("processor\t: 0\nCPU part\t: 0xd0c\n") == "unnamed"
    mounts = f"1 0 8:1 / / rw - ext4 /dev/a rw\n2 1 0:5 / {tmp_path} rw shared:1 - tmpfs none rw\n"
    assert machine.file_system(tmp_path / "below", mounts) == "tmpfs"
    assert machine.file_system(tmp_path.parent, mounts) == "ext4"


def test_why_a_package_is_there() -> None:
    reasons = packages.reasons(packages.read_status(STATUS), ["podman", "missing"])
    assert reasons == {
        "podman": "the profile",
        "base-files": "essential",
        "conmon": "podman → conmon",
        "crun": "podman → crun",
        "netavark": "podman → netavark",
        "libc6": "podman → conmon → libc6",
        "mawk": "base-files → mawk",
    }


# ---------------------------------------------------------------------------------------------- running


def test_a_run_is_timed_and_its_own_memory_watched(tmp_path: Path) -> None:
    # A fork of ours counts, another program does not, however much it takes.
    tool = "x = bytearray(90 << 20); import time; time.sleep(0.2)"
    fork = (
        "import os; pid = os.fork(); x = b'' if pid else bytearray(40 << 20); time.sleep(0.3); "
        "os.waitpid(pid, 0) if pid else os._exit(0)"
    )
    code = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {tool!r}]); {fork}"
    sample = measure.run([sys.executable, "-I", "-c", f"{code}; print('end')"], output=tmp_path / "out", watch=True)
    assert "end" in sample.output
    assert sample.seconds > 0.4
    assert 40 << 20 < sample.peak < 90 << 20


def test_a_run_that_fails_says_what_it_said_last(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no such luck"):
        measure.run([sys.executable, "-I", "-c", "raise SystemExit('no such luck')"], output=tmp_path / "out")


def test_a_run_gets_the_environment_and_what_is_added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIVEN", "1")
    words = [sys.executable, "-I", "-c", "import os; print(os.environ['GIVEN'] + os.environ['ADDED'])"]
    assert measure.run(words, output=tmp_path / "out", env={"ADDED": "2"}).output == "12\n"


# ---------------------------------------------------------------------------------------------- showing


def a_report() -> Report:
    return Report(
        command="python -m benchmarks",
        date="2026-01-02 03:04 UTC",
        machine={"cores": "2"},
        numbers=(
            Number("cold build", "s", (80.0,), remark="a | b"),
            Number("rebuild", "s", (9.0, 16.0, 17.5), 15.0),
            Number("share", "share", (0.05,), 0.1),
        ),
        steps={
            "cold build": (StepTime("base", 0, 60.0, "cached"), StepTime("check", 1, 0.5), StepTime("disk", 0, 4.0))
        },
        packages={"debian-12-amd64": (Package("linux", 108_294_144, "the profile"),)},
    )


@pytest.mark.parametrize(
    "line",
    [
        "| number | median | target | met | all measurements | remark |",
        "| --- | ---: | ---: | --- | --- | --- |",
        "| cold build | 80.0 s |  |  |  | a \\| b |",
        "| rebuild | 16.0 s | ≤ 15.0 s | **no** | 9.00 s, 16.0 s, 17.5 s |  |",
        "| share | 5.0 % | ≤ 10.0 % | yes |  |  |",
        "| cores | 2 |",
        "| base | 60.00 s | cached |",
        "| &emsp;check | 0.50 s |  |",
        "| **all steps** | 64.00 s |  |",
        "| linux | 108.3 MB | the profile |",
    ],
)
def test_the_report_for_people(line: str) -> None:
    assert line in report.as_markdown(a_report()).splitlines()


def test_the_report_for_programs() -> None:
    document = json.loads(report.as_json(a_report()))
    assert document["schema"] == 1
    assert [(row["median"], row["met"]) for row in document["numbers"]] == [(80.0, None), (16.0, False), (0.05, True)]
    assert document["numbers"][1]["samples"] == [9.0, 16.0, 17.5]
    assert document["steps"]["cold build"][0] == {"title": "base", "depth": 0, "seconds": 60.0, "remark": "cached"}
    assert document["packages"]["debian-12-amd64"][0]["name"] == "linux"


def test_numbers_of_builds() -> None:
    times = (StepTime("base", 0, 1.0, "cached"), StepTime("overlay", 0, 2.0))
    build = scenarios.BuildSample(seconds=80.0, peak=100_000_000, times=times, manager=56.0, downloaded=0)
    total, manager, outside = scenarios.cold_numbers([build])
    assert (total.median, manager.median, outside.median, outside.met) == (80.0, 56.0, 24.0, False)
    again, share = scenarios.rebuild_numbers([build], "of a test", 800.0)
    assert (again.remark, share.median, share.met) == ("cached: base", 0.1, True)
    assert scenarios.memory_number([build]).median == 100.0
