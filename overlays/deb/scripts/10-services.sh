#!/usr/bin/env bash
# What Debian's services need beyond the presets.
# Environment: none. Safe to run twice.
set -Eeuo pipefail

# Nodes do not update by themselves, also when a package is reinstalled.
# ipvsadm.service (a SysV script) would load and clear the IPVS table, which is kube-proxy's.
readonly MASKED=(apt-daily.timer apt-daily-upgrade.timer apt-daily.service apt-daily-upgrade.service ipvsadm.service)

#######################################
# Applies this overlay's preset file: `enable` fails for a missing unit, `disable` ignores it.
# Globals: none
# Arguments: path of the preset file
# Returns: systemctl's
#######################################
apply_preset() {
  local verb unit
  while read -r verb unit _; do
    case ${verb} in
      enable) SYSTEMD_OFFLINE=1 systemctl --quiet --root=/ enable "${unit}" ;;
      disable)
        if [[ -e /lib/systemd/system/${unit} ]]; then
          SYSTEMD_OFFLINE=1 systemctl --quiet --root=/ disable "${unit}"
        fi
        ;;
      *) ;; # comment or empty line
    esac
  done <"$1"
}

main() {
  apply_preset /etc/systemd/system-preset/20-node-deb.preset
  SYSTEMD_OFFLINE=1 systemctl --quiet --root=/ mask "${MASKED[@]}"
  # The resolver of systemd-resolved; seal leaves a link alone.
  ln -sfn ../run/systemd/resolve/stub-resolv.conf /etc/resolv.conf
  rm -f /etc/.resolv.conf.systemd-resolved.bak
}

main
