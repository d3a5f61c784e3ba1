#!/usr/bin/env bash
# Tells cloud-init that this is an RPM system of Red Hat's kind. It knows none of Kylin, Anolis and UOS: told nothing, it would
# find no way to write network settings. Of the ways, sysconfig is in every version; network-manager is since 22.2, and is
# the one that is left where ifcfg files are no more (EL 10). An older version stops at a name that it does not know, so it is
# asked first.
# Arguments: [root of the tree, for tests; default: the running one]. Safe to run twice.
set -Eeuo pipefail

readonly ROOT=${1:-}

main() {
  local renderers=sysconfig module
  [[ -d ${ROOT}/etc/cloud ]] || return 0
  for module in "${ROOT}"/usr/lib/python*/*-packages/cloudinit/net/network_manager.py; do
    [[ ! -e ${module} ]] || renderers='sysconfig, network-manager'
  done
  mkdir -p "${ROOT}/etc/cloud/cloud.cfg.d"
  cat >"${ROOT}/etc/cloud/cloud.cfg.d/91-node-network.cfg" <<EOF
# Written by the node image, for the version of cloud-init that is in it.
system_info:
  distro: rhel
  network:
    renderers: [${renderers}]
EOF
}

main
