# shellcheck shell=bash
# The same command again, with growing pauses.

#######################################
# Runs a command or function, in a child with errexit on, until it succeeds. The pause doubles each time.
# Globals: none
# Arguments: [--attempts N] [--delay S] [--max-delay S] [--deadline S] -- command, its arguments; whole seconds, by default 5, 1, 30
#   and 0 (no deadline). At the deadline, a command that still runs is ended.
# Outputs: one line per failure, with the command's first word only
# Returns: the last exit code; 124 if the deadline ended the command; exits 64 on wrong use
#######################################
retry() {
  local attempts=5 delay=1 max_delay=30 deadline=0 attempt=1 left=0 status began=${SECONDS}
  while (($# > 0)) && [[ $1 != -- ]]; do
    [[ $1 =~ ^--(attempts|delay|max-delay|deadline)$ && ${2-} =~ ^[0-9]{1,9}$ ]] || die 64 "retry: '$1' must be --attempts, --delay, --max-delay or --deadline, and a whole number behind it"
    case $1 in
      --attempts) attempts=$((10#$2)) ;;
      --delay) delay=$((10#$2)) ;;
      --max-delay) max_delay=$((10#$2)) ;;
      *) deadline=$((10#$2)) ;;
    esac
    shift 2
  done
  (($# > 1 && attempts > 0)) || die 64 "retry: a command must follow --, and --attempts be at least 1"
  shift
  while :; do
    status=0
    ((deadline == 0)) || left=$((deadline - (SECONDS - began) > 0 ? deadline - (SECONDS - began) : 1))
    child_run "${left}" "$@" || status=$?
    ((status != 0)) || return 0
    ((delay <= max_delay)) || delay=${max_delay}
    if ((attempt >= attempts)); then
      log_error "$1 failed with exit code ${status} in attempt ${attempt} of ${attempts}: giving up"
      return "${status}"
    elif ((deadline > 0 && SECONDS - began + delay >= deadline)); then
      log_error "$1 failed with exit code ${status} in attempt ${attempt}, and the deadline of ${deadline} s is over: giving up"
      return "${status}"
    fi
    log_warn "$1 failed with exit code ${status} in attempt ${attempt} of ${attempts}: again in ${delay} s"
    ((delay == 0)) || sleep "${delay}"
    delay=$((delay * 2)) attempt=$((attempt + 1))
  done
}
