#!/bin/bash
# The role of a worker. Run by bin/install, once per phase: worker.sh pre_install|install|post_install
set -Eeuo pipefail
. "${BASH_SOURCE[0]%/*}/../lib/utils.sh"

# The host is fit, and ready for Kubernetes.
pre_install() {
  prepare_host
  always balancer node_balancer
}

# Kubernetes is on it, by kubeadm's own phases.
install() {
  install_worker
}

# It is healthy, and the last things are in place.
post_install() {
  always kubelet node_kubelet
  always network node_network
  always node-ready wait_for_node
  step prune release_prune
}

role_main "$@"
