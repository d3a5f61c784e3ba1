#!/usr/bin/env bash
# Takes every registry's name out of the configuration of podman: a node knows no registry until its site names one.
# The files are emptied, not removed: dpkg and rpm both keep a changed configuration file on update, but rpm brings back a
# missing one. registries.conf.d/00-node.conf is ours and holds what remains to be said.
# Environment: none. Safe to run twice.
set -Eeuo pipefail

readonly NOTE='# Emptied by the node image: the site names its registry in /etc/containers/registries.conf.d.'

#######################################
# Replaces a file's content by the note, if the file is there.
# Globals: NOTE
# Arguments: path
# Returns: 0
#######################################
empty() {
  [[ ! -f $1 ]] || echo "${NOTE}" >"$1"
}

main() {
  local file
  empty /etc/containers/registries.conf
  for file in /etc/containers/registries.conf.d/*.conf; do
    [[ ${file} == */00-node.conf ]] || empty "${file}"
  done
  # podman 4 reads this no more; Debian still ships it, with the address of a pause image.
  empty /etc/containers/libpod.conf
  if grep -rnEi '(docker\.io|quay\.io|gcr\.io|ghcr\.io|registry\.[a-z0-9-]+\.[a-z]+|\.azurecr\.io)' /etc/containers; then
    echo "/etc/containers still names a registry (lines above)" >&2
    return 1
  fi
}

main
