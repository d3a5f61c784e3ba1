#!/bin/bash
# Preflight: says everything that would stop this node's role, before anything is changed. Sourced by utils.sh.
#
# A check is a function `check_NAME ROLE` in preflight-host.sh, preflight-kernel.sh, preflight-network.sh or preflight-registry.sh.
# It prints what it found, one line each, through `found`; files that it reads are arguments with a default. All checks run
# at the same time, and those that wait for the network give up after 4 seconds.

PREFLIGHT_CHECKS=(
  os payload kernel cgroup modules cores memory swap machine_id disk commands security
  host_name node_address addresses ports balancer endpoint registry time
)

#######################################
# Prints a finding of a check.
# Arguments: CONFIG (cluster.env must change), ERROR (the node or the site must) or WARN, text: what is wrong; what to do
# Outputs: one line
#######################################
found() {
  local kind=$1
  shift
  printf '%s %s\n' "${kind}" "$*"
}

#######################################
# Runs one check with errexit on; its last line tells that it got to its end.
# Arguments: name, role
# Outputs: its findings, then DONE
#######################################
preflight_run() {
  set -Eeuo pipefail
  "check_$1" "$2"
  printf 'DONE\n'
}

#######################################
# Logs the findings of one check and counts them.
# Globals: PREFLIGHT_ERRORS PREFLIGHT_CONFIG PREFLIGHT_WARNINGS (added to)
# Arguments: name
# Inputs: what preflight_run printed, on stdin
#######################################
preflight_collect() {
  local name=${1//_/ } line ended=no
  while IFS= read -r line; do
    case ${line} in
      DONE) ended=yes ;;
      'CONFIG '*)
        PREFLIGHT_CONFIG=$((PREFLIGHT_CONFIG + 1))
        log_error "${name}: ${line#* }"
        ;;
      'ERROR '*)
        PREFLIGHT_ERRORS=$((PREFLIGHT_ERRORS + 1))
        log_error "${name}: ${line#* }"
        ;;
      'WARN '*)
        PREFLIGHT_WARNINGS=$((PREFLIGHT_WARNINGS + 1))
        log_warn "${name}: ${line#* }"
        ;;
      *) log_info "${name}: ${line}" ;;
    esac
  done
  [[ ${ended} == yes ]] && return 0
  PREFLIGHT_ERRORS=$((PREFLIGHT_ERRORS + 1))
  log_error "${name}: the check itself failed, its reason stands above; mend that and run again"
}

#######################################
# Checks whether a role can be installed on this node. All problems are told, not only the first; nothing is changed.
# Globals: PREFLIGHT_CHECKS, CLUSTER_* and REGISTRY_* of cluster.env
# Arguments: role (first-master, master, worker)
# Outputs: ERROR and WARN lines in the log
# Returns: 0 if nothing stands in the way (there may be warnings); 78 if cluster.env must be corrected, whatever else is wrong;
#   1 if only the node or the site must
#######################################
preflight() {
  local role=$1 name descriptor index=0 began=${SECONDS}
  local descriptors=()
  PREFLIGHT_ERRORS=0 PREFLIGHT_CONFIG=0 PREFLIGHT_WARNINGS=0
  for name in "${PREFLIGHT_CHECKS[@]}"; do
    exec {descriptor}< <(preflight_run "${name}" "${role}")
    descriptors+=("${descriptor}")
  done
  for name in "${PREFLIGHT_CHECKS[@]}"; do
    descriptor=${descriptors[index]}
    index=$((index + 1))
    preflight_collect "${name}" <&"${descriptor}"
    exec {descriptor}<&-
  done
  name="preflight of ${role}: $((PREFLIGHT_ERRORS + PREFLIGHT_CONFIG)) errors, ${PREFLIGHT_WARNINGS} warnings in $((SECONDS - began)) s"
  if ((PREFLIGHT_CONFIG)); then
    log_error "${name}; nothing was changed. Correct cluster.env as told above"
    return 78
  elif ((PREFLIGHT_ERRORS)); then
    log_error "${name}; nothing was changed. Mend what is told above and run again"
    return 1
  fi
  log_info "${name}"
}

#######################################
# Tells masters from workers.
# Arguments: role
# Outputs: master or worker
#######################################
role_kind() {
  if [[ $1 == worker ]]; then echo worker; else echo master; fi
}
