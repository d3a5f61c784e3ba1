# shellcheck shell=bash
# shellcheck disable=SC2310 # child_lives is a question: that errexit is off in it is no harm
# Functions in a child process, with errexit on whatever the caller's context: `if f`, `f ||` and also `if g` around a
# `( f ) & wait` inside g switch errexit off in f. Only a process substitution starts with a clean state in every bash.

CHILD_GRACE=${CHILD_GRACE:-10} # seconds between TERM and KILL

#######################################
# What the child does: the command runs one process further down, so that its exit code is known even if it is killed, and
# nothing that it starts holds the pipe.
# Globals: none
# Arguments: descriptor of the caller's standard output, command, its arguments
# Outputs: on the pipe, its process id and in the end the exit code
#######################################
child_main() {
  local trap_err stdout=$1
  shift
  printf '%s\n' "${BASHPID}"
  trap_err=$(trap -p ERR)
  trap - ERR
  set +e
  (
    exec >&"${stdout}" {stdout}>&- </dev/null
    eval "${trap_err}"
    set -Eeuo pipefail
    "$@"
  )
  printf '%s\n' "$?"
}

#######################################
# Runs a command or function in a child, its standard input empty, and waits for it. A signal that the caller's trap takes is
# noticed within a second: what the trap then does is the caller's business.
# Globals: CHILD_PID (set while it runs, else empty) STEP_SIGNAL (not empty: a signal came before there was a child to end)
# Arguments: seconds that it may take (0: any), command, its arguments
# Returns: its exit code; 124 if it took too long and was ended; 137 if the child was killed
#######################################
child_run() {
  local deadline=$1 stdout pipe status='' code=0 began=${SECONDS}
  shift
  exec {stdout}>&1
  exec {pipe}< <(child_main "${stdout}" "$@")
  exec {stdout}>&-
  CHILD_PID=
  until IFS= read -r -t 1 -u "${pipe}" CHILD_PID; do
    code=$?
    ((code > 128)) || break # it is not that a signal came or a second went by: there is no child
  done
  [[ -z ${CHILD_PID} || -z ${STEP_SIGNAL-} ]] || child_end "${CHILD_PID}"
  until [[ -z ${CHILD_PID} ]] || IFS= read -r -t 1 -u "${pipe}" status; do
    child_lives "${CHILD_PID}" || break
    if ((deadline > 0 && SECONDS - began >= deadline)); then
      child_end "${CHILD_PID}"
      status=124
      break
    fi
  done
  [[ -n ${status} ]] || IFS= read -r -t 1 -u "${pipe}" status || :
  exec {pipe}<&-
  CHILD_PID=
  return "${status:-137}"
}

#######################################
# A process and all that descend from it.
# Globals: none
# Arguments: process id
# Outputs: process ids, the eldest first
#######################################
child_tree() {
  { cat /proc/[0-9]*/stat 2>/dev/null || :; } | awk -v root="$1" '
    { id = $1; sub(/^.*\) /, ""); children[$2] = children[$2] " " id }
    END {
      count = 1; list[1] = root
      for (i = 1; i <= count; i++) {
        print list[i]
        n = split(children[list[i]], next_ones, " ")
        for (j = 1; j <= n; j++) list[++count] = next_ones[j]
      }
    }'
}

#######################################
# Ends a process and all that descend from it: TERM, and KILL for those that are still there some seconds later.
# Globals: CHILD_GRACE
# Arguments: process id
#######################################
child_end() {
  local id left=() alive began=${SECONDS}
  while read -r id; do left+=("${id}"); done < <(child_tree "$1")
  kill -TERM "${left[@]}" 2>/dev/null || :
  while ((${#left[@]} > 0)); do
    alive=()
    for id in "${left[@]}"; do
      if child_lives "${id}"; then alive+=("${id}"); fi
    done
    left=(${alive[@]+"${alive[@]}"})
    ((${#left[@]} > 0)) || break
    if ((SECONDS - began >= CHILD_GRACE)); then
      kill -KILL "${left[@]}" 2>/dev/null || :
      break
    fi
    sleep 0.1
  done
}

#######################################
# Globals: none
# Arguments: process id
# Returns: 1 if there is no such process, or only its exit code is left of it
#######################################
child_lives() {
  local line
  { IFS= read -r line <"/proc/$1/stat"; } 2>/dev/null || return 1
  [[ ${line##*) } != Z* ]]
}
