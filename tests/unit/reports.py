"""Directories of images as builds, matrices and verifications leave them, made up, for tests of the report."""

from __future__ import annotations

import datetime
import hashlib
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from pipeline.core.arch import Architecture
from pipeline.image import Record, Step, history
from pipeline.matrix.model import Report, Result, Status

BEGAN = datetime.datetime(2026, 3, 2, 4, 0, tzinfo=datetime.UTC)
SYSTEMS = ("anolis-23", "centos-9", "debian-12", "kylin-V10-SP3-2403", "uos-20-1070a")
EVIL = '<script>document.title = "evil"</script><img src="https://evil.example/x.png">'
STEPS = (
    ("base", 0, 31.0), ("check package sources", 1, 0.8), ("install packages", 1, 24.0), ("package database", 1, 1.9),
    ("overlay", 0, 1.6), ("overlay common", 1, 0.9), ("boot", 0, 6.4), ("boot loader", 0, 0.3), ("seal", 0, 0.1),
    ("disk", 0, 4.2), ("compress", 0, 5.1), ("manifest", 0, 1.2), ("publish", 0, 0.1),
)  # fmt: skip
DIRECTORIES = {
    "usr/lib": 309, "usr/bin": 92, "usr/share": 71, "boot": 43, "usr/sbin": 20, "var/lib": 9, "boot/grub": 4, "etc": 2,
}  # fmt: skip
PACKAGES = {
    "linux-image": 108, "podman": 36, "grub-efi": 19, "coreutils": 18, "locales": 17, "grub-signed": 15, "glibc": 13,
    "perl-base": 13, "udev": 11, "openssl": 9, "systemd": 9, "bash": 7, "python3": 7, "cloud-init": 6, "iproute": 5,
    "conntrack": 1, "ipvsadm": 1, "ethtool": 1, "chrony": 1, "socat": 1, "nftables": 2, "iptables": 3, "rpm": 4,
    "openssh-server": 3, "containers-common": 2, "tar": 3, "zstd": 1,
}  # fmt: skip
MB = 1_000_000


def number(*words: object, of: int) -> int:
    """Return a number below another that looks like chance and never changes."""
    return zlib.crc32(" ".join(map(str, words)).encode()) % of


def names(count: int) -> list[str]:
    """Return names of images: those of the systems in both architectures, then further releases of them."""
    found = [f"{system}-{arch}" for system in SYSTEMS for arch in Architecture]
    more = (f"{s.split('-')[0]}-{r}-{a}" for r in range(30, 30 + count) for s in SYSTEMS for a in Architecture)
    while len(found) < count:
        found.append(next(more))
    return found[:count]


def parts(name: str) -> tuple[str, str, Architecture]:
    system, _, rest = name.partition("-")
    release, _, arch = rest.rpartition("-")
    return system, release, Architecture.parse(arch)


def image(build_dir: Path, name: str, *, more_packages: Sequence[tuple[str, str]] = ()) -> Path:
    """Make what a build leaves; the image itself is empty."""
    system, release, arch = parts(name)
    directory = build_dir / name
    directory.mkdir(parents=True)
    (directory / f"{name}.qcow2").touch()
    rows = [package(name, title, size) for title, size in PACKAGES.items()]
    rows += [package(name, f"lib{index:03}", 0) for index in range(number(name, of=40) + 120)]
    rows += [package(name, title, 1) | {"version": version} for title, version in more_packages]
    if "kylin" in name:
        rows = [row for row in rows if row["name"] != "socat"]
    write(directory / "packages.json", rows)
    tree = {f"{path}": size * MB + number(name, path, of=9 * MB) for path, size in DIRECTORIES.items()}
    write(
        directory / "manifest.json",
        {
            "schema": 1, "name": name, "os": system, "title": system.title(), "family": "deb", "release": release,
            "arch": arch.value, "key": hashlib.sha256(name.encode()).hexdigest(), "created": moment(9),
            "image": {"file": f"{name}.qcow2", "size": size_of(name, 9), "virtual_size": 4 * 1024**3,
                      "sha256": hashlib.sha256(f"{name} image".encode()).hexdigest()},
            "kernels": [f"6.1.0-56.{number(name, of=9)}-{arch}"],
            "tree": {"size": sum(tree.values()) + 4 * MB, "directories": tree},
            "largest_packages": {row["name"]: row["size"] for row in rows[:10]},
        },
    )  # fmt: skip
    return directory


def package(image_name: str, title: str, size: int) -> dict[str, Any]:
    system, _, arch = parts(image_name)
    same = number(title, of=3) == 0
    version = f"{1 + number(title, of=9)}.{number(title, 1, of=40)}-{1 if same else 1 + number(title, system, of=3)}"
    rest = {"architecture": arch.value, "sha256": "0" * 64, "maintainer": "Somebody", "source": title}
    return rest | {"name": title, "version": version, "size": size * MB + number(title, system, of=300_000)}


def size_of(name: str, build: int) -> int:
    return (160 + number(name, of=90)) * MB + build * 300_000 + number(name, build, of=2 * MB)


def moment(day: int) -> str:
    return (BEGAN + datetime.timedelta(days=day)).strftime("%Y-%m-%dT%H:%M:%SZ")


def steps(name: str, *, build: int = 9) -> tuple[Step, ...]:
    """Return the times of a build; of two later ones the first finds its base in the cache."""
    cached = build % 3 == 1
    factor = (3.0 if name.endswith("arm64") else 1.0) + number(name, build, of=50) / 100
    return tuple(
        Step(
            title=title,
            depth=depth,
            seconds=0.1 if cached and title == "base" else round(seconds * factor, 3),
            remark="cached" if cached and title == "base" else "",
        )
        for title, depth, seconds in STEPS
        if not (cached and depth == 1 and title != "overlay common")
    )


def record(name: str, build: int) -> Record:
    known = steps(name, build=build)
    return Record(
        name=name,
        key=hashlib.sha256(f"{name} {build}".encode()).hexdigest(),
        time=BEGAN + datetime.timedelta(days=build),
        sha256="0" * 64,
        size=size_of(name, build),
        packages=150 + build,
        seconds=round(sum(step.seconds for step in known if step.depth == 0), 3),
        steps=known,
    )


def result(name: str, status: Status, **more: Any) -> Result:  # noqa: ANN401 - fields of a result
    system, release, arch = parts(name)
    known = {"steps": steps(name)} if status is Status.BUILT else {}
    seconds = sum(step.seconds for step in known.get("steps", ()) if step.depth == 0)
    identity = {"name": name, "os": system, "release": release, "arch": arch}
    return Result.model_validate(identity | {"status": status, "seconds": seconds} | known | more)


def failure(build_dir: Path, name: str, error: str, hint: str) -> Result:
    """Make what a failed build leaves: a log, and its result."""
    log = build_dir / "logs" / f"{name}.log"
    log.parent.mkdir(exist_ok=True)
    lines = [f"04:0{index // 20}:{index % 20:02} Get:{index} package-{index}.rpm" for index in range(80)]
    log.write_text("\n".join([*lines, "04:05:00 \x1b[31merror\x1b[0m: <b>Curl error (28)</b>", f"04:05:01 {EVIL}"]))
    known = (*steps(name)[:2], Step(title="install packages", depth=1, seconds=9.5))
    return result(
        name, Status.FAILED, error=error, hint=hint, exit_code=6, log=f"logs/{name}.log", steps=known, seconds=33.1
    )


def matrix(build_dir: Path, cells: Sequence[Result]) -> None:
    finished = BEGAN + datetime.timedelta(minutes=6)
    report = Report(started=BEGAN, finished=finished, cells=tuple(cells))
    (build_dir / "matrix.json").write_text(report.model_dump_json(by_alias=True, indent=1))


def verify(directory: Path, kind: str, failures: Sequence[tuple[str, str]] = ()) -> None:
    """Make what a verification leaves, as pytest writes it."""
    target = directory / "verify"
    target.mkdir(exist_ok=True)
    cases = ['<testcase classname="test_services" name="test_service_runs[chrony]" time="0.2" />'] * 58
    cases += ['<testcase classname="test_update" name="test_x"><skipped message="no" /></testcase>'] * 4
    for name, text in failures:
        said = f"<failure message={quoteattr(text)}>E</failure>"
        cases.append(f'<testcase classname="test_image" name={quoteattr(name)}>{said}</testcase>')
    head = f'<testsuite name="pytest" time="41.250" timestamp="{moment(9)[:-1]}.123456+00:00" tests="{len(cases)}">'
    (target / f"{kind}.xml").write_text(
        f'<?xml version="1.0" encoding="utf-8"?><testsuites>{head}{"".join(cases)}</testsuite></testsuites>'
    )
    if kind != "offline":
        write(target / f"{kind}.boot.json", {"firmware": kind, "accelerator": "tcg", "seconds_until_ssh": 38.4})
    (target / f"{kind}.html").write_text("<title>pytest</title>")


def write(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n")


def everything(build_dir: Path, count: int = 8, *, builds: int = 10) -> list[str]:
    """Make a directory with many images; one has failed, one is up to date, some are verified, one of them badly.

    Returns:
        Their names. The third failed, and has an older image; the last failed, and has none.
    """
    wanted = names(count)
    (build_dir / "logs").mkdir(parents=True, exist_ok=True)
    cells = []
    lines = [record(name, build).model_dump_json(by_alias=True) + "\n" for name in wanted for build in range(builds)]
    (build_dir / history.FILE).write_text("".join(lines))
    for index, name in enumerate(wanted):
        if index == count - 1:
            hint = "is the mirror up? ./invoke doctor says more"
            text = f"could not download https://mirror.example/{name}/repomd.xml: connection timed out\nafter 3 tries"
            cells.append(failure(build_dir, name, text, hint))
            continue
        directory = image(build_dir, name, more_packages=[("only-here", "1.0")] if index == 0 else ())
        if index % 4 != 3:
            verify(directory, "uefi", [("test_root_grows", f"AssertionError: {EVIL}\n  left = 2")] * (index == 1))
            if name.endswith("amd64"):
                verify(directory, "bios")
        if index == 2:
            cells.append(failure(build_dir, name, f"overlay {EVIL} failed", "see the log"))
        else:
            status = Status.UP_TO_DATE if index == 4 else Status.BUILT
            cells.append(result(name, status, size=size_of(name, 9), packages=150))
    matrix(build_dir, cells)
    return wanted
