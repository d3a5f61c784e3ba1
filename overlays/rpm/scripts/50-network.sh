#!/usr/bin/env bash
# NetworkManager alone configures the network.
# Arguments: [root of the tree, for tests; default: the running one]. Safe to run twice.
set -Eeuo pipefail

readonly ROOT=${1:-}

# The old network service (initscripts, network-scripts) would bring up the same interfaces a second time, and fails where
# there is none yet. What it and cloud-init's ifcfg files read stays.
rm -f "${ROOT}"/etc/rc.d/rc[0-6].d/S[0-9][0-9]network
if [[ -d ${ROOT}/etc/sysconfig && ! -e ${ROOT}/etc/sysconfig/network ]]; then
  printf 'NETWORKING=yes\nNOZEROCONF=yes\n' >"${ROOT}/etc/sysconfig/network"
fi

# systemd-resolved does not run here: a link to what it would write leads nowhere. NetworkManager makes a file.
if [[ -L ${ROOT}/etc/resolv.conf && $(readlink "${ROOT}/etc/resolv.conf") == */systemd/resolve/* ]]; then
  rm -f "${ROOT}/etc/resolv.conf"
fi
