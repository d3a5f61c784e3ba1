#!/bin/bash
# mmdebstrap essential hook: installs the profile's packages with this machine's apt.
#
# Arguments: $1 the tree.
# Environment: PACKAGES (what to install), DPKG_SPLIT (stands in for dpkg), SCRATCH (directory of intermediate files),
# MMDEBSTRAP_APT_CONFIG (of mmdebstrap).
set -Eeuo pipefail

: "${PACKAGES?}" "${DPKG_SPLIT?}" "${SCRATCH?}" "${MMDEBSTRAP_APT_CONFIG?}"

# This machine's dpkg unpacks, so it must follow the tree's settings and not its own. The mount is private.
mount --bind "$1/etc/dpkg/dpkg.cfg.d" /etc/dpkg/dpkg.cfg.d
export TREE=$1
# Keys of the machine are not made where they are there, and none stays in an image: no script needs to make them.
mkdir -p "$1/etc/ssh"
touch "$1/etc/ssh/ssh_host_"{rsa,ecdsa,ed25519}_key
# The hook of mmdebstrap that merges /usr has put a stand-in for usr-is-merged into the tree: the real one replaces it.
# shellcheck disable=SC2086  # PACKAGES is a list of words
APT_CONFIG=${MMDEBSTRAP_APT_CONFIG} TMPDIR=${SCRATCH} apt-get --yes \
  -o Dir::Bin::dpkg="${DPKG_SPLIT}" \
  -o Dpkg::Use-Pty=false \
  install usr-is-merged ${PACKAGES}
rm -f "$1/etc/ssh/ssh_host_"*
rmdir --ignore-fail-on-non-empty "$1/etc/ssh"
umount /etc/dpkg/dpkg.cfg.d
