"""A node survives an update of its kernel or initramfs, made with its own tools. Last, because it reboots.

With ``--kernel-update`` the packages are installed and the new kernel booted. Without, what such an update does is done
for the kernel that is there: its initramfs and grub.cfg are made anew on the machine.
"""

from __future__ import annotations

import contextlib
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pipeline.lab.facts import Fact

POLL_SECONDS = 3.0
UPDATE_SECONDS = 1800  # under emulation, on a busy host
# Where a program lies at other addresses each time it starts, QEMU before 8.0 translates amd64 code anew at each of
# thousands of starts: 333 s for an initramfs, 99 s without. And a page whose code it has translated so often is slow to
# write to, even for what runs there after a reboot: with its stack on one, OVMF could not serve its timer and hung.
SAME_ADDRESSES = "setarch $(uname -m) --addr-no-randomize"
MAKE_BOOT_FILES = """
set -eu
if command -v update-initramfs >/dev/null; then update-initramfs -u -k all && update-grub
else
  for k in /lib/modules/*; do
    dracut --force "/boot/initramfs-${k##*/}.img" "${k##*/}"
    /usr/lib/cluster/update-boot add "${k##*/}"
  done
fi
"""
# One command, because each costs a second under emulation.
SUMMARY = """
echo "boot $(cat /proc/sys/kernel/random/boot_id)"
echo "kernel $(uname -r)"
echo "made $(find /boot -maxdepth 1 \\( -name 'initrd*' -o -name 'initramfs*' \\) -newermt @%d -type f | wc -l)"
echo "modules $(ls -m /lib/modules)"
"""
REST = """
for i in $(seq 300); do
  s=$(systemctl is-system-running)
  case $s in starting|initializing) sleep 1;; *) break;; esac
done
echo "state $s"
echo "failed $(systemctl --failed --no-legend --plain | tr '\\n' ' ')"
echo "cmdline $(cat /proc/cmdline)"
"""


def _ask(host: Any, script: str) -> dict[str, str]:  # noqa: ANN401  testinfra comes without types
    result = host.run("sh -c %s", script)
    assert result.rc == 0, result.stderr
    return {key: value for key, _, value in (line.partition(" ") for line in result.stdout.splitlines())}


def _reboot(host: Any, old_boot: str, seconds: float) -> None:  # noqa: ANN401
    """Have the machine reboot itself and wait until it answers again."""
    with contextlib.suppress(RuntimeError):  # testinfra's word for a connection that breaks, as it should
        host.run("systemctl reboot")
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
        try:
            result = host.run("cat /proc/sys/kernel/random/boot_id")
        except RuntimeError:
            continue
        if result.rc == 0 and result.stdout.strip() != old_boot:
            return
    pytest.fail(f"the machine did not come back within {seconds:.0f} s; its console is in the serial log")


def _install(host: Any, packages: Sequence[Path], copy_in: Callable[[Path, str], None]) -> None:  # noqa: ANN401
    """Install the packages of a kernel in one go, as they need each other; what else they need must be there."""
    targets = [f"/root/{package.name}" for package in packages]
    for package, target in zip(packages, targets, strict=True):
        copy_in(package, target)
    command = "dpkg -i" if packages[0].suffix == ".deb" else "rpm -i --oldpackage"
    done = host.run(f"timeout %s {SAME_ADDRESSES} {command}{' %s' * len(targets)}", str(UPDATE_SECONDS), *targets)
    assert done.rc == 0, done.stdout + done.stderr


def _choose_at_next_boot(host: Any, kernel: str) -> None:  # noqa: ANN401
    """Have GRUB start a kernel once, wherever it stands in the menu."""
    config = host.run("cat /boot/grub/grub.cfg /boot/grub2/grub.cfg 2>/dev/null; true").stdout
    entry = re.search(rf"\$menuentry_id_option '(gnulinux-{re.escape(kernel)}-advanced-[0-9a-f-]+)'", config)
    menu = re.search(r"submenu .*\$menuentry_id_option '(gnulinux-advanced-[0-9a-f-]+)'", config)
    assert entry is not None, f"GRUB's menu has no entry for {kernel}"
    name = f"{menu[1]}>{entry[1]}" if menu is not None else entry[1]
    done = host.run("if command -v grub-reboot; then grub-reboot %s; else grub2-reboot %s; fi", name, name)
    assert done.rc == 0, done.stdout + done.stderr


@pytest.mark.booted
@pytest.mark.update
def test_update_of_kernel_or_initramfs_and_reboot(
    host: Any,  # noqa: ANN401
    facts: dict[str, Fact],
    pytestconfig: pytest.Config,
    copy_in: Callable[[Path, str], None],
    reboot_seconds: float,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    packages: list[Path] = pytestconfig.getoption("kernel_update")
    now = int(float(host.run("date +%s").stdout))
    before = _ask(host, SUMMARY % now)
    begun = time.monotonic()
    if not packages:
        made = host.run(f"timeout %s {SAME_ADDRESSES} sh -c %s", str(UPDATE_SECONDS), MAKE_BOOT_FILES)
        assert made.rc == 0, made.stdout + made.stderr
    else:
        _install(host, packages, copy_in)
    record_testsuite_property("seconds of the update", round(time.monotonic() - begun))
    updated = _ask(host, SUMMARY % now)
    assert int(updated["made"]) >= 1, "no initramfs was made"
    new = set(updated["modules"].split(", ")) - set(before["modules"].split(", "))
    wanted = new.pop() if new else before["kernel"]
    if packages:
        assert wanted != before["kernel"], f"{packages[0].name} is of the kernel that runs already"
        _choose_at_next_boot(host, wanted)

    begun = time.monotonic()
    _reboot(host, before["boot"], reboot_seconds)
    record_testsuite_property("seconds of the reboot", round(time.monotonic() - begun))

    after = _ask(host, SUMMARY % now + REST)
    assert after["kernel"] == wanted
    assert after["state"] == "running", after["failed"]
    assert after["failed"].strip() == ""
    assert f"root=UUID={facts['root'].text.split()[1]}" in after["cmdline"]
