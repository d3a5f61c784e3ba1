#!/usr/bin/env bash
# What vendors harden, and what breaks a node or the automation that installs it.
# Arguments: [root of the tree, for tests; default: the running one]. Safe to run twice.
set -Eeuo pipefail

readonly ROOT=${1:-}
readonly NOTE='removed by the node image'

#######################################
# SELinux is off, as every Kubernetes installer of these systems has it; the profile also gives the kernel selinux=0.
# Globals: ROOT
# Arguments: none
# Returns: 0
#######################################
disable_selinux() {
  local config=${ROOT}/etc/selinux/config
  [[ -d ${ROOT}/etc/selinux ]] || return 0
  cat >"${config}" <<'EOF'
# Off on nodes: files of the cluster-installer carry no labels. A site that wants SELinux writes "permissive" here, takes
# selinux=0 from /etc/default/grub, runs grub2-mkconfig -o /boot/grub2/grub.cfg, `touch /.autorelabel`, and reboots;
# after that boot, which labels every file, "enforcing".
SELINUX=disabled
SELINUXTYPE=targeted
EOF
}

#######################################
# Takes out TMOUT, which ends an idle shell: a script's ssh session is idle while it waits for a command. The line stays as
# a comment behind ":", as it may be the only one between "then" and "fi".
# Globals: ROOT NOTE
# Arguments: none
# Returns: 0
#######################################
remove_timeouts() {
  local file
  for file in "${ROOT}"/etc/profile "${ROOT}"/etc/bashrc "${ROOT}"/etc/bash.bashrc "${ROOT}"/etc/profile.d/*.sh; do
    [[ -f ${file} ]] || continue
    if grep -qE '(^|[[:space:];&])TMOUT([=[:space:]]|$)' "${file}"; then
      sed -i -E "s/^([[:space:]]*)((export|readonly|typeset|declare)([[:space:]]+-[A-Za-z]+)*[[:space:]]+)?TMOUT([=;[:space:]].*)?$/\1: # ${NOTE}: \2TMOUT\5/" "${file}"
    fi
  done
}

#######################################
# Stops services that harden at the first boot (security-tool of openEuler and its descendants): they would write
# net.ipv4.ip_forward=0 into /etc/sysctl.conf, and their own settings into sshd_config, after this image was proven.
# A site that wants it can run the tool, and answer for the result.
# Globals: ROOT
# Arguments: none
# Returns: systemctl's
#######################################
stop_first_boot_hardening() {
  local unit
  for unit in "${ROOT}"/usr/lib/systemd/system/*.service; do
    [[ -f ${unit} ]] || continue
    if grep -qE '^ExecStart=.*security-tool' "${unit}"; then
      mkdir -p "${ROOT}/etc/systemd/system"
      ln -sfn /dev/null "${ROOT}/etc/systemd/system/${unit##*/}"
    fi
  done
}

#######################################
# Fails if a login shell would still end by itself.
# Globals: ROOT
# Arguments: none
# Outputs: on stderr, the value
# Returns: 1 if so
#######################################
check() {
  local value
  [[ -z ${ROOT} ]] || return 0
  # shellcheck disable=SC2016 # for the login shell
  value=$(env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin bash -lc 'echo "TMOUT=${TMOUT:-}"' </dev/null 2>/dev/null | grep '^TMOUT=' || true)
  case ${value} in
    '' | TMOUT= | TMOUT=0) ;;
    *)
      echo "a login shell has ${value}: find where in /etc it is set, and remove it in an overlay of this OS" >&2
      return 1
      ;;
  esac
}

disable_selinux
remove_timeouts
stop_first_boot_hardening
check
