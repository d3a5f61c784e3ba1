#!/bin/bash
# Preflight checks of the machine and what is installed on it. Each prints its findings; see preflight.sh.

#######################################
# Prints a value of an os-release file, or of another file of shell assignments, without executing it.
# Arguments: file, key
# Outputs: the value without its quotes; nothing if it is not set
#######################################
release_value() {
  local line value=
  while IFS= read -r line || [[ -n ${line} ]]; do
    line=${line%$'\r'}
    [[ ${line} == "$2="* ]] || continue
    value=${line#*=}
    if [[ ${value} =~ ^\"(.*)\"[[:space:]]*$ || ${value} =~ ^\'(.*)\'[[:space:]]*$ ]]; then value=${BASH_REMATCH[1]}; fi
    value=${value#[\"\']} value=${value%[\"\']} # some write '"kylin"'
  done <"$1"
  printf '%s\n' "${value}"
}

#######################################
# Arguments: role, os-release
# Outputs: findings
#######################################
check_os() {
  local file=${2:-/etc/os-release} id
  if [[ ! -r ${file} ]]; then
    found WARN "${file} cannot be read, so the OS is unknown; the installer is tested on CentOS, Kylin, Anolis, UOS, openEuler and Debian"
    return 0
  fi
  id=$(release_value "${file}" ID)
  case ${id,,} in
    centos | kylin | anolis | uos | openeuler | debian) ;;
    *) found WARN "the OS is '${id}' ($(release_value "${file}" PRETTY_NAME)), which the installer was not tested on; it goes on" ;;
  esac
}

#######################################
# Prints Go's name of an architecture, as the payload and cluster.yaml use it.
# Arguments: the kernel's name (uname -m)
# Outputs: amd64, arm64 or the name itself
#######################################
go_arch() {
  case $1 in
    x86_64) echo amd64 ;;
    aarch64) echo arm64 ;;
    *) echo "$1" ;;
  esac
}

#######################################
# Prints what CLUSTER_NODES says of this node.
# Globals: CLUSTER_NODES CLUSTER_NODE_NAME
# Outputs: its entries, name=ip=role=arch, one a line
#######################################
own_entries() {
  local entry entries
  read -r -a entries <<<"${CLUSTER_NODES-}"
  for entry in ${entries[@]+"${entries[@]}"}; do
    [[ ${entry%%=*} != "${CLUSTER_NODE_NAME-}" ]] || printf '%s\n' "${entry}"
  done
}

#######################################
# The payload is for this machine's architecture and has the wanted Kubernetes; cluster.env agrees.
# Globals: CLUSTER_NODES CLUSTER_NODE_NAME CLUSTER_KUBERNETES_VERSION
# Arguments: role, payload.env, architecture of the machine as uname -m prints it
# Outputs: findings
#######################################
check_payload() {
  local file=${2:-${BASH_SOURCE[0]%/*}/../payload.env} here there version entry
  here=$(go_arch "${3:-$(uname -m)}")
  if [[ ! -r ${file} ]]; then
    found ERROR "the payload has no payload.env; build and push the installer image again"
    return 0
  fi
  there=$(release_value "${file}" PAYLOAD_ARCH)
  [[ ${there} == "${here}" ]] ||
    found ERROR "the payload is for ${there}, this machine is ${here}; INSTALLER_IMAGE must be the digest of the index, not of one architecture's image"
  version=$(release_value "${file}" KUBERNETES_VERSION)
  [[ ${version} == "${CLUSTER_KUBERNETES_VERSION-}" ]] ||
    found CONFIG "CLUSTER_KUBERNETES_VERSION is ${CLUSTER_KUBERNETES_VERSION-not set}, the payload has ${version}; make them equal"
  entry=$(own_entries)
  entry=${entry%%$'\n'*}
  [[ -z ${entry} || ${entry##*=} == "${here}" ]] ||
    found CONFIG "CLUSTER_NODES says ${CLUSTER_NODE_NAME} is ${entry##*=}, this machine is ${here}; correct its arch in cluster.yaml and render again"
}

#######################################
# Arguments: role, number of processors
# Outputs: findings
#######################################
check_cores() {
  local cores=${2:-$(nproc)} least=1
  [[ $(role_kind "$1") == worker ]] || least=2 # kubeadm's own limit
  ((cores >= least)) || found ERROR "${cores} processor(s), a $1 needs ${least}; give the machine more"
}

#######################################
# Arguments: role, meminfo
# Outputs: findings
#######################################
check_memory() {
  local have least=800                            # kubelet, containerd, kube-proxy and the system
  [[ $(role_kind "$1") == worker ]] || least=1700 # kubeadm's own limit
  have=$(awk '$1 == "MemTotal:" { print int($2 / 1024) }' "${2:-/proc/meminfo}")
  ((${have:-0} >= least)) || found ERROR "${have:-0} MB of memory, a $1 needs ${least} MB; give the machine more"
}

#######################################
# Arguments: role, swaps
# Outputs: findings
#######################################
check_swap() {
  local devices
  devices=$(awk 'NR > 1 { printf "%s%s", sep, $1; sep = ", " }' "${2:-/proc/swaps}")
  [[ -z ${devices} ]] || found ERROR "swap is on (${devices}), kubelet does not start; run swapoff -a and remove it from /etc/fstab"
}

#######################################
# Arguments: role, machine-id
# Outputs: findings
#######################################
check_machine_id() {
  local file=${2:-/etc/machine-id} id='' action
  action="remove it and run systemd-machine-id-setup, then reboot"
  if [[ -r ${file} ]]; then IFS= read -r id <"${file}" || true; fi
  if [[ -z ${id} ]]; then
    found ERROR "${file} is missing or empty; run systemd-machine-id-setup, then reboot"
  elif [[ ! ${id} =~ ^[0-9a-f]{32}$ ]]; then
    found ERROR "${file} does not hold 32 hexadecimal digits; ${action}"
  elif [[ ${id} =~ ^0+$ ]]; then
    found ERROR "${file} holds zeros only, as on a clone that was not sealed; ${action}"
  fi
}

#######################################
# Prints what is free where a path is or will be.
# Arguments: path
# Outputs: mount point, then free MB
#######################################
free_space() {
  local path=$1
  while [[ ! -e ${path} ]]; do path=${path%/*} path=${path:-/}; done
  timeout 3 df -Pk -- "${path}" | awk 'NR == 2 { print $6, int($4 / 1024) }'
}

#######################################
# Room on the disks. A master unpacks the control plane's images (1 to 2 GB) and etcd may grow to 2 GB, with copies of it before an
# upgrade: 5 GB. A worker holds pause, kube-proxy and the network's images: 2 GB. /opt holds releases of 300 MB, three of them.
# Arguments: role, directory of state, directory of releases
# Outputs: findings
#######################################
check_disk() {
  local state=${2:-/var/lib} releases=${3:-/opt} least=2048 mount free other needed=1024
  [[ $(role_kind "$1") == worker ]] || least=5120
  read -r mount free < <(free_space "${state}") || true
  ((${free:-0} >= least)) ||
    found ERROR "${state} has ${free:-0} MB free, a $1 needs ${least} MB; free some or enlarge the file system at ${mount:-${state}}"
  read -r other free < <(free_space "${releases}") || true
  [[ ${other:-} != "${mount:-}" ]] || return 0 # one file system: the larger number counts
  ((${free:-0} >= needed)) ||
    found ERROR "${releases} has ${free:-0} MB free, the releases need ${needed} MB; free some or enlarge the file system at ${other:-${releases}}"
}

#######################################
# Arguments: role, further arguments: commands that must be there instead of the usual ones
# Globals: CLUSTER_LB
# Outputs: findings
#######################################
check_commands() {
  local name missing=() advised=() needed=(conntrack iptables ip mount nsenter ss curl)
  (($# < 2)) || needed=("${@:2}")
  for name in "${needed[@]}"; do command -v "${name}" >/dev/null || missing+=("${name}"); done
  for name in socat ethtool tc; do command -v "${name}" >/dev/null || advised+=("${name}"); done
  ((${#missing[@]} == 0)) || found ERROR "not installed: ${missing[*]}; kubelet and kubeadm need them, install their packages"
  ((${#advised[@]} == 0)) || found WARN "not installed: ${advised[*]}; kubeadm warns of it, and port-forward needs socat"
}

#######################################
# Services of the OS that get in the way of a cluster.
# Globals: CLUSTER_ENDPOINT
# Arguments: role, SELinux' enforce file, NetworkManager's directory
# Outputs: findings
#######################################
check_security() {
  local enforce=${2:-/sys/fs/selinux/enforce} manager=${3:-/etc/NetworkManager} ports='10250, 30000-32767'
  [[ $(role_kind "$1") == worker ]] || ports="6443, 2379, 2380, ${ports}"
  [[ ! -r ${enforce} || $(<"${enforce}") != 1 ]] ||
    found WARN "SELinux is enforcing, and containers may be refused their volumes; if so, install container-selinux or set it to permissive"
  if service_active firewalld; then
    found WARN "firewalld is active, and its reload removes the cluster's rules; disable it or open TCP ${ports} and trust the pods' network"
  fi
  if service_active NetworkManager && ! grep -rqsE '^[[:space:]]*unmanaged-devices[+]?=.*(cni|\*$)' \
    "${manager}" /usr/lib/NetworkManager/conf.d /run/NetworkManager/conf.d; then
    found WARN "NetworkManager may take over the pods' interfaces; add unmanaged-devices=interface-name:cni*;interface-name:veth* below [keyfile] in ${manager}/conf.d"
  fi
}

#######################################
# Arguments: service
# Returns: 0 if it is running
#######################################
service_active() {
  command -v systemctl >/dev/null || return 1
  [[ $(timeout 2 systemctl is-active "$1.service" 2>/dev/null || true) == active ]]
}
