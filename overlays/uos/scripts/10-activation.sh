#!/usr/bin/env bash
# Activation is left to the node's first boot: its services stay as they are, and so does StateMode, which names the channel.
# What an activated machine knows goes: user and password of the vendor's repositories, which the variables $auth_u and $auth_p
# of yum and dnf hold. The files stay, empty, for the activation to fill. (30-repositories.sh of overlays/rpm has taken out
# credentials that stand in the *.repo files themselves.)
# Arguments: [root of the tree, for tests; default: the running one]. Safe to run twice.
set -Eeuo pipefail

readonly ROOT=${1:-}

for file in "${ROOT}"/etc/{yum,dnf}/vars/auth_*; do
  [[ ! -f ${file} ]] || : >"${file}"
done
