# shellcheck shell=bash
# Steps that are done once, each with a record of how it went. Records and marks are written whole or not at all, the record
# first: whatever is killed, a step that is marked as done was done.

STATE_DIR=${STATE_DIR:-/var/lib/cluster-installer}

#######################################
# Opens the records of a key. Keys are paths, so that all of a release can be removed at once.
# Globals: STATE_DIR CHECKPOINT_DIRECTORY (set)
# Arguments: key, e.g. digest/role
# Returns: exits 64 if it is no plain relative path
#######################################
checkpoint_open() {
  [[ $1 =~ ^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$ ]] || die 64 "checkpoint_open: '$1' is no key"
  CHECKPOINT_DIRECTORY=${STATE_DIR}/checkpoints/$1
  mkdir -p -- "${CHECKPOINT_DIRECTORY}"
}

#######################################
# Globals: CHECKPOINT_DIRECTORY
# Arguments: name of the function that asks, name of a step
# Returns: exits 64 if no checkpoint is open, or the name is none
#######################################
checkpoint_check() {
  [[ -n ${CHECKPOINT_DIRECTORY-} && -d ${CHECKPOINT_DIRECTORY} ]] || die 64 "$1: checkpoint_open comes first"
  [[ ${2-} =~ ^[a-z0-9]([a-z0-9-]*[a-z0-9])?$ ]] || die 64 "$1: '${2-}' is no name of a step"
}

#######################################
# Tenths of seconds since the machine started: a clock that is set in between does not disturb it.
# Globals: CHECKPOINT_NOW (set)
# Arguments: none
#######################################
checkpoint_clock() {
  local up
  read -r up _ </proc/uptime
  up=${up%?}
  CHECKPOINT_NOW=$((10#${up/./}))
}

#######################################
# The place of a step's record: the one that it had, or a new one behind all others.
# Globals: CHECKPOINT_DIRECTORY CHECKPOINT_RECORD (set)
# Arguments: name
#######################################
checkpoint_place() {
  local file last=0
  for file in "${CHECKPOINT_DIRECTORY}"/[0-9][0-9][0-9]-*.json; do
    [[ -e ${file} ]] || continue
    CHECKPOINT_RECORD=${file}
    file=${file##*/}
    [[ ${file} != [0-9][0-9][0-9]-"$1.json" ]] || return 0
    last=$((10#${file%%-*}))
  done
  printf -v CHECKPOINT_RECORD '%s/%03d-%s.json' "${CHECKPOINT_DIRECTORY}" $((last + 1)) "$1"
}

#######################################
# Puts standard input in a file of the checkpoint.
# Globals: none
# Arguments: file
# Returns: 1 if the disk is full
#######################################
checkpoint_put() {
  local ATOMIC_TEMPORARY
  atomic_temporary "$1"
  atomic_fill "${ATOMIC_TEMPORARY}" 0600 || return 1
  mv -fT -- "${ATOMIC_TEMPORARY}" "$1"
  atomic_sync "${1%/*}/"
}

#######################################
# Writes the record of a step.
# Globals: CHECKPOINT_RECORD
# Arguments: name, start, end, tenths of seconds, result (running, done, failed, interrupted, skipped), exit code
#######################################
checkpoint_record() {
  printf '{"step":"%s","start":"%s","end":"%s","seconds":%d.%d,"result":"%s","code":%d}\n' "$1" "$2" "$3" $(($4 / 10)) $(($4 % 10)) "$5" "$6" |
    checkpoint_put "${CHECKPOINT_RECORD}"
}

#######################################
# What a signal does while a step runs: the step's processes get TERM, and the step's record will say so.
# Globals: CHILD_PID STEP_SIGNAL (set)
# Arguments: signal
#######################################
checkpoint_signal() {
  STEP_SIGNAL=$1
  [[ -z ${CHILD_PID-} ]] || child_end "${CHILD_PID}"
}

#######################################
# Runs a function in a child with errexit on, its standard input empty, unless it was done before.
# On TERM, INT or HUP, the function and all that it started are ended, and then this process as the signal would have done.
# Globals: CHECKPOINT_DIRECTORY
# Arguments: name, function, its arguments
# Outputs: a line at its begin and end, or one that it is skipped
# Returns: the function's exit code
#######################################
step() {
  local name=${1-} status=0 traps result LOG_TIME start CHECKPOINT_RECORD CHECKPOINT_NOW began STEP_SIGNAL=
  checkpoint_check step "${name}"
  (($# > 1)) || die 64 "step ${name}: a function must follow"
  shift
  checkpoint_place "${name}"
  log_time now
  start=${LOG_TIME}
  if [[ -e ${CHECKPOINT_DIRECTORY}/${name}.done ]]; then
    log_info "step ${name}: done before, skipped"
    # The record of the run that did it stays: how long it took is worth more than that it was skipped.
    [[ -e ${CHECKPOINT_RECORD} ]] || checkpoint_record "${name}" "${start}" "${start}" 0 skipped 0
    return 0
  fi
  [[ ! -e ${CHECKPOINT_RECORD} ]] || ! grep -q '"result":"running"' "${CHECKPOINT_RECORD}" || log_warn "step ${name}: was cut off before, runs again"
  checkpoint_record "${name}" "${start}" "${start}" 0 running 0
  log_info "step ${name}: begins"
  checkpoint_clock
  began=${CHECKPOINT_NOW}
  traps=$(trap -p TERM INT HUP)
  trap 'checkpoint_signal TERM' TERM
  trap 'checkpoint_signal INT' INT
  trap 'checkpoint_signal HUP' HUP
  child_run 0 "$@" || status=$?
  trap - TERM INT HUP
  eval "${traps}"
  checkpoint_clock
  checkpoint_close "${name}" "${start}" $((CHECKPOINT_NOW - began)) "${status}"
  [[ -z ${STEP_SIGNAL} ]] || kill -s "${STEP_SIGNAL}" "${BASHPID}"
  return "${status}"
}

#######################################
# Writes how a step ended.
# Globals: CHECKPOINT_DIRECTORY STEP_SIGNAL
# Arguments: name, start, tenths of seconds, exit code
# Outputs: one line
#######################################
checkpoint_close() {
  local name=$1 took="$(($3 / 10)).$(($3 % 10)) s" result=failed LOG_TIME
  log_time now
  if [[ -n ${STEP_SIGNAL} || $4 -eq 143 || $4 -eq 130 ]]; then result=interrupted; elif (($4 == 0)); then result='done'; fi
  checkpoint_record "${name}" "$2" "${LOG_TIME}" "$3" "${result}" "$4"
  case ${result} in
    done)
      checkpoint_put "${CHECKPOINT_DIRECTORY}/${name}.done" </dev/null
      log_info "step ${name}: done in ${took}"
      ;;
    interrupted) log_warn "step ${name}: interrupted after ${took}" ;;
    *) log_error "step ${name}: failed with exit code $4 after ${took}" ;;
  esac
}

#######################################
# Has a step run again. Its record stays until then.
# Globals: CHECKPOINT_DIRECTORY
# Arguments: name
#######################################
checkpoint_forget() {
  checkpoint_check checkpoint_forget "${1-}"
  rm -f -- "${CHECKPOINT_DIRECTORY}/$1.done"
}

#######################################
# Has all steps run again, and removes their records.
# Globals: CHECKPOINT_DIRECTORY
# Arguments: none
#######################################
checkpoint_clear() {
  checkpoint_check checkpoint_clear all
  find "${CHECKPOINT_DIRECTORY}" -mindepth 1 -maxdepth 1 -type f -name '*.done' -delete
  find "${CHECKPOINT_DIRECTORY}" -mindepth 1 -maxdepth 1 -type f -delete
}
