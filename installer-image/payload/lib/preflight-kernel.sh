#!/bin/bash
# Preflight checks of the kernel. Each prints its findings; see preflight.sh.

#######################################
# Compares the first numbers of two versions.
# Arguments: version, least version (like 4.19)
# Returns: 0 if the first is at least the second
#######################################
version_at_least() {
  local have wanted
  [[ $1 =~ ^v?([0-9]+)\.([0-9]+) ]] || return 1
  have=$((10#${BASH_REMATCH[1]} * 1000 + 10#${BASH_REMATCH[2]}))
  [[ $2 =~ ^v?([0-9]+)\.([0-9]+) ]] || return 1
  wanted=$((10#${BASH_REMATCH[1]} * 1000 + 10#${BASH_REMATCH[2]}))
  ((have >= wanted))
}

#######################################
# The kernel is new enough for this Kubernetes.
# Globals: CLUSTER_KUBERNETES_VERSION
# Arguments: role, version of the kernel
# Outputs: findings
#######################################
check_kernel() {
  local kernel=${2:-$(uname -r)} version=${CLUSTER_KUBERNETES_VERSION:-v1.20.0} least=3.10
  ! version_at_least "${version}" 1.32 || least=4.19
  version_at_least "${kernel}" "${least}" ||
    found ERROR "the kernel is ${kernel}, Kubernetes ${version} wants ${least} or later; update the kernel or install an older Kubernetes"
}

#######################################
# The controllers that kubelet needs can be used.
# Arguments: role, list of mounts, version of the kernel, cgroup.controllers of v2's root
# Outputs: findings
#######################################
check_cgroup() {
  local mounts=${2:-/proc/mounts} kernel=${3:-$(uname -r)} controllers name missing=() version=1
  local wanted=(cpu cpuacct cpuset devices freezer memory pids)
  if awk '$2 == "/sys/fs/cgroup" && $3 == "cgroup2" { hit = 1 } END { exit !hit }' "${mounts}"; then
    version=2
    wanted=(cpu cpuset memory pids)
    controllers=" $(cat -- "${4:-/sys/fs/cgroup/cgroup.controllers}") "
    version_at_least "${kernel}" 5.8 ||
      found WARN "cgroup v2 with kernel ${kernel}: before 5.8 kubelet cannot limit everything; boot with systemd.unified_cgroup_hierarchy=0"
  else
    controllers=" $(awk '$3 == "cgroup" { gsub(",", " ", $4); printf " %s", $4 }' "${mounts}") "
  fi
  for name in "${wanted[@]}"; do
    [[ ${controllers} == *" ${name} "* ]] || missing+=("${name}")
  done
  ((${#missing[@]} == 0)) ||
    found ERROR "cgroup v${version} lacks the controllers ${missing[*]}; remove cgroup_disable= from the kernel's command line, or mount them"
}

#######################################
# Arguments: module, directory of /proc, of /sys, of modules, version of the kernel
# Returns: 0 if it is loaded, built in or can be loaded
#######################################
module_available() {
  local name=$1 proc=${2:-/proc} sys=${3:-/sys} modules=${4:-/lib/modules} kernel=${5:-$(uname -r)}
  [[ ! -d ${sys}/module/${name} ]] || return 0
  case ${name} in # built in without parameters, these show in other places only
    overlay) ! grep -qsw overlay "${proc}/filesystems" || return 0 ;;
    br_netfilter) [[ ! -e ${proc}/sys/net/bridge/bridge-nf-call-iptables ]] || return 0 ;;
    nf_conntrack) [[ ! -e ${proc}/sys/net/netfilter/nf_conntrack_max ]] || return 0 ;;
    *) ;;
  esac
  ! grep -qs "/${name}\.ko" "${modules}/${kernel}/modules.builtin" || return 0
  modprobe -n -q -d "${modules%/lib/modules}/" -S "${kernel}" "${name}" 2>/dev/null
}

#######################################
# Arguments: role, further arguments as of module_available, without its name
# Outputs: findings
#######################################
check_modules() {
  local name
  for name in overlay br_netfilter nf_conntrack; do
    module_available "${name}" "${@:2}" ||
      found ERROR "the kernel has no module ${name}; install the package with the kernel's further modules, or reboot into the kernel that is installed"
  done
}
