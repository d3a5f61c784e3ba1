#!/usr/bin/env bash
# What the services of RPM systems need beyond the presets.
# Environment: none. Safe to run twice.
set -Eeuo pipefail

# firewalld writes rules of its own over those of kube-proxy and CNI plugins; every Kubernetes installer switches it off.
# dracut-shutdown unpacks the initramfs at every shutdown, for roots that cannot be unmounted from themselves. Ours can.
readonly MASKED=(firewalld.service dracut-shutdown.service)

/usr/lib/cluster/node-units preset /etc/systemd/system-preset/20-node-rpm.preset \
  sshd.service chronyd.service NetworkManager.service
/usr/lib/cluster/node-units mask "${MASKED[@]}"
