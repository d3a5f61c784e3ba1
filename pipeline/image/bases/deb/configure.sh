#!/bin/bash
# Has the tree's own dpkg configure packages, in a mount namespace of its own.
#
# Where the tree's programs would be emulated, scripts get some of this machine's architecture in their place, only for
# this long: while dpkg unpacks, it replaces the files themselves. Python modules are compiled beside the scripts, on
# whatever processors are idle: nothing needs the result. What scripts import meanwhile, they do not compile themselves.
#
# Arguments: those of dpkg. Environment: that of dpkg-split.sh.
set -Eeuo pipefail

: "${TREE?}" "${NATIVE?}"
export TREE PYTHONDONTWRITEBYTECODE=1
unset TMPDIR APT_CONFIG # of mmdebstrap, on this machine

here=$(dirname -- "$(readlink -f -- "${BASH_SOURCE[0]}")")
readonly compiler=${TREE}/usr/bin/py3compile queue=${TREE}/run/py3compile.queue

# show_programs: mounts the programs that the tree has itself by now.
show_programs() {
  local source place
  while IFS=$'\t' read -r source place; do
    if [[ -e ${TREE}${place} && ! -L ${TREE}${place} ]]; then
      mount --bind "${source}" "${TREE}${place}"
    fi
  done <"${NATIVE}"
}

# compile ARGUMENTS: does what a script wanted of py3compile.
# shellcheck disable=SC2317  # xargs calls it
compile() {
  local arguments
  IFS=$'\x1f' read -r -a arguments <<<"$1"
  chroot "${TREE}" /run/py3compile "${arguments[@]}"
}

if [[ -n ${NATIVE} ]]; then
  show_programs
fi
if [[ ! -f ${compiler} ]]; then
  chroot "${TREE}" dpkg --force-unsafe-io "$@"
  exit
fi
mount --bind "${compiler}" "${TREE}/run/py3compile"
mount --bind "${here}/py3compile.sh" "${compiler}"
exec 9<>"${queue}" # for both, so that opening one end does not wait for the other
export -f compile
# shellcheck disable=SC2016  # it is for the inner shell
xargs --no-run-if-empty --delimiter='\n' --max-args=1 --max-procs="$(nproc)" \
  bash -Eeuo pipefail -c 'compile "$1"' compile <"${queue}" 9>&- &
compiling=$! status=0
chroot "${TREE}" dpkg --force-unsafe-io "$@" 9>&- || status=$?
exec 9>&-
wait "${compiling}" || {
  echo "E: compiling Python modules failed"
  status=1
}
exit "${status}"
