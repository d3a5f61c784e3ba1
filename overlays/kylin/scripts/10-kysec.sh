#!/usr/bin/env bash
# KYSEC is looked for and told of, not removed: other packages call it, and its state is a matter of the site. Where its
# execution control is on, programs that the cluster-installer brings are refused until the site has trusted them.
# Kylin's licence files (/etc/.kyinfo, /etc/.productinfo) are left alone; without them it counts as another system.
# Arguments: [root of the tree, for tests; default: the running one]. Safe to run twice.
set -Eeuo pipefail

readonly ROOT=${1:-}

for file in "${ROOT}"/usr/{bin,sbin}/{getstatus,kysec_set}; do
  if [[ -e ${file} ]]; then
    echo "KYSEC is installed (${file#"${ROOT}"}): look at getstatus on a booted node before the cluster-installer runs"
    break
  fi
done
