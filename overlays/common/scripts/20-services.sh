#!/usr/bin/env bash
# Applies this overlay's preset file: which units are enabled is written there, not here.
# Environment: none. Safe to run twice.
set -Eeuo pipefail

# Units that must not start whatever asks for them.
#   swap.target: kubelet refuses a node with swap. Every swap unit (fstab, GPT, zram) hangs on this target.
readonly MASKED=(swap.target)

/usr/lib/cluster/node-units preset /etc/systemd/system-preset/10-node.preset \
  cluster-bootstrap.service node-ssh-host-keys.service
/usr/lib/cluster/node-units mask "${MASKED[@]}"
