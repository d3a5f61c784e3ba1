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
GRUB_SCRIPTS = r"usr/s?bin/grub-(mkconfig|reboot|set-default)|usr/share/grub/grub-mkconfig_lib|etc/grub\.d/\w+"
UNITS = r"usr/lib/systemd/system"
CLOUD_INIT = r"usr/lib/python3/dist-packages/cloudinit"
# Path -> what is said otherwise in it.
REWRITTEN: tuple[tuple[re.Pattern[str], tuple[tuple[str, str], ...]], ...] = (
    (re.compile("usr/lib/rpm/macros$"), ((r"(?m)^%_dbpath\s.*$", "%_dbpath /var/lib/rpm"),)),
    (
        re.compile(f"({GRUB_SCRIPTS})$"),
        (
            (rf"\bgrub-({GRUB_PROGRAMS})\b(?!_)", r"grub2-\1"),
            (r"/boot/grub\b", "/boot/grub2"),
        ),
    ),
    # As upstream's units have it for the RHEL family: hostnamectl sets the name there, NetworkManager the addresses.
    (
        re.compile(rf"{UNITS}/cloud-init(-local)?\.service$"),
        (("Before=sysinit.target\n", ""), (r"(?m)^\[Unit\]$", "[Unit]\nRequires=dbus.socket\nAfter=dbus.socket")),
    ),
    (
        re.compile(rf"{UNITS}/cloud-init\.service$"),
        ((r"(?m)^\[Unit\]$", "[Unit]\nAfter=NetworkManager.service NetworkManager-wait-online.service"),),
    ),
    # As the vendors' own packages: upstream's renderer refuses systems that it does not know.
    (
        re.compile(rf"{CLOUD_INIT}/net/sysconfig\.py$"),
        ((r"KNOWN_DISTROS = \[", "KNOWN_DISTROS = ['linux', "),),
    ),
    (re.compile(rf"{UNITS}/ssh\.service$"), ((r"Alias=sshd\.service\n", ""),)),
    (re.compile(rf"{UNITS}/chrony\.service$"), ((r"Alias=chronyd\.service\n", ""),)),
)
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
    "NetworkManager": (
        "NetworkManager.service",
        "NetworkManager-dispatcher.service",
        "NetworkManager-wait-online.service",
    ),
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
    (
        r"etc/(passwd|group|shadow|gshadow|shells|profile|environment|inputrc|networks|hosts.*|subuid|subgid|motd)$",
        "setup",
    ),
    (r"(root|etc/skel)/\.", "setup"),
    (r"var/lib/(polkit-1|NetworkManager)", "polkit"),
)
# What is this machine's or Debian's alone, or made by each machine itself.
LEFT_OUT = re.compile(
    r"(boot/(initrd|initramfs)|dev/|proc/|run/|sys/|tmp/|initrd\.img|vmlinuz|"
    r"etc/(apparmor\.d|apt|cron\.|debian_version|default/locale|dpkg|fstab|hostname|init\.d|initramfs-tools|issue|"
    r"kernel/(install|postinst|postrm)\.d|ld\.so\.cache|locale\.gen|machine-id|modules$|mtab|os-release$|"
    r"(passwd|group|shadow|gshadow|subuid|subgid)-$|\.pwd\.lock|python3/debian_config|rc\d\.d|rcS\.d|resolv\.conf|runit|"
    r"sgml|ssh/ssh_host_|sysctl\.conf$|systemd/(system|user)/|timezone|update-motd\.d|xml)|"
    r"usr/lib/(init/|os-release|udev/hwdb\.bin)|usr/share/(bug|doc|info|lintian|locale|man)/|"
    r"var/(backups|cache|log|spool|tmp|lib/(apt|dpkg|pam|systemd|ucf|usbutils))/)"
)
