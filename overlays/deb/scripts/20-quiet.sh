#!/usr/bin/env bash
# Debian's noise at login, and its own copies of settings.
# Environment: none. Safe to run twice.
set -Eeuo pipefail

# dpkg does not bring back a configuration file that was removed.
rm -f /etc/update-motd.d/10-uname

printf 'LANG=C.UTF-8\n' >/etc/default/locale
printf 'Etc/UTC\n' >/etc/timezone
