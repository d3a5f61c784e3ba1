# shellcheck shell=bash
# How long everything took.

#######################################
# Prints the steps of the opened checkpoint in their order. Those that an earlier run did have its times.
# Globals: CHECKPOINT_DIRECTORY
# Arguments: none
# Outputs: a table of step, result and seconds, and the total
# Returns: exits 64 if no checkpoint is open
#######################################
timing_table() {
  local file record step result seconds whole total=0
  local fields='"step":"([^"]*)".*"seconds":([0-9]+)\.([0-9]).*"result":"([^"]*)"'
  checkpoint_check timing_table all
  printf '%-32s %-12s %9s\n' step result seconds
  for file in "${CHECKPOINT_DIRECTORY}"/[0-9][0-9][0-9]-*.json; do
    [[ -e ${file} ]] || continue
    record=$(<"${file}")
    [[ ${record} =~ ${fields} ]] || continue
    step=${BASH_REMATCH[1]} seconds=${BASH_REMATCH[2]}.${BASH_REMATCH[3]} whole=${BASH_REMATCH[2]}${BASH_REMATCH[3]} result=${BASH_REMATCH[4]}
    if [[ ${result} == running ]]; then result=unfinished; fi # nobody was there any more to write how it ended
    printf '%-32s %-12s %9s\n' "${step}" "${result}" "${seconds}"
    total=$((total + 10#${whole}))
  done
  printf '%-32s %-12s %9s\n' total '' "$((total / 10)).$((total % 10))"
}
