# shellcheck shell=bash
# Commands that take back what was done, kept on disk: they are there also after a power cut.

#######################################
# Replaces the list with standard input.
# Globals: STATE_DIR
# Arguments: none
# Returns: 1 if the disk is full; the list is as it was then
#######################################
undo_put() {
  local ATOMIC_TEMPORARY
  atomic_temporary "${STATE_DIR}/undo"
  atomic_fill "${ATOMIC_TEMPORARY}" 0600 || return 1
  mv -fT -- "${ATOMIC_TEMPORARY}" "${STATE_DIR}/undo"
  atomic_sync "${STATE_DIR}/"
}

#######################################
# Reads the list.
# Globals: STATE_DIR UNDO_LIST (set; the oldest first)
# Arguments: none
#######################################
undo_read() {
  local line
  UNDO_LIST=()
  [[ -e ${STATE_DIR}/undo ]] || return 0
  while IFS= read -r line || [[ -n ${line} ]]; do UNDO_LIST+=("${line}"); done <"${STATE_DIR}/undo"
}

#######################################
# Adds a command.
# Globals: STATE_DIR
# Arguments: command, its arguments
# Returns: exits 64 without a command
#######################################
undo_push() {
  local UNDO_LIST line
  [[ -n ${1-} ]] || die 64 "undo_push: a command must follow"
  undo_read
  printf -v line '%q ' "$@"
  printf '%s\n' ${UNDO_LIST[@]+"${UNDO_LIST[@]}"} "${line% }" | undo_put
}

#######################################
# Runs the commands, the newest first, each in a child with errexit on. What succeeded leaves the list at once, what failed stays.
# Globals: STATE_DIR
# Arguments: none
# Outputs: a line for each, with the command's first word only
# Returns: 1 if one failed
#######################################
undo_run() {
  local UNDO_LIST words index status failed=0
  undo_read
  for ((index = ${#UNDO_LIST[@]} - 1; index >= 0; index--)); do
    words=()
    eval "words=(${UNDO_LIST[index]})" # written by printf %q, in a file of root
    status=0
    child_run 0 "${words[@]}" || status=$?
    if ((status == 0)); then
      log_info "undone: ${words[0]}"
      unset "UNDO_LIST[index]"
      if ((${#UNDO_LIST[@]} > 0)); then printf '%s\n' "${UNDO_LIST[@]}" | undo_put; else undo_clear; fi
    else
      log_error "undoing with ${words[0]} failed with exit code ${status}; it stays in ${STATE_DIR}/undo"
      failed=1
    fi
  done
  return "${failed}"
}

#######################################
# Forgets all commands.
# Globals: STATE_DIR
# Arguments: none
#######################################
undo_clear() {
  rm -f -- "${STATE_DIR}/undo"
}
