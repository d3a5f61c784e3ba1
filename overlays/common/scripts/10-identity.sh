#!/usr/bin/env bash
# Identity of the machine that built the tree goes, and noise at login goes with it.
# Environment: none. Safe to run twice.
set -Eeuo pipefail

# A missing file means "localhost" until DHCP or cloud-init names the machine.
rm -f /etc/hostname

ln -sfn /usr/share/zoneinfo/Etc/UTC /etc/localtime

# The text shown at login: sshd and login print it through PAM where it is not empty.
: >/etc/motd
chmod 0644 /etc/motd
