#!/usr/bin/env bash
# What the kernel and the programs of the EL 7 generation need; nothing on later ones.
# Arguments: [root of the tree, for tests; default: the running one]. Safe to run twice.
set -Eeuo pipefail

readonly ROOT=${1:-}

compgen -G "${ROOT}/lib/modules/3.10.*" >/dev/null || exit 0

# Without it a mount that any other namespace still sees cannot be removed ("device or resource busy"), so pods stay in
# Terminating. Later kernels always detach, and have no such key; systemd-sysctl would fail over it.
mkdir -p "${ROOT}/etc/sysctl.d"
cat >"${ROOT}/etc/sysctl.d/50-node-el7.conf" <<'EOF'
# A removed directory's mounts are detached from every namespace, as later kernels do.
fs.may_detach_mounts = 1
EOF

# sudo from a script has no terminal.
mkdir -p "${ROOT}/etc/sudoers.d"
echo 'Defaults !requiretty' >"${ROOT}/etc/sudoers.d/10-node"
chmod 0440 "${ROOT}/etc/sudoers.d/10-node"
