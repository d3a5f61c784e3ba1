# shellcheck shell=bash
# Files that are there as a whole or not at all, also after a power cut; and the list of what a run changed.

#######################################
# Globals: CLUSTER_CHANGES
# Arguments: text...
#######################################
note_change() {
  local text="$*"
  [[ -z ${CLUSTER_CHANGES-} ]] || printf '%s\n' "${text//$'\n'/ }" >>"${CLUSTER_CHANGES}"
}

#######################################
# Globals: CLUSTER_CHANGES
# Arguments: none
# Outputs: the number of changes noted so far
#######################################
changes_count() {
  local count=0
  if [[ -n ${CLUSTER_CHANGES-} && -e ${CLUSTER_CHANGES} ]]; then
    while read -r; do count=$((count + 1)); done <"${CLUSTER_CHANGES}"
  fi
  printf '%s\n' "${count}"
}

#######################################
# Names a file beside the target to write to, and removes those that a killed run left there.
# Globals: ATOMIC_TEMPORARY (set)
# Arguments: target
#######################################
atomic_temporary() {
  local target=$1 directory left
  directory=${target%/*}
  [[ ${target} == */* ]] || directory=.
  mkdir -p -- "${directory:-/}"
  ATOMIC_TEMPORARY=${directory}/.${target##*/}.new.
  for left in "${ATOMIC_TEMPORARY}"*; do
    if [[ ${left##*.} =~ ^[0-9]+$ && ! -d /proc/${left##*.} ]]; then rm -f -- "${left}"; fi
  done
  ATOMIC_TEMPORARY+=${BASHPID}
}

#######################################
# Puts standard input in a new file, on the disk and not only in memory.
# Globals: none
# Arguments: file, mode
# Outputs: on stderr, why it cannot be
# Returns: 1 if so; the file is gone then
#######################################
atomic_fill() {
  local reason
  rm -f -- "$1"
  if ! reason=$(umask 077 && dd of="$1" conv=fsync bs=64k status=none 2>&1 && chmod -- "$2" "$1" 2>&1); then
    rm -f -- "$1"
    reason=${reason##*$'\n'}
    log_error "cannot write beside it: ${reason#dd: }"
    return 1
  fi
}

#######################################
# Makes a rename in a directory last.
# Globals: none
# Arguments: directory
#######################################
atomic_sync() {
  sync -- "$1" 2>/dev/null || sync
}

#######################################
# Whether a file holds the same as another, and has a mode.
# Globals: none
# Arguments: file, other file, mode
# Returns: 1 if not
#######################################
atomic_same() {
  local sums mode
  [[ -f $2 && ! -L $2 ]] || return 1
  mode=$(stat -c %a -- "$2") || return 1
  ((8#${mode} == 8#$3)) || return 1
  sums=$(sha256sum -- "$1" "$2") || return 1
  [[ $(cut -c 1-64 <<<"${sums}" | sort -u | wc -l) -eq 1 ]]
}

#######################################
# Writes standard input to a file, if it is not there already with this mode: a file beside it is renamed. The directory is made.
# Globals: CLUSTER_CHANGES
# Arguments: target, mode (octal)
# Outputs: a line if it was written
# Returns: 1 if it cannot be written, or nothing came through a pipe (what is before it failed); the old file is as it was then
#######################################
write_file() {
  local target=${1-} mode=${2-} ATOMIC_TEMPORARY piped=no
  [[ ${target} == /* && ${target} != */ && ${mode} =~ ^0?[0-7]{3,4}$ ]] || die 64 "write_file: '${target}' must be an absolute path, and '${mode}' a mode"
  [[ ! -d ${target} ]] || {
    log_error "cannot write ${target}: it is a directory"
    return 1
  }
  [[ ! -p /dev/stdin ]] || piped=yes
  atomic_temporary "${target}" || return 1
  atomic_fill "${ATOMIC_TEMPORARY}" "${mode}" || {
    log_error "${target} was not written and is as it was"
    return 1
  }
  if [[ ${piped} == yes && ! -s ${ATOMIC_TEMPORARY} ]]; then
    rm -f -- "${ATOMIC_TEMPORARY}"
    log_error "${target} was not written and is as it was: nothing came to write, so what makes it has failed"
    return 1
  fi
  if atomic_same "${ATOMIC_TEMPORARY}" "${target}" "${mode}"; then
    rm -f -- "${ATOMIC_TEMPORARY}"
    return 0
  fi
  mv -fT -- "${ATOMIC_TEMPORARY}" "${target}" || {
    rm -f -- "${ATOMIC_TEMPORARY}"
    log_error "${target} was not written and is as it was"
    return 1
  }
  atomic_sync "${target%/*}/"
  log_info "written ${target}"
  note_change "written ${target}"
}

#######################################
# Makes a symbolic link, or turns it over, in one moment. The directory is made.
# Globals: CLUSTER_CHANGES
# Arguments: what it points to, link
# Outputs: a line if it changed
# Returns: 1 if it cannot be; the link is as it was then
#######################################
swap_link() {
  local target=${1-} link=${2-} ATOMIC_TEMPORARY now
  [[ -n ${target} && ${link} == /* && ${link} != */ ]] || die 64 "swap_link: '${link}' must be an absolute path, and '${target}' not empty"
  if [[ -L ${link} ]]; then
    now=$(readlink -- "${link}") || return 1
    [[ ${now} != "${target}" ]] || return 0
  elif [[ -d ${link} ]]; then
    log_error "cannot make the link ${link}: a directory is there"
    return 1
  fi
  atomic_temporary "${link}" || return 1
  rm -f -- "${ATOMIC_TEMPORARY}"
  if ! ln -s -- "${target}" "${ATOMIC_TEMPORARY}" || ! mv -fT -- "${ATOMIC_TEMPORARY}" "${link}"; then
    rm -f -- "${ATOMIC_TEMPORARY}"
    log_error "the link ${link} was not changed"
    return 1
  fi
  atomic_sync "${link%/*}/"
  log_info "${link} points to ${target}"
  note_change "linked ${link} to ${target}"
}
