#!/usr/bin/env bash
# Fails the build if anything read after zz-node.conf would change one of its keys.
#
# Two programs apply these files, in different orders:
#   systemd-sysctl   every *.conf of the sysctl.d directories, by file name; of two with one name the first directory wins
#   sysctl --system  the same, then /etc/sysctl.conf last of all; `sysctl -p` reads that one only
# So a file that sorts later counts, and /etc/sysctl.conf (and any link to it) counts always.
# The same value again is no conflict. Arguments: [root of the tree, for tests; default: the running one]. Safe to run twice.
set -Eeuo pipefail

readonly ROOT=${1:-}
readonly OURS=zz-node.conf
readonly DIRECTORIES=(/etc/sysctl.d /run/sysctl.d /usr/local/lib/sysctl.d /usr/lib/sysctl.d /lib/sysctl.d)

#######################################
# Prints the assignments of a file as "key<TAB>value", keys with dots.
# Globals: none
# Arguments: path of the file
# Outputs: one line per assignment
# Returns: 0
#######################################
assignments() {
  awk '
    { sub(/^[ \t]+/, ""); sub(/[ \t\r]+$/, "") }
    /^[#;]/ || !/=/ { next }
    {
      at = index($0, "="); key = substr($0, 1, at - 1); value = substr($0, at + 1)
      sub(/^-/, "", key); gsub(/[ \t]/, "", key); gsub(/^[ \t]+/, "", value)
      # "net/ipv4/ip_forward" is another way to write it: a slash first means slashes separate.
      slash = index(key, "/"); dot = index(key, ".")
      if (slash && (!dot || slash < dot)) gsub("/", ".", key)
      print key "\t" value
    }' "$1"
}

#######################################
# Prints every file that can override ours.
# Globals: ROOT OURS DIRECTORIES
# Arguments: none
# Outputs: one path per line
# Returns: 0
#######################################
later_files() {
  local directory file name seen=' '
  for directory in "${DIRECTORIES[@]}"; do
    for file in "${ROOT}${directory}"/*.conf; do
      [[ -e ${file} ]] || continue
      name=${file##*/}
      # Byte order, as systemd compares; [[ > ]] follows the locale.
      if [[ ${seen} != *" ${name} "* && ${name} != "${OURS}" ]] && (LC_ALL=C && [[ ${name} > ${OURS} ]]); then
        echo "${file}"
      fi
      seen+="${name} "
    done
  done
  [[ ! -e ${ROOT}/etc/sysctl.conf ]] || echo "${ROOT}/etc/sysctl.conf"
}

#######################################
# Reports each assignment of one file that changes one of ours. Patterns (net.ipv4.conf.*.rp_filter) count too.
# Globals: ROOT OURS
# Arguments: path of the file
# Outputs: on stderr, one line per conflict
# Returns: 1 if there is one
#######################################
check_file() {
  local key value our_key our_value status=0
  while IFS=$'\t' read -r key value; do
    while IFS=$'\t' read -r our_key our_value; do
      # shellcheck disable=SC2053 # the key of the file may be a pattern, and is to be matched as one
      if [[ ${our_key} == ${key} && ${our_value} != "${value}" ]]; then
        echo "${1#"${ROOT}"} sets ${key} to ${value}, and is read after ${OURS}, which sets ${our_key} to ${our_value}" >&2
        status=1
      fi
    done < <(assignments "${ROOT}/etc/sysctl.d/${OURS}")
  done < <(assignments "$1")
  return "${status}"
}

main() {
  local file files status=0
  [[ -s ${ROOT}/etc/sysctl.d/${OURS} ]] || {
    echo "/etc/sysctl.d/${OURS} is missing or empty: nothing would set this node's kernel settings" >&2
    return 1
  }
  files=$(later_files)
  while read -r file; do
    # shellcheck disable=SC2310 # check_file collects its result itself
    [[ -z ${file} ]] || check_file "${file}" || status=1
  done <<<"${files}"
  if ((status)); then
    echo "remove these lines in an overlay of this OS, then build again" >&2
  fi
  return "${status}"
}

main
