"""What a peer cannot do, as it was seen while this comparison was made, with the versions that the report names."""

from __future__ import annotations

from collections.abc import Mapping

CANNOT: Mapping[str, tuple[str, ...]] = {
    "mkosi": (
        "It writes raw disks, no qcow2: its image is packed by `qemu-img convert` with zstd, and that time is counted.",
        "Debian 12's own mkosi 14 needs loop devices with partitions. Version 25 needs a newer Debian; here it runs on"
        " a tree of one.",
        "It knows one mirror for a release; where security updates lie is fixed in its code. A file of apt sources in a"
        " sandbox tree replaces it.",
        "Without `SectorSize=512` its ESP has sectors of 4096 bytes, and UEFI firmware in QEMU does not boot the disk.",
        "`KernelModulesInitrd=no` is not heeded with grub: every module is packed once more into a second initramfs."
        " A pattern that excludes every module helps.",
        "Its incremental mode keeps the tree with its packages: after an edit of a script all that follows is done"
        " again, whatever was edited.",
    ),
    "diskimage-builder": (
        "It needs root, loop devices and the device mapper (kpartx). Where the kernel has no device mapper, a stand-in"
        " for kpartx of this benchmark makes a loop device for each partition.",
        "It mounts the ESP, so without vfat in the kernel of the build machine it makes no disk that boots with UEFI."
        " So the boots are measured with BIOS.",
        "Its Debian element always installs `linux-image-amd64`, `gnupg2`, `busybox`, `locales` and others. The kernel"
        " is left out here with a copy of the element; the others are in its image.",
        "The same element empties the shared package cache at each build; that line is left out in the copy. Indexes"
        " are fetched at each build all the same, cold or not.",
        "The one result that it keeps is a tarball of the bootstrapped system: after an edit of a script the packages"
        " of the image are installed again.",
    ),
}
