"""The benchmark reads, computes and shows its numbers rightly; the numbers themselves are no test's business."""

from __future__ import annotations

import datetime
import json
import shutil
import sys
from pathlib import Path

import pytest

from benchmarks import __main__ as front
from benchmarks import machine, measure, packages, report, rpm, rpm_report, scenarios
from benchmarks.report import Number, Package, Report
from benchmarks.rpm_report import Image, RpmReport
from pipeline import matrix, profile
from pipeline.core.arch import Architecture
from pipeline.core.errors import ToolError
from pipeline.core.progress import StepTime
from pipeline.image import boot

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


# ---------------------------------------------------------------------------------------------- RPM systems


FOREIGN = next(arch for arch in Architecture if arch is not Architecture.host())
BASE, BOOT = {"title": "base", "depth": 0, "seconds": 1.0}, {"title": "boot", "depth": 0, "seconds": 2.0}


def a_cell(status: str = "built", arch: str = "amd64", **more: object) -> matrix.Result:
    row = {"name": f"kylin-V10-{arch}", "os": "kylin", "release": "V10", "arch": arch, "status": status, "seconds": 9.0}
    return matrix.Result.model_validate(row | {"steps": [BASE, BOOT], **more})


def cached(step: dict[str, object]) -> dict[str, object]:
    return step | {"remark": "cached"}


@pytest.mark.parametrize(
    ("cells", "remark"),
    [
        ([a_cell(steps=[cached(BASE), cached(BOOT)])], "1 built; cached: base, boot"),
        ([a_cell(steps=[cached(BASE), cached(BOOT)]), a_cell(steps=[cached(BASE), BOOT])], "2 built; cached: base"),
        ([a_cell(), a_cell("up to date", steps=[])], "1 built, 1 up to date; cached: nothing"),
        ([a_cell("up to date", steps=[]), a_cell("up to date", steps=[])], "2 up to date"),
    ],
)
def test_a_matrix_says_what_it_did_and_what_every_cell_found_in_the_cache(
    cells: list[matrix.Result], remark: str
) -> None:
    assert rpm.Run(10.0, tuple(cells)).remark == remark


@pytest.mark.parametrize(
    ("arch", "seconds", "median", "met"),
    [
        (Architecture.host(), (61.0, 59.0, 60.0), 60.0, True),
        (Architecture.host(), (61.0,), 61.0, False),
        (FOREIGN, (299.0,), 299.0, True),
        (FOREIGN, (301.0,), 301.0, False),
    ],
)
def test_a_cell_is_held_against_the_target_of_how_it_runs(
    arch: Architecture, seconds: tuple[float, ...], median: float, met: bool
) -> None:
    number = rpm.warm_number([rpm.Run(one, (a_cell(arch=arch.value),)) for one in seconds])
    assert (number.name, number.median, number.met) == (f"kylin-V10-{arch}, packages cached", median, met)
    assert ("qemu-user" in number.remark) is (arch is not Architecture.host())


def test_only_the_matrix_after_an_edit_has_a_target() -> None:
    first, nothing, edited = (
        rpm.Run(900.0, (a_cell(), a_cell())),
        rpm.Run(0.5, (a_cell("up to date", steps=[]),) * 2),
        rpm.Run(190.0, (a_cell(steps=[cached(BASE), cached(BOOT)]),) * 2),
    )
    numbers = rpm.matrix_numbers(first, [nothing], [edited, edited])
    assert [(number.median, number.met) for number in numbers] == [(900.0, None), (0.5, None), (190.0, False)]
    assert [number.name.partition(",")[0] for number in numbers] == ["matrix of 2 cells"] * 3
    assert numbers[2].remark == "2 built; cached: base, boot"


def test_the_edit_is_a_comment_in_a_copy(tmp_path: Path) -> None:
    original = (scenarios.OVERLAYS / rpm.EDITED).read_text()
    site = rpm.Site(tmp_path, tmp_path)
    shutil.copytree(scenarios.OVERLAYS, site.overlays, symlinks=True)
    rpm.edit(site, 0)
    rpm.edit(site, 1)
    assert (site.overlays / rpm.EDITED).read_text() == f"{original}# benchmark 0\n# benchmark 1\n"
    assert (scenarios.OVERLAYS / rpm.EDITED).read_text() == original


def test_the_edited_file_is_in_every_rpm_image_and_in_no_initramfs() -> None:
    overlay, _, path = rpm.EDITED.partition("/root/")
    assert any(path.startswith(f"{prefix}/") for prefix in boot.NOT_IN_INITRAMFS)
    for cell in profile.cells(scenarios.PROFILES, "all", "all", "all"):
        assert overlay in profile.select(cell.profile, cell.release, cell.arch).overlays


def test_a_place_forgets_its_steps_and_keeps_its_packages(tmp_path: Path) -> None:
    site = rpm.Site(tmp_path, tmp_path)
    kept, *gone = (site.cache / "packages/rpm", site.cache / "base/key", site.results / "kylin")
    for directory in (kept, *gone):
        directory.mkdir(parents=True)
    site.forget()
    assert kept.is_dir()
    assert not any(directory.exists() for directory in gone)
    assert site.cache.is_relative_to(site.environment["XDG_CACHE_HOME"])


def test_a_matrix_is_run_apart_and_its_result_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = rpm.Site(tmp_path, tmp_path / "profiles")
    site.results.mkdir()
    now = datetime.datetime.now(datetime.UTC)
    report_text = matrix.Report(started=now, finished=now, cells=(a_cell(),)).model_dump_json(by_alias=True)
    code = (
        f"import os, pathlib, sys; pathlib.Path(sys.argv[3], 'matrix.json').write_text({report_text!r}); "
        "print(sys.argv[4:], os.environ['XDG_CACHE_HOME'])"
    )
    monkeypatch.setattr(rpm, "_CODE", code)
    run = site.run("kylin", "arm64")
    assert run.cells == (a_cell(),)
    assert rpm.steps(run) == (StepTime("base", 0, 1.0), StepTime("boot", 0, 2.0))
    assert (tmp_path / "output").read_text() == f"['kylin', 'arm64'] {tmp_path}/cache\n"


def test_what_an_image_weighs_is_read_from_its_manifest(tmp_path: Path) -> None:
    cell = a_cell(packages=282)
    (tmp_path / cell.name).mkdir()
    manifest = {"image": {"size": 300_000_001}, "tree": {"size": 500_000_000}}
    (tmp_path / cell.name / "manifest.json").write_text(json.dumps(manifest))
    image = rpm.image_of(tmp_path, cell)
    assert image == Image("kylin-V10-amd64", 300_000_001, 282, 500_000_000)
    (number,) = rpm.size_numbers([image])
    assert (number.name, number.met) == ("size of kylin-V10-amd64.qcow2", False)


def test_steps_side_by_side() -> None:
    builds = {
        "one": [StepTime("base", 0, 30.0), StepTime("install", 1, 20.0), StepTime("boot", 0, 10.0)],
        "two": [
            StepTime("base", 0, 5.0),
            StepTime("check", 1, 1.0),
            StepTime("script", 2, 1.0),
            StepTime("boot", 0, 0.0),
        ],
    }
    assert rpm_report.compared(builds).splitlines() == [
        "| step | one | two |",
        "| --- | ---: | ---: |",
        "| base | 30.0 s (75 %) | 5.0 s (100 %) |",
        "| &emsp;install | 20.0 s (50 %) |  |",
        "| &emsp;check |  | 1.0 s (20 %) |",
        "| boot | 10.0 s (25 %) | 0.0 s (0 %) |",
        "| **all steps** | 40.0 s | 5.0 s |",
    ]


def a_rpm_report() -> RpmReport:
    plain = a_report()
    images = (
        Image("kylin-V10-amd64", 194_500_000, 282, 496_900_000),
        Image("uos-20-arm64", 1_000_000, None, 2_000_000),
    )
    return RpmReport(plain.command, plain.date, plain.machine, plain.numbers, plain.steps, images=images)


@pytest.mark.parametrize(
    "line",
    [
        "| rebuild | 16.0 s | ≤ 15.0 s | **no** | 9.00 s, 16.0 s, 17.5 s |  |",
        "| kylin-V10-amd64 | 194.5 MB | 282 | 496.9 MB |",
        "| uos-20-arm64 | 1.0 MB |  | 2.0 MB |",
        "| cores | 2 |",
        "## Where the time goes",
        "| base | 60.0 s (94 %) |",
        "| base | 60.00 s | cached |",
    ],
)
def test_the_report_on_rpm_systems_for_people(line: str) -> None:
    assert line in rpm_report.as_markdown(a_rpm_report()).splitlines()


def test_the_report_on_rpm_systems_for_programs() -> None:
    document = json.loads(report.as_json(a_rpm_report()))
    assert document["images"][0] == {
        "name": "kylin-V10-amd64", "size": 194_500_000, "packages": 282, "tree": 496_900_000,
    }  # fmt: skip
    assert document["numbers"][1]["met"] is False


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (
            [],
            [
                "bundles.json",
                "bundles.md",
                "cluster.json",
                "cluster.md",
                "installer.json",
                "installer.md",
                "report.json",
                "report.md",
                "rpm.json",
                "rpm.md",
            ],
        ),
        (["--bundles"], ["bundles.json", "bundles.md"]),
        (["--cluster"], ["cluster.json", "cluster.md"]),
        (["--installer"], ["installer.json", "installer.md"]),
        (["--rpm"], ["rpm.json", "rpm.md"]),
        (["--deb"], ["report.json", "report.md"]),
    ],
)
def test_one_part_can_be_measured_alone(
    words: list[str], written: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts: list[int] = []

    def debian(_os: str, _mirror: str | None, count: int, _cold: int) -> Report:
        counts.append(count)
        return a_report()

    def others(count: int) -> RpmReport:
        counts.append(count)
        return a_rpm_report()

    def image(count: int) -> Report:
        counts.append(count)
        return a_report()

    monkeypatch.setattr(front, "measured_installer", image)
    monkeypatch.setattr(front, "measured_cluster", image)
    monkeypatch.setattr(front, "measured_bundles", image)
    monkeypatch.setattr(front, "measured", debian)
    monkeypatch.setattr(front, "measured_rpm", others)
    monkeypatch.setattr(front, "HERE", tmp_path / "checkout")
    front.main(["--output", str(tmp_path / "out"), *words])
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == written
    alone: dict[tuple[str, ...], list[int]] = {
        ("--rpm",): [1],
        ("--deb",): [3],
        ("--installer",): [3],
        ("--cluster",): [3],
        ("--bundles",): [3],
    }
    assert counts == ({(): [3, 3, 3, 3, 1]} | alone)[tuple(words)]
