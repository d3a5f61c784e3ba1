#!/usr/bin/env bash
# Anolis 23 says nowhere that it is of Red Hat's kind, as 7 and 8 do; Ansible and installers that know no "anolis" go by ID_LIKE.
# Arguments: [root of the tree, for tests; default: the running one]. Safe to run twice.
set -Eeuo pipefail

readonly ROOT=${1:-}

# The file itself: /etc/os-release is a link to it on most systems.
file=${ROOT}/usr/lib/os-release
[[ -f ${file} ]] || file=${ROOT}/etc/os-release
if [[ -f ${file} ]] && ! grep -q '^ID_LIKE=' "${file}"; then
  echo 'ID_LIKE="rhel fedora centos"' >>"${file}"
fi
