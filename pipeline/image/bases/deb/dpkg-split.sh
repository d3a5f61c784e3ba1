#!/bin/bash
# Stands in for dpkg when apt installs into a tree: unpacking runs natively, scripts run inside the tree.
#
# Unpacking a foreign tree with its own, emulated dpkg takes several times as long. Dependencies are not this dpkg's
# to judge while it unpacks (it takes "Architecture: all" for its own architecture); the tree's dpkg checks them when
# it configures.
#
# Where the tree's programs would be emulated, scripts get some of this machine's architecture in their place (see
# native.py), in a mount namespace that ends with them: while dpkg unpacks, it replaces the files themselves.
#
# Arguments: those of dpkg. Environment: TREE, NATIVE (file with a line "source<tab>place in the tree" for each of these
# programs; empty for none).
set -Eeuo pipefail

: "${TREE?}" "${NATIVE?}"

# show: mounts the programs that the tree has itself by now.
show() {
  local source place
  while IFS=$'\t' read -r source place; do
    if [[ -d ${source} ]]; then
      mkdir -p "${TREE}${place}"
    elif [[ ${place} == /run/* ]]; then
      touch "${TREE}${place}"
    elif [[ ! -f ${TREE}${place} || -L ${TREE}${place} ]]; then
      continue
    fi
    mount --bind "${source}" "${TREE}${place}"
  done <"${NATIVE}"
}

configure() {
  if [[ -n ${NATIVE} ]]; then
    show
  fi
  exec env --unset=TMPDIR --unset=APT_CONFIG chroot "${TREE}" dpkg --force-unsafe-io "$@"
}

case " $* " in
  *" --unpack "*) exec dpkg --root="${TREE}" --force-depends --force-unsafe-io "$@" ;;
  *)
    export -f show configure
    # shellcheck disable=SC2016  # it is for the inner shell
    exec unshare --mount bash -Eeuo pipefail -c 'configure "$@"' configure "$@"
    ;;
esac
