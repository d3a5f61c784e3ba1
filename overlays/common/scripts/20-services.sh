#!/usr/bin/env bash
# Applies this overlay's preset file: which units are enabled is written there, not here.
# Environment: none. Safe to run twice.
set -Eeuo pipefail

# Units that must not start whatever asks for them.
#   swap.target: kubelet refuses a node with swap. Every swap unit (fstab, GPT, zram) hangs on this target.
readonly MASKED=(swap.target)

#######################################
# Globals: none
# Arguments: systemctl's arguments
# Outputs: systemctl's, less the notes about links it made
# Returns: systemctl's
#######################################
offline_systemctl() {
  # --root=/ as well, for systemd 219, which does not know SYSTEMD_OFFLINE.
  SYSTEMD_OFFLINE=1 systemctl --quiet --root=/ "$@"
}

#######################################
# Tells whether a unit file is installed.
# Globals: none
# Arguments: unit name
# Returns: 0 if it is, 1 if not
#######################################
unit_exists() {
  local directory
  for directory in /etc/systemd/system /usr/lib/systemd/system /lib/systemd/system; do
    [[ ! -e ${directory}/$1 ]] || return 0
  done
  return 1
}

#######################################
# Applies a preset file: `enable` fails for a unit that is missing, `disable` passes over it.
# Globals: none
# Arguments: path of the preset file
# Outputs: systemctl's
# Returns: systemctl's
#######################################
apply_preset() {
  local verb unit
  while read -r verb unit _; do
    case ${verb} in
      enable) offline_systemctl enable "${unit}" ;;
      disable)
        # shellcheck disable=SC2310 # a plain test, nothing in it relies on errexit
        if unit_exists "${unit}"; then
          offline_systemctl disable "${unit}"
        fi
        ;;
      *) ;; # comment or empty line
    esac
  done <"$1"
}

apply_preset /etc/systemd/system-preset/10-node.preset
offline_systemctl mask "${MASKED[@]}"
