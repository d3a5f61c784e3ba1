# shellcheck shell=bash
# shellcheck disable=SC2310 # child_lives is a question: that errexit is off in it is no harm
# Functions in a child process, with errexit on whatever the caller's context: `if f`, `f ||` and also `if g` around a
# `( f ) & wait` inside g switch errexit off in f, and so does a command substitution in such a place. A process substitution
# starts with a clean state.

CHILD_GRACE=${CHILD_GRACE:-10} # seconds between TERM and KILL

#######################################
# What the child does: the command runs one process further down, so that its exit code is known even if it is killed.
# Globals: none
# Arguments: descriptor of the caller's standard output (-: the pipe), command, its arguments
# Outputs: on the pipe, its process id, and in the end the word child-end, its process id and the exit code
#######################################
child_main() {
  local trap_err stdout=$1
  shift
  printf '%s\n' "${BASHPID}"
  trap_err=$(trap -p ERR)
  trap - ERR
  set +e
  (
    if [[ ${stdout} == - ]]; then exec 2>&1; else exec >&"${stdout}" {stdout}>&-; fi
    exec </dev/null
    eval "${trap_err}"
    set -Eeuo pipefail
    "$@"
  )
  printf '\nchild-end %s %s\n' "${BASHPID}" "$?"
}

#######################################
# Reads what comes through the pipe until the child has ended.
# Globals: CHILD_PID (set while it runs, else empty) CHILD_OUTPUT (set; the last of what was captured)
#   STEP_SIGNAL (not empty: a signal came before there was a child to end)
# Arguments: descriptor of the pipe, seconds that it may take (0: any)
# Returns: the child's exit code; 124 if it took too long and was ended; 137 if the child was killed
#######################################
child_wait() {
  local pipe=$1 deadline=$2 part line='' status='' code began=${SECONDS} gone=false
  CHILD_PID='' CHILD_OUTPUT=''
  until IFS= read -r -t 1 -u "${pipe}" CHILD_PID; do
    code=$?
    ((code > 128)) || return 137 # not a signal or a second gone by, but no child
  done
  [[ -z ${STEP_SIGNAL-} ]] || child_end "${CHILD_PID}"
  while [[ -z ${status} ]]; do
    code=0
    IFS= read -r -t 1 -u "${pipe}" part || code=$?
    line+=${part} # a second may go by in the middle of a line
    if ((code == 0)) && [[ ${line} == "child-end ${CHILD_PID} "* ]]; then
      status=${line##* }
    elif ((code == 0)); then
      CHILD_OUTPUT+=${line}$'\n'
      line=
    elif ((code <= 128)) || ${gone}; then
      CHILD_OUTPUT+=${line}
      status=137
    elif ! child_lives "${CHILD_PID}"; then
      gone=true # what it wrote last, after this second and before it ended, is in the pipe
    fi
    ((${#CHILD_OUTPUT} < 8192)) || CHILD_OUTPUT=${CHILD_OUTPUT: -4096}
    if [[ -z ${status} ]] && ((deadline > 0 && SECONDS - began >= deadline)); then
      CHILD_OUTPUT+=${line}
      child_end "${CHILD_PID}"
      status=124
    fi
  done
  CHILD_PID=
  return "${status}"
}

#######################################
# Runs a command or function in a child, its standard input empty, and waits for it. A signal that the caller's trap takes is
# noticed within a second: what the trap then does is the caller's business.
# Globals: CHILD_PID (set while it runs, else empty)
# Arguments: seconds that it may take (0: any), command, its arguments
# Returns: as child_wait
#######################################
child_run() {
  local deadline=$1 stdout pipe status=0
  shift
  exec {stdout}>&1
  exec {pipe}< <(child_main "${stdout}" "$@")
  exec {stdout}>&-
  child_wait "${pipe}" "${deadline}" || status=$?
  exec {pipe}<&-
  return "${status}"
}

#######################################
# Does the same, and keeps what comes out. A command substitution around child_run would switch errexit off in the child.
# Globals: CHILD_PID (set while it runs, else empty) CHILD_OUTPUT (set; the last of both outputs)
# Arguments: as child_run
# Returns: as child_wait
#######################################
child_capture() {
  local deadline=$1 pipe status=0
  shift
  exec {pipe}< <(child_main - "$@")
  child_wait "${pipe}" "${deadline}" || status=$?
  exec {pipe}<&-
  while [[ ${CHILD_OUTPUT} == *$'\n' ]]; do CHILD_OUTPUT=${CHILD_OUTPUT%$'\n'}; done
  return "${status}"
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
