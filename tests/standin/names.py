"""How Debian's packages and files are called in an RPM distribution, and what their scriptlets do."""

from __future__ import annotations

import re

# Debian's name -> the name that profiles use, and what else the package answers to.
NAMES: dict[str, tuple[str, ...]] = {
    "cloud-guest-utils": ("cloud-utils-growpart",),
    "conntrack": ("conntrack-tools",),
    "coreutils": ("coreutils", "coreutils-single"),
    "debianutils": ("which",),
    "docker.io": ("docker-engine", "docker"),
    "dnf": ("dnf", "yum"),
    "dracut-core": ("dracut", "dracut-config-generic"),
    "grub-common": ("grub2-common",),
    "grub-pc-bin": ("grub2-pc-modules",),
    "grub2-common": ("grub2-tools", "grub2-tools-minimal", "grub2-tools-extra"),
    "init-system-helpers": ("initscripts-service",),
    "iproute2": ("iproute", "iproute-tc"),
    "iptables": ("iptables", "iptables-nft", "iptables-ebtables"),
    "iputils-ping": ("iputils",),
    "libc-bin": ("glibc-common", "glibc-minimal-langpack", "glibc-langpack-en"),
    "libc6": ("glibc",),
    "mawk": ("gawk",),
    "network-manager": ("NetworkManager",),
    "nfs-common": ("nfs-utils",),
    "openssh-client": ("openssh-clients", "openssh"),
    "passwd": ("shadow-utils", "passwd"),
    "policykit-1": ("polkit",),
    "polkitd": ("polkit",),
    "procps": ("procps-ng",),
    "udev": ("systemd-udev",),
}
# What a package of an RPM distribution needs besides.
NEEDS = {"cloud-init": {"initscripts-service"}}
# Debian's own package management and what only that needs, other people's boot loaders, documentation.
DROPPED = re.compile(
    r"adduser|apt|base-(files|passwd)|containernetworking-plugins|dash|debconf.*|dirmngr|dpkg|dracut|gcc-.*-base|gnupg.*|"
    r"gpg-wks.*|gpgsm|grub-efi-.*|ifupdown|isc-dhcp-client|libapt-pkg.*|libc-l10n|libperl.*|linux-base|"
    r"linux-image-cloud.*|locales|lsb-(base|release)|media-types|perl.*|pinentry-curses|runit-helper|sensible-utils|"
    r"sgml-base|shim-.*|tasksel.*|ucf|usr-?(is-merged|merge)|wpasupplicant|xml-core|libfakeroot|fakeroot"
)
MOVED = (
    (re.compile(r"^(usr/s?bin)/grub-"), r"\1/grub2-"),
    (re.compile(r"^(usr/lib/systemd/system)/ssh\.service$"), r"\1/sshd.service"),
    (re.compile(r"^(usr/lib/systemd/system)/chrony\.service$"), r"\1/chronyd.service"),
)
GRUB_PROGRAMS = "mkconfig|probe|mkrelpath|editenv|script-check|file|mount|install|reboot|set-default|mkimage|bios-setup"
# Path -> what is said otherwise in it.
REWRITTEN: tuple[tuple[re.Pattern[str], tuple[tuple[str, str], ...]], ...] = (
    (re.compile(r"^usr/lib/rpm/macros$"), ((r"(?m)^%_dbpath\s.*$", "%_dbpath /var/lib/rpm"),)),
    (
        re.compile(r"^(usr/s?bin/grub-(mkconfig|reboot|set-default)|usr/share/grub/grub-mkconfig_lib|etc/grub\.d/\w+)$"),
        ((rf"\bgrub-({GRUB_PROGRAMS})\b(?!_)", r"grub2-\1"), (r"/boot/grub\b", "/boot/grub2"), (r"/initrd\.img-", "/initramfs-"),
         (r"\binitrd\.img-\$", "initramfs-$")),
    ),
    # As upstream's unit has it for the RHEL family: hostnamectl is what sets the name there.
    (
        re.compile(r"^usr/lib/systemd/system/cloud-init(-local)?\.service$"),
        (("Before=sysinit.target\n", ""), (r"(?m)^\[Unit\]$", "[Unit]\nRequires=dbus.socket\nAfter=dbus.socket")),
    ),
    (
        re.compile(r"^usr/lib/systemd/system/cloud-init\.service$"),
        ((r"(?m)^\[Unit\]$", "[Unit]\nAfter=NetworkManager.service NetworkManager-wait-online.service"),),
    ),
    # As the vendors' own packages: upstream's renderer refuses systems that it does not know.
    (re.compile(r"^usr/lib/python3/dist-packages/cloudinit/net/sysconfig\.py$"), ((r"KNOWN_DISTROS = \[", "KNOWN_DISTROS = ['linux', "),)),
    (re.compile(r"^usr/lib/systemd/system/ssh\.service$"), ((r"Alias=sshd\.service\n", ""),)),
    (re.compile(r"^usr/lib/systemd/system/chrony\.service$"), ((r"Alias=chronyd\.service\n", ""),)),
)  # fmt: skip
# Users and groups by the package that makes them; who is in no table is in /etc/passwd from the start.
USERS = {
    "_chrony": "chrony",
    "_rpc": "rpcbind",
    "messagebus": "dbus",
    "polkitd": "polkit",
    "sshd": "openssh-server",
    "statd": "nfs-utils",
    "systemd-coredump": "systemd",
    "systemd-network": "systemd",
    "systemd-resolve": "systemd",
    "systemd-timesync": "systemd",
}
GROUPS = {
    "_ssh": "openssh-clients",
    "docker": "docker-engine",
    "input": "systemd",
    "kvm": "systemd",
    "netdev": "NetworkManager",
    "render": "systemd",
    "sgx": "systemd",
    "ssh": "openssh-clients",
    "systemd-journal": "systemd",
}
# Services whose packages apply the presets.
PRESET = {
    "NetworkManager": ("NetworkManager.service", "NetworkManager-dispatcher.service", "NetworkManager-wait-online.service"),
    "chrony": ("chronyd.service",),
    "cloud-init": ("cloud-init-local.service", "cloud-init.service", "cloud-config.service", "cloud-final.service"),
    "docker-engine": ("docker.service",),
    "openssh-server": ("sshd.service",),
    "systemd": ("remote-fs.target", "getty@tty1.service"),
}
# What maintainer scripts of Debian leave in a tree, by the package that would bring it; the rest is setup's.
GENERATED = (
    (r"etc/ssl/certs/|etc/ca-certificates\.conf|usr/local/share/ca-certificates", "ca-certificates"),
    (r"etc/chrony/", "chrony"),
    (r"etc/ssh/sshd_config$", "openssh-server"),
    (r"etc/pam\.d/common-", "libpam-runtime"),
    (r"etc/nsswitch\.conf|etc/ld\.so\.conf", "glibc-common"),
    (r"etc/default/grub$", "grub2-tools"),
    (r"etc/(nfs|idmapd)\.conf$", "nfs-utils"),
    (r"usr/lib/locale/", "glibc-common"),
    (r"(usr/lib/modules|boot)/", "kernel-core"),
    (r"etc/(passwd|group|shadow|gshadow|shells|profile|environment|inputrc|networks|hosts.*|subuid|subgid|motd)$", "setup"),
    (r"(root|etc/skel)/\.", "setup"),
    (r"var/lib/(polkit-1|NetworkManager)", "polkit"),
)
LEFT_OUT = re.compile(
    r"(boot/(initrd|initramfs)|dev/|etc/(sysctl\.conf$|apt|dpkg|rc\d\.d|rcS\.d|init\.d|runit|xml|sgml|python3/debian_config|debian_version|issue|issue\.net|"
    r"hostname|resolv\.conf|machine-id|mtab|fstab|locale\.gen|modules$|ld\.so\.cache|\.pwd\.lock|timezone|"
    r"os-release$|systemd/(system|user)/|ssh/ssh_host_|cron\.|kernel/(postinst|postrm|install)\.d|apparmor\.d|(passwd|group|shadow|gshadow|subuid|subgid)-$|"
    r"initramfs-tools|update-motd\.d|default/locale|update-manager|alternatives/README)|"
    r"initrd\.img|vmlinuz|usr/lib/os-release|usr/share/(doc|info|lintian|locale|man|"
    r"bug|initramfs-tools|apport)/|usr/lib/udev/hwdb\.bin|usr/lib/init/|var/(cache|backups|lib/(apt|dpkg|ucf|pam|systemd|usbutils)|log|tmp|spool)/|"
    r"run/|proc/|sys/|tmp/)"
)
