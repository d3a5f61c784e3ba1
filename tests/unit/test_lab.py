"""The lab's parts that need no machine: command lines, seeds, firmware descriptions, consoles, facts, reports."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pipeline.core.arch import Architecture
from pipeline.core.errors import DependencyError, InputError, PipelineError, StorageError, ToolError, VerificationError
from pipeline.lab import accelerator, console, facts, firmware, image, machine, offline, seed
from pipeline.lab.accelerator import Accelerator, Kind
from pipeline.lab.firmware import Firmware, FlashFile, UefiFiles
from pipeline.lab.machine import Files, MachineSpec
from pipeline.lab.shell import shell
from pipeline.lab.verify import Reports, Run, judge, read_junit, verify

if TYPE_CHECKING:
    from collections.abc import Mapping

AMD64, ARM64 = Architecture.AMD64, Architecture.ARM64
TCG = Accelerator(Kind.TCG, AMD64, "test")
OTHER = ARM64 if Architecture.host() is AMD64 else AMD64

# ------------------------------------------------------------------------------------------ accelerator


@pytest.mark.parametrize(
    ("kind", "arch", "words"),
    [
        (Kind.KVM, AMD64, ("-machine q35", "-accel kvm", "-cpu host,")),
        (Kind.KVM, ARM64, ("-machine virt,gic-version=host", "-accel kvm", "-cpu host")),
        (Kind.TCG, AMD64, ("-machine q35", "-accel tcg,thread=", "-cpu qemu64,")),
        (Kind.TCG, ARM64, ("-machine virt", "-accel tcg,thread=multi", "-cpu cortex-a57")),
    ],
)
def test_accelerator_options(kind: Kind, arch: Architecture, words: tuple[str, ...]) -> None:
    line = " ".join(Accelerator(kind, arch, "test").options())
    assert all(word in line for word in words), line


def test_a_foreign_architecture_is_emulated_without_a_probe() -> None:
    chosen = accelerator.choose(OTHER)
    assert chosen.kind is Kind.TCG
    assert str(Architecture.host()) in chosen.reason


def test_emulation_gets_more_time_than_kvm() -> None:
    assert TCG.boot_seconds > Accelerator(Kind.KVM, AMD64, "test").boot_seconds


def test_probe_guest_of_amd64_is_a_boot_sector() -> None:
    data = accelerator.probe_image(AMD64)
    assert data[510:512] == b"\x55\xaa"
    assert not any(data[512:])


def test_probe_guest_of_arm64_is_whole_instructions() -> None:
    data = accelerator.probe_image(ARM64)
    assert len(data) % 4 == 0
    assert data[-8:-4] == (0xD4000002).to_bytes(4, "little")  # hvc #0


# ------------------------------------------------------------------------------------------ firmware


def description(directory: Path, **changes: object) -> dict[str, Any]:
    for name in ("CODE.fd", "VARS.fd"):
        (directory / name).write_bytes(b"")
    return {
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": {"filename": str(directory / "CODE.fd"), "format": "raw"},
            "nvram-template": {"filename": str(directory / "VARS.fd"), "format": "qcow2"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}],
        "features": ["acpi-s3"],
        **changes,
    }


def test_firmware_is_read_from_a_description(tmp_path: Path) -> None:
    (tmp_path / "60-x.json").write_text(json.dumps(description(tmp_path)))
    found = firmware.find_uefi(AMD64, (tmp_path,))
    assert found == UefiFiles(FlashFile(tmp_path / "CODE.fd"), FlashFile(tmp_path / "VARS.fd", "qcow2"))


@pytest.mark.parametrize(
    "changes",
    [
        {"features": ["acpi-s3", "secure-boot"]},
        {"features": ["enrolled-keys"]},
        {"features": ["requires-smm"]},
        {"interface-types": ["bios"]},
        {"targets": [{"architecture": "aarch64", "machines": ["virt-*"]}]},
        {"targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*"]}]},
        {"targets": []},
        {"mapping": {"device": "memory", "filename": "/x"}},
        {"mapping": {"device": "flash", "mode": "stateless", "executable": {"filename": "/x", "format": "raw"}}},
        {"mapping": {"device": "flash", "executable": {"filename": "/no"}, "nvram-template": {"filename": "/no"}}},
        {"mapping": "nonsense"},
        {"features": "nonsense"},
        {"targets": [{}]},
    ],
)
def test_firmware_that_does_not_fit_is_passed_over(tmp_path: Path, changes: dict[str, object]) -> None:
    (tmp_path / "10-unfit.json").write_text(json.dumps(description(tmp_path, **changes)))
    right = tmp_path / "right"
    right.mkdir()
    (tmp_path / "20-fit.json").write_text(json.dumps(description(right)))
    assert firmware.find_uefi(AMD64, (tmp_path,)).code.path == right / "CODE.fd"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null"])
def test_firmware_description_that_is_broken_or_hidden_is_passed_over(tmp_path: Path, text: str) -> None:
    etc, usr, right = tmp_path / "etc", tmp_path / "usr", tmp_path / "right"
    for directory in (etc, usr, right):
        directory.mkdir()
    (etc / "10-x.json").write_text(text)  # hides the one of the same name below
    (usr / "10-x.json").write_text(json.dumps(description(usr)))
    (usr / "20-x.json").write_text(json.dumps(description(right)))
    assert firmware.find_uefi(AMD64, (etc, usr)).code.path == right / "CODE.fd"


def test_no_firmware_names_the_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(firmware, "KNOWN_PATHS", {AMD64: (), ARM64: ()})
    with pytest.raises(DependencyError, match="no UEFI firmware for arm64") as caught:
        firmware.find_uefi(ARM64, (tmp_path,))
    assert "qemu-efi-aarch64" in caught.value.hint


def test_firmware_names() -> None:
    assert Firmware.parse("UEFI") is Firmware.UEFI
    assert Firmware.of(AMD64) == (Firmware.UEFI, Firmware.BIOS)
    assert Firmware.of(ARM64) == (Firmware.UEFI,)
    with pytest.raises(InputError, match="unknown firmware 'efi'") as caught:
        Firmware.parse("efi")
    assert "bios" in caught.value.hint


# ------------------------------------------------------------------------------------------ seed


def test_seed_content() -> None:
    made = seed.Seed("i-1", "node-1", ["ssh-ed25519 AAAA lab"], {"runcmd": ["true"]})
    assert json.loads(made.meta_data()) == {"instance-id": "i-1", "local-hostname": "node-1"}
    first, _, rest = made.cloud_config().partition("\n")
    assert first == "#cloud-config"
    assert json.loads(rest) == {
        "runcmd": ["true"],
        "disable_root": False,
        "ssh_authorized_keys": ["ssh-ed25519 AAAA lab"],
    }


@pytest.mark.parametrize("name", ["disable_root", "ssh_authorized_keys"])
def test_seed_refuses_what_would_lock_the_lab_out(name: str) -> None:
    with pytest.raises(InputError, match=name):
        seed.Seed("i-1", "node", [], {name: None})


def test_seed_disk_can_be_read_back(tmp_path: Path) -> None:
    disk = tmp_path / "seed.img"
    seed.write(seed.Seed("i-1", "node", ["key"], {}), disk)
    text = subprocess.run(["mtype", "-i", disk, "::/meta-data"], capture_output=True, text=True, check=True).stdout
    label = subprocess.run(["mlabel", "-s", "-i", disk, "::"], capture_output=True, text=True, check=True).stdout
    assert json.loads(text)["instance-id"] == "i-1"
    assert "CIDATA" in label


# ------------------------------------------------------------------------------------------ machine


def command(spec: MachineSpec, uefi: UefiFiles | None = None, directory: str = "/m") -> str:
    return " ".join(machine.qemu_command(spec, TCG, Files(Path(directory), Path("/log/serial.log")), uefi, 7))


def test_command_of_a_bios_machine() -> None:
    line = command(MachineSpec(Path("/image.qcow2"), AMD64, Firmware.BIOS))
    for part in (
        "-smp 2 -m 2048 -nodefaults",
        "socket,id=monitor,fd=7",
        "path=/log/serial.log",
        "isa-debugcon",
        "restrict=on,hostfwd=tcp:127.0.0.1:0-:22",
        "file=/m/disk.qcow2",
        "file=/m/seed.img",
        "virtio-rng-pci",
    ):
        assert part in line
    assert "pflash" not in line
    assert "/image.qcow2" not in line  # only the overlay is opened for writing


def test_command_of_a_uefi_machine() -> None:
    uefi = UefiFiles(FlashFile(Path("/fw/CODE.fd")), FlashFile(Path("/fw/VARS.fd")))
    line = command(MachineSpec(Path("/image.qcow2"), ARM64, Firmware.UEFI, network=True), uefi)
    assert "if=pflash,unit=0,readonly=on,format=raw,file=/fw/CODE.fd" in line
    assert "if=pflash,unit=1,format=raw,file=/m/variables.fd" in line  # a copy, never the template
    assert "restrict" not in line
    assert "isa-debugcon" not in line


def test_commas_in_paths_are_doubled() -> None:
    line = command(MachineSpec(Path("/i"), AMD64, Firmware.BIOS), directory="/a,b")
    assert "file=/a,,b/disk.qcow2" in line


def test_ssh_config_shares_a_connection(tmp_path: Path) -> None:
    text = machine.ssh_config(2222, Files(Path("/m"), Path("/log")))
    assert "Port 2222" in text
    assert "StrictHostKeyChecking accept-new" in text
    assert 'ControlPath "/m/ssh.socket"' in text
    path = tmp_path / "ssh_config"
    path.write_text(text)
    shown = subprocess.run(["ssh", "-G", "-F", path, machine.NAME], capture_output=True, text=True, check=True).stdout
    assert "userknownhostsfile /m/known_hosts" in shown
    assert "user root" in shown


def test_ssh_config_shares_nothing_where_the_socket_path_would_be_too_long() -> None:
    text = machine.ssh_config(2222, Files(Path("/" + "m" * 100), Path("/log")))
    assert "ControlPath none" in text
    assert "ControlMaster no" in text


USERNET = """Hub -1 (net):\r
  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\r
  TCP[HOST_FORWARD]  12       127.0.0.1 40123       10.0.2.15    22     0     0\r
"""


def test_forwarded_port() -> None:
    assert machine.forwarded_port(USERNET) == 40123


@pytest.mark.parametrize(
    "text", ["", "TCP[ESTABLISHED] 12 127.0.0.1 40123 10.0.2.15 22", USERNET.replace("22 ", "80 ")]
)
def test_no_forwarded_port(text: str) -> None:
    with pytest.raises(ToolError, match="forwards no port"):
        machine.forwarded_port(text)


# ------------------------------------------------------------------------------------------ console


def test_console_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "serial.log"
    log = console.ConsoleLog(path)
    assert log.new_lines() == []
    path.write_bytes(b"\x1b[2J\x1b[1;31mone\x1b[0m\r\ntw")
    assert log.new_lines() == ["one", "tw"]
    with path.open("ab") as stream:
        stream.write(b"o\r\n\r\nthree \xff\r\n")
    assert log.new_lines() == ["two", "three \ufffd"]
    assert log.new_lines() == []
    assert log.tail().splitlines() == ["  | one", "  | two", "  | three \ufffd"]


@pytest.mark.parametrize(
    "line",
    [
        "No bootable device.",
        "BdsDxe: No bootable option or device was found.",
        "UEFI Interactive Shell v2.2",
        "grub rescue> ",
        "[    1.0] Kernel panic - not syncing: VFS: Unable to mount root fs",
        "You are in emergency mode. After logging in, type",
        "(initramfs) ",
        "Entering emergency mode. Exit the shell to continue.",
    ],
)
def test_dead_ends_are_known(line: str) -> None:
    assert console.dead_end(line)


@pytest.mark.parametrize(
    "line", ["Booting from Hard Disk...", "Begin: Running /scripts/init-bottom ...", "node login:"]
)
def test_a_normal_boot_is_no_dead_end(line: str) -> None:
    assert not console.dead_end(line)


# ------------------------------------------------------------------------------------------ facts


def test_facts_come_back_from_a_real_shell() -> None:
    wanted = {
        "plain": "echo one; echo two",
        "no line break": "printf x",
        "empty": "true",
        "failing": "echo wrong >&2; exit 3",
        "quoting": 'echo "it\'s @@fact"',
        "reading": "cat",
    }
    done = subprocess.run(["sh", "-c", facts.script(wanted)], capture_output=True, text=True, check=True)
    assert {name: (fact.text, fact.status) for name, fact in facts.parse(done.stdout).items()} == {
        "plain": ("one\ntwo", 0),
        "no line break": ("x", 0),
        "empty": ("", 0),
        "failing": ("wrong", 3),
        "quoting": ("it's @@fact", 0),
        "reading": ("", 0),
    }


def test_facts_that_were_cut_off() -> None:
    with pytest.raises(ValueError, match="within the fact 'b'"):
        facts.parse("@@fact a\nx\n\n@@end 0\n@@fact b\n")


def test_every_facts_script_is_a_posix_shell_script() -> None:
    script = facts.script(facts.commands(["ssh"], ["overlay"], booted=True, console="ttyS0"))
    subprocess.run(["sh", "-n"], input=script, text=True, check=True)


def test_booted_machine_is_waited_for_first() -> None:
    names = list(facts.commands(["ssh"], ["overlay"], booted=True, console="ttyS0"))
    assert names[:2] == ["cloud-init", "state"]


def test_pairs() -> None:
    assert facts.Fact("a = 1\n\nb=2=3\nc", 0).pairs("=") == {"a": "1", "b": "2=3", "c": ""}


KEY = "net.ipv4.ip_forward"
ETC_A, ETC_Z, USR_M, CONF = (
    "/etc/sysctl.d/a.conf",
    "/etc/sysctl.d/z.conf",
    "/usr/lib/sysctl.d/m.conf",
    "/etc/sysctl.conf",
)


@pytest.mark.parametrize(
    ("files", "last", "expected"),
    [
        (f"{ETC_A}:{KEY} = 1", True, ["1"]),
        (f"{ETC_A}:net/ipv4/ip_forward=1", True, ["1"]),
        (f"{ETC_A}:-{KEY}=0", True, ["0"]),
        (f"{ETC_A}:# {KEY}=0\n{ETC_A}:; x=1", True, []),
        (f"{ETC_A}:net.ipv4.*=0", True, ["0"]),
        (f"{ETC_Z}:{KEY}=1\n{USR_M}:{KEY}=0", True, ["0", "1"]),
        (f"{ETC_A}:{KEY}=1\n{USR_M}:{KEY}=0", True, ["1", "0"]),
        (f"/usr/lib/sysctl.d/a.conf:{KEY}=0\n{ETC_A}:{KEY}=1", True, ["1"]),
        (f"{CONF}:{KEY}=0\n{ETC_Z}:{KEY}=1", True, ["1", "0"]),
        (f"{CONF}:{KEY}=0\n{ETC_Z}:{KEY}=1", False, ["1"]),
    ],
)
def test_sysctl_assignments(files: str, last: bool, expected: list[str]) -> None:
    made = facts.sysctl_assignments(files, [KEY], etc_sysctl_conf_last=last)[KEY]
    assert [value for _, value in made] == expected


# ------------------------------------------------------------------------------------------ image


def write_image(directory: Path, arch: str = "amd64", changes: Mapping[str, object] | None = None) -> Path:
    directory.mkdir(exist_ok=True)
    (directory / "x.qcow2").write_bytes(b"disk")
    manifest = {
        "schema": 1,
        "name": f"debian-12-{arch}",
        "arch": arch,
        "image": {"file": "x.qcow2", "virtual_size": 4096, "sha256": hashlib.sha256(b"disk").hexdigest()},
        "expectations": {"os_release": {"ID": "debian"}, "services": ["ssh"], "packages": [], "modules": []},
        **(changes or {}),
    }
    (directory / "manifest.json").write_text(json.dumps(manifest))
    return directory


def test_image_is_read_from_its_manifest(tmp_path: Path) -> None:
    found = image.read(write_image(tmp_path))
    assert (found.name, found.arch, found.virtual_size) == ("debian-12-amd64", AMD64, 4096)
    assert found.expectations.services == ("ssh",)
    image.check_unchanged(found)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": 2},
        {"arch": "mips"},
        {"image": {}},
        {"image": None},
        {"image": {"file": "x", "virtual_size": "big", "sha256": ""}},
        {"expectations": {}},
        {"expectations": {"services": 1}},
    ],
)
def test_a_manifest_that_cannot_be_used(tmp_path: Path, changes: Mapping[str, object]) -> None:
    with pytest.raises(InputError, match=r"manifest\.json is not a manifest of this version") as caught:
        image.read(write_image(tmp_path, changes=changes))
    assert "build" in caught.value.hint


def test_a_directory_without_an_image(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no image in"):
        image.read(tmp_path)


def test_a_changed_image_is_refused(tmp_path: Path) -> None:
    found = image.read(write_image(tmp_path))
    found.file.write_bytes(b"other")
    with pytest.raises(VerificationError, match="is not what was built"):
        image.check_unchanged(found)
    found.file.unlink()
    with pytest.raises(InputError, match="there is no image"):
        image.check_unchanged(found)


def test_a_disk_without_partitions(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(1024**2))
    with pytest.raises(PipelineError):
        offline.root_offset(raw)


def test_a_root_that_is_not_ext4(tmp_path: Path) -> None:
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(8 * 1024**2))
    subprocess.run(["sfdisk", "-q", raw], input="label: gpt\nsize=1M\nsize=4M\n", text=True, check=True)
    with pytest.raises(DependencyError, match="is not ext4") as caught:
        offline.root_offset(raw)
    assert "--offline" in caught.value.hint


# ------------------------------------------------------------------------------------------ verify and shell


@pytest.mark.parametrize(
    ("arch", "options", "message"),
    [
        ("arm64", {"firmware": Firmware.BIOS}, "has no bios"),
        ("amd64", {"offline": True, "firmware": Firmware.UEFI}, "not booted"),
        ("amd64", {"offline": True, "kernel_update": (Path("/dev/null"),)}, "not booted"),
        ("amd64", {"kernel_update": (Path("/no/such.deb"),)}, r"no kernel package /no/such\.deb"),
        ("amd64", {"kernel_update": (Path(__file__), Path("/no/such.rpm"))}, r"no kernel package /no/such\.rpm"),
    ],
)
def test_options_that_do_not_fit(tmp_path: Path, arch: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        verify(write_image(tmp_path, arch), **options)
    assert not (tmp_path / "verify").exists()


def test_reports_need_a_place(tmp_path: Path) -> None:
    directory = write_image(tmp_path / "image")
    (directory / "verify").write_text("in the way")
    with pytest.raises(StorageError, match="reports cannot be written beside the image") as caught:
        verify(directory)
    assert str(directory / "verify") in caught.value.message


def test_shell_refuses_a_firmware_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has no bios"):
        shell(write_image(tmp_path, "arm64"), firmware=Firmware.BIOS)


JUNIT = """<testsuites><testsuite time="1.5">
<testcase classname="test_boot" name="good"/>
<testcase classname="test_boot" name="bad"><failure message="AssertionError: a&#10;more">text</failure></testcase>
<testcase classname="test_boot" name="broken"><error message="no">text</error></testcase>
<testcase classname="test_boot" name="unfit"><skipped message="why"/></testcase>
</testsuite></testsuites>"""


def run_of(directory: Path, kind: str, boot_seconds: float | None = 1.0) -> Run:
    junit = directory / f"{kind}.xml"
    junit.write_text(JUNIT)
    return read_junit(junit, Reports(directory, kind), boot_seconds)


def test_junit_is_read(tmp_path: Path) -> None:
    run = run_of(tmp_path, "uefi")
    assert (run.passed, run.skipped, run.seconds) == (1, 1, 1.5)
    assert run.failed == ("test_boot::bad: AssertionError: a", "test_boot::broken: no")


def test_failures_are_named_with_the_report(tmp_path: Path) -> None:
    found = image.read(write_image(tmp_path))
    with pytest.raises(VerificationError, match="does not keep 2 of its promises") as caught:
        judge(found, (run_of(tmp_path, "uefi"),))
    assert "uefi: test_boot::bad" in caught.value.message
    assert "uefi.html" in caught.value.hint
    assert caught.value.exit_code == 7


def test_two_machines_with_one_identity_fail(tmp_path: Path) -> None:
    found, runs = image.read(write_image(tmp_path)), []
    for kind in ("uefi", "bios"):
        said = {"machine-id": {"text": "same"}, "host-key-prints": {"text": kind}}
        (tmp_path / f"{kind}.facts.json").write_text(json.dumps(said))
        runs.append(dataclasses.replace(run_of(tmp_path, kind), failed=()))
    with pytest.raises(VerificationError, match="have the same machine-id"):
        judge(found, tuple(runs))
    said = {"machine-id": {"text": "other"}, "host-key-prints": {"text": "bios"}}
    (tmp_path / "bios.facts.json").write_text(json.dumps(said))
    result = judge(found, tuple(runs))
    assert [run.kind for run in result.runs] == ["uefi", "bios"]
    assert "uefi: 1 passed" in str(result)
