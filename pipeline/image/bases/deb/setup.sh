#!/bin/bash
# mmdebstrap setup hook: settings go into the empty tree.
#
# Arguments: $1 the tree.
# Environment: SLIM_CONFIG (dpkg path filters), AVOID (packages never taken).
set -Eeuo pipefail

: "${SLIM_CONFIG?}" "${AVOID?}"

tree=$1
mkdir -p "${tree}/etc/dpkg/dpkg.cfg.d" "${tree}/etc/apt/preferences.d" "${tree}/var/cache/apt/archives"
# The filters stay in the image: what is left out now must not come back with an update.
cp "${SLIM_CONFIG}" "${tree}/etc/dpkg/dpkg.cfg.d/slim"
for package in ${AVOID}; do
  printf 'Package: %s\nPin: release *\nPin-Priority: -1\n\n' "${package}"
done >"${tree}/etc/apt/preferences.d/avoid"
