#!/bin/bash
# Stands in for dpkg when apt installs into a tree: unpacking runs natively, scripts run inside the tree.
#
# Unpacking a foreign tree with its own, emulated dpkg takes several times as long. Dependencies are not this dpkg's
# to judge while it unpacks (it takes "Architecture: all" for its own architecture); the tree's dpkg checks them when
# it configures.
#
# An archive that has been decompressed meanwhile (see plain.py) takes the place of its original, and is removed then.
#
# Arguments: those of dpkg. Environment: TREE, DECOMPRESSED (directory of decompressed archives), NATIVE (file with a
# line "source<tab>place in the tree" for each program of this machine's architecture that scripts get, see native.py;
# empty for none).
set -Eeuo pipefail

: "${TREE?}" "${DECOMPRESSED?}" "${NATIVE?}"

here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")

# archives WORD...: adds to "words" what dpkg is told; apt names archives one by one, or a directory of links to them.
archives() {
  local word link
  for word in "$@"; do
    if [[ -d ${word} ]]; then
      for link in "${word}"/*.deb; do
        words+=("$(readlink -e "${link}")")
      done
    elif [[ ${word} != --recursive ]]; then
      words+=("${word}")
    fi
  done
}

unpack() {
  local words=() used=() index plain status=0
  archives "$@"
  for index in "${!words[@]}"; do
    plain=${DECOMPRESSED}/${words[index]##*/}
    if [[ -f ${plain} ]]; then
      words[index]=${plain}
      used+=("${plain}")
    fi
  done
  echo "archives that have been decompressed meanwhile: ${#used[@]}"
  dpkg --root="${TREE}" --force-depends --force-unsafe-io "${words[@]}" || status=$?
  rm -f "${used[@]}"
  return "${status}"
}

# make_places: makes what the tree has no place for: a directory of libraries, a loader, and those of configure.sh; adds
# them to "made".
make_places() {
  local source place
  if [[ -n ${NATIVE} ]]; then
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
  fi
  touch "${TREE}/run/py3compile"
  mkfifo "${TREE}/run/py3compile.queue"
  made+=("${TREE}/run/py3compile" "${TREE}/run/py3compile.queue")
}

# times: prints when the directories above these places were changed.
times() {
  stat --format=%.9Y "${parents[@]}"
}

# configure DPKG-ARGUMENT...: the tree does not show that something was there.
configure() {
  local parents=("${TREE}/usr/lib" "${TREE}/run") made=() before between after index status=0
  mapfile -t before < <(times)
  make_places
  mapfile -t between < <(times)
  unshare --mount "${here}/configure.sh" "$@" || status=$?
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
  *" --unpack "*) unpack "$@" ;;
  *) configure "$@" ;;
esac
