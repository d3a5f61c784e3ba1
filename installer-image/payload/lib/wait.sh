# shellcheck shell=bash
# Waiting for something to become true.

WAIT_PROGRESS=${WAIT_PROGRESS:-15} # seconds between two lines that say that it is still waiting

#######################################
# Runs a command or function, in a child with errexit on, until it succeeds. The last of what it prints is shown if it never does.
# Globals: WAIT_PROGRESS
# Arguments: [--deadline S] [--interval S] what is waited for, command, its arguments; whole seconds, by default 300 and 2
# Outputs: a line at once if it is not there yet, one each WAIT_PROGRESS seconds, one in the end
# Returns: 1 if the deadline is over, however long the command hangs; exits 64 on wrong use
#######################################
wait_until() {
  local deadline=300 interval=2 what output='' status left CHILD_OUTPUT='' began=${SECONDS} said=-1
  while [[ ${1-} == --* ]]; do
    [[ $1 =~ ^--(deadline|interval)$ && ${2-} =~ ^[0-9]{1,9}$ ]] || die 64 "wait_until: '$1' must be --deadline or --interval, and a whole number behind it"
    if [[ $1 == --deadline ]]; then deadline=$((10#$2)); else interval=$((10#$2)); fi
    shift 2
  done
  (($# > 1)) || die 64 "wait_until: what is waited for, and a command, must be told"
  what=$1
  shift
  while :; do
    status=0
    left=$((deadline - (SECONDS - began)))
    child_capture "$((left > 0 ? left : 1))" wait_probe "$@" || status=$?
    output=${CHILD_OUTPUT}
    if ((status == 0)); then
      ((said < 0)) || log_info "${what}: there after $((SECONDS - began)) s"
      return 0
    fi
    if ((SECONDS - began + interval > deadline)); then break; fi
    if ((said < 0 || SECONDS - said >= WAIT_PROGRESS)); then
      said=${SECONDS}
      log_info "waiting for ${what} ($((SECONDS - began)) of at most ${deadline} s)"
    fi
    sleep "${interval}"
  done
  ((status != 124)) || output="${output:+${output}; }it did not answer in time"
  log_error "gave up waiting for ${what} after $((SECONDS - began)) s; the last try: ${output:-exit code ${status}, no output}"
  return 1
}

#######################################
# One try. That it fails is no error, so the ERR trap says nothing about it.
# Globals: none
# Arguments: command, its arguments
# Returns: as the command
#######################################
wait_probe() {
  trap - ERR
  "$@"
}
