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
    if [[ -e ${TREE}${place} && ! -L ${TREE}${place} ]]; then
      mount --bind "${source}" "${TREE}${place}"
    fi
  done <"${NATIVE}"
}

# make_places: makes what the tree has no place for: a directory of libraries, and a loader; adds them to "made".
make_places() {
  local source place
  while IFS=$'\t' read -r source place; do
    if [[ -d ${source} ]]; then
      mkdir "${TREE}${place}"
    elif [[ ${place} == /run/* ]]; then
      touch "${TREE}${place}"
    else
      continue
    fi
    made+=("${TREE}${place}")
  done <"${NATIVE}"
}

# times: prints when the directories above these places were changed.
times() {
  stat --format=%.9Y "${parents[@]}"
}

in_tree() {
  env --unset=TMPDIR --unset=APT_CONFIG chroot "${TREE}" dpkg --force-unsafe-io "$@"
}

# natively DPKG-ARGUMENT...: configures with this machine's programs; the tree does not show that they were there.
natively() {
  local parents=("${TREE}/usr/lib" "${TREE}/run") made=() before between after index status=0
  mapfile -t before < <(times)
  make_places
  mapfile -t between < <(times)
  export -f show in_tree
  # shellcheck disable=SC2016  # it is for the inner shell
  unshare --mount bash -Eeuo pipefail -c 'show; in_tree "$@"' in_tree "$@" || status=$?
  mapfile -t after < <(times)
  rm --dir "${made[@]}"
  for index in "${!parents[@]}"; do
    if [[ ${after[index]} == "${between[index]}" ]]; then
      touch --date="@${before[index]}" "${parents[index]}"
    fi
  done
  return "${status}"
}

case " $* " in
  *" --unpack "*) exec dpkg --root="${TREE}" --force-depends --force-unsafe-io "$@" ;;
  *)
    if [[ -n ${NATIVE} ]]; then
      natively "$@"
    else
      in_tree "$@"
    fi
    ;;
esac
