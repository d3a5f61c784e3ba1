#!/usr/bin/env bash
# Keys only, on every sshd: where it knows Include, the drop-in does it; where it does not (before OpenSSH 8.2, as on
# CentOS 7 and 8), the same lines go to the top of sshd_config. Then sshd itself is asked what it makes of it.
# Environment: none. Safe to run twice.
set -Eeuo pipefail

readonly CONFIG=/etc/ssh/sshd_config
readonly DROP_IN=/etc/ssh/sshd_config.d/10-node.conf
readonly BEGIN='# node settings: begin'
readonly END='# node settings: end'

#######################################
# Puts the drop-in's lines to the top of sshd_config, between markers, replacing an earlier block.
# Globals: CONFIG DROP_IN BEGIN END
# Arguments: none
# Returns: 0
#######################################
inline_drop_in() {
  local rest
  rest=$(sed -e "/^${BEGIN}$/,/^${END}$/d" "${CONFIG}")
  {
    echo "${BEGIN}"
    cat "${DROP_IN}"
    echo "${END}"
    echo "${rest}"
  } >"${CONFIG}.new"
  chmod --reference="${CONFIG}" "${CONFIG}.new"
  mv -f "${CONFIG}.new" "${CONFIG}"
}

#######################################
# Fails unless sshd's effective settings are those of a node.
# Globals: none
# Arguments: none
# Outputs: on stderr, the setting that is wrong
# Returns: 1 if one is
#######################################
check() {
  local scratch effective setting
  scratch=$(mktemp -d)
  # sshd -T wants a host key; the tree has none of its own. It also wants its privilege separation directory.
  ssh-keygen -q -t ed25519 -N '' -f "${scratch}/key"
  mkdir -p /run/sshd
  effective=$(/usr/sbin/sshd -T -h "${scratch}/key")
  rm -rf "${scratch}"
  for setting in 'passwordauthentication no' 'kbdinteractiveauthentication no' 'usedns no'; do
    if ! grep -qix "${setting}" <<<"${effective}"; then
      echo "sshd's effective settings lack '${setting}': something in ${CONFIG} comes before the node's settings" >&2
      return 1
    fi
  done
  # Shown as "without-password" by older versions.
  if ! grep -qixE 'permitrootlogin (without|prohibit)-password' <<<"${effective}"; then
    echo "sshd lets root log in with a password" >&2
    return 1
  fi
}

main() {
  if ! grep -qE '^[[:space:]]*Include[[:space:]]+/etc/ssh/sshd_config\.d/' "${CONFIG}"; then
    inline_drop_in
  fi
  check
}

main
