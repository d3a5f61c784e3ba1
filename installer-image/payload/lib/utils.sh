# shellcheck shell=bash
# Brings every file of this directory together: `. lib/utils.sh`. bash 4.2 or later, `set -Eeuo pipefail` is the caller's.
# Sourcing has no effect but functions and defaults of variables, so doing it twice is harmless.

#######################################
# Globals: none
# Arguments: none
# Returns: as the last file does
#######################################
utils_source() {
  local directory=. file
  [[ ${BASH_SOURCE[0]} != */* ]] || directory=${BASH_SOURCE[0]%/*}
  for file in "${directory}"/*.sh; do
    # shellcheck disable=SC1090 # the files beside this one
    [[ ${file} == */utils.sh ]] || . "${file}"
  done
}

utils_source
unset -f utils_source
