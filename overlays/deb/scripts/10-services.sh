#!/usr/bin/env bash
# What Debian's services need beyond the presets.
# Environment: none. Safe to run twice.
set -Eeuo pipefail

# Nodes do not update by themselves, also when a package is reinstalled.
# ipvsadm.service (a SysV script) would load and clear the IPVS table, which is kube-proxy's.
readonly MASKED=(apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service ipvsadm.service)

/usr/lib/cluster/node-units preset /etc/systemd/system-preset/20-node-deb.preset \
  ssh.service chrony.service systemd-networkd.service systemd-networkd-wait-online.service systemd-resolved.service
/usr/lib/cluster/node-units mask "${MASKED[@]}"
# The resolver of systemd-resolved; seal leaves a link alone.
ln -sfn ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
rm -f /etc/.resolv.conf.systemd-resolved.bak
