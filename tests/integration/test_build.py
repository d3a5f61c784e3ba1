"""Real builds of a small image: what comes out, what is cached, what is the same."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.core import namespace
from pipeline.core.arch import Architecture
from pipeline.image import boot, read_history
from pipeline.matrix import write_page
from tests import traces
from tests.integration import builds
from tests.integration.builds import NAME, Project, Unpacked
from tests.integration.conftest import Primed

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def unpacked(primed: Primed, scratch: Path) -> Unpacked:
    """The small image's disk."""
    image = primed.project.published / f"{NAME}.qcow2"
    return builds.unpack(image, scratch / "tiny.raw")


def snapshot(directory: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in [directory, *directory.rglob("*")]}


# --- what comes out --------------------------------------------------------------------------------------------------


def test_an_image_comes_with_everything_about_it(primed: Primed) -> None:
    directory = primed.project.published
    builds.check_published(directory)
    assert {file.name for file in directory.iterdir()} == {
        f"{NAME}.qcow2", "manifest.json", "packages.json", "plan.json", "sbom.cdx.json", "SHA256SUMS",
    }  # fmt: skip
    assert primed.project.in_the_way() == []


def test_the_manifest_is_what_was_built(primed: Primed) -> None:
    found = primed.project.manifest()
    image = primed.project.published / f"{NAME}.qcow2"
    assert found["image"]["sha256"] == hashlib.sha256(image.read_bytes()).hexdigest()
    assert set(found["steps"]) == {"base", "overlay", "initramfs", "image"}
    packages = json.loads((primed.project.published / "packages.json").read_text())
    assert {"zstd", "libc6", "shim-signed"} <= {row["name"] for row in packages}
    assert all(re.fullmatch("[0-9a-f]{64}", row["sha256"]) for row in packages)


def test_a_build_is_in_the_history_and_on_the_report(primed: Primed) -> None:
    found, build_dir = primed.project.manifest(), primed.project.build_dir
    (line,) = read_history(build_dir).records
    assert (line.name, line.key, line.sha256, line.size) == (
        NAME,
        found["key"],
        found["image"]["sha256"],
        found["image"]["size"],
    )
    assert {"base", "overlay", "boot", "disk"} <= {step.title for step in line.steps if step.seconds > 0}
    written = write_page(build_dir)
    assert (written.images, written.problems) == (1, 0)
    page = written.path.read_text()
    assert "linux-image" in page
    assert found["kernels"][0] in page


def test_packages_have_the_checksum_that_the_archive_signed(primed: Primed) -> None:
    """Asked of this machine's own apt, whose indexes are another copy of the archive's."""
    packages = {row["name"]: row for row in json.loads((primed.project.published / "packages.json").read_text())}
    checked = 0
    for name in ("zstd", "grub-common", "shim-signed", "dash"):
        row = packages[name]
        shown = subprocess.run(
            ["apt-cache", "show", f"{name}={row['version']}"], capture_output=True, text=True, check=False
        ).stdout
        if known := re.search("^SHA256: (.+)$", shown, re.MULTILINE):
            assert row["sha256"] == known[1]
            checked += 1
    if not checked:
        pytest.skip("this machine's apt has no indexes of that release")


def test_a_spoilt_package_in_the_cache_is_fetched_again(primed: Primed) -> None:
    """apt itself takes an archive of the right name and size as it is."""
    if not primed.spoilt:
        pytest.skip("no package was in the cache before")
    packages = {row["name"]: row for row in json.loads((primed.project.published / "packages.json").read_text())}
    for file in primed.spoilt:
        name = file.name.partition("_")[0]
        assert packages[name]["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest(), name
    assert "Get:1 " in primed.project.log.read_text()


def test_overlay_and_boot_files_are_on_the_disk(unpacked: Unpacked) -> None:
    assert unpacked.read("/etc/tiny.conf") == f"tiny {Architecture.host()}\n"
    assert unpacked.read("/etc/tiny.done") == "made by the script\n"
    assert unpacked.read("/etc/machine-id") == ""
    names = unpacked.listing("/boot")
    (kernel,) = [name for name in names if name.startswith("vmlinuz-")]
    assert kernel.replace("vmlinuz-", "initrd.img-") in names
    assert unpacked.listing("/boot/efi") == set()
    assert unpacked.listing("/var/log") <= {"apt", "private", "journal"}
    assert unpacked.listing("/var/cache/apt/archives") == unpacked.listing("/tmp") == set()
    assert "Exec-time" not in unpacked.read("/etc/apt/sources.list")


def test_nothing_of_this_machine_is_on_the_disk(unpacked: Unpacked, primed: Primed) -> None:
    """Neither its name, nor where the build ran, nor which archive it used."""
    start, size = unpacked.partition("root")
    with unpacked.raw.open("rb") as stream:
        stream.seek(start)
        content = stream.read(size)
    for trace in (str(primed.cache), str(primed.project.directory), os.uname().nodename + "\n"):
        if len(trace) > 4:  # a name such as "vm" is a word of many programs
            assert trace.encode() not in content
    assert not {"99mmdebstrap"} & unpacked.listing("/etc/apt/apt.conf.d")


def test_the_file_systems_are_sound(unpacked: Unpacked, primed: Primed) -> None:
    start, _ = unpacked.partition("root")
    device = f"{unpacked.raw}?offset={start}"
    subprocess.run(["e2fsck", "-fn", device], check=True, capture_output=True)
    shown = subprocess.run(["dumpe2fs", "-h", device], check=True, capture_output=True, text=True).stdout
    features = set(re.findall(r"^Filesystem features:\s+(.+)$", shown, re.MULTILINE)[0].split())
    assert features == set(primed.project.release["disk"]["ext4_features"])
    assert primed.project.manifest()["identifiers"]["root"] in shown


def test_grub_understands_its_configuration(primed: Primed, unpacked: Unpacked, tmp_path: Path) -> None:
    """Judged by the image's own grub-script-check."""
    config = unpacked.read("/boot/grub/grub.cfg")
    assert primed.project.manifest()["identifiers"]["root"] in config
    (tmp_path / "grub.cfg").write_text(config)
    (tmp_path / "wrong.cfg").write_text(config + "menuentry 'open {\n")
    base = primed.project.entry("base") / "tree"

    def check(name: str) -> int:
        words = ["sh", "-c", "grub-script-check /run/grub.cfg || exit 9"]
        return namespace.run_private(
            lambda: namespace.in_tree(base, [*words], binds=[(tmp_path / name, "/run/grub.cfg")]).returncode
        )

    assert check("grub.cfg") == 0
    with pytest.raises(Exception, match="exit status 9"):
        check("wrong.cfg")


def test_the_initramfs_holds_nothing_that_is_said_to_stay_out(primed: Primed) -> None:
    """Changes in these places keep the initramfs: that must be true of the real generator."""
    base = primed.project.entry("base") / "tree"
    (initrd,) = primed.project.entry("initramfs").glob("delta/boot/initrd.img-*")

    def names() -> str:
        binds = [(initrd, "/run/initrd")]
        return namespace.in_tree(base, ["lsinitramfs", "/run/initrd"], binds=binds, capture=True).stdout

    inside = [line.removeprefix("./") for line in namespace.run_private(names).splitlines()]
    assert len(inside) > 100
    assert [name for name in inside if name.startswith(tuple(f"{place}/" for place in boot.NOT_IN_INITRAMFS))] == []


# --- where the time goes ---------------------------------------------------------------------------------------------


def test_the_trace_of_a_build(primed: Primed) -> None:
    """Of every process: the private worker is another one than the one that writes the trace."""
    path = primed.project.build_dir / "logs" / f"{NAME}.trace.json"
    rows = traces.read(path)
    steps, programs = traces.complete(rows, "step"), traces.complete(rows, "program")
    top = re.findall(r"^\S+ (\S[^:]*): done in [\d.]+ s", primed.said, re.MULTILINE)
    assert {"base", "overlay", "boot", "disk", "manifest", "publish"} <= set(top)
    assert [row["name"] for row in rows if row["name"] in top and row.get("cat") == "step"] == top
    assert steps["10-tiny.sh"]["dur"] >= 2e6, "the script sleeps for two seconds"
    script = programs["in the tree: 10-tiny.sh"]["args"]
    assert "10-tiny.sh" in script["command"]
    assert script["exit_status"] == 0
    unpacked = programs["mmdebstrap"]["args"]
    assert unpacked["user_s"] > 0
    assert unpacked["max_rss"] > 0
    assert unpacked["written"] > 0
    assert steps["boot"]["args"]["cpu_programs_s"] > 0, "bwrap does not wait for what it starts"
    moments = {row["name"] for row in rows if row["ph"] == "i"}
    assert {"miss: base", "miss: overlay", "miss: initramfs"} <= moments
    counters = {row["name"] for row in rows if row["ph"] == "C"}
    assert counters == {"memory, MB", "busy processors", "read, MB/s", "written, MB/s"}
    assert re.search(f"trace: {path}, for ui.perfetto.dev or chrome://tracing; longest: mmdebstrap ", primed.said)


MEMORY = 300e6  # bytes, of any of our processes


def test_python_needs_little_memory(primed: Primed) -> None:
    rows = traces.read(primed.project.build_dir / "logs" / f"{NAME}.trace.json")
    assert max(row["args"].get("own_max_rss", 0) for row in rows) < MEMORY
    assert max(row["args"]["value"] for row in rows if row["name"] == "memory, MB") < MEMORY / 1e6


# --- what is done again, and what is not -----------------------------------------------------------------------------


def test_a_second_build_says_that_it_is_up_to_date_and_touches_nothing(project: Project) -> None:
    assert project.build()[0] == 0
    before = snapshot(project.build_dir), snapshot(project.cache / "node-images/overlay")
    status, out, err = project.build()
    assert status == 0
    assert f"{NAME}.qcow2" in out
    assert "is up to date" in out
    assert err == ""
    after = snapshot(project.build_dir), snapshot(project.cache / "node-images/overlay")
    assert after == before


def test_what_is_no_input_keeps_the_image(project: Project) -> None:
    assert project.build()[0] == 0
    project.write("installer-image/image.yaml", "x")
    project.write("installer-image/payload/lib/common.sh", "#!/bin/bash\n", mode=0o755)
    project.write("overlays/uos/root/etc/x", "x")
    project.write("docs/x.md", "x")
    os.utime(project.directory / "overlays/tiny/scripts/10-tiny.sh", (1, 1))
    os.lchown(project.directory / "overlays/tiny/scripts/10-tiny.sh", 1000, 1000)
    (project.directory / "overlays/tiny/root/etc/tiny.conf.j2").chmod(0o600)
    assert "is up to date" in project.build()[1]


def test_what_was_cut_short_or_changed_is_made_again(project: Project) -> None:
    """An image, and a step in the cache: other content of the same length and age."""
    assert project.build()[0] == 0
    sha256, key = project.image_sha256(), project.manifest()["steps"]["overlay"]
    changed = project.entry("overlay") / "delta/etc/tiny.done"
    times = changed.stat()
    changed.write_text(changed.read_text().replace("script", "SCRIPT"))
    os.utime(changed, ns=(times.st_atime_ns, times.st_mtime_ns))
    os.truncate(project.published / f"{NAME}.qcow2", 1000)
    status, out, err = project.build()
    assert status == 0
    assert "is up to date" not in out
    assert f"overlay: the cached entry {key[:12]} is damaged; it is made again" in err
    assert re.search(r" base: done in [\d.]+ s \(cached\)", err)
    builds.check_published(project.published)
    assert project.image_sha256() == sha256


def test_another_checkout_another_umask_the_same_bytes(project: Project, primed: Primed) -> None:
    before = os.umask(0o077)
    try:
        assert project.build()[0] == 0
    finally:
        os.umask(before)
    assert project.image_sha256() == primed.project.image_sha256()


def test_the_order_of_overlays_counts(project: Project, tmp_path: Path) -> None:
    found = []
    for number, order in enumerate((["tiny", "last"], ["last", "tiny"])):
        for name in order:
            project.write(f"overlays/{name}/root/etc/motd", f"{name}\n")
        project.release["overlays"] = order
        project.save()
        assert project.build()[0] == 0
        raw = builds.unpack(project.published / f"{NAME}.qcow2", tmp_path / f"{number}.raw")
        found.append(raw.read("/etc/motd"))
    assert found == ["last\n", "tiny\n"]


def test_an_edited_script_makes_only_what_follows_from_it(project: Project) -> None:
    project.write("overlays/tiny/scripts/10-tiny.sh", builds.SCRIPT + "echo edited >/etc/motd\n", mode=0o755)
    status, out, err = project.build()
    assert status == 0
    assert re.search(r"base +[\d.]+ s  cached$", out, re.MULTILINE)
    assert re.search(r"overlay +[\d.]+ s$", out, re.MULTILINE)
    assert re.search(r"boot +[\d.]+ s  cached$", out, re.MULTILINE)
    assert re.search("overlay: not cached; differs .* in: overlays.*digest", err)


def test_what_is_taken_over_from_the_last_image_changes_no_byte(project: Project) -> None:
    assert project.build()[0] == 0
    project.write("overlays/tiny/root/etc/motd", "edited\n")
    assert project.build()[0] == 0
    after_another = project.image_sha256()
    shutil.rmtree(project.published)
    assert project.build()[0] == 0
    assert project.image_sha256() == after_another


def test_a_dry_run_writes_nothing(project: Project) -> None:
    status, out, err = project.build("--os", "tiny", "--dry-run")
    assert (status, err) == (0, "")
    assert f"image: {NAME}" in out
    assert not project.build_dir.exists()


# --- an ordinary user ------------------------------------------------------------------------------------------------


def test_an_ordinary_user_builds_debian(users: Project, tmp_path: Path) -> None:
    """The real image, from nothing but downloaded packages; and nothing of a cluster is in it."""
    name = f"debian-12-{Architecture.host()}"
    status, out, _ = users.build("--os", "debian")
    assert status == 0
    assert f"next: ./invoke verify --os debian --release 12 --arch {Architecture.host()}" in out
    builds.check_published(users.build_dir / name)
    disk = builds.unpack(users.build_dir / name / f"{name}.qcow2", tmp_path / "disk.raw")
    names = set(re.findall(r"^/usr/(?:local/)?s?bin/(\S+)$", _every_path(users), re.MULTILINE))
    assert {"podman", "sshd", "chronyd", "conntrack"} <= names
    cluster = {"kubelet", "kubeadm", "kubectl", "containerd", "ctr", "crictl", "etcd", "etcdctl", "helm", "cilium"}
    assert cluster.isdisjoint(names)
    assert disk.listing("/var/lib/containers") == set()
    for place in ("docker", "containerd", "kubelet", "etcd"):
        assert place not in disk.listing("/var/lib")
    for file in disk.listing("/etc/containers/registries.conf.d"):
        text = disk.read(f"/etc/containers/registries.conf.d/{file}")
        assert not re.search(r"^\s*(location|prefix|\[aliases\]|.*=.*\.\w+/)", text, re.MULTILINE), file
    assert not re.search(r"^\s*(location|prefix)", disk.read("/etc/containers/registries.conf"), re.MULTILINE)
    assert "cluster.env" not in disk.listing("/etc/cluster")


def _every_path(project: Project) -> str:
    """Return every path of the base tree and of what overlays changed, as the cache has them."""
    trees = [*(project.cache / "node-images/base").glob("*/data/tree")]
    trees += [*(project.cache / "node-images/overlay").glob("*/data/delta")]
    return "\n".join(f"/{path.relative_to(tree)}" for tree in trees for path in tree.rglob("*"))
