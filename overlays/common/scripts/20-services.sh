#!/usr/bin/env bash
# Applies every preset file of the overlays: which units are enabled is written there, not here.
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
# Applies one preset file of this project.
# Globals: none
# Arguments: path of the preset file
# Outputs: on stderr, a unit that should be enabled and is missing
# Returns: 1 in that case
#######################################
apply_preset() {
  local verb unit
  while read -r verb unit _; do
    case ${verb} in
      enable)
        [[ -e /usr/lib/systemd/system/${unit} || -e /lib/systemd/system/${unit} || -e /etc/systemd/system/${unit} ]] || {
          echo "$1 enables ${unit}, but no package installed it" >&2
          return 1
        }
        offline_systemctl enable "${unit}"
        ;;
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

main() {
  local preset
  for preset in /etc/systemd/system-preset/*-node*.preset; do
    apply_preset "${preset}"
  done
  offline_systemctl mask "${MASKED[@]}"
}

main
