# shellcheck shell=bash
# Messages: a line for people on stderr, and, if wanted, the same line and one JSON object per line in files.

#######################################
# Finds who wants to say something: the first caller outside this file.
# Globals: LOG_FILE LOG_LINE (set; directory/file of the caller, and its line)
# Arguments: none
#######################################
log_caller() {
  local depth=1 path
  while [[ ${BASH_SOURCE[depth]-} == "${BASH_SOURCE[0]}" ]]; do depth=$((depth + 1)); done
  LOG_LINE=${BASH_LINENO[depth - 1]}
  LOG_FILE=${BASH_SOURCE[depth]-}
  LOG_FILE=${LOG_FILE:-bash} # a text given to bash -c has no file
  if [[ ${LOG_FILE} == */*/* ]]; then
    path=${LOG_FILE%/*}
    LOG_FILE=${path##*/}/${LOG_FILE##*/}
  fi
}

#######################################
# Makes a text fit between the quotes of a JSON string.
# Globals: LOG_JSON (set)
# Arguments: text
#######################################
log_quote() {
  local text=$1 character code
  text=${text//\\/\\\\}
  text=${text//\"/\\\"}
  text=${text//$'\n'/\\n}
  text=${text//$'\r'/\\r}
  text=${text//$'\t'/\\t}
  while [[ ${text} =~ [[:cntrl:]] ]]; do
    character=${BASH_REMATCH[0]}
    printf -v code '\\u%04x' "'${character}"
    text=${text//"${character}"/${code}}
  done
  LOG_JSON=${text}
}

#######################################
# The time in UTC. It is reckoned here: what bash's own %(...)T makes of TZ depends on its version and on the C library.
# Globals: LOG_TIME (set)
# Arguments: now, or seconds since 1970
#######################################
log_time() {
  local now=$1 days era day year month
  [[ ${now} != now ]] || printf -v now '%(%s)T' -1
  days=$((now / 86400 + 719468)) now=$((now % 86400)) # since the first of March of the year 0: the leap day is a year's last
  era=$((days / 146097)) day=$((days % 146097))
  year=$(((day - day / 1460 + day / 36524 - day / 146096) / 365))
  day=$((day - (365 * year + year / 4 - year / 100)))
  month=$(((5 * day + 2) / 153))
  day=$((day - (153 * month + 2) / 5 + 1)) month=$((month < 10 ? month + 3 : month - 9))
  year=$((year + era * 400 + (month <= 2)))
  printf -v LOG_TIME '%04d-%02d-%02dT%02d:%02d:%02dZ' "${year}" "${month}" "${day}" $((now / 3600)) $((now / 60 % 60)) $((now % 60))
}

#######################################
# Says one thing. A log that cannot be written, be it that the disk is full, never ends an installation.
# Globals: CLUSTER_LOG_TEXT CLUSTER_LOG_JSON
# Arguments: level, file, line, text...
# Outputs: one line on stderr, one to each of the files
#######################################
log_write() {
  local level=$1 file=$2 number=$3 line LOG_JSON LOG_TIME
  shift 3
  log_time now
  printf -v line '%s %-5s %s:%s: %s' "${LOG_TIME}" "${level}" "${file}" "${number}" "$*"
  line=${line//$'\n'/$'\n'    }                # what goes on in a second line is no message of its own
  printf '%s\n' "${line}" >&2 2>/dev/null || : # in this order: the line to stderr, a complaint nowhere
  [[ -z ${CLUSTER_LOG_TEXT-} ]] || { printf '%s\n' "${line}" >>"${CLUSTER_LOG_TEXT}"; } 2>/dev/null || :
  [[ -n ${CLUSTER_LOG_JSON-} ]] || return 0
  log_quote "${file}"
  file=${LOG_JSON}
  log_quote "$*"
  printf -v line '{"time":"%s","level":"%s","file":"%s","line":%d,"text":"%s"}' "${LOG_TIME}" "${level}" "${file}" "${number}" "${LOG_JSON}"
  { printf '%s\n' "${line}" >>"${CLUSTER_LOG_JSON}"; } 2>/dev/null || :
}

#######################################
# Globals: CLUSTER_DEBUG (1: say it)
# Arguments: text...
# Outputs: the text as DEBUG, if it is to be said
#######################################
log_debug() {
  local LOG_FILE LOG_LINE
  [[ ${CLUSTER_DEBUG-} == 1 ]] || return 0
  log_caller
  log_write DEBUG "${LOG_FILE}" "${LOG_LINE}" "$@"
}

#######################################
# Globals: none
# Arguments: text...
# Outputs: the text as INFO
#######################################
log_info() {
  local LOG_FILE LOG_LINE
  log_caller
  log_write INFO "${LOG_FILE}" "${LOG_LINE}" "$@"
}

#######################################
# Globals: none
# Arguments: text...
# Outputs: the text as WARN
#######################################
log_warn() {
  local LOG_FILE LOG_LINE
  log_caller
  log_write WARN "${LOG_FILE}" "${LOG_LINE}" "$@"
}

#######################################
# Globals: none
# Arguments: text...
# Outputs: the text as ERROR
#######################################
log_error() {
  local LOG_FILE LOG_LINE
  log_caller
  log_write ERROR "${LOG_FILE}" "${LOG_LINE}" "$@"
}

#######################################
# Globals: none
# Arguments: exit code, text...
# Outputs: the text as ERROR
# Returns: never
#######################################
die() {
  local code=$1
  shift
  log_error "$@"
  exit "${code}"
}

#######################################
# Says where a command failed; the ERR trap. Its words are not told: they may hold a secret.
# Globals: none
# Arguments: exit code
# Outputs: one line
#######################################
log_failure() {
  local LOG_FILE LOG_LINE
  log_caller
  log_write ERROR "${LOG_FILE}" "${LOG_LINE}" "a command failed with exit code $1"
}

#######################################
# Has every command that ends the script say so.
# Globals: none
# Arguments: none
#######################################
trap_errors() {
  set -E
  trap 'log_failure "$?"' ERR
}
